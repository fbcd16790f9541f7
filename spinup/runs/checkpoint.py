"""Checkpoints: all that a run needs to go on exactly from where it was, there whole or not at all, read without code.

A run's folder holds checkpoint/STEPS/ with a file of tensors for each MPI process, rank0.pt, rank1.pt, ..., and with
manifest.json, which has their SHA-256 and what they belong to. The folder takes this name when all is on the disk, and
only then is the checkpoint before it removed: these files alone, and the folder where it has no others.
"""

import atexit
import itertools
import json
import math
import os
import random
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinup import __version__
from spinup.compute import mpi
from spinup.compute.optim import set_progress
from spinup.envs import as_names, bind, evaluation_columns, wrapper_flags
from spinup.errors import Fault, UserError, first_line, printable
from spinup.nets import describe
from spinup.runs.config import CHANGEABLE, allow_import, convert_json
from spinup.runs.files import CHECKPOINT, RunFolder, check_file, checksum, is_checkpoint, read_text, temporary, writing
from spinup.runs.logger import EpochLogger
from spinup.runs.saved import load_tensors, model_file, read_policy
from spinup.runs.terminal import say, say_at_once

FORMAT = 2  # of the files; another one cannot be read, except 1, which does not have the arguments
COUNTERS = ("epoch", "t", "updates", "best_return", "best", "without_best", "stopped")
STOPS = ("stop_at", "patience", "on_epoch")  # arguments that can end a run before its last epoch
LONGEST_MANIFEST = 2**22  # bytes
# Arguments that a checkpoint does not depend on, or that are among its facts in another form.
FREE = {
    *("epochs", "save_freq", "checkpoint_freq", "eval_freq", "num_test_episodes", "vectorization", "threads", "device"),
    *("num_test_envs", "init_from", "on_epoch", "wrappers", "log_info"),
    *("capture", "logger_kwargs", "env_fn", "actor_critic", "algorithm", "num_envs"),
}
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
CALLS_BETWEEN_AGREEMENTS = 20  # steps between two rounds in which MPI processes ask each other whether to stop


class RunState:
    """How far a run is, and every part of it that changes as it goes; saved, and brought back.

        run = RunState(config, logger, envs=envs, buffer=buffer, ac=ac, pi_optimizer=pi_optimizer)
        o = run.begin()                                  # the first observations, or those where the checkpoint was
        for epoch in run.epochs():
            for _ in range(steps):
                run.step(num_envs)
                ...
            logger.dump_tabular()
            run.end_epoch()
        run.close()

    config: the algorithm's arguments, with its name as "algorithm"; the logger says whether to go on with a run
    parts: by name, whatever has state_dict and load_state_dict, and arrays or tensors, which are changed in place

    config's init_from, stop_at, patience and on_epoch are done here, too, and the policy gets policy.action.
    epoch: the number of the one at work, from 1; t: environment steps so far, of all processes; updates: gradient
    steps so far. Ctrl-C, SIGTERM or SIGHUP ends the run after the step at work, with a checkpoint; a second Ctrl-C at
    once.
    """

    def __init__(self, config: Mapping, logger: EpochLogger, **parts: Any):
        self.config, self.logger, self.envs = config, logger, parts["envs"]
        self.parts = {**parts, "logger": logger}
        self.folder = mpi.share(logger.output_dir)
        log_info = as_names(config.get("log_info"))
        logger.means = [*log_info, *(evaluation_columns(log_info) if config.get("eval_freq") else ())]
        self.checkpoints = RunFolder(self.folder).below("checkpoint")
        self.epoch, self.t, self.updates, self.seconds = 1, 0, 0, 0.0
        self.best_return, self.best, self.without_best = -math.inf, None, 0
        self.stopped = None  # which condition has ended the run, and its value
        self.saved, self.calls, self.wish, self.wished, self.handlers = None, 0, None, 0.0, {}
        self.ended = False  # by a signal

    def begin(self) -> np.ndarray:
        """Bring all parts to where the checkpoint has them, where there is one; the observations to act on."""
        self.started = time.monotonic()
        self.listen(sys._getframe(1).f_code)
        self.logger.log(describe(self.logger.module))
        bind(self.logger.module, self.envs, self.envs.max_ep_len)
        if self.envs.max_ep_len < self.envs.own_limit < math.inf:
            self.logger.warn(
                f"max_ep_len {self.envs.max_ep_len} cuts episodes that the environment itself lets last "
                f"{self.envs.own_limit} steps; --max_ep_len {self.envs.own_limit} lets them"
            )
        checkpoint = mpi.share(newest(self.folder) if self.logger.resume else None)
        if checkpoint is None:
            if self.logger.resume:
                self.logger.begin_table()
                self.logger.write_config()
            self.warm_start()
            self.begin_epoch()
            return self.envs.reset()
        self.restore(checkpoint)
        self.logger.write_config()
        self.begin_epoch()
        self.logger.log(f"Going on at epoch {self.epoch}, step {self.t}")
        return self.envs.o

    def epochs(self) -> Iterator[int]:
        """The numbers of the epochs to come: from 1 unless the run goes on, to `epochs` unless it is to end before."""
        while self.epoch <= self.config["epochs"] and not self.stopped:
            yield self.epoch

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
        """After each row of progress.txt: check the parameters, save what is due, and see whether the run is to end."""
        self.check_parameters()
        if self.logger.epoch_return > self.best_return:
            self.best_return, self.best = self.logger.epoch_return, copy_of(self.logger.module.state_dict())
            self.without_best = 0
        elif not math.isnan(self.logger.epoch_return):
            self.without_best += 1
        self.stopped = self.reason_to_stop()
        last = self.epoch == self.config["epochs"] or bool(self.stopped)
        if last or self.epoch % self.config["save_freq"] == 0:
            self.logger.save_state()
            if self.best is not None:
                self.logger.save_tensors("model_best.pt", self.best)
        self.epoch += 1
        due = self.config["checkpoint_freq"] and (last or (self.epoch - 1) % self.config["checkpoint_freq"] == 0)
        if due:
            self.save()
        self.begin_epoch()

    def reason_to_stop(self) -> tuple[str, Any] | None:
        """The condition that is fulfilled, stop_at, patience or on_epoch, with its value; None for none."""
        stop_at, patience, on_epoch = (self.config.get(name) for name in STOPS)
        answer = None
        if on_epoch:  # on one process, for all
            answer = mpi.share(on_epoch(dict(self.logger.last_row)) if mpi.proc_id() == 0 else None)
        ret, epoch = self.logger.epoch_return, f"Ending after epoch {self.epoch}"
        if stop_at is not None and ret >= stop_at:
            self.logger.log(f"{epoch}: its mean return, {ret:g}, has reached stop_at, {stop_at:g}")
            return "stop_at", stop_at
        if patience is not None and self.without_best >= patience:
            self.logger.log(f"{epoch}: {patience} epochs without a better mean return than {self.best_return:g}")
            return "patience", patience
        if isinstance(answer, bool | np.bool_) and answer:
            self.logger.log(f"{epoch}: on_epoch said so")
            return "on_epoch", convert_json(on_epoch)
        return None

    def warm_start(self) -> None:
        """Take networks and normalizers from the run that init_from names."""
        if (source := self.config.get("init_from")) is None:
            return
        path = Path(source).expanduser()
        file = path if path.suffix == ".pt" else model_file(path)
        ac, skipped = self.parts["ac"], () if self.config.get("alpha") == "auto" else ("temperature.",)
        take_over(ac, read_policy(file), f"init_from {source}", skipped)
        if "q_targ" in self.parts:
            q_targ = self.parts["q_targ"]  # of all critics, or of the first
            q_targ.load_state_dict((ac.critic if type(q_targ) is type(ac.critic) else ac.critic[0]).state_dict())
        if "pi_targ" in self.parts:
            self.parts["pi_targ"].load_state_dict(ac.actor.state_dict())
        self.logger.log(f"Networks and normalizers are those of {file}")

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
        """Take the first of SIGNALS that comes while `code`, the algorithm, is at work as a wish to stop.

        Only Ctrl-C, and not at once, is a second one: `timeout` and Slurm tell both a process and its parent, which
        tells it again. So SIGTERM and SIGHUP stay ours after the run that they ended, while the process ends.
        """

        def wish(number, frame):
            if self.wish:
                since_then = time.monotonic() - self.wished
                if since_then > 1 if number == signal.SIGINT else self.ended and since_then > 10:
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
            if not self.logger.quiet:
                say_at_once("\nStopping after this step; Ctrl-C once more to stop at once\n")

        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
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
        command += wrapper_flags(self.config.get("wrappers"))
        self.logger.log(f"To go on: {command}", color="yellow")
        kept = {number: self.handlers.pop(number) for number in SIGNALS[1:] if number in self.handlers}
        self.close()
        self.handlers, self.ended, self.wished = kept, True, time.monotonic()
        ignore_at_exit()
        mpi.barrier()  # who ends first has the launcher end the others
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    # ---- what is saved

    def save(self) -> None:
        """Write a checkpoint, then remove the one before."""
        if self.saved == self.t:
            return
        root, rank = self.checkpoints, mpi.proc_id()
        self.logger.check_lock()
        new = root.below(mpi.share(temporary(str(self.t))))
        with writing(root.path / str(self.t)):
            if rank == 0:
                root.make()
                new.make()
            mpi.barrier()
            try:
                self.write_to(new)
                if rank == 0:
                    root.rename(new.path.name, str(self.t))
                    root.sync()
            except BaseException as error:
                root.remove_folder(new.path.name, CHECKPOINT)
                if not isinstance(error, OSError | RuntimeError):  # torch tells of a full disk by the latter
                    raise
                raise OSError(getattr(error, "errno", None), first_line(error)) from error
        if rank == 0:
            for name in filter(is_checkpoint, root.names()):
                whole = root.below(name).size("manifest.json") is not None
                if name != str(self.t) and (whole or name.startswith(".")):
                    root.remove_folder(name, CHECKPOINT)
        self.saved = self.t

    def write_to(self, folder: RunFolder) -> None:
        """Put this process's file in a folder, and the manifest where this is the first process."""
        rank = mpi.proc_id()
        with folder.create(f"rank{rank}.pt") as file:
            torch.save(pack(self.state_dict()), file)
            file.flush()
            os.fsync(file.fileno())
        digests = mpi.allgather(checksum(folder.path / f"rank{rank}.pt"))
        if rank == 0:
            manifest = {**self.facts(), "epochs done": self.epoch - 1, "sha256": digests}
            manifest |= {"stopped": self.stopped} if self.stopped else {}
            folder.replace("manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
            folder.sync()

    def state_dict(self) -> dict:
        """All that changes in a run, on this process."""
        return {
            "counters": {name: getattr(self, name) for name in COUNTERS} | {"seconds": self.time()},
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
        if len(manifest["sha256"]) != mpi.num_procs():
            raise UserError(f"{checkpoint / 'manifest.json'} is damaged (sha256 is of {len(manifest['sha256'])} files)")
        state = read_state(checkpoint / f"rank{mpi.proc_id()}.pt", manifest["sha256"][mpi.proc_id()])
        for name, part in self.parts.items():
            saved = state["parts"][name]
            try:
                if hasattr(part, "load_state_dict"):
                    result = part.load_state_dict(saved)
                else:
                    part[...] = saved
            except (RuntimeError, ValueError, KeyError, IndexError) as error:
                raise UserError(f"{checkpoint}: its {name} does not fit this run's ({first_line(error)})") from error
            if part is self.envs:
                failed = result
        for name in (*COUNTERS, "seconds"):
            if name in state["counters"]:  # older checkpoints have fewer
                setattr(self, name, state["counters"][name])
        if self.stopped and convert_json(self.config.get(self.stopped[0])) != self.stopped[1]:
            self.stopped = None  # by a condition that has been changed
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
        arguments = {name: value for name, value in self.config.items() if name not in FREE}
        for name in ("env_kwargs", "ac_kwargs"):  # functions and classes have no form in which they could be compared
            arguments[name] = {k: x for k, x in (self.config.get(name) or {}).items() if not callable(x)}
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
            "arguments": convert_json(arguments),
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
        manifest = json.loads(read_text(checkpoint / "manifest.json", LONGEST_MANIFEST))
        digests = manifest["sha256"]
        if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
            raise TypeError("sha256 is not a list of words")
        if not isinstance(manifest["epochs done"], int):
            raise TypeError("epochs done is not a number")
        return manifest
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{checkpoint / 'manifest.json'} is damaged ({first_line(error)})") from error


def check_facts(checkpoint: Path, saved: Mapping, here: Mapping) -> None:
    """Raise UserError for the first difference that matters, and warn of those that the run can live with."""
    if saved.get("format") == 1 and "arguments" not in saved:
        saved = {**saved, "format": FORMAT, "arguments": here["arguments"]}
    arguments = saved.get("arguments")
    arguments = arguments if isinstance(arguments, dict) else {}
    pairs = [(key, saved.get(key), value) for key, value in here.items() if key != "arguments"]
    pairs += [(key, arguments.get(key), value) for key, value in here["arguments"].items()]
    for key, before, now in pairs:
        if before == now:
            continue
        difference = f"{checkpoint} is of {key} {before}, and this is {now}"
        if key not in ("torch", *CHANGEABLE):
            raise UserError(f"{difference}; it can't be resumed here")
        rest = "the run continues with this value" if key in CHANGEABLE else "the last bits may differ from then on"
        if mpi.proc_id() == 0:
            say(f"warning: {printable(difference)}: {rest}", error=True)


def read_state(file: Path, digest: str) -> dict:
    """What `save` put in a file. Raises UserError where a bit of it has changed, or where it holds more than data."""
    try:
        check_file(file)
        found = checksum(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    if found != digest:
        raise UserError(f"{file} is damaged: its SHA-256 is not the one in manifest.json")
    try:
        return unpack(load_tensors(file, checked=True))
    except RecursionError as error:
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


def unpack(x: Any, done: dict | None = None) -> Any:
    """The inverse of `pack`; what stands in many places is unpacked once, as lists of lists of it could go on long."""
    done = {} if done is None else done
    if not isinstance(x, dict | list | tuple):
        return x
    if id(x) not in done:
        if isinstance(x, dict):
            y = x["__array__"].numpy() if "__array__" in x else {key: unpack(v, done) for key, v in x.items()}
        else:
            y = type(x)(unpack(v, done) for v in x)
        done[id(x)] = y
    return done[id(x)]


def take_over(module: torch.nn.Module, state: Mapping, source: str, skipped: tuple[str, ...] = ()) -> None:
    """Load a state_dict into a module. Raises UserError for the first entry that is not in both, or has two shapes.

    skipped: how the names of entries begin that the module keeps
    """
    ours = {name: x for name, x in module.state_dict().items() if not name.startswith(skipped)}
    theirs = {name: x for name, x in state.items() if not name.startswith(skipped)}
    alike = "; networks and normalizers must be built alike (ac_kwargs, normalize_obs, the environment's spaces)"
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            who = "has not, as this run" if name not in theirs else "has, and this run has not,"
            raise UserError(f"{source} {who} {name}{alike}")
        if ours[name].shape != theirs[name].shape:
            shapes = f"{tuple(theirs[name].shape)}, and in this run {tuple(ours[name].shape)}"
            raise UserError(f"{source}: {name} has the shape {shapes}{alike}")
    try:
        module.load_state_dict({**module.state_dict(), **theirs})
    except RuntimeError as error:
        raise UserError(f"{source} does not fit this run's networks ({first_line(error)})") from error


def copy_of(state: Mapping) -> dict:
    """A state_dict that later steps leave as it is."""
    return {name: x.detach().clone() for name, x in state.items()}


def ignore_at_exit() -> None:
    """Have SIGTERM and SIGHUP ignored while the interpreter ends, when it would give them their default, death."""
    for number in SIGNALS[1:]:
        atexit.register(signal.signal, number, signal.SIG_IGN)
