"""DQN: its equations on numbers worked out by hand, its updates against a twin, exploration, images, resume."""

import copy
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import ByBoth, rows
from torch import nn

import spinup
from spinup import probes as our_probes
from spinup.algorithm import find
from spinup.algos import dqn as module
from spinup.algos.dqn import q_loss, target
from spinup.errors import UserError
from spinup.nets import QNetwork
from spinup.run import main

SMALL = dict(epochs=2, steps_per_epoch=60, update_after=20, batch_size=8, replay_size=1000, eval_freq=0)
SMALL |= dict(ac_kwargs=dict(hidden_sizes=(16,)), epsilon_steps=60)


def train(folder, env="CartPole-v1", **kwargs):
    """By DQN; the trained network."""
    return spinup.dqn(env, **kwargs, logger_kwargs=dict(output_dir=str(folder), quiet=True))


# ---- equations


def test_target():
    q2 = torch.tensor([10.0, 10.0, 4.0])
    r, terminated = torch.tensor([1.0, 1.0, -2.0]), torch.tensor([0.0, 1.0, 0.0])
    discount = torch.tensor([0.5, 0.5, 0.25])
    # 1 + 10 / 2; nothing behind a terminal state; two steps: -2 + 4 / 4
    assert target(r, terminated, discount, q2).tolist() == [6, 1, -1]


def test_q_loss_is_squared_near_0_and_linear_beyond_1():
    q = torch.tensor([1.5, 4.0], requires_grad=True)
    loss = q_loss(q, torch.tensor([1.0, 1.0]))
    loss.backward()
    assert loss.item() == pytest.approx((0.5 * 0.25 + (3 - 0.5)) / 2)
    assert q.grad.tolist() == [0.25, 0.5]


def test_dueling_values_have_mean_v():
    torch.manual_seed(0)
    net = QNetwork(spaces.Box(-1, 1, (3,)), spaces.Discrete(4), hidden_sizes=(8,), dueling=True)
    o = torch.randn(5, 3)
    v, adv = net.q.net(o)[:, :1], net.q.net(o)[:, 1:]
    assert adv.shape == (5, 4)
    torch.testing.assert_close(net.q(o), v + adv - adv.sum(-1, keepdim=True) / 4)
    torch.testing.assert_close(net.q(o).mean(-1, keepdim=True), v)


# ---- updates


@pytest.mark.parametrize("double", [True, False])
def test_updates_are_those_of_a_twin(monkeypatch, tmp_path, double):
    batches, sample = [], module.ReplayBuffer.sample
    monkeypatch.setattr(module.ReplayBuffer, "sample", lambda self, n: batches.append(sample(self, n)) or batches[-1])
    start, prepare = [], module.Run.prepare
    monkeypatch.setattr(
        module.Run, "prepare", lambda self, ac, **kwargs: start.append(copy.deepcopy(prepare(self, ac))) or ac
    )
    options = SMALL | dict(double=double, n_step=1, polyak=0.9, q_lr=1e-2, max_grad_norm=0.5, capture=False)
    ac = train(tmp_path, ByBoth, **options)
    twin = start[0].q
    slow, optimizer = copy.deepcopy(twin), torch.optim.Adam(twin.parameters(), 1e-2)
    assert len(batches) == 101
    for o, a, r, o2, terminated, discount in batches:
        with torch.no_grad():
            best = (twin if double else slow)(o2).argmax(-1, keepdim=True)
            y = r + discount * (1 - terminated) * slow(o2).gather(-1, best)[:, 0]
        loss = nn.functional.smooth_l1_loss(twin(o).gather(-1, a[:, None])[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        with torch.no_grad():
            for p, fast in zip(slow.parameters(), twin.parameters(), strict=True):
                p.mul_(0.9).add_(0.1 * fast)
    for ours, wanted in zip(ac.q.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_double_and_plain_targets_differ(tmp_path):
    """Or the test above would say nothing of the switch."""
    one, other = (train(tmp_path / str(double), **SMALL, double=double, q_lr=1e-2) for double in (True, False))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("settings", [{}, {"n_step": 1, "normalize_obs": True}, {"ac_kwargs": {"dueling": True}}])
def test_captured_updates_are_the_same(monkeypatch, tmp_path, settings):
    monkeypatch.setattr("spinup.compute.capture.front.PATIENCE", 0.0)
    options = {**SMALL, **settings}
    tables = []
    for capture in (True, False):
        train(tmp_path / str(capture), **options, capture=capture)
        tables.append([{k: v for k, v in row.items() if "Time" not in k} for row in rows(tmp_path / str(capture))])
    assert repr(tables[0]) == repr(tables[1])


# ---- exploration


def test_the_share_of_random_actions_falls_linearly(monkeypatch, tmp_path):
    """Greedy actions are all 1, random ones all 0, so what is stored counts them."""
    monkeypatch.setattr(QNetwork, "act", lambda self, o, deterministic=False: np.ones(len(o), int))
    monkeypatch.setattr("spinup.envs.VecEnv.random_actions", lambda self: np.zeros(self.num_envs, int))
    actions, store = [], module.ReplayBuffer.store
    monkeypatch.setattr(
        module.ReplayBuffer, "store", lambda self, o, a, *rest: actions.append(a.copy()) or store(self, o, a, *rest)
    )
    options = {**SMALL, "num_envs": 100, "steps_per_epoch": 40_000, "epochs": 1, "update_after": 10**9}
    train(tmp_path, **{**options, "epsilon": 0.1, "epsilon_steps": 20_000, "replay_size": 50_000})
    random = 1 - np.array(actions).mean(1)  # of each step
    expected = np.maximum(0.1, 1 - 0.9 * np.arange(400) * 100 / 20_000)
    for part in np.split(np.arange(400), 8):  # 5000 draws each: standard error at most 0.0071
        assert random[part].mean() == pytest.approx(expected[part].mean(), abs=5 * 0.0071)
    assert random[0] == 1


def test_test_episodes_are_greedy(tmp_path):
    ac = train(tmp_path, **SMALL)
    o = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert (ac.act(o) == ac.q(torch.as_tensor(o)).argmax(-1).numpy()).all()
    assert ac.act(o).shape == (50,)


# ---- as the other algorithms


def test_probes():
    results = our_probes.check(our_probes.trainer("dqn"), discrete=True)
    assert [result.case.name for result in results if not result.passed] == []
    assert len(results) == 6


def test_exact_resume(tmp_path):
    def fail(row):
        if row["Epoch"] == 3:
            raise ZeroDivisionError

    options = {**SMALL, "epochs": 5, "checkpoint_freq": 2}
    train(tmp_path / "whole", **options)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "ended", **options, on_epoch=fail)
    spinup.resume(tmp_path / "ended")
    tables = [
        [{k: v for k, v in row.items() if "Time" not in k} for row in rows(tmp_path / name)]
        for name in ("whole", "ended")
    ]
    assert len(tables[0]) == 5
    assert repr(tables[0]) == repr(tables[1])  # where no episode ended, a cell is NaN


def test_sparse_layers(tmp_path, capsys):
    linear = {"sparsity": 0.5, "block_size": 16, "schedule": "rigl", "every": 5}
    ac = train(tmp_path, **{**SMALL, "ac_kwargs": {"hidden_sizes": (32, 32), "linear": linear}})
    assert all(p.isfinite().all() for p in ac.parameters())
    assert any(hasattr(layer, "layout") for layer in ac.modules())


def test_box_actions_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^dqn needs Discrete actions, not Box\(.*; ddpg, ppo, .*take these$") as error:
        train(tmp_path / "run", "Pendulum-v1", **SMALL)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_networks_of_ones_own_are_checked(tmp_path):
    class NoQ(nn.Module):
        def __init__(self, observation_space, action_space):
            super().__init__()

        def act(self, o, deterministic=False):
            return np.zeros(len(o), int)

    with pytest.raises(UserError, match=r"actor_critic NoQ has no 'q'; spinup\.nets says"):
        spinup.dqn("CartPole-v1", NoQ, epochs=1, logger_kwargs=dict(output_dir=tmp_path / "run", quiet=True))


def test_the_atari_preset_stacks_gray_frames():
    preset = find("dqn").presets["atari"]
    assert preset["env_kwargs"] == {"frameskip": 1}, "AtariPreprocessing skips frames itself"
    assert [wrapper.partition(":")[2] for wrapper in preset["wrappers"]] == [
        "AtariPreprocessing",
        "FrameStackObservation(4)",
    ]


def test_command_line(tmp_path):
    words = "--env CartPole-v1 --epochs 1 --steps 40 --update_after 20 --hid 8 --ac_kwargs:dueling True --quiet"
    main(["dqn", *words.split(), "--data_dir", str(tmp_path)])
    config = json.loads((tmp_path / "cmd_dqn" / "cmd_dqn_s0" / "config.json").read_text())
    assert config["ac_kwargs"] == {"dueling": True, "hidden_sizes": [8, 8]}
    assert config["actor_critic"] == "spinup.nets.QNetwork"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_cartpole(tmp_path, seed):
    """500 in an evaluation within 50,000 steps."""
    logger_kwargs = dict(output_dir=tmp_path, quiet=True)
    spinup.dqn("CartPole-v1", seed=seed, epochs=10, stop_at=500, logger_kwargs=logger_kwargs)
    assert rows(tmp_path)[-1]["AverageTestEpRet"] == 500
