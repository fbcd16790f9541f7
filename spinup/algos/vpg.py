"""VPG: vanilla policy gradient with a value baseline, doi:10.1007/BF00992696. Equations: docs/algorithms/vpg.md.

Departures from the textbook: advantages are averaged over lambda (GAE) and normalised, observations and rewards are
scaled by running statistics, and learning rates fall linearly to 0. Each has a switch; `PRESETS["spinningup"]` keeps
only GAE and the normalised advantages.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spinup.buffers import RolloutBuffer, gae, normalize
from spinup.compute import accel, mpi
from spinup.compute.optim import Adam
from spinup.envs import make_envs
from spinup.errors import check_arguments
from spinup.nets import ActorCritic, RunningNorm, check_actor_critic, keep_bounds
from spinup.runs.checkpoint import RunState
from spinup.runs.logger import EpochLogger


def policy_loss(logp: Tensor, adv: Tensor) -> Tensor:
    """Its gradient is minus the policy gradient, for log-probabilities and advantages of shape (...)."""
    return -(logp * adv).mean()  # vpg-1


def value_loss(v: Tensor, ret: Tensor) -> Tensor:
    """Mean squared error of the values against the returns."""
    return (v - ret).square().mean()  # vpg-3


def vpg(
    env_fn,
    actor_critic=ActorCritic,
    ac_kwargs: dict | None = None,
    seed: int = 0,
    *,
    num_envs: int = 8,
    steps_per_epoch: int = 512,
    epochs: int = 2000,
    gamma: float = 0.99,
    lam: float = 0.95,
    pi_lr: float = 3e-3,
    vf_lr: float = 1e-3,
    train_v_iters: int = 20,
    max_grad_norm: float | None = None,
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
    """Train a policy by vanilla policy gradient, one step an epoch, and return its actor-critic."""
    config = {"algorithm": "vpg", **locals()}
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
    pi_optimizer = Adam(ac.actor, pi_lr, max_grad_norm)
    vf_optimizer = Adam(ac.critic, vf_lr, max_grad_norm)

    steps = -(-steps_per_epoch // (num_envs * mpi.num_procs()))  # of each environment; rounded up
    buffer = RolloutBuffer(steps, num_envs, envs.observation_space, envs.action_space)
    logger = EpochLogger(**(logger_kwargs or {"exp_name": "vpg"}))
    logger.save_config(config)
    logger.setup_pytorch_saver(ac)
    run = RunState(
        config, logger, envs=envs, buffer=buffer, ac=ac, pi_optimizer=pi_optimizer, vf_optimizer=vf_optimizer
    )

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
        adv, ret = gae(r, v_old, v2, terminated, done, gamma, lam)  # vpg-2
        if value_target == "rtg":
            _, ret = gae(r, v_old, v2, terminated, done, gamma, lam=1.0)
        adv = normalize(adv) if normalize_adv else adv
        if anneal_lr:
            pi_optimizer.lr = pi_lr * (1 - (epoch - 1) / epochs)
            vf_optimizer.lr = vf_lr * (1 - (epoch - 1) / epochs)

        pi = ac.pi(o)
        pi_old = pi.detach()
        loss_pi_old = policy_loss(pi.log_prob(a), adv)
        pi_optimizer.minimize(loss_pi_old)
        for _ in range(train_v_iters):
            vf_optimizer.minimize(value_loss(ac.v(o), ret))

        # ---- log: the change that the epoch made
        with torch.no_grad():
            pi = ac.pi(o)
            loss_pi = policy_loss(pi.log_prob(a), adv)
            loss_v_old, loss_v = value_loss(v_old, ret), value_loss(ac.v(o), ret)
        logger.store(VVals=v_old, LossPi=loss_pi_old, LossV=loss_v_old, Entropy=pi.entropy(), KL=pi_old.kl(pi))
        logger.store(DeltaLossPi=loss_pi - loss_pi_old, DeltaLossV=loss_v - loss_v_old)
        logger.store(**envs.pop_episodes())
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
        for key in ("LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "Entropy", "KL"):
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
        pi_lr=3e-4,
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

    main(["vpg", *sys.argv[1:]])
