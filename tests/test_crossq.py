"""CrossQ: its equations on numbers worked out by hand, batch normalization, updates against a twin, MPI, saving."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import rows
from torch import nn

import spinup
from spinup.algos.crossq import alpha_loss, q_loss, target
from spinup.nets import BatchNorm, BatchNormActorCritic, BatchNormQFunctions, QFunctions

OBS, ACT = spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,))
SMALL = dict(epochs=2, steps_per_epoch=60, start_steps=20, update_after=20, batch_size=8, replay_size=1000, eval_freq=0)
SMALL |= dict(ac_kwargs=dict(hidden_sizes=(16, 16)))


def train(folder, **kwargs):
    kwargs = SMALL | kwargs
    return spinup.crossq("Pendulum-v1", **kwargs, logger_kwargs=dict(output_dir=str(folder), quiet=True))


# ---- equations


def test_target():
    r, terminated = torch.tensor([1.0, 1.0, -2.0]), torch.tensor([0.0, 1.0, 0.0])
    discount, v2 = torch.tensor([0.5, 0.5, 0.25]), torch.tensor([10.0, 10.0, 4.0])
    assert target(r, terminated, discount, v2).tolist() == [6, 1, -1]


def test_q_loss_sums_over_critics_and_averages_over_the_batch():
    q = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert q_loss(q, torch.tensor([1.0, 0.0])).item() == (0 + 4) / 2 + (4 + 0) / 2


def test_alpha_rises_when_entropy_is_below_its_target():
    log_alpha = torch.zeros((), requires_grad=True)
    alpha_loss(log_alpha, torch.tensor([1.0, 3.0]), -1.0).backward()  # entropy -2 < -1
    assert log_alpha.grad.item() == -(2 - 1)


# ---- batch normalization


def test_batch_norm_by_hand():
    """The batch 1, 3: mean 2, variance 1, unbiased 2. The running statistics move a tenth of the way."""
    norm = BatchNorm(1, momentum=0.1, eps=1e-12)
    x = torch.tensor([[1.0], [3.0]])
    assert norm(x, training=True).flatten().tolist() == pytest.approx([-1, 1])
    assert norm.mean.item() == pytest.approx(0.2)
    assert norm.var.item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    before = copy.deepcopy(norm.state_dict())
    torch.testing.assert_close(norm(x), (x - 0.2) / 1.1**0.5)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_the_halves_of_a_batch_share_their_statistics():
    """In one batch, values differ from those of two batches; without training they don't."""
    torch.manual_seed(0)
    critic = BatchNormActorCritic(OBS, ACT, (8,)).critic
    (o, o2), (a, a2) = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    both = critic(torch.cat([o, o2 + 3]), torch.cat([a, a2]), training=True)
    assert both.shape == (2, 10)
    apart = torch.cat([critic(o, a, training=True), critic(o2 + 3, a2, training=True)], -1)
    assert not torch.allclose(both, apart, atol=0.1)
    both, first = critic(torch.cat([o, o2]), torch.cat([a, a2])), critic(o, a)
    torch.testing.assert_close(both[:, :5], first)


def test_critics_by_a_twin():
    """Values as by torch's own BatchNorm1d, whose mode does what the argument does here."""
    torch.manual_seed(0)
    ac = BatchNormActorCritic(OBS, ACT, (8, 8), critic_width=3)
    q = ac.critic[0]
    assert q.linears[1].weight.shape == (24, 24)
    layers = []
    for i, (norm, linear) in enumerate(zip(q.norms, q.linears, strict=True)):
        twin = nn.BatchNorm1d(len(norm.mean), eps=1e-3, momentum=0.01)
        layers += [*([nn.ReLU()] if i else []), twin, copy.deepcopy(linear)]
    twin = nn.Sequential(*layers)
    o, a = torch.randn(6, 3), torch.rand(6, 2) * 4 - 2
    x = torch.cat([o, a / 2], -1)
    torch.testing.assert_close(q(o, a, training=True), twin(x).squeeze(-1))
    twin.eval()
    torch.testing.assert_close(q(o, a), twin(x).squeeze(-1))


def test_without_batch_norm_the_critics_are_plain():
    torch.manual_seed(0)
    ac = BatchNormActorCritic(OBS, ACT, (8,), batch_norm=False)
    assert not any(isinstance(part, BatchNorm) for part in ac.modules())
    o, a = torch.randn(4, 3), torch.randn(4, 2)
    torch.testing.assert_close(ac.critic(o, a, training=True), ac.critic(o, a))
    assert isinstance(ac.critic, BatchNormQFunctions)
    assert isinstance(ac.critic, QFunctions)


# ---- runs


def test_the_policys_step_leaves_the_statistics_alone(tmp_path):
    """With a delay that no policy step ends, and with one at each step, the critics' first statistics are the same."""
    one = dict(epochs=1, steps_per_epoch=20)  # and one update, after the last
    never, always = (train(tmp_path / str(delay), **one, policy_delay=delay) for delay in (1000, 1))
    for name, value in never.critic.state_dict().items():
        if name.endswith((".mean", ".var")):
            torch.testing.assert_close(value, always.critic.state_dict()[name], rtol=0, atol=0)
    assert any(name.endswith(".mean") for name in never.critic.state_dict())


def test_the_policy_steps_every_policy_delay_times(tmp_path):
    """Minus one step of Adam per update of the policy: its counter says how many there were."""
    train(tmp_path, policy_delay=3)
    table = rows(tmp_path)
    assert [np.isfinite(float(row["LossPi"])) for row in table] == [True, True]
    train(tmp_path / "never", policy_delay=1000)
    assert [np.isfinite(float(row["LossPi"])) for row in rows(tmp_path / "never")] == [False, False]


def test_a_saved_policy_has_the_running_statistics(tmp_path):
    ac = train(tmp_path)
    loaded = spinup.load(tmp_path)
    assert ac.critic[0].norms[0].mean.abs().max() > 0
    for name, value in ac.critic.state_dict().items():
        assert torch.equal(value, loaded.critic.state_dict()[name]), name


def test_discrete_actions_are_refused(tmp_path):
    with pytest.raises(spinup.errors.UserError, match="crossq needs a bounded Box of actions"):
        spinup.crossq("CartPole-v1", **SMALL, logger_kwargs=dict(output_dir=str(tmp_path), quiet=True))
