"""What may be wrong with an algorithm's arguments, and how it is told."""

import math
from pathlib import Path

import pytest

from spinup import errors
from spinup.errors import UserError, check_arguments, closest, install

ROOT = Path(__file__).parents[1]


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
        check_arguments({"seed": 0, name: value})
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
        check_arguments({"seed": 0, name: value})
    assert str(error.value) == f"{name} is {value!r}; it must be a whole number {right}"


def test_both_ends_and_none_are_right():
    check_arguments({"gamma": 0, "lam": 1, "epochs": 1, "train_v_iters": 0, "target_kl": None, "unknown": "anything"})


def test_a_word_that_is_no_choice_is_named_with_the_choices():
    with pytest.raises(UserError, match=r"^value_target is 'mc'; it must be one of gae, rtg$"):
        check_arguments({"value_target": "mc"})


def test_closest():
    assert closest("epoch", ["epochs", "gamma"]) == "; did you mean 'epochs'?"
    assert closest("zzz", ["epochs", "gamma"]) == ""


def test_an_extra_comes_from_this_package_and_not_from_one_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert install("mpi") == 'pip install -e ".[mpi]"'
    monkeypatch.chdir(tmp_path)
    assert install("mpi") == f'pip install -e "{ROOT}[mpi]"'
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "spinup" / "errors.py"))
    assert install("mpi") == 'pip install "spinup[mpi]"'
