"""Checkpoints: everything a run needs to continue exactly. Written atomically; loading one runs no code.

A run's folder contains checkpoint/STEPS/, with one file of tensors per MPI process (rank0.pt, rank1.pt, ...) and
manifest.json, which holds their SHA-256 and identifies the run. The folder gets its final name once everything is on
disk, and only then is the previous checkpoint removed: its files, and the folder if it contains no others.
"""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spinup import __version__
from spinup.compute import mpi
from spinup.errors import Fault, UserError, first_line, printable
from spinup.runs.config import convert_json
from spinup.runs.saved import load_tensors
from spinup.system.files import (
    CHECKPOINT_FILES,
    RunFolder,
    check_file,
    checksum,
    is_checkpoint,
    read_text,
    temporary_name,
    write_errors,
)
from spinup.system.terminal import say

if TYPE_CHECKING:
    from spinup.algorithm import Algorithm
    from spinup.runs.run import Run

FORMAT = 2  # version of the files
COUNTERS = ("epoch", "t", "updates", "best_return", "best", "without_best", "stopped")
LONGEST_MANIFEST = 2**22  # bytes
# Arguments that a checkpoint does not depend on, or that its fingerprint holds in another form.
NOT_COMPARED = {
    *("epochs", "save_freq", "checkpoint_freq", "eval_freq", "num_test_episodes", "vectorization", "threads", "device"),
    *("num_test_envs", "init_from", "on_epoch", "wrappers", "log_info"),
    *("capture", "logger_kwargs", "env_fn", "actor_critic", "algorithm", "num_envs"),
}


# ---- writing


def write(run: "Run") -> None:
    """Write a checkpoint, then remove the previous one."""
    root, rank, step = RunFolder(run.folder).subfolder("checkpoint"), mpi.proc_id(), str(run.t)
    state = pack(state_of(run))  # an error in it isn't the disk's
    new = root.subfolder(mpi.share(temporary_name(step)))
    with write_errors(root.path / step):
        if rank == 0:
            root.make()
            new.make()
        mpi.barrier()
        try:
            write_to(run, new, state)
            if rank == 0:
                root.rename(new.path.name, step)
                root.sync()
        except BaseException as error:
            root.remove_folder(new.path.name, CHECKPOINT_FILES)
            if not isinstance(error, OSError | RuntimeError):  # torch reports a full disk as a RuntimeError
                raise
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError) and cause.strerror:
                raise OSError(cause.errno, cause.strerror) from error
            raise OSError(None, first_line(error)) from error
    if rank == 0:
        for name in filter(is_checkpoint, root.names()):
            complete = root.subfolder(name).size("manifest.json") is not None
            if name != step and (complete or name.startswith(".")):
                root.remove_folder(name, CHECKPOINT_FILES)


def write_to(run: "Run", folder: RunFolder, state: dict) -> None:
    """Write this process's file and, on the first process, the manifest."""
    rank = mpi.proc_id()
    with folder.create(f"rank{rank}.pt") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    digests = mpi.allgather(checksum(folder.path / f"rank{rank}.pt"))
    if rank == 0:
        manifest = {**fingerprint(run), "epochs done": run.epoch - 1, "sha256": digests}
        manifest |= {"stopped": run.stopped} if run.stopped else {}
        folder.replace("manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
        folder.sync()


def state_of(run: "Run") -> dict:
    """Everything that changes during a run, on this process."""
    return {
        "counters": {name: getattr(run, name) for name in COUNTERS} | {"seconds": run.time()},
        "parts": {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in run.parts.items()},
        "rng": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        },
    }


def fingerprint(run: "Run") -> dict:
    """What must be equal for a run to use a checkpoint."""
    arguments = {name: value for name, value in run.config.items() if name not in NOT_COMPARED}
    for name in ("env_kwargs", "ac_kwargs"):  # functions and classes can't be compared
        arguments[name] = {k: x for k, x in (run.config.get(name) or {}).items() if not callable(x)}
    return {
        "format": FORMAT,
        "spinup": __version__,
        "algorithm": run.algorithm.name,
        "environment": env if isinstance(env := run.config["env_fn"], str) else "a function",
        "observation space": str(run.envs.observation_space),
        "action space": str(run.envs.action_space),
        "num_envs": run.num_envs,
        "processes": run.procs,
        "torch": torch.__version__,
        "arguments": convert_json(arguments),
    }


# ---- reading


def read(run: "Run", checkpoint: Path) -> np.ndarray:
    """Restore a run's counters and parts, and the random number generators, from a checkpoint.

    Returns which environments could not replay their episodes, (N,). Raises UserError if the checkpoint is damaged or
    belongs to another run.
    """
    manifest = read_manifest(checkpoint)
    check_fingerprint(checkpoint, manifest, fingerprint(run), run.algorithm)
    if len(manifest["sha256"]) != run.procs:
        count = len(manifest["sha256"])
        raise UserError(f"{checkpoint / 'manifest.json'} is damaged (it has the SHA-256 of {count} files)")
    state = read_state(checkpoint / f"rank{mpi.proc_id()}.pt", manifest["sha256"][mpi.proc_id()])
    failed = np.zeros(run.num_envs, bool)
    for name, part in run.parts.items():
        saved = state["parts"][name]
        try:
            if hasattr(part, "load_state_dict"):
                result = part.load_state_dict(saved)
            else:
                part[...] = saved
        except (Fault, UserError):
            raise
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"{checkpoint}: its {name} does not match this run's ({first_line(error)})") from error
        if part is run.envs:
            failed = result
    for name in (*COUNTERS, "seconds"):
        if name in state["counters"]:  # older checkpoints lack some
            setattr(run, name, state["counters"][name])
    rng = state["rng"]
    random.setstate(rng["python"])
    np.random.set_state(rng["numpy"])
    torch.set_rng_state(rng["torch"])
    if rng["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(rng["cuda"][: torch.cuda.device_count()])
    return failed


def read_manifest(checkpoint: Path) -> dict:
    try:
        manifest = json.loads(read_text(checkpoint / "manifest.json", LONGEST_MANIFEST))
        digests = manifest["sha256"]
        if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
            raise TypeError("sha256 is not a list of strings")
        if not isinstance(manifest["epochs done"], int):
            raise TypeError("epochs done is not a number")
        return manifest
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{checkpoint / 'manifest.json'} is damaged ({first_line(error)})") from error


def check_fingerprint(checkpoint: Path, saved: Mapping, current: Mapping, algorithm: "Algorithm") -> None:
    """Raise UserError for the first difference that prevents resuming; warn about differences that don't.

    An argument that a checkpoint lacks is newer than the checkpoint, whose run behaved as by the default.
    """
    arguments = saved.get("arguments")
    arguments = arguments if isinstance(arguments, dict) else {}
    pairs = [(key, saved.get(key), value) for key, value in current.items() if key != "arguments"]
    renamed = arguments.keys() - current["arguments"].keys()  # or damaged: then a missing argument had an unknown value
    absent = {} if renamed else convert_json(algorithm.defaults)
    pairs += [(key, arguments.get(key, absent.get(key)), value) for key, value in current["arguments"].items()]
    for key, before, now in pairs:
        if before == now:
            continue
        difference = f"{checkpoint} has {key} {before}, this run has {now}"
        if key not in ("torch", *algorithm.changeable):
            raise UserError(f"{difference}; it can't be resumed here")
        effect = (
            f"the run continues with {now}" if key in algorithm.changeable else "results may differ in the last bits"
        )
        if mpi.proc_id() == 0:
            say(f"warning: {printable(difference)}: {effect}", error=True)


def read_state(file: Path, digest: str) -> dict:
    """The state in a file. Raises UserError if any bit has changed, or if it contains more than data."""
    try:
        check_file(file)
        found = checksum(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    if found != digest:
        raise UserError(f"{file} is damaged: its SHA-256 is not the one in manifest.json")
    try:
        return unpack(load_tensors(file, digest_checked=True))
    except RecursionError as error:
        raise UserError(f"{file} is damaged ({first_line(error)})") from error


def pack(x: Any) -> Any:
    """`x` with arrays replaced by tensors, which torch can load without running code."""
    if isinstance(x, np.ndarray):
        return {"__array__": torch.from_numpy(x)}
    if isinstance(x, torch.Tensor):
        is_view = x.untyped_storage().nbytes() > x.nbytes  # torch.save would write all of its storage
        return x.detach().clone() if is_view else x.detach()
    if isinstance(x, Mapping):
        return {key: pack(value) for key, value in x.items()}
    return type(x)(map(pack, x)) if type(x) in (list, tuple) else x


def unpack(x: Any, done: dict | None = None) -> Any:
    """The inverse of `pack`. Shared objects are unpacked once; otherwise nested sharing could take exponential time."""
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


def clone_state(state: Mapping) -> dict:
    """A copy of a state_dict that later steps don't change."""
    return {name: x.detach().clone() for name, x in state.items()}
