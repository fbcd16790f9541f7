"""Success with and without hindsight replay on tasks with goals: the table and the figure of docs/algorithms/her.md.

    python benchmarks/hindsight.py --dir data/hindsight                       # the tasks in spinup/examples/goals.py
    python benchmarks/hindsight.py --dir data/hindsight --tasks PointMaze     # needs the extra `robotics`: hours
    python benchmarks/hindsight.py --report data/benchmarks

Each run is `python -m spinup.run ALGO ...` in a process of its own; its line goes to DIR/hindsight.jsonl, its output to
DIR/<run>.log. Started again, the command leaves out the runs that are done. PointMaze and Fetch need a display or
MUJOCO_GL=egl only to draw.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from learning import child, commit_of, read_progress

TASKS = "spinup.examples.goals:"
ROBOTS = "gymnasium_robotics:"
SMALL = "--hid 64,64 --batch_size 128 --start_steps 1000 --steps_per_epoch 1000 --epochs 10 --log_info is_success"
LARGE = "--steps_per_epoch 5000 --num_test_episodes 50"


class Task(NamedTuple):
    """One algorithm on one environment; column: of progress.txt, the success of its test episodes."""

    algo: str
    flags: str
    column: str = "Test_is_success"


BITS = f"--env {TASKS}BitFlip-v0 --n_step 1 --hid 128,128 --steps_per_epoch 1000 --epochs 10 --log_info is_success"
MAZE = f"--env {ROBOTS}PointMaze_UMaze-v3 {LARGE} --epochs 20 --log_info success"
FETCH = f"--env {ROBOTS}FetchReach-v4 {LARGE} --epochs 4 --log_info is_success"
RUNS = {
    "BitFlip dqn": Task("dqn", f"{BITS} --num_test_episodes 50"),
    **{
        f"Reach {algo}": Task(algo, f"--env {TASKS}Reach-v0 {SMALL} --num_test_episodes 50")
        for algo in ("sac", "td3", "ddpg")
    },
    "PointMaze sac": Task("sac", MAZE, "Test_success"),
    "FetchReach sac": Task("sac", FETCH),
    "FetchReach ddpg": Task("ddpg", FETCH),
}


def key(record: dict) -> tuple:
    return record["task"], record["hindsight"], record["seed"]


def read(folder: Path) -> dict[tuple, dict]:
    """The records in a folder, by `key`."""
    file = folder / "hindsight.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {key(record): record for record in map(json.loads, lines)}


def train(name: str, hindsight: float, seed: int, folder: Path) -> dict:
    """Do one run from its start; returns its record."""
    task, run = RUNS[name], f"{name.replace(' ', '-')}-{hindsight:g}-s{seed}"
    words = [task.algo, *task.flags.split(), "--hindsight", f"{hindsight:g}", "--seed", str(seed)]
    shutil.rmtree(folder / "runs" / run, ignore_errors=True)  # of a run that was interrupted
    with open(folder / f"{run}.log", "a") as log:
        data_dir = str(folder / "runs" / run)
        status = child(["-m", "spinup.run", *words, "--exp_name", "run", "--data_dir", data_dir, "--quiet"], log)
    if status:
        sys.exit(f"hindsight.py: {run} ended with status {status}; see {folder / run}.log")
    (file,) = (folder / "runs" / run).rglob("progress.txt")
    rows = read_progress(file)
    success = {str(int(row["TotalEnvInteracts"])): round(row[task.column], 4) for row in rows}
    record = {"task": name, "hindsight": hindsight, "seed": seed, "command": f"python -m spinup.run {' '.join(words)}"}
    return record | {"commit": commit_of(file.parent), "seconds": round(rows[-1]["Time"]), "success": success}


def report(records: list[dict]) -> str:
    """Markdown: the success of the last test episodes of each seed, with and without hindsight."""
    lines = ["| task | steps | with hindsight 0.8 | without |", "| --- | --- | --- | --- |"]
    for name in dict.fromkeys(record["task"] for record in records):
        runs = [record for record in records if record["task"] == name]
        steps = max(int(step) for step in runs[0]["success"])
        cells = []
        for hindsight in (0.8, 0.0):
            finals = [run["success"][str(steps)] for run in runs if run["hindsight"] == hindsight]
            each = ", ".join(f"{final:.2f}" for final in finals)
            cells.append(f"{statistics.fmean(finals):.2f} ({each})" if finals else "-")
        env, algo = name.split()
        lines.append(f"| {env}, {algo.upper()} | {steps:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="where runs, logs and hindsight.jsonl go")
    parser.add_argument("--tasks", nargs="+", default=["BitFlip", "Reach"], help="names that begin so, of RUNS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--report", type=Path, metavar="DIR", help="print the table of this folder")
    args = parser.parse_args()
    if args.report:
        print(report(list(read(args.report).values())))
        return
    names = [name for name in RUNS if name.startswith(tuple(args.tasks))]
    if not args.dir or not names:
        parser.error(f"give --dir, and --tasks among {', '.join(RUNS)}")
    args.dir.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in names:
            for hindsight in (0.8, 0.0):
                if (name, hindsight, seed) in read(args.dir):
                    continue
                print(time.strftime("%H:%M"), name, hindsight, seed, flush=True)
                record = train(name, hindsight, seed, args.dir.resolve())
                with open(args.dir / "hindsight.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
