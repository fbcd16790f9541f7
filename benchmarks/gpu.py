"""Steps per second of training on the CPU and on a CUDA device, with and without captured updates.

    python benchmarks/gpu.py [--algos sac ppo] [--env HalfCheetah-v5] [--steps 20000] [--repeats 3]

Each measurement is a process of its own, with the algorithm's defaults and one CPU thread; they take turns. The clock
runs from the end of the second epoch to the end of the last. Updates are captured after five seconds, so keep --steps
large. For off-policy algorithms an epoch is 1000 steps, and all timed epochs have updates.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MODES = {
    "cpu, captured": dict(device="cpu", capture=True),
    "cpu, plain": dict(device="cpu", capture=False),
    "cuda, captured": dict(device="cuda", capture=True),
    "cuda, plain": dict(device="cuda", capture=False),
}
EPOCH = {"ppo": dict(steps_per_epoch=2048)}
OFF_POLICY = dict(steps_per_epoch=1000, start_steps=500, update_after=500)


def child(algo: str, env: str, steps: int, mode: str, seed: int) -> None:
    """Train, and print the steps per second after the second epoch."""
    import pandas as pd

    import spinup

    options = {**EPOCH.get(algo, OFF_POLICY), **MODES[mode], "eval_freq": 0, "checkpoint_freq": 0}
    epochs = max(3, steps // options["steps_per_epoch"])
    with tempfile.TemporaryDirectory() as folder:
        getattr(spinup, algo)(
            env, seed=seed, epochs=epochs, logger_kwargs=dict(output_dir=folder, quiet=True), **options
        )
        table = pd.read_csv(Path(folder) / "progress.txt", sep="\t")
    timed = table.iloc[-1] - table.iloc[1]
    print(json.dumps(timed["TotalEnvInteracts"] / timed["Time"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--algos", nargs="+", default=["sac", "ppo"])
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        algo, env, steps, mode, seed = args.child
        return child(algo, env, int(steps), mode, int(seed))
    import torch

    modes = [mode for mode in MODES if torch.cuda.is_available() or "cuda" not in mode]
    print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device")
    for algo in args.algos:
        speeds = {mode: [] for mode in modes}
        for seed in range(args.repeats):
            for mode in modes:
                command = [sys.executable, __file__, "--child", algo, args.env, str(args.steps), mode, str(seed)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                speeds[mode].append(json.loads(done.stdout.splitlines()[-1]))
        for mode, found in speeds.items():
            print(f"{algo} {mode}: {statistics.median(found):.0f} steps/s ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    main()
