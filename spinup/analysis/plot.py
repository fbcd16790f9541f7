"""Plots of runs: learning curves, performance profiles, probabilities of improvement, and a table of scores.

    python -m spinup.run plot data/ppo data/trpo --est iqm --out curves.png

From Python, for example in a notebook:

    df = plot.load(["data/ppo", "data/trpo"])  # a pandas DataFrame, a row for each row of each progress.txt
    ax = plot.curves(df[df["seed"] < 3], "EpLen")

docs/plotting.md explains the plots. In a notebook, `plt.style.use("dark_background")` has the same effect as --dark.
"""

import argparse
import contextlib
import math
import textwrap
import warnings
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spinup.analysis import stats
from spinup.analysis.results import (
    UNKNOWN,
    Line,
    candidate_columns,
    first_with_numbers,
    load,
    row_indices_by_run,
    scores,
    series,
    table,
    table_text,
)
from spinup.errors import UserError, closest, printable, user_path
from spinup.experiments.cli import Parser
from spinup.system.files import replacing
from spinup.system.terminal import abbreviate, progress

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["curves", "improvement", "load", "main", "profile", "scores", "table"]

# Okabe and Ito (2008), which color-blind readers can tell apart, without yellow, which is too faint on white. The last
# is black, or white on a dark background.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "text")
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
    "grid.color": "#808080",
    "grid.alpha": 0.2,  # faint on both white and black
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text stays text in a paper's PDF
}
MAX_LEGEND, MAX_COMPARED = 50, 20  # groups in a legend, and in a figure of --improvement
SIZE = (3.4, 2.3)  # inches: a column of a two-column page
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
    "DeltaLossPi": "change of policy loss",
    "DeltaLossV": "change of value loss",
    "KL": "KL divergence (nats)",
    "Entropy": "entropy (nats)",
    "AverageLogPi": "log-probability (nats)",
    "Alpha": "temperature alpha",
    "ClipFrac": "fraction clipped",
    "StopIter": "policy iterations",
    "Time": "time (s)",
    "EvalTime": "time of evaluation (s)",
    "AverageVVals": "value estimate",
    "AverageQVals": "Q estimate",
    "AverageQ1Vals": "first Q estimate",
    "AverageQ2Vals": "second Q estimate",
    "BacktrackIters": "backtracking steps",
}


def _mean(ys: np.ndarray, strata: np.ndarray) -> tuple:
    mean, std = np.nanmean(ys, axis=0), np.nanstd(ys, axis=0)
    return mean, mean - std, mean + std


# From ys (runs, k) and the runs' environments to the line (k,) and the lower and upper edge of its band, or None.
ESTIMATORS = {
    "mean": _mean,
    "iqm": lambda ys, strata: (stats.iqm(ys), *stats.iqm_interval(ys, strata)),
    "max": lambda ys, strata: (np.nanmax(ys, axis=0), None, None),
    "min": lambda ys, strata: (np.nanmin(ys, axis=0), None, None),
}
NOTES = {"mean": "mean ± std", "iqm": "IQM, 95% interval", "max": "max", "min": "min"}  # shown in the title


# ---- curves


def curves(
    df: "pd.DataFrame",
    value: str = "Performance",
    xaxis: str = "TotalEnvInteracts",
    smooth: int = 1,
    estimator: str = "mean",
    count: bool = False,
    normalize=None,
    ax=None,
):
    """Draw a line for each group of runs and return the Axes.

    df: the table from `load`, or some of its rows
    value, xaxis: columns of progress.txt
    smooth: width of the moving average over each run, in rows
    estimator: "mean" with a band of one standard deviation over the runs, "iqm" (the interquartile mean) with its 95%
        interval, or "max" or "min" without a band
    count: draw a line for each run instead
    normalize: (low, high), or {environment: (low, high)}: low becomes 0 and high 1, and a group's environments share
        a line; otherwise each environment has its own line
    ax: the Axes to draw on; default: those of a new pyplot figure

    The line is dashed where only some of the group's runs have data, since runs can differ in length. It ends where
    fewer than half of them do.
    """

    if estimator not in ESTIMATORS:
        raise UserError(f"plot: est is {', '.join(ESTIMATORS)}, not {estimator!r}{closest(estimator, ESTIMATORS)}")
    lines = series(df, value, xaxis, smooth, normalize)
    unit, xlabel = _time_unit(max(line.x[-1] for line in lines)) if xaxis == "Time" else (1, LABELS.get(xaxis, xaxis))
    groups = {}
    for line in lines if normalize else _split_by_environment(lines):
        groups.setdefault((line.group, line.run if count else None), []).append(line._replace(x=line.x / unit))
    names = [group if run is None else _run_name(group, run) for group, run in groups]
    sizes = [len(own) for own in groups.values()]
    with _style():
        figure, ax = _axes(ax)
        labeled = list(zip(_legend_labels(names, sizes), groups.values(), strict=True))
        for i, (label, own) in enumerate(progress(labeled, "drawing groups")):
            _draw(ax, own, estimator, {"label": label, **_line_style(i)})
        for line in ax.lines:
            line.set_in_layout(False)  # the axes clip lines anyway, and measuring thousands of them takes seconds
        ax.set(xlabel=xlabel, ylabel=_y_label({line.column for line in lines}, value, normalize))
        _format_x_axis(ax)
        ax.yaxis.set_major_formatter("{x:,g}")
        note = NOTES[estimator] if max(sizes) > 1 else ""
        _add_title_and_legend(ax, figure, len(groups), _title(names, sizes, {line.env for line in lines}, note))
    return ax


def _split_by_environment(lines: list[Line]) -> list[Line]:
    """The same lines, with the environment in the group's name if the group has several environments."""
    envs = {}
    for line in lines:
        envs.setdefault(line.group, set()).add(line.env)
    names = {line.env: "unknown environment" if line.env == UNKNOWN else line.env for line in lines}
    several = {group for group, own in envs.items() if len(own) > 1}
    return [
        line._replace(group=f"{line.group}, {names[line.env]}") if line.group in several else line for line in lines
    ]


def aggregate(lines: list[Line], points: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """A common grid x, shape (k,), and all lines interpolated on it, shape (lines, k); NaN where a line has no data.

    The grid contains every x in the lines. If there are more than `points` and the lines differ in them, it is `points`
    evenly spaced values instead; if all lines have the same x, a subset of 4 * points, more than a figure can show.
    """
    x = np.unique(np.concatenate([line.x for line in lines]))
    if len(x) > points and any(len(x) != len(line.x) for line in lines):
        x = np.linspace(x[0], x[-1], points)
    elif len(x) > 4 * points and len(lines) > 1:
        x = x[np.linspace(0, len(x) - 1, 4 * points).astype(int)]
    return x, np.stack([np.interp(x, line.x, line.y, left=np.nan, right=np.nan) for line in lines])


def _draw(ax, lines: list[Line], estimator: str, style: dict) -> None:
    x, ys = aggregate(lines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no line has data at some x: NaN, a gap
        y, low, high = ESTIMATORS[estimator](ys, np.array([line.env for line in lines]))
    enough = 2 * np.isfinite(ys).sum(axis=0) >= len(ys)
    y = np.where(enough, y, np.nan)
    if len(lines) > 1:
        alpha = (0.6 if _is_dark(ax) else 0.35) * min(
            1, (5 / len(lines)) ** 0.5
        )  # many lines must not hide the group's
        for line in lines:
            ax.plot(line.x, line.y, color=style["color"], linewidth=0.5, alpha=alpha, zorder=1.5)
        if low is not None:
            _band(ax, x, low, high, style["color"], enough)
    whole = np.isfinite(ys).all(axis=0)
    ax.plot(x, np.where(whole, y, np.nan), linewidth=1.3, marker="." if len(x) == 1 else None, **style)
    if not whole.all():
        part = ~whole
        part[1:-1] |= ~(whole[2:] & whole[:-2])  # include the neighbors, so that the dashes touch the line
        ax.plot(x, np.where(part, y, np.nan), linewidth=1.1, **{**style, "linestyle": (0, (2, 1)), "label": None})


# ---- comparisons of final scores


def profile(df: "pd.DataFrame", value: str = "Performance", xaxis: str = "TotalEnvInteracts", normalize=None, ax=None):
    """Draw each group's performance profile with its 95% interval, and return the Axes.

    A profile is the fraction of runs whose final score, as in `scores`, exceeds a threshold, as a function of the
    threshold. Several environments can share an axis only with `normalize`. The arguments are those of `curves`.
    """

    runs = _final_scores(df, value, xaxis, normalize)
    if normalize is None and runs["env"].nunique() > 1:
        envs = ", ".join(runs["env"].unique())
        raise UserError(f"plot: a profile over several environments ({envs}) needs --normalize ENV LOW HIGH for each")
    low, high = runs["final"].min(), runs["final"].max()
    margin = 0.05 * (high - low) or 1
    thresholds = np.linspace(low - margin, high + margin, 1001)
    groups = dict(list(runs.groupby("group", sort=False)))
    sizes = [len(own) for own in groups.values()]
    with _style():
        figure, ax = _axes(ax)
        for i, (label, own) in enumerate(zip(_legend_labels(list(groups), sizes), groups.values(), strict=True)):
            y, low, high = stats.profile(own["final"].to_numpy(), own["env"].to_numpy(dtype=str), thresholds)
            _band(ax, thresholds, low, high, _line_style(i)["color"])
            ax.plot(thresholds, y, linewidth=1.3, label=label, **_line_style(i))
        final = _y_label(set(runs["column"]), value, normalize)
        ax.set(xlabel=f"final {final}: threshold τ", ylabel="fraction of runs above τ", ylim=(-0.03, 1.03))
        _format_x_axis(ax)
        _add_title_and_legend(ax, figure, len(groups), _title(list(groups), sizes, set(runs["env"])))
    return ax


def improvement(df: "pd.DataFrame", value: str = "Performance", xaxis: str = "TotalEnvInteracts", ax=None):
    """Draw, for each pair of groups, how likely a run of the first beats one of the second, and return the Axes.

    Final scores, as in `scores`, are compared within each environment that both groups have, and the probabilities are
    averaged, so no normalization is needed. With 95% intervals. The arguments are those of `curves`.
    """

    runs = _final_scores(df, value, xaxis)
    groups = {
        name: (own["final"].to_numpy(), own["env"].to_numpy(dtype=str))
        for name, own in runs.groupby("group", sort=False)
    }
    if len(groups) < 2:
        raise UserError(f"plot: --improvement compares groups, but there is only {', '.join(groups)}")
    if len(groups) > MAX_COMPARED:
        what = f"at most {MAX_COMPARED} groups, but there are {len(groups):,}"
        raise UserError(f"plot: --improvement compares {what}; choose with --select and --exclude")
    pairs = [(x, y, *_probability_of_improvement(x, y, groups)) for x, y in combinations(groups, 2)]
    with _style():
        _, ax = _axes(ax, (SIZE[0], 0.75 + 0.33 * len(pairs)))
        for row, (x, y, p, low, high) in enumerate(pairs):
            ax.plot([low, high], [row, row], color=COLORS[0], linewidth=4, alpha=0.5, solid_capstyle="butt")
            ax.plot(p, row, "o", color=COLORS[0], markersize=4)
            text = f"{x} > {y}: {p:.2f} [{low:.2f}, {high:.2f}]".replace("$", r"\$")
            page = {
                "facecolor": ax.get_facecolor(),
                "linewidth": 0,
                "pad": 0.5,
            }  # keeps the grid from crossing the text
            ax.annotate(text, (0, row), (0, 5), textcoords="offset points", fontsize=7, bbox=page)
        ax.axvline(0.5, color="#808080", linewidth=0.8, zorder=1)
        ax.set(xlabel=f"P(X > Y) in final {_y_label(set(runs['column']), value)}", xlim=(-0.02, 1.02))
        ax.set(ylim=(len(pairs) - 0.6, -0.8), yticks=[])
        ax.spines["left"].set_visible(False)
        _add_title_and_legend(
            ax, None, 1, _title(list(groups), [len(own) for own, _ in groups.values()], set(runs["env"]))
        )
    return ax


def _probability_of_improvement(x: str, y: str, groups: dict) -> tuple[float, float, float]:
    (x_scores, x_envs), (y_scores, y_envs) = groups[x], groups[y]
    in_x, in_y = np.isin(x_envs, y_envs), np.isin(y_envs, x_envs)
    if not in_x.any():
        raise UserError(f"plot: {x} and {y} have no environment in common")
    return stats.improvement(x_scores[in_x], y_scores[in_y], x_envs[in_x], y_envs[in_y])


def _final_scores(df: "pd.DataFrame", value: str, xaxis: str, normalize=None) -> "pd.DataFrame":
    runs = scores(df, value, xaxis, normalize=normalize)
    for (group, env), own in runs.groupby(["group", "env"], sort=False):
        if len(own) < 2:
            raise UserError(f"plot: {group} has a single run on {env}; an interval needs at least two per group")
    return runs


# ---- parts of a figure


@contextlib.contextmanager
def _style():
    """Use STYLE in this block.

    A notebook's first figure turns on matplotlib's interactive mode, which displays all figures; rc_context alone would
    turn it off again.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield
        interactive = matplotlib.is_interactive()
    matplotlib.interactive(interactive)


def _axes(ax, size: tuple[float, float] = SIZE) -> tuple:
    """(figure, axes): a new figure, or None if axes were given."""
    import matplotlib.pyplot as plt

    return (None, ax) if ax is not None else plt.subplots(figsize=size, layout="constrained")


def _line_style(i: int) -> dict:
    """Color and line style of the i-th group."""
    import matplotlib

    color = COLORS[i % len(COLORS)]
    color = matplotlib.rcParams["text.color"] if color == "text" else color
    return {"color": color, "linestyle": ("-", "-.", ":")[i // len(COLORS) % 3]}


def _y_label(columns: set[str], value: str, normalize=None) -> str:
    label = LABELS.get(next(iter(columns)) if len(columns) == 1 else value, value)
    return label if normalize is None else f"normalized {label}"


def _run_name(group: str, run: str) -> str:
    name = printable(Path(run).resolve().name)
    return name if name.startswith(group) else f"{group}, {name}"


def _legend_labels(names: list[str], sizes: list[int]) -> list[str]:
    """The legend's labels, with the number of runs, unless it is the same for all groups and thus in the title."""
    names = [name.replace("$", r"\$") for name in names]
    # matplotlib omits labels that begin with "_" from legends
    names = [name if name.strip() and not name.startswith("_") else f" {name}" for name in names]
    if len(set(sizes)) == 1:
        return names
    return [f"{name} ({size} run{'s' * (size > 1)})" for name, size in zip(names, sizes, strict=True)]


def _format_x_axis(ax) -> None:
    import matplotlib

    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(lambda n, _: abbreviate(n, 4))


def _band(ax, x, low, high, color: str, where=None) -> None:
    """Shade an interval: visible on the background, but transparent enough to see others through it."""
    alpha = 0.4 if _is_dark(ax) else 0.18
    ax.fill_between(x, low, high, where=where, color=color, alpha=alpha, linewidth=0, zorder=1.4)


def _is_dark(ax) -> bool:
    """Whether the background is dark, which needs stronger lines and shades."""
    import matplotlib

    return sum(matplotlib.colors.to_rgb(ax.get_facecolor())) < 1.5


def _title(names: list[str], sizes: list[int], envs: set[str], note: str = "") -> str:
    """What all groups share: the environment and the number of runs. For a single group, its name too."""
    parts = _legend_labels(names, sizes) if len(names) == 1 else []
    if len(envs) > 1:
        parts.append(f"{len(envs)} environments")
    elif envs != {UNKNOWN}:
        parts += envs
    if len(set(sizes)) == 1 and sizes[0] > 1:
        parts.append(f"{sizes[0]} runs" + " each" * (len(names) > 1))
    return ": ".join(part for part in (", ".join(parts), note) if part)


def _add_title_and_legend(ax, figure, entries: int, title: str) -> None:
    """Put a title above the data and, for several entries, a legend, enlarging `figure` accordingly."""
    if entries > MAX_LEGEND:
        title = "; ".join(filter(None, [f"{entries:,} curves, too many for a legend", title]))
    if not 1 < entries <= MAX_LEGEND:
        ax.set_title(textwrap.fill(title, 46), loc="left")
    else:
        rows = _legend(ax, title)
        if figure:
            figure.set_figheight(SIZE[1] + 0.15 * rows)


def _legend(ax, title: str) -> int:
    """Put the legend above the data, in as many columns as fit the axes' width. Returns its number of rows."""
    import matplotlib

    entries = len(ax.get_legend_handles_labels()[1])
    width = ax.get_window_extent().width * 1.1
    em = matplotlib.font_manager.FontProperties(size=matplotlib.rcParams["legend.fontsize"]).get_size_in_points()
    most = int(width / (3.5 * em * ax.figure.dpi / 72))  # columns that would fit if all names were empty
    for columns in range(max(1, min(entries, most)), 0, -1):
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


def _time_unit(seconds: float) -> tuple[int, str]:
    """The unit for times up to `seconds`: its length in seconds, and the axis label."""
    size, unit = next(
        (size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds > 2 * size or size == 1
    )
    return size, f"wall-clock time ({unit})"


# ---- command line


def parser() -> argparse.ArgumentParser:
    p = Parser("plot", description="Plot learning curves of the runs in and below the given folders.")
    add = p.add_argument
    add("logdir", nargs="+", help="folder; without a trailing slash, a prefix of folder names")
    add("-l", "--legend", nargs="*", default=[], metavar="NAME", help="a name for each folder (default: exp_name)")
    add("-x", "--xaxis", default="TotalEnvInteracts", metavar="COLUMN", help="for example Time (default: %(default)s)")
    add(
        "-y",
        "--value",
        nargs="+",
        default=["Performance"],
        metavar="COLUMN",
        help="one figure each (default: Performance, which is AverageTestEpRet or, without it, AverageEpRet)",
    )
    add("-s", "--smooth", type=int, default=1, metavar="ROWS", help="width of the moving average (default: 1)")
    add("--select", nargs="*", default=[], metavar="TEXT", help="use only runs whose path contains all of these")
    add("--exclude", nargs="*", default=[], metavar="TEXT", help="leave out runs whose path contains any of these")
    add("--est", choices=list(ESTIMATORS), help="how a curve's line combines its runs (default: mean)")
    kind = p.add_mutually_exclusive_group()
    kind.add_argument("--count", action="store_true", help="draw each run separately instead of combining them")
    kind.add_argument("--profile", action="store_true", help="draw the fraction of runs that end above each score")
    kind.add_argument("--improvement", action="store_true", help="draw how likely a group's runs beat another group's")
    add(
        "--normalize",
        nargs="+",
        action="append",
        metavar=("[ENV] LOW", "HIGH"),
        help="LOW becomes 0 and HIGH 1, and a group's environments are combined; give it once per ENV",
    )
    add(
        "--table",
        nargs="?",
        const=True,
        type=_table_file,
        metavar="FILE",
        help="print the groups' scores, or write them to a csv, md or txt file; draws a figure only with --out",
    )
    add("--dark", action="store_true", help="use a black background")
    add("--out", metavar="FILE", help="write a png, svg or pdf file instead of opening a window")
    return p


def _table_file(name: str) -> Path:
    path = Path(name)
    if path.suffix not in (".csv", ".md", ".txt"):
        raise argparse.ArgumentTypeError(
            f"{name} does not end in .csv, .md or .txt (to print the table, put --table last, without a file)"
        )
    return path


def _parse_normalize(given: list[list[str]] | None) -> tuple | dict | None:
    """The argument `normalize` from the words after each --normalize."""
    if given is None:
        return None
    try:
        ranges = {tuple(words[:-2]): (float(words[-2]), float(words[-1])) for words in given}
    except (ValueError, IndexError):
        ranges = {}
    if list(ranges) == [()]:
        return ranges[()]
    if not ranges or any(len(env) != 1 for env in ranges):
        words = " --normalize ".join(" ".join(words) for words in given)
        raise UserError(f"plot: --normalize takes LOW HIGH, or ENV LOW HIGH once for each environment, not {words}")
    return {env: bounds for (env,), bounds in ranges.items()}


def main(argv: list[str] | None = None) -> None:
    """The command `python -m spinup.run plot`."""
    args = parser().parse_args(argv)
    if args.smooth < 1:
        raise UserError(f"plot: --smooth is {args.smooth}; it must be a number of rows, at least 1")
    if args.est and (args.profile or args.improvement):
        raise UserError("plot: --est is only for curves; it can't be combined with --profile or --improvement")
    normalize = _parse_normalize(args.normalize)
    df = load(args.logdir, args.legend, args.select, args.exclude)
    runs = df.groupby("group", sort=False)["run"].nunique()
    print("Runs:", _join_limited([f"{group} ({n})" for group, n in runs.items()]))
    names, each_run = df["run"].to_numpy(), row_indices_by_run(df, "run")
    for value in args.value:
        columns = candidate_columns(df, value)
        empty = [names[rows[0]] for rows in each_run if not first_with_numbers(columns, rows)]
        if 0 < len(empty) < len(each_run):
            print(printable(f"Left out because they have no numbers in {value}: {_join_limited(empty)}"))
    if args.table:
        for value in args.value:
            path = None if args.table is True else _numbered_path(user_path(args.table), value, args.value)
            _show_table(table(df, value, args.xaxis, args.smooth, normalize), path, value)
    if args.out or not args.table:
        _draw_figures(df, args, normalize)


def _join_limited(words: list[str]) -> str:
    """The words, joined; if there are too many, the first ones and the number of others."""
    return ", ".join(words[:MAX_LEGEND]) + f" and {len(words) - MAX_LEGEND:,} more" * (len(words) > MAX_LEGEND)


def _numbered_path(path: Path, value: str, values: list[str]) -> Path:
    """The path for one of several values, with its name added."""
    return path if len(values) == 1 else path.with_stem(f"{path.stem}-{value}")


def _show_table(found: "pd.DataFrame", path: Path | None, value: str) -> None:
    if path is None:
        print(f"{value}:\n{table_text(found, 'txt')}", end="")
        return
    try:
        with replacing(path) as draft:
            draft.write_text(table_text(found, path.suffix[1:]), encoding="utf-8")
    except OSError as error:
        raise UserError(f"plot: cannot write {path}: {error.strerror or error}") from error
    print(f"Saved {path}")


def _draw_figures(df: "pd.DataFrame", args: argparse.Namespace, normalize) -> None:
    """Draw a figure for each value, in windows or files."""
    import matplotlib

    if args.out:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    try:
        plt.switch_backend(plt.get_backend())  # fails here if $MPLBACKEND names one that needs a display
    except ImportError:
        plt.switch_backend("Agg")
    headless = plt.get_backend().lower() in ("agg", "pdf", "ps", "svg", "cairo", "template")
    out = user_path(args.out or "curves.png")
    out = out if out.suffix else out.with_suffix(".png")
    with plt.style.context("dark_background") if args.dark else contextlib.nullcontext():
        for value in args.value:
            if args.profile:
                ax = profile(df, value, args.xaxis, normalize)
            elif args.improvement:
                ax = improvement(df, value, args.xaxis)
            else:
                ax = curves(df, value, args.xaxis, args.smooth, args.est or "mean", args.count, normalize)
            if headless:
                _save(ax.figure, _numbered_path(out, value, args.value))
    if not headless:
        plt.show()
    elif not args.out:
        print("Without a display there is no window; --out FILE sets the file's name.")


def _save(figure, path: Path) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise UserError(f"plot: cannot write a {path.suffix} file; --out takes {', '.join(sorted(kinds))}")
    try:
        with matplotlib.rc_context(STYLE), replacing(path) as draft:
            figure.savefig(draft)
    except OSError as error:
        raise UserError(f"plot: cannot write {path}: {error.strerror or error}") from error
    plt.close(figure)
    print(f"Saved {path}")
