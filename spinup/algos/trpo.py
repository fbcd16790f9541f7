"""TRPO: Trust Region Policy Optimization, arXiv:1502.05477. Equations: docs/algorithms/trpo.md.

Departures from the paper: advantages are averaged over lambda (GAE) and normalised, the Fisher matrix is damped,
observations and rewards are scaled by running statistics, and the value function's learning rate falls linearly to 0.
Each has a switch; `PRESETS["spinningup"]` keeps GAE, normalised advantages and damping. algo="npg" is the natural
policy gradient, doi:10.5555/2980539.2980738.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spinup.buffers import RolloutBuffer, gae, normalize
from spinup.compute import accel, mpi
from spinup.compute.optim import Adam, evolve, flatten
from spinup.envs import make_envs
from spinup.errors import check_arguments
from spinup.nets import ActorCritic, RunningNorm, check_actor_critic, keep_bounds
from spinup.runs.checkpoint import RunState
from spinup.runs.logger import EpochLogger


def surrogate(logp: Tensor, logp_old: Tensor, adv: Tensor) -> Tensor:
    """The old policy's estimate of the new one's advantage; all of shape (...)."""
    return ((logp - logp_old).exp() * adv).mean()  # trpo-1


def value_loss(v: Tensor, ret: Tensor) -> Tensor:
    """Mean squared error of the values against the returns."""
    return (v - ret).square().mean()  # trpo-7


def flat_grad(y: Tensor, params: list[Tensor], **kwargs) -> Tensor:
    """The gradient of the scalar y as one vector, shape (P,)."""
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(y, params, **kwargs)])


def fisher_vector_product(kl: Tensor, params: list[Tensor], damping: float) -> Callable[[Tensor], Tensor]:
    """x -> (H + damping) x, where H, the Fisher matrix, is the Hessian of the mean KL(pi_old || pi) at pi_old."""
    grad_kl = flat_grad(kl, params, create_graph=True)

    def hx(x: Tensor) -> Tensor:
        product = flat_grad(grad_kl @ x, params, retain_graph=True)  # trpo-3
        mpi.average_tensor(product)
        return product + damping * x  # trpo-3: the damping

    return hx


def conjugate_gradient(hx: Callable[[Tensor], Tensor], g: Tensor, iters: int) -> Tensor:
    """x with H x = g, to the precision of so many iterations (Hestenes and Stiefel, 1952), without H itself."""
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
    env_fn,
    actor_critic=ActorCritic,
    ac_kwargs: dict | None = None,
    seed: int = 0,
    *,
    num_envs: int = 8,
    steps_per_epoch: int = 1024,
    epochs: int = 1000,
    gamma: float = 0.99,
    lam: float = 0.95,
    delta: float = 0.01,
    damping_coeff: float = 0.1,
    cg_iters: int = 10,
    backtrack_iters: int = 10,
    backtrack_coeff: float = 0.8,
    algo: str = "trpo",
    vf_lr: float = 1e-3,
    train_v_iters: int = 20,
    anneal_lr: bool = True,
    normalize_obs: bool = True,
    normalize_rew: bool = True,
    normalize_adv: bool = True,
    value_target: str = "gae",
    max_ep_len: int = 1000,
    env_kwargs: dict | None = None,
    wrappers: str | Sequence | None = None,
    vectorization: str = "sync",
    reseed: bool = True,
    log_info: str | Sequence[str] | None = None,
    device: str = "cpu",
    threads: int = 1,
    init_from: str | None = None,
    stop_at: float | None = None,
    patience: int | None = None,
    on_epoch: Callable | None = None,
    eval_freq: int = 0,
    num_test_episodes: int = 10,
    num_test_envs: int | None = None,
    save_freq: int = 10,
    checkpoint_freq: int = 10,
    logger_kwargs: dict | None = None,
) -> torch.nn.Module:
    """Train a policy by TRPO, one step an epoch, and return its actor-critic. TRPO's own arguments:

    delta: the trust region: largest mean KL divergence of the new policy from the old one
    damping_coeff: added to the Fisher matrix's diagonal, so that it can be inverted
    cg_iters: iterations of conjugate gradient
    backtrack_iters: step lengths that the line search tries before it gives up and stays
    backtrack_coeff: each of them is this many times as long as the one before
    algo: 'trpo', or 'npg' for the natural policy gradient: the full step, without a line search
    """
    config = {"algorithm": "trpo", **locals()}
    check_arguments(config)

    # ---- setup
    seed_here = seed + 10_000 * mpi.proc_id()
    device = accel.setup(seed_here, device, threads)
    envs = make_envs(env_fn, num_envs, seed_here, max_ep_len, env_kwargs, vectorization, wrappers, reseed, log_info)
    ac = actor_critic(envs.observation_space, envs.action_space, normalize_obs=normalize_obs, **(ac_kwargs or {}))
    check_actor_critic(ac, envs.observation_space, envs.action_space)
    ac.rew_norm = RunningNorm(())
    ac.to(device)
    mpi.sync_params(ac)
    theta = flatten(ac.actor, alignment=1).detach()  # all parameters in one vector, without gaps
    params = list(ac.actor.parameters())
    vf_optimizer = Adam(ac.critic, vf_lr)

    steps = -(-steps_per_epoch // (num_envs * mpi.num_procs()))  # of each environment; rounded up
    buffer = RolloutBuffer(steps, num_envs, envs.observation_space, envs.action_space)
    logger = EpochLogger(**(logger_kwargs or {"exp_name": "trpo"}))
    logger.save_config(config)
    logger.setup_pytorch_saver(ac)
    run = RunState(config, logger, envs=envs, buffer=buffer, ac=ac, vf_optimizer=vf_optimizer)

    # ---- learn
    def update_pi(o: Tensor, a: Tensor, adv: Tensor) -> int:
        """One natural gradient step of the policy; the number of times that it was cut back."""
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
    obs = run.begin()
    for epoch in run.epochs():
        for _ in range(buffer.t, steps):  # from 0, but for a run that was stopped in an epoch
            run.step(num_envs)
            action = ac.act(obs)
            next_obs, reward, terminated, truncated = envs.step(action)
            buffer.store(obs, action, reward, next_obs, terminated, truncated)
            obs = envs.reset_done()

        # ---- learn
        o, a, r, o2, terminated, done = buffer.get(device)  # (T, N, ...)
        if normalize_rew:
            ac.rew_norm.update(buffer.discounted_returns(gamma))
            r = r / ac.rew_norm.std
        with torch.no_grad():
            v_old, v2 = ac.v(o), ac.v(o2)  # (T, N)
        adv, ret = gae(r, v_old, v2, terminated, done, gamma, lam)  # trpo-6
        if value_target == "rtg":
            _, ret = gae(r, v_old, v2, terminated, done, gamma, lam=1.0)
        adv = normalize(adv) if normalize_adv else adv
        if anneal_lr:
            vf_optimizer.lr = vf_lr * (1 - (epoch - 1) / epochs)

        pi_old, backtracks = ac.pi(o).detach(), update_pi(o, a, adv)
        for _ in range(train_v_iters):
            vf_optimizer.minimize(value_loss(ac.v(o), ret))

        # ---- log: the change that the epoch made
        with torch.no_grad():
            pi = ac.pi(o)
            logp, logp_old = pi.log_prob(a), pi_old.log_prob(a)
            loss_pi_old, loss_pi = (-surrogate(x, logp_old, adv) for x in (logp_old, logp))
            loss_v_old, loss_v = value_loss(v_old, ret), value_loss(ac.v(o), ret)
        logger.store(VVals=v_old, LossPi=loss_pi_old, LossV=loss_v_old)
        logger.store(DeltaLossPi=loss_pi - loss_pi_old, DeltaLossV=loss_v - loss_v_old)
        logger.store(KL=pi_old.kl(pi), BacktrackIters=backtracks, **envs.pop_episodes())
        evolve(ac.actor)  # layouts of block-sparse layers, outside of the trust region
        keep_bounds(ac.actor)  # of log_std, outside of which it has no gradient
        ac.obs_norm.update(o)  # after the update, so that acting and learning see the same observations
        if eval_freq and epoch % eval_freq == 0:
            logger.store(**envs.evaluate(ac, num_test_episodes, num_test_envs))

        logger.log_tabular("Epoch", epoch)
        logger.log_tabular("EpRet", with_min_and_max=True)
        logger.log_tabular("EpLen", average_only=True)
        if eval_freq:
            logger.log_tabular("TestEpRet", with_min_and_max=True)
            logger.log_tabular("TestEpLen", average_only=True)
        logger.log_tabular("VVals", with_min_and_max=True)
        logger.log_tabular("TotalEnvInteracts", run.t)
        for key in ("LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "KL", "BacktrackIters"):
            logger.log_tabular(key, average_only=True)
        logger.log_tabular("Time", run.time())
        logger.dump_tabular()
        run.end_epoch()

    run.close()
    return ac


PRESETS = {
    "spinningup": dict(
        num_envs=1,
        steps_per_epoch=4000,
        epochs=50,
        lam=0.97,
        train_v_iters=80,
        anneal_lr=False,
        normalize_obs=False,
        normalize_rew=False,
        value_target="rtg",
        ac_kwargs=dict(orthogonal=False),
    )
}

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["trpo", *sys.argv[1:]])
