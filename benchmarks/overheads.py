"""The speed-up of data-parallel training, and the cost of checkpoints and guards as a share of a run's time.

    python benchmarks/overheads.py [--what mpi checkpoint guards] [--env HalfCheetah-v5] [--repeats 3]

mpi: steps per second of PPO with 1 and 2 processes at the same steps_per_epoch, taking turns, with the defaults
(minibatches of 64) and with the preset "spinningup" (gradient steps on whole epochs); the share of time in which the
processes sum gradients and statistics, including waits for the slower one.
checkpoint and guards: PPO with its defaults, and SAC; the share of time in Run.save, and in the checks of observations,
rewards and parameters for NaN, infinity and bounds. The check of each loss is part of its update.
Timing a call takes about a microsecond, which is included.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spinup.algos.ppo import ALGORITHM  # noqa: E402

# name: algorithm, arguments
RUNS = {
    "ppo": ("ppo", dict(epochs=21, steps_per_epoch=2048)),
    "ppo on whole epochs": ("ppo", {**ALGORITHM.presets["spinningup"], "epochs": 11, "target_kl": None}),
    "sac": ("sac", dict(epochs=11, steps_per_epoch=400, start_steps=400, update_after=100, eval_freq=0)),
}


class Stopwatch:
    """The total time of some functions, in seconds, and the number of calls."""

    def __init__(self):
        self.seconds, self.calls = 0.0, 0

    def watch(self, owner, *names: str) -> None:
        for name in names:
            setattr(owner, name, self.timed(getattr(owner, name)))

    def timed(self, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1

        return call


def child(name: str, env: str, folder: str) -> None:
    """Train, and print the measurements since the end of the first epoch."""
    from spinup.compute import mpi
    from spinup.envs import VecEnv
    from spinup.runs.logger import EpochLogger
    from spinup.runs.run import Run

    watches = {"mpi": Stopwatch(), "checkpoint": Stopwatch(), "guards": Stopwatch()}
    watches["mpi"].watch(mpi, "average_tensor", "mpi_sum", "mpi_min", "mpi_max", "allgather")
    watches["checkpoint"].watch(Run, "save")
    watches["guards"].watch(VecEnv, "_check_numbers")
    watches["guards"].watch(Run, "check_parameters")
    clock, write = {}, EpochLogger.dump_tabular

    def row(self):
        write(self)
        if not clock:
            clock["start"] = time.perf_counter()
            for watch in watches.values():
                watch.seconds, watch.calls = 0.0, 0

    EpochLogger.dump_tabular = row
    import spinup

    algo, settings = RUNS[name]
    getattr(spinup, algo)(env, **settings, logger_kwargs=dict(output_dir=folder, quiet=True))
    seconds = time.perf_counter() - clock["start"]
    if mpi.proc_id() == 0:
        shares = {name: watch.seconds / seconds for name, watch in watches.items()}
        shares["seconds a checkpoint"] = watches["checkpoint"].seconds / max(1, watches["checkpoint"].calls)
        steps = settings["steps_per_epoch"] * (settings["epochs"] - 1)
        print(json.dumps({"steps/s": steps / seconds, **shares}), flush=True)


def measure(name: str, env: str, processes: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", name, env, folder]
        if processes > 1:
            command = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(processes), *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout.strip().split("\n")[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--what", nargs="+", choices=("mpi", "checkpoint", "guards"))
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    what = args.what or ["mpi", "checkpoint", "guards"]
    for name in ("ppo", "ppo on whole epochs") if "mpi" in what else ():
        rounds = [(measure(name, args.env, 1), measure(name, args.env, 2)) for _ in range(args.repeats)]
        one, two = (statistics.median(pair[i]["steps/s"] for pair in rounds) for i in range(2))
        ratios = [pair[1]["steps/s"] / pair[0]["steps/s"] for pair in rounds]
        share = statistics.median(pair[1]["mpi"] for pair in rounds)
        steps = RUNS[name][1]["steps_per_epoch"]
        print(f"{name}, {args.env}, {steps} steps an epoch: {one:.0f} steps/s with 1 process, {two:.0f} with 2")
        print(f"  speed-up {two / one:.2f} (in one round {min(ratios):.2f} to {max(ratios):.2f})")
        print(f"  share of the time spent on summing over processes: {share:.1%}")
    for name in ("ppo", "sac") if {"checkpoint", "guards"} & set(what) else ():
        runs = [measure(name, args.env, 1) for _ in range(args.repeats)]
        shares = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(f"{name}, {args.env}: {shares['steps/s']:.0f} steps/s")
        print(f"  checkpoints {shares['checkpoint']:.2%} ({shares['seconds a checkpoint']:.3f} s each), ", end="")
        print(f"guards {shares['guards']:.2%}")


if __name__ == "__main__":
    main()
