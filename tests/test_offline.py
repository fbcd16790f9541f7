"""spinup/examples/offline.py: losses and targets worked out by hand, what is recorded, and what is learned from it."""

import copy
import math

import numpy as np
import pytest
import torch

from spinup.examples import offline

# ---- losses by hand


def test_clone_loss_by_hand():
    """Distances 1 and 4, in half-ranges 0.5 and 2: the mean of 0.25 and 4."""
    pi, a = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.0], [2.0]])
    assert offline.clone_loss(pi, a).item() == pytest.approx(2.125)


def test_actor_loss_by_hand():
    """Mean value -1, mean size 3, so the weight is 0.6 / 3 = 0.2: 2.125 + 0.2."""
    q = torch.tensor([2.0, -4.0], requires_grad=True)
    pi, a = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.0], [2.0]])
    loss = offline.actor_loss(q, pi, a, alpha=0.6)
    assert loss.item() == pytest.approx(2.325)
    loss.backward()  # the weight is a constant: -0.2 / 2 for each value
    assert q.grad.tolist() == pytest.approx([-0.1, -0.1])
    assert offline.actor_loss(10 * q, pi, a, alpha=0.6).item() == pytest.approx(2.325)  # whatever the rewards' unit


def test_actor_loss_at_its_ends():
    q, pi, a = torch.tensor([2.0, -4.0]), torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.0], [2.0]])
    assert offline.actor_loss(q, pi, a, 0.0).item() == offline.clone_loss(pi, a).item()
    assert offline.actor_loss(q, pi, a, math.inf).item() == pytest.approx(1.0)


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
    y = offline.target(Line(), torch.tensor([-1.0, -3.0]), torch.zeros(2, 3))
    smaller = min(action, 4 - action)
    assert y.tolist() == pytest.approx([-1 + 0.98 * smaller, -3 + 0.98 * smaller])


def test_target_takes_the_smaller_value(monkeypatch):
    monkeypatch.setattr(torch, "randn", torch.zeros)
    monkeypatch.setattr(Line, "critic", lambda self, o, a: torch.tensor([[5.0, 1.0], [2.0, 3.0]]))
    assert offline.target(Line(), torch.zeros(2), torch.zeros(2, 3)).tolist() == pytest.approx([1.96, 0.98])


# ---- an update


def batch(a: torch.Tensor, r: torch.Tensor) -> offline.Steps:
    o = torch.zeros(len(a), 3)
    return offline.Steps(o, a, r, o)


def test_what_an_update_changes():
    torch.manual_seed(0)
    learner = offline.Learner(0.5)
    learner.targ = copy.deepcopy(offline.Learner(0.5).ac).requires_grad_(False)
    before = copy.deepcopy(learner)
    learner.update(batch(torch.rand(64, 1), torch.rand(64)))
    for part in ("actor", "critic"):
        new, old = (list(getattr(x.ac, part).parameters()) for x in (learner, before))
        assert not all(map(torch.equal, new, old))
    nets = (learner.targ, before.targ, learner.ac)
    for slow, old, new in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(slow.data, 0.98 * old.data + 0.02 * new.data)


def learned_action(a: torch.Tensor, r: torch.Tensor, alpha: float, monkeypatch, updates: int = 600) -> float:
    """The policy's action after learning a task of one step from recorded actions and rewards."""
    monkeypatch.setattr(offline, "GAMMA", 0.0)
    torch.manual_seed(0)
    learner = offline.Learner(alpha)
    learner.q_optimizer.param_groups[0]["lr"] = 1e-2  # values before the policy
    for _ in range(updates):
        learner.update(batch(a, r))
    return learner.ac.actor(torch.zeros(1, 3)).item()


def test_one_step_task(monkeypatch):
    """Actions from -2 to 2, of which 1 is the best: cloning finds their mean, TD3 the best, alpha mixes them."""
    a = torch.linspace(-2, 2, 64)[:, None]
    r = -3 * (a[:, 0] - 1).square()
    assert learned_action(a, r, 0.0, monkeypatch) == pytest.approx(0, abs=0.1)
    assert learned_action(a, r, math.inf, monkeypatch) == pytest.approx(1, abs=0.2)
    assert 0.3 < learned_action(a, r, 0.25, monkeypatch) < 0.95


def test_extrapolation(monkeypatch):
    """Recorded actions from -0.5 to 0.5, and rewards that rise with them: TD3 goes where nothing was recorded."""
    a = torch.linspace(-0.5, 0.5, 64)[:, None]
    r = 4 * a[:, 0] - 10
    assert learned_action(a, r, math.inf, monkeypatch) > 1.5
    assert 0 < learned_action(a, r, 0.25, monkeypatch) < 0.8


# ---- recording


class Still:
    """Does nothing."""

    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        assert deterministic
        return np.zeros((len(o), 1), np.float32)


def test_recorded_steps_are_the_pendulums():
    """The reward of each step by the formula of Pendulum-v1, and observations that follow each other."""
    steps = offline.record(Still(), "noisy", seed=3, episodes=4)
    assert steps.o.shape == (200, 4, 3)
    assert steps.a.shape == (200, 4, 1)
    assert torch.equal(steps.o[1:], steps.o2[:-1])
    angle = torch.atan2(steps.o[..., 1], steps.o[..., 0])
    wanted = -(angle.square() + 0.1 * steps.o[..., 2].square() + 0.001 * steps.a[..., 0].square())
    torch.testing.assert_close(steps.r, wanted, atol=1e-4, rtol=1e-4)


def test_data_sets():
    """Noise of 0.1 on the policy's actions, which are 0; of the noisy ones, half are random over the whole range."""
    expert, noisy = (offline.record(Still(), data, 0, episodes=4).a for data in ("expert", "noisy"))
    assert expert.std().item() == pytest.approx(0.1, abs=0.01)
    far = (noisy.abs() > 0.5).float().mean().item()  # beyond any noise, and three quarters of the random actions
    assert far == pytest.approx(0.5 * 0.75, abs=0.05)
    assert noisy.abs().max() <= 2


def test_evaluate_by_hand(monkeypatch):
    """Two episodes of rewards 1, 1, 1 and 3, 3, 3: returns 3 and 9, discounted by 0.98 to the mean 2 (1 + g + g^2)."""
    r = torch.tensor([[1.0, 3.0]] * 3)
    steps = offline.Steps(torch.zeros(3, 2, 3), torch.zeros(3, 2, 1), r, torch.zeros(3, 2, 3))
    monkeypatch.setattr(offline, "play", lambda act, episodes, seed: steps)
    found = offline.evaluate(Line())
    assert found == pytest.approx((6.0, 2 * (1 + 0.98 + 0.98**2), 1.9))


def test_same_seed_same_run(capsys):
    steps = offline.record(Still(), "noisy", seed=0, episodes=2)

    def learn(seed: int) -> list:
        return offline.learn(steps, 0.5, seed, updates=4, every=2)

    assert learn(1) == learn(1)
    assert learn(1) != learn(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["updates", "return", "discounted", "expected"]
    assert len(lines) == 12


def test_program(monkeypatch, capsys):
    """The policy that is recorded is SAC's, by spinup itself; here after a few steps."""
    behavior = offline.train_behavior
    monkeypatch.setattr(offline, "train_behavior", lambda seed: behavior(seed, steps=300))
    monkeypatch.setattr(offline, "learn", lambda steps, alpha, seed: [steps.r.shape, alpha, seed])
    assert offline.train("noisy", 0.5, seed=2) == [(200, 50), 0.5, 2]
    assert "The mean return of 50 recorded episodes is -" in capsys.readouterr().out
