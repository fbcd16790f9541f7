"""Two exceptions with a message for people: UserError for a mistake of theirs, Fault for a run that cannot go on."""

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path

# What the algorithms' numbers may be, both ends included.
RANGES = {
    **dict.fromkeys(("gamma", "lam", "backtrack_coeff", "polyak"), (0, 1)),
    "noise_corr": (0, 0.999),  # with 1 the noise would stay what it is at first: 0
    **dict.fromkeys(("steps_per_epoch", "epochs", "minibatch_size", "batch_size", "cg_iters"), (1, math.inf)),
    **dict.fromkeys(("save_freq", "num_test_episodes", "replay_size", "update_every"), (1, math.inf)),
    **dict.fromkeys(("n_step", "policy_delay"), (1, math.inf)),
    **dict.fromkeys(("start_steps", "update_after", "replay_ratio"), (0, math.inf)),
    **dict.fromkeys(("lr", "q_lr", "act_noise", "target_noise", "noise_clip", "alpha"), (0, math.inf)),
    "target_entropy": (-math.inf, math.inf),
    **dict.fromkeys(
        ("train_pi_iters", "train_v_iters", "backtrack_iters", "eval_freq", "checkpoint_freq"), (0, math.inf)
    ),
    **dict.fromkeys(("pi_lr", "vf_lr", "max_grad_norm", "clip_ratio", "vf_clip", "target_kl"), (0, math.inf)),
    **dict.fromkeys(("delta", "damping_coeff", "ent_coef"), (0, math.inf)),
    "seed": (0, 2**32 - 1),
    "threads": (1, 256),
    "num_envs": (1, 10_000),  # seeds of MPI processes are that far apart
    "max_ep_len": (1, math.inf),
}
# What those that are words may be.
CHOICES = {
    "value_target": ("gae", "rtg"),
    "algo": ("trpo", "npg"),
    "matmul_precision": ("highest", "high", "medium"),
}
# Which of the numbers are whole, and which may be None.
WHOLE = {
    *("steps_per_epoch", "epochs", "minibatch_size", "batch_size", "cg_iters", "save_freq", "num_test_episodes"),
    *("replay_size", "update_every", "n_step", "policy_delay", "start_steps", "update_after", "train_pi_iters"),
    *("train_v_iters", "backtrack_iters", "eval_freq", "checkpoint_freq", "seed", "threads", "num_envs", "max_ep_len"),
}
OPTIONAL = {"minibatch_size", "target_kl", "vf_clip", "max_grad_norm", "target_entropy"}
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
    """A mistake of the user's: says in one line what was wrong and what would be right; the command exits with 2."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")  # part of it may come from a file


class Fault(RuntimeError):
    """A run that cannot go on, through no fault of the command's: says in one line what failed, where and when.

    The command line prints that line, after the traceback of what caused it where there is one, and exits with 1.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


def first_line(error: BaseException) -> str:
    """An exception's class and message, in one line of bounded length."""
    return f"{type(error).__name__}: {printable(' '.join(str(error).split())):.200}"


def closest(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """The hint "; did you mean 'x'?" for the choice most like `word`, after `prefix`, or "" where none is near."""
    match = difflib.get_close_matches(str(word), list(choices), n=1)
    return f"; did you mean '{prefix}{match[0]}'?" if match else ""


def check_arguments(arguments: Mapping) -> None:
    """Raise UserError for the first of an algorithm's arguments that is not what it may be."""
    for name, value in arguments.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{name} is {value!r}; it must be one of {', '.join(CHOICES[name])}")
        if name not in RANGES or (value is None and name in OPTIONAL) or value == WORDS.get(name, math.nan):
            continue
        low, high = RANGES[name]
        kind, what = (Integral, "a whole number") if name in WHOLE else (Real, "a number")
        if not isinstance(value, kind) or not low <= value <= high or math.isinf(value):
            right = f" in {low} to {high}" if high < math.inf else f" at least {low}" if low > -math.inf else ""
            other = f" or '{WORDS[name]}'" if name in WORDS else " or None" if name in OPTIONAL else ""
            raise UserError(f"{name} is {value!r}; it must be {what}{right}{other}")
