"""PPO: equations by hand, the first epoch against a reference implementation, and options."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import (
    PLAIN,
    ByAction,
    ByBoth,
    ByObservation,
    Epoch,
    Probe,
    Spaces,
    Target,
    column,
    constant_critic,
    learning_rates,
    optimizer_steps,
    rows,
    train,
    without_time,
)
from torch import nn

from spinup.algos import ppo as module
from spinup.algos.ppo import ALGORITHM, approx_kl, policy_loss, value_loss
from spinup.nets import ActorCritic, Categorical, Gaussian, NoNorm

SMALL = dict(num_envs=2, steps_per_epoch=64, epochs=3, train_pi_iters=3, train_v_iters=3, minibatch_size=16)
SMALL |= dict(capture=False)  # so that every call runs as Python; test_capture.py compares both


def loss_and_gradient(ratio, adv, clip_ratio=0.2):
    """policy_loss, and its gradient with respect to logp, at these probability ratios."""
    logp_old = torch.full((len(ratio),), -1.5, dtype=torch.float64)
    logp = (logp_old + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    loss = policy_loss(logp, logp_old, torch.tensor(adv, dtype=torch.float64), clip_ratio)
    loss.backward()
    return loss.item(), logp.grad.tolist()


# ---- equations


@pytest.mark.parametrize(
    ("ratio", "adv", "loss", "grad"),
    [
        # adv > 0, the ratio above 1.2: min(1.5 * 2, 1.2 * 2) = 2.4, a constant
        (1.5, 2.0, -2.4, 0.0),
        # adv > 0, the ratio below 0.8: min(0.5 * 2, 0.8 * 2) = 1; d(-ratio * adv) / d(logp) = -ratio * adv = -1
        (0.5, 2.0, -1.0, -1.0),
        # adv < 0, the ratio above 1.2: min(1.5 * -3, 1.2 * -3) = -4.5; the gradient is -(1.5 * -3) = 4.5
        (1.5, -3.0, 4.5, 4.5),
        # adv < 0, the ratio below 0.8: min(0.5 * -3, 0.8 * -3) = -2.4, a constant
        (0.5, -3.0, 2.4, 0.0),
        # no clipping within the range: -1.1 * 2 and -(0.9 * -3)
        (1.1, 2.0, -2.2, -2.2),
        (0.9, -3.0, 2.7, 2.7),
        # at pi = pi_old the gradient is that of the policy gradient, -adv
        (1.0, 2.0, -2.0, -2.0),
        (1.0, 0.0, 0.0, 0.0),
    ],
)
def test_policy_loss_in_each_case_of_the_clip(ratio, adv, loss, grad):
    value, (gradient,) = loss_and_gradient([ratio], [adv])
    assert value == pytest.approx(loss, abs=1e-12)
    assert gradient == pytest.approx(grad, abs=1e-12)


def test_policy_loss_is_a_mean_over_the_batch():
    # -(2.4 + 1 - 4.5 - 2.4) / 4 = 0.875, and a quarter of each gradient above
    loss, grad = loss_and_gradient([1.5, 0.5, 1.5, 0.5], [2.0, 2.0, -3.0, -3.0])
    assert loss == pytest.approx(0.875)
    assert grad == pytest.approx([0.0, -0.25, 1.125, 0.0])


def test_clip_ratio_sets_the_range():
    # min(1.5, 1.4) = 1.4 and min(1.5, 1.6) = 1.5
    assert loss_and_gradient([1.5], [1.0], clip_ratio=0.4)[0] == pytest.approx(-1.4)
    assert loss_and_gradient([1.5], [1.0], clip_ratio=0.6)[0] == pytest.approx(-1.5)


def test_value_loss():
    v = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = value_loss(v, torch.tensor([3.0, -1.0]), v_old=torch.zeros(2), vf_clip=None)
    loss.backward()
    assert loss.item() == 6.5  # ((1 - 3)^2 + (2 + 1)^2) / 2
    assert v.grad.tolist() == [-2.0, 3.0]  # 2 (v - ret) / 2


@pytest.mark.parametrize(
    ("v", "ret", "loss", "grad"),
    [
        # v_old = 0, vf_clip = 0.5
        (1.0, 2.0, 2.25, 0.0),  # past the clip toward ret: max(1, (0.5 - 2)^2), a constant
        (-1.0, 2.0, 9.0, -6.0),  # past the clip away from ret: max(9, (-0.5 - 2)^2), gradient 2 (-1 - 2)
        (0.25, 2.0, 3.0625, -3.5),  # within the clip: (0.25 - 2)^2, gradient 2 (0.25 - 2)
        (1.0, 0.75, 0.0625, 0.5),  # overshot ret: max(0.25^2, (0.5 - 0.75)^2) = 0.0625; see below for the gradient
    ],
)
def test_value_loss_with_vf_clip(v, ret, loss, grad):
    v = torch.tensor([v], requires_grad=True)
    value = value_loss(v, torch.tensor([ret]), v_old=torch.zeros(1), vf_clip=0.5)
    value.backward()
    assert value.item() == loss
    if ret == 0.75:  # both squares are 0.0625: torch halves the gradient of a tie, 2 * 0.25 / 2
        grad /= 2
    assert v.grad.item() == grad


def test_approx_kl_is_zero_at_equality():
    logp = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert approx_kl(logp, logp).item() == 0


def test_approx_kl_of_one_sample_by_hand():
    # the ratio is 1/2: 1/2 - 1 - log(1/2) = log 2 - 1/2
    assert approx_kl(torch.tensor([math.log(0.25)]), torch.tensor([math.log(0.5)])).item() == pytest.approx(
        math.log(2) - 0.5, rel=1e-6
    )


@pytest.mark.parametrize("change", [1.0, 1e-2, 1e-4, 1e-6])
def test_approx_kl_is_never_negative_and_is_precise(change):
    """Also for ratios near 1 in float32, where computing exp(x) - 1 directly loses all digits."""
    generator = torch.Generator().manual_seed(0)
    logp_old = -5 * torch.rand(2000, generator=generator)
    logp = logp_old + change * torch.randn(2000, generator=generator)
    terms = torch.stack([approx_kl(x, y) for x, y in zip(logp.split(1), logp_old.split(1), strict=True)])
    assert terms.min().item() >= 0
    x = (logp - logp_old).double()
    assert approx_kl(logp, logp_old).item() == pytest.approx((x.expm1() - x).mean().item(), rel=1e-2)


def test_approx_kl_expectation_is_the_kl():
    """Exact for a batch with pi_old's frequencies of actions: (1/2, 1/4, 1/4) against (1/4, 1/4, 1/2)."""
    old, new = (Categorical(torch.tensor(p).log()) for p in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    a = torch.tensor([0, 0, 1, 2])
    logp_old, logp = old.logp[a], new.logp[a]
    # 1/2 log 2 + 1/4 log 1 + 1/4 log 1/2 = 1/4 log 2
    assert approx_kl(logp, logp_old).item() == pytest.approx(math.log(2) / 4, rel=1e-6)
    assert old.kl(new).item() == pytest.approx(math.log(2) / 4, rel=1e-6)


def test_approx_kl_of_samples_is_the_kl():
    torch.manual_seed(0)
    old = Gaussian(torch.zeros(200_000, 2), torch.tensor([0.0, -0.5]))
    new = Gaussian(torch.tensor([0.3, -0.2]).expand(200_000, 2), torch.tensor([0.1, -0.4]))
    a = old.sample()
    logp_old, logp = old.log_prob(a), new.log_prob(a)
    assert approx_kl(logp, logp_old).item() == pytest.approx(old.kl(new)[0].item(), rel=0.03)


# ---- the first epoch, against a reference implementation


@pytest.mark.parametrize("normalize_adv", [True, False])
@pytest.mark.parametrize("action_space", ["discrete", "box"])
def test_first_epoch(monkeypatch, tmp_path, action_space, normalize_adv):
    """One full-batch step of each network, recomputed with torch.distributions and torch.optim."""
    env = ByBoth if action_space == "discrete" else Target
    options = dict(num_envs=3, steps_per_epoch=60, train_pi_iters=1, train_v_iters=1, minibatch_size=None)
    options |= dict(max_grad_norm=None, normalize_adv=normalize_adv, ac_kwargs=dict(orthogonal=False))
    epoch = Epoch(monkeypatch, "ppo", env, tmp_path, pi_lr=2e-3, vf_lr=2e-4, **options)
    o, a, r, _, terminated, _ = epoch.data
    assert terminated.all()  # so A = r - V(o) and R = r
    ac = epoch.at("before")

    def distribution():
        if action_space == "discrete":
            return torch.distributions.Categorical(logits=ac.actor.net(o))
        pi = ac.actor(o)
        return torch.distributions.Independent(torch.distributions.Normal(pi.mu, pi.log_std.exp().expand_as(pi.mu)), 1)

    with torch.no_grad():
        v, logp_old, old = ac.v(o), distribution().log_prob(a), distribution()
    adv = (r - v - (r - v).mean()) / (r - v).std(correction=0) if normalize_adv else r - v
    pi_adam, vf_adam = (torch.optim.Adam(x.parameters(), lr) for x, lr in ((ac.actor, 2e-3), (ac.critic, 2e-4)))
    pi_adam.zero_grad(), vf_adam.zero_grad()
    ratio = (distribution().log_prob(a) - logp_old).exp()
    (-(ratio * adv).mean()).backward()  # nothing is clipped at ratio 1
    ((ac.v(o) - r) ** 2).mean().backward()
    pi_adam.step(), vf_adam.step()
    for name, p in ac.named_parameters():
        torch.testing.assert_close(epoch.after[name], p.detach(), rtol=1e-4, atol=1e-4, msg=name)

    with torch.no_grad():
        ratio, new = (distribution().log_prob(a) - logp_old).exp(), distribution()
        clipped = ratio.clamp(0.8, 1.2)
        want = {
            "AverageVVals": v.mean(),
            "LossPi": -adv.mean(),
            "LossV": ((v - r) ** 2).mean(),
            "DeltaLossPi": (adv - torch.min(ratio * adv, clipped * adv)).mean(),
            "DeltaLossV": ((ac.v(o) - r) ** 2).mean() - ((v - r) ** 2).mean(),
            "Entropy": new.entropy().mean(),
            "KL": (ratio - 1 - ratio.log()).mean(),
            "ClipFrac": ((ratio < 0.8) | (ratio > 1.2)).float().mean(),
            "StopIter": 1,
            "AverageEpRet": r.mean(),
            "EpLen": 1,
        }
        true_kl = torch.distributions.kl_divergence(old, new).mean().item()
    assert {key: epoch.row[key] for key in want} == pytest.approx(
        {key: float(x) for key, x in want.items()}, rel=2e-2, abs=1e-5
    )
    assert epoch.row["DeltaLossPi"] < 0
    assert epoch.row["DeltaLossV"] < 0
    assert epoch.row["KL"] == pytest.approx(true_kl, rel=0.5)


# ---- options


@pytest.mark.parametrize(
    ("minibatch_size", "batches"),
    [(16, 4), (30, 3), (64, 1), (1000, 1), (None, 1)],  # of 64 steps; the last minibatch may be smaller
)
def test_minibatch_size(tmp_path, minibatch_size, batches):
    train("ppo", ByBoth, tmp_path, **{**SMALL, "epochs": 1, "minibatch_size": minibatch_size})
    assert optimizer_steps(tmp_path) == {"pi_optimizer": 3 * batches, "vf_optimizer": 3 * batches}


def test_every_sample_is_used_once_in_a_pass(tmp_path):
    """Observations are random, so that each sample has its own; the critic gets them in minibatches of 16."""
    batches, rollouts = [], []

    class Recorder(ActorCritic):
        def v(self, o):
            (batches if len(o) == 16 else rollouts).append(o)
            return super().v(o)

    train("ppo", lambda: Spaces(), tmp_path, **{**PLAIN, **SMALL, "epochs": 1}, actor_critic=Recorder)
    assert len(batches) == 3 * 4
    rollout = next(o for o in rollouts if o.shape[:2] == (32, 2)).flatten(0, 1)
    for i in range(3):
        one_pass = torch.cat(batches[4 * i : 4 * i + 4])
        assert torch.equal(one_pass.sort(0).values, rollout.sort(0).values)
        assert not torch.equal(one_pass, rollout)


@pytest.mark.parametrize(("pi", "v"), [(5, 2), (2, 5), (0, 3), (3, 0)])
def test_train_iters(tmp_path, pi, v):
    train("ppo", ByBoth, tmp_path, **{**SMALL, "epochs": 1, "train_pi_iters": pi, "train_v_iters": v})
    assert optimizer_steps(tmp_path) == {"pi_optimizer": 4 * pi, "vf_optimizer": 4 * v}
    assert column(tmp_path, "StopIter") == [pi]


@pytest.mark.parametrize("minibatch_size", [None, 16])
def test_target_kl_ends_the_policy_steps_early(tmp_path, minibatch_size):
    options = {**SMALL, "epochs": 1, "train_pi_iters": 50, "minibatch_size": minibatch_size, "pi_lr": 1e-3}
    options["ac_kwargs"] = dict(orthogonal=False)
    train("ppo", ByBoth, tmp_path / "far", target_kl=None, **options)
    train("ppo", ByBoth, tmp_path / "near", target_kl=0.01, **options)
    (far,), (near,) = rows(tmp_path / "far"), rows(tmp_path / "near")
    assert far["StopIter"] == 50
    assert near["StopIter"] < 25
    assert 0.01 < near["KL"] < 0.04 < 0.1 < far["KL"]
    steps, per_pass = optimizer_steps(tmp_path / "near"), 1 if minibatch_size is None else 4
    assert steps["vf_optimizer"] == 3 * per_pass  # the value function takes all of its steps
    assert 0 < steps["pi_optimizer"] < 25 * per_pass


def test_target_kl_is_exceeded_at_one_and_a_half_times_its_value(tmp_path):
    """The KL after 3 steps, just above or below 1.5 times target_kl, prevents a fourth step or allows it."""
    options = {**SMALL, "epochs": 1, "minibatch_size": None, "pi_lr": 1e-3, "ac_kwargs": dict(orthogonal=False)}
    train("ppo", ByBoth, tmp_path / "three", **{**options, "train_pi_iters": 3})
    (kl,) = column(tmp_path / "three", "KL")
    for name, target_kl, steps in (("above", kl / 1.5 * 0.99, 3), ("below", kl / 1.5 * 1.01, 4)):
        train("ppo", ByBoth, tmp_path / name, **{**options, "train_pi_iters": 4, "target_kl": target_kl})
        assert column(tmp_path / name, "StopIter") == [steps]
        assert optimizer_steps(tmp_path / name)["pi_optimizer"] == steps


def test_ent_coef_rewards_entropy(tmp_path):
    for name, ent_coef in (("without", 0.0), ("with", 5.0)):
        train("ppo", ByAction, tmp_path / name, **{**SMALL, "epochs": 15, "pi_lr": 1e-2}, ent_coef=ent_coef)
    entropy = {name: column(tmp_path / name, "Entropy")[-1] for name in ("without", "with")}
    assert entropy["without"] < 0.3
    assert entropy["with"] > 0.6  # log 2 = 0.69 is the most


def test_ent_coef_raises_the_gaussian_entropy_if_advantages_are_0(tmp_path):
    env, ac = (lambda: Spaces(action_space=Target.action_space, length=1)), constant_critic()  # all advantages are 0
    options = {**PLAIN, **SMALL, "pi_lr": 1e-2, "ent_coef": 0.1, "normalize_adv": True}
    train("ppo", env, tmp_path, actor_critic=ac, **options)
    # 36 steps of Adam, each of at most 0.01 in both log_std and so 0.02 in the entropy; the first row comes after 12
    entropy = column(tmp_path, "Entropy")
    assert entropy[2] - entropy[0] == pytest.approx(24 * 0.02, rel=0.1)


def test_vf_clip_limits_the_change_of_values(monkeypatch, tmp_path):
    options = dict(num_envs=2, steps_per_epoch=32, train_v_iters=200, vf_lr=1e-2, minibatch_size=None)
    options |= dict(actor_critic=constant_critic(0.0), max_grad_norm=None)
    far = Epoch(monkeypatch, "ppo", Probe, tmp_path / "far", vf_clip=None, **options).after["critic.c"].item()
    near = Epoch(monkeypatch, "ppo", Probe, tmp_path / "near", vf_clip=0.1, **options).after["critic.c"].item()
    assert far == pytest.approx(1, abs=0.1)
    assert 0.1 <= near < 0.3  # past the clip the gradient is 0, but Adam's momentum carries on a little


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_max_grad_norm_reaches_both_optimizers(monkeypatch, tmp_path, part):
    """Gradients far below Adam's epsilon of 1e-8 make tiny steps."""
    moved = {}
    for max_grad_norm in (None, 1e-12):
        epoch = Epoch(monkeypatch, "ppo", ByBoth, tmp_path / str(max_grad_norm), max_grad_norm=max_grad_norm, **SMALL)
        moved[max_grad_norm] = epoch.moved(part).abs().max().item()
    assert 0 < moved[1e-12] < 0.01 * moved[None]


@pytest.mark.parametrize("anneal_lr", [True, False])
def test_anneal_lr(monkeypatch, tmp_path, anneal_lr):
    rates = learning_rates(monkeypatch)
    options = {**SMALL, "epochs": 4, "train_pi_iters": 1, "train_v_iters": 1, "minibatch_size": None}
    train("ppo", ByBoth, tmp_path, pi_lr=0.4, vf_lr=0.8, anneal_lr=anneal_lr, **options)
    assert rates[::2] == pytest.approx([0.4, 0.3, 0.2, 0.1] if anneal_lr else [0.4] * 4)
    assert rates[1::2] == pytest.approx([0.8, 0.6, 0.4, 0.2] if anneal_lr else [0.8] * 4)


def test_normalize_obs(tmp_path):
    def env():
        return Spaces(spaces.Box(np.array([4, -2], np.float32), np.array([6, 0], np.float32)))

    ac = train("ppo", env, tmp_path / "on", **{**SMALL, "steps_per_epoch": 500, "minibatch_size": None})
    assert ac.obs_norm.mean.tolist() == pytest.approx([5, -1], abs=0.1)  # of uniform observations, two units wide
    assert ac.obs_norm.std.tolist() == pytest.approx([2 / math.sqrt(12)] * 2, abs=0.05)
    assert ac.obs_norm.count.item() == 1500
    assert isinstance(train("ppo", env, tmp_path / "off", normalize_obs=False, **SMALL).obs_norm, NoNorm)


def test_acting_and_learning_normalize_observations_equally(monkeypatch, tmp_path):
    """log pi_old(a|s) uses the statistics with which the action was sampled."""
    logps = {"drawn": [], "learned": []}

    class Watched(ActorCritic):
        @torch.no_grad()
        def act(self, o, deterministic=False):
            a = super().act(o, deterministic)
            logps["drawn"].append(self.pi(torch.as_tensor(o)).log_prob(torch.as_tensor(a)))
            return a

    real = module.policy_loss
    monkeypatch.setattr(
        module, "policy_loss", lambda logp, old, *rest: (logps["learned"].append(old), real(logp, old, *rest))[1]
    )
    options = {**SMALL, "train_pi_iters": 0, "ac_kwargs": dict(orthogonal=False)}
    train("ppo", lambda: Spaces(spaces.Box(3.0, 5.0, (2,))), tmp_path, actor_critic=Watched, **options)
    drawn = torch.stack(logps["drawn"][1:])  # the first call is the check of the protocol
    learned = torch.cat(logps["learned"][::2])  # the log calls it twice per epoch
    torch.testing.assert_close(learned, drawn)


def test_normalize_rew(tmp_path):
    class Hundreds(ByObservation):
        def reward(self, a):
            return 100 * super().reward(a)

    ac = train(
        "ppo", Hundreds, tmp_path / "on", gamma=0.5, **{**SMALL, "steps_per_epoch": 1000, "minibatch_size": None}
    )
    assert ac.rew_norm.std.item() == pytest.approx(100, rel=0.1)
    assert ac.rew_norm.count.item() == 3000
    assert column(tmp_path / "on", "LossV")[0] == pytest.approx(1, rel=0.5)  # of scaled rewards
    assert column(tmp_path / "on", "MaxEpRet") == [100] * 3  # returns are not scaled
    assert ac.rew_norm.scale(torch.tensor([200.0, -1e6])).tolist() == pytest.approx([2, -10], rel=0.1)
    ac = train("ppo", Hundreds, tmp_path / "off", normalize_rew=False, **SMALL)
    assert ac.rew_norm.count.item() == 0
    assert column(tmp_path / "off", "LossV")[0] == pytest.approx(1e4, rel=0.5)


def test_normalize_adv(tmp_path):
    # One step, reward 1, V = 0: every advantage is 1, or 0 once normalized. LossPi = -mean(A) at ratio 1.
    for on in (True, False):
        train("ppo", Probe, tmp_path / str(on), normalize_adv=on, **PLAIN, **SMALL, actor_critic=constant_critic())
    assert column(tmp_path / "True", "LossPi")[0] == 0
    assert column(tmp_path / "False", "LossPi")[0] == -1


def test_recompute_adv(monkeypatch, tmp_path):
    """From the second pass on, targets follow the value function: with V = c, R = 1 + c / 2."""
    targets, loss = [], module.value_loss
    monkeypatch.setattr(module, "value_loss", lambda v, ret, *rest: (targets.append((v, ret)), loss(v, ret, *rest))[1])
    options = {**PLAIN, **SMALL, "epochs": 1, "minibatch_size": None, "gamma": 0.5, "vf_lr": 0.1, "lam": 0.0}
    for on in (True, False):
        targets.clear()
        env, ac = (lambda: Probe(truncates=True)), constant_critic(1.0)
        train("ppo", env, tmp_path / str(on), recompute_adv=on, actor_critic=ac, **options)
        rets, values = ([x[i].mean().item() for x in targets[:3]] for i in (1, 0))
        assert rets == pytest.approx([1 + 0.5 * v for v in values] if on else [1.5] * 3)
        assert values[0] == 1
        assert values[2] > 1.05


def test_recompute_adv_changes_nothing_in_a_single_pass(tmp_path):
    for on in (True, False):
        options = {**SMALL, "train_pi_iters": 1, "train_v_iters": 1, "recompute_adv": on}
        train("ppo", ByBoth, tmp_path / str(on), **options)
    assert without_time(tmp_path / "True") == without_time(tmp_path / "False")


# ---- presets


def test_spinningup_preset():
    """The original's settings, without our departures."""
    table = dict(
        steps_per_epoch=4000,
        epochs=50,
        gamma=0.99,
        lam=0.97,
        clip_ratio=0.2,
        pi_lr=3e-4,
        vf_lr=1e-3,
        train_pi_iters=80,
        train_v_iters=80,
        target_kl=0.01,
        max_ep_len=1000,
        save_freq=10,
        seed=0,
    )
    off = dict(num_envs=1, minibatch_size=None, ent_coef=0.0, vf_clip=None, max_grad_norm=None, anneal_lr=False)
    off |= dict(normalize_obs=False, normalize_rew=False, recompute_adv=False, value_target="rtg", normalize_adv=True)
    settings = {**ALGORITHM.defaults, **ALGORITHM.presets["spinningup"]}
    assert {key: settings[key] for key in table | off} == table | off
    ac = ActorCritic(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), **settings["ac_kwargs"])
    assert [tuple(x.weight.shape) for x in ac.actor.net[-1] if isinstance(x, nn.Linear)] == [(64, 3), (64, 64), (2, 64)]
    assert [type(x) for x in ac.actor.net[-1][1::2]] == [nn.Tanh, nn.Tanh]
    assert ac.actor.log_std.tolist() == [-0.5, -0.5]
    assert ac.actor.net[-1][-1].bias.abs().sum() > 0  # PyTorch's own initialization has random biases


def test_spinningup_preset_trains(tmp_path):
    options = {**ALGORITHM.presets["spinningup"], "epochs": 2, "steps_per_epoch": 100}
    train("ppo", Target, tmp_path, **options)
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())
