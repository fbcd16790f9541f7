"""Go on with a run that was ended: python -m spinup.run resume RUN_FOLDER [--epochs M], or spinup.resume(folder)."""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spinup import mpi
from spinup.checkpoint import newest, read_manifest
from spinup.cli import Parser
from spinup.config import read_config
from spinup.envs import saved_wrappers
from spinup.errors import UserError, check_arguments


def resume(
    path: str | Path,
    epochs: int | None = None,
    env_fn: str | Callable | None = None,
    actor_critic: Callable | None = None,
    wrappers: Sequence | None = None,
):
    """Go on with the run in the folder `path` from its checkpoint, or from its beginning where it has none yet.

    epochs: train for so many in all; default: as many as the run was to have
    env_fn: environment's id or a function that makes it, where the run's own is a function or a "module:Env-v0"
    actor_critic: class of the networks, where they are not those of spinup.nets
    wrappers: those of the environment, where the run's own are not all Gymnasium's

    Returns the trained actor-critic. Raises UserError where there is no run, where it has done all its epochs, and
    where the checkpoint is damaged or belongs to something else.
    """
    folder, config = read_config(path)
    function = find_algorithm(folder, config)
    arguments = {name: config[name] for name in inspect.signature(function).parameters if name in config}
    env_name = str(config.get("env_fn"))
    module = env_name.rpartition(":")[0]
    if env_fn is None and module and module not in sys.modules:
        raise UserError(f"{folder}: its environment '{env_name}' imports {module}; allow it with --env {env_name}")
    networks = str(config.get("actor_critic"))
    if actor_critic is None and not networks.startswith("spinup.nets."):
        raise UserError(f"{folder}: its networks are {networks}; in Python: spinup.resume(folder, actor_critic=...)")
    arguments["env_fn"] = env_name if env_fn is None else env_fn
    arguments["wrappers"] = saved_wrappers(folder, config, wrappers) or None
    arguments["epochs"] = config.get("epochs") if epochs is None else epochs
    check_arguments(arguments)
    del arguments["actor_critic"]
    if actor_critic is not None:
        arguments["actor_critic"] = actor_critic
    done = epochs_done(folder)
    if done >= arguments["epochs"]:
        raise UserError(f"the run in {folder} has done epoch {done} already; --epochs {2 * done} would double that")
    logger_kwargs = {**(config.get("logger_kwargs") or {}), "output_dir": str(folder), "exp_name": config["exp_name"]}
    return function(**{**arguments, "logger_kwargs": {**logger_kwargs, "resume": True}})


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
    parser.add_argument("--wrapper", action="append", help="module:Name, a wrapper of the environment; all of them")
    args = parser.parse_args(argv)
    folder, config = read_config(args.path)
    record = config.get("run")
    processes = record.get("processes", 1) if isinstance(record, dict) else 1
    if not isinstance(processes, int) or processes < 1:
        raise UserError(f"{folder / 'config.json'}: processes is {processes!r:.80}; it must be an int from 1")
    mpi.mpi_fork(processes)
    resume(folder, args.epochs, env_fn=args.env, wrappers=args.wrapper)
