"""What a run shows on a terminal: a table for each epoch, and below it a progress bar."""

import datetime
import itertools
import math
import sys
import time
import weakref

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
            return "\n".join(["-" * len(lines[0]), *lines])


class Bar:
    """A progress bar on the terminal's last line, above which everything else is printed. No thread draws it."""

    stop_last = staticmethod(lambda: None)

    def __init__(self, total: float | None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        Bar.stop_last()  # that of a run which an exception ended: two bars cannot share a terminal
        self.total, self.started, self.drawn = total, None, 0.0
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
        self.rich.update(self.task, completed=steps, text=text, refresh=True)


def short(n: float, digits: int = 3) -> str:
    """A number of steps: 12.3k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= (1 - 0.5 * 10**-digits) * size:  # 999,999 is 1M, not 1e+03k
            return f"{n / size:.{digits}g}{unit}"
    return f"{n:.{digits}g}"
