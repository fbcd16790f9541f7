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
    note(seed, logger_kwargs, f"{log}.finished")


def lines(file) -> int:
    """How many lines a file has, 0 where it is not there."""
    return Path(file).read_text().count("\n") if Path(file).exists() else 0
