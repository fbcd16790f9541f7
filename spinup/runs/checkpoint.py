"""Checkpoints: all that a run needs to go on exactly from where it was, there whole or not at all, read without code.

A run's folder holds checkpoint/STEPS/ with a file of tensors for each MPI process, rank0.pt, rank1.pt, ..., and with
manifest.json, which has their SHA-256 and what they belong to. The folder takes this name when all is on the disk, and
only then is the checkpoint before it removed: these files alone, and the folder where it has no others.
"""

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spinup import __version__
from spinup.compute import mpi
from spinup.errors import UserError, first_line, printable
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
    from spinup.runs.run import Run

FORMAT = 2  # of the files; another one cannot be read, except 1, which does not have the arguments
COUNTERS = ("epoch", "t", "updates", "best_return", "best", "without_best", "stopped")
LONGEST_MANIFEST = 2**22  # bytes
# Arguments that a checkpoint does not depend on, or that are among its facts in another form.
FREE = {
    *("epochs", "save_freq", "checkpoint_freq", "eval_freq", "num_test_episodes", "vectorization", "threads", "device"),
    *("num_test_envs", "init_from", "on_epoch", "wrappers", "log_info"),
    *("capture", "logger_kwargs", "env_fn", "actor_critic", "algorithm", "num_envs"),
}


# ---- writing


def write(run: "Run") -> None:
    """Write a checkpoint, then remove the one before."""
    root, rank, step = RunFolder(run.folder).subfolder("checkpoint"), mpi.proc_id(), str(run.t)
    new = root.subfolder(mpi.share(temporary_name(step)))
    with write_errors(root.path / step):
        if rank == 0:
            root.make()
            new.make()
        mpi.barrier()
        try:
            write_to(run, new)
            if rank == 0:
                root.rename(new.path.name, step)
                root.sync()
        except BaseException as error:
            root.remove_folder(new.path.name, CHECKPOINT_FILES)
            if not isinstance(error, OSError | RuntimeError):  # torch reports a full disk by the latter
                raise
            raise OSError(getattr(error, "errno", None), first_line(error)) from error
    if rank == 0:
        for name in filter(is_checkpoint, root.names()):
            whole = root.subfolder(name).size("manifest.json") is not None
            if name != step and (whole or name.startswith(".")):
                root.remove_folder(name, CHECKPOINT_FILES)


def write_to(run: "Run", folder: RunFolder) -> None:
    """Put this process's file in a folder and, on the first process, the manifest."""
    rank = mpi.proc_id()
    with folder.create(f"rank{rank}.pt") as file:
        torch.save(pack(state_of(run)), file)
        file.flush()
        os.fsync(file.fileno())
    digests = mpi.allgather(checksum(folder.path / f"rank{rank}.pt"))
    if rank == 0:
        manifest = {**facts(run), "epochs done": run.epoch - 1, "sha256": digests}
        manifest |= {"stopped": run.stopped} if run.stopped else {}
        folder.replace("manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
        folder.sync()


def state_of(run: "Run") -> dict:
    """All that changes in a run, on this process."""
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


def facts(run: "Run") -> dict:
    """What must be the same for a checkpoint to be used."""
    arguments = {name: value for name, value in run.config.items() if name not in FREE}
    for name in ("env_kwargs", "ac_kwargs"):  # functions and classes cannot be compared
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
    """Bring a run's counters and parts, and the random numbers, to what `checkpoint` holds.

    Returns which environments could not repeat their episodes, (N,). Raises UserError if the checkpoint is damaged or
    belongs to another run.
    """
    manifest = read_manifest(checkpoint)
    check_facts(checkpoint, manifest, facts(run), run.algorithm.changeable)
    if len(manifest["sha256"]) != run.procs:
        raise UserError(f"{checkpoint / 'manifest.json'} is damaged (sha256 is of {len(manifest['sha256'])} files)")
    state = read_state(checkpoint / f"rank{mpi.proc_id()}.pt", manifest["sha256"][mpi.proc_id()])
    failed = np.zeros(run.num_envs, bool)
    for name, part in run.parts.items():
        saved = state["parts"][name]
        try:
            if hasattr(part, "load_state_dict"):
                result = part.load_state_dict(saved)
            else:
                part[...] = saved
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"{checkpoint}: its {name} does not fit this run's ({first_line(error)})") from error
        if part is run.envs:
            failed = result
    for name in (*COUNTERS, "seconds"):
        if name in state["counters"]:  # older checkpoints have fewer
            setattr(run, name, state["counters"][name])
    rng = state["rng"]
    random.setstate(rng["python"])
    np.random.set_state(rng["numpy"])
    torch.set_rng_state(rng["torch"])
    if rng["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(rng["cuda"])
    return failed


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


def check_facts(checkpoint: Path, saved: Mapping, here: Mapping, changeable: Sequence[str]) -> None:
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
        if key not in ("torch", *changeable):
            raise UserError(f"{difference}; it can't be resumed here")
        rest = "the run continues with this value" if key in changeable else "the last bits may differ from then on"
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


def copy_of(state: Mapping) -> dict:
    """A state_dict that later steps leave as it is."""
    return {name: x.detach().clone() for name, x in state.items()}
