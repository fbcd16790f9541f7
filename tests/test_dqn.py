"""DQN: equations by hand, updates against a reference implementation, exploration, images, resume."""

import copy
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import Probe, Spaces, Walk, rows
from torch import nn

import spinup
from spinup.algorithm import find
from spinup.algos import dqn as module
from spinup.algos.dqn import q_loss, target
from spinup.errors import UserError
from spinup.nets import QNetwork
from spinup.run import main

SMALL = dict(epochs=2, steps_per_epoch=60, update_after=20, batch_size=8, replay_size=1000, eval_freq=0)
SMALL |= dict(ac_kwargs=dict(hidden_sizes=(16,)), epsilon_steps=60)


def train(folder, env="CartPole-v1", **kwargs):
    """Train with DQN. Returns the trained network."""
    return spinup.dqn(env, **kwargs, logger_kwargs=dict(output_dir=str(folder), quiet=True))


# ---- equations


def test_target():
    q2 = torch.tensor([10.0, 10.0, 4.0])
    r, terminated = torch.tensor([1.0, 1.0, -2.0]), torch.tensor([0.0, 1.0, 0.0])
    discount = torch.tensor([0.5, 0.5, 0.25])
    # 1 + 10 / 2; nothing after a terminal state; two steps: -2 + 4 / 4
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


def test_dueling_by_hand():
    """V = 2, A = (1, 3, -1) with mean 1: Q = 2 + (0, 2, -2)."""
    net = QNetwork(spaces.Box(-1, 1, (3,)), spaces.Discrete(3), hidden_sizes=(8,), dueling=True)
    last = [layer for layer in net.q.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([2.0, 1, 3, -1]))
    assert net.q(torch.zeros(1, 3)).tolist() == [[2, 4, 0]]
    assert net.q(torch.zeros(2, 3), torch.tensor([1, 2])).tolist() == [4, 0]


# ---- updates


class Table(nn.Module):
    """The same values for all observations; its copy, the target network, has others."""

    def __init__(self, values: list[float]):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def __deepcopy__(self, memo):
        return Table([5.0, 2.0])

    def forward(self, o, a=None):
        return self.values.expand(len(o), 2) if a is None else self.values[a]


class Tables(QNetwork):
    """Q = (1, 3) and Q_targ = (5, 2)."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.q = Table([1.0, 3.0])


@pytest.mark.parametrize(("double", "y"), [(True, 1 + 0.5 * 2), (False, 1 + 0.5 * 5)])
def test_next_action_by_hand(monkeypatch, tmp_path, double, y):
    """Rewards of 1, gamma 0.5, no terminal state. Q chooses action 1 (Q_targ: 2), Q_targ chooses 0 (5)."""
    monkeypatch.setattr("spinup.envs.vector.VecEnv.random_actions", lambda self: np.ones(self.num_envs, int))
    options = SMALL | dict(epochs=1, epsilon=0.0, epsilon_steps=1, n_step=1, gamma=0.5, q_lr=0.0, polyak=1.0)
    options |= dict(ac_kwargs=None, actor_critic=Tables, double=double)
    train(tmp_path, lambda: Probe(truncates=True), **options)
    (row,) = rows(tmp_path)
    assert row["AverageQVals"] == 3
    assert row["LossQ"] == pytest.approx({2.0: 0.5, 3.5: 0.125}[y])  # (3 - y)^2 / 2


def sampled(monkeypatch) -> list:
    """The batches of all updates from now on."""
    batches, sample = [], module.ReplayBuffer.sample
    monkeypatch.setattr(module.ReplayBuffer, "sample", lambda self, n: batches.append(sample(self, n)) or batches[-1])
    return batches


def test_n_step_and_gamma_reach_the_buffer(monkeypatch, tmp_path):
    """With rewards of 1 the sum of k of them is (1 - gamma^k) / (1 - gamma)."""
    batches = sampled(monkeypatch)
    train(tmp_path, lambda: Probe(length=5), **SMALL | dict(epochs=1, n_step=3, gamma=0.5))
    _, _, r, _, terminated, discount = (torch.cat(x) for x in zip(*batches, strict=True))
    assert set(discount.tolist()) == {0.5, 0.25, 0.125}
    assert torch.equal(r, 2 * (1 - discount))
    assert abs(terminated.mean().item() - 0.6) < 0.15  # three of five starts reach the end


@pytest.mark.parametrize(("double", "target_policy"), [(True, True), (True, False), (False, False)])
def test_dqn_updates_match_a_reference_implementation(monkeypatch, tmp_path, double, target_policy):
    batches = sampled(monkeypatch)
    start, prepare = [], module.Run.prepare
    monkeypatch.setattr(
        module.Run, "prepare", lambda self, ac, **kwargs: start.append(copy.deepcopy(prepare(self, ac))) or ac
    )
    options = SMALL | dict(double=double, n_step=1, polyak=0.9, q_lr=1e-2, max_grad_norm=0.5, capture=False)
    ac = train(tmp_path, lambda: Walk(spaces.Discrete(2)), **options, target_policy=target_policy)
    net = start[0].q
    net_targ, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 1e-2)
    assert len(batches) == 101
    for o, a, r, o2, terminated, discount in batches:
        with torch.no_grad():
            best = (net if double else net_targ)(o2).argmax(-1, keepdim=True)
            y = r + discount * (1 - terminated) * net_targ(o2).gather(-1, best)[:, 0]
        loss = nn.functional.smooth_l1_loss(net(o).gather(-1, a[:, None])[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        with torch.no_grad():
            for p_targ, p in zip(net_targ.parameters(), net.parameters(), strict=True):
                p_targ.mul_(0.9).add_(0.1 * p)
    result = net_targ if target_policy else net
    for ours, wanted in zip(ac.q.parameters(), result.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_double_and_plain_targets_differ(tmp_path):
    """Otherwise the test above wouldn't test the option."""
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


@pytest.mark.parametrize("steps", [2000, 0])
def test_epsilon_falls_linearly(monkeypatch, tmp_path, steps):
    """Greedy actions are 1, random ones 0, and the numbers drawn for 100 environments are evenly spaced."""
    monkeypatch.setattr(QNetwork, "act", lambda self, o, deterministic=False: np.ones(len(o), int))
    monkeypatch.setattr("spinup.envs.vector.VecEnv.random_actions", lambda self: np.zeros(self.num_envs, int))
    drawn, rand = torch.arange(100) / 100 + 0.003, torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: drawn if size == (100,) else rand(*size, **kwargs))
    actions, store = [], module.ReplayBuffer.store
    monkeypatch.setattr(
        module.ReplayBuffer, "store", lambda self, o, a, *rest: actions.append(a.copy()) or store(self, o, a, *rest)
    )
    options = {**SMALL, "num_envs": 100, "steps_per_epoch": 4000, "epochs": 1, "update_after": 10**9}
    train(tmp_path, **{**options, "epsilon": 0.1, "epsilon_steps": steps, "replay_size": 5000})
    eps = np.maximum(0.1, 1 - 0.9 * np.arange(40) * 100 / steps) if steps else np.full(40, 0.1)
    assert (1 - np.array(actions)).sum(1).tolist() == [(drawn < x).sum().item() for x in eps]
    assert eps[0] == (1 if steps else 0.1)
    assert eps[20:].tolist() == pytest.approx([0.1] * 20)


def test_random_actions_are_uniform(monkeypatch, tmp_path):
    actions, store = [], module.ReplayBuffer.store
    monkeypatch.setattr(
        module.ReplayBuffer, "store", lambda self, o, a, *rest: actions.append(a.copy()) or store(self, o, a, *rest)
    )
    options = {**SMALL, "num_envs": 10, "steps_per_epoch": 2000, "epochs": 1, "update_after": 10**9, "epsilon": 1.0}
    train(tmp_path, lambda: Spaces(action_space=spaces.Discrete(4)), **options)
    counts = np.bincount(np.concatenate(actions), minlength=4)
    assert counts.sum() == 2000
    assert ((counts - 500) ** 2 / 500).sum() < 16.3  # the 99.9 % point with 3 degrees of freedom


def test_test_episodes_are_greedy(tmp_path):
    ac = train(tmp_path, **SMALL)
    o = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert (ac.act(o) == ac.q(torch.as_tensor(o)).argmax(-1).numpy()).all()
    assert ac.act(o).shape == (50,)


# ---- like other algorithms


class Bright(Probe):
    """An image, dark or bright; action 1 earns 1 on a bright one, and action 0 on a dark one."""

    observation_space = spaces.Box(0, 255, (8, 8), np.uint8)

    def observe(self):
        self.bright = int(self.np_random.integers(2))
        return np.full((8, 8), 255 * self.bright, np.uint8)

    def reward(self, a) -> float:
        return float(a == self.bright)


def test_images(monkeypatch, tmp_path):
    batches = sampled(monkeypatch)
    options = SMALL | dict(epochs=1, steps_per_epoch=300, epsilon_steps=200, batch_size=32, q_lr=3e-3)
    ac = train(tmp_path, Bright, **options)
    assert {batch.o.dtype for batch in batches} == {torch.uint8}
    assert any(isinstance(layer, nn.Conv2d) for layer in ac.q.modules())
    assert ac.act(np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)])).tolist() == [0, 1]


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
    assert repr(tables[0]) == repr(tables[1])  # repr: cells are NaN in epochs without a finished episode


def test_sparse_layers(tmp_path, capsys):
    linear = {"sparsity": 0.5, "block_size": 16, "schedule": "rigl", "every": 5}
    ac = train(tmp_path, **{**SMALL, "ac_kwargs": {"hidden_sizes": (32, 32), "linear": linear}})
    assert all(p.isfinite().all() for p in ac.parameters())
    assert any(hasattr(layer, "layout") for layer in ac.modules())


@pytest.mark.parametrize(("bound", "others"), [(2.0, "crossq, .*"), (np.inf, "ppo, ")])
def test_box_actions_are_refused_in_one_line(tmp_path, bound, others):
    space = spaces.Box(-bound, bound, (1,))
    with pytest.raises(UserError, match=rf"^dqn needs Discrete actions, not Box\(.*; {others}.*take these$") as error:
        train(tmp_path / "run", lambda: Spaces(action_space=space), **SMALL)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_custom_networks_are_checked(tmp_path):
    class NoQ(nn.Module):
        def __init__(self, observation_space, action_space):
            super().__init__()

        def act(self, o, deterministic=False):
            return np.zeros(len(o), int)

    with pytest.raises(UserError, match=r"actor_critic NoQ has no 'q'; help\(spinup\.nets\)"):
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
