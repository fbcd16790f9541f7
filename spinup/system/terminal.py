"""What a run shows: a table for each epoch and a progress bar, on streams that may have nobody to read them."""

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
from collections.abc import Callable, Collection, Iterator
from typing import Any, TextIO

COLORS = {"gray": 30, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "white": 37}


def colorize(string: str, color: str, bold: bool = False, highlight: bool = False) -> str:
    """`string` between the terminal's codes for `color` (a key of COLORS); `highlight` colours the background."""
    code = COLORS[color] + (10 if highlight else 0)
    return f"\x1b[{code}{';1' if bold else ''}m{string}\x1b[0m"


def cell(value) -> str:
    """A cell of progress.txt: all digits, no tab or newline inside."""
    return "nan" if value is None else " ".join(str(value).split())


def show(value) -> str:
    """A cell for the eye: about four digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return cell(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(row: dict, width: int) -> str:
    """`row` as aligned `key value` pairs, read downwards, in as many columns as `width` characters hold."""
    cells = [(key, show(value)) for key, value in row.items()]
    for columns in range(len(cells), 0, -1):
        height = math.ceil(len(cells) / columns)
        stacks = [cells[i : i + height] for i in range(0, len(cells), height)]
        widths = [(max(len(k) for k, _ in stack), max(9, *(len(v) for _, v in stack))) for stack in stacks]
        texts = [[f"{k:<{w}} {v:>{u}}" for k, v in stack] for stack, (w, u) in zip(stacks, widths, strict=True)]
        lines = ["   ".join(line).rstrip() for line in itertools.zip_longest(*texts, fillvalue="")]
        if len(lines[0]) <= width or columns == 1:
            break
    return "\n".join(["-" * len(lines[0]), *lines])


class Bar:
    """A progress bar on the terminal's last line, above which everything else is printed. No thread draws it."""

    stop_last: Callable[[], Any] = staticmethod(lambda: None)

    def __init__(self, total: float | None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        Bar.stop_last()  # that of a run which an exception ended: two bars cannot share a terminal
        self.total, self.drawn = total, 0.0
        self.started: tuple[float, float] | None = None  # time and steps at the first call
        columns = BarColumn(bar_width=None), TextColumn("{task.fields[text]}")
        stderr_too = sys.stderr is not None and sys.stderr.isatty()
        self.rich = Progress(
            *columns, console=Console(), auto_refresh=False, transient=True, expand=True, redirect_stderr=stderr_too
        )
        self.task = self.rich.add_task("", total=total, text="")
        self.rich.start()
        self.rich.console.show_cursor(True)  # rich hides it, and it would stay so if the process were killed
        self.stop = Bar.stop_last = weakref.finalize(self, self.rich.stop)  # also when the interpreter exits

    def draw(self, steps: float, ret: float, now: bool = False) -> None:
        """Show `steps` done and the return `ret`; at most five times a second unless `now`."""
        clock = time.monotonic()
        if self.started is None:
            self.started = clock, steps
        if not now and clock - self.drawn < 0.2:
            return
        self.drawn = clock
        rate = (steps - self.started[1]) / max(clock - self.started[0], 1e-9)
        text = f"{short(steps)}/{short(self.total)} steps" if self.total else f"{short(steps)} steps"
        if rate > 0:
            text += f"  {short(rate)}/s"
        if not math.isnan(ret):
            text += f"  return {show(float(ret))}"
        if rate > 0 and self.total:
            text += f"  {datetime.timedelta(seconds=round(max(self.total - steps, 0) / rate))} left"
        with writing_to(sys.stdout):
            self.rich.update(self.task, completed=steps, text=text, refresh=True)


def progress(items: Collection, what: str) -> Iterator:
    """The items one by one; on a terminal, where they take more than two seconds, above a progress bar on stderr."""
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


def short(n: float, digits: int = 3) -> str:
    """A number of steps: 12.3k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= (1 - 0.5 * 10**-digits) * size:  # 999,999 is 1M, not 1e+03k
            return f"{n / size:.{digits}g}{unit}"
    return f"{n:.{digits}g}"


# ---- streams that never end a run


class Unfailing(io.FileIO):
    """A standard stream's descriptor, to which every write succeeds: after the first failure, all go nowhere.

    fault: that failure, for example a full disk, or a pipe that nobody reads any more
    """

    fault: OSError | None = None

    def write(self, data) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # a pipe that does not block, and is full
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        except OSError as error:
            self.fault = error
            to_nowhere(self.fileno())
        return memoryview(data).nbytes


def to_nowhere(descriptor: int) -> None:
    """Drop from now on what this process and its children write to a descriptor."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Give standard streams that are closed, as by `>&-`, a descriptor: else the next file that is opened gets it,
    and what libraries print lands there.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def protect_streams() -> dict[str, Unfailing]:
    """Have no print() of this process fail, whether anybody reads it or not; what cannot be encoded is escaped."""
    open_closed_streams()
    protected = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # somebody has put another in its place
        if os.name == "nt":  # a console there is not a file
            stream.reconfigure(errors="backslashreplace")
            continue
        raw = protected[name] = Unfailing(stream.fileno(), "w", closefd=False)
        buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
        lines, at_once = stream.line_buffering, stream.write_through
        new = io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=lines, write_through=at_once)
        setattr(sys, name, new)
    return protected


def undelivered(streams: dict[str, Unfailing]) -> int:
    """The exit status of a command that is there for what it prints: 0 where all was written, 141 where who read it
    had seen enough, as in `--help | head`, and 1, after a line on stderr, where it could not be written.
    """
    with writing_to(sys.stdout):
        sys.stdout.flush()
    fault = streams["stdout"].fault if "stdout" in streams else None
    if fault is None or isinstance(fault, BrokenPipeError):
        return 141 if fault else 0
    say(f"spinup: error: cannot write to stdout: {fault.strerror}", error=True)
    return 1


def say(text: str, error: bool = False, end: str = "\n") -> None:
    """Print a line, on stderr where it is an error; a stream that takes nothing more is no reason to end a run."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        return
    with writing_to(stream):
        try:
            print(text, end=end, file=stream, flush=True)
        except UnicodeEncodeError:
            escaped = text.encode(stream.encoding, "backslashreplace").decode(stream.encoding)
            print(escaped, end=end, file=stream, flush=True)


@contextlib.contextmanager
def writing_to(stream: TextIO) -> Iterator[None]:
    """Where writing to a stream fails in this block, go on, and drop what is written to it from then on."""
    try:
        yield
    except (OSError, ValueError):  # ValueError: it is closed
        with contextlib.suppress(OSError, ValueError):
            to_nowhere(stream.fileno())  # also what waits in its buffer, and would fail as the interpreter ends


def say_at_once(text: str) -> None:
    """Write to stdout past its buffer: for handlers of signals, as print() may be at work and must not be entered
    twice.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or it takes nothing more
        os.write(sys.stdout.fileno(), text.encode())
