"""Checkpoints: all that a run needs to go on exactly from where it was, there whole or not at all, read without code.

A run's folder holds checkpoint/STEPS/ with a file of tensors for each MPI process, rank0.pt, rank1.pt, ..., and with
manifest.json, which has their SHA-256 and what they belong to. The folder takes this name when all is on the disk, and
only then is the checkpoint before it removed.
"""

import contextlib
import itertools
import json
import math
import os
import pickle
import random
import shutil
import signal
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinup import __version__, mpi
from spinup.config import allow_import
from spinup.errors import Fault, UserError, first_line
from spinup.files import checksum, replace_file, to_disk, writing
from spinup.logger import EpochLogger
from spinup.nets import describe
from spinup.optim import set_progress

FORMAT = 1  # of the files; another one cannot be read
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
CALLS_BETWEEN_AGREEMENTS = 20  # steps between two rounds in which MPI processes ask each other whether to stop


class RunState:
    """How far a run is, and every part of it that changes as it goes; saved, and brought back.

        run = RunState(config, logger, envs=envs, buffer=buffer, ac=ac, pi_optimizer=pi_optimizer)
        o = run.begin()                                  # the first observations, or those where the checkpoint was
        for epoch in range(run.epoch, epochs + 1):
            for _ in range(steps):
                run.step(num_envs)
                ...
            logger.dump_tabular()
            run.end_epoch()
        run.close()

    config: the algorithm's arguments, with its name as "algorithm"; the logger says whether to go on with a run
    parts: by name, whatever has state_dict and load_state_dict, and arrays or tensors, which are changed in place

    epoch: the number of the one at work, from 1; t: environment steps so far, of all processes; updates: gradient
    steps so far. Ctrl-C, SIGTERM or SIGHUP ends the run after the step at work, with a checkpoint; a second Ctrl-C at
    once.
    """

    def __init__(self, config: Mapping, logger: EpochLogger, **parts: Any):
        self.config, self.logger, self.envs = config, logger, parts["envs"]
        self.parts = {**parts, "logger": logger}
        self.folder = mpi.share(logger.output_dir)
        self.epoch, self.t, self.updates, self.seconds = 1, 0, 0, 0.0
        self.best_return, self.best = -math.inf, None
        self.saved, self.calls, self.wish, self.wished, self.handlers = None, 0, None, 0.0, {}

    def begin(self) -> np.ndarray:
        """Bring all parts to where the checkpoint has them, where there is one; the observations to act on."""
        self.started = time.monotonic()
        self.listen(sys._getframe(1).f_code)
        self.logger.log(describe(self.logger.module))
        checkpoint = mpi.share(newest(self.folder) if self.logger.resume else None)
        if checkpoint is None:
            if self.logger.resume:
                self.logger.begin_table()
                self.logger.write_config()
            self.begin_epoch()
            return self.envs.reset()
        self.restore(checkpoint)
        self.logger.write_config()
        self.begin_epoch()
        self.logger.log(f"Going on at epoch {self.epoch}, step {self.t}")
        return self.envs.o

    def step(self, num_envs: int) -> None:
        """Before each step of the environments: count it in, unless the run is to end here."""
        self.calls += 1
        if mpi.num_procs() == 1:
            wish = self.wish
        else:  # all have to stop at the same step
            wish = int(mpi.mpi_max(self.wish or 0)) if self.calls % CALLS_BETWEEN_AGREEMENTS == 0 else None
        if wish:
            self.stop(wish)
        self.t += num_envs * mpi.num_procs()
        self.logger.progress(self.t)

    def end_epoch(self) -> None:
        """After each row of progress.txt: check the parameters, and save what is due."""
        self.check_parameters()
        last = self.epoch == self.config["epochs"]
        if self.logger.epoch_return > self.best_return:
            self.best_return, self.best = self.logger.epoch_return, copy_of(self.logger.module.state_dict())
        if last or self.epoch % self.config["save_freq"] == 0:
            self.logger.save_state()
            if self.best is not None:
                self.logger.save_tensors("model_best.pt", self.best)
        self.epoch += 1
        due = self.config["checkpoint_freq"] and (last or (self.epoch - 1) % self.config["checkpoint_freq"] == 0)
        if due:
            self.save()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Tell block-sparse layers with a schedule how far the training is."""
        set_progress(self.logger.module, (self.epoch - 1) / self.config["epochs"])

    def time(self) -> float:
        """Seconds at work, those before a checkpoint included."""
        return self.seconds + time.monotonic() - self.started

    def close(self) -> None:
        self.ignore()
        if "update_after" in self.config and self.updates == 0:  # off-policy: too short, or told not to learn
            settings = ", ".join(f"{name} is {self.config[name]}" for name in ("update_after", "replay_ratio"))
            self.logger.warn(f"the run took no gradient step in its {self.t} environment steps: {settings}")
        self.envs.close()
        self.logger.close()

    # ---- stopping

    def listen(self, code) -> None:
        """Take the first signal of STOPS that comes while `code`, the algorithm, is at work as a wish to stop.

        Only Ctrl-C, and not at once, is a second one: `timeout` and Slurm tell both a process and its parent, which
        tells it again.
        """

        def wish(number, frame):
            if self.wish:
                if number == signal.SIGINT and time.monotonic() - self.wished > 1:
                    self.ignore()
                    os.kill(os.getpid(), number)
                return
            inner = frame
            while inner is not None and inner.f_code is not code:
                inner = inner.f_back
            if inner is None:  # the run has ended by an exception
                self.ignore()
                return os.kill(os.getpid(), number)
            self.wish, self.wished = int(number), time.monotonic()
            if not self.logger.quiet:  # print() might be at work, and must not be entered twice
                with contextlib.suppress(OSError):  # as of a terminal that has been closed
                    os.write(1, b"\nStopping after this step; Ctrl-C once more to stop at once\n")

        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.handlers[number] = signal.signal(number, wish)

    def ignore(self) -> None:
        """Give the signals back to whom they belonged."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def stop(self, number: int) -> None:
        """End the run with a checkpoint, as KeyboardInterrupt or SystemExit."""
        self.save()
        self.logger.save_state()
        command = f"python -m spinup.run resume {self.folder}{allow_import(self.config['env_fn'])}"
        self.logger.log(f"To go on: {command}", color="yellow")
        self.close()
        mpi.barrier()  # who ends first has the launcher end the others
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    # ---- what is saved

    def save(self) -> None:
        """Write a checkpoint, then remove the one before."""
        if self.saved == self.t:
            return
        self.logger.check_lock()
        root, rank = self.folder / "checkpoint", mpi.proc_id()
        new = root / f".{self.t}.tmp"
        with writing(new):
            if rank == 0:
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir(parents=True)
            mpi.barrier()
            try:
                file = new / f"rank{rank}.pt"
                torch.save(pack(self.state_dict()), file)
                to_disk(file)
                digests = mpi.allgather(checksum(file))
                if rank == 0:
                    manifest = {**self.facts(), "epochs done": self.epoch - 1, "sha256": digests}
                    replace_file(new / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
                    to_disk(new)
                    os.replace(new, root / str(self.t))
                    to_disk(root)
            except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
                shutil.rmtree(new, ignore_errors=True)
                raise OSError(getattr(error, "errno", None), first_line(error)) from error
        if rank == 0:
            for old in root.iterdir():
                if old.name != str(self.t):
                    shutil.rmtree(old, ignore_errors=True)
        self.saved = self.t

    def state_dict(self) -> dict:
        """All that changes in a run, on this process."""
        counters = ("epoch", "t", "updates", "best_return", "best")
        return {
            "counters": {name: getattr(self, name) for name in counters} | {"seconds": self.time()},
            "parts": {
                name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in self.parts.items()
            },
            "rng": {
                "python": random.getstate(),
                "numpy": np.random.get_state(),
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            },
        }

    def restore(self, checkpoint: Path) -> None:
        """Bring counters, parts and random numbers to what `checkpoint` holds.

        Raises UserError where it is damaged or belongs to another run.
        """
        manifest = read_manifest(checkpoint)
        check_facts(checkpoint, manifest, self.facts())
        state = read_state(checkpoint / f"rank{mpi.proc_id()}.pt", manifest["sha256"][mpi.proc_id()])
        for name, part in self.parts.items():
            saved = state["parts"][name]
            try:
                if hasattr(part, "load_state_dict"):
                    result = part.load_state_dict(saved)
                else:
                    part[...] = saved
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserError(f"{checkpoint}: its {name} does not fit this run's ({first_line(error)})") from error
            if part is self.envs:
                failed = result
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.saved = self.t
        if failed.any():
            self.parts["buffer"].cut(failed)
            self.logger.warn(
                f"{self.envs.name} {np.flatnonzero(failed).tolist()} did not repeat the episode from its seed and "
                "actions: a new one has begun there, and the run will not be bit for bit the uninterrupted one"
            )
        rng = state["rng"]
        random.setstate(rng["python"])
        np.random.set_state(rng["numpy"])
        torch.set_rng_state(rng["torch"])
        if rng["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(rng["cuda"])

    def facts(self) -> dict:
        """What must be the same for a checkpoint to be used."""
        return {
            "format": FORMAT,
            "spinup": __version__,
            "algorithm": self.config["algorithm"],
            "environment": env if isinstance(env := self.config["env_fn"], str) else "a function",
            "observation space": str(self.envs.observation_space),
            "action space": str(self.envs.action_space),
            "num_envs": self.envs.num_envs,
            "processes": mpi.num_procs(),
            "torch": torch.__version__,
        }

    # ---- are the parameters sound?

    def check_parameters(self) -> None:
        """Raise Fault where a tensor of the actor-critic has NaN or infinity, or differs between MPI processes."""
        tensors = {name: x.detach() for name, x in self.logger.module.state_dict().items()}
        for name, x in tensors.items():
            if x.is_floating_point() and not (x < math.inf).all():  # log_alpha may be minus infinity
                raise Fault(f"{name} has NaN or infinity after epoch {self.epoch}, step {self.t}; {self.what_stays()}")
        if mpi.num_procs() > 1:
            sums = mpi.allgather({name: zlib.crc32(x.cpu().contiguous().numpy().data) for name, x in tensors.items()})
            for rank, name in itertools.product(range(1, len(sums)), tensors):
                if sums[rank][name] != sums[0][name]:
                    raise Fault(f"{name} on process {rank} is not that on process 0, after epoch {self.epoch}")

    def what_stays(self) -> str:
        return f"the checkpoint of step {self.saved} stays" if self.saved else "there is no checkpoint yet"


# ---- files


def newest(folder: Path) -> Path | None:
    """The folder of a run's checkpoint; None where it has none that is whole."""
    found = [path.parent for path in Path(folder).glob("checkpoint/*/manifest.json") if path.parent.name.isdecimal()]
    return max(found, key=lambda path: int(path.name), default=None)


def read_manifest(checkpoint: Path) -> dict:
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
        if not all(isinstance(digest, str) for digest in manifest["sha256"]):
            raise TypeError("sha256 is no list of words")
        return manifest
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{checkpoint / 'manifest.json'} is damaged ({first_line(error)})") from error


def check_facts(checkpoint: Path, saved: Mapping, here: Mapping) -> None:
    """Raise UserError for the first difference that matters, and warn of one that may change the last bits."""
    for key, value in here.items():
        if saved.get(key) == value:
            continue
        difference = f"{checkpoint} is of {key} {saved.get(key)}, and this is {value}"
        if key != "torch":
            raise UserError(f"{difference}; it cannot be gone on with here")
        print(f"warning: {difference}: the run may differ from the uninterrupted one in the last bits", file=sys.stderr)


def read_state(file: Path, digest: str) -> dict:
    """What `save` put in a file. Raises UserError where a bit of it has changed, or where it holds more than data."""
    try:
        found = checksum(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    if found != digest:
        raise UserError(f"{file} is damaged: its SHA-256 is not the one in manifest.json")
    try:
        return unpack(torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} holds more than tensors and numbers, and is not loaded") from error
    except Exception as error:  # what a damaged file makes torch raise is anything
        raise UserError(f"{file} is damaged ({first_line(error)})") from error


def pack(x: Any) -> Any:
    """`x` with tensors in place of arrays: the only kind of data that torch loads without running code."""
    if isinstance(x, np.ndarray):
        return {"__array__": torch.from_numpy(x)}
    if isinstance(x, torch.Tensor):
        return x.detach().clone() if x.untyped_storage().nbytes() > x.nbytes else x.detach()  # a view would bring all
    if isinstance(x, Mapping):
        return {key: pack(value) for key, value in x.items()}
    return type(x)(map(pack, x)) if type(x) in (list, tuple) else x


def unpack(x: Any) -> Any:
    """The inverse of `pack`."""
    if isinstance(x, dict):
        return x["__array__"].numpy() if "__array__" in x else {key: unpack(value) for key, value in x.items()}
    return type(x)(map(unpack, x)) if type(x) in (list, tuple) else x


def copy_of(state: Mapping) -> dict:
    """A state_dict that later steps leave as it is."""
    return {name: x.detach().clone() for name, x in state.items()}
