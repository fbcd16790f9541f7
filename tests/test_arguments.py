"""Invalid arguments of algorithms, the messages about them, and help()."""

import inspect
import math

import pytest

import spinup
from spinup.algorithm import files, find
from spinup.arguments import check_arguments
from spinup.errors import UserError

EVERY = {name: argument for algo in files() for name, argument in find(algo).arguments.items()}


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("gamma", 2.0, "in 0 to 1"),
        ("gamma", -0.1, "in 0 to 1"),
        ("lam", math.nan, "in 0 to 1"),
        ("gamma", None, "in 0 to 1"),
        ("noise_corr", 1.0, "in 0 to 0.999"),
        ("pi_lr", math.inf, "in 0 to 1000000000000"),
        ("pi_lr", "fast", "at least 0"),
        ("max_grad_norm", -1.0, "at least 0 or None"),
        ("alpha", None, "at least 0 or 'auto'"),
    ],
)
def test_a_number_out_of_range_is_named_with_the_range(name, value, right):
    with pytest.raises(UserError) as error:
        check_arguments(EVERY, {"seed": 0, name: value})
    assert str(error.value) == f"{name} is {value!r}; it must be a number {right}"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("epochs", 0, "at least 1"),
        ("epochs", None, "at least 1"),
        ("steps_per_epoch", 64.0, "at least 1"),
        ("replay_size", 1e6, "at least 1"),
        ("minibatch_size", 0, "at least 1 or None"),
        ("train_pi_iters", -1, "at least 0"),
    ],
)
def test_a_number_that_must_be_whole(name, value, right):
    with pytest.raises(UserError) as error:
        check_arguments(EVERY, {"seed": 0, name: value})
    assert str(error.value) == f"{name} is {value!r}; it must be a whole number {right}"


def test_both_bounds_and_none_are_valid():
    check_arguments(
        EVERY, {"gamma": 0, "lam": 1, "epochs": 1, "train_v_iters": 0, "target_kl": None, "unknown": "anything"}
    )


def test_an_invalid_choice_is_named_with_the_choices():
    with pytest.raises(UserError, match=r"^value_target is 'mc'; it must be one of gae, rtg$"):
        check_arguments(EVERY, {"value_target": "mc"})


COUNTS = [
    name for name, a in EVERY.items() if a.range and a.range.high >= 10**6 and float not in a.types and name != "seed"
]


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("value", [2**63, 10**30])
def test_counts_too_large_for_any_run(name, value):
    with pytest.raises(UserError, match=f"^{name} is {value}; it must be a.* in [01] to 10*( or None)?$"):
        check_arguments(EVERY, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anneal_lr", "x"), ("capture", 1), ("normalize_obs", None), ("ac_kwargs", 3), ("logger_kwargs", [1]),
        ("env_kwargs", "x"), ("device", None), ("device", [0]), ("vectorization", "asinc"), ("vectorization", {}),
        ("seed", "1" * 5000), ("gamma", [[[]]]), ("num_envs", True),
        ("target_entropy", 10**40), ("target_entropy", -(10**40)), ("lr", 10**20),
    ],
)  # fmt: skip
def test_arguments_of_the_wrong_type(name, value):
    with pytest.raises(UserError, match=f"^{name} is ") as error:
        check_arguments(EVERY, {name: value})
    assert len(str(error.value)) < 200


def test_help_explains_every_argument():
    for algo in files():
        function = getattr(spinup, algo)
        explained = [line.partition(":")[0] for line in function.__doc__.splitlines()[2:] if not line.startswith(" ")]
        assert explained == list(inspect.signature(function).parameters)


def test_signatures_in_help_have_plain_types():
    assert inspect.signature(spinup.ppo).parameters["gamma"].annotation is float
    assert inspect.signature(spinup.ppo).parameters["clip_ratio"].annotation is float
