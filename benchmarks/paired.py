"""Compare the seconds per epoch of two checkouts, which train in turns.

    python benchmarks/paired.py OLD NEW [--cases "sac 256" "ppo"] [--repeats 3]

OLD and NEW are folders with a checkout each, such as `git worktree add` makes. Each training run is a process of its
own, on the same core, with the seed of its round. It counts by the median of its last epochs, with captured updates. A
ratio above 1 means that NEW is slower.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OFF_POLICY = dict(steps_per_epoch=500, start_steps=500, update_after=500, eval_freq=0)
SMALL = dict(OFF_POLICY, steps_per_epoch=1000, batch_size=64, ac_kwargs={"hidden_sizes": [64, 64]})
# name: algorithm, arguments, epochs, and how many of them to ignore
CASES = {
    "sac 256": ("sac", dict(OFF_POLICY, batch_size=256), 14, 9),
    "td3 256": ("td3", dict(OFF_POLICY, batch_size=256), 14, 9),
    "sac 64": ("sac", SMALL, 20, 12),
    "td3 64": ("td3", SMALL, 20, 12),
    "ppo": ("ppo", {}, 80, 50),
}
TRAIN = """
import json, sys
tree, algo, arguments, folder = sys.argv[1:]
sys.path.insert(0, tree)
import spinup
assert spinup.__file__.startswith(tree), spinup.__file__
logger = dict(output_dir=folder, exp_name="paired", quiet=True)
getattr(spinup, algo)("HalfCheetah-v5", logger_kwargs=logger, **json.loads(arguments))
"""


def seconds_per_epoch(tree: Path, case: str, seed: int) -> float:
    algo, arguments, epochs, ignored = CASES[case]
    arguments = json.dumps({**arguments, "epochs": epochs, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-c", TRAIN, str(tree), algo, arguments, str(run)]
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": ""})
        header, *rows = [line.split("\t") for line in (run / "progress.txt").read_text().splitlines()]
    time = [float(row[header.index("Time")]) for row in rows]
    return statistics.median(b - a for a, b in zip(time[ignored:], time[ignored + 1 :], strict=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    trees = args.old.resolve(), args.new.resolve()
    if hasattr(os, "sched_setaffinity"):  # of this process and its children
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for case in args.cases:
        rounds = []
        for seed in range(args.repeats):
            order = trees if seed % 2 == 0 else trees[::-1]
            rounds.append({tree: seconds_per_epoch(tree, case, seed) for tree in order})
        old, new = ([times[tree] for times in rounds] for tree in trees)
        ratios = sorted(y / x for x, y in zip(old, new, strict=True))
        spread = f"({ratios[0]:.3f}..{ratios[-1]:.3f})"
        print(f"{case}: {min(old):.3f} s, {min(new):.3f} s, ratio {statistics.median(ratios):.3f} {spread}", flush=True)


if __name__ == "__main__":
    main()
