"""What a run shows: a table for each epoch and a progress bar, on streams that may be closed, full or never read."""

import contextlib
import datetime
import io
import itertools
import math
import os
import select
import sys
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TextIO

COLORS = {"gray": 30, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "white": 37}
WARNED: set[str] = set()  # topics that `warn_once` has warned about


def colorize(string: str, color: str, bold: bool = False, highlight: bool = False) -> str:
    """`string` with the terminal codes for `color`, a key of COLORS; `highlight` colors the background instead."""
    code = COLORS[color] + (10 if highlight else 0)
    return f"\x1b[{code}{';1' if bold else ''}m{string}\x1b[0m"


def format_cell(value) -> str:
    """A value as a cell of progress.txt: with every digit, without tabs and newlines."""
    return "nan" if value is None else " ".join(str(value).split())


def format_value(value) -> str:
    """A value for reading: about four digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return format_cell(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_table(row: Mapping, width: int) -> str:
    """`row` as aligned `key value` pairs, ordered down the columns, in as many columns as fit in `width` characters."""
    cells = [(key, format_value(value)) for key, value in row.items()]
    for columns in range(len(cells), 0, -1):
        height = math.ceil(len(cells) / columns)
        stacks = [cells[i : i + height] for i in range(0, len(cells), height)]
        widths = [(max(len(k) for k, _ in stack), max(9, *(len(v) for _, v in stack))) for stack in stacks]
        texts = [[f"{k:<{w}} {v:>{u}}" for k, v in stack] for stack, (w, u) in zip(stacks, widths, strict=True)]
        lines = ["   ".join(line).rstrip() for line in itertools.zip_longest(*texts, fillvalue="")]
        if len(lines[0]) <= width or columns == 1:
            break
    return "\n".join(["-" * len(lines[0]), *lines])


class ProgressBar:
    """A progress bar on the terminal's last line; all other output appears above it. Drawn without a thread."""

    stop_previous: Callable[[], Any] = staticmethod(lambda: None)

    def __init__(self, total: float | None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        ProgressBar.stop_previous()  # left by a run that raised: two bars can't share a terminal
        self.total, self.drawn = total, 0.0
        self.started: tuple[float, float] | None = None  # time and steps at the first call
        columns = BarColumn(bar_width=None), TextColumn("{task.fields[text]}")
        stderr_too = sys.stderr is not None and sys.stderr.isatty()
        self.rich = Progress(
            *columns, console=Console(), auto_refresh=False, transient=True, expand=True, redirect_stderr=stderr_too
        )
        self.task = self.rich.add_task("", total=total, text="")
        self.rich.start()
        self.rich.console.show_cursor(True)  # rich hides it, and it would stay hidden if the process were killed
        self.stop = ProgressBar.stop_previous = weakref.finalize(
            self, self.rich.stop
        )  # also when the interpreter exits

    def draw(self, steps: float, ret: float, now: bool = False) -> None:
        """Show the steps so far and the return `ret`; at most five times a second unless `now`."""
        clock = time.monotonic()
        if self.started is None:
            self.started = clock, steps
        if not now and clock - self.drawn < 0.2:
            return
        self.drawn = clock
        rate = (steps - self.started[1]) / max(clock - self.started[0], 1e-9)
        text = f"{abbreviate(steps)}/{abbreviate(self.total)} steps" if self.total else f"{abbreviate(steps)} steps"
        if rate > 0:
            text += f"  {abbreviate(rate)}/s"
        if not math.isnan(ret):
            text += f"  return {format_value(float(ret))}"
        if rate > 0 and self.total:
            text += f"  {datetime.timedelta(seconds=round(max(self.total - steps, 0) / rate))} left"
        with dropping_output_on_error(sys.stdout):
            self.rich.update(self.task, completed=steps, text=text, refresh=True)


def progress(items: Collection, what: str) -> Iterator:
    """Iterate over `items`; on a terminal, with a progress bar on stderr once that has taken two seconds."""
    live = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    bar, started = None, time.monotonic()
    try:
        for i, item in enumerate(items):
            if live and bar is None and time.monotonic() - started > 2:
                from rich.console import Console
                from rich.progress import Progress

                bar = Progress(console=Console(stderr=True), transient=True)
                bar.start()
                task = bar.add_task(what, total=len(items))
            if bar:
                bar.update(task, completed=i)
            yield item
    finally:
        if bar:
            bar.stop()


def abbreviate(n: float, digits: int = 3) -> str:
    """A number of steps, abbreviated: 12.3k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= (1 - 0.5 * 10**-digits) * size:  # rounds 999,999 to 1M, not to 1e+03k
            return f"{n / size:.{digits}g}{unit}"
    return f"{n:.{digits}g}"


# ---- output errors never end a run


class NonFailingStream(io.FileIO):
    """A standard stream's descriptor on which writing never fails: after the first error, output is discarded.

    fault: that error, such as a full disk or a broken pipe
    """

    fault: OSError | None = None

    def write(self, data) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # a full pipe in non-blocking mode
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        except OSError as error:
            self.fault = error
            redirect_to_devnull(self.fileno())
        return memoryview(data).nbytes


def redirect_to_devnull(descriptor: int) -> None:
    """Discard what this process and its children write to a descriptor from now on."""
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, descriptor)
    os.close(devnull)


def open_closed_streams() -> None:
    """Reopen standard streams that are closed, as by `>&-`. Otherwise the next file to be opened would get the free
    descriptor, and what libraries print would end up in that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is `number`
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def protect_streams() -> dict[str, NonFailingStream]:
    """Make print() in this process never fail, even if nobody reads the output; escape what can't be encoded."""
    open_closed_streams()
    protected = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # someone has replaced it
        if os.name == "nt":  # a console there is not a file
            stream.reconfigure(errors="backslashreplace")
            continue
        raw = protected[name] = NonFailingStream(stream.fileno(), "w", closefd=False)
        buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
        lines, at_once = stream.line_buffering, stream.write_through
        new = io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=lines, write_through=at_once)
        setattr(sys, name, new)
    return protected


def exit_status_of_output(streams: dict[str, NonFailingStream]) -> int:
    """The exit status of a command whose purpose is its output: 0 if all of it was written, 141 if the reader closed
    the pipe, as in `--help | head`, and 1, after a line on stderr, if writing failed.
    """
    with dropping_output_on_error(sys.stdout):
        sys.stdout.flush()
    fault = streams["stdout"].fault if "stdout" in streams else None
    if fault is None or isinstance(fault, BrokenPipeError):
        return 141 if fault else 0
    say(f"spinup: error: cannot write to stdout: {fault.strerror}", error=True)
    return 1


def say(text: str, error: bool = False, end: str = "\n") -> None:
    """Print a line, on stderr if it is an error. Never fails, so that a broken stream can't end a run."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        return
    with dropping_output_on_error(stream):
        try:
            print(text, end=end, file=stream, flush=True)
        except UnicodeEncodeError:
            escaped = text.encode(stream.encoding, "backslashreplace").decode(stream.encoding)
            print(escaped, end=end, file=stream, flush=True)


def warn_once(topic: str, message: str) -> None:
    """Print a warning to stderr, unless this topic already had one."""
    if topic not in WARNED:
        WARNED.add(topic)
        say(f"warning: {message} (shown once)", error=True)


@contextlib.contextmanager
def dropping_output_on_error(stream: TextIO) -> Iterator[None]:
    """If writing to a stream fails in this block, ignore the error and discard all further output to the stream."""
    try:
        yield
    except (OSError, ValueError):  # ValueError: it is closed
        with contextlib.suppress(OSError, ValueError):
            redirect_to_devnull(stream.fileno())  # or flushing its buffer would fail at exit


def say_unbuffered(text: str) -> None:
    """Write to stdout, bypassing its buffer: a signal handler may interrupt print(), which must not be reentered."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # stdout is missing, broken or closed
        os.write(sys.stdout.fileno(), text.encode())
