"""SAC: equations by hand, updates against a reference implementation. See also test_off_policy.py."""

import copy
import math

import pytest
import torch
from gymnasium import spaces
from probes import (
    ByAction,
    Line,
    Probe,
    Replay,
    Spaces,
    Target,
    Walk,
    assert_follows,
    column,
    fit,
    lines,
    polyak_loop,
    rows,
    train,
    without_time,
)
from torch import distributions as td

from spinup.algos.sac import alpha_loss, q_loss, soft_value, target
from spinup.nets import Categorical, SquashedGaussian

SMALL = dict(epochs=1, start_steps=0, batch_size=8, replay_size=1000, eval_freq=0, policy_delay=1, normalize_obs=False)
SMALL |= dict(ac_kwargs=dict(hidden_sizes=(16,)))


# ---- equations


def test_target():
    r, v2 = torch.tensor([1.0, 1.0, -2.0, 0.5]), torch.tensor([10.0, 10.0, 4.0, -8.0])
    terminated, discount = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.25, 0.5])
    # 1 + 10 / 2; nothing after a terminal state, not even entropy; two steps: -2 + 4 / 4; 0.5 - 8 / 2
    assert target(r, terminated, discount, v2).tolist() == [6, 1, -1, -3.5]


def test_q_loss():
    q = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    loss = q_loss(q, torch.tensor([3.0, -1.0]))
    loss.backward()
    # ((1 - 3)^2 + (2 + 1)^2) / 2 + ((3 - 3)^2 + (0 + 1)^2) / 2: each critic has a loss of its own
    assert loss.item() == 7
    assert q.grad.tolist() == [[-2, 3], [0, 1]]  # 2 (q - y) / 2


def test_soft_value_of_discrete_actions_by_hand():
    pi = Categorical(torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).clamp(min=1e-30).log())
    q = torch.tensor([[[4.0, 0.0, 8.0], [1.0, 2.0, 3.0]], [[2.0, 4.0, 12.0], [5.0, 6.0, 7.0]]])
    v, logp = soft_value(pi, lambda o: q, None, torch.tensor(2.0))
    # min is taken for each action: 0.5 * 2 + 0.25 * 0 + 0.25 * 8 = 3, and the entropy is 1.5 log 2
    assert v.tolist() == pytest.approx([3 + 2 * 1.5 * math.log(2), 1])
    assert logp.tolist() == pytest.approx([-1.5 * math.log(2), 0])


def test_soft_value_of_discrete_actions_is_the_expectation():
    torch.manual_seed(0)
    logits, q, alpha = torch.randn(6, 4, dtype=torch.float64), torch.randn(2, 6, 4, dtype=torch.float64), 0.75
    v, logp = soft_value(Categorical(logits.log_softmax(-1)), lambda o: q, None, torch.tensor(alpha).double())
    for b in range(6):
        total = sum(math.exp(x) for x in logits[b].tolist())
        value = entropy = 0.0
        for k in range(4):
            p = math.exp(logits[b, k].item()) / total
            value += p * (min(q[0, b, k].item(), q[1, b, k].item()) - alpha * math.log(p))
            entropy -= p * math.log(p)
        assert v[b].item() == pytest.approx(value, rel=1e-12)
        assert logp[b].item() == pytest.approx(-entropy, rel=1e-12)


def test_the_optimal_policy_for_discrete_actions_is_the_softmax():
    """The gradient of the value with respect to the logits is 0 for p proportional to exp(Q / alpha)."""
    q = torch.tensor([[[1.0, -2.0, 0.5]]]).repeat(2, 1, 1)
    for scale, is_optimum in ((1 / 0.7, True), (1.0, False), (-1 / 0.7, False)):
        logits = (scale * q[0]).requires_grad_()
        v, _ = soft_value(Categorical(logits.log_softmax(-1)), lambda o: q, None, torch.tensor(0.7))
        (gradient,) = torch.autograd.grad(v.sum(), logits)
        assert (gradient.abs().max() < 1e-6) == is_optimum


def test_soft_value_of_continuous_actions_uses_one_sample():
    torch.manual_seed(0)
    pi = SquashedGaussian(*torch.randn(2, 5, 2), torch.tensor([5.0, -1.0]), torch.tensor([5.0, 2.0]))
    o = torch.randn(5, 3)
    asked = []

    def q(o, a):
        asked.append((o, a))
        return torch.stack([a.sum(-1), 2 * a[:, 0] - o[:, 0]])

    torch.manual_seed(1)
    v, logp = soft_value(pi, q, o, torch.tensor(0.5))
    torch.manual_seed(1)
    a, logp_by_hand = pi.rsample()
    assert torch.equal(asked[0][0], o)
    assert torch.equal(asked[0][1], a)
    assert torch.equal(logp, logp_by_hand)
    for i in range(5):
        q1, q2 = a[i].sum().item(), 2 * a[i, 0].item() - o[i, 0].item()
        assert v[i].item() == pytest.approx(min(q1, q2) - 0.5 * logp[i].item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("logp", "target_entropy", "loss", "gradient"),
    [
        # entropy 2, above its target: -0.5 (-2 - 3) and a gradient that lowers log alpha
        ([-1.0, -3.0], -3.0, 2.5, 5.0),
        # entropy -2, below its target: -0.5 (2 - 1) and a gradient that raises it
        ([1.0, 3.0], -1.0, -0.5, -1.0),
        ([1.0, 3.0], -2.0, 0.0, 0.0),
    ],
)
def test_alpha_loss_in_both_directions(logp, target_entropy, loss, gradient):
    log_alpha = torch.tensor(0.5, requires_grad=True)
    value = alpha_loss(log_alpha, torch.tensor(logp), target_entropy)
    value.backward()
    assert value.item() == loss
    assert log_alpha.grad.item() == gradient


# ---- the temperature in a run


def test_alpha_moves_to_hold_the_target_entropy(tmp_path):
    """Entropies are always between -50 and 50, so log alpha, from 0, moves by lr in each update."""
    for target_entropy, sign in ((50.0, 1), (-50.0, -1)):
        options = {**SMALL, "lr": 1e-3, "update_after": 20, "steps_per_epoch": 119, "target_entropy": target_entropy}
        ac = train("sac", Target, tmp_path / str(sign), **options)
        assert ac.temperature.log_alpha.item() == pytest.approx(sign * 100 * 1e-3, rel=0.02)
        average = sum(math.exp(sign * 1e-3 * i) for i in range(100)) / 100  # logged before each step
        assert column(tmp_path / str(sign), "Alpha") == [pytest.approx(average, rel=2e-3)]


@pytest.mark.parametrize("env", [Target, ByAction], ids=["box", "discrete"])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_fixed_alpha_is_constant(tmp_path, env, alpha):
    ac = train("sac", env, tmp_path, **{**SMALL, "update_after": 20, "steps_per_epoch": 60, "alpha": alpha})
    assert column(tmp_path, "Alpha") == [pytest.approx(alpha)]
    assert ac.temperature.log_alpha.exp().item() == pytest.approx(alpha)
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())


@pytest.mark.parametrize(
    ("space", "entropy"),
    [
        (spaces.Box(-1, 1, (3,)), -1.5),
        (spaces.Box(-5, 1, (2, 2)), -2.0),
        (spaces.Discrete(5), 0.5 * math.log(5)),
        (spaces.Discrete(2, start=7), 0.5 * math.log(2)),
    ],
)
def test_default_target_entropy(tmp_path, space, entropy):
    """Giving the default changes nothing; another one does."""
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 40}
    for name, target_entropy in (("default", None), ("same", entropy), ("other", entropy + 0.1)):
        env = lambda: Spaces(action_space=space)  # noqa: E731
        train("sac", env, tmp_path / name, **options, target_entropy=target_entropy)
    assert without_time(tmp_path / "default") == without_time(tmp_path / "same") != without_time(tmp_path / "other")


# ---- runs


def test_first_losses_by_hand(tmp_path):
    """Q1 = 5, Q2 = 3, rewards of 1, gamma 0.5, no terminal state and no entropy: y = 1 + 3 / 2, LossPi = -3."""
    env = fit("td3", lambda: Probe(truncates=True))
    options = {**SMALL, "gamma": 0.5, "update_after": 20, "steps_per_epoch": 30}
    options["actor_critic"] = lines("sac", Line(5.0), Line(3.0))
    train("sac", env, tmp_path / "0", **options, alpha=0.0)
    (row,) = rows(tmp_path / "0")
    assert (row["AverageQ1Vals"], row["AverageQ2Vals"]) == (5, 3)
    assert row["LossQ"] == pytest.approx((5 - 2.5) ** 2 + (3 - 2.5) ** 2)
    assert row["LossPi"] == -3
    # With alpha = 2 the policy's loss is the mean of 2 log pi - 3.
    train("sac", env, tmp_path / "2", **options, alpha=2.0)
    (row,) = rows(tmp_path / "2")
    assert row["LossPi"] == pytest.approx(2 * row["AverageLogPi"] - 3, rel=1e-5)
    assert row["AverageLogPi"] != 0


def test_terminal_states_have_no_entropy(tmp_path):
    """Q = 0 and episodes of one step: y = 1 exactly, whatever alpha is."""
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 30, "alpha": 5.0}
    train("sac", fit("td3", Probe), tmp_path, actor_critic=lines("sac", Line(0.0), Line(0.0)), **options)
    assert column(tmp_path, "LossQ") == [2.0]


@pytest.mark.parametrize("alpha", ["auto", 0.3])
@pytest.mark.parametrize("delay", [1, 3])
def test_updates_match_a_reference_implementation(monkeypatch, tmp_path, alpha, delay):
    """Eight updates on the same batches and noise, with torch.optim.Adam, torch.distributions and loops."""
    options = {**SMALL, "update_after": 30, "steps_per_epoch": 37, "lr": 2e-3, "polyak": 0.9, "gamma": 0.8}
    options |= {"n_step": 2, "alpha": alpha, "policy_delay": delay, "policy_average": 0.3}
    replay = Replay(monkeypatch, "sac", Walk, tmp_path, **options)
    assert len(replay.batches) == 8
    middle, half_range = torch.tensor([5.0, -1.0]), torch.tensor([5.0, 2.0])

    def draw(net, o):
        mu, log_std = net.net(o).split(2, dim=1)
        noise = torch.randn(8, 2)
        normal, u = td.Normal(mu, log_std.exp()), mu + log_std.exp() * noise
        logp = (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)).sum(1)
        return torch.tanh(u), logp

    def value(net, o, unit):
        return net.net(torch.cat([o, unit], 1))[:, 0]

    def soft(actor, critic, o, alpha):
        unit, logp = draw(actor, o)
        return torch.min(*(value(net, o, unit) for net in critic)) - alpha * logp, logp

    def learned(critic, batch):
        return [value(net, batch.o, (batch.a - middle) / half_range) for net in critic]

    follow(replay, soft, learned, alpha, target_entropy=-1.0, delay=delay, average=0.3)


@pytest.mark.parametrize("alpha", ["auto", 0.3])
def test_updates_for_discrete_actions_match_a_reference_implementation(monkeypatch, tmp_path, alpha):
    options = {**SMALL, "update_after": 30, "steps_per_epoch": 37, "lr": 2e-3, "polyak": 0.9, "gamma": 0.8}
    env = lambda: Walk(spaces.Discrete(3))  # noqa: E731
    replay = Replay(monkeypatch, "sac", env, tmp_path, **options, n_step=2, alpha=alpha, policy_average=0.0)
    assert {x for batch in replay.batches for x in batch.a.tolist()} == {0, 1, 2}

    def soft(actor, critic, o, alpha):
        p = torch.softmax(actor.net(o), 1)
        value = entropy = 0.0
        for k in range(3):
            value = value + p[:, k] * torch.min(*(net.net(o)[:, k] for net in critic))
            entropy = entropy - p[:, k] * torch.log(p[:, k])
        return value + alpha * entropy, -entropy

    def learned(critic, batch):
        return [torch.stack([net.net(o)[a] for o, a in zip(batch.o, batch.a, strict=True)]) for net in critic]

    follow(replay, soft, learned, alpha, target_entropy=0.5 * math.log(3))


def follow(replay, soft, learned, alpha, target_entropy, delay=1, average=0.0):
    """Compare a run with a reference implementation of its updates.

    soft(actor, critic, o, alpha): values and log-probabilities; learned(critic, batch): the critics' values;
    delay: steps of the critics for each step of the policy; average: decay of the average of the policies, the result
    """
    actor, critic = replay.first.actor, replay.first.critic
    actor_avg, critic_targ, n = copy.deepcopy(actor), copy.deepcopy(critic), 0
    log_alpha = torch.tensor(0.0 if alpha == "auto" else math.log(alpha), requires_grad=True)
    pi_adam, alpha_adam = torch.optim.Adam(actor.parameters(), 2e-3), torch.optim.Adam([log_alpha], 2e-3)
    q_adams = [torch.optim.Adam(net.parameters(), 2e-3) for net in critic]
    logs = {"LossQ": [], "LossPi": [], "AverageLogPi": [], "Alpha": [], "AverageQ1Vals": []}
    for i, (batch, random) in enumerate(zip(replay.batches, replay.random, strict=True), 1):
        torch.set_rng_state(random)
        a = log_alpha.exp().item()
        with torch.no_grad():
            v2, _ = soft(actor, critic_targ, batch.o2, a)
            y = batch.r + torch.where(batch.terminated == 1, 0.0, batch.discount * v2)
        losses = [((q - y) ** 2).mean() for q in learned(critic, batch)]
        logs["AverageQ1Vals"].append(learned(critic, batch)[0].mean().item())
        logs["LossQ"].append(sum(losses).item())
        logs["Alpha"].append(a)
        for loss, adam in zip(losses, q_adams, strict=True):
            adam.zero_grad()
            loss.backward()
            adam.step()
        polyak_loop(critic_targ, critic, 0.9)
        if i % delay:
            continue
        v, logp = soft(actor, critic, batch.o, a)
        pi_adam.zero_grad()
        (-v.mean()).backward()
        pi_adam.step()
        n += 1
        polyak_loop(actor_avg, actor, min(average, n / (n + 9)))
        if alpha == "auto":
            alpha_adam.zero_grad()
            (log_alpha * (-logp.detach().mean() - target_entropy)).backward()  # alpha rises if the entropy is too low
            alpha_adam.step()
        logs["LossPi"].append(-v.mean().item())
        logs["AverageLogPi"].append(logp.mean().item())

    assert_follows(replay, {"actor": actor_avg, "critic": critic, "critic_targ": critic_targ})
    assert replay.ac.temperature.log_alpha.item() == pytest.approx(log_alpha.item(), abs=1e-6)
    for key, x in logs.items():
        assert replay.row[key] == pytest.approx(sum(x) / len(x), rel=1e-4, abs=1e-5), key


def test_the_policy_climbs_the_lower_critic(tmp_path):
    """Whichever that is. One falls with the action; the other rises and is larger for all actions."""
    falls, rises = Line(0.0, -2.0), Line(5.0, 2.0)
    for name, critics in (("first", (falls, rises)), ("second", (rises, falls))):
        options = {**SMALL, "lr": 1e-2, "alpha": 0.0, "update_after": 20, "steps_per_epoch": 150}
        ac = train("sac", fit("td3", Probe), tmp_path / name, actor_critic=lines("sac", *critics), **options)
        assert ac.actor(torch.zeros(1, 1)).mode().item() < 0.1  # of (0, 1)
