"""Resume an unfinished run: python -m spinup.run resume RUN_FOLDER [--epochs M], or spinup.resume(folder)."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spinup import __version__
from spinup.algorithm import Algorithm, files, find
from spinup.arguments import check_arguments, check_entries
from spinup.compute import mpi
from spinup.envs import as_wrappers, make_envs, saved_wrappers
from spinup.envs.wrapping import WRAPPER_SPEC
from spinup.errors import UserError, printable
from spinup.experiments import parsers
from spinup.experiments.cli import convert, parameters
from spinup.nets.protocol import known_ac_kwargs
from spinup.runs.checkpoint import read_manifest
from spinup.runs.config import check_env_name, fill_in, find_name_only, read_config
from spinup.runs.logger import logger_arguments
from spinup.runs.saved import MOST_PROCESSES, check_process_count, check_size
from spinup.runs.sinks import NAMED
from spinup.system.files import newest_checkpoint
from spinup.system.terminal import say


def resume(
    path: str | Path,
    epochs: int | None = None,
    env_fn: str | Callable | None = None,
    actor_critic: Callable | None = None,
    wrappers: Sequence | None = None,
    ac_kwargs: dict | None = None,
    env_kwargs: dict | None = None,
    on_epoch: Callable | None = None,
    sinks: Sequence = (),
    **changes: Any,
):
    """Continue the run in the folder `path` from its checkpoint, or from the beginning if it has none yet.

    epochs: total number of epochs; default: the run's own
    env_fn: the environment's id or a function that makes it, required if the run's is a function or "module:Env-v0"
    actor_critic: the networks' class, required if it isn't from spinup.nets
    wrappers: all of the environment's wrappers, required if one of them isn't Gymnasium's or spinup's
    ac_kwargs, env_kwargs: the entries of which config.json contains only the name
    on_epoch: function that is called after each epoch
    sinks: objects that get rows, in addition to the run's named sinks
    changes: new values of other arguments, such as pi_lr=1e-4; spinup.arguments marks those allowed as CHANGEABLE

    Returns the trained actor-critic. Raises UserError if there is no run, the run is finished, an argument can't be
    changed, or the checkpoint is damaged or belongs to something else.
    """
    folder, config = read_config(path)
    algorithm = find_algorithm(folder, config)
    check_version(folder, config)
    check_imports(folder, config, env_fn, actor_critic)
    makers = {"ac_kwargs": actor_critic, "env_kwargs": env_fn}
    config = complete(folder, config, {"ac_kwargs": ac_kwargs, "env_kwargs": env_kwargs}, makers)
    arguments = {name: x for name, x in config.items() if name in algorithm.arguments}
    check_changes(algorithm, changes)
    if on_epoch is None and config.get("on_epoch") is not None and mpi.proc_id() == 0:
        say(printable(f"warning: {folder} had on_epoch={config['on_epoch']!r:.80}; it is not called now"), error=True)
    check_wrappers(folder, config, wrappers)
    arguments["wrappers"] = saved_wrappers(folder, config, wrappers) or None
    arguments |= {**changes, "on_epoch": on_epoch, "env_fn": str(config.get("env_fn")) if env_fn is None else env_fn}
    arguments["epochs"] = config.get("epochs") if epochs is None else epochs
    check_arguments(algorithm.arguments, {**arguments, "logger_kwargs": {"resume": True}})
    check_progress(folder, config, arguments)
    if "vectorization" not in changes:
        check_environment_count(folder, arguments)
    del arguments["actor_critic"]
    if actor_critic is not None:
        arguments["actor_critic"] = actor_critic
    file = folder / "config.json"
    logger_kwargs = check_entries(f"{file}: logger_kwargs", config.get("logger_kwargs") or {}, logger_arguments())
    network_kwargs = known_ac_kwargs(actor_critic or algorithm.defaults["actor_critic"])
    if network_kwargs is not None:
        check_entries(f"{file}: ac_kwargs", config["ac_kwargs"], dict.fromkeys(network_kwargs))
    if actor_critic is None:
        check_networks(folder, config, arguments["env_fn"], arguments["wrappers"])
    logger_kwargs["sinks"] = [*named_sinks(logger_kwargs.get("sinks") or ()), *sinks]
    report_origin(folder, config, arguments)
    logger_kwargs |= {"output_dir": str(folder), "exp_name": str(config.get("exp_name", folder.name)), "resume": True}
    return algorithm.function(**{**arguments, "logger_kwargs": logger_kwargs})


def check_version(folder: Path, config: dict) -> None:
    """Raise UserError if another version of spinup began the run: its defaults may differ."""
    version = config["run"].get("spinup", __version__)
    if version != __version__:
        raise UserError(
            f"{folder} was begun by spinup {version!s:.20}, this is {__version__}; it can't be resumed here"
        )


def check_imports(folder: Path, config: dict, env_fn: str | Callable | None, actor_critic: Callable | None) -> None:
    """Raise UserError if config.json names something to import that the user has not given."""
    if env_fn is None:
        check_env_name(folder, config)
    networks = str(config.get("actor_critic"))
    if actor_critic is None and not networks.startswith("spinup.nets."):
        raise UserError(f"{folder}: its networks are {networks}; in Python: spinup.resume(folder, actor_critic=...)")


def check_wrappers(folder: Path, config: dict, given: Sequence | None) -> None:
    """Raise UserError for wrappers other than the run's; functions can't be compared."""
    if given is None:
        return
    ours, theirs = as_wrappers(given), [str(wrapper) for wrapper in as_wrappers(config.get("wrappers"))]
    comparable = len(ours) != len(theirs) or all(
        isinstance(a, str) and WRAPPER_SPEC.fullmatch(b) for a, b in zip(ours, theirs, strict=True)
    )
    if comparable and ours != theirs:
        raise UserError(f"wrappers cannot be changed when a run is resumed; those of {folder} are {theirs}")


def complete(folder: Path, config: dict, given: Mapping[str, Mapping | None], makers: Mapping[str, Any]) -> dict:
    """As `fill_in`, but raises UserError for a given entry that would change a value in config.json."""
    filled = fill_in(folder, config, given, makers)
    for name, entries in given.items():
        for key in entries or ():
            if not find_name_only(config[name].get(key)):
                raise UserError(f"{name}[{key!r}] cannot be changed: config.json contains its value")
    return filled


def check_changes(algorithm: Algorithm, changes: dict) -> None:
    """Raise UserError for an argument that the run doesn't have or that can't be changed."""
    for name in changes:
        if name not in algorithm.changeable:
            allowed = ", ".join(algorithm.changeable)
            raise UserError(f"{name} cannot be changed when a run of {algorithm.name} is resumed; these can: {allowed}")


def named_sinks(sinks: str | Sequence) -> list[str]:
    """A run's named sinks; config.json can't restore sink objects."""
    return [sink for sink in (sinks.split(",") if isinstance(sinks, str) else sinks) if sink in NAMED]


def check_environment_count(folder: Path, arguments: Mapping) -> None:
    """Raise UserError if the folder asks for many more environment processes than there are cores."""
    if arguments["vectorization"] == "async":
        how = "--vectorization async, or step them in one process with --vectorization sync"
        largest = max(arguments["num_envs"], arguments.get("num_test_envs") or 0)
        check_process_count(folder, largest * mpi.num_procs(), how)


def report_origin(folder: Path, config: dict, arguments: dict) -> None:
    """If the folder belongs to another user or machine, print what is about to run."""
    host = config["run"].get("host")
    origin = []
    if host != platform.node():
        origin.append(f"was made on another machine, {host}" if host else "does not say on which machine it was made")
    if hasattr(os, "getuid") and {os.stat(path).st_uid for path in (folder, folder / "config.json")} != {os.getuid()}:
        origin.append("belongs to another user")
    if origin and mpi.proc_id() == 0:
        env_kwargs = f" with {config['env_kwargs']}" if config["env_kwargs"] else ""
        what = f"training {config['algorithm']} on {arguments['env_fn']}{env_kwargs}, to epoch {arguments['epochs']}"
        say(printable(f"note: {folder} {' and '.join(origin)}: {what}"), error=True)


def check_progress(folder: Path, config: dict, arguments: dict) -> None:
    """Raise UserError if the run is already finished, or if its checkpoint is missing."""
    checkpoint = newest_checkpoint(folder)
    manifest = read_manifest(checkpoint) if checkpoint else {}
    linked = (folder / "checkpoint").is_symlink()  # which the logger refuses
    if checkpoint is None and not linked and (rows := epochs_written(folder, config)):
        frequency = config.get("checkpoint_freq") or 0
        if rows > frequency or rows >= (config.get("epochs") or 0):  # otherwise there was none yet
            what = (
                f"the run in {folder} has {rows} epochs and no checkpoint, so it would train from its beginning again"
            )
            raise UserError(f"{what}; a new run with --init_from {folder} would start with its policy")
    done, stopped = manifest.get("epochs done", 0), manifest.get("stopped")
    if done >= arguments["epochs"]:
        raise UserError(f"the run in {folder} has already done epoch {done}; --epochs {2 * done} would double that")
    if stopped and stopped[0] != "on_epoch" and arguments.get(stopped[0]) == stopped[1]:
        name, value = stopped
        raise UserError(
            f"the run in {folder} was ended by {name}, {value}; to continue, give another --{name}, or None"
        )


def epochs_written(folder: Path, config: dict) -> int:
    """The number of rows in a run's table."""
    name = (config.get("logger_kwargs") or {}).get("output_fname", "progress.txt")
    try:
        return max(0, (folder / str(name)).read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def check_networks(folder: Path, config: dict, env_fn: str | Callable, wrappers: Sequence | None) -> None:
    """Raise UserError, before building them, if the networks need more bytes than the checkpoint has."""
    checkpoint = newest_checkpoint(folder)
    envs = make_envs(env_fn, env_kwargs=config["env_kwargs"], wrappers=wrappers)
    envs.close()
    file = checkpoint / "rank0.pt" if checkpoint else None
    check_size(folder / "config.json", config, file, envs.observation_space, envs.action_space)


def find_algorithm(folder: Path, config: dict) -> Algorithm:
    """The algorithm that config.json names, which must be one of spinup's."""
    name = config.get("algorithm")
    if not isinstance(name, str) or name not in files():
        names = ", ".join(files())
        raise UserError(f"{folder / 'config.json'} names the algorithm {name!r:.80}; it must be one of {names}")
    return find(name)


def main(argv: Sequence[str]) -> None:
    """The command, on as many MPI processes as the run had."""
    args, names = parsers.resume(argv)
    folder, config = read_config(args.path)
    algorithm = find_algorithm(folder, config)
    known = parameters(algorithm.arguments.values())
    given = {name: text for name in names if (text := getattr(args, name)) is not None}
    check_changes(algorithm, given)
    changes = {name: convert(text, known[name], name) for name, text in given.items()}
    processes = config["run"].get("processes", 1)
    if not isinstance(processes, int) or processes < 1:
        raise UserError(f"{folder / 'config.json'}: processes is {processes!r:.80}; it must be an int from 1")
    if not mpi.launched() and processes > MOST_PROCESSES:  # an untrusted folder could ask for any number
        how = f"mpiexec -n {processes} python -m spinup.run resume ..."
        raise UserError(f"{folder} asks for {processes} processes, many more than there are cores; start it with {how}")
    mpi.mpi_fork(processes)
    resume(folder, args.epochs, env_fn=args.env, wrappers=args.wrapper, **changes)
