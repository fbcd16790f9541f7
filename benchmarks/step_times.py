"""Compare the time of an environment step, with its gradient steps, of off-policy algorithms and settings.

    python benchmarks/step_times.py sac crossq
    python benchmarks/step_times.py sac crossq "crossq --ac_kwargs:critic_width 2" --env Hopper-v5 --repeats 5

A setting is what follows `python -m spinup.run`. The settings train in turns, one process at a time on one core, with
the seed of their round. A row has the median of a setting's rounds in milliseconds, and its ratio to the first setting:
the median of the rounds' ratios, with the smallest and the largest.
"""

import argparse
import itertools
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS, EPOCHS, IGNORED = 250, 6, 3  # per epoch; epochs; of these: random steps, then captures and warm-up
FLAGS = f"--steps_per_epoch {STEPS} --epochs {EPOCHS} --start_steps {STEPS} --update_after {STEPS} --eval_freq 0"


def step_time(times: list[float]) -> float:
    """Milliseconds per step: the median epoch's, given the seconds from the start to the end of each epoch."""
    epochs = [end - begin for begin, end in itertools.pairwise(times)][IGNORED - 1 :]
    return 1000 * statistics.median(epochs) / STEPS


def measure(setting: str, env: str, seed: int) -> float:
    """Train with the setting for EPOCHS epochs; milliseconds per step."""
    words = [*shlex.split(setting), "--env", env, "--seed", str(seed), *FLAGS.split(), "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "spinup.run", *words, "--data_dir", folder, "--exp_name", "timed"]
        status = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode
        if status:
            sys.exit(status)  # the run has said why
        (file,) = Path(folder).rglob("progress.txt")
        header, *rows = [line.split("\t") for line in file.read_text().splitlines()]
    return step_time([float(row[header.index("Time")]) for row in rows])


def table(settings: list[str], rounds: list[list[float]]) -> str:
    """A markdown row for each setting; rounds: the times of all settings, for each seed."""
    lines = ["| setting | ms per step | ratio |", "| --- | --- | --- |"]
    for i, setting in enumerate(settings):
        ratios = sorted(times[i] / times[0] for times in rounds)
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if i else "1"
        lines.append(f"| `{setting}` | {statistics.median(times[i] for times in rounds):.1f} | {ratio} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # of this process and its children
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rounds = []
    for seed in range(args.repeats):
        rounds.append([measure(setting, args.env, seed) for setting in args.settings])
        print(f"round {seed + 1}:", *(f"{x:.1f}" for x in rounds[-1]), "ms", flush=True)
    print(table(args.settings, rounds))


if __name__ == "__main__":
    main()
