"""What a type checker says of programs that use the package: nothing of right ones, and each wrong argument."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RIGHT = """
import gymnasium as gym
import spinup
from spinup import ActorCritic, EpochLogger, ExperimentGrid
from spinup.buffers import ReplayBuffer

ac = spinup.ppo("CartPole-v1", seed=1, num_envs=2, ac_kwargs={"hidden_sizes": [64]}, target_kl=None)
spinup.sac(lambda: gym.make("Pendulum-v1"), alpha=0.2, on_epoch=lambda row: row["Epoch"] > 3)
spinup.sac("Pendulum-v1", actor_critic=ActorCritic, alpha="auto", device="cpu")
print(spinup.evaluate(ac, "CartPole-v1", episodes=3)["EpRet"][0] + 1)
spinup.resume("data/x/x_s0", epochs=9, lr=1e-3)
logger = EpochLogger(output_dir="out")
logger.store(Loss=[1.0, 2.0])
logger.log_tabular("Loss", average_only=True)
grid = ExperimentGrid("name")
grid.add("seed", [0, 10])
grid.run(spinup.vpg, num_cpu="auto")
"""
WRONG = """
import spinup
from spinup import EpochLogger, ExperimentGrid, UserError

spinup.ppo("CartPole-v1", seed="1")
spinup.ppo("CartPole-v1", num_envs=2.5)
spinup.ppo(3)
spinup.ppo("CartPole-v1", ac_kwargs=[64])
spinup.ppo("CartPole-v1", learning_rate=1e-3)
spinup.sac("Pendulum-v1", alpha="automatic")
spinup.dqn("CartPole-v1", on_epoch=3)
spinup.td3()
spinup.resume(3)
spinup.evaluate(None, "CartPole-v1", episodes="3")
EpochLogger(quiet="yes")
ExperimentGrid("name").run(spinup.vpg, jobs=1.5)
UserError().exit_code
"""


def complaints(code: str, file: Path) -> list[tuple[int, str]]:
    """The line and the kind of each of mypy's errors."""
    file.write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(file)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300).stdout
    return [
        (int(line), kind) for line, kind in re.findall(r"^.*?:(\d+): error: .*\[([a-z-]+)\]$", output, re.MULTILINE)
    ]


def test_right_programs_pass(tmp_path):
    assert complaints(RIGHT, tmp_path / "right.py") == []


def test_each_wrong_argument_is_found(tmp_path):
    lines = WRONG.splitlines()
    first = lines.index('spinup.ppo("CartPole-v1", seed="1")') + 1
    found = complaints(WRONG, tmp_path / "wrong.py")
    kinds = {"arg-type", "call-arg", "call-overload", "attr-defined"}
    assert {kind for _, kind in found} <= kinds
    assert sorted({line for line, _ in found}) == list(range(first, len(lines) + 1))
