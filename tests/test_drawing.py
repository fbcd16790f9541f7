"""Training after Mesa's OpenGL has drawn: its LLVM and triton's in one process end that process, whoever trains."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("mujoco")

START = """
import os
import sys
import gymnasium as gym
import torch
import spinup
from spinup.analysis.play import record
from spinup.compute.capture import front

def make():
    env = gym.make("InvertedPendulum-v5", render_mode="rgb_array", width=48, height=48)
    return gym.wrappers.AddRenderObservation(env)

def draw():
    env = make()
    env.reset()
    env.close()

def train(env_fn):
    return spinup.ppo(env_fn, num_envs=1, steps_per_epoch=64, epochs=1, train_pi_iters=3, train_v_iters=3)

def check():  # the updates were traced, and triton left alone
    assert "torch._dynamo" in sys.modules and "triton" not in sys.modules
    print("done")
    sys.stdout.flush()
    os._exit(0)  # without the errors of MuJoCo's contexts at exit

front.PATIENCE = 0.0  # traced at the first update
"""


def run(program: str, folder) -> subprocess.CompletedProcess:
    env = {**os.environ, "MUJOCO_GL": "egl", "SPINUP_DATA_DIR": str(folder)}
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        env.pop(name, None)
    return subprocess.run([sys.executable, "-c", START + program], env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def egl(tmp_path_factory):
    """A machine where EGL draws."""
    if sys.platform != "linux" or run("draw()", tmp_path_factory.mktemp("egl")).returncode:
        pytest.skip("EGL does not draw here")


PROGRAMS = {
    "an environment that draws": "train(make)",
    "a second run after a video": """
ac = spinup.ppo("InvertedPendulum-v5", num_envs=1, steps_per_epoch=64, epochs=1, capture=False)
record(ac, "InvertedPendulum-v5", sys.argv[0] + "x.gif", max_ep_len=3)
train("InvertedPendulum-v5")""",
    "a GPU beside Mesa": """
draw()
torch.cuda.is_available = lambda: True
with front.without_triton():
    front.import_dynamo()""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_training_goes_on_after_drawing(egl, tmp_path, name):
    program = PROGRAMS[name].replace('sys.argv[0] + "x.gif"', repr(str(tmp_path / "x.gif")))
    done = run(program + "\ncheck()", tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr[-2000:]
