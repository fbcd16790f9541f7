"""Runs of spinup/examples/grpo.py for docs/introduction/language-models.md.

    python benchmarks/language_models.py              # the runs that are not recorded yet
    python benchmarks/language_models.py --seeds 0    # only these seeds
    python benchmarks/language_models.py --report     # the page's table, and the time that the runs took

A run is a line of data/benchmarks/language_models.jsonl: its settings, its seconds of processor time on one thread, and
a row of (step, mean reward, accuracy, KL, length) for every fifth step. docs/pictures/language.py draws the page's
figures from these records.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from spinup.examples import grpo  # noqa: E402

RECORDS = ROOT / "data" / "benchmarks" / "language_models.jsonl"
SEEDS, EVERY, LAST = (0, 1), 5, 20
SETTINGS = [  # (algorithm, reward, beta)
    *((algorithm, "exact", 0.02) for algorithm in ("reinforce", "ppo", "grpo")),
    *(("grpo", "hacked", beta) for beta in (0.0, 0.1, 0.3, 1.0)),
]


def records() -> dict[tuple[str, str, float], list[dict]]:
    """{(algorithm, reward, beta): its runs by seed}, in the order of SETTINGS."""
    lines = RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.exists() else []
    runs = sorted((json.loads(line) for line in lines), key=lambda run: run["seed"])
    return {
        setting: [run for run in runs if (run["algorithm"], run["reward"], run["beta"]) == setting]
        for setting in SETTINGS
    }


def record(setting: tuple[str, str, float], seed: int) -> dict:
    """Do one run."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        history = grpo.train(*setting, seed=seed)
    rows = [[i, *(round(x, 4) for x in row)] for i, *row in history if i % EVERY == 0]
    names = dict(zip(("algorithm", "reward", "beta"), setting, strict=True))
    return {**names, "seed": seed, "seconds": round(time.process_time() - start), "rows": rows}


def last_rows(run: dict) -> np.ndarray:
    """The rows of a run's last steps: (rows, columns)."""
    return np.array([row for row in run["rows"] if row[0] > run["rows"][-1][0] - LAST])


def report(runs: dict[tuple[str, str, float], list[dict]]) -> str:
    """A Markdown table: of each setting the mean, and of accuracy the lowest and highest seed, over the last steps."""
    lines = ["| algorithm | reward | β | seeds | mean reward | accuracy | KL | length |", "| --- " * 8 + "|"]
    for (algorithm, reward, beta), seeds in runs.items():
        if seeds:
            means = np.array([last_rows(run).mean(axis=0)[1:] for run in seeds])  # (seeds, columns)
            rew, accuracy, kl, length = means.mean(axis=0)
            low, high = means[:, 1].min(), means[:, 1].max()
            cells = [algorithm, reward, f"{beta:g}", f"{len(seeds)}", f"{rew:.2f}"]
            cells += [f"{accuracy:.2f} ({low:.2f} to {high:.2f})", f"{kl:.1f}", f"{length:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def timing(runs: dict[tuple[str, str, float], list[dict]]) -> str:
    seconds = [run["seconds"] for seeds in runs.values() for run in seeds]
    return f"{len(seconds)} runs of {min(seconds)} to {max(seconds)} seconds of processor time on one thread"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds if not args.report else ():
        for setting in SETTINGS:
            if seed not in [run["seed"] for run in records()[setting]]:
                run = record(setting, seed)
                print(*setting, seed, f"{run['seconds']} s", flush=True)
                with RECORDS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")
    print(f"{report(records())}\n\n{timing(records())}")


if __name__ == "__main__":
    main()
