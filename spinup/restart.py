"""Go on with a run that was ended: python -m spinup.run resume RUN_FOLDER [--epochs M], or spinup.resume(folder)."""

import importlib
import inspect
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spinup import mpi
from spinup.checkpoint import newest, read_manifest
from spinup.cli import Parser
from spinup.config import imported_by, read_config
from spinup.errors import UserError, check_arguments, printable
from spinup.logger import Logger


def resume(
    path: str | Path,
    epochs: int | None = None,
    env_fn: str | Callable | None = None,
    actor_critic: Callable | None = None,
):
    """Go on with the run in the folder `path` from its checkpoint, or from its beginning where it has none yet.

    epochs: train for so many in all; default: as many as the run was to have
    env_fn: environment's id or a function that makes it, where the run's own is a function or a "module:Env-v0"
    actor_critic: class of the networks, where they are not those of spinup.nets

    Returns the trained actor-critic. Raises UserError where there is no run, where it has done all its epochs, and
    where the checkpoint is damaged or belongs to something else.
    """
    folder, config = read_config(path)
    function = find_algorithm(folder, config)
    arguments = {name: config[name] for name in inspect.signature(function).parameters if name in config}
    env_name = str(config.get("env_fn"))
    module = imported_by(env_name)
    if env_fn is None and module and module not in sys.modules:
        raise UserError(f"{folder}: its environment '{env_name}' imports {module}; allow it with --env {env_name}")
    networks = str(config.get("actor_critic"))
    if actor_critic is None and not networks.startswith("spinup.nets."):
        raise UserError(f"{folder}: its networks are {networks}; in Python: spinup.resume(folder, actor_critic=...)")
    arguments["env_fn"] = env_name if env_fn is None else env_fn
    arguments["epochs"] = config.get("epochs") if epochs is None else epochs
    check_arguments(arguments)
    del arguments["actor_critic"]
    if actor_critic is not None:
        arguments["actor_critic"] = actor_critic
    logger_kwargs = only_known(folder, "logger_kwargs", config.get("logger_kwargs") or {}, logger_arguments())
    network_kwargs = network_arguments(function, actor_critic)
    if network_kwargs is not None:
        only_known(folder, "ac_kwargs", config["ac_kwargs"], network_kwargs)
    done = epochs_done(folder)
    if done >= arguments["epochs"]:
        raise UserError(f"the run in {folder} has done epoch {done} already; --epochs {2 * done} would double that")
    tell_origin(folder, config, arguments)
    logger_kwargs |= {"output_dir": str(folder), "exp_name": str(config.get("exp_name", folder.name)), "resume": True}
    return function(**{**arguments, "logger_kwargs": logger_kwargs})


def only_known(folder: Path, name: str, entries: Any, known: Mapping[str, type | None]) -> dict:
    """A copy of a dict in config.json. Raises UserError for an entry that is not known, or not of its type."""
    file = folder / "config.json"
    if not isinstance(entries, dict):
        raise UserError(f"{file}: {name} is {entries!r:.80}; it must be a dict")
    for key, value in entries.items():
        if key not in known:
            raise UserError(f"{file}: {name} has the unknown entry {key!r:.80}; it may have {', '.join(known)}")
        if known[key] is not None and not isinstance(value, known[key]):
            raise UserError(f"{file}: {name}[{key!r}] is {value!r:.80}; it must be a {known[key].__name__}")
    return dict(entries)


def logger_arguments() -> dict[str, type | None]:
    """What a Logger takes, and of which type where that is plain; its folder and name are given anew."""
    parameters = inspect.signature(Logger).parameters.values()
    return {p.name: type(p.default) if isinstance(p.default, bool | str) else None for p in parameters}


def network_arguments(function: Callable, actor_critic: Callable | None) -> dict[str, None] | None:
    """What an algorithm's networks take beside the spaces and its own arguments; None where they take anything."""
    own = inspect.signature(function).parameters
    networks = inspect.signature(actor_critic or own["actor_critic"].default).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in networks.values()):
        return None
    return {name: None for name in list(networks)[2:] if name not in own}


def tell_origin(folder: Path, config: dict, arguments: dict) -> None:
    """Where the folder is another user's or another machine's, say what is about to be done with it."""
    record = config.get("run")
    host = record.get("host") if isinstance(record, dict) else None
    origin = []
    if host != platform.node():
        origin.append(f"was made on another machine, {host}" if host else "does not say on which machine it was made")
    if hasattr(os, "getuid") and {os.stat(path).st_uid for path in (folder, folder / "config.json")} != {os.getuid()}:
        origin.append("belongs to another user")
    if origin and mpi.proc_id() == 0:
        env_kwargs = f" with {config['env_kwargs']}" if config["env_kwargs"] else ""
        what = f"training {config['algorithm']} on {arguments['env_fn']}{env_kwargs}, to epoch {arguments['epochs']}"
        print(printable(f"note: {folder} {' and '.join(origin)}: {what}"), file=sys.stderr)


def find_algorithm(folder: Path, config: dict) -> Callable:
    """The function of the algorithm that config.json names; nothing but ours is imported for it."""
    names = sorted(path.stem for path in (Path(__file__).parent / "algos").glob("[!_]*.py"))
    name = config.get("algorithm")
    if name not in names:
        names = ", ".join(names)
        raise UserError(f"{folder / 'config.json'} names the algorithm {name!r:.80}; it must be one of {names}")
    return getattr(importlib.import_module(f"spinup.algos.{name}"), name)


def epochs_done(folder: Path) -> int:
    """Epochs that the checkpoint of a run has behind it; 0 without one."""
    checkpoint = newest(folder)
    return read_manifest(checkpoint).get("epochs done", 0) if checkpoint else 0


def main(argv: Sequence[str]) -> None:
    """The command: on as many MPI processes as the run had."""
    parser = Parser("resume", description="Go on with a run that was ended.", allow_abbrev=False)
    parser.add_argument("path", help="folder of a run, as data/cmd_ppo/cmd_ppo_s0")
    parser.add_argument("--epochs", type=int, help="train for so many in all; default: as the run was to")
    parser.add_argument("--env", help="train in this environment; module:Env-v0 imports module")
    args = parser.parse_args(argv)
    folder, config = read_config(args.path)
    record = config.get("run")
    processes = record.get("processes", 1) if isinstance(record, dict) else 1
    if not isinstance(processes, int) or processes < 1:
        raise UserError(f"{folder / 'config.json'}: processes is {processes!r:.80}; it must be an int from 1")
    if not mpi.launched() and processes > 4 * (os.cpu_count() or 1):  # a stranger's folder could ask for any number
        how = f"mpiexec -n {processes} python -m spinup.run resume ..."
        raise UserError(f"{folder} asks for {processes} processes, many more than there are cores; start it by {how}")
    mpi.mpi_fork(processes)
    resume(folder, args.epochs, env_fn=args.env)
