"""What the checkers of problem set 3 share: the user's answers, a table of the user's runs, and what these show."""

import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spinup.analysis import results, stats
from spinup.errors import UserError
from spinup.exercises.judge import Wrong


class Run(NamedTuple):
    """One run: its seed, its final score (mean return over the last tenth of its steps), and its columns."""

    seed: int
    final: float
    columns: Mapping[str, np.ndarray]


def read_answers(path: Path, names: Sequence[str]) -> dict:
    """The answers file, a TOML table with the given names. Raises UserError for no such file, Wrong for gaps in it."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; `python -m spinup.exercises start` copies the starter file")
    try:
        answers = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is not TOML: {error}") from None
    for name in ("folder", *names):
        if answers.get(name) in (None, ""):
            raise Wrong(f"{path.name} has no answer for '{name}'")
    return answers


def updates_after(config: Mapping) -> int:
    """The environment steps before an off-policy run's first gradient step, by its config.json."""
    steps = config["update_after"]
    return max(config["start_steps"], config["batch_size"]) if steps is None else steps


MAY_DIFFER = ("seed", "exp_name", "logger_kwargs", "run", "device", "threads", "vectorization", "save_freq")


def read_runs(
    folder: str, env: str, column: str | None, values: Sequence, seeds: int, marks: Sequence[str]
) -> dict[float, list[Run]]:
    """The runs below `folder` by their value of the argument `column`; {None: runs} where that is None.

    Raises Wrong unless all runs are on `env`, have the same length and other arguments, and each value has `seeds`
    seeds, the same for all values. marks: columns that tell the algorithm
    """
    try:
        df = results.load([folder])
    except UserError as error:
        raise Wrong(f"folder: {error}") from None
    found, others = {value: [] for value in values}, {}
    finals = dict(zip(*[results.scores(df)[name] for name in ("run", "final")], strict=True))
    for path, rows in df.groupby("run", sort=False):
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        if config.get("env_fn") != env:
            raise Wrong(f"{path} is a run on {config.get('env_fn')}; the exercise asks for {env}")
        missing = [name for name in marks if name not in rows or rows[name].isna().all()]
        if missing:
            raise Wrong(f"{path} has no column {missing[0]}; is it a run of the algorithm that the exercise asks for?")
        if int(rows["Epoch"].max()) != config["epochs"]:
            raise Wrong(f"{path} has {int(rows['Epoch'].max())} of its {config['epochs']} epochs; let it end")
        value = config.get(column) if column else None
        if value not in found:
            continue
        columns = {name: rows[name].to_numpy() for name in rows if rows[name].dtype.kind == "f"}
        found[value].append(Run(config["seed"], finals[path], columns))
        for name in config.keys() - {*MAY_DIFFER, column}:
            others.setdefault(name, {})[json.dumps(config[name])] = path
    check_complete(folder, column, found, seeds)
    for name, by_value in others.items():
        if len(by_value) > 1:
            raise Wrong(f"the runs differ in {name} too: {' and '.join(by_value)}; then no one can say what did it")
    return found


def check_complete(folder: str, column: str, found: Mapping[float, list[Run]], seeds: int) -> None:
    for value, runs in found.items():
        what = f"runs with {column} {value}" if column else "runs"
        own = [run.seed for run in runs]
        if len(set(own)) < len(own):
            twice = next(seed for seed in own if own.count(seed) > 1)
            raise Wrong(f"{folder}: two {what} have the seed {twice}; the same run twice is no evidence")
        if len(own) < seeds:
            raise Wrong(f"{folder} has {len(own)} {what}; the exercise asks for {seeds} seeds")
    if len({frozenset(run.seed for run in runs) for runs in found.values()}) > 1:
        raise Wrong(f"{folder}: the values of {column} have different seeds; give all the same")


def finals(runs: Sequence[Run]) -> np.ndarray:
    """Final scores in the order of the seeds."""
    return np.array([run.final for run in sorted(runs, key=lambda run: run.seed)])


def interval(scores: np.ndarray) -> tuple[float, float, float]:
    """(IQM, low, high): the interquartile mean and its 95% interval."""
    low, high = stats.iqm_interval(scores[:, None], np.zeros(len(scores)))
    return float(stats.iqm(scores)), float(low[0]), float(high[0])


def check_number(name: str, stated, right: float, what: str, tol: float = 0.02, floor: float = 0.06) -> None:
    """Raise Wrong where a stated number is not within tol (relative) or floor (absolute) of what the runs show."""
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        raise Wrong(f"{name} is {stated!r}; it must be a number")
    if abs(stated - right) > max(tol * abs(right), floor):
        raise Wrong(f"{name} is {stated:g}, which is not what your runs show: it is {what}")


def check_choice(name: str, stated, choices: Sequence[str]) -> None:
    if stated not in choices:
        raise Wrong(f"{name} is {stated!r}; it must be one of {', '.join(map(repr, choices))}")


def check_better(name: str, stated, labels: tuple[str, str], x: np.ndarray, y: np.ndarray) -> str:
    """Whether the stated winner, one of two labels or "undecided", is what the runs show; returns it.

    x, y: final scores with the first and the second label
    """
    check_choice(name, stated, (*labels, "undecided"))
    if stated != better(labels, x, y):
        raise Wrong(
            f"{name} is '{stated}', which is not what your runs show: in the figure of --improvement, does the 95% "
            f"interval of P({labels[0]} > {labels[1]}) contain 1/2, and if not, on which side does it lie?"
        )
    return stated


def better(labels: tuple[str, str], x: np.ndarray, y: np.ndarray) -> str:
    """Which of two labels wins: that on whose side of 1/2 the probability of improvement lies with its 95% interval."""
    _, low, high = stats.improvement(x, y, np.zeros(len(x)), np.zeros(len(y)))
    return labels[0] if low > 0.5 else labels[1] if high < 0.5 else "undecided"


def scores_by_value(folder: str, argument: str, values: Sequence) -> dict[float, np.ndarray]:
    """Final scores of the runs below `folder` for each value of an argument. Raises UserError for a missing one."""
    runs = results.scores(results.load([folder]))
    config = [json.loads((Path(run) / "config.json").read_text(encoding="utf-8")) for run in runs["run"]]
    found = {}
    for value in values:
        found[value] = runs["final"].to_numpy()[[own.get(argument) == value for own in config]]
        if not len(found[value]):
            raise UserError(f"{folder} has no runs with {argument} {value}")
    return found


def print_answers(answers: Callable[..., str]) -> None:
    """What a solution's program does: print its answers for the folder that was named, or for the exercise's own."""
    if len(sys.argv) > 2:
        sys.exit(f"usage: python {sys.argv[0]} [FOLDER]")
    try:
        print(answers(*sys.argv[1:]), end="")
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
