"""PPO's details: the records are complete, the page says what they say, and the changes are those that it names."""

import json
import re
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_docs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import chapters
import ppo_details as details

from spinup import algorithm
from spinup.nets import ActorCritic

CHANGES = [name for name in details.ABLATIONS if name != "default"]
PAGE = (ROOT / "docs" / "algorithms" / "ppo-details.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


@pytest.fixture(scope="module")
def found():
    return details.results()


# ---- the records


def test_every_setting_has_all_its_seeds():
    """And the file has nothing else."""
    runs = chapters.read(details.PATH, details.SETTINGS)
    assert [[run["seed"] for run in own] for _, own in runs] == [list(details.seeds_of(s["ablation"])) for s, _ in runs]
    assert min(len(own) for _, own in runs) >= 5
    assert len(details.PATH.read_text(encoding="utf-8").splitlines()) == sum(len(own) for _, own in runs)
    for setting, own in runs:
        epochs = details.TASKS[setting["task"]][0]
        steps = [2048 * (epoch + 1) for epoch in range(epochs)]
        for run in own:
            assert [row[0] for row in run["rows"]] == steps
            assert [row[2] is None for row in run["rows"]] == [True] * (epochs - 1) + [False]


# ---- the page


@pytest.mark.parametrize("name", CHANGES)
def test_page_has_the_effect_and_flag_of_every_change(found, name):
    assert details.effect(found, name) in WORDS


@pytest.mark.parametrize("task", details.TASKS)
def test_the_pages_tables_are_the_reports(found, task):
    assert f"\n\n{details.report(found, task)}\n\n" in PAGE


def test_words_about_the_default(found):
    cartpole, pendulum = (details.number(found[task, "default"][:, 0].mean()) for task in details.TASKS)
    assert f"The default's mean is {cartpole} on CartPole and {pendulum} on Pendulum." in WORDS


def test_words_about_false_alarms(found):
    for task in details.TASKS:
        share = details.false_alarms(found[task, "default"][:, 0])
        assert re.search(rf"\b{share:.0%}(?: of all splits)? on {task.partition('-')[0]}", WORDS)
    assert f"Among {len(found) - len(details.TASKS)} effects" in WORDS


def test_words_about_defaults():
    """Numbers that the page has in its sentences."""
    default = {name: argument.default for name, argument in algorithm.find("ppo").arguments.items()}
    steps, size = default["steps_per_epoch"], default["minibatch_size"]
    assert f"{steps // default['num_envs']} steps from each of {default['num_envs']}" in WORDS
    passes = f"{default['train_pi_iters']} passes over {steps} steps, in minibatches of {size}"
    assert f"{passes}, which makes {default['train_pi_iters'] * steps // size} gradient steps per epoch" in WORDS
    std = np.exp(ActorCritic.arguments["log_std_init"].default)
    assert f"a deviation of {std:.2f} half-ranges" in WORDS
    for task, (epochs, _) in details.TASKS.items():
        assert re.search(rf"{task} \({epochs} epochs, {epochs * steps:,} steps\)", WORDS)


def test_every_flag_on_the_page_exists():
    known = {*algorithm.find("ppo").arguments, "env", "exp_name", "out", "report"}
    named = re.findall(r"--([\w:]+)", PAGE)
    assert len(named) > 20
    for name in named:
        argument, _, network = name.partition(":")
        assert argument in known
        assert not network or network in ActorCritic.arguments


# ---- the changes


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_not_the_default(name):
    known = algorithm.find("ppo").arguments
    for argument, value in details.ABLATIONS[name].items():
        if argument == "adam_eps":
            continue
        known[argument].check(value)
        if argument == "ac_kwargs":
            ((network, value),) = value.items()
            assert ActorCritic.arguments[network].default != value
        else:
            assert known[argument].default != value


def test_truncation_terminates():
    env = details.TruncationTerminates(gym.make("Pendulum-v1", max_episode_steps=2))
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[2:4] for _ in range(2)] == [(False, False), (True, False)]


def test_changed_networks():
    spaces = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,))
    o = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    weights = [cls(*spaces).actor.net[-1][-1].weight for cls in (ActorCritic, details.LastLayerGain)]
    for weight, gain in zip(weights, (0.01, 1.0), strict=True):
        torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(2))
    pi = details.StateStd(*spaces).pi(o)
    assert pi.mu.shape == pi.log_std.shape == (5, 2)
    assert pi.log_std.std(dim=0).min() > 0
    assert pi.log_std.mean().item() == pytest.approx(-0.5, abs=0.05)
    assert pi.log_prob(pi.sample()).shape == (5,)


@pytest.mark.parametrize(("name", "eps"), [("Adam's epsilon 1e-5", 1e-5), ("default", 1e-8)])
def test_a_run_is_recorded(name, eps, monkeypatch, tmp_path):
    seen = []

    class Adam(details.FlatAdam):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            seen.append(self.eps)

    monkeypatch.setattr(details, "FlatAdam", Adam)
    monkeypatch.setitem(details.TASKS, "Pendulum-v1", (2, [name]))
    monkeypatch.setitem(details.ABLATIONS, name, details.ABLATIONS[name] | {"steps_per_epoch": 808, "train_v_iters": 1})
    rows = details.run(0, "Pendulum-v1", name)
    assert [row[0] for row in rows] == [808, 1616]
    assert [row[1] is None for row in rows] == [True, False]  # 101 steps, then 202 of episodes of 200
    assert [row[2] is None for row in rows] == [True, False]
    assert seen == [eps, eps]


# ---- by hand

ROWS = [[1, None, None], [2, 10.0, None], [3, None, None], [4, 30.0, None], [5, None, 7.0]]


def test_area_by_hand():
    assert details.filled(ROWS).tolist() == [10, 10, 20, 30, 30]
    assert details.area(ROWS) == 20


def test_difference_by_hand():
    """The interval of a difference: about 1.96 standard errors, of both means together, on either side."""
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 1, 2, 2, 3, 3])
    mean, low, high = details.difference(x, y)
    assert mean == 1
    error = (2 / 5 + (2 / 3) / 6) ** 0.5
    assert [low, high] == pytest.approx([1 - 1.96 * error, 1 + 1.96 * error], abs=0.1)


def test_false_alarms_by_hand():
    """Of the six splits of 0, 0, 9, 9, two put the equal ones together."""
    assert details.false_alarms(np.array([0.0, 0, 9, 9])) == pytest.approx(2 / 6)
    assert details.false_alarms(np.zeros(4)) == 0


def test_numbers_by_hand():
    assert [details.number(x) for x in (-0.4, -1.6, 12.0)] == ["0", "\u22122", "12"]
    assert details.span((-1.0, -2.44, 0.5), 1) == "\u22121.0 (\u22122.4 to 0.5)"


def test_report_by_hand(monkeypatch):
    """With two runs, an interval is from one to the other; against a constant default it is theirs, shifted."""
    default, change = np.array([[10.0, 0.0], [10.0, 0.0]]), np.array([[20.0, 1.0], [0.0, 3.0]])
    found = {("Pendulum-v1", "default"): default, ("Pendulum-v1", "lambda 1"): change}
    assert details.report(found, "Pendulum-v1").splitlines() == [
        "| Pendulum-v1 | runs | area | last test | P(better) |",
        "| --- | --- | --- | --- | --- |",
        "| default | 2 | 10 (10 to 10) | 0 (0 to 0) |  |",
        "| lambda 1 | 2 | 0 (\u221210 to 10) | 2 (1 to 3) | 0.50 (0.00 to 1.00) |",
    ]
    assert details.effect(found, "lambda 1") == "`--lam 1` (default: `0.95`): Pendulum 0 (\u221210 to 10)."


def test_flags_by_hand():
    assert details.flags("1 pass") == "`--train_pi_iters 1 --train_v_iters 1` (default: `10`)"
    assert details.flags("ReLU") == "`--ac_kwargs:activation ReLU` (default: `Tanh`)"
    assert details.flags("no clip") == "`--clip_ratio 1e9` (default: `0.2`)"
    assert details.flags("last layer: gain 1") == ""
    found = {("Pendulum-v1", name): np.ones((2, 2)) for name in ("default", "last layer: gain 1")}
    assert details.effect(found, "last layer: gain 1") == "Last layer: gain 1 (no flag): Pendulum 0 (0 to 0)."


def test_records_are_made_once(tmp_path, monkeypatch, capsys):
    calls = []

    def run(seed, task, ablation):
        calls.append((seed, task, ablation))
        return [[2048, float(seed), None], [4096, None, 1.0]]

    monkeypatch.setattr(details, "PATH", tmp_path / "records.jsonl")
    monkeypatch.setattr(details, "run", run)
    monkeypatch.setattr(sys, "argv", ["ppo_details.py", "--seeds", "5", "1", "0"])
    details.main()
    details.main()
    assert len(calls) == len(set(calls)) == 2 * len(details.SETTINGS) + 2  # the fifth seed: the default on two tasks
    lines = details.PATH.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["rows"] == [[2048, 5.0, None], [4096, None, 1.0]]
    assert f"{len(calls)} runs" in capsys.readouterr().out
