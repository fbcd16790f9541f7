"""Compare the runs of two source trees: are the rows of progress.txt, except for times, equal to the last digit?

    python benchmarks/same_runs.py OLD NEW [--only ppo]

OLD and NEW are checkouts of this repository, and this Python must have what both need. Each does the short runs below:
the six algorithms that earlier trees have too, with their defaults and presets, block-sparse layers and two MPI
processes. Prints a line per run, with the first cell that differs. The exit status is 1 if any run differs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TIMES = ("Time", "EvalTime")  # columns of seconds
ON = "--steps_per_epoch 400 --epochs 3"
OFF = "--steps_per_epoch 300 --epochs 2 --start_steps 100 --update_after 100 --num_test_episodes 2"
SPARSE = "--hid 64,64 --sparsity 0.5 --block_size 16"
RIGL = f"{SPARSE} --sparse_schedule rigl --sparse_every 20"
ON_POLICY, OFF_POLICY = ("vpg", "trpo", "ppo"), ("ddpg", "td3", "sac")
RUNS = {
    **{f"{algo} CartPole-v1": f"{algo} --env CartPole-v1 {ON} --eval_freq 2" for algo in ON_POLICY},
    **{f"{algo} Pendulum-v1": f"{algo} --env Pendulum-v1 {ON}" for algo in ON_POLICY},
    **{f"{algo} Pendulum-v1": f"{algo} --env Pendulum-v1 {OFF}" for algo in OFF_POLICY},
    **{f"{algo} preset": f"{algo} --env Pendulum-v1 --preset spinningup {ON}" for algo in ON_POLICY},
    **{f"{algo} preset": f"{algo} --env Pendulum-v1 --preset spinningup {OFF}" for algo in OFF_POLICY},
    **{f"{algo} sparse": f"{algo} --env Pendulum-v1 {ON} --hid 64,64,64 --sparsity 0.5" for algo in ON_POLICY},
    **{f"{algo} rigl": f"{algo} --env Pendulum-v1 {OFF} {RIGL}" for algo in OFF_POLICY},
    **{f"{algo} two processes": f"{algo} --env Pendulum-v1 {ON} --num_cpu 2" for algo in ("ppo", "trpo")},
    **{f"{algo} two processes": f"{algo} --env Pendulum-v1 {OFF} --num_cpu 2" for algo in ("sac", "td3")},
    "sac CartPole-v1": f"sac --env CartPole-v1 {OFF}",
    "crossq Pendulum-v1": f"crossq --env Pendulum-v1 {OFF}",
    "crossq targets": f"crossq --env Pendulum-v1 {OFF} --polyak 0.99 --joint False",
    "sac several": f"sac --env Pendulum-v1 {OFF} --num_envs 3 --n_step 3 --normalize_obs --update_every 10",
    "td3 target policy": f"td3 --env Pendulum-v1 {OFF} --target_policy True --noise_corr 0.8",
    "ppo squash": f"ppo --env Pendulum-v1 {ON} --ac_kwargs:squash True --target_kl 0.01 --ent_coef 0.01 --vf_clip 0.2",
}


def table(tree: Path, command: str, folder: Path) -> list[list[str]]:
    """The cells of a run's progress.txt, starting with the header, without times."""
    words = [sys.executable, "-m", "spinup.run", *command.split(), "--data_dir", str(folder), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} in {tree} failed:\n{done.stderr}")
    (file,) = folder.rglob("progress.txt")
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name not in TIMES]
    return [[row[i] for i in kept] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", default="", help="runs whose names contain this")
    args = parser.parse_args()
    different = 0
    for name, command in RUNS.items():
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
            a, b = table(args.old.resolve(), command, Path(old)), table(args.new.resolve(), command, Path(new))
        where = next((f"row {i}, {a[0][j]}: {x} and {y}" for i, (r, s) in enumerate(zip(a, b, strict=False))
                      for j, (x, y) in enumerate(zip(r, s, strict=False)) if x != y), "")  # fmt: skip
        same = a == b
        different += not same
        print(
            f"{name:<24} {'the same' if same else 'DIFFERENT: ' + (where or 'not as many rows or columns')}", flush=True
        )
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
