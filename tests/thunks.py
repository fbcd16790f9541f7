"""Functions for runs in separate processes; this module imports nothing slow."""

import os
import signal
import sys
import time
from pathlib import Path

from spinup.errors import UserError


def note(seed, logger_kwargs, log, **arguments):
    """Write a line to the file `log`: two lines with the same seed mean that it ran twice."""
    with open(log, "a") as file:
        file.write(f"{seed}\n")


def run(seed, logger_kwargs, log, does="work", seconds=0.0, **arguments):
    """Print, note the seed, sleep, and then, if the seed is 1, do what `does` says."""
    folder = Path(logger_kwargs["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    print("seed", seed, "threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
    note(seed, logger_kwargs, log)
    time.sleep(seconds)
    if seed == 1 and does == "raise":
        raise ValueError("a bug")
    if seed == 1 and does == "mistake":
        raise UserError("gamma is 2; it must be 1")
    if seed == 1 and does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 1 and does == "exit":
        sys.exit(3)
    if seed == 1 and does == "leave":
        os._exit(3)
    note(seed, logger_kwargs, f"{log}.finished")


def meet(seed, logger_kwargs, log, together=4, **arguments):
    """Return once `together` runs have started; raise if they don't."""
    note(seed, logger_kwargs, log)
    deadline = time.monotonic() + 100
    while lines(log) < together:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {lines(log)} of {together} started")
        time.sleep(0.05)


def train(seed, logger_kwargs, log, stop_at=None, **arguments):
    """VPG; if the seed is 1, its first attempt dies in step `stop_at`."""
    import gymnasium as gym

    import spinup

    note(seed, logger_kwargs, log)
    steps = [0]

    class Stops(gym.Wrapper):
        def step(self, action):
            steps[0] += 1
            if seed == 1 and steps[0] == stop_at and not Path(f"{log}.stopped").exists():
                Path(f"{log}.stopped").touch()
                os._exit(7)
            return self.env.step(action)

    settings = dict(num_envs=1, steps_per_epoch=50, epochs=4, checkpoint_freq=1, train_v_iters=2)
    spinup.vpg(lambda: Stops(gym.make("CartPole-v1")), seed=seed, **settings, logger_kwargs=logger_kwargs)


def train_long(seed, logger_kwargs, log, **arguments):
    """VPG until it is stopped, without earlier checkpoints."""
    import spinup

    settings = dict(num_envs=1, steps_per_epoch=50, epochs=10**6, checkpoint_freq=0, train_v_iters=2)
    spinup.vpg("CartPole-v1", seed=seed, **settings, logger_kwargs={**logger_kwargs, "quiet": True})


def lines(file) -> int:
    """The number of lines in a file; 0 if it doesn't exist."""
    return Path(file).read_text().count("\n") if Path(file).exists() else 0
