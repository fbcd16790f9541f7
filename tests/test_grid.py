"""ExperimentGrid: names as the original documents them, all different, and runs that don't affect each other."""

import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spinup.compute import mpi
from spinup.errors import UserError
from spinup.experiments import grid as grid_module
from spinup.experiments.grid import ExperimentGrid, default_shorthand, physical_cores, valid_str


def make(name="", **settings):
    """A grid from key=values, with `__` for `:`."""
    grid = ExperimentGrid(name)
    for key, vals in settings.items():
        grid.add(key.replace("__", ":"), vals)
    return grid


def names(grid):
    return [grid.variant_name(variant) for variant in grid.variants()]


# ---- the original's documented examples


def test_names_of_the_command_line_example():
    grid = ExperimentGrid("")
    grid.add("env_name", ["Hopper-v2"])
    grid.add("ac_kwargs:hidden_sizes", [[300], [128, 128]], "h")
    grid.add("ac_kwargs:activation", ["Tanh", "ReLU"])
    assert names(grid) == ["h300_ac-acttanh", "h300_ac-actrelu", "h128-128_ac-acttanh", "h128-128_ac-actrelu"]


def test_name_of_the_quickstart_example():
    grid = ExperimentGrid("ppo_ant")
    grid.add("env_name", "Ant-v2")
    grid.add("clip_ratio", [0.1, 0.2])
    grid.add("ac_kwargs:hidden_sizes", [[32, 32], [64, 32]], "h")
    grid.add("ac_kwargs:activation", torch.nn.Tanh)
    grid.add("seed", [0, 10, 20])
    assert len(names(grid)) == 12
    assert sorted(set(names(grid))) == [f"ppo_ant_cli0-{c}_h{h}-32" for c in (1, 2) for h in (32, 64)]


def test_names_of_the_script_example():
    grid = ExperimentGrid(name="ppo-pyt-bench")
    grid.add("env_name", "CartPole-v0", "", True)
    grid.add("seed", [10 * i for i in range(3)])
    grid.add("epochs", 10)
    grid.add("ac_kwargs:hidden_sizes", [(32,), (64, 64)], "hid")
    grid.add("ac_kwargs:activation", [torch.nn.Tanh, torch.nn.ReLU], "")
    assert list(dict.fromkeys(names(grid))) == [
        f"ppo-pyt-bench_cartpole-v0_hid{h}_{a}" for h in ("32", "64-64") for a in ("tanh", "relu")
    ]


# ---- variants and names


def test_variants_are_nested_and_the_last_key_varies_fastest():
    grid = make(a__b=[1, 2], c=3, a__d__e=["x", "y"])
    assert grid.variants() == [
        {"a": {"b": 1, "d": {"e": "x"}}, "c": 3},
        {"a": {"b": 1, "d": {"e": "y"}}, "c": 3},
        {"a": {"b": 2, "d": {"e": "x"}}, "c": 3},
        {"a": {"b": 2, "d": {"e": "y"}}, "c": 3},
    ]
    grid.variants()[0]["a"]["b"] = 9
    assert grid.variants()[0]["a"]["b"] == 1


def test_seed_is_never_in_the_name():
    grid = ExperimentGrid("g")
    grid.add("seed", [0, 1], "s", in_name=True)
    assert names(grid) == ["g", "g"]


def test_boolean_keys_are_shown_if_true():
    assert names(make("g", anneal=[True, False], lam=[0.9, 1])) == ["g_ann_lam0-9", "g_ann_lam1", "g_lam0-9", "g_lam1"]
    assert names(make("g", anneal=[True, None])) == ["g_anntrue", "g_annnone"]


def test_single_values_are_shown_only_with_in_name():
    grid = ExperimentGrid("g")
    grid.add("lam", 0.9)
    grid.add("gamma", [0.99], in_name=True)
    assert names(grid) == ["g_gam0-99"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("CartPole-v1", "cartpole-v1"),
        (1e-3, "0-001"),
        (-0.5, "-0-5"),
        (1e-05, "1e-05"),
        ([64, (32, 1)], "64-32-1"),
        (torch.nn.ReLU, "relu"),
        ("my_module:Env-v0", "my_module-env-v0"),
        ("a/../b c", "a----b-c"),
        ("\u00c4rger", "-rger"),
    ],
)
def test_valid_str(value, text):
    assert valid_str(value) == text


@pytest.mark.parametrize(
    ("key", "text"),
    [("clip_ratio", "cli"), ("ac_kwargs:activation", "ac-act"), ("ac_kwargs:hidden_sizes", "ac-hid"), ("l", "l")],
)
def test_default_shorthand(key, text):
    assert default_shorthand(key) == text


# ---- collisions


@pytest.mark.parametrize(
    ("keys", "short"),
    [
        (["train_pi_iters"], ["tra"]),
        (["train_pi_iters", "train_v_iters"], ["trainp", "trainv"]),
        (["train_pi_iters", "gamma", "train_v_iters"], ["trainp", "gam", "trainv"]),
        (["normalize_obs", "normalize_rew", "normalize_adv"], ["normalizeo", "normalizer", "normalizea"]),
        (["pi_lr", "pi_lr_min"], ["pilr", "pilrm"]),
        (["ac_kwargs:hidden_sizes", "ac_kwargs:hidden_act"], ["ackwarg-hiddens", "ackwarg-hiddena"]),
        (["a_b", "ab"], ["a_b", "ab"]),
    ],
)
def test_only_shorthands_that_collide_are_longer(keys, short):
    grid = make(**{key.replace(":", "__"): [1, 2] for key in keys})
    assert list(grid.shorthands().values()) == short


def test_keys_that_names_do_not_show_have_no_shorthand():
    assert make(train_pi_iters=[1, 2], train_v_iters=80).shorthands() == {"train_pi_iters": "tra"}


def test_a_default_shorthand_avoids_given_ones():
    grid = ExperimentGrid()
    grid.add("gamma", [1, 2], "lam")
    grid.add("lambda_decay", [1, 2])
    assert grid.shorthands() == {"gamma": "lam", "lambda_decay": "lamb"}


KEYS = st.lists(st.text("ab_:", min_size=1, max_size=8).filter(lambda k: all(k.split(":"))), min_size=2, unique=True)


@settings(deadline=None)
@given(KEYS)
def test_shorthands_differ(keys):
    grid = ExperimentGrid()
    for key in keys:
        try:
            grid.add(key, [1, 2])
        except UserError:
            continue
    short = list(grid.shorthands().values())
    assert len(set(short)) == len(short)


# ---- what is refused


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a", "a", "'a' and 'a' set the same argument; give it once"),
        ("a", "a:b", "'a:b' and 'a' set the same argument; give it once"),
        ("a:b:c", "a:b", "'a:b' and 'a:b:c' set the same argument; give it once"),
        ("a", "b:", "'b:' is not a name, such as key or key:sub"),
        ("a", "", "'' is not a name, such as key or key:sub"),
    ],
)
def test_add_refuses(first, second, message):
    grid = ExperimentGrid()
    grid.add(first, 1)
    with pytest.raises(UserError) as error:
        grid.add(second, 1)
    assert str(error.value) == message


def test_add_refuses_no_values():
    with pytest.raises(UserError, match="'a' has no values"):
        ExperimentGrid().add("a", [])


@pytest.mark.parametrize("vals", [[0.5, 0.7, 0.5], [(64, 64), (64, 64)]])
def test_add_refuses_a_value_given_twice(vals):
    with pytest.raises(UserError) as error:
        ExperimentGrid().add("a", vals)
    assert str(error.value) == f"'a' has the value {vals[-1]} 2 times; give each value once"


def test_run_refuses_two_runs_with_the_same_name(data_dir):
    with pytest.raises(UserError, match=r"2 runs of the grid would be named 'g_lama-b' with seed 0"):
        make("g", lam=["a/b", "a-b"]).run(pytest.fail)
    assert not data_dir.exists()


@pytest.mark.parametrize("name", ["num_cpu", "jobs"])
@pytest.mark.parametrize("number", [0, 1.5, "many", None])
def test_run_refuses_an_invalid_number_of_processes(name, number, data_dir):
    with pytest.raises(UserError) as error:
        make("g", lam=[1, 2]).run(pytest.fail, **{name: number})
    assert str(error.value) == f"{name} is '{number}'; it must be auto or a whole number from 1, for example 4"
    assert not data_dir.exists()


# ---- runs


def test_run_passes_the_variant_and_a_folder(data_dir):
    calls = []
    grid = make("g", env_name=["CartPole-v1"], seed=[3, 4], lam=[0.9, 1.0], ac_kwargs__x=[1])
    runs = grid.run(lambda **kwargs: calls.append(kwargs), logger_kwargs={"quiet": True})
    folders = [str(data_dir / name / f"{name}_s{s}") for s in (3, 4) for name in ("g_lam0-9", "g_lam1-0")]
    assert calls == [
        {
            "env_fn": "CartPole-v1",
            "seed": seed,
            "lam": lam,
            "ac_kwargs": {"x": 1},
            "logger_kwargs": {"quiet": True, "output_dir": folder, "exp_name": name},
        }
        for (seed, lam, name), folder in zip(
            [(3, 0.9, "g_lam0-9"), (3, 1.0, "g_lam1-0"), (4, 0.9, "g_lam0-9"), (4, 1.0, "g_lam1-0")],
            folders,
            strict=True,
        )
    ]
    assert [(r.name, r.seed, r.folder, r.outcome) for r in runs] == [
        (c["logger_kwargs"]["exp_name"], c["seed"], c["logger_kwargs"]["output_dir"], "done") for c in calls
    ]


def test_run_adds_a_default_seed_and_name(data_dir):
    calls = []
    ExperimentGrid().run(lambda **kwargs: calls.append(kwargs), data_dir="here", datestamp=False)
    logger_kwargs = {"output_dir": str(Path("here/experiment/experiment_s0")), "exp_name": "experiment"}
    assert calls == [{"seed": 0, "logger_kwargs": logger_kwargs}]


def test_run_with_datestamp(data_dir):
    (run,) = ExperimentGrid("g").run(lambda **kwargs: None, datestamp=True)
    relative = Path(run.folder).relative_to(data_dir).as_posix()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_g/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-g_s0", relative)


def test_thunk_can_be_a_key():
    called = []
    grid = ExperimentGrid("g")
    grid.add("algo", [lambda **kwargs: called.append(("a", set(kwargs))), lambda **kwargs: called.append(("b", None))])
    grid.settings["algo"].vals[0].__name__, grid.settings["algo"].vals[1].__name__ = "first", "second"
    runs = grid.run("algo")
    assert called == [("a", {"seed", "logger_kwargs"}), ("b", None)]
    assert [run.name for run in runs] == ["g_algfirst", "g_algsecond"]


def test_a_thunk_that_is_not_a_key_is_refused():
    grid = ExperimentGrid("g")
    grid.add("lam", [0.9])
    with pytest.raises(UserError, match="'ppo' is not a key of the grid; pass an algorithm"):
        grid.run("ppo")


def fails(seed, logger_kwargs):
    if seed == 1:
        raise UserError("a mistake\nin two lines")
    if seed == 2:
        raise ZeroDivisionError("a bug")


def test_a_failed_run_is_reported_and_the_others_continue(capsys):
    runs = make("g", seed=[0, 1, 2, 3]).run(fails)
    assert [run.outcome for run in runs] == ["done", "wrong input", "failed", "done"]
    out, err = capsys.readouterr()
    assert err.startswith("spinup: error: g, seed 1: a mistake\\nin two lines\nTraceback (most recent call last):\n")
    assert err.endswith("ZeroDivisionError: a bug\nspinup: error: g, seed 2: a bug\n")
    rows = [line.split() for line in out.splitlines()[-5:]]
    assert [(row[2], row[-1]) for row in rows[:4]] == [("0", "done"), ("1", "input"), ("2", "failed"), ("3", "done")]
    assert " ".join(rows[4]) == "2 of 4 runs done, 2 not"


def test_a_single_run_raises():
    with pytest.raises(ZeroDivisionError):
        make(seed=2).run(fails)


def test_an_interrupt_ends_the_grid():
    def interrupted(seed, logger_kwargs):
        assert seed == 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(seed=[0, 1]).run(interrupted)


def test_a_failure_under_mpi_raises(monkeypatch):
    monkeypatch.setattr(mpi, "num_procs", lambda: 2)
    with pytest.raises(UserError, match="a mistake"):
        make(seed=[1, 3]).run(fails)


def test_quiet_prints_nothing(capsys):
    make(seed=[0, 3]).run(fails, logger_kwargs={"quiet": True})
    assert capsys.readouterr().out == ""


def test_num_cpu_starts_processes(monkeypatch):
    asked = []
    monkeypatch.setattr(mpi, "mpi_fork", asked.append)
    monkeypatch.setattr(grid_module, "physical_cores", lambda: 7)
    for num_cpu in (1, 3, "auto"):
        make(seed=0).run(fails, num_cpu=num_cpu)
    assert asked == [1, 3, 7]


def test_physical_cores():
    assert 1 <= physical_cores() <= os.cpu_count()


def test_print(capsys):
    grid = make("g", env_name="CartPole-v1", lam=[0.9, 1], seed=[0, 1])
    grid.add("act", torch.nn.Tanh, "", True)
    grid.print()
    assert capsys.readouterr().out.splitlines() == [
        "Grid 'g': 4 runs",
        "  env_name: CartPole-v1",
        "  lam [lam]: 0.9, 1",
        "  seed: 0, 1",
        "  act: tanh",
        "  -> g_lam0-9_tanh x 2 seeds",
        "  -> g_lam1_tanh x 2 seeds",
    ]
