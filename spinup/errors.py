"""Two exceptions with a message for people: UserError for a mistake of theirs, Fault for a run that cannot go on."""

import difflib
import math
import os
import types
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from os import PathLike
from pathlib import Path

# What the algorithms' numbers may be, both ends included. Counts are far above any use, and such that a row, an update
# or an evaluation ends, and that sums and products of them are still 64-bit numbers.
COUNT, PASSES = 10**12, 10**6
RANGES = {
    **dict.fromkeys(("gamma", "lam", "backtrack_coeff", "polyak"), (0, 1)),
    "noise_corr": (0, 0.999),  # with 1 the noise would stay what it is at first: 0
    **dict.fromkeys(("steps_per_epoch", "epochs", "minibatch_size", "batch_size"), (1, COUNT)),
    **dict.fromkeys(("save_freq", "replay_size", "update_every", "n_step", "policy_delay", "max_ep_len"), (1, COUNT)),
    "patience": (1, COUNT),
    **dict.fromkeys(("start_steps", "update_after", "eval_freq", "checkpoint_freq"), (0, COUNT)),
    **dict.fromkeys(("train_pi_iters", "train_v_iters", "backtrack_iters", "replay_ratio"), (0, PASSES)),
    "cg_iters": (1, PASSES),
    **dict.fromkeys(("lr", "q_lr", "act_noise", "target_noise", "noise_clip", "alpha"), (0, COUNT)),
    **dict.fromkeys(("target_entropy", "stop_at"), (-COUNT, COUNT)),
    **dict.fromkeys(("pi_lr", "vf_lr", "max_grad_norm", "clip_ratio", "vf_clip", "target_kl"), (0, COUNT)),
    **dict.fromkeys(("delta", "damping_coeff", "ent_coef"), (0, COUNT)),
    "seed": (0, 2**32 - 1),
    "threads": (1, 256),
    # Seeds of MPI processes are that far apart.
    **dict.fromkeys(("num_envs", "num_test_episodes", "num_test_envs"), (1, 10_000)),
}
# What those that are words may be.
CHOICES = {
    "value_target": ("gae", "rtg"),
    "vectorization": ("sync", "async"),
    "algo": ("trpo", "npg"),
    "matmul_precision": ("highest", "high", "medium"),
}
# Which of the numbers are whole, and which may be None.
WHOLE = {
    *("steps_per_epoch", "epochs", "minibatch_size", "batch_size", "cg_iters", "save_freq", "num_test_episodes"),
    *("replay_size", "update_every", "n_step", "policy_delay", "start_steps", "update_after", "train_pi_iters"),
    *("train_v_iters", "backtrack_iters", "eval_freq", "checkpoint_freq", "seed", "threads", "num_envs", "max_ep_len"),
    *("num_test_envs", "patience"),
}
SWITCHES = {
    *("anneal_lr", "normalize_obs", "normalize_rew", "normalize_adv", "recompute_adv", "target_policy", "capture"),
    "reseed",
}
DICTS = {"ac_kwargs", "env_kwargs", "logger_kwargs"}  # or None
OPTIONAL = {
    "minibatch_size",
    "target_kl",
    "vf_clip",
    "max_grad_norm",
    "target_entropy",
    "num_test_envs",
    "stop_at",
    "patience",
}
# Words that stand for a number.
WORDS = {"alpha": "auto"}


def install(extra: str) -> str:
    """The pip command that brings an extra; from the folder this package is in, as others may have its name."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").exists():
        return f'pip install "spinup[{extra}]"'
    where = "." if root == Path.cwd() else root
    return f'pip install -e "{where}[{extra}]"'


def printable(text: str, keep: str = "") -> str:
    """`text` for a terminal or a figure: what could be a command to it, or turn lines around, is shown as its escape.

    keep: characters to leave as they are
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class UserError(ValueError):
    """A mistake of the user's: says in one line what was wrong and what would be right; the command exits with 2.

    The line may quote a stranger's file: what a terminal would not print is escaped.
    """

    def __init__(self, message: object):
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message)))

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")  # part of it may come from a file


class Fault(RuntimeError):
    """A run that cannot go on, through no fault of the command's: says in one line what failed, where and when.

    The command line prints that line, after the traceback of what caused it where there is one, and exits with 1.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


def user_path(path: str | Path) -> Path:
    """A path as the user wrote it, with a folder in place of `~` or `~name`. Raises UserError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = str(path).partition(os.sep)[0]
        raise UserError(f"'{path!s:.80}': there is no home folder {home:.80}; write the path in full") from None


def first_line(error: BaseException) -> str:
    """An exception's class and message, in one line of bounded length."""
    return f"{type(error).__name__}: {printable(' '.join(str(error).split())):.200}"


def closest(word: str, choices: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """The hint "; did you mean 'x'?" for the choice most like `word`, after `prefix`, or "" where none is near.

    cutoff: how like they must be, from 0 to 1
    """
    match = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=cutoff)
    return f"; did you mean '{prefix}{match[0]}'?" if match else ""


def check_source(init_from: str | PathLike) -> None:
    """Raise UserError where there is no policy to begin with."""
    if not isinstance(init_from, str | PathLike):
        raise UserError(f"init_from is {init_from!r:.80}; it must be the folder of a run, or None")
    path = Path(init_from).expanduser()
    if not (path if path.suffix == ".pt" else path / "model.pt").exists():
        raise UserError(f"init_from is {str(init_from)!r:.200}; there is no such run with a saved policy, model.pt")


def check_arguments(arguments: Mapping) -> None:
    """Raise UserError for the first of an algorithm's arguments that is not what it may be."""
    for name, value in arguments.items():
        if name == "on_epoch" and not (value is None or callable(value)):
            raise UserError(f"on_epoch is {value!r:.80}; it must be a function of an epoch's row, or None")
        logger = arguments.get("logger_kwargs")
        resumed = isinstance(logger, Mapping) and logger.get("resume")  # then it has what it began with
        if name == "init_from" and value is not None and not resumed:
            check_source(value)
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{name} is {value!r:.80}; it must be one of {', '.join(CHOICES[name])}")
        if name in SWITCHES and type(value).__name__ not in ("bool", "bool_"):
            raise UserError(f"{name} is {value!r:.80}; it must be True or False")
        if name in DICTS and not isinstance(value, Mapping | types.NoneType):
            raise UserError(f"{name} is {value!r:.80}; it must be a dict")
        if name == "device" and not isinstance(value, str) and type(value).__name__ != "device":  # torch's
            raise UserError(f"device is {value!r:.80}; it must be a name, as cpu, cuda or cuda:1")
        if name not in RANGES or (value is None and name in OPTIONAL) or value == WORDS.get(name, math.nan):
            continue
        low, high = RANGES[name]
        kind, what = (Integral, "a whole number") if name in WHOLE else (Real, "a number")
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high or math.isinf(value):
            right = "" if low < 0 else f" at least {low}"
            if high not in (COUNT, PASSES, math.inf) or (isinstance(value, Real) and not -COUNT <= value <= high):
                right = f" in {low} to {high}"  # else bounds so far away are no help
            other = f" or '{WORDS[name]}'" if name in WORDS else " or None" if name in OPTIONAL else ""
            raise UserError(f"{name} is {value!r:.80}; it must be {what}{right}{other}")
