"""Runs of the programs of three chapters of the introduction: offline RL, exploration, model-based RL.

    python benchmarks/chapters.py offline               # the runs that are not recorded yet
    python benchmarks/chapters.py offline --seeds 0 1   # only these seeds
    python benchmarks/chapters.py offline --report      # the page's table, and the time that the runs took

A run is a line of data/benchmarks/CHAPTER.jsonl: its settings, its seconds of processor time on one thread, and the
rows that its program returns. docs/pictures/programs.py draws the pages' figures from these records.
"""

import argparse
import contextlib
import functools
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from spinup.analysis import stats  # noqa: E402
from spinup.examples import explore, model_based, offline  # noqa: E402

FOLDER = ROOT / "data" / "benchmarks"


class Chapter(NamedTuple):
    """settings: those compared, named as the program's arguments; run: seed, **setting -> rows; columns: what the table
    shows, a name and a function from a run's rows to a number; digits: decimals of those."""

    settings: list[dict]
    seeds: int
    run: Callable[..., list]
    columns: dict[str, Callable[[list], float]]
    digits: int


@functools.lru_cache(maxsize=1)
def behavior(seed: int) -> torch.nn.Module:
    """All settings of a seed learn from the same policy's steps."""
    return offline.train_behavior(seed)


def run_offline(seed: int, data: str, alpha: str) -> list:
    history = offline.learn(offline.record(behavior(seed), data, seed), float(alpha), seed)
    return [[i, *(round(x, 1) for x in row)] for i, *row in history]


EXPLORERS = {  # what is given to explore.train
    "epsilon-greedy": {"bonus": "none"},
    "optimism": {"bonus": "none", "q0": 1.0},
    "plain count": {"bonus": "count", "center": False},
    "count": {"bonus": "count"},
    "RND": {"bonus": "rnd"},
}


def run_exploration(seed: int, method: str) -> list:
    """Rows of (steps, goal reached, cells seen), and in the end the visits to each cell of the maze."""
    rows, visits = explore.train(seed=seed, **EXPLORERS[method])
    return [*rows, visits.tolist()]


def first_goal(rows: list) -> float:
    """The first episode that reaches the goal; the number of episodes if none does."""
    goals = [reached for _, reached, _ in rows[:-1]]
    return (goals.index(1) if 1 in goals else len(goals)) + 1.0


HORIZONS = (5, 10, 20, 40)


def run_model_based(seed: int, members: int, horizon: int) -> list:
    rows, _ = model_based.train(members, horizon, seed)
    return [[steps, round(total, 1), round(loss, 3)] for steps, total, loss in rows]


def run_exploitation(seed: int, members: int, episodes: int) -> list:
    """Rows of horizon, and rewards per step: of plans, imagined and real, and of random actions, imagined and real."""
    _, model = model_based.train(members, seed=seed, episodes=episodes, random=episodes)
    found = {horizon: model_based.exploitation(model, horizon, seed=1_000_000) for horizon in HORIZONS}
    return [[horizon, *(round(x, 3) for x in row)] for horizon, row in found.items()]


CHAPTERS = {
    "offline": Chapter(
        [{"data": data, "alpha": alpha} for data in ("expert", "noisy") for alpha in ("0", "0.25", "1", "4", "inf")],
        5,
        run_offline,
        {
            "return": lambda rows: rows[-1][1],
            "discounted return": lambda rows: rows[-1][2],
            "expected": lambda rows: rows[-1][3],
        },
        0,
    ),
    "exploration": Chapter(
        [{"method": method} for method in EXPLORERS],
        10,
        run_exploration,
        {
            "first episode at the goal": first_goal,
            "success, last 50 episodes": lambda rows: np.mean([reached for _, reached, _ in rows[-51:-1]]),
            "steps, last 50 episodes": lambda rows: np.mean([steps for steps, _, _ in rows[-51:-1]]),
        },
        1,
    ),
    "model-based": Chapter(
        [{"members": 5, "horizon": 20}, {"members": 1, "horizon": 20}, {"members": 5, "horizon": 5}],
        5,
        run_model_based,
        {
            "return of episode 4": lambda rows: rows[3][1],
            "return of episode 7": lambda rows: rows[6][1],
            "first episode above -300": lambda rows: 1 + next((i for i, row in enumerate(rows) if row[1] > -300), 7),
        },
        1,
    ),
    "model-exploitation": Chapter(
        [{"members": members, "episodes": 3} for members in (1, 5)],
        5,
        run_exploitation,
        {
            **{f"plans, H = {HORIZONS[i]}": lambda rows, i=i: rows[i][1] - rows[i][2] for i in (0, 2, 3)},
            "random, H = 40": lambda rows: rows[3][3] - rows[3][4],
        },
        2,
    ),
}


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.jsonl"


def read(path: Path, settings: list[dict]) -> list[tuple[dict, list[dict]]]:
    """(setting, its runs by seed) for each of the settings."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    runs = sorted((json.loads(line) for line in lines), key=lambda run: run["seed"])
    return [(setting, [run for run in runs if setting.items() <= run.items()]) for setting in settings]


def records(name: str) -> list[tuple[dict, list[dict]]]:
    return read(path_of(name), CHAPTERS[name].settings)


def record(path: Path, run: Callable[..., list], setting: dict, seed: int) -> None:
    """Do one run, unless the file has it."""
    if seed in [found["seed"] for _, runs in read(path, [setting]) for found in runs]:
        return
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        rows = run(seed, **setting)
    seconds = round(time.process_time() - start, 1)
    print(setting, seed, f"{seconds} s", flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**setting, "seed": seed, "seconds": seconds, "rows": rows}) + "\n")


def mean_and_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over runs, (n, ...), and its bootstrap interval."""
    draws = stats.resample(np.zeros(len(values))) @ values / len(values)
    return values.mean(axis=0), *stats.interval(draws)


def report(name: str, found: list[tuple[dict, list[dict]]]) -> str:
    """A Markdown table: for each setting the mean over seeds and its 95% interval."""
    chapter = CHAPTERS[name]
    heads = [*chapter.settings[0], "seeds", *chapter.columns]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for setting, runs in found:
        if runs:
            cells = [f"{value:g}" if isinstance(value, float) else str(value) for value in setting.values()]
            cells.append(str(len(runs)))
            for column in chapter.columns.values():
                values = np.array([column(run["rows"]) for run in runs])
                mean, low, high = (f"{x + 0.0:.{chapter.digits}f}" for x in mean_and_interval(values))
                cells.append(f"{mean} ({low} to {high})")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def timing(found: list[tuple[dict, list[dict]]]) -> str:
    seconds = [run["seconds"] for _, runs in found for run in runs]
    return f"{len(seconds)} runs, {sum(seconds):.0f} seconds of processor time, at most {max(seconds)} each"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapter", choices=CHAPTERS)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    name, chapter = args.chapter, CHAPTERS[args.chapter]
    seeds = range(chapter.seeds) if args.seeds is None else args.seeds
    for seed in seeds if not args.report else ():
        for setting in chapter.settings:
            record(path_of(name), chapter.run, setting, seed)
    print(f"{report(name, records(name))}\n\n{timing(records(name))}")


if __name__ == "__main__":
    main()
