"""Time of `python -m spinup.run plot` on many long runs, including imports and writing the figure.

    python benchmarks/plotting.py
    python benchmarks/plotting.py --runs 100 --rows 1000 --groups 5 --repeats 3

The runs are synthetic: random walks in the columns of PPO's progress.txt, in a temporary folder. CPU time is printed
beside wall time, because on a busy machine they differ (0 on Windows, which doesn't report it).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ["Epoch", "TotalEnvInteracts", "Time"]  # together as many as PPO has
COLUMNS += [f"{kind}{name}" for name in ("EpRet", "VVals") for kind in ("Average", "Std", "Max", "Min")]
COLUMNS += ["EpLen", "LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "Entropy", "KL", "ClipFrac", "StopIter"]
FIGURES = {
    "mean and std": [],
    "IQM, 95% interval": ["--est", "iqm"],
    "wall-clock axis": ["--xaxis", "Time"],
    "profile": ["--profile"],
    "improvement": ["--improvement"],
    "table": ["--table"],
}


def make_runs(folder: Path, runs: int, rows: int, groups: int) -> None:
    """Write `runs` folders like those of PPO, divided among `groups` names."""
    rng = np.random.default_rng(0)
    for i in range(runs):
        table = rng.standard_normal((rows, len(COLUMNS))).cumsum(axis=0)
        table[:, COLUMNS.index("Epoch")] = epoch = np.arange(1, rows + 1)
        table[:, COLUMNS.index("TotalEnvInteracts")] = 2048 * epoch
        table[:, COLUMNS.index("Time")] = np.linspace(0, 1000 + 50 * rng.standard_normal(), rows)
        name = f"ppo-{i % groups}"
        run = folder / name / f"{name}_s{i // groups}"
        run.mkdir(parents=True)
        config = {"exp_name": name, "env_fn": "HalfCheetah-v5", "seed": i // groups}
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
        lines = ["\t".join(COLUMNS), *("\t".join(map(repr, row)) for row in table.tolist())]
        (run / "progress.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def seconds(flags: list[str], folder: Path) -> tuple[float, float]:
    """Wall time and CPU time of one command in a process of its own."""
    out = [] if flags == ["--table"] else ["--out", str(folder / "figure.png")]
    words = [sys.executable, "-m", "spinup.run", "plot", f"{folder}/runs/", *out, *flags]
    start, before = time.perf_counter(), os.times()
    subprocess.run(words, cwd=ROOT, env=os.environ | {"MPLBACKEND": "Agg"}, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[2:4]) - sum(before[2:4])  # user and system time of child processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_runs(folder / "runs", args.runs, args.rows, args.groups)
        size = sum(path.stat().st_size for path in folder.rglob("progress.txt")) / 1e6
        print(f"{args.runs} runs of {args.rows} rows, {args.groups} groups, {size:.0f} MB: wall (CPU) time in seconds")
        for label, flags in FIGURES.items():
            times = sorted(seconds(flags, folder) for _ in range(args.repeats))
            print(f"{label:<20}" + "".join(f"{wall:8.1f} ({cpu:.1f})" for wall, cpu in times), flush=True)


if __name__ == "__main__":
    main()
