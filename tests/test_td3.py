"""TD3: equations by hand, updates against a reference implementation. See also test_off_policy.py."""

import copy
import math

import pytest
import torch
from probes import (
    Line,
    Probe,
    Replay,
    Target,
    Walk,
    assert_follows,
    fit,
    lines,
    optimizer_steps,
    parameters,
    polyak_loop,
    rows,
    train,
)

from spinup import nets
from spinup.algos.td3 import q_loss, target

SMALL = dict(epochs=1, start_steps=0, batch_size=8, replay_size=1000, eval_freq=0, ac_kwargs=dict(hidden_sizes=(16,)))


# ---- equations


def test_target():
    q2 = torch.tensor([[10.0, 10.0, 4.0, -8.0], [20.0, 2.0, 8.0, -6.0]])
    r, terminated = torch.tensor([1.0, 1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 0.0, 0.0])
    discount = torch.tensor([0.5, 0.5, 0.25, 0.5])
    # 1 + min(10, 20) / 2; nothing after a terminal state; two steps: -2 + min(4, 8) / 4; 0.5 + min(-8, -6) / 2
    assert target(r, terminated, discount, q2).tolist() == [6, 1, -1, -3.5]


def test_q_loss():
    q = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    loss = q_loss(q, torch.tensor([3.0, -1.0]))
    loss.backward()
    # ((1 - 3)^2 + (2 + 1)^2) / 2 + ((3 - 3)^2 + (0 + 1)^2) / 2: each critic has a loss of its own
    assert loss.item() == 7
    assert q.grad.tolist() == [[-2, 3], [0, 1]]  # 2 (q - y) / 2


# ---- target policy smoothing


def target_actions(folder, **kwargs):
    """The noise on the target policy's actions, in half-ranges, and the actions that the target critics evaluated."""
    calls = []

    class RecordingCritic(nets.QFunctions):
        def forward(self, o, a):
            calls.append((self, o, a))
            return super().forward(o, a)

    class Recorder(nets.TwinActorCritic):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.critic = RecordingCritic(self.critic)

    options = {**SMALL, "pi_lr": 0.0, "q_lr": 0.0, "update_after": 50, "steps_per_epoch": 99, "batch_size": 64}
    options |= {"capture": False}  # a replayed update doesn't call the networks
    ac = train("td3", Target, folder, actor_critic=Recorder, **options, **kwargs)
    o2, a2 = (torch.cat(x) for x in zip(*((o, a) for q, o, a in calls if q is not ac.critic), strict=True))
    assert len(a2) == 50 * 64
    return (a2 - ac.actor(o2)).detach() / torch.tensor([5.0, 2.0]), a2


def test_target_noise_is_normal_in_half_ranges(tmp_path):
    noise, _ = target_actions(tmp_path, target_noise=0.2, noise_clip=5.0)
    n = len(noise)
    assert noise.mean(0).tolist() == pytest.approx([0, 0], abs=5 * 0.2 / n**0.5)
    assert noise.std(0).tolist() == pytest.approx([0.2, 0.2], rel=5 / (2 * n) ** 0.5)
    assert abs(torch.corrcoef(noise.T)[0, 1]) < 5 / n**0.5


def test_target_noise_is_clipped(tmp_path):
    noise, _ = target_actions(tmp_path, target_noise=10.0, noise_clip=0.3)
    assert noise.abs().max().item() == pytest.approx(0.3, abs=1e-6)
    assert ((noise.abs() - 0.3).abs() < 1e-6).float().mean() > 0.95  # P(|N(0, 10)| > 0.3) = 0.976
    assert ((noise > 0).float().mean(0) - 0.5).abs().max() < 5 / len(noise) ** 0.5


def test_target_actions_stay_within_the_bounds(tmp_path):
    _, a2 = target_actions(tmp_path, target_noise=10.0, noise_clip=5.0)
    low, high = (torch.tensor(x) for x in (Target.action_space.low, Target.action_space.high))
    assert (a2 >= low).all()
    assert (a2 <= high).all()
    for end in (low, high):
        assert ((a2 == end).float().mean(0) > 0.3).all()


def test_without_noise_the_target_critics_get_the_target_policys_actions(tmp_path):
    noise, _ = target_actions(tmp_path, target_noise=0.0)
    assert noise.abs().max() < 1e-6


# ---- runs


def test_first_losses_by_hand(tmp_path):
    """Q1 = 5, Q2 = 3, rewards of 1, gamma 0.5, no terminal state: y = 1 + 3 / 2, and the policy climbs Q1 alone."""
    env = fit("td3", lambda: Probe(truncates=True))
    options = {**SMALL, "gamma": 0.5, "update_after": 20, "steps_per_epoch": 30}
    train("td3", env, tmp_path, actor_critic=lines("td3", Line(5.0), Line(3.0)), **options)
    (row,) = rows(tmp_path)
    assert (row["AverageQ1Vals"], row["AverageQ2Vals"]) == (5, 3)
    assert row["LossQ"] == pytest.approx((5 - 2.5) ** 2 + (3 - 2.5) ** 2)
    assert row["LossPi"] == -5


@pytest.mark.parametrize("policy_delay", [1, 2, 3])
@pytest.mark.parametrize(("update_every", "steps_per_epoch", "updates"), [(1, 110, 61), (50, 100, 100), (7, 105, 63)])
def test_policy_steps_are_updates_over_policy_delay(tmp_path, policy_delay, update_every, steps_per_epoch, updates):
    options = {**SMALL, "update_after": 49 + (update_every != 7), "batch_size": 2, "policy_delay": policy_delay}
    train("td3", Target, tmp_path, **options, update_every=update_every, steps_per_epoch=steps_per_epoch)
    assert optimizer_steps(tmp_path) == {"q_optimizer": updates, "pi_optimizer": updates // policy_delay}


def test_targets_move_only_with_the_policy(monkeypatch, tmp_path):
    options = {**SMALL, "update_after": 30, "steps_per_epoch": 38, "polyak": 0.5, "policy_delay": 10}
    replay = Replay(monkeypatch, "td3", Walk, tmp_path, **options)
    assert len(replay.batches) == 9
    first = {"actor_targ": replay.first.actor, "critic_targ": replay.first.critic}
    assert_follows(replay, first)
    assert_follows(replay, {"actor": replay.first.actor})
    assert (parameters(replay.ac.critic) != parameters(replay.first.critic)).float().mean() > 0.9
    assert math.isnan(replay.row["LossPi"])  # the policy took no step


@pytest.mark.parametrize("policy_delay", [1, 2, 3])
def test_updates_match_a_reference_implementation(monkeypatch, tmp_path, policy_delay):
    """Eight updates on the same batches and noise, with torch.optim.Adam and targets averaged one by one."""
    options = {**SMALL, "update_after": 30, "steps_per_epoch": 37, "pi_lr": 2e-3, "q_lr": 1e-3, "polyak": 0.9}
    options |= dict(gamma=0.8, n_step=2, policy_delay=policy_delay, target_noise=0.4, noise_clip=0.5)
    replay = Replay(monkeypatch, "td3", Walk, tmp_path, **options)
    assert len(replay.batches) == 8

    actor, critic = replay.first.actor, replay.first.critic
    actor_targ, critic_targ = copy.deepcopy(actor), copy.deepcopy(critic)
    pi_adam = torch.optim.Adam(actor.parameters(), 2e-3)
    q_adams = [torch.optim.Adam(net.parameters(), 1e-3) for net in critic]
    middle, half_range = torch.tensor([5.0, -1.0]), torch.tensor([5.0, 2.0])
    low, high = torch.tensor([0.0, -3.0]), torch.tensor([10.0, 1.0])

    def mu(net, o):
        return middle + half_range * torch.tanh(net.net(o))

    def value(net, o, a):
        return net.net(torch.cat([o, (a - middle) / half_range], 1))[:, 0]

    losses_q, losses_pi, values = [], [], []
    for i, (batch, random) in enumerate(zip(replay.batches, replay.random, strict=True), 1):
        torch.set_rng_state(random)
        noise = (0.4 * torch.randn(8, 2)).clamp(-0.5, 0.5) * half_range
        with torch.no_grad():
            a2 = torch.min(torch.max(mu(actor_targ, batch.o2) + noise, low), high)
            q2 = torch.min(*(value(net, batch.o2, a2) for net in critic_targ))
            y = batch.r + torch.where(batch.terminated == 1, 0.0, batch.discount * q2)
        losses_q.append(0.0)
        for net, adam in zip(critic, q_adams, strict=True):
            adam.zero_grad()
            q = value(net, batch.o, batch.a)
            loss = ((q - y) ** 2).mean()
            loss.backward()
            adam.step()
            losses_q[-1] += loss.item()
        values.append(q.mean().item())  # of the second
        if i % policy_delay == 0:
            pi_adam.zero_grad()
            loss = -value(critic[0], batch.o, mu(actor, batch.o)).mean()
            loss.backward()
            pi_adam.step()
            losses_pi.append(loss.item())
            polyak_loop(critic_targ, critic, 0.9)
            polyak_loop(actor_targ, actor, 0.9)

    expected = {"actor": actor, "critic": critic, "actor_targ": actor_targ, "critic_targ": critic_targ}
    assert_follows(replay, expected)
    for key, x in {"LossQ": losses_q, "LossPi": losses_pi, "AverageQ2Vals": values}.items():
        assert replay.row[key] == pytest.approx(sum(x) / len(x), rel=1e-4, abs=1e-5), key


def test_the_policy_climbs_the_first_critic(tmp_path):
    """Q1 rises with the action and Q2 falls more steeply: their minimum or sum would favor the other end."""
    actor_critic = lines("td3", Line(0.0, 1.0), Line(0.0, -2.0))
    options = {**SMALL, "pi_lr": 1e-2, "update_after": 20, "steps_per_epoch": 220}
    ac = train("td3", fit("td3", Probe), tmp_path, actor_critic=actor_critic, **options)
    assert ac.actor(torch.zeros(1, 1)).item() > 0.9  # of (0, 1)
