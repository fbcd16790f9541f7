"""DDPG: equations by hand, updates against a reference implementation. See also test_off_policy.py."""

import copy

import pytest
import torch
from probes import Line, Probe, Replay, Walk, assert_follows, fit, lines, polyak_loop, rows, train
from torch import nn

from spinup.algos.ddpg import q_loss, target

SMALL = dict(epochs=1, start_steps=0, batch_size=8, replay_size=1000, eval_freq=0, ac_kwargs=dict(hidden_sizes=(16,)))


# ---- equations


def test_target():
    r, q2 = torch.tensor([1.0, 1.0, -2.0, 0.5]), torch.tensor([10.0, 10.0, 4.0, -8.0])
    terminated, discount = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.25, 0.5])
    # 1 + 10 / 2; nothing after a terminal state; two steps: -2 + 4 / 4; 0.5 - 8 / 2
    assert target(r, terminated, discount, q2).tolist() == [6, 1, -1, -3.5]


def test_q_loss():
    q = torch.tensor([1.0, 2.0, -1.0], requires_grad=True)
    loss = q_loss(q, torch.tensor([3.0, -1.0, -2.0]))
    loss.backward()
    assert loss.item() == pytest.approx(14 / 3)  # ((1 - 3)^2 + (2 + 1)^2 + (-1 + 2)^2) / 3
    assert q.grad.tolist() == pytest.approx([-4 / 3, 2, 2 / 3])  # 2 (q - y) / 3


# ---- runs


def test_first_losses_by_hand(tmp_path):
    """Q = 3 everywhere, rewards of 1, gamma 0.5 and no terminal state: y = 2.5, LossQ = 0.25, LossPi = -3."""
    env = fit("ddpg", lambda: Probe(truncates=True))
    options = {**SMALL, "gamma": 0.5, "update_after": 20, "steps_per_epoch": 30}
    train("ddpg", env, tmp_path, actor_critic=lines("ddpg", Line(3.0)), **options)
    (row,) = rows(tmp_path)
    assert {key: row[key] for key in ("AverageQVals", "LossQ", "LossPi")} == {
        "AverageQVals": 3.0,
        "LossQ": pytest.approx(0.25),
        "LossPi": -3.0,
    }


def test_the_policy_climbs_the_learned_critic_and_not_the_target(tmp_path):
    class Turned(Line):
        """Rising with the action, but its copy, the target network, falls."""

        def __deepcopy__(self, memo):
            return Line(self.c, -self.w)

    options = {**SMALL, "pi_lr": 1e-2, "update_after": 20, "steps_per_epoch": 120}
    ac = train("ddpg", fit("ddpg", Probe), tmp_path, actor_critic=lines("ddpg", Turned(0.0, 1.0)), **options)
    assert ac.actor(torch.zeros(1, 1)).item() > 0.9  # of (0, 1)


@pytest.mark.parametrize("n_step", [1, 3])
def test_updates_match_a_reference_implementation(monkeypatch, tmp_path, n_step):
    """Eight updates on the same batches, with torch.optim.Adam and targets averaged one by one."""
    rates = dict(pi_lr=2e-3, q_lr=1e-3, polyak=0.9, gamma=0.8, n_step=n_step)
    options = {**SMALL, **rates, "update_after": 30, "steps_per_epoch": 37}
    replay = Replay(monkeypatch, "ddpg", Walk, tmp_path, **options)
    assert len(replay.batches) == 8
    assert {x for batch in replay.batches for x in batch.terminated.tolist()} == {0, 1}

    actor, critic = replay.first.actor, replay.first.critic[0]
    actor_targ, critic_targ = copy.deepcopy(actor), copy.deepcopy(critic)
    pi_adam, q_adam = torch.optim.Adam(actor.parameters(), 2e-3), torch.optim.Adam(critic.parameters(), 1e-3)
    middle, half_range = torch.tensor([5.0, -1.0]), torch.tensor([5.0, 2.0])

    def mu(net, o):
        return middle + half_range * torch.tanh(net.net(o))

    def value(net, o, a):
        return net.net(torch.cat([o, (a - middle) / half_range], 1))[:, 0]

    losses_q, losses_pi, values = [], [], []
    for batch in replay.batches:
        with torch.no_grad():
            q2 = value(critic_targ, batch.o2, mu(actor_targ, batch.o2))
        y = [
            float(r) + (0.0 if end else float(discount) * float(q))
            for r, end, discount, q in zip(batch.r, batch.terminated, batch.discount, q2, strict=True)
        ]
        q_adam.zero_grad()
        q = value(critic, batch.o, batch.a)
        loss = nn.functional.mse_loss(q, torch.tensor(y))
        loss.backward()
        q_adam.step()
        losses_q.append(loss.item())
        values.append(q.mean().item())

        pi_adam.zero_grad()
        loss = -value(critic, batch.o, mu(actor, batch.o)).mean()
        loss.backward()
        pi_adam.step()
        losses_pi.append(loss.item())
        polyak_loop(critic_targ, critic, 0.9)
        polyak_loop(actor_targ, actor, 0.9)

    assert_follows(replay, {"actor": actor, "actor_targ": actor_targ, "critic_targ": critic_targ})
    assert_follows(replay, {"critic": nn.ModuleList([critic])})
    means = {"LossQ": losses_q, "LossPi": losses_pi, "AverageQVals": values}
    for key, x in means.items():
        assert replay.row[key] == pytest.approx(sum(x) / 8, rel=1e-4, abs=1e-5), key
