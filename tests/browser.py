"""A headless Chromium, driven by the DevTools protocol over a websocket: opens a page and tells what went wrong."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `open` loads an address and collects in `faults` what the console says and what did not load."""

    def __init__(self, address: str):
        import websocket

        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.ids = itertools.count(1)
        self.faults: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """A command's result; events that come in between are taken in."""
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.take_in(message)

    def take_in(self, event: dict) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            words = [str(a.get("value", a.get("description"))) for a in params["args"]]
            self.faults.append(f"console {params['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.faults.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.faults.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.faults.append(f"not loaded: {params['errorText']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def evaluate(self, expression: str):
        """The value of a JavaScript expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Load a page and wait for its scripts and its equations."""
        self.faults, self.requests = [], []
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState == 'complete' && location.href.startsWith({json.dumps(url)})")
        self.evaluate("window.MathJax?.startup?.promise.then(() => null)")

    def wait(self, condition: str) -> None:
        """Until a JavaScript condition holds; TimeoutError after a minute."""
        end = time.monotonic() + 60
        while self.evaluate(condition) is not True:
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def look(self, width: int, height: int, dark: bool) -> None:
        """From now on a window of this size, light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def press(self, key: str, code: int, shift: bool = False) -> None:
        """Press and release a key; code: its number in keyboard events, as 9 for Tab."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
            self.call("Input.dispatchKeyEvent", **event, **text)

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A browser that keeps what it writes in `folder`, closed in the end."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [find_chromium(), *flags, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    with open(folder / "output.txt", "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        page = Page(page_address(folder, process))
        yield page
        page.socket.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


def page_address(folder: Path, process: subprocess.Popen) -> str:
    """The websocket of the browser's first tab."""
    file, end = folder / "DevToolsActivePort", time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"Chromium did not start: {(folder / 'output.txt').read_text()[-2000:]}")
        time.sleep(0.05)
    port = file.read_text().split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
        targets = json.load(answer)
    return next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
