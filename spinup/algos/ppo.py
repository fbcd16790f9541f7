"""PPO-clip: Proximal Policy Optimization, arXiv:1707.06347. Equations: docs/algorithms/ppo.md.

Departures from the paper: policy and value function are separate networks with an optimizer each; the KL divergence
from the old policy can end an epoch's policy steps early; observations and rewards are scaled by running statistics,
learning rates fall linearly to 0, advantages are computed anew in each pass, and gradients are clipped. All but the
first have a switch; `PRESETS["spinningup"]` keeps the two networks and the early stop.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spinup.buffers import RolloutBuffer, gae, minibatches, normalize
from spinup.compute import accel, mpi
from spinup.compute.capture import captured
from spinup.compute.optim import Adam
from spinup.envs import make_envs
from spinup.errors import check_arguments
from spinup.nets import ActorCritic, RunningNorm, check_actor_critic, keep_bounds
from spinup.runs.checkpoint import RunState
from spinup.runs.logger import EpochLogger


def policy_loss(logp: Tensor, logp_old: Tensor, adv: Tensor, clip_ratio: float) -> Tensor:
    """Minus the clipped surrogate objective, for log-probabilities and advantages of shape (B,)."""
    ratio = (logp - logp_old).exp()  # ppo-1: r = pi(a|s) / pi_old(a|s)
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.min(ratio * adv, clipped * adv).mean()  # ppo-2


def value_loss(v: Tensor, ret: Tensor, v_old: Tensor, vf_clip: float | None) -> Tensor:
    """Squared error against the returns; with vf_clip, v gains nothing by moving further than that from v_old."""
    loss = (v - ret).square()  # ppo-4
    if vf_clip is not None:
        clipped = v_old + (v - v_old).clamp(-vf_clip, vf_clip)
        loss = torch.max(loss, (clipped - ret).square())  # ppo-7
    return loss.mean()


def approx_kl(logp: Tensor, logp_old: Tensor) -> Tensor:
    """KL(pi_old || pi) from samples of pi_old: unbiased, and no sample's term is negative."""
    log_ratio = logp - logp_old
    return (log_ratio.expm1() - log_ratio).mean()  # ppo-5


def ppo(
    env_fn,
    actor_critic=ActorCritic,
    ac_kwargs: dict | None = None,
    seed: int = 0,
    *,
    num_envs: int = 8,
    steps_per_epoch: int = 2048,
    epochs: int = 500,
    gamma: float = 0.99,
    lam: float = 0.95,
    clip_ratio: float = 0.2,
    pi_lr: float = 3e-4,
    vf_lr: float = 3e-4,
    train_pi_iters: int = 10,
    train_v_iters: int = 10,
    minibatch_size: int | None = 64,
    target_kl: float | None = None,
    ent_coef: float = 0.0,
    vf_clip: float | None = None,
    max_grad_norm: float | None = 0.5,
    anneal_lr: bool = True,
    normalize_obs: bool = True,
    normalize_rew: bool = True,
    normalize_adv: bool = False,
    recompute_adv: bool = True,
    value_target: str = "gae",
    max_ep_len: int = 1000,
    env_kwargs: dict | None = None,
    wrappers: str | Sequence | None = None,
    vectorization: str = "sync",
    reseed: bool = True,
    log_info: str | Sequence[str] | None = None,
    device: str = "cpu",
    threads: int = 1,
    capture: bool = True,
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
    """Train a policy by PPO-clip and return its actor-critic. PPO's own arguments:

    clip_ratio: how far the new policy's probabilities may usefully move from the old one's; 0.1 to 0.3
    train_pi_iters: passes over the data of an epoch for the policy
    minibatch_size: samples in a gradient step, on each MPI process; None: the whole epoch
    target_kl: the policy's steps end for this epoch when the KL from the old policy exceeds 1.5 times this
    ent_coef: weight of the entropy bonus
    vf_clip: how far a value may usefully move from its old one in an epoch; None: any distance
    recompute_adv: compute the advantages anew before each pass, with the current value function
    """
    config = {"algorithm": "ppo", **locals()}
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
    logger = EpochLogger(**(logger_kwargs or {"exp_name": "ppo"}))
    logger.save_config(config)
    logger.setup_pytorch_saver(ac)
    run = RunState(
        config, logger, envs=envs, buffer=buffer, ac=ac, pi_optimizer=pi_optimizer, vf_optimizer=vf_optimizer
    )

    # ---- learn
    @captured(capture and target_kl is None)  # a test of the KL is Python's
    def update_pi(batch: tuple[Tensor, ...]) -> bool:
        """One step of the policy; False, and no step, where it has moved too far from the old one already."""
        o, a, adv, logp_old = batch
        pi = ac.pi(o)
        logp = pi.log_prob(a)  # (B,)
        if target_kl is not None and mpi.mpi_avg(approx_kl(logp.detach(), logp_old).item()) > 1.5 * target_kl:
            return False
        loss = policy_loss(logp, logp_old, adv, clip_ratio)
        if ent_coef:
            loss = loss - ent_coef * pi.entropy().mean()  # ppo-6
        pi_optimizer.minimize(loss)
        return True

    @captured(capture)
    def update_v(batch: tuple[Tensor, ...]) -> None:
        """One step of the value function."""
        o, ret, v_old = batch
        vf_optimizer.minimize(value_loss(ac.v(o), ret, v_old, vf_clip))

    @torch.no_grad()
    def estimate() -> tuple[Tensor, Tensor, Tensor]:
        """Advantages, value targets and values of the rollout, (T, N) each."""
        v, v2 = ac.v(o), ac.v(o2)
        adv, ret = gae(r, v, v2, terminated, done, gamma, lam)  # ppo-3
        if value_target == "rtg":
            _, ret = gae(r, v, v2, terminated, done, gamma, lam=1.0)
        return normalize(adv) if normalize_adv else adv, ret, v

    # ---- act
    obs = run.begin()
    for epoch in run.epochs():
        for _ in range(buffer.t, steps):  # from 0, but for a run that was stopped in an epoch
            run.step(num_envs)
            action = ac.act(obs)
            next_obs, reward, terminated, truncated = envs.step(action)
            buffer.store(obs, action, reward, next_obs, terminated, truncated)
            obs = envs.reset_done()

        o, a, r, o2, terminated, done = buffer.get(device)  # (T, N, ...)
        if normalize_rew:
            ac.rew_norm.update(buffer.discounted_returns(gamma))
            r = r / ac.rew_norm.std
        if anneal_lr:
            pi_optimizer.lr = pi_lr * (1 - (epoch - 1) / epochs)
            vf_optimizer.lr = vf_lr * (1 - (epoch - 1) / epochs)
        with torch.no_grad():
            logp_old = ac.pi(o).log_prob(a)
        adv, ret, v_old = estimate()
        first_adv, first_ret = adv, ret  # what the log compares old and new on

        moving, pi_iters = True, 0
        for i in range(max(train_pi_iters, train_v_iters)):
            if recompute_adv and i > 0:
                adv, ret, _ = estimate()
            data = [x.flatten(0, 1) for x in (o, a, adv, ret, logp_old, v_old)]
            for b_o, b_a, b_adv, b_ret, b_logp_old, b_v_old in minibatches(minibatch_size, *data):
                if i < train_pi_iters and moving:
                    moving = update_pi((b_o, b_a, b_adv, b_logp_old))
                if i < train_v_iters:
                    update_v((b_o, b_ret, b_v_old))
            pi_iters += i < train_pi_iters and moving

        # ---- log: the change that the epoch made, on its first advantages and returns
        with torch.no_grad():
            pi, v = ac.pi(o), ac.v(o)
            logp = pi.log_prob(a)
            loss_pi_old, loss_pi = (policy_loss(x, logp_old, first_adv, clip_ratio) for x in (logp_old, logp))
            loss_v_old, loss_v = (value_loss(x, first_ret, v_old, vf_clip) for x in (v_old, v))
            clipped = ((logp - logp_old).exp() - 1).abs() > clip_ratio
        logger.store(VVals=v_old, LossPi=loss_pi_old, LossV=loss_v_old, Entropy=pi.entropy())
        logger.store(DeltaLossPi=loss_pi - loss_pi_old, DeltaLossV=loss_v - loss_v_old)
        logger.store(KL=approx_kl(logp, logp_old), ClipFrac=clipped.float(), StopIter=pi_iters)
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
        for key in ("LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "Entropy", "KL", "ClipFrac", "StopIter"):
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
        vf_lr=1e-3,
        train_pi_iters=80,
        train_v_iters=80,
        minibatch_size=None,
        target_kl=0.01,
        max_grad_norm=None,
        **dict.fromkeys(("anneal_lr", "normalize_obs", "normalize_rew", "recompute_adv"), False),
        normalize_adv=True,
        value_target="rtg",
        ac_kwargs=dict(orthogonal=False),
    )
}

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["ppo", *sys.argv[1:]])
