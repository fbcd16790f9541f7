"""Train the runs in data/reference: VPG, TRPO, PPO and SAC on CartPole-v1 and on Pendulum-v1, five seeds each.

    python benchmarks/reference.py
    python benchmarks/reference.py --envs Pendulum-v1 --algos vpg sac

Each algorithm on each environment is one `python -m spinup.run` command, which is printed and stored in config.json.
Only config.json and progress.txt of a run are kept. Complete folders are skipped, so to repeat one, remove it first:
`rm -r data/reference/Pendulum-v1/vpg`.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = range(5)
SMALL = "--hid 64,64 --steps_per_epoch 1000 --start_steps 1000 --epochs"  # with SAC's (256, 256) minutes become hours
FLAGS = {
    ("CartPole-v1", "vpg"): "--epochs 117",
    ("CartPole-v1", "trpo"): "--epochs 58",
    ("CartPole-v1", "ppo"): "--epochs 29",
    ("CartPole-v1", "sac"): f"{SMALL} 14 --batch_size 64 --polyak 0.99 --n_step 8 --alpha 0.05",
    ("Pendulum-v1", "vpg"): "--steps_per_epoch 1600 --epochs 75",
    ("Pendulum-v1", "trpo"): "--epochs 120",
    ("Pendulum-v1", "ppo"): "--epochs 60",
    ("Pendulum-v1", "sac"): f"{SMALL} 10",
}
KEPT = ("config.json", "progress.txt")


def command(env: str, algo: str, data_dir: str) -> list[str]:
    """The command that trains the five seeds."""
    words = ["python", "-m", "spinup.run", algo, "--env", env, "--seed", *map(str, SEEDS), *FLAGS[env, algo].split()]
    return [*words, "--exp_name", algo, "--data_dir", f"{data_dir}/{env}"]


def complete(folder: Path) -> bool:
    """Whether `folder` contains the five runs, tidied."""
    runs = [folder / f"{folder.name}_s{seed}" for seed in SEEDS]
    return all(run.is_dir() and {path.name for path in run.iterdir()} == set(KEPT) for run in runs)


def tidy(run: Path) -> None:
    """Keep only a run's log, without the names of host and platform."""
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["run"].pop("platform", None), config["run"].pop("host", None)
    (run / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def train(env: str, algo: str, data_dir: str) -> None:
    folder = ROOT / data_dir / env / algo
    if complete(folder):
        print(f"{folder.relative_to(ROOT)}: complete, skipped")
        return
    words, start = command(env, algo, data_dir), time.time()
    print(shlex.join(words), flush=True)
    # This interpreter under the name `python`, so that config.json contains no path of this machine.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run([*words, "--quiet"], cwd=ROOT, env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}, check=True)
    for run in folder.iterdir():
        tidy(run)
    print(f"  {time.time() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--envs", nargs="+", default=list(dict.fromkeys(env for env, _ in FLAGS)))
    parser.add_argument("--algos", nargs="+", default=list(dict.fromkeys(algo for _, algo in FLAGS)))
    parser.add_argument("--dir", default="data/reference", help="from the repository's root (default: %(default)s)")
    args = parser.parse_args()
    for env, algo in FLAGS:
        if env in args.envs and algo in args.algos:
            train(env, algo, args.dir)


if __name__ == "__main__":
    main()
