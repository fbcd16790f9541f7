"""Two exceptions with a message for people: UserError for a mistake of theirs, Fault for a run that cannot go on."""

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path

# What the algorithms' own numbers may be, both ends included; make_envs and accel.setup check theirs.
RANGES = {
    **dict.fromkeys(("gamma", "lam", "backtrack_coeff", "polyak", "noise_corr"), (0, 1)),
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
    **dict.fromkeys(("delta", "damping_coeff"), (0, math.inf)),
}
# What those that are words may be.
CHOICES = {
    "value_target": ("gae", "rtg"),
    "algo": ("trpo", "npg"),
    "matmul_precision": ("highest", "high", "medium"),
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


class UserError(ValueError):
    """A mistake of the user's: says in one line what was wrong and what would be right; the command exits with 2."""


class Fault(RuntimeError):
    """A run that cannot go on, through no fault of the command's: says in one line what failed, where and when.

    The command line prints that line, after the traceback of what caused it where there is one, and exits with 1.
    """


def first_line(error: BaseException) -> str:
    """An exception's class and message, in one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"


def closest(word: str, choices: Iterable[str]) -> str:
    """The hint "; did you mean 'x'?" for the choice most like `word`, or "" where none is near."""
    match = difflib.get_close_matches(str(word), list(choices), n=1)
    return f"; did you mean '{match[0]}'?" if match else ""


def check_arguments(arguments: Mapping) -> None:
    """Raise UserError for the first of an algorithm's arguments that is not what it may be; None is always right."""
    for name, value in arguments.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{name} is {value!r}; it must be one of {', '.join(CHOICES[name])}")
        if name in RANGES and value not in (None, WORDS.get(name)):
            low, high = RANGES[name]
            right = f" in {low} to {high}" if high < math.inf else f" at least {low}" if low > -math.inf else ""
            word = f" or '{WORDS[name]}'" if name in WORDS else ""
            if not isinstance(value, Real) or not low <= value <= high or math.isinf(value):
                raise UserError(f"{name} is {value!r}; it must be a number{right}{word}")
