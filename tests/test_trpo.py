"""TRPO: Fisher-vector products, conjugate gradient and the line search against direct computations."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import (
    ByBoth,
    Epoch,
    Mixed,
    Probe,
    RawActorCritic,
    Target,
    column,
    constant_critic,
    learning_rates,
    train,
)
from torch import nn
from torch.func import functional_call

from spinup.algos import trpo as module
from spinup.algos.trpo import (
    ALGORITHM,
    conjugate_gradient,
    fisher_vector_product,
    flat_grad,
    surrogate,
    value_loss,
)
from spinup.errors import UserError
from spinup.nets import ActorCritic, Categorical, Gaussian

SMALL = dict(num_envs=2, steps_per_epoch=40, epochs=2, train_v_iters=3)
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "box": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32)),
    "multi": spaces.MultiDiscrete([2, 3]),
}


# ---- equations


def test_surrogate():
    """Ratios 2, 1/2 and 1 with advantages 3, -4 and 5: (6 - 2 + 5) / 3 = 3. The gradient is ratio * adv / 3."""
    logp_old = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)
    logp = (logp_old + torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64).log()).requires_grad_()
    value = surrogate(logp, logp_old, torch.tensor([3.0, -4.0, 5.0], dtype=torch.float64))
    value.backward()
    assert value.item() == pytest.approx(3)
    assert logp.grad.tolist() == pytest.approx([2, -2 / 3, 5 / 3])


def test_value_loss():
    v = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = value_loss(v, torch.tensor([3.0, -1.0]))
    loss.backward()
    assert loss.item() == 6.5  # ((1 - 3)^2 + (2 + 1)^2) / 2
    assert v.grad.tolist() == [-2.0, 3.0]  # 2 (v - ret) / 2


def test_flat_grad():
    x, y = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor(3.0, requires_grad=True)
    assert flat_grad((x.square()).sum() * y, [x, y]).tolist() == [6.0, 12.0, 5.0]  # 2 x y, and 1 + 4


def small_policy(kind: str):
    """An actor-critic with random weights in float64 and a batch of observations for it."""
    torch.manual_seed(1)
    ac = ActorCritic(spaces.Box(-1, 1, (3,)), ACTIONS[kind], hidden_sizes=(4,), orthogonal=False).double()
    return ac, torch.randn(20, 3, dtype=torch.float64)


def hessian_of_kl(actor: nn.Module, o: torch.Tensor) -> torch.Tensor:
    """The full Hessian of the mean KL(pi_old || pi) at pi = pi_old, (P, P)."""
    names, shapes = zip(*((name, p.shape) for name, p in actor.named_parameters()), strict=True)
    theta = torch.cat([p.detach().reshape(-1) for p in actor.parameters()])
    old = actor(o).detach()

    def mean_kl(theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split([shape.numel() for shape in shapes])
        params = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return old.kl(functional_call(actor, params, (o,))).mean()

    return torch.autograd.functional.hessian(mean_kl, theta)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("kind", ACTIONS)
def test_fisher_vector_product_equals_that_of_the_hessian(kind, damping):
    ac, o = small_policy(kind)
    params = list(ac.actor.parameters())
    pi = ac.pi(o)
    hx = fisher_vector_product(pi.detach().kl(pi).mean(), params, damping)
    want = hessian_of_kl(ac.actor, o)
    got = torch.stack([hx(x) for x in torch.eye(len(want), dtype=torch.float64)])
    assert want.abs().max() > 0.1
    torch.testing.assert_close(got, want + damping * torch.eye(len(want)).double(), rtol=1e-9, atol=1e-12)


def test_fisher_vector_product_equals_that_of_the_fisher_matrix():
    """E[grad log pi grad log pi^T] over states and all actions."""
    ac, o = small_policy("discrete")
    params = list(ac.actor.parameters())
    fisher = 0.0
    for logp in ac.pi(o).logp.unbind(0):
        for x in logp.unbind():
            g = flat_grad(x, params, retain_graph=True)
            fisher = fisher + x.exp().item() * torch.outer(g, g) / len(o)
    pi = ac.pi(o)
    hx = fisher_vector_product(pi.detach().kl(pi).mean(), params, 0.0)
    torch.testing.assert_close(torch.stack([hx(x) for x in torch.eye(len(fisher)).double()]), fisher)


def positive_definite(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return x @ x.T + torch.eye(n)


def test_conjugate_gradient_solves():
    h, g = positive_definite(10), torch.arange(1.0, 11, dtype=torch.float64)
    x = conjugate_gradient(lambda p: h @ p, g, iters=30)
    torch.testing.assert_close(x, torch.linalg.solve(h, g), rtol=1e-4, atol=1e-6)


def test_conjugate_gradient_needs_as_many_steps_as_distinct_eigenvalues():
    h = torch.diag(torch.tensor([1.0, 1, 1, 4, 4, 9, 9, 9], dtype=torch.float64))
    g = torch.arange(1.0, 9, dtype=torch.float64)
    for iters, precise in ((2, False), (3, True)):
        x = conjugate_gradient(lambda p: h @ p, g, iters)
        assert torch.allclose(x, g / h.diagonal(), rtol=1e-6) == precise


def test_conjugate_gradient_first_step_by_hand():
    # H = diag(1, 3), g = (1, 1): alpha = g.g / g.Hg = 2 / 4, x = (1/2, 1/2)
    h = torch.diag(torch.tensor([1.0, 3.0]))
    assert conjugate_gradient(lambda p: h @ p, torch.ones(2), 1).tolist() == pytest.approx([0.5, 0.5])


def test_conjugate_gradient_of_0_is_0():
    assert conjugate_gradient(lambda p: 2 * p, torch.zeros(3), 10).tolist() == [0, 0, 0]


def test_conjugate_gradient_scales_with_the_gradient():
    """Also far below 1, as with small rewards and unnormalized advantages."""
    h, g = positive_definite(10).float(), torch.arange(1.0, 11)
    x = conjugate_gradient(lambda p: h @ p, g, iters=10)
    for scale in (1e-3, 1e-5):
        small = conjugate_gradient(lambda p: h @ p, scale * g, iters=10)
        torch.testing.assert_close(small / scale, x, rtol=0.05, atol=0.01)


# ---- one step, on real data


def kl_and_gain(epoch: Epoch) -> tuple[float, float]:
    """The mean KL(old || new) and the change of the surrogate in an epoch, with torch.distributions."""
    o, a, r, _, terminated, _ = epoch.data
    assert terminated.all()
    pis = []
    for when in ("before", "after"):
        pi = epoch.at(when).pi(o)
        if isinstance(pi, Gaussian):
            normal = torch.distributions.Normal(pi.mu, pi.log_std.exp().expand_as(pi.mu).clone())
            pis.append(torch.distributions.Independent(normal, 1))
        else:
            pis.append(torch.distributions.Categorical(logits=pi.logp))
    adv = r - epoch.at("before").v(o)
    adv = (adv - adv.mean()) / adv.std(correction=0)
    old, new = pis
    gain = (((new.log_prob(a) - old.log_prob(a)).exp() - 1) * adv).mean().item()
    return torch.distributions.kl_divergence(old, new).mean().item(), gain


ONE = dict(num_envs=4, steps_per_epoch=100, normalize_adv=True, ac_kwargs=dict(hidden_sizes=(4,), orthogonal=False))


@pytest.mark.parametrize("delta", [1e-3, 1e-2, 0.3])
@pytest.mark.parametrize("env", [ByBoth, Target])
def test_step_improves_within_the_trust_region(monkeypatch, tmp_path, env, delta):
    epoch = Epoch(monkeypatch, "trpo", env, tmp_path, delta=delta, **ONE)
    kl, gain = kl_and_gain(epoch)
    assert 0 < kl <= delta * (1 + 1e-4)
    assert kl > 0.3 * delta  # no shorter than the line search makes it
    assert gain > 0
    assert epoch.row["KL"] == pytest.approx(kl, rel=1e-2)
    assert epoch.row["DeltaLossPi"] == pytest.approx(-gain, rel=1e-2)
    assert epoch.row["LossPi"] == pytest.approx(0, abs=1e-6)
    assert epoch.row["BacktrackIters"] in range(10)


@pytest.mark.parametrize("env", [ByBoth, Target])
@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_npg_takes_the_full_step(monkeypatch, tmp_path, env, damping):
    """Against torch.linalg.solve with the explicit Hessian; its quadratic estimate of the KL is delta."""
    options = dict(algo="npg", delta=0.02, damping_coeff=damping, cg_iters=50, **ONE)
    epoch = Epoch(monkeypatch, "trpo", env, tmp_path, **options)
    o, a, r, *_ = epoch.data
    step, ac = epoch.moved().double(), epoch.at("before").double()
    h = hessian_of_kl(ac.actor, o.double().flatten(0, 1)) + damping * torch.eye(len(step))
    assert (step @ h @ step / 2).item() == pytest.approx(0.02, rel=1e-2)
    adv = (r - ac.v(o.double())).detach()
    adv = (adv - adv.mean()) / adv.std(correction=0)
    g = flat_grad((ac.pi(o.double()).log_prob(a) * adv).mean(), list(ac.actor.parameters()))
    x = torch.linalg.solve(h, g)
    torch.testing.assert_close(
        step, x * (2 * 0.02 / (x @ h @ x)).sqrt(), rtol=0.02, atol=1e-3 * step.abs().max().item()
    )
    assert epoch.row["BacktrackIters"] == 0


def test_npg_has_no_line_search(monkeypatch, tmp_path):
    """With a delta so large that the quadratic estimate fails, npg exceeds it, and trpo doesn't."""
    options = dict(delta=0.5, steps_per_epoch=40, num_envs=2, ac_kwargs=dict(orthogonal=False), damping_coeff=1e-3)
    trpo_run = Epoch(monkeypatch, "trpo", Target, tmp_path / "trpo", algo="trpo", **options)
    npg_run = Epoch(monkeypatch, "trpo", Target, tmp_path / "npg", algo="npg", **options)
    assert npg_run.row["KL"] > 0.5
    assert trpo_run.row["KL"] <= 0.5
    assert trpo_run.row["BacktrackIters"] > 0
    assert npg_run.row["BacktrackIters"] == 0
    share = 0.8 ** trpo_run.row["BacktrackIters"]  # the same direction, shortened
    torch.testing.assert_close(trpo_run.moved(), share * npg_run.moved(), rtol=1e-2, atol=1e-6)


def rejecting(monkeypatch, what: str, times: int) -> None:
    """Make the line search reject its first `times` steps, as too long ("kl") or no improvement ("surrogate").

    Until it ends, only the line search compares different policies without gradients.
    """
    left = iter([1.0] * times)

    def penalty(new: torch.Tensor, old: torch.Tensor) -> float:
        return next(left, 0.0) if not torch.is_grad_enabled() and not torch.equal(new, old) else 0.0

    kl, gain = Categorical.kl, module.surrogate
    if what == "kl":
        monkeypatch.setattr(Categorical, "kl", lambda old, new: kl(old, new) + penalty(new.logp, old.logp))
    else:
        monkeypatch.setattr(module, "surrogate", lambda new, old, adv: gain(new, old, adv) - penalty(new, old))


@pytest.mark.parametrize("what", ["kl", "surrogate"])
def test_line_search_restores_the_old_policy_if_all_steps_fail(monkeypatch, tmp_path, what):
    rejecting(monkeypatch, what, times=10)
    epoch = Epoch(monkeypatch, "trpo", ByBoth, tmp_path, backtrack_iters=10, **ONE)
    for name in epoch.before:
        assert torch.equal(epoch.after[name], epoch.before[name]) == name.startswith("actor"), name
    assert epoch.row["BacktrackIters"] == 10
    assert epoch.row["KL"] == 0
    assert epoch.row["DeltaLossPi"] == 0


@pytest.mark.parametrize("what", ["kl", "surrogate"])
def test_line_search_shortens_the_step(monkeypatch, tmp_path, what):
    options = dict(delta=1e-4, backtrack_coeff=0.5, **ONE)  # so small that the full step is acceptable
    npg = Epoch(monkeypatch, "trpo", ByBoth, tmp_path / "npg", algo="npg", **options)
    rejecting(monkeypatch, what, times=3)
    epoch = Epoch(monkeypatch, "trpo", ByBoth, tmp_path / "trpo", **options)
    assert epoch.row["BacktrackIters"] in (3, 4)
    share = 0.5 ** epoch.row["BacktrackIters"]
    torch.testing.assert_close(epoch.moved(), share * npg.moved(), rtol=1e-2, atol=1e-6)


def test_line_search_rejects_a_step_that_is_too_long(monkeypatch, tmp_path):
    """A single try, with a delta at which the quadratic estimate is far off."""
    options = dict(delta=0.5, damping_coeff=1e-3, steps_per_epoch=40, num_envs=2, ac_kwargs=dict(orthogonal=False))
    epoch = Epoch(monkeypatch, "trpo", Target, tmp_path, backtrack_iters=1, **options)
    assert epoch.row["BacktrackIters"] == 1
    assert epoch.moved().abs().max() == 0


def test_no_advantage_no_step(monkeypatch, tmp_path):
    epoch = Epoch(monkeypatch, "trpo", Probe, tmp_path, actor_critic=constant_critic(), **SMALL)
    assert epoch.moved().abs().max() == 0
    assert epoch.row["KL"] == 0


def test_the_old_policy_is_a_copy(monkeypatch, tmp_path):
    """The old policy must not change with the parameters."""
    epoch = Epoch(monkeypatch, "trpo", Target, tmp_path, actor_critic=RawActorCritic, delta=0.02, **ONE)
    kl, gain = kl_and_gain(epoch)
    assert 0 < kl <= 0.02 * (1 + 1e-4)
    assert gain > 0
    assert epoch.row["KL"] == pytest.approx(kl, rel=1e-2)
    assert epoch.row["DeltaLossPi"] == pytest.approx(-gain, rel=1e-2)


def test_kl_stays_below_delta(tmp_path):
    options = dict(delta=0.01, num_envs=4, steps_per_epoch=100, epochs=10, train_v_iters=3)
    train("trpo", Mixed, tmp_path, **options)
    assert 0 < max(column(tmp_path, "KL")) <= 0.01 * (1 + 1e-4)
    assert all(x <= 0 for x in column(tmp_path, "DeltaLossPi"))


# ---- options


def test_train_v_iters_and_anneal_lr(monkeypatch, tmp_path):
    """The policy has no learning rate."""
    steps = learning_rates(monkeypatch)
    options = {**SMALL, "epochs": 4, "vf_lr": 0.8, "train_v_iters": 2}
    train("trpo", ByBoth, tmp_path / "on", **options)
    assert steps == pytest.approx([0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2])
    steps.clear()
    train("trpo", ByBoth, tmp_path / "off", **options, anneal_lr=False)
    assert steps == [0.8] * 8


def test_train_v_iters_0(monkeypatch, tmp_path):
    """Exercise 2.1 of the original compares 0 with 80."""
    epoch = Epoch(monkeypatch, "trpo", ByBoth, tmp_path, train_v_iters=0, **ONE)
    assert epoch.moved("critic").abs().max() == 0
    assert epoch.moved("actor").abs().max() > 0
    assert epoch.row["DeltaLossV"] == 0


def test_algo_must_be_known(tmp_path):
    with pytest.raises(UserError, match=r"algo is 'ppo'; it must be .*trpo.*npg"):
        train("trpo", Probe, tmp_path, algo="ppo", **SMALL)


# ---- presets


def test_spinningup_preset():
    """The original's settings, without our departures."""
    table = dict(steps_per_epoch=4000, epochs=50, gamma=0.99, lam=0.97, vf_lr=1e-3, train_v_iters=80, delta=0.01)
    table |= dict(damping_coeff=0.1, cg_iters=10, backtrack_iters=10, backtrack_coeff=0.8, algo="trpo")
    table |= dict(max_ep_len=1000, save_freq=10, seed=0)
    off = dict(num_envs=1, anneal_lr=False, normalize_obs=False, normalize_rew=False, normalize_adv=True)
    off |= dict(value_target="rtg", ac_kwargs=dict(orthogonal=False))
    settings = {**ALGORITHM.defaults, **ALGORITHM.presets["spinningup"]}
    assert {key: settings[key] for key in table | off} == table | off
