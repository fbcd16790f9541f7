"""config.json: a run's arguments, and what is needed to repeat the run."""

import contextlib
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from spinup.compute import mpi
from spinup.errors import UserError, closest, first_line, user_path
from spinup.system.files import read_text

DEEPEST = 200  # nesting levels of a config.json; to_exact writes at most 50
LONGEST_CONFIG = 2**22  # bytes; more than any run writes
EXACT_ARGUMENTS = ("env_kwargs", "ac_kwargs")  # arguments whose values JSON may not be able to represent
RECORDED_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "mpi4py")  # their versions can change results


def made_by_function(env_fn: str) -> bool:
    """Whether env_fn in config.json is the name of a function or class, instead of an environment's id."""
    name = env_fn.partition(" (")[0]
    return name.startswith("partial(") or ("." in name and not re.search(r":|/|-v\d+$", name))


def is_tensor(x) -> bool:
    torch = sys.modules.get("torch")  # without torch imported, there can be no tensor
    return torch is not None and isinstance(x, torch.Tensor)


def _name(obj) -> str:
    module = getattr(obj, "__module__", None) or "builtins"
    module = "__main__" if module == "__mp_main__" else module  # the user's script, in a worker process
    module = "spinup.nets" if module.startswith("spinup.nets.") else module  # where users import from
    name = f"{module}.{obj.__qualname__}"
    code = getattr(obj, "__code__", None)
    if code is not None and "<" in name:  # a lambda or nested function, whose name is ambiguous
        name += f" ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
    return name


def convert_json(obj, _above: tuple = ()):
    """`obj` in types of strict JSON; other values, such as NaN, classes and lambdas, become readable strings."""
    if obj is None or isinstance(obj, (bool, str)):
        return obj
    if isinstance(obj, np.bool_):
        return bool(obj)
    if isinstance(obj, (int, np.integer)):
        return int(obj)
    if isinstance(obj, (float, np.floating)):
        return float(obj) if math.isfinite(float(obj)) else str(float(obj))
    if id(obj) in _above or len(_above) > 50:
        return "<cycle>" if id(obj) in _above else "<nested too deeply>"
    convert = functools.partial(convert_json, _above=(*_above, id(obj)))
    if isinstance(obj, Mapping):
        return {key if isinstance(key, str) else str(convert(key)): convert(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [convert(x) for x in obj]
    if isinstance(obj, (set, frozenset)):
        return sorted((convert(x) for x in obj), key=str)
    if isinstance(obj, np.ndarray) or is_tensor(obj):
        summary = f"{type(obj).__name__} of shape {tuple(obj.shape)}, {obj.dtype}"
        return convert(obj.tolist()) if math.prod(obj.shape) <= 1000 else summary
    if isinstance(obj, functools.partial):
        func, *args = (convert(x) if callable(x) else repr(convert(x)) for x in (obj.func, *obj.args))
        return f"partial({', '.join([func, *args, *(f'{k}={convert(v)!r}' for k, v in obj.keywords.items())])})"
    try:
        if isinstance(obj, type) or hasattr(obj, "__qualname__"):
            return _name(obj)
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(obj))  # addresses differ between runs
    except Exception:  # a broken __repr__ must not end the run
        text = f"<{_name(type(obj))}>"
    return text if len(text) <= 1000 else text[:1000] + "..."


# ---- values that JSON can't represent directly, restored exactly


@dataclass(frozen=True)
class NameOnly:
    """Placeholder for a value of which config.json contains only the name."""

    name: str

    def __str__(self) -> str:
        return self.name


def exact_arguments(config: Mapping) -> dict:
    """{"exact": ...} with env_kwargs and ac_kwargs if plain JSON would change them; {} if it wouldn't."""
    exact = {name: to_exact(config[name]) for name in EXACT_ARGUMENTS if config.get(name)}
    exact = {name: value for name, value in exact.items() if value != convert_json(config[name])}
    return {"exact": exact} if exact else {}


def to_exact(obj, _above: tuple = ()) -> Any:
    """`obj` as JSON that `from_exact` restores exactly: values without a JSON type become {kind: content}."""
    if id(obj) in _above or len(_above) > 50:
        return {"lost": "a value nested too deeply"}
    convert = functools.partial(to_exact, _above=(*_above, id(obj)))
    if obj is None or isinstance(obj, (bool, str, int, np.bool_, np.integer)):
        return convert_json(obj)
    if isinstance(obj, (float, np.floating)):
        return float(obj) if math.isfinite(float(obj)) else {"float": str(float(obj))}
    if isinstance(obj, Mapping):
        if all(isinstance(key, str) for key in obj) and not (len(obj) == 1 and next(iter(obj)) in KINDS):
            return {key: convert(value) for key, value in obj.items()}
        return {"dict": [[convert(key), convert(value)] for key, value in obj.items()]}
    if isinstance(obj, list):
        return [convert(x) for x in obj]
    if isinstance(obj, tuple):
        return {"tuple": [convert(x) for x in obj]}
    if isinstance(obj, (set, frozenset)):
        return {type(obj).__name__: sorted((convert(x) for x in obj), key=str)}
    if isinstance(obj, np.ndarray) and obj.dtype.kind in "biuf" and obj.size <= 1000:
        return {"array": [obj.dtype.name, list(obj.shape), convert(obj.ravel().tolist())]}
    torch = sys.modules.get("torch")
    if isinstance(obj, type) and torch is not None and getattr(torch.nn, obj.__name__, None) is obj:
        return {"torch.nn": obj.__name__}
    return {"lost": str(convert_json(obj))}


def from_exact(x: Any) -> Any:
    """The inverse of `to_exact`; "lost" becomes NameOnly. Raises ValueError, TypeError or KeyError if malformed."""
    if isinstance(x, list):
        return [from_exact(y) for y in x]
    if not isinstance(x, dict):
        return x
    if len(x) == 1 and next(iter(x)) in KINDS:
        ((kind, value),) = x.items()
        return KINDS[kind](value)
    return {key: from_exact(value) for key, value in x.items()}


def _array(value: list) -> np.ndarray:
    dtype, shape, items = value
    if np.dtype(dtype).kind not in "biuf":
        raise ValueError(f"an array can't have the dtype {dtype!r:.80} here")
    return np.array(from_exact(items), dtype).reshape(shape)


def _layer(name: str) -> type:
    from torch import nn

    layer = getattr(nn, name)
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise ValueError(f"torch.nn.{name:.80} is not a layer")
    return layer


KINDS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "dict": lambda pairs: {from_exact(key): from_exact(value) for key, value in pairs},
    "tuple": lambda items: tuple(from_exact(items)),
    "set": lambda items: set(from_exact(items)),
    "frozenset": lambda items: frozenset(from_exact(items)),
    "array": _array,
    "torch.nn": _layer,
    "lost": NameOnly,
}


def fill_in(folder: Path, config: dict, given: Mapping[str, Mapping | None], makers: Mapping[str, Any]) -> dict:
    """Complete a config with the values that config.json contains only by name.

    given: {"env_kwargs": ..., "ac_kwargs": ...}, entries that replace the config's
    makers: {"ac_kwargs": the given actor_critic, ...}; arguments that a functools.partial has set are left to it

    Raises UserError for the first value that is still missing.
    """
    filled = dict(config)
    for name, entries in given.items():
        if not isinstance(entries, Mapping | None):
            raise UserError(f"{name} is {entries!r:.80}; it must be a dict")
    for name in EXACT_ARGUMENTS:
        preset = getattr(makers.get(name), "keywords", {})
        values = {key: value for key, value in config[name].items() if key not in preset}
        filled[name] = {**values, **(given.get(name) or {})}
        for key, value in filled[name].items():
            for missing in find_name_only(value):
                raise UserError(
                    f"{folder}: {name}[{key!r:.80}] was {missing.name!r:.200}, and config.json has only the name; "
                    f"give it in Python: {name}={{{key!r:.80}: ...}}"
                )
    return filled


def find_name_only(x: Any) -> list[NameOnly]:
    """The parts of a value that config.json contains only by name."""
    if isinstance(x, Mapping):
        return [y for pair in x.items() for y in find_name_only(pair)]
    if isinstance(x, (list, tuple, set, frozenset)):
        return [z for y in x for z in find_name_only(y)]
    return [x] if isinstance(x, NameOnly) else []


# ---- a run's folder


def setup_logger_kwargs(
    exp_name: str, seed: int | None = None, data_dir: str | None = None, datestamp: bool = False
) -> dict:
    """The Logger's arguments for a run in data_dir/exp_name/exp_name_s{seed}, without `_s` if there is no seed.

    exp_name: the experiment's name, shared by runs that differ only in their seed
    data_dir: folder of all runs; default: $SPINUP_DATA_DIR, or ./data
    datestamp: prefix the outer folder's name with the date, and the inner one's with date and time
    """
    now = datetime.datetime.now()
    outer, inner = (f"{now:%Y-%m-%d}_", f"{now:%Y-%m-%d_%H-%M-%S}-") if datestamp else ("", "")
    root = user_path(data_dir or os.environ.get("SPINUP_DATA_DIR") or "data")
    run = inner + exp_name + ("" if seed is None else f"_s{seed}")
    return {"output_dir": str(root / (outer + exp_name) / run), "exp_name": exp_name}


def _git(folder: Path) -> dict | None:
    """The commit checked out in `folder` and whether tracked files differ from it; None outside a git repository."""
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        run = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=3, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    commit = re.search(r"^# branch\.oid (\w+)$", run.stdout, re.MULTILINE)
    return {"commit": commit[1], "dirty": bool(re.search("^[^#]", run.stdout, re.MULTILINE))} if commit else None


def provenance(config: Mapping) -> dict:
    """What is needed to repeat a run, besides its arguments: versions, commit, command, machine."""
    torch = sys.modules.get("torch")
    device = str(config.get("device", "cpu"))
    if torch and device.startswith("cuda") and torch.cuda.is_available():
        device += f" ({torch.cuda.get_device_name()})"
    build = {"torch": torch.__version__} if torch else {}  # as in 2.13.0+cu130; the package's metadata has no +cu130
    git = {"git": _git(Path.cwd())}
    here = Path(__file__).parent
    if "site-packages" not in here.parts and (own := _git(here)) != git["git"]:
        git["git_spinup"] = own
    return {
        "command": shlex.join(sys.orig_argv),
        "started": now(),
        "id": secrets.token_hex(8),  # doesn't change when the run is resumed or moved
        **package_versions(),
        **build,
        **git,
        "platform": platform.platform(),
        "host": platform.node(),
        "device": device,
        "threads": torch.get_num_threads() if torch else None,
        "processes": mpi.num_procs(),
    }


@functools.cache  # reading the metadata of an installed package takes milliseconds
def package_versions() -> dict:
    versions = {"spinup": getattr(sys.modules["spinup"], "__version__", None), "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def start_time(config: Path) -> tuple[float, int]:
    """A sort key: when a config.json's run started, in seconds since 1970, then when the file was written."""
    try:
        started = json.loads(read_text(config, LONGEST_CONFIG))["run"]["started"]
        seconds = datetime.datetime.fromisoformat(started).timestamp()
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        seconds = 0.0
    return seconds, config.stat().st_mtime_ns


def env_flag(env_fn) -> str:
    """The --env flag that a command on this run's folder needs if the environment is "module:Env-v0", else "".

    A module that only config.json names is never imported: the user has to name it as well.
    """
    return f" --env {env_fn}" if isinstance(env_fn, str) and imported_module(env_fn) else ""


def imported_module(env_id: str) -> str:
    """The module that is imported to make an environment, or ""."""
    if env_id.startswith(("GymV21Environment", "GymV26Environment")):  # Gymnasium's wrappers for old Gym environments
        return "what its env_kwargs name"
    return env_id.rpartition(":")[0]


def check_env_name(folder: Path, config: Mapping) -> None:
    """Raise UserError if a run's environment can't be made from its name in config.json, or only by an import."""
    name = str(config.get("env_fn"))
    module = imported_module(name)
    if made_by_function(name):
        raise UserError(f"{folder}: its environment was made by {name}; pass that function (env_fn=)")
    if module and module not in sys.modules:
        raise UserError(f"{folder}: its environment '{name}' imports {module}; allow it with --env {name} (env_fn=)")


def check_depth(value: Any) -> None:
    """Raise ValueError for JSON nested more deeply than any run writes: recursive functions could fail on it."""
    level = [value]
    for _ in range(DEEPEST):
        level = [y for x in level if isinstance(x, dict | list) for y in (x.values() if isinstance(x, dict) else x)]
        if not level:
            return
    raise ValueError(f"it is nested in more than {DEEPEST} levels")


def read_config(path: str | Path) -> tuple[Path, dict]:
    """A run's folder and its config.json, with env_kwargs, ac_kwargs and run as dicts.

    Raises UserError if there is no run, or spinup did not write the file.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"the run's folder is {path!r:.80}; it must be a path")
    folder = user_path(path)
    file = folder / "config.json"
    if folder.is_file():
        raise UserError(f"'{folder}' is a file; it must be a run's folder, such as '{folder.parent}'")
    if not folder.is_dir():
        names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"there is no folder '{folder}'{closest(folder.name, names)}")
    if not file.exists():
        below = sorted(str(p.parent) for depth in range(1, 4) for p in folder.glob("*/" * depth + "config.json"))
        raise UserError(
            f"'{folder}' is not a run's folder (no config.json); runs in it: {', '.join(below[:5]) or 'none'}"
        )
    try:
        config = json.loads(read_text(file, LONGEST_CONFIG))
        check_depth(config)
        if not isinstance(config.get("run"), dict):
            config["run"] = {}
        for key in EXACT_ARGUMENTS:
            config[key] = dict(config.get(key) or {})
            exact = from_exact((config.get("exact") or {}).get(key))
            if convert_json(exact) == config[key]:  # false if someone has edited the file
                config[key] = exact
        return folder, config
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a config.json that spinup wrote ({first_line(error)})") from error
