"""Train for a few hundred steps on environments of other packages: the table in docs/environments.md.

    python benchmarks/third_party.py [PACKAGE ...]

Default: the packages that are installed. They can't all be installed together, because they need different versions of
others. The exit status is 1 if a run failed.
"""

import argparse
import importlib.metadata
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PPO = "--epochs 2 --steps 128 --num_envs 2 --train_pi_iters 1 --train_v_iters 1"
SAC = "--epochs 2 --steps 128 --start_steps 64 --update_after 64 --num_test_episodes 1 --replay_size 1000"
# package: what follows `python -m spinup.run`, without the settings that make the run short
COMMANDS = {
    "minigrid": [
        "ppo --env minigrid:MiniGrid-Empty-5x5-v0 --wrapper minigrid.wrappers:ImgObsWrapper",
        "ppo --env minigrid:MiniGrid-Empty-5x5-v0 --wrapper minigrid.wrappers:FlatObsWrapper",
        "ppo --env minigrid:MiniGrid-Empty-5x5-v0 --wrapper 'minigrid.wrappers:RGBImgPartialObsWrapper(tile_size=8)' "
        "--wrapper minigrid.wrappers:ImgObsWrapper",
    ],
    "highway-env": ["ppo --env highway_env:highway-fast-v0 --log_info crashed"],
    "gymnasium-robotics": [
        "sac --env gymnasium_robotics:PointMaze_UMaze-v3 --hindsight 0.8 --log_info success",
        "sac --env gymnasium_robotics:FetchReach-v4 --hindsight 0.8 --log_info is_success",
    ],
    "ale-py": ["ppo --env ALE/Pong-v5"],
    "shimmy": ["sac --env shimmy:dm_control/cartpole-swingup-v0"],
    "nle": ["ppo --env nle:NetHackScore-v0"],
    "popgym": ["ppo --env popgym:popgym-RepeatPreviousEasy-v0"],
    "minatar": ["ppo --env minatar.gym:MinAtar/Breakout-v1"],
    "metaworld": ["sac --env metaworld:Meta-World/MT1 --env_kwargs:env_name reach-v3 --log_info success"],
}


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def train(command: str, folder: Path) -> tuple[int, str]:
    """Exit status and last line of a short run. Simulators render without a display."""
    words = [*shlex.split(command), *shlex.split(PPO if command.startswith("ppo") else SAC), "--data_dir", str(folder)]
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    env = {"MUJOCO_GL": "egl", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run(
        [sys.executable, "-m", "spinup.run", *words], env=env, cwd=folder, capture_output=True, text=True, check=False
    )
    return run.returncode, (run.stderr.strip() or run.stdout.strip() or "nothing").splitlines()[-1][:200]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("packages", nargs="*", help=f"of {', '.join(COMMANDS)}; default: those that are installed")
    packages = parser.parse_args().packages or [package for package in COMMANDS if version(package)]
    if unknown := set(packages) - set(COMMANDS):
        parser.error(f"unknown: {', '.join(unknown)}; the packages are {', '.join(COMMANDS)}")
    failed = 0
    for package in packages:
        for command in COMMANDS[package]:
            start = time.time()
            with tempfile.TemporaryDirectory() as folder:
                status, line = train(command, Path(folder))
            failed += status != 0
            result = f"trains ({time.time() - start:.0f} s)" if status == 0 else f"exit status {status}: {line}"
            print(f"| {package} {version(package)} | `{command}` | {result} |", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
