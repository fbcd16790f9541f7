"""The command line: python -m spinup.run COMMAND [flags], or spinup COMMAND [flags].

Modules that import torch are imported only when needed, so that --help is fast.
"""

import errno
import functools
import importlib
import itertools
import re
import shlex
import shutil
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spinup import __version__
from spinup.algorithm import Algorithm, files, find
from spinup.errors import Fault, UserError, closest, printable
from spinup.experiments import cli, parsers, source
from spinup.experiments.cli import Parameter
from spinup.experiments.source import Description
from spinup.system.terminal import exit_status_of_output, protect_streams

TOOLS = {
    "grid": "run the experiments in a TOML or YAML file",
    "resume": "continue an unfinished run",
    "plot": "plot learning curves",
    "probe": "test an algorithm on environments with known answers",
    "test_policy": "play episodes with a trained policy",
}
USAGE = """\
spinup: deep RL you can read. Usage: python -m spinup.run COMMAND [flags]

{commands}

Every argument of an algorithm is a flag; `COMMAND --help` lists them.
  --env CartPole-v1 --seed 3        values: numbers, True, False, None, names, lists such as 64,64 or [64,64]
  --quiet                           a flag without a value is True
  --seed 0 10 20 --lam 0.9 0.97     several values: one run per combination, here six
  --jobs 2                          two runs at a time; if repeated, the command does only unfinished runs
  --hid[h] [32] [64,64]             [h] is the flag's name in folders; in zsh, put quotes around brackets
  --env_kwargs:gravity -9.8         an entry of a dictionary
  --env my_module:MyEnv-v0          an environment that my_module registers when imported
  --wrapper my_module:Mine          a wrapper around it; repeat the flag for more wrappers

Examples
  python -m spinup.run ppo --env CartPole-v1
  python -m spinup.run ppo --env HalfCheetah-v5 --exp_name cheetah --seed 0 10 20
  python -m spinup.run plot data/cheetah
  python -m spinup.run test_policy data/cheetah/cheetah_s0
  python -m spinup.run resume data/cheetah/cheetah_s0"""

GRID_HELP = """\
Usage: python -m spinup.run grid FILE [flags]
Run the experiments in a TOML or YAML file of flags. A list gives several values, as on the command line. Flags given
here override the file's. An example in TOML:

  algo = "ppo"
  env = ["CartPole-v1", "Acrobot-v1"]
  seed = [0, 10, 20]
  hid = [[32], [64, 64]]
  exp_name = "nets"
  jobs = 2"""

ALIASES = {
    "env": "env_name",
    "env_fn": "env_name",
    "wrapper": "wrappers",
    "hid": "ac_kwargs:hidden_sizes",
    "act": "ac_kwargs:activation",
    "sparsity": "ac_kwargs:linear:sparsity",
    "block_size": "ac_kwargs:linear:block_size",
    "layout": "ac_kwargs:linear:layout",
    "sparse_schedule": "ac_kwargs:linear:schedule",
    "sparse_every": "ac_kwargs:linear:every",
    "sparse_fraction": "ac_kwargs:linear:fraction",
    "steps": "steps_per_epoch",
    "s": "seed",
    "cpu": "num_cpu",
    "dt": "datestamp",
}
INT, BOOL, STR, NUMBER = frozenset({int}), frozenset({bool}), frozenset({str}), frozenset({int, float})
SPECIAL = {  # flags of the command instead of the algorithm; they take a single value
    "exp_name": Parameter(
        "exp_name", STR, None, "name of the experiment and its folder; default: cmd_ALGORITHM", sample="walker"
    ),
    "data_dir": Parameter(
        "data_dir", STR, None, "folder of all runs; default: $SPINUP_DATA_DIR, or data", sample="data"
    ),
    "datestamp": Parameter("datestamp", BOOL, False, "put date and time into the folders' names"),
    "num_cpu": Parameter("num_cpu", INT | STR, 1, "MPI processes that train together; auto: one per physical core"),
    "jobs": Parameter("jobs", INT | STR, 1, "runs at a time, each in its own process; auto: one per physical core"),
    "executor": Parameter(
        "executor", STR, "process", "where a grid's runs are executed: process, or ray for a cluster"
    ),
    "preset": Parameter("preset", STR, None, "a named set of other defaults", sample="spinningup"),
    "sinks": Parameter(
        "sinks",
        frozenset({list, str}),
        None,
        "where rows go besides progress.txt: tensorboard, wandb, trackio, or several, such as wandb,trackio",
        item=str,
        sample="tensorboard",
    ),
    "tensorboard": Parameter("tensorboard", BOOL, False, "short for --sinks tensorboard"),
    "quiet": Parameter("quiet", BOOL, False, "print only warnings and errors"),
    "l": Parameter("l", INT, 2, "number of hidden layers, if --hid is a width"),
}
LINEAR = {  # arguments of spinup.sparse.linear_factory; any of them makes the hidden layers block-sparse
    "sparsity": Parameter(
        "sparsity",
        NUMBER,
        None,
        "fraction of the weights between hidden layers to leave out, in blocks; 0.9 if only other flags of "
        "block-sparse layers are given",
        sample="0.9",
    ),
    "block_size": Parameter("block_size", INT, None, "side of a block: 16, 32, 64 or 128; default: 64", sample="64"),
    "layout": Parameter(
        "layout",
        STR,
        None,
        "pattern of blocks: regular, random, barabasi_albert or watts_strogatz; default: regular",
        sample="regular",
    ),
    "schedule": Parameter(
        "schedule",
        STR,
        None,
        "static; rigl or set, which replace weak blocks during training; prune, which starts dense; default: static",
        sample="rigl",
    ),
    "every": Parameter(
        "every", INT, None, "gradient steps between two changes of the layout; default: 1000", sample="1000"
    ),
    "fraction": Parameter(
        "fraction", NUMBER, None, "fraction of the blocks that the first change replaces; default: 0.3", sample="0.3"
    ),
}
ENV = Parameter("env_name", STR, None, "id of the environment; module:Env-v0 imports module", sample="CartPole-v1")
HIDDEN_SIZES, ACTIVATION = "ac_kwargs:hidden_sizes", "ac_kwargs:activation"
# Errors caused by a file or folder that the user chose; any other OSError is a bug.
USER_FILE_ERRORS = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS, errno.ENOSPC}
WIDEST, DEEPEST = 2**20, 100


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. The exit status is 2 for a user's mistake, reported in one line, and 1 if runs failed."""
    streams = protect_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = dispatch(words)
        if status == 0 and not trains(words):
            status = exit_status_of_output(streams)
    except UserError as error:
        status = 2
        fail(status, f"spinup: error: {' '.join(str(error).split())}")
    except Fault as error:
        status = 1
        cause = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
        fail(status, f"{cause}spinup: error: {' '.join(str(error).split())}; what was logged and saved stays")
    except KeyboardInterrupt:
        status = 130
        mpi = sys.modules.get("spinup.compute.mpi")  # importing it now could fail, if an import was interrupted
        if mpi is None or mpi.proc_id() == 0:
            print("spinup: stopped; what was logged and saved stays", file=sys.stderr)
    except (MemoryError, RuntimeError) as error:
        lack = lack_of_memory(error)
        status = 1 if lack is None else 2
        line = f"spinup: error: not enough memory ({lack}); smaller hidden_sizes, steps_per_epoch or num_envs need less"
        fail(status, traceback.format_exc() if lack is None else line)
    except OSError as error:
        status = 2 if error.errno in USER_FILE_ERRORS and error.filename else 1
        line = f"spinup: error: cannot use {cli.shorten(str(error.filename), 80)}: {error.strerror}"
        fail(status, line if status == 2 else traceback.format_exc())
    except Exception:
        fail(1, traceback.format_exc())
        status = 1
    if status:
        sys.exit(status)


def lack_of_memory(error: Exception) -> str | None:
    """What couldn't be allocated; None if the error is about something else. torch raises a RuntimeError for it."""
    found = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return str(error) if isinstance(error, MemoryError) else found and found[0]


def trains(words: list[str]) -> bool:
    """Whether a command trains; the purpose of other commands is their output."""
    runs = {*files(), "grid", "resume"}
    return bool(words) and words[0].removesuffix("_pytorch") in runs and not {"-h", "--help"} & set(words)


def fail(status: int, message: str) -> None:
    """Print a message to stderr. Under MPI, also end the other processes, which could wait for this one forever."""
    from spinup.compute import mpi

    try:
        others = mpi.num_procs() > 1
    except UserError:  # a launcher, but no mpi4py
        others = False
    if others:
        time.sleep(mpi.proc_id() and 1)  # if all fail the same way, only the first one prints, and ends the others
    print(printable(message.rstrip(), keep="\n\t"), file=sys.stderr, flush=True)
    if others:
        mpi.abort(status)


def dispatch(words: list[str]) -> int:
    """Run the command that the words give. Returns the exit status."""
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command == "help" and rest:
        command, rest = rest[0], ["--help"]
    algo = command.removesuffix("_pytorch")
    if command in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:<12} {line}" for name, line in commands().items())))
    elif command == "--version":
        print(__version__)
    elif command in ("resume", "test_policy") and {"-h", "--help"} & set(rest):
        getattr(parsers, command)(["--help"])
    elif command == "resume":
        importlib.import_module("spinup.experiments.resume").main(rest)
    elif command == "plot":
        importlib.import_module("spinup.analysis.plot").main(rest)
    elif command == "grid" and {"-h", "--help"} & set(rest):
        print(GRID_HELP)
    elif command == "grid":
        return dispatch(from_grid_file(rest))
    elif command == "probe":
        return importlib.import_module("spinup.probes").main(rest)
    elif command == "test_policy":
        importlib.import_module("spinup.analysis.play").main(rest)
    elif algo in files():
        if {"-h", "--help"} & set(rest):
            print(algorithm_help(algo))
        else:
            return train(algo, rest)
    else:
        hint = closest(command, commands()) or f"; the commands are {', '.join(commands())}"
        raise UserError(f"unknown command {cli.shorten(command)}{hint}")
    return 0


def from_grid_file(words: list[str]) -> list[str]:
    """`grid FILE [flags]` as the words of the algorithm's own command. Flags given here override the file's."""

    def names(flags: Sequence[str]) -> set[str]:
        return {ALIASES.get(flag.name, flag.name) for flag in cli.split_flags(flags)}

    if not words or cli.is_flag(words[0]):
        raise UserError("grid needs a file: python -m spinup.run grid FILE.toml; `grid --help` shows an example")
    flags = cli.read_grid_file(words[0])
    algo = flags.pop("algo", [])
    if len(algo) != 1 or algo[0] not in files():
        what = f"algo is {', '.join(algo)}" if algo else "algo is missing"
        raise UserError(f"grid: {words[0]}: {what}; it must be one of {', '.join(files())}")
    given, described = names(words[1:]), []
    for key, values in flags.items():
        if not names([f"--{key}"]) & given:
            described += [f"--{key}", *values]
    return [*algo, *described, *words[1:]]


# ---- commands and flags


def commands() -> dict[str, str]:
    """Every command with a one-line description; an algorithm's is from its file's docstring."""
    docs = {name: source.docstring(path) for name, path in files().items()}
    return {name: re.split(r"[.] |[.,:]$", doc.partition("\n")[0])[0] for name, doc in docs.items()} | TOOLS


def describe(algo: str) -> tuple[Description, Description]:
    """An algorithm's function and its networks, from their source files if possible, otherwise by importing them."""
    try:
        function = source.describe(files()[algo], algo)
        networks = source.describe(*function.arguments["actor_critic"].default)
    except source.Unreadable:
        function = source.describe_imported(find(algo).function)
        networks = source.describe_imported(function.arguments["actor_critic"].default)
    return function, networks


def flags_of(function: Description, networks: Description) -> dict[str, Parameter]:
    """The flags for an algorithm's arguments, by their full names; those of its networks are ac_kwargs:name."""
    found = cli.parameters(function.arguments.values())
    for name, parameter in cli.parameters(networks.arguments.values()).items():
        if name not in found:
            found[f"ac_kwargs:{name}"] = parameter
    if found.pop("ac_kwargs:linear", None):
        found |= {f"ac_kwargs:linear:{name}": parameter for name, parameter in LINEAR.items()}
    for name, sample in (("wrappers", "gymnasium.wrappers:TimeLimit(50)"), ("log_info", "is_success")):
        if name in found:
            found[name] = found[name]._replace(sample=sample)
    taken = ("env_fn", "ac_kwargs", "env_kwargs", "logger_kwargs")
    return {"env_name": ENV} | {name: parameter for name, parameter in found.items() if name not in taken}


# ---- help


def algorithm_help(algo: str) -> str:
    """The help for an algorithm: each flag with its type, default and description."""
    function, networks = describe(algo)
    flags, doc = flags_of(function, networks), function.doc
    own = [name for name, argument in function.arguments.items() if not argument.shared]
    sections = {
        "The run": {"env_name": flags.pop("env_name"), **SPECIAL},
        f"{algo}'s own arguments": {k: p for k, p in flags.items() if k in own},
        "Arguments shared with other algorithms": {k: p for k, p in flags.items() if k not in own and ":" not in k},
        "Networks": {k: p for k, p in flags.items() if ":" in k},
    }
    lines = [f"Usage: python -m spinup.run {algo} --env ENV [flags]", *([f"{doc.partition('.')[0]}."] if doc else [])]
    for title, section in sections.items():
        shown = [line for key, parameter in section.items() for line in flag_help(key, parameter)]
        lines += ["", title, *shown] if shown else []
    lines += ["", "  --env_kwargs:NAME VALUE  an argument of the environment"]
    if presets := source.presets(files()[algo]):
        lines.append(f"  presets: {', '.join(presets)}")
    return "\n".join(lines)


def flag_help(key: str, parameter: Parameter) -> list[str]:
    """`--flag  type [default]  text`, with the text in a separate column."""
    aliases = [alias for alias, name in ALIASES.items() if name == key and alias != "env_fn"]
    names = ", ".join(f"{'-' if len(name) == 1 else '--'}{name}" for name in [*aliases, key])
    default = (
        "required" if key == "env_name" else "" if parameter.default is None else cli.format_value(parameter.default)
    )
    left = f"  {names}  {parameter.describe()}" + (f" [{default}]" if default else "")
    width = max(40, min(shutil.get_terminal_size().columns, 120) - 44)
    text = textwrap.wrap(parameter.help, width)
    if len(left) > 42:
        return [left, *(" " * 44 + line for line in text)]
    return [f"{left:<44}{text[0] if text else ''}".rstrip(), *(" " * 44 + line for line in text[1:])]


# ---- training


def train(algo: str, words: list[str]) -> int:
    """Run an algorithm once for each combination of the flags' values. Returns the exit status."""
    flags = flags_of(*describe(algo))
    settings, shorthands = read_flags(words, flags | SPECIAL, algo)
    algorithm = find(algo)
    given = {name: settings.pop(name)[0] for name in SPECIAL if name in settings}
    if "preset" in given:
        settings = {**from_preset(given["preset"], algorithm), **settings}
    if "l" in given or HIDDEN_SIZES in settings:
        widths = settings.get(HIDDEN_SIZES, [flags[HIDDEN_SIZES].default[0]])
        sizes = [hidden_sizes(value, given.get("l")) for value in widths]
        if len(set(map(tuple, sizes))) < len(sizes):
            what = f"--hid {' '.join(map(cli.format_value, widths))} repeats a value"
            raise UserError(f"{what}, and each value is a run; give one run's layers as one value: --hid 64,64")
        settings[HIDDEN_SIZES] = sizes
    check(settings, given, algo)

    from spinup.experiments.grid import ExperimentGrid

    grid = ExperimentGrid(given.get("exp_name", f"cmd_{algo}"))
    for key, values in settings.items():
        grid.add(key, values, shorthands.get(key))
    runs = grid.run(
        functools.partial(train_one, algorithm.function, flags, given.get("quiet", False)),
        num_cpu=given.get("num_cpu", 1),
        data_dir=given.get("data_dir"),
        datestamp=given.get("datestamp", False),
        logger_kwargs={name: given[name] for name in ("quiet", "tensorboard", "sinks") if name in given},
        jobs=given.get("jobs", 1),
        executor=given.get("executor", "process"),
    )
    if not given.get("quiet"):
        print_next_steps(runs, settings)
    outcomes = {run.outcome for run in runs} - {"done", "done before"}
    return 0 if not outcomes else 2 if outcomes == {"wrong input"} else 1


def read_flags(words: list[str], flags: dict[str, Parameter], algo: str) -> tuple[dict[str, list], dict[str, str]]:
    """The values of all given flags, by their full names, and the shorthands in brackets."""
    from spinup import envs

    settings, shorthands = {}, {}
    for name, short, texts in cli.split_flags(words):
        key = ALIASES.get(name, name)
        if key.startswith("env_kwargs:"):
            parameter = Parameter(key)
        elif key in ("env_kwargs", "ac_kwargs"):
            raise UserError(f"--{name} is set entry by entry, for example --{name}:key value")
        elif key not in flags:
            hint = closest(name, [*flags, *ALIASES], "--") or f"; `python -m spinup.run {algo} --help` lists the flags"
            raise UserError(f"unknown flag --{name}{hint}")
        else:
            parameter = flags[key]
        values = [cli.convert(text, parameter, name) for text in texts or (None,)]
        if key == "wrappers":  # repeating the flag adds a wrapper; several values make a grid, as always
            before = [envs.as_wrappers(value) for value in settings.pop(key, [None])]
            values = [[*inner, *envs.as_wrappers(value)] for inner in before for value in values]
        if key in settings:
            raise UserError(f"--{name} is given twice; give several values after one flag: --{name} A B")
        if key in SPECIAL and len(texts) > 1:
            raise UserError(f"--{name} takes one value; got {len(texts)}")
        settings[key] = values
        if short is not None:
            shorthands[key] = short
    return settings, shorthands


def from_preset(name: str, algorithm: Algorithm) -> dict[str, list]:
    """A preset's values, by the full names of the flags."""
    if name not in algorithm.presets:
        hint = closest(name, algorithm.presets) or f"; it has {', '.join(algorithm.presets) or 'none'}"
        raise UserError(f"{algorithm.name} has no preset {cli.shorten(name)}{hint}")
    return {key: [value] for key, value in flatten(algorithm.presets[name]).items()}


def flatten(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """{"lam": 1, "ac_kwargs": {"a": 2}} -> {"lam": 1, "ac_kwargs:a": 2}."""
    flat = {}
    for key, value in arguments.items():
        flat |= {f"{key}:{k}": v for k, v in flatten(value).items()} if isinstance(value, dict) else {key: value}
    return flat


def hidden_sizes(value: int | Sequence[int], layers: int | None) -> list[int]:
    """The sizes of the hidden layers, from a list, or from the width of `layers` equal layers."""
    if isinstance(value, int):
        layers = SPECIAL["l"].default if layers is None else layers
        if not 0 <= layers <= DEEPEST:
            raise UserError(f"l is {layers}; it must lie in 0 to {DEEPEST}")
        value = [value] * layers
    elif layers is not None:
        raise UserError(f"--l needs a width, as in --hid 64 --l 2; {cli.format_value(value)} already gives all sizes")
    if not all(1 <= size <= WIDEST for size in value):
        raise UserError(f"hidden_sizes is {cli.format_value(value)}; every size must lie in 1 to {WIDEST}")
    return list(value)


def check(settings: dict[str, list], given: dict[str, Any], algo: str) -> None:
    """Raise UserError for mistakes that the flags' types don't reveal, before any folder is created."""
    from spinup import envs, nets

    if "env_name" not in settings:
        raise UserError(f"no environment; give one, for example: python -m spinup.run {algo} --env CartPole-v1")
    exp_name = given.get("exp_name", algo)
    if re.search(r'[/\\:*?"<>|]', exp_name) or not exp_name.isprintable() or not exp_name.strip(". "):
        raise UserError(f"exp_name is {cli.shorten(exp_name)}; it must be a valid folder name, for example walker")
    if ACTIVATION in settings:
        settings[ACTIVATION] = [nets.activation_class(name).__name__ for name in settings[ACTIVATION]]
    for env in settings["env_name"]:
        envs.check_env_id(env)
    for wrapper in itertools.chain(*settings.get("wrappers", [])):
        envs.find_wrapper(wrapper)


def train_one(function: Callable, flags: dict[str, Parameter], quiet: bool, /, **arguments: Any) -> None:
    """Print a line about a run, then do it."""
    from spinup.compute import mpi

    if not quiet and mpi.proc_id() == 0:
        print(summary(function.__name__, flags, arguments), flush=True)
    function(**arguments)


def summary(algo: str, flags: dict[str, Parameter], arguments: dict[str, Any]) -> str:
    """A line such as "ppo on CartPole-v1: epochs 10, gamma 0.9", without arguments that have their defaults."""
    rest = {key: value for key, value in arguments.items() if key not in ("env_fn", "logger_kwargs")}
    changed = [
        f"{key.removeprefix('ac_kwargs:')} {cli.format_value(value)}"
        for key, value in flatten(rest).items()
        if key not in flags or cli.format_value(flags[key].default) != cli.format_value(value)
    ]
    return printable(f"{algo} on {arguments['env_fn']}: {', '.join(changed) or 'all defaults'}")


def print_next_steps(runs: list, settings: dict[str, list]) -> None:
    """Print the commands that plot the finished runs and, if there is just one, play its policy."""
    from spinup.compute import mpi
    from spinup.envs import wrapper_flags
    from spinup.runs.config import env_flag

    folders = list(dict.fromkeys(str(Path(run.folder).parent) for run in runs if run.outcome.startswith("done")))
    if len(runs) == 1:
        folders = [str(newest_run(Path(runs[0].folder)))]
    if folders and mpi.proc_id() == 0:
        print("plot it:   python -m spinup.run plot", shlex.join(f"{folder}/" for folder in folders))
        if len(runs) == 1:
            allow = env_flag(settings["env_name"][0]) + wrapper_flags(settings.get("wrappers", [None])[0])
            print("watch it:  python -m spinup.run test_policy", shlex.join(folders) + allow)


def newest_run(folder: Path) -> Path:
    """The folder of the newest run among folder, folder-2, ...: a run whose folder is in use gets the next one."""
    from spinup.runs.config import start_time

    pattern = re.compile(re.escape(folder.name) + r"(-\d+)?")
    runs = [path for path in folder.parent.glob("*/config.json") if pattern.fullmatch(path.parent.name)]
    return max(runs, key=start_time, default=folder / "config.json").parent


if __name__ == "__main__":
    main()
