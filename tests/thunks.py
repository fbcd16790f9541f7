"""Functions for runs in processes of their own; this module imports nothing slow."""

import os
import signal
import sys
import time
from pathlib import Path

from spinup.errors import UserError


def note(seed, logger_kwargs, log, **arguments):
    """Writes a line to the file `log`: two lines of one seed mean that it ran twice."""
    with open(log, "a") as file:
        file.write(f"{seed}\n")


def run(seed, logger_kwargs, log, does="work", seconds=0.0, **arguments):
    """Prints, notes its seed, takes its time, and then does what it is told where its seed is 1."""
    folder = Path(logger_kwargs["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    print("seed", seed, "threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
    note(seed, logger_kwargs, log)
    time.sleep(seconds)
    if seed == 1 and does == "raise":
        raise ValueError("a bug of ours")
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
    """Ends when as many runs have begun, and raises where they do not."""
    note(seed, logger_kwargs, log)
    patience = time.monotonic() + 100
    while lines(log) < together:
        if time.monotonic() > patience:
            raise TimeoutError(f"only {lines(log)} of {together} came")
        time.sleep(0.05)


def train(seed, logger_kwargs, log, stop_at=None, **arguments):
    """VPG, which in its first try dies in step `stop_at`, where its seed is 1."""
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
    """VPG until it is stopped, with no checkpoint before."""
    import spinup

    settings = dict(num_envs=1, steps_per_epoch=50, epochs=10**6, checkpoint_freq=0, train_v_iters=2)
    spinup.vpg("CartPole-v1", seed=seed, **settings, logger_kwargs={**logger_kwargs, "quiet": True})


def lines(file) -> int:
    """How many lines a file has, 0 where it is not there."""
    return Path(file).read_text().count("\n") if Path(file).exists() else 0
