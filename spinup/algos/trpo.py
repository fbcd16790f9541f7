"""TRPO: Trust Region Policy Optimization, arXiv:1502.05477. Equations: docs/algorithms/trpo.md.

Departures from the paper: advantages are GAE's and normalized, the Fisher matrix is damped, observations and rewards
are scaled by running statistics, the value function's learning rate decays linearly to 0, and initial weights are
orthogonal. Each is an option; the preset "spinningup" keeps GAE, normalized advantages and damping. algo="npg" is the
natural policy gradient, doi:10.5555/2980539.2980738.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.arguments import CHANGEABLE, PASSES, Range
from spinup.buffers import RolloutBuffer, gae, normalize
from spinup.compute import mpi
from spinup.compute.optim import FlatAdam, evolve, flatten, gradients
from spinup.nets import ActorCritic, RunningNorm, check_actor_critic, keep_bounds
from spinup.runs.run import Run


def surrogate(logp: Tensor, logp_old: Tensor, adv: Tensor) -> Tensor:
    """The new policy's mean advantage, estimated with the old one's samples."""
    # logp, logp_old, adv: (T, N)
    return ((logp - logp_old).exp() * adv).mean()  # trpo-1


def value_loss(v: Tensor, ret: Tensor) -> Tensor:
    """Mean squared error of the values against the returns."""
    # v, ret: (T, N)
    return (v - ret).square().mean()  # trpo-7


def flat_grad(y: Tensor, params: list[Tensor], **kwargs) -> Tensor:
    """The gradient of y as one vector, (P,)."""
    # y: (), a scalar
    return torch.cat([g.reshape(-1) for g in gradients(y, params, **kwargs)])


def fisher_vector_product(kl: Tensor, params: list[Tensor], damping: float) -> Callable[[Tensor], Tensor]:
    """x -> (H + damping) x, where H, the Fisher matrix, is the Hessian of the mean KL(pi_old || pi) at pi_old."""
    # kl: (), the mean; x: (P,)
    grad_kl = flat_grad(kl, params, create_graph=True)

    def hx(x: Tensor) -> Tensor:
        product = flat_grad(grad_kl @ x, params, retain_graph=True)  # trpo-3
        mpi.average_tensor(product)
        return product + damping * x  # trpo-3: the damping

    return hx


def conjugate_gradient(hx: Callable[[Tensor], Tensor], g: Tensor, iters: int) -> Tensor:
    """x with H x = g, approximately, from products with H alone (Hestenes and Stiefel, 1952)."""
    # g, x: (P,)
    x = torch.zeros_like(g)
    r = p = g  # residual and direction
    rr = r @ r
    for _ in range(iters):
        hp = hx(p)
        alpha = rr / (p @ hp + 1e-30)
        x = x + alpha * p
        r = r - alpha * hp
        rr, rr_old = r @ r, rr
        p = r + (rr / (rr_old + 1e-30)) * p
    return x


def trpo(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = ActorCritic,
    ac_kwargs: arg.AcKwargs = None,
    seed: arg.Seed = 0,
    *,
    num_envs: arg.NumEnvs = 8,
    steps_per_epoch: arg.StepsPerEpoch = 1024,
    epochs: arg.Epochs = 1000,
    gamma: arg.Gamma = 0.99,
    lam: arg.Lam = 0.95,
    delta: Annotated[
        float,
        Range(0),
        "the trust region: upper limit of the mean KL divergence of the new policy from the old one",
        CHANGEABLE,
    ] = 0.01,
    damping_coeff: Annotated[
        float, Range(0), "added to the diagonal of the Fisher matrix, so that it can be inverted", CHANGEABLE
    ] = 0.1,
    cg_iters: Annotated[int, Range(1, PASSES), "iterations of conjugate gradient", CHANGEABLE] = 10,
    backtrack_iters: Annotated[
        int, Range(0, PASSES), "step lengths the line search tries before it keeps the old policy", CHANGEABLE
    ] = 10,
    backtrack_coeff: Annotated[float, Range(0, 1), "factor from one step length to the next", CHANGEABLE] = 0.8,
    algo: Annotated[
        Literal["trpo", "npg"], "'trpo', or 'npg' for the natural policy gradient: the full step, without a line search"
    ] = "trpo",
    vf_lr: arg.VfLr = 1e-3,
    train_v_iters: arg.TrainVIters = 20,
    anneal_lr: arg.AnnealLr = True,
    normalize_obs: arg.NormalizeObs = True,
    normalize_rew: arg.NormalizeRew = True,
    normalize_adv: arg.NormalizeAdv = True,
    value_target: arg.ValueTarget = "gae",
    max_ep_len: arg.MaxEpLen = 1000,
    env_kwargs: arg.EnvKwargs = None,
    wrappers: arg.Wrappers = None,
    vectorization: arg.Vectorization = "sync",
    reseed: arg.Reseed = True,
    log_info: arg.LogInfo = None,
    device: arg.Device = "cpu",
    threads: arg.Threads = 1,
    init_from: arg.InitFrom = None,
    stop_at: arg.StopAt = None,
    patience: arg.Patience = None,
    on_epoch: arg.OnEpoch = None,
    eval_freq: arg.EvalFreq = 0,
    num_test_episodes: arg.NumTestEpisodes = 10,
    num_test_envs: arg.NumTestEnvs = None,
    save_freq: arg.SaveFreq = 10,
    checkpoint_freq: arg.CheckpointFreq = 10,
    logger_kwargs: arg.LoggerKwargs = None,
) -> torch.nn.Module:
    """Train a policy by TRPO, with one policy step per epoch, and return its actor-critic."""
    run = Run(ALGORITHM, locals())
    envs, device = run.envs, run.device

    # ---- setup
    ac = actor_critic(envs.observation_space, envs.action_space, normalize_obs=normalize_obs, **(ac_kwargs or {}))
    check_actor_critic(ac, envs.observation_space, envs.action_space)
    ac.rew_norm = RunningNorm(())
    run.prepare(ac)
    theta = flatten(ac.actor, alignment=1).detach()  # all parameters in one vector, without gaps
    params = list(ac.actor.parameters())
    vf_optimizer = FlatAdam(ac.critic, vf_lr)
    buffer = RolloutBuffer(run.steps_per_env, num_envs, envs.observation_space, envs.action_space)

    # ---- the policy's step
    def update_pi(o: Tensor, a: Tensor, adv: Tensor) -> int:
        """One natural gradient step of the policy. Returns how many times the line search shortened it."""
        pi = ac.pi(o)
        pi_old, logp = pi.detach(), pi.log_prob(a)
        logp_old = logp.detach()
        g = flat_grad(surrogate(logp, logp_old, adv), params, retain_graph=True)
        mpi.average_tensor(g)
        hx = fisher_vector_product(pi_old.kl(pi).mean(), params, damping_coeff)
        x = conjugate_gradient(hx, g, cg_iters)
        step = torch.sqrt(2 * delta / (x @ hx(x) + 1e-30)) * x  # trpo-4
        if algo == "npg":
            theta.add_(step)
            return 0
        theta_old = theta.clone()
        old = mpi.mpi_avg(surrogate(logp_old, logp_old, adv).item())
        for i in range(backtrack_iters):
            theta.copy_(theta_old + backtrack_coeff**i * step)  # trpo-5
            with torch.no_grad():
                pi = ac.pi(o)
                kl = mpi.mpi_avg(pi_old.kl(pi).mean().item())  # trpo-2
                new = mpi.mpi_avg(surrogate(pi.log_prob(a), logp_old, adv).item())
            if kl <= delta and new >= old:
                return i
        theta.copy_(theta_old)
        return backtrack_iters

    # ---- act
    obs = run.begin(ac, buffer, ac=ac, vf_optimizer=vf_optimizer)
    for epoch in run.epochs():
        for _ in range(buffer.t, run.steps_per_env):  # 0 unless resuming mid-epoch
            run.step()
            action = ac.act(obs)
            next_obs, reward, terminated, truncated = envs.step(action)
            buffer.store(obs, action, reward, next_obs, terminated, truncated)
            obs = envs.reset_done()

        # ---- learn
        o, a, r, o2, terminated, done = buffer.get(device)  # (T, N, ...)
        if normalize_rew:
            ac.rew_norm.update(buffer.discounted_returns(gamma))
            r = ac.rew_norm.scale(r)
        with torch.no_grad():
            v_old, v2 = ac.v(o), ac.v(o2)  # (T, N)
        adv, ret = gae(r, v_old, v2, terminated, done, gamma, lam)  # trpo-6
        if value_target == "rtg":
            _, ret = gae(r, v_old, v2, terminated, done, gamma, lam=1.0)
        adv = normalize(adv) if normalize_adv else adv
        if anneal_lr:
            vf_optimizer.lr = vf_lr * (1 - (epoch - 1) / epochs)

        pi_old = ac.pi(o).detach()
        backtracks = update_pi(o, a, adv)
        for _ in range(train_v_iters):
            vf_optimizer.minimize(value_loss(ac.v(o), ret))

        # ---- log: how the losses changed in this epoch
        with torch.no_grad():
            pi = ac.pi(o)
            logp, logp_old = pi.log_prob(a), pi_old.log_prob(a)
            loss_pi_old, loss_pi = (-surrogate(x, logp_old, adv) for x in (logp_old, logp))
            loss_v_old, loss_v = value_loss(v_old, ret), value_loss(ac.v(o), ret)
        run.log(VVals=v_old, LossPi=loss_pi_old, LossV=loss_v_old, KL=pi_old.kl(pi), BacktrackIters=backtracks)
        run.log(DeltaLossPi=loss_pi - loss_pi_old, DeltaLossV=loss_v - loss_v_old)
        evolve(ac.actor)  # block-sparse layers' layouts, outside the trust region
        keep_bounds(ac.actor)  # of log_std, which has no gradient outside them
        ac.obs_norm.update(o)  # after the update, so that acting and learning see the same observations
        run.end_epoch()

    run.close()
    return ac


ALGORITHM = Algorithm(
    trpo,
    on_policy=True,
    actions=("Box", "Discrete", "MultiDiscrete"),
    spreads=("VVals",),
    means=("LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "KL", "BacktrackIters"),
    probe={"delta": 0.03, "epochs": 40},
    presets={
        "spinningup": {
            "num_envs": 1,
            "steps_per_epoch": 4000,
            "epochs": 50,
            "lam": 0.97,
            "train_v_iters": 80,
            "anneal_lr": False,
            "normalize_obs": False,
            "normalize_rew": False,
            "value_target": "rtg",
            "ac_kwargs": {"orthogonal": False},
        }
    },
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["trpo", *sys.argv[1:]])
