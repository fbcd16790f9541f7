"""Go on with a run that was ended: python -m spinup.run resume RUN_FOLDER [--epochs M], or spinup.resume(folder)."""

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spinup import mpi
from spinup.checkpoint import newest, read_manifest
from spinup.cli import Parser, convert, parameters
from spinup.config import CHANGEABLE, fill_in, lost, read_config
from spinup.envs import make_envs, saved_wrappers
from spinup.errors import UserError, check_arguments
from spinup.saved import check_size


def resume(
    path: str | Path,
    epochs: int | None = None,
    env_fn: str | Callable | None = None,
    actor_critic: Callable | None = None,
    wrappers: Sequence | None = None,
    ac_kwargs: dict | None = None,
    env_kwargs: dict | None = None,
    on_epoch: Callable | None = None,
    **changes: Any,
):
    """Go on with the run in the folder `path` from its checkpoint, or from its beginning where it has none yet.

    epochs: train for so many in all; default: as many as the run was to have
    env_fn: environment's id or a function that makes it, where the run's own is a function or a "module:Env-v0"
    actor_critic: class of the networks, where they are not those of spinup.nets
    wrappers: those of the environment, where the run's own are not all Gymnasium's
    ac_kwargs, env_kwargs: the entries that config.json can only name
    on_epoch: function that is called after each epoch
    changes: new values of other arguments, as pi_lr=1e-4, of those in spinup.config.CHANGEABLE

    Returns the trained actor-critic. Raises UserError where there is no run, where it has ended, where an argument
    cannot be changed, and where the checkpoint is damaged or belongs to something else.
    """
    folder, config = read_config(path)
    function = find_algorithm(folder, config)
    env_name = str(config.get("env_fn"))
    module = env_name.rpartition(":")[0]
    if env_fn is None and module and module not in sys.modules:
        raise UserError(f"{folder}: its environment '{env_name}' imports {module}; allow it with --env {env_name}")
    networks = str(config.get("actor_critic"))
    if actor_critic is None and not networks.startswith("spinup.nets."):
        raise UserError(f"{folder}: its networks are {networks}; in Python: spinup.resume(folder, actor_critic=...)")
    for name, entries in (("ac_kwargs", ac_kwargs), ("env_kwargs", env_kwargs)):
        for key in entries or ():
            if not lost(config[name].get(key)):
                raise UserError(f"{name}[{key!r}] cannot be changed: config.json holds the value that the run has")
    makers = {"ac_kwargs": actor_critic, "env_kwargs": env_fn}
    config = fill_in(folder, config, {"ac_kwargs": ac_kwargs, "env_kwargs": env_kwargs}, makers)
    arguments = {name: config[name] for name in inspect.signature(function).parameters if name in config}
    for name in changes:
        if name not in arguments or name not in CHANGEABLE:
            may = ", ".join(name for name in CHANGEABLE if name in arguments)
            raise UserError(f"{name} cannot be changed in a run of {function.__name__} that goes on; these can: {may}")
    if on_epoch is None and config.get("on_epoch") is not None and mpi.proc_id() == 0:
        print(f"warning: {folder} had on_epoch={config['on_epoch']!r:.80}; it is not called now", file=sys.stderr)
    arguments["wrappers"] = saved_wrappers(folder, config, wrappers) or None
    arguments |= {**changes, "on_epoch": on_epoch, "env_fn": env_name if env_fn is None else env_fn}
    arguments["epochs"] = config.get("epochs") if epochs is None else epochs
    check_arguments({**arguments, "logger_kwargs": {"resume": True}})
    check_progress(folder, arguments)
    del arguments["actor_critic"]
    if actor_critic is not None:
        arguments["actor_critic"] = actor_critic
    else:
        check_networks(folder, config, arguments["env_fn"], arguments["wrappers"])
    logger_kwargs = {**(config.get("logger_kwargs") or {}), "output_dir": str(folder), "exp_name": config["exp_name"]}
    return function(**{**arguments, "logger_kwargs": {**logger_kwargs, "resume": True}})


def check_progress(folder: Path, arguments: dict) -> None:
    """Raise UserError where the run has no more to do."""
    checkpoint = newest(folder)
    manifest = read_manifest(checkpoint) if checkpoint else {}
    done, stopped = manifest.get("epochs done", 0), manifest.get("stopped")
    if done >= arguments["epochs"]:
        raise UserError(f"the run in {folder} has done epoch {done} already; --epochs {2 * done} would double that")
    if stopped and arguments.get(stopped[0]) == stopped[1]:
        name, value = stopped
        raise UserError(f"the run in {folder} was ended by {name}, {value}; with another --{name}, or None, it goes on")


def check_networks(folder: Path, config: dict, env_fn: str | Callable, wrappers: Sequence | None) -> None:
    """Raise UserError where the networks are larger than what the checkpoint can hold, before any are built."""
    checkpoint = newest(folder)
    envs = make_envs(env_fn, env_kwargs=config["env_kwargs"], wrappers=wrappers)
    envs.close()
    file = checkpoint / "rank0.pt" if checkpoint else None
    check_size(folder / "config.json", config, file, envs.observation_space, envs.action_space)


def find_algorithm(folder: Path, config: dict) -> Callable:
    """The function of the algorithm that config.json names; nothing but ours is imported for it."""
    names = sorted(path.stem for path in (Path(__file__).parent / "algos").glob("[!_]*.py"))
    name = config.get("algorithm")
    if name not in names:
        names = ", ".join(names)
        raise UserError(f"{folder / 'config.json'} names the algorithm {name!r:.80}; it must be one of {names}")
    return getattr(importlib.import_module(f"spinup.algos.{name}"), name)


def main(argv: Sequence[str]) -> None:
    """The command: on as many MPI processes as the run had."""
    parser = Parser("resume", description="Go on with a run that was ended.", allow_abbrev=False)
    parser.add_argument("path", help="folder of a run, as data/cmd_ppo/cmd_ppo_s0")
    parser.add_argument("--epochs", type=int, help="train for so many in all; default: as the run was to")
    parser.add_argument("--env", help="train in this environment; module:Env-v0 imports module")
    parser.add_argument("--wrapper", action="append", help="module:Name, a wrapper of the environment; all of them")
    for name in CHANGEABLE[1:]:
        parser.add_argument(f"--{name}", nargs="?", const="True", metavar="NEW", help=argparse.SUPPRESS)
    parser.epilog = "Arguments that may have a new value, as in --pi_lr 1e-4: " + ", ".join(CHANGEABLE[1:])
    args = parser.parse_args(argv)
    folder, config = read_config(args.path)
    function = find_algorithm(folder, config)
    known = parameters(inspect.signature(function))
    given = {name: text for name in CHANGEABLE[1:] if (text := getattr(args, name)) is not None}
    changes = {name: convert(text, known[name], name) if name in known else text for name, text in given.items()}
    record = config.get("run")
    processes = record.get("processes", 1) if isinstance(record, dict) else 1
    if not isinstance(processes, int) or processes < 1:
        raise UserError(f"{folder / 'config.json'}: processes is {processes!r:.80}; it must be an int from 1")
    mpi.mpi_fork(processes)
    resume(folder, args.epochs, env_fn=args.env, wrappers=args.wrapper, **changes)
