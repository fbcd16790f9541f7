"""spinup/examples/offline.py: losses and targets worked out by hand, what is recorded, and what is learned from it."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from spinup.examples import offline

# ---- losses by hand


def test_clone_loss_by_hand():
    """Distances 1 and 4, in half-ranges 0.5 and 2: the mean of 0.25 and 4."""
    pi, a = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.0], [2.0]])
    assert offline.clone_loss(pi, a).item() == pytest.approx(2.125)
    assert offline.clone_loss(pi, a, torch.tensor([2.0, 0.5])).item() == pytest.approx(1.25)


def test_td3_bc_loss_by_hand():
    """Mean value -1, mean size 3, so the weight is 0.6 / 3 = 0.2: 2.125 + 0.2."""
    q = torch.tensor([2.0, -4.0], requires_grad=True)
    pi, a = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.0], [2.0]])
    loss = offline.td3_bc_loss(q, pi, a, alpha=0.6)
    assert loss.item() == pytest.approx(2.325)
    loss.backward()  # the weight is a constant: -0.2 / 2 for each value
    assert q.grad.tolist() == pytest.approx([-0.1, -0.1])
    assert offline.td3_bc_loss(10 * q, pi, a, alpha=0.6).item() == pytest.approx(2.325)  # whatever rewards' unit


def test_expectile_loss_by_hand():
    """0.8 * 4 and 0.2 * 9, of which the mean."""
    assert offline.expectile_loss(torch.tensor([2.0, -3.0]), tau=0.8).item() == pytest.approx(2.5)
    assert offline.expectile_loss(torch.tensor([2.0, -3.0]), tau=0.5).item() == pytest.approx(13 / 4)  # half of squares


@pytest.mark.parametrize(("tau", "expectile"), [(0.5, 1.0), (0.8, 2.0), (0.9, 2.5)])
def test_expectile_of_three_numbers(tau, expectile):
    """Of 0, 0 and 3: tau (3 - v) = 2 (1 - tau) v, so v = 3 tau / (2 - tau)."""
    assert expectile == pytest.approx(3 * tau / (2 - tau), abs=0.05)
    x, v = torch.tensor([0.0, 0.0, 3.0]), torch.tensor(3 * tau / (2 - tau), requires_grad=True)
    offline.expectile_loss(x - v, tau).backward()
    assert v.grad.item() == pytest.approx(0, abs=1e-6)


def test_iql_target_and_weight_by_hand():
    assert offline.iql_target(torch.tensor([-1.0]), torch.tensor([-10.0])).item() == pytest.approx(-10.8)
    weight = offline.advantage_weight(torch.tensor([-3.0, -5.0, 9.0]), torch.tensor([-4.0, -4.0, -4.0]), beta=0.5)
    assert weight.tolist() == pytest.approx([math.exp(0.5), math.exp(-0.5), 100])


class Line:
    """A policy that always does 1.9, and two critics, q = a and q = 4 - a."""

    def act(self, o):
        raise AssertionError("not called")

    def actor(self, o):
        return torch.full((len(o), 1), 1.9)

    def critic(self, o, a):
        return torch.stack([a[:, 0], 4 - a[:, 0]])


@pytest.mark.parametrize(
    ("noise", "action"),
    [(0.0, 1.9), (-0.5, 1.7), (1.0, 2.0), (-9.0, 0.9)],  # 0.4 of a standard normal; at most 2; at most 1 from 1.9
)
def test_target_by_hand(noise, action, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.full(shape, noise))
    y = offline.td3_target(Line(), torch.tensor([-1.0, -3.0]), torch.zeros(2, 3))
    smaller = min(action, 4 - action)
    assert y.tolist() == pytest.approx([-1 + 0.98 * smaller, -3 + 0.98 * smaller])


def test_target_takes_the_smaller_value(monkeypatch):
    monkeypatch.setattr(torch, "randn", torch.zeros)
    monkeypatch.setattr(Line, "critic", lambda self, o, a: torch.tensor([[5.0, 1.0], [2.0, 3.0]]))
    assert offline.td3_target(Line(), torch.zeros(2), torch.zeros(2, 3)).tolist() == pytest.approx([1.96, 0.98])


# ---- an update


def batch(a: torch.Tensor, r: torch.Tensor) -> offline.Steps:
    o = torch.zeros(len(a), 3)
    return offline.Steps(o, a, r, o)


@pytest.mark.parametrize("method", offline.METHODS)
def test_what_an_update_changes(method):
    torch.manual_seed(0)
    learner = offline.Learner(method)
    learner.targ = copy.deepcopy(offline.Learner(method).ac).requires_grad_(False)
    before = copy.deepcopy(learner)
    learner.update(batch(torch.rand(64, 1), torch.rand(64)))

    def same(x: nn.Module, y: nn.Module) -> bool:
        return all(map(torch.equal, x.parameters(), y.parameters()))

    assert not same(learner.ac.critic, before.ac.critic)
    assert not same(learner.ac.actor, before.ac.actor)
    assert same(learner.value, before.value) is (method != "iql")
    nets = (learner.targ, before.targ, learner.ac)
    for slow, old, new in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(slow.data, 0.98 * old.data + 0.02 * new.data)


@pytest.mark.parametrize(("method", "asked"), [("td3", True), ("td3_bc", True), ("iql", False)])
def test_what_is_asked_about(method, asked, monkeypatch):
    """IQL's values never depend on what its policy does; those of the others do."""
    found = []
    for action in (-1.0, 1.0):
        torch.manual_seed(0)
        learner = offline.Learner(method)
        monkeypatch.setattr(learner.targ.actor, "forward", lambda o, a=action: torch.full((len(o), 1), a))
        learner.update(batch(torch.rand(64, 1), torch.rand(64)))
        found.append(nn.utils.parameters_to_vector(learner.ac.critic.parameters()))
    assert torch.equal(*found) is not asked


def learned_action(a: torch.Tensor, r: torch.Tensor, method: str, monkeypatch, updates: int = 600) -> float:
    """The policy's action after learning a task of one step from recorded actions and rewards."""
    monkeypatch.setattr(offline, "GAMMA", 0.0)
    torch.manual_seed(0)
    learner = offline.Learner(method)
    for optimizer in (learner.q_optimizer, learner.v_optimizer):
        optimizer.param_groups[0]["lr"] = 1e-2  # values before the policy
    for _ in range(updates):
        learner.update(batch(a, r))
    return learner.ac.actor(torch.zeros(1, 3)).item()


def test_one_step_task(monkeypatch):
    """Actions from -2 to 2, of which 1 is the best: cloning finds their mean, TD3 the best, IQL a mean of good ones."""
    a = torch.linspace(-2, 2, 64)[:, None]
    r = -3 * (a[:, 0] - 1).square()
    assert learned_action(a, r, "cloning", monkeypatch) == pytest.approx(0, abs=0.1)
    assert learned_action(a, r, "td3", monkeypatch) == pytest.approx(1, abs=0.2)
    assert learned_action(a, r, "iql", monkeypatch) == pytest.approx(1, abs=0.3)


def test_extrapolation(monkeypatch):
    """Recorded actions from -0.5 to 0.5, and rewards that rise with them: TD3 goes where nothing was recorded."""
    a = torch.linspace(-0.5, 0.5, 64)[:, None]
    r = 4 * a[:, 0] - 10
    assert learned_action(a, r, "td3", monkeypatch) > 1.5
    assert 0 < learned_action(a, r, "iql", monkeypatch) < 0.5
    assert 0 < learned_action(a, r, "td3_bc", monkeypatch) < 0.8


# ---- recording


class Still:
    """Does nothing."""

    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        assert deterministic
        return np.zeros((len(o), 1), np.float32)


def test_recorded_steps_are_the_pendulums():
    """The reward of each step by the formula of Pendulum-v1, and observations that follow each other."""
    steps = offline.record(Still(), "mixed", seed=3, episodes=4)
    assert steps.o.shape == (200, 4, 3)
    assert steps.a.shape == (200, 4, 1)
    assert torch.equal(steps.o[1:], steps.o2[:-1])
    angle = torch.atan2(steps.o[..., 1], steps.o[..., 0])
    wanted = -(angle.square() + 0.1 * steps.o[..., 2].square() + 0.001 * steps.a[..., 0].square())
    torch.testing.assert_close(steps.r, wanted, atol=1e-4, rtol=1e-4)


def test_data_sets():
    """The policy's actions with noise of 0.1; in `mixed`, every other episode is random, over the whole range."""
    spread = {data: offline.record(Still(), data, 0, episodes=4).a.std(0).squeeze() for data in ("expert", "mixed")}
    torch.testing.assert_close(spread["expert"], torch.full((4,), 0.1), atol=0.02, rtol=0)
    torch.testing.assert_close(spread["mixed"], torch.tensor([0.1, 2 / 3**0.5] * 2), atol=0.1, rtol=0.1)


def test_evaluate_by_hand(monkeypatch):
    """Two episodes of rewards 1, 1, 1 and 3, 3, 3: returns 3 and 9, discounted by 0.98 to the mean 2 (1 + g + g^2)."""
    r = torch.tensor([[1.0, 3.0]] * 3)
    steps = offline.Steps(torch.zeros(3, 2, 3), torch.zeros(3, 2, 1), r, torch.zeros(3, 2, 3))
    monkeypatch.setattr(offline, "play", lambda act, episodes, seed: steps)
    found = offline.evaluate(Line())
    assert found == pytest.approx((6.0, 2 * (1 + 0.98 + 0.98**2), 1.9))


def test_same_seed_same_run(capsys):
    steps = offline.record(Still(), "mixed", seed=0, episodes=2)

    def learn(seed: int) -> list:
        return offline.learn(steps, "iql", seed, updates=4, every=2)

    assert learn(1) == learn(1)
    assert learn(1) != learn(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["updates", "return", "discounted", "expected"]
    assert len(lines) == 12


def test_program(monkeypatch, capsys):
    """The policy that is recorded is SAC's, by spinup itself; here after a few steps."""
    behavior = offline.train_behavior
    monkeypatch.setattr(offline, "train_behavior", lambda seed: behavior(seed, steps=300))
    monkeypatch.setattr(offline, "learn", lambda steps, method, seed: [steps.r.shape, method, seed])
    assert offline.train("td3", "mixed", seed=2) == [(200, 50), "td3", 2]
    assert "The mean return of 50 recorded episodes is -" in capsys.readouterr().out
