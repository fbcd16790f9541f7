"""VPG: equations by hand, and the first epoch against a reference implementation."""

import pytest
import torch
from probes import (
    ByBoth,
    Epoch,
    Mixed,
    Probe,
    Target,
    learning_rates,
    train,
)

from spinup.algos.vpg import ALGORITHM, policy_loss, value_loss

SMALL = dict(num_envs=2, steps_per_epoch=40, epochs=2, train_v_iters=3)


# ---- equations


def test_policy_loss():
    logp = torch.tensor([-1.0, -2.0, -0.5, 0.0], requires_grad=True)
    loss = policy_loss(logp, torch.tensor([2.0, -1.0, 4.0, 7.0]))
    loss.backward()
    assert loss.item() == 0.5  # -(-1 * 2 + -2 * -1 + -0.5 * 4 + 0 * 7) / 4
    assert logp.grad.tolist() == [-0.5, 0.25, -1.0, -1.75]  # -adv / 4


def test_policy_loss_gradient_equals_that_of_the_return():
    """For a softmax over two actions with rewards 3 and 1 at p = 1/2: dJ/dx_1 = p_1 (r_1 - J) = (3 - 2) / 2."""
    x = torch.zeros(2, requires_grad=True)
    logp = x.log_softmax(-1)[torch.tensor([0, 1])]  # each action once, as with p = 1/2
    policy_loss(logp, torch.tensor([3.0, 1.0])).backward()
    assert (-x.grad).tolist() == [0.5, -0.5]


def test_value_loss():
    v = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = value_loss(v, torch.tensor([3.0, -1.0]))
    loss.backward()
    assert loss.item() == 6.5  # ((1 - 3)^2 + (2 + 1)^2) / 2
    assert v.grad.tolist() == [-2.0, 3.0]  # 2 (v - ret) / 2


# ---- the first epoch, against a reference implementation


def advantages(r, v, v2, terminated, done, gamma, lam):
    """A separate sum over all later steps of the episode for each step: (T, N)."""
    adv = torch.zeros_like(r)
    for n in range(r.shape[1]):
        for t in range(r.shape[0]):
            weight = 1.0
            for s in range(t, r.shape[0]):
                target = r[s, n] + (0.0 if terminated[s, n] else gamma * v2[s, n])
                adv[t, n] += weight * (target - v[s, n])
                if done[s, n]:
                    break
                weight *= gamma * lam
    return adv


@pytest.mark.parametrize("normalize_adv", [True, False])
@pytest.mark.parametrize("value_target", ["gae", "rtg"])
@pytest.mark.parametrize("env", [Mixed, Target, lambda: Probe(3, truncates=True)], ids=["discrete", "box", "cut"])
def test_first_epoch(monkeypatch, tmp_path, env, value_target, normalize_adv):
    """Recomputed with torch.distributions, torch.optim and loops; episodes of 3 steps, an epoch of 20 in each env."""
    options = dict(num_envs=2, steps_per_epoch=40, train_v_iters=4, pi_lr=2e-3, vf_lr=1e-3, gamma=0.9, lam=0.8)
    options |= dict(normalize_adv=normalize_adv, value_target=value_target, ac_kwargs=dict(orthogonal=False))
    epoch = Epoch(monkeypatch, "vpg", env, tmp_path, **options)
    o, a, r, o2, terminated, done = epoch.data
    ac = epoch.at("before")

    def distribution():
        if a.dim() == 2:
            return torch.distributions.Categorical(logits=ac.actor.net(o))
        pi = ac.actor(o)
        return torch.distributions.Independent(torch.distributions.Normal(pi.mu, pi.log_std.exp().expand_as(pi.mu)), 1)

    with torch.no_grad():
        v, v2, old = ac.v(o), ac.v(o2), distribution()
        adv = advantages(r, v, v2, terminated, done, 0.9, 0.8)
        ret = v + (adv if value_target == "gae" else advantages(r, v, v2, terminated, done, 0.9, 1.0))
        if normalize_adv:
            adv = (adv - adv.mean()) / adv.std(correction=0)
    pi_adam, vf_adam = (torch.optim.Adam(x.parameters(), lr) for x, lr in ((ac.actor, 2e-3), (ac.critic, 1e-3)))
    pi_adam.zero_grad()
    loss_pi = -(distribution().log_prob(a) * adv).mean()
    loss_pi.backward()
    pi_adam.step()
    for _ in range(4):
        vf_adam.zero_grad()
        ((ac.v(o) - ret) ** 2).mean().backward()
        vf_adam.step()
    for name, p in ac.named_parameters():
        torch.testing.assert_close(epoch.after[name], p.detach(), rtol=1e-4, atol=1e-4, msg=name)

    with torch.no_grad():
        new = distribution()
        want = {
            "AverageVVals": v.mean(),
            "MaxVVals": v.max(),
            "LossPi": loss_pi.detach(),
            "LossV": ((v - ret) ** 2).mean(),
            "DeltaLossPi": -(new.log_prob(a) * adv).mean() - loss_pi.detach(),
            "DeltaLossV": ((ac.v(o) - ret) ** 2).mean() - ((v - ret) ** 2).mean(),
            "Entropy": new.entropy().mean(),
            "KL": torch.distributions.kl_divergence(old, new).mean(),
        }
    assert {key: epoch.row[key] for key in want} == pytest.approx(
        {key: float(x) for key, x in want.items()}, rel=2e-2, abs=2e-6
    )
    assert epoch.row["KL"] > 1e-6
    assert epoch.row["DeltaLossV"] < 0


# ---- options


def test_train_v_iters_and_anneal_lr(monkeypatch, tmp_path):
    steps = learning_rates(monkeypatch)
    options = {**SMALL, "epochs": 4, "pi_lr": 0.4, "vf_lr": 0.8}
    train("vpg", ByBoth, tmp_path / "on", **options)
    assert steps == pytest.approx([0.4, *[0.8] * 3, 0.3, *[0.6] * 3, 0.2, *[0.4] * 3, 0.1, *[0.2] * 3])
    steps.clear()
    train("vpg", ByBoth, tmp_path / "off", **options, anneal_lr=False)
    assert steps == [0.4, 0.8, 0.8, 0.8] * 4


# ---- presets


def test_spinningup_preset():
    """The original's settings, without our departures."""
    table = dict(steps_per_epoch=4000, epochs=50, gamma=0.99, lam=0.97, pi_lr=3e-4, vf_lr=1e-3, train_v_iters=80)
    table |= dict(max_ep_len=1000, save_freq=10, seed=0)
    off = dict(num_envs=1, max_grad_norm=None, anneal_lr=False, normalize_obs=False, normalize_rew=False)
    off |= dict(value_target="rtg", normalize_adv=True, ac_kwargs=dict(orthogonal=False))
    settings = {**ALGORITHM.defaults, **ALGORITHM.presets["spinningup"]}
    assert {key: settings[key] for key in table | off} == table | off
