"""Runs that start from another run's networks, resume with other arguments, or end before their last epoch."""

import inspect
import json
import math

import numpy as np
import pytest
import torch
from probes import ALGORITHMS, OFF_POLICY, taken
from test_resume import table

import spinup
from spinup.errors import UserError
from spinup.experiments.resume import main
from spinup.run import main as command

SMALL = dict(
    num_envs=2, steps_per_epoch=40, epochs=4, checkpoint_freq=1, max_ep_len=20, ac_kwargs=dict(hidden_sizes=[8])
)
SMALL |= dict(train_pi_iters=1, train_v_iters=1)
SMALL |= dict(start_steps=10, update_after=10, update_every=5, batch_size=4, replay_size=200, eval_freq=0)
RUNS = {  # environment, and the settings that the algorithm accepts
    algo: ("Pendulum-v1" if algo in OFF_POLICY else "CartPole-v1", taken(algo, SMALL)) for algo in ALGORITHMS
}


def train(algo, folder, **more):
    env, settings = RUNS[algo]
    logger_kwargs = dict(output_dir=str(folder), exp_name="x", quiet=True, resume=more.pop("resume", False))
    return getattr(spinup, algo)(more.pop("env", env), **{**settings, **more}, logger_kwargs=logger_kwargs)


def rows(folder):
    return len((folder / "progress.txt").read_text().splitlines()) - 1


def config(folder):
    return json.loads((folder / "config.json").read_text())


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# ---- warm start


def checkpoint_of(folder, step):
    return torch.load(folder / "checkpoint" / str(step) / "rank0.pt", weights_only=True)["parts"]


@pytest.mark.parametrize("algo", RUNS)
def test_a_run_starts_with_the_networks_of_another(algo, tmp_path):
    """With learning rates of 0, they are unchanged at the end, including those of the target networks."""
    ac = train(algo, tmp_path / "a")
    frozen = {name: 0.0 for name in ("lr", "pi_lr", "vf_lr", "q_lr") if name in parameters_of(algo)}
    frozen |= dict(delta=0.0) if algo == "trpo" else {}
    more = dict(seed=7, epochs=1, init_from=str(tmp_path / "a"), **frozen)
    new = train(algo, tmp_path / "b", **more)
    for name, value in new.state_dict().items():
        if "norm" in name or "temperature" in name:
            continue
        torch.testing.assert_close(value, ac.state_dict()[name], rtol=0, atol=1e-5, msg=name)
    assert config(tmp_path / "b")["init_from"] == str(tmp_path / "a")
    if ALGORITHMS[algo].defaults.get("polyak"):
        parts = checkpoint_of(tmp_path / "b", 40)
        critic = {"dqn": "q.", "ddpg": "critic.0."}.get(algo, "critic.")  # DDPG's target has only one critic
        for name, value in parts["q_targ"].items():
            torch.testing.assert_close(value, ac.state_dict()[f"{critic}{name}"], rtol=0, atol=1e-5)


def parameters_of(algo):
    return inspect.signature(getattr(spinup, algo)).parameters


def test_normalizers_are_loaded_and_updated(tmp_path):
    ac = train("ppo", tmp_path / "a")
    new = train("ppo", tmp_path / "b", epochs=1, init_from=str(tmp_path / "a" / "model_best.pt"))
    best = torch.load(tmp_path / "a" / "model_best.pt", weights_only=True)
    assert int(ac.obs_norm.count) == 160
    assert int(new.obs_norm.count) == int(best["obs_norm.count"]) + 40
    assert int(new.rew_norm.count) == int(best["rew_norm.count"]) + 40


def test_the_temperature_is_loaded_only_if_both_runs_adjust_it(tmp_path):
    train("sac", tmp_path / "a")
    alpha = math.exp(torch.load(tmp_path / "a" / "model.pt", weights_only=True)["temperature.log_alpha"])
    assert alpha != pytest.approx(1.0, abs=1e-4)
    more = dict(epochs=1, init_from=str(tmp_path / "a"), lr=0.0)
    auto, fixed = train("sac", tmp_path / "b", **more), train("sac", tmp_path / "c", alpha=0.3, **more)
    assert auto.temperature.log_alpha.exp().item() == pytest.approx(alpha)
    assert fixed.temperature.log_alpha.exp().item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(ac_kwargs=dict(hidden_sizes=[9])), "actor.net.1.0.weight has the shape (8, 4), but (9, 4) in this run"),
        (dict(env="Acrobot-v1"), "actor.net.1.0.weight has the shape (8, 4), but (8, 6) in this run"),
        (dict(normalize_obs=False), "has obs_norm.mean, which this run lacks"),
        (dict(env="Pendulum-v1"), "lacks actor.log_std, which this run has"),
        (
            dict(ac_kwargs=dict(hidden_sizes=[8, 8])),
            "actor.net.1.2.weight has the shape (2, 8), but (8, 8) in this run",
        ),
    ],
)
def test_networks_of_other_shapes(tmp_path, more, message):
    train("vpg", tmp_path / "a")
    assert message in error_of(train, "ppo", tmp_path / "b", init_from=str(tmp_path / "a"), **more)


@pytest.mark.parametrize("source", ["none", "none.pt", ".", "", 3])
def test_init_from_something_that_is_not_a_run(tmp_path, source):
    source = str(tmp_path / source) if isinstance(source, str) else source
    assert f"init_from is {source!r}; " in error_of(train, "vpg", tmp_path / "b", init_from=source)
    assert not (tmp_path / "b").exists()


def test_a_resumed_run_does_not_load_init_from_again(tmp_path):
    train("ppo", tmp_path / "a")
    train("ppo", tmp_path / "b", init_from=str(tmp_path / "a"))
    whole = train("ppo", tmp_path / "c", init_from=str(tmp_path / "a"), epochs=6, anneal_lr=False)
    train("ppo", tmp_path / "d", init_from=str(tmp_path / "a"), epochs=4, anneal_lr=False)
    (tmp_path / "a" / "model.pt").unlink()
    resumed = spinup.resume(tmp_path / "d", epochs=6)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


# ---- resume with other arguments


def test_a_changed_learning_rate_is_used_and_recorded(tmp_path):
    train("ppo", tmp_path / "a", anneal_lr=False)
    before = torch.load(tmp_path / "a" / "model.pt", weights_only=True)
    main([str(tmp_path / "a"), "--epochs", "5", "--pi_lr", "0", "--vf_lr=0.5"])
    after = torch.load(tmp_path / "a" / "model.pt", weights_only=True)
    assert torch.equal(before["actor.net.1.0.weight"], after["actor.net.1.0.weight"])
    assert (before["critic.1.0.weight"] - after["critic.1.0.weight"]).abs().max() > 0.1
    recorded = config(tmp_path / "a")
    assert (recorded["pi_lr"], recorded["vf_lr"], recorded["epochs"]) == (0.0, 0.5, 5)
    (changed,) = recorded["run"]["changed"]
    assert {k: v for k, v in changed.items() if k != "time"} == {
        "epochs": [4, 5],
        "pi_lr": [3e-4, 0.0],
        "vf_lr": [3e-4, 0.5],
    }
    spinup.resume(tmp_path / "a", epochs=6, gamma=0.5)
    assert config(tmp_path / "a")["pi_lr"] == 0.0  # unchanged
    assert [entry["epochs"] for entry in config(tmp_path / "a")["run"]["changed"]] == [[4, 5], [5, 6]]


def test_device_and_evaluation_can_change(tmp_path):
    train("vpg", tmp_path / "a", eval_freq=1)
    spinup.resume(tmp_path / "a", epochs=5, device="cpu:0", num_test_envs=1, num_test_episodes=2)
    assert config(tmp_path / "a")["device"] == "cpu:0"
    assert rows(tmp_path / "a") == 5


def test_arguments_that_cannot_change(tmp_path):
    train("vpg", tmp_path / "a")
    for name, value in dict(seed=3, num_envs=4, normalize_obs=False, q_lr=0.1, nothing=1).items():
        assert f"{name} cannot be changed when a run of vpg is resumed" in error_of(
            spinup.resume, tmp_path / "a", 5, **{name: value}
        )
    assert "pi_lr takes a number" in error_of(main, [str(tmp_path / "a"), "--epochs", "5", "--pi_lr", "much"])
    assert "pi_lr is -1" in error_of(spinup.resume, tmp_path / "a", 5, pi_lr=-1)
    for flag in ("--seed", "--num_envs"):
        assert f"{flag[2:]} cannot be changed when a run of vpg is resumed" in error_of(
            main, [str(tmp_path / "a"), flag, "5"]
        )
    assert "q_lr cannot be changed when a run of vpg is resumed" in error_of(main, [str(tmp_path / "a"), "--q_lr", "5"])
    assert "ac_kwargs['hidden_sizes'] cannot be changed" in error_of(
        spinup.resume, tmp_path / "a", 5, ac_kwargs=dict(hidden_sizes=[9])
    )
    assert rows(tmp_path / "a") == 4


# ---- early stopping


@pytest.mark.parametrize("algo", RUNS)
def test_a_run_ends_at_a_return(algo, tmp_path):
    train(algo, tmp_path / "a", stop_at=-1e6)
    assert rows(tmp_path / "a") == 1
    for file in ("model.pt", "model_best.pt", "checkpoint/40/manifest.json"):
        assert (tmp_path / "a" / file).exists(), file


def test_a_return_that_is_not_reached(tmp_path):
    train("vpg", tmp_path / "a", stop_at=1e6)
    assert rows(tmp_path / "a") == 4


def returns(monkeypatch, values):
    """Replace the epochs' mean returns by these values."""
    dump, left = spinup.EpochLogger.dump_tabular, list(values)

    def dump_and_replace(self):
        dump(self)
        self.epoch_return = left.pop(0)

    monkeypatch.setattr(spinup.EpochLogger, "dump_tabular", dump_and_replace)


@pytest.mark.parametrize(("values", "last"), [([1, 4.9, 5, 9], 3), ([math.nan, 9, 1, 1], 2), ([1, 2, 3, 4], 4)])
def test_a_run_ends_at_exactly_stop_at(tmp_path, monkeypatch, values, last):
    returns(monkeypatch, values)
    train("vpg", tmp_path / "a", stop_at=5)
    assert rows(tmp_path / "a") == last


@pytest.mark.parametrize(
    ("values", "patience", "last"),
    [
        ([1, 2, 3, 2, 3, 1, 9, 9], 3, 6),  # an equal return is not an improvement
        ([1, 0, 2, 1, 3, 2, 4, 3], 2, 8),
        ([math.nan, math.nan, math.nan, 5, math.nan, 4, math.nan, 3], 2, 8),  # epochs without episodes don't count
        ([5, 4, 9, 9, 9, 9, 9, 9], 1, 2),
    ],
)
def test_a_run_ends_after_epochs_without_improvement(tmp_path, monkeypatch, values, patience, last):
    returns(monkeypatch, values)
    train("vpg", tmp_path / "a", epochs=8, patience=patience)
    assert rows(tmp_path / "a") == last


def test_a_resumed_run_keeps_counting_patience(tmp_path, monkeypatch):
    values = [3, 2, 1, 0, 0, 0]
    with monkeypatch.context() as patch:
        returns(patch, values[:2])
        train("vpg", tmp_path / "a", epochs=2, patience=3)
    with monkeypatch.context() as patch:
        returns(patch, values[2:])
        spinup.resume(tmp_path / "a", epochs=6)
    assert rows(tmp_path / "a") == 4


@pytest.mark.parametrize("algo", RUNS)
def test_a_function_sees_each_row_and_may_end_the_run(algo, tmp_path):
    seen = []

    def look(row):
        seen.append(row)
        row["Epoch"] = "changed"  # on_epoch gets a copy
        return len(seen) == 2

    train(algo, tmp_path / "a", on_epoch=look)
    assert rows(tmp_path / "a") == len(seen) == 2
    header = (tmp_path / "a" / "progress.txt").read_text().splitlines()[0].split("\t")
    assert list(seen[0]) == header
    assert all(isinstance(value, int | float) for row in seen for key, value in row.items() if key != "Epoch")
    assert config(tmp_path / "a")["on_epoch"].startswith("test_stop.test_a_function_sees_each_row")


@pytest.mark.parametrize("answer", [None, False, 0, 1, "yes", [3], np.float64(2.0)])
def test_only_true_ends_the_run(tmp_path, answer):
    train("vpg", tmp_path / "a", on_epoch=lambda row: answer)
    assert rows(tmp_path / "a") == 4
    train("vpg", tmp_path / "b", on_epoch=lambda row: np.bool_(True))
    assert rows(tmp_path / "b") == 1


def test_an_error_in_on_epoch_is_raised_and_loses_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train("vpg", tmp_path / "a", on_epoch=lambda row: 1 / (3 - row["Epoch"]))
    assert rows(tmp_path / "a") == 3
    assert (tmp_path / "a" / "model.pt").exists()
    spinup.resume(tmp_path / "a")
    train("vpg", tmp_path / "b")
    assert table(tmp_path / "a") == table(tmp_path / "b")


def test_a_stopped_run_is_resumed_only_under_another_condition(tmp_path, monkeypatch):
    train("vpg", tmp_path / "a", stop_at=-1e6)
    message = (
        f"the run in {tmp_path / 'a'} was ended by stop_at, -1000000.0; to continue, give another --stop_at, or None"
    )
    assert error_of(spinup.resume, tmp_path / "a", epochs=9) == message
    train("vpg", tmp_path / "a", stop_at=-1e6, resume=True)  # as when a grid is started again
    assert rows(tmp_path / "a") == 1
    main([str(tmp_path / "a"), "--stop_at", "None"])
    assert rows(tmp_path / "a") == 4

    def once(row):
        return True

    train("vpg", tmp_path / "b", on_epoch=once)
    spinup.resume(tmp_path / "b", on_epoch=once)  # asked again
    assert rows(tmp_path / "b") == 2
    spinup.resume(tmp_path / "b")
    assert rows(tmp_path / "b") == 4


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("stop_at", "x", "a number"),
        ("stop_at", math.inf, "a number"),
        ("patience", 0, "a whole number at least 1"),
        ("patience", 1.5, "a whole number at least 1"),
        ("on_epoch", lambda: True, "a function of one argument, an epoch's row, or None"),
        ("on_epoch", "f", "a function of one argument, an epoch's row, or None"),
    ],
)
def test_invalid_conditions(tmp_path, name, value, right):
    assert f"{name} is {value!r}; it must be {right}" in error_of(train, "vpg", tmp_path / "a", **{name: value})
    assert not (tmp_path / "a").exists()


def test_the_command_line_accepts_conditions(tmp_path, capsys):
    words = "--env CartPole-v1 --num_envs 1 --steps 40 --epochs 4 --train_v_iters 1 --exp_name x --quiet --data_dir"
    command(["vpg", *words.split(), str(tmp_path), "--stop_at", "1"])
    assert rows(tmp_path / "x" / "x_s0") == 1
    command(
        ["vpg", *words.split(), str(tmp_path / "y"), "--init_from", str(tmp_path / "x" / "x_s0"), "--patience", "9"]
    )
    assert rows(tmp_path / "y" / "x" / "x_s0") == 4
