"""The results of runs as tables: all logged rows, a score for each run, statistics for each group.

Reads progress.txt and config.json of this package and of the original Spinning Up. pandas is imported when first
needed, so that the plotter's --help is fast.
"""

import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spinup.analysis.stats import iqm, iqm_interval
from spinup.errors import UserError, closest, printable
from spinup.system.files import check_file
from spinup.system.terminal import abbreviate, progress

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "unknown"  # the environment of a run if config.json doesn't name it


# ---- reading


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a progress.txt, each of shape (rows,): floats, with NaN for cells that aren't numbers.

    Incomplete lines are left out: a last line without a newline, or with more or fewer cells than the header. A column
    without any number is an array of strings.
    """
    try:
        path = Path(path)
        check_file(path)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    first, newline, body = data[: data.rfind(b"\n") + 1].partition(b"\n")
    if not newline:
        return {}
    header = first.decode("utf-8", "replace").rstrip("\r").split("\t")
    table = _parse_numbers(body, len(header))
    if table is not None:
        return dict(zip(header, table.T, strict=True))
    rows = [line.rstrip("\r").split("\t") for line in body.decode("utf-8", "replace").split("\n")[:-1]]
    rows = [row for row in rows if len(row) == len(header)]
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    return {key: _parse_column(column) for key, column in zip(header, cells, strict=True)}


def _parse_numbers(body: bytes, columns: int) -> np.ndarray | None:
    """Parse a complete table of numbers with numpy, which is fast: (rows, columns). None for any other table."""
    if not body or columns == 1:  # numpy warns about empty input, and drops empty cells of a single column
        return None
    try:
        table = np.loadtxt(io.BytesIO(body), delimiter="\t", comments=None, ndmin=2)
    except ValueError:  # a string, an empty cell, a row of another length
        return None
    return table if table.shape[1] == columns else None


def _parse_column(cells: tuple) -> np.ndarray:
    """A column's cells as numbers, or as strings if none is a number."""
    numbers = np.full(len(cells), np.nan)
    words = 0
    for i, cell in enumerate(cells):
        try:
            numbers[i] = float(cell)
        except ValueError:
            words += bool(cell)
    return np.array(cells) if words and np.isnan(numbers).all() else numbers


def expand(logdir: str) -> list[str]:
    """The folders that `logdir` denotes: itself if it has a trailing slash or a run, else all that begin with it."""
    path = os.path.expanduser(logdir)
    if os.path.basename(path) == "progress.txt":
        path = os.path.dirname(path) or "."
    if path.endswith(("/", os.sep)) or os.path.exists(os.path.join(path, "progress.txt")):
        found = [path] if os.path.isdir(path) else []
    elif os.path.basename(path) in (".", ".."):
        found = [path]
    else:
        parent, prefix = os.path.split(path)
        names = sorted(os.listdir(parent or "."), key=_natural_key) if os.path.isdir(parent or ".") else []
        found = [os.path.join(parent, name) for name in names if name.startswith(prefix)]
        found = [folder for folder in found if os.path.isdir(folder)]
    if not found:
        raise UserError(
            f"plot: there is no folder {logdir}{'' if logdir.endswith('/') else ', and none that begins with it'}"
        )
    return found


def _natural_key(name: str) -> list:
    """A sort key: a_2 before a_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def load(logdirs, legend=(), select=(), exclude=()) -> "pd.DataFrame":
    """All runs in and below the folders `logdirs`, ordered by name, as one table.

    logdirs: one or several folders; without a trailing slash, each is a prefix of folder names, except of those that
        another one is a longer prefix of
    legend: a name for each of them; by default, a run's group is its exp_name
    select, exclude: use only runs whose path contains all of the first and none of the second

    The table has a row for each row of each progress.txt. Its columns are group, env ("unknown" if config.json doesn't
    say), seed (missing if config.json doesn't say), run (the folder) and the columns of progress.txt, with NaN for
    columns that a run doesn't have. Runs without a row are left out. Raises UserError if no run is found.
    """
    logdirs = [str(logdirs)] if isinstance(logdirs, (str, Path)) else [str(logdir) for logdir in logdirs]
    folders = [(i, folder) for i, logdir in enumerate(logdirs) for folder in expand(logdir)]
    lengths = [len(os.path.realpath(os.path.expanduser(logdir))) for logdir in logdirs]
    longest: dict[str, int] = {}  # the length of the longest of logdirs that denotes each folder
    for i, folder in folders:
        real = os.path.realpath(folder)
        longest[real] = max(longest.get(real, 0), lengths[i])
    folders = [(i, folder) for i, folder in folders if lengths[i] == longest[os.path.realpath(folder)]]
    if legend and len(legend) == len(folders):
        labels = legend
    elif legend and len(legend) == len(logdirs):
        labels = [legend[i] for i, _ in folders]
    elif legend:
        names = ", ".join(folder for _, folder in folders)
        raise UserError(f"plot: {len(legend)} legends for {len(folders)} folders ({names}); give one for each")
    else:
        labels = [None] * len(folders)
    found = {}  # (label, the run's real folder): the folder as it was found
    for label, (_, folder) in zip(labels, folders, strict=True):
        for path in _runs_below(folder):
            if all(word in path for word in select) and not any(word in path for word in exclude):
                found.setdefault((label, os.path.realpath(path)), path)
    where = f"in or below {', '.join(folder for _, folder in folders)}"
    if not found:
        selection = " that --select and --exclude allow" if select or exclude else ""
        raise UserError(f"plot: no progress.txt{selection} {where}")
    runs = [_read_run(Path(path), label) for (label, _), path in progress(found.items(), "reading runs")]
    runs = [run for run in runs if run.rows]
    if not runs:
        raise UserError(f"plot: no progress.txt {where} has a row yet")
    return _concatenate(runs)


def _runs_below(folder: str) -> Iterator[str]:
    """The folders in and below `folder` that contain a progress.txt. Follows symbolic links, but yields each once."""
    seen = set()  # a link may point to a parent folder
    for path, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort(key=_natural_key)
        if "progress.txt" in files:
            yield path


class Run(NamedTuple):
    """One run's results: the columns of progress.txt, each of shape (rows,)."""

    group: str
    env: str
    seed: int | None
    run: str
    rows: int
    columns: dict[str, np.ndarray]


def _read_run(path: Path, label: str | None) -> Run:
    try:
        check_file(path / "config.json")
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # missing, incomplete, or nested too deeply
        config = {}
    config = config if isinstance(config, dict) else {}
    env = config.get("env_name") or config.get("env_fn")
    env = env if isinstance(env, str) and re.fullmatch(r"[\w.:/-]+", env) else UNKNOWN  # "<function ... at 0x...>"
    seed = config.get("seed")
    seed = seed if type(seed) is int and abs(seed) < 2**63 else None
    name = config.get("exp_name")
    own_name = name if isinstance(name, str) and name else re.sub(r"_s\d+(-\d+)?$", "", path.resolve().name)
    group = printable(label or own_name)
    columns = read(path / "progress.txt")
    return Run(group, env, seed, str(path), len(next(iter(columns.values()), ())), columns)


def _concatenate(runs: list[Run]) -> "pd.DataFrame":
    """All rows of the runs, as one table."""
    import pandas as pd

    sizes = [run.rows for run in runs]

    def repeated(values: list) -> np.ndarray:
        return np.repeat(np.array(values, dtype=object), sizes)

    columns = {key: repeated([getattr(run, key) for run in runs]) for key in ("group", "env", "seed", "run")}
    columns["seed"] = pd.array(columns["seed"], dtype="Int64")
    ends = np.cumsum(sizes)
    for run, end in zip(runs, ends, strict=True):
        for key, cells in run.columns.items():
            if key in ("group", "env", "seed", "run"):
                continue
            if key not in columns:
                columns[key] = np.full(ends[-1], np.nan)
            if cells.dtype.kind != "f" and columns[key].dtype.kind == "f":
                columns[key] = columns[key].astype(object)
            columns[key][end - run.rows : end] = cells
    return pd.DataFrame(columns)


# ---- curves of single runs


class Line(NamedTuple):
    """One run's curve: the column that y is from, and x (ascending) and y, both of shape (n,)."""

    group: str
    env: str
    run: str
    column: str
    x: np.ndarray
    y: np.ndarray


def moving_average(y: np.ndarray, window: int) -> np.ndarray:
    """The centered moving average of y, shape (n,); at the edges, over the part of the window that has data."""
    n, window = len(y), min(window, 2 * len(y))  # a larger window averages everything, too
    if window <= 1:
        return y
    # A window is the end of one block of its size and the beginning of the next. So two running sums per block give all
    # windows, without differences of large numbers (van Herk 1992).
    blocks = np.zeros((-(-n // window) + 2, window))
    blocks.ravel()[window - 1 : window - 1 + n] = y
    begins = blocks.cumsum(axis=1).ravel()
    ends = blocks[:, ::-1].cumsum(axis=1)[:, ::-1]
    ends[:, 0] = 0  # this window is a whole block, which `begins` already contains
    after = (window - 1) // 2
    i = np.arange(n)
    total = ends.ravel()[i + after] + begins[i + after + window - 1]
    return total / (np.minimum(i + after, n - 1) - np.maximum(i + after - window + 1, 0) + 1)


def row_indices_by_run(df: "pd.DataFrame", *keys: str) -> list[np.ndarray]:
    """The row indices of each run, or of each combination of values in the columns `keys`, in order."""
    codes = df.groupby(list(keys), sort=False).ngroup().to_numpy()
    order = np.argsort(codes, kind="stable")
    order = order[codes[order] >= 0]  # -1: a missing value
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []


def candidate_columns(df: "pd.DataFrame", value: str) -> dict[str, np.ndarray]:
    """The columns that `value` can denote, as numbers, in order of preference.

    Performance is AverageTestEpRet if that was logged, otherwise AverageEpRet; EpRet finds AverageEpRet, and so on.
    """
    import pandas as pd

    names = ("AverageTestEpRet", "AverageEpRet") if value == "Performance" else (value, "Average" + value)
    return {
        name: pd.to_numeric(df[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for name in names
        if name in df
    }


def first_with_numbers(columns: Mapping[str, np.ndarray], rows=slice(None)) -> tuple[str, np.ndarray] | None:
    """The first column with numbers in these rows, as (name, numbers), or None. columns: from candidate_columns"""
    found = ((name, numbers[rows]) for name, numbers in columns.items())
    return next(((name, y) for name, y in found if not np.isnan(y).all()), None)


def series(df: "pd.DataFrame", value: str, xaxis: str, smooth: int = 1, normalize=None) -> list[Line]:
    """The curve of each run that has numbers in both columns. Raises UserError if none has.

    normalize: (low, high), or {environment: (low, high)}: low becomes 0 and high 1
    """
    lines, (x_columns, y_columns) = [], (candidate_columns(df, xaxis), candidate_columns(df, value))
    named = [df[key].to_numpy() for key in ("group", "env", "run")]
    for rows in row_indices_by_run(df, "group", "run"):
        xs, ys = first_with_numbers(x_columns, rows), first_with_numbers(y_columns, rows)
        if xs and ys:
            (_, x), (name, y), (group, env, run) = xs, ys, (values[rows[0]] for values in named)
            ok = np.isfinite(x) & np.isfinite(y)
            x, first = np.unique(x[ok], return_index=True)
            y = y[ok][first]
            if normalize is not None:
                low, high = _normalization_range(normalize, env)
                y = (y - low) / (high - low)
            if len(x):
                lines.append(Line(group, env, run, name, x, moving_average(y, smooth)))
    if not lines:
        known = sorted({"Performance", *df.columns} - {"group", "env", "seed", "run"})
        missing = next((name for name in (xaxis, value) if not first_with_numbers(candidate_columns(df, name))), value)
        hint = "; no episode has ended yet?" if missing == "Performance" else closest(missing, set(known) - {missing})
        raise UserError(f"plot: no run has numbers in a column {missing}{hint} (of {known})")
    return lines


def _normalization_range(normalize, env: str) -> tuple[float, float]:
    if isinstance(normalize, Mapping):
        if env not in normalize:
            raise UserError(f"plot: --normalize has no LOW HIGH for {env}, only for {', '.join(normalize)}")
        normalize = normalize[env]
    low, high = normalize
    if not (math.isfinite(low) and math.isfinite(high)) or low == high:
        raise UserError(f"plot: --normalize needs two different numbers, not {low:g} and {high:g}")
    return low, high


# ---- scores


def scores(
    df: "pd.DataFrame", value: str = "Performance", xaxis: str = "TotalEnvInteracts", smooth: int = 1, normalize=None
) -> "pd.DataFrame":
    """Two scores for each run, as a table with the columns group, env, run, column, end, final and best.

    column: the column that `value` denotes for this run
    end: the run's last x
    final: mean of y in the last tenth of the x axis up to `end`
    best: maximum of y, smoothed as in `curves`

    The arguments are those of `curves`.
    """
    import pandas as pd

    rows = []
    for line in series(df, value, xaxis, 1, normalize):
        end = line.x[-1]
        late = (line.x > 0.9 * end) | (line.x == end)
        best = moving_average(line.y, smooth).max()
        rows.append((line.group, line.env, line.run, line.column, end, line.y[late].mean(), best))
    return pd.DataFrame(rows, columns=["group", "env", "run", "column", "end", "final", "best"])


def table(
    df: "pd.DataFrame", value: str = "Performance", xaxis: str = "TotalEnvInteracts", smooth: int = 1, normalize=None
) -> "pd.DataFrame":
    """The scores of each group on each environment or, if normalized, on all its environments.

    Columns: group, env, runs, end_min, end_max, final_mean, final_std (over the runs), final_iqm, final_low, final_high
    (the 95% interval of the interquartile mean) and the same for best. The arguments are those of `scores`.
    """
    import pandas as pd

    rows, keys = [], ["group"] if normalize else ["group", "env"]
    for (group, *_), runs in scores(df, value, xaxis, smooth, normalize).groupby(keys, sort=False):
        envs = runs["env"].unique()
        row = {"group": group, "env": envs[0] if len(envs) == 1 else f"{len(envs)} environments", "runs": len(runs)}
        row |= {"end_min": runs["end"].min(), "end_max": runs["end"].max()}
        for name in ("final", "best"):
            y = runs[name].to_numpy()
            low, high = iqm_interval(y[:, None], runs["env"].to_numpy(dtype=str))
            std = y.std() if len(y) > 1 else np.nan  # a single run doesn't show the spread
            row |= {f"{name}_mean": y.mean(), f"{name}_std": std, f"{name}_iqm": iqm(y)}
            row |= {f"{name}_low": low[0], f"{name}_high": high[0]}
        rows.append(row)
    return pd.DataFrame(rows)


def table_text(table: "pd.DataFrame", kind: str) -> str:
    """A `table` as csv with all digits, or rounded for reading as txt (aligned) or md (Markdown)."""
    if kind == "csv":
        return table.to_csv(index=False, lineterminator="\n")
    head = ["group", "env", "runs", "end", "final", "final IQM [95%]", "best", "best IQM [95%]"]
    rows = [head]
    for row in table.to_dict("records"):
        ends = dict.fromkeys(abbreviate(row[key], 4) for key in ("end_min", "end_max"))
        rows.append([row["group"], row["env"], str(row["runs"]), " to ".join(ends)])
        for name in ("final", "best"):
            mean, std, middle, low, high = format_numbers(
                *(row[f"{name}_{key}"] for key in ("mean", "std", "iqm", "low", "high"))
            )
            rows[-1].append(mean if std == "nan" else f"{mean} ± {std}")
            rows[-1].append(middle if low == "nan" else f"{middle} [{low}, {high}]")
    if kind == "md":
        rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
        rows.insert(1, ["---", "---"] + ["---:"] * (len(head) - 2))
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    aligned = [
        [c.ljust(n) if i < 2 else c.rjust(n) for i, (c, n) in enumerate(zip(row, widths, strict=True))] for row in rows
    ]
    return "".join("  ".join(row).rstrip() + "\n" for row in aligned)


def format_numbers(*values: float) -> list[str]:
    """Numbers with the same number of decimals: enough for three digits of the largest one."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0)
    decimals = max(2 - math.floor(math.log10(largest)), 0) if largest else 0
    return [f"{v:.{decimals}f}" if decimals <= 6 else f"{v:.3g}" for v in values]
