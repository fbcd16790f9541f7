"""config.json: what a run was asked for, and what one needs to know to run it again."""

import contextlib
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath

import numpy as np

from spinup import mpi
from spinup.errors import UserError, closest, first_line

# Arguments that `resume` may change: no shape, no state and no count of steps in a checkpoint depends on them.
CHANGEABLE = (
    *("epochs", "lr", "pi_lr", "vf_lr", "q_lr", "anneal_lr", "max_grad_norm", "gamma", "lam", "clip_ratio", "vf_clip"),
    *("ent_coef", "target_kl", "train_pi_iters", "train_v_iters", "minibatch_size", "batch_size", "normalize_adv"),
    *("recompute_adv", "value_target", "delta", "damping_coeff", "cg_iters", "backtrack_iters", "backtrack_coeff"),
    *("polyak", "act_noise", "target_noise", "noise_clip", "policy_delay", "target_entropy", "max_ep_len"),
    *("stop_at", "patience", "eval_freq", "num_test_episodes", "save_freq", "checkpoint_freq"),
    *("vectorization", "threads", "matmul_precision", "capture"),
)
RECORDED = ("torch", "numpy", "gymnasium", "mujoco", "mpi4py")  # packages whose version can change a result


def is_tensor(x) -> bool:
    torch = sys.modules.get("torch")  # who has no torch loaded has no tensor either
    return torch is not None and isinstance(x, torch.Tensor)


def _name(obj) -> str:
    name = f"{getattr(obj, '__module__', None) or 'builtins'}.{obj.__qualname__}"
    code = getattr(obj, "__code__", None)
    if code is not None and "<" in name:  # a lambda or an inner function: the name alone would not say which
        name += f" ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
    return name


def convert_json(obj, _above: tuple = ()):
    """`obj` in types that strict JSON has; what it has no form for (NaN, a class, a lambda) as a readable string."""
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
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(obj))  # an address would differ in every run
    except Exception:  # whatever a foreign __repr__ raises, the run goes on
        text = f"<{_name(type(obj))}>"
    return text if len(text) <= 1000 else text[:1000] + "..."


def setup_logger_kwargs(
    exp_name: str, seed: int | None = None, data_dir: str | None = None, datestamp: bool = False
) -> dict:
    """The Logger's arguments for a run in data_dir/exp_name/exp_name_s{seed}; no `_s` without a seed.

    exp_name: the experiment's name; runs that differ in the seed alone share it
    data_dir: where runs go; by default $SPINUP_DATA_DIR, else ./data
    datestamp: begin the outer folder's name with the date and the inner one's with date and time
    """
    now = datetime.datetime.now()
    outer, inner = (f"{now:%Y-%m-%d}_", f"{now:%Y-%m-%d_%H-%M-%S}-") if datestamp else ("", "")
    root = Path(data_dir or os.environ.get("SPINUP_DATA_DIR") or "data").expanduser()
    run = inner + exp_name + ("" if seed is None else f"_s{seed}")
    return {"output_dir": str(root / (outer + exp_name) / run), "exp_name": exp_name}


def _git(folder: Path) -> dict | None:
    """The commit that is checked out where `folder` is, and whether tracked files differ from it; None outside git."""
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        run = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=3, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    commit = re.search(r"^# branch\.oid (\w+)$", run.stdout, re.MULTILINE)
    return {"commit": commit[1], "dirty": bool(re.search("^[^#]", run.stdout, re.MULTILINE))} if commit else None


def record(config: Mapping) -> dict:
    """What one needs to know, beside the arguments, to run it again."""
    torch = sys.modules.get("torch")
    device = str(config.get("device", "cpu"))
    if torch and device.startswith("cuda") and torch.cuda.is_available():
        device += f" ({torch.cuda.get_device_name()})"
    versions = {"spinup": getattr(sys.modules["spinup"], "__version__", None), "python": platform.python_version()}
    for package in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    git = {"git": _git(Path.cwd())}
    here = Path(__file__).parent
    if "site-packages" not in here.parts and _git(here) != git["git"]:
        git["git_spinup"] = _git(here)
    return {
        "command": shlex.join(sys.orig_argv),
        "started": now(),
        **versions,
        **git,
        "platform": platform.platform(),
        "host": platform.node(),
        "device": device,
        "threads": torch.get_num_threads() if torch else None,
        "processes": mpi.num_procs(),
    }


def now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def allow_import(env_fn) -> str:
    """What a command with a run's folder needs too where the environment is "module:Env-v0": what a folder names is
    imported only if the command names it as well.
    """
    return f" --env {env_fn}" if isinstance(env_fn, str) and imported_by(env_fn) else ""


def imported_by(env_id: str) -> str:
    """The module that making an environment imports; "" for none."""
    if env_id.startswith(("GymV21Environment", "GymV26Environment")):  # Gymnasium's way to those of the old Gym
        return "what its env_kwargs name"
    return env_id.rpartition(":")[0]


def read_config(path: str | Path) -> tuple[Path, dict]:
    """A run's folder and its config.json, with env_kwargs and ac_kwargs as dicts.

    Raises UserError where there is no run, or the file is not one of ours.
    """
    folder = Path(path).expanduser()
    file = folder / "config.json"
    if not folder.is_dir():
        names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"there is no folder '{folder}'{closest(folder.name, names)}")
    if not file.exists():
        below = sorted(str(p.parent) for p in folder.glob("**/config.json"))
        raise UserError(f"'{folder}' holds no run (no config.json); runs below it: {', '.join(below[:5]) or 'none'}")
    try:
        config = json.loads(file.read_text("utf-8"))
        return folder, {**config, **{key: dict(config.get(key) or {}) for key in ("env_kwargs", "ac_kwargs")}}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a config.json that spinup wrote ({first_line(error)})") from error
