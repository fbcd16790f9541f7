"""Learning curves: a mean line with a band of one standard deviation over the seeds, the seeds faintly behind.

    python -m spinup.run plot data/ppo data/trpo --value Performance --out curves.png

From Python: `curves(load(["data/ppo"]), "Performance")` returns the matplotlib Axes. Needs numpy and matplotlib only.
"""

import argparse
import json
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spinup.errors import UserError, closest

# Okabe and Ito (2008): told apart by colour-blind readers too. Yellow is left out: too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text stays text in a paper's PDF
}
SIZE = (3.4, 2.3)  # inches: a column of a two-column page
ESTIMATORS = {"mean": np.nanmean, "max": np.nanmax, "min": np.nanmin}
LABELS = {
    "TotalEnvInteracts": "environment steps",
    "Epoch": "epoch",
    "Performance": "return",
    "AverageEpRet": "return (training)",
    "AverageTestEpRet": "return (evaluation)",
    "EpLen": "episode length (steps)",
    "TestEpLen": "episode length (steps, evaluation)",
    "LossPi": "policy loss",
    "LossV": "value loss",
    "LossQ": "Q loss",
    "KL": "KL divergence (nats)",
    "Entropy": "entropy (nats)",
    "ClipFrac": "fraction clipped",
    "StopIter": "policy iterations",
    "Time": "time (s)",
    "AverageVVals": "value estimate",
    "AverageQVals": "Q estimate",
    "BacktrackIters": "backtracking steps",
}


@dataclass
class Run:
    """A run's folder, the name of the group it belongs to, its environment, its arguments and its columns."""

    path: Path
    label: str
    env: str | None
    config: dict
    data: dict[str, np.ndarray]


# ---- reading


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a progress.txt, each of shape (rows,): floats, NaN for a cell that is no number.

    A line still being written (no newline yet) or with another number of cells than the header is left out.
    A column without any number is an array of strings.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    header, *rows = [line.rstrip("\r").split("\t") for line in text.split("\n")[:-1]] or [[]]
    rows = [row for row in rows if len(row) == len(header)]
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    return {key: _column(column) for key, column in zip(header, cells, strict=True)}


def _column(cells: tuple) -> np.ndarray:
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:  # a word or an empty cell
        pass
    numbers = np.full(len(cells), np.nan)
    words = 0
    for i, cell in enumerate(cells):
        try:
            numbers[i] = float(cell)
        except ValueError:
            words += bool(cell)
    return np.array(cells) if words and np.isnan(numbers).all() else numbers


def expand(logdir: str) -> list[str]:
    """The folders that `logdir` stands for: itself with a slash at its end or a run in it, else what begins so."""
    path = os.path.expanduser(logdir)
    if os.path.basename(path) == "progress.txt":
        path = os.path.dirname(path) or "."
    if path.endswith(("/", os.sep)) or os.path.exists(os.path.join(path, "progress.txt")):
        found = [path] if os.path.isdir(path) else []
    elif os.path.basename(path) in (".", ".."):
        found = [path]
    else:
        parent, prefix = os.path.split(path)
        names = sorted(os.listdir(parent or "."), key=_natural) if os.path.isdir(parent or ".") else []
        found = [os.path.join(parent, name) for name in names if name.startswith(prefix)]
        found = [folder for folder in found if os.path.isdir(folder)]
    if not found:
        raise UserError(
            f"plot: there is no folder {logdir}{'' if logdir.endswith('/') else ' and none that begins so'}"
        )
    return found


def _natural(name: str) -> list:
    """A sort key: a_2 before a_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def load(logdirs, legend=(), select=(), exclude=()) -> list[Run]:
    """All runs in and below the folders `logdirs`, in the order of their names.

    logdirs: one folder or several; without a slash at its end, the beginning of the names of several
    legend: a name for each of them; by default a run belongs to the group that its config.json calls exp_name
    select, exclude: use only runs whose path contains all of the first and none of the second

    Where runs of one group were made on several environments, the environment joins the group's name.
    Raises UserError where no run is found.
    """
    logdirs = [str(logdirs)] if isinstance(logdirs, (str, Path)) else [str(logdir) for logdir in logdirs]
    folders = [(i, folder) for i, logdir in enumerate(logdirs) for folder in expand(logdir)]
    if legend and len(legend) == len(folders):
        labels = legend
    elif legend and len(legend) == len(logdirs):
        labels = [legend[i] for i, _ in folders]
    elif legend:
        names = ", ".join(folder for _, folder in folders)
        raise UserError(f"plot: {len(legend)} legends for {len(folders)} folders ({names}); give one for each")
    else:
        labels = [None] * len(folders)
    runs = {}
    for label, (_, folder) in zip(labels, folders, strict=True):
        for path, below, files in os.walk(folder):
            below.sort(key=_natural)
            chosen = all(word in path for word in select) and not any(word in path for word in exclude)
            if "progress.txt" in files and chosen:
                runs.setdefault((label, os.path.realpath(path)), _run(Path(path), label))
    if not runs:
        sieve = " that --select and --exclude let through" if select or exclude else ""
        raise UserError(f"plot: no progress.txt{sieve} in or below {', '.join(folder for _, folder in folders)}")
    runs = list(runs.values())
    for label in {run.label for run in runs}:
        group = [run for run in runs if run.label == label]
        if len({run.env for run in group}) > 1:
            for run in group:
                run.label = f"{label}, {run.env or 'unknown environment'}"
    return runs


def _run(path: Path, label: str | None) -> Run:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or half written
        config = {}
    config = config if isinstance(config, dict) else {}
    env = config.get("env_name") or config.get("env_fn")
    env = env if isinstance(env, str) and re.fullmatch(r"[\w.:/-]+", env) else None  # not "<function ... at 0x...>"
    label = label or config.get("exp_name") or re.sub(r"_s\d+(-\d+)?$", "", path.resolve().name)
    return Run(path, str(label), env, config, read(path / "progress.txt"))


# ---- curves


def smoothed(y: np.ndarray, window: int) -> np.ndarray:
    """The centred moving average of y, shape (n,); at the edges over as much of the window as there is."""
    if window <= 1 or len(y) == 0:
        return y
    ones, start = np.ones(window), (window - 1) // 2
    total, count = (np.convolve(a, ones)[start : start + len(y)] for a in (y, np.ones(len(y))))
    return total / count


def column(run: Run, value: str) -> tuple[str, np.ndarray] | None:
    """The column that `value` means for this run, as (its name, its numbers), or None without numbers.

    Performance is AverageTestEpRet where that was logged, else AverageEpRet; EpRet finds AverageEpRet, and so on.
    """
    names = ("AverageTestEpRet", "AverageEpRet") if value == "Performance" else (value, "Average" + value)
    for name in names:
        y = run.data.get(name)
        if y is not None and y.dtype == np.float64 and not np.isnan(y).all():
            return name, y
    return None


def series(runs: list[Run], value: str, xaxis: str, smooth: int = 1) -> list[tuple[Run, np.ndarray, np.ndarray]]:
    """(run, x, y) for each run with numbers in both columns, x ascending. Raises UserError where no run has any."""
    found = []
    for run in runs:
        if column(run, xaxis) and column(run, value):
            x, y = column(run, xaxis)[1], column(run, value)[1]
            ok = np.isfinite(x) & np.isfinite(y)
            x, first = np.unique(x[ok], return_index=True)
            if len(x):
                found.append((run, x, smoothed(y[ok][first], smooth)))
    if not found:
        known = sorted({"Performance", *(key for run in runs for key in run.data)})
        missing = next((name for name in (xaxis, value) if not any(column(run, name) for run in runs)), value)
        raise UserError(f"plot: no run has numbers in a column {missing}{closest(missing, known)} (of {known})")
    return found


def aggregate(lines: list[tuple[np.ndarray, np.ndarray]], points: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """A common grid x, shape (k,), and every line interpolated on it, shape (lines, k); NaN where a line has no data.

    The grid is all x that occur or, where the lines have not the same, at most `points` evenly spaced ones.
    """
    x = np.unique(np.concatenate([x for x, _ in lines]))
    if len(x) > points and any(len(x) != len(own) for own, _ in lines):
        x = np.linspace(x[0], x[-1], points)
    return x, np.stack([np.interp(x, own, y, left=np.nan, right=np.nan) for own, y in lines])


def curves(
    runs: list[Run],
    value: str = "Performance",
    xaxis: str = "TotalEnvInteracts",
    smooth: int = 1,
    estimator: str = "mean",
    count: bool = False,
    ax=None,
):
    """Draw a line for each group of runs (those of one label) and return the Axes.

    value, xaxis: columns of progress.txt
    smooth: average each run over so many rows around each
    estimator: "mean" with a band of one standard deviation over the runs, or "max" or "min" without
    count: a line for each run instead
    ax: the Axes to draw on; by default those of a new pyplot figure

    Where some runs of a group have no data (they are of unequal length), the line is dashed: it is over the others.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    if estimator not in ESTIMATORS:
        raise UserError(f"plot: est is mean, max or min, not {estimator!r}{closest(estimator, ESTIMATORS)}")
    found = series(runs, value, xaxis, smooth)
    last = max(x[-1] for _, x, _ in found)
    size, xlabel = _time(last) if xaxis == "Time" else (1, LABELS.get(xaxis, xaxis))
    names = {column(run, value)[0] for run, _, _ in found}
    ylabel = LABELS.get(names.pop() if len(names) == 1 else value, value)
    groups = {}  # what the legend says -> lines
    for run, x, y in found:
        own = run.path.name if run.path.name.startswith(run.label) else f"{run.label}, {run.path.name}"
        groups.setdefault((own, run.path) if count else (run.label, None), []).append((x / size, y))
    with matplotlib.rc_context(STYLE):
        figure, ax = (None, ax) if ax is not None else plt.subplots(figsize=SIZE, layout="constrained")
        sizes = [len(lines) for lines in groups.values()]
        same = len(set(sizes)) == 1  # then the title says it once
        for i, ((label, _), lines) in enumerate(groups.items()):
            style = {"color": COLORS[i % len(COLORS)], "linestyle": ("-", "-.", ":")[i // len(COLORS) % 3]}
            label = label.replace("$", r"\$") + ("" if same else f" ({sizes[i]} run{'s' * (sizes[i] > 1)})")
            _draw(ax, lines, estimator, {"label": label, **style})
        ax.set(xlabel=xlabel, ylabel=ylabel if estimator == "mean" or count else f"{ylabel}, {estimator} over runs")
        ax.margins(x=0.02)
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(lambda n, _: short(n))
        ax.yaxis.set_major_formatter("{x:,g}")
        envs = {run.env for run, _, _ in found}
        title = [label] if len(groups) == 1 else []
        title += [env for env in envs if env and len(envs) == 1]
        title += [f"{sizes[0]} runs" + " each" * (len(groups) > 1)] if same and sizes[0] > 1 else []
        if len(groups) == 1:
            ax.set_title(", ".join(title), loc="left")
        else:
            rows = _legend(ax, ", ".join(title))
            if figure:
                figure.set_figheight(SIZE[1] + 0.15 * rows)
    return ax


def _draw(ax, lines: list[tuple[np.ndarray, np.ndarray]], estimator: str, style: dict) -> None:
    x, ys = aggregate(lines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an x that no line reaches: NaN, a gap
        y, std = ESTIMATORS[estimator](ys, axis=0), np.nanstd(ys, axis=0)
    if len(lines) > 1:
        for own in lines:
            ax.plot(*own, color=style["color"], linewidth=0.5, alpha=0.35, zorder=1.5)
        if estimator == "mean":
            ax.fill_between(x, y - std, y + std, color=style["color"], alpha=0.18, linewidth=0, zorder=1.6)
    whole = np.isfinite(ys).all(axis=0)
    ax.plot(x, np.where(whole, y, np.nan), linewidth=1.3, marker="." if len(x) == 1 else None, **style)
    if not whole.all():
        part = ~whole
        part[1:-1] |= ~(whole[2:] & whole[:-2])  # the neighbours too, so that the dashes touch the line
        ax.plot(x, np.where(part, y, np.nan), linewidth=1.1, **{**style, "linestyle": (0, (2, 1)), "label": None})


def _legend(ax, title: str) -> int:
    """Put the legend above the data, in as many columns as the axes' width holds; return its number of rows."""
    entries = len(ax.get_legend_handles_labels()[1])
    width = ax.get_window_extent().width * 1.1
    for columns in range(entries, 0, -1):
        legend = ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            title=title,
            alignment="left",
            frameon=False,
            borderaxespad=0.2,
            handlelength=1.7,
            columnspacing=1.2,
        )
        if legend.get_window_extent().width <= width:
            break
    return math.ceil(entries / columns) + bool(title)


def _time(seconds: float) -> tuple[int, str]:
    """The unit for times up to `seconds`: its length in seconds and the axis label."""
    size, unit = next(
        (size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds > 2 * size or size == 1
    )
    return size, f"wall-clock time ({unit})"


def short(n: float) -> str:
    """A number of steps for a tick: 250k, 1.5M."""
    size, unit = next(((size, unit) for size, unit in ((1e6, "M"), (1e3, "k")) if abs(n) >= size), (1, ""))
    return f"{n / size:.4g}{unit}"


# ---- command line


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"plot: {message}")


def parser() -> argparse.ArgumentParser:
    p = _Parser(
        prog="python -m spinup.run plot", description="Plot learning curves of the runs in and below some folders."
    )
    add = p.add_argument
    add("logdir", nargs="+", help="folder; without a slash at its end, the beginning of several folders' names")
    add("-l", "--legend", nargs="*", default=[], metavar="NAME", help="a name for each folder (default: exp_name)")
    add("-x", "--xaxis", default="TotalEnvInteracts", metavar="COLUMN", help="(default: %(default)s)")
    add(
        "-y",
        "--value",
        nargs="+",
        default=["Performance"],
        metavar="COLUMN",
        help="a figure each (default: Performance, that is AverageTestEpRet or, without it, AverageEpRet)",
    )
    add("--count", action="store_true", help="draw every run by itself instead of their mean")
    add("-s", "--smooth", type=int, default=1, metavar="ROWS", help="moving average over so many rows (default: 1)")
    add("--select", nargs="*", default=[], metavar="TEXT", help="only runs whose path contains all of these")
    add("--exclude", nargs="*", default=[], metavar="TEXT", help="no runs whose path contains any of these")
    add(
        "--est", choices=list(ESTIMATORS), default="mean", help="what is drawn of a group's runs (default: %(default)s)"
    )
    add("--out", metavar="FILE", help="write a png, svg or pdf instead of opening a window")
    return p


def main(argv: list[str] | None = None) -> None:
    """The command `python -m spinup.run plot`."""
    args = parser().parse_args(argv)
    if args.smooth < 1:
        raise UserError(f"plot: --smooth is a number of rows, at least 1, not {args.smooth}")
    import matplotlib

    if args.out:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    try:
        plt.switch_backend(plt.get_backend())  # at once: $MPLBACKEND may name one that needs a display
    except ImportError:
        plt.switch_backend("Agg")
    headless = plt.get_backend().lower() in ("agg", "pdf", "ps", "svg", "cairo", "template")
    out = Path(args.out or "curves.png").expanduser()
    out = out if out.suffix else out.with_suffix(".png")
    runs = load(args.logdir, args.legend, args.select, args.exclude)
    labels = [run.label for run in runs]
    print("Runs:", ", ".join(f"{label} ({labels.count(label)})" for label in dict.fromkeys(labels)))
    for value in args.value:
        figure = curves(runs, value, args.xaxis, args.smooth, args.est, args.count).figure
        if headless:
            _save(figure, out if len(args.value) == 1 else out.with_stem(f"{out.stem}-{value}"))
    if not headless:
        plt.show()
    elif not args.out:
        print("There is no display for a window here; --out FILE chooses the file's name.")


def _save(figure, path: Path) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise UserError(f"plot: cannot write a {path.suffix} file; --out takes {', '.join(sorted(kinds))}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            figure.savefig(path)
    except OSError as error:
        raise UserError(f"plot: cannot write {path}: {error.strerror or error}") from error
    plt.close(figure)
    print(f"Saved {path}")
