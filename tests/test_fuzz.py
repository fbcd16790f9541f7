"""Corrupted files: each is either read as it was written or refused in one line.

Fuzz tests of the command line are in test_cli.py and test_run.py, those of checkpoints in test_faults.py.
"""

import contextlib
import inspect
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import spinup
from spinup.analysis import play as watch
from spinup.analysis import results
from spinup.errors import Fault, UserError
from spinup.runs.config import read_config

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("run") / "x_s0"
    spinup.vpg(
        "CartPole-v1",
        num_envs=1,
        steps_per_epoch=40,
        epochs=2,
        ac_kwargs=dict(hidden_sizes=[8]),
        logger_kwargs=dict(output_dir=str(folder), exp_name="x", quiet=True),
    )
    return folder


@st.composite
def corrupted(draw, good: bytes) -> bytes:
    """`good` with bits flipped, truncated, with bytes inserted, or replaced altogether."""
    kind = draw(st.sampled_from(["bits", "cut", "insert", "other"]))
    if kind == "other":
        return draw(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
    if kind == "cut":
        return good[: draw(st.integers(0, len(good)))]
    if kind == "insert":
        where = draw(st.integers(0, len(good)))
        return good[:where] + draw(st.binary(min_size=1, max_size=20)) + good[where:]
    changed = bytearray(good)
    for bit in draw(st.lists(st.integers(0, 8 * len(good) - 1), min_size=1, max_size=8)):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def read_corrupted(file, content: bytes, read):
    """What `read` returns while `file` has this content; None if it is refused."""
    good, refusal = file.read_bytes(), ""
    try:
        file.write_bytes(content)
        return read()
    except UserError as error:
        refusal = str(error)
    finally:
        file.write_bytes(good)
    assert refusal
    assert "\n" not in refusal


@FUZZ
@given(data=st.data())
def test_config(run, data):
    file = run / "config.json"
    bad = data.draw(corrupted(file.read_bytes()))
    read_corrupted(file, bad, lambda: read_config(run))


def nested(depth: int) -> list:
    value = []
    for _ in range(depth):
        value = [value]
    return value


DEEP = "500 nested lists"  # replaced by them in `odd`, since hypothesis can't print them
ODD = [None, True, 0, -1, 2**63, 10**400, 3.5, 1e300, math.nan, math.inf, "", "x", "a" * 5000, "1", "\x1b[31m"]
ODD += ["os:system", [], [0], [-1], [[1]], ["x"], [10**9], {}, {"sparsity": []}, DEEP]
PLACES = ["run", "exp_name", "ac_kwargs:hidden_sizes", "ac_kwargs:linear", "ac_kwargs:activation"]
PLACES += ["ac_kwargs:orthogonal", "ac_kwargs:log_std_init", "run:resumed", "run:processes"]
IN_AC_KWARGS = ["hidden_sizes", "linear", "activation", "orthogonal", "unknown"]
PLACES += ["algorithm", *inspect.signature(spinup.vpg).parameters]


def odd(value):
    return nested(500) if value == DEEP else value


def test_unusual_values_in_a_config_that_is_loaded_or_resumed(run):
    file = run / "config.json"
    good = json.loads(file.read_text())
    variants = [(key, {**good, key: odd(value)}) for key, value in itertools.product(good, ODD)]
    for key, value in itertools.product(IN_AC_KWARGS, ODD):
        variants.append(("ac_kwargs", {**good, "ac_kwargs": {key: odd(value)}}))
    for key, config in variants:
        bad = json.dumps(config).encode()
        read_corrupted(file, bad, lambda: watch.load(run))
        if key not in ("epochs", "steps_per_epoch"):
            read_corrupted(file, bad, lambda: spinup.resume(run))  # its two epochs are done, so it never trains


@settings(FUZZ, max_examples=60)
@given(where=st.sampled_from(PLACES), value=st.sampled_from(ODD))
@example(where="run", value=[1])
@example(where="run:resumed", value=3.5)
@example(where="ac_kwargs:linear", value={"sparsity": []})
@example(where="ac_kwargs:linear", value=True)
@example(where="ac_kwargs:hidden_sizes", value=[10**9])
@example(where="ac_kwargs:hidden_sizes", value=True)
@example(where="device", value=None)
@example(where="normalize_obs", value="x")
@example(where="run", value=DEEP)
def test_unusual_values_in_a_config_of_a_run_that_continues(run, tmp_path_factory, where, value):
    config = json.loads((run / "config.json").read_text())
    *outer, key = where.split(":")
    (config[outer[0]] if outer else config)[key] = odd(value)
    folder = tmp_path_factory.mktemp("odd") / "x_s0"
    shutil.copytree(run, folder)
    (folder / "config.json").write_text(json.dumps(config))
    results.table(results.load([str(folder)]))
    if where != "logger_kwargs" or not isinstance(value, dict) or not value:
        with contextlib.suppress(UserError, Fault):
            spinup.resume(folder, epochs=3)


@FUZZ
@given(data=st.data())
@example(data=None)
def test_progress(run, data):
    file = run / "progress.txt"
    bad = b"" if data is None else data.draw(corrupted(file.read_bytes()))
    table = read_corrupted(file, bad, lambda: results.load([str(run)]))
    if table is not None:
        assert len(table) <= bad.count(b"\n") + 1


@pytest.mark.parametrize("content", [b"A\tB\n" + b"1\t2\n" * 500_000, b"\t" * 1_000_000, b"\x00" * 1_000_000])
def test_huge_progress(run, content):
    read_corrupted(run / "progress.txt", content, lambda: results.load([str(run)]))


@FUZZ
@given(data=st.data())
def test_model(run, data):
    """If a corrupted file can be loaded, it is the policy that was saved."""
    file = run / "model.pt"
    good = torch.load(file, weights_only=True)
    state = read_corrupted(file, data.draw(corrupted(file.read_bytes())), lambda: watch.read_parameters(file))
    if state is not None:
        assert state.keys() == {key for key in good if not key.startswith(watch.TRAINING_ONLY)}
        for key, value in state.items():
            np.testing.assert_array_equal(value, good[key])
