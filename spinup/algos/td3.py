"""Twin delayed DDPG (TD3), arXiv:1802.09477. Equations: docs/algorithms/td3.md.

Departures from the paper: noise is measured in half-ranges of the actions, the networks and minibatches have other
sizes, the critics have layer normalization, n-step returns can replace one-step ones, and the target policy the learned
one in the end.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from spinup.buffers import Batch, ReplayBuffer, check_replay_memory
from spinup.compute import accel, mpi
from spinup.compute.capture import captured
from spinup.compute.optim import Adam, flatten, polyak_average
from spinup.envs import check_actions, make_envs
from spinup.errors import check_arguments
from spinup.nets import NoNorm, TwinActorCritic, check_q_actor_critic
from spinup.runs.checkpoint import RunState
from spinup.runs.logger import EpochLogger


def target(r: Tensor, terminated: Tensor, discount: Tensor, q2: Tensor) -> Tensor:
    """What Q(s, a) should be, (B,), from the target critics' values, (2, B), of the next observations and actions."""
    return r + discount * (1 - terminated) * q2.amin(0)  # td3-2


def q_loss(q: Tensor, y: Tensor) -> Tensor:
    """Squared error of the critics' values, (2, B), against the targets, (B,), summed over the critics."""
    return (q - y).square().mean(-1).sum()  # td3-3


def td3(
    env_fn,
    actor_critic=TwinActorCritic,
    ac_kwargs: dict | None = None,
    seed: int = 0,
    *,
    num_envs: int = 1,
    steps_per_epoch: int = 4000,
    epochs: int = 250,
    replay_size: int = 1_000_000,
    gamma: float = 0.99,
    n_step: int = 1,
    polyak: float = 0.995,
    target_policy: bool = False,
    pi_lr: float = 1e-3,
    q_lr: float = 1e-3,
    act_noise: float = 0.1,
    noise_corr: float = 0.0,
    target_noise: float = 0.2,
    noise_clip: float = 0.5,
    policy_delay: int = 2,
    batch_size: int = 256,
    start_steps: int = 10_000,
    update_after: int = 1000,
    update_every: int = 1,
    replay_ratio: float = 1.0,
    normalize_obs: bool = False,
    max_ep_len: int = 1000,
    env_kwargs: dict | None = None,
    wrappers: str | Sequence | None = None,
    vectorization: str = "sync",
    reseed: bool = True,
    log_info: str | Sequence[str] | None = None,
    device: str = "cpu",
    threads: int = 1,
    matmul_precision: str = "highest",
    capture: bool = True,
    init_from: str | None = None,
    stop_at: float | None = None,
    patience: int | None = None,
    on_epoch: Callable | None = None,
    eval_freq: int = 1,
    num_test_episodes: int = 10,
    num_test_envs: int | None = None,
    save_freq: int = 1,
    checkpoint_freq: int = 10,
    logger_kwargs: dict | None = None,
) -> torch.nn.Module:
    """Train a policy by TD3 and return its actor-critic. TD3's own arguments:

    target_noise: standard deviation of the noise on the target policy's actions, in half-ranges of the actions
    noise_clip: that noise is cut off here, in half-ranges
    policy_delay: steps of the critics to one of the policy and of the targets
    """
    config = {"algorithm": "td3", **locals()}
    check_arguments(config)

    # ---- setup
    seed_here = seed + 10_000 * mpi.proc_id()
    device = accel.setup(seed_here, device, threads, matmul_precision)
    envs = make_envs(env_fn, num_envs, seed_here, max_ep_len, env_kwargs, vectorization, wrappers, reseed, log_info)
    check_actions("td3", envs.action_space)
    norm = {"normalize_obs": True} if normalize_obs else {}
    ac = actor_critic(envs.observation_space, envs.action_space, **norm, **(ac_kwargs or {})).to(device)
    check_q_actor_critic(ac, envs.observation_space, envs.action_space, num_critics=2, normalize_obs=normalize_obs)
    obs_norm = getattr(ac, "obs_norm", NoNorm())
    mpi.sync_params(ac)
    ac_targ = copy.deepcopy(ac)
    ac_targ.obs_norm = obs_norm  # the same statistics for both
    pi, q = ac.actor, ac.critic
    pi_targ, q_targ = ac_targ.actor, ac_targ.critic
    result = ac_targ if target_policy else ac  # what is tested, saved and returned
    pi_targ_params, q_targ_params = flatten(pi_targ), flatten(q_targ)
    pi_optimizer, q_optimizer = Adam(pi, pi_lr), Adam(q, q_lr)
    low, high = envs.action_space.low, envs.action_space.high
    low_t, high_t = (torch.as_tensor(x, device=device) for x in (low, high))
    half_range = (high_t - low_t) / 2

    procs = mpi.num_procs()
    memory = check_replay_memory(replay_size, envs.observation_space, envs.action_space, device, procs)
    logger = EpochLogger(**(logger_kwargs or {"exp_name": "td3"}))
    logger.save_config(config)
    logger.setup_pytorch_saver(result)
    logger.log(memory)
    buffer = ReplayBuffer(
        replay_size // procs, num_envs, envs.observation_space, envs.action_space, device, n_step, gamma
    )
    noise = np.zeros((num_envs, *low.shape), np.float32)
    noise_scale = act_noise * (high - low) / 2
    parts = dict(ac=ac, pi_targ=pi_targ, q_targ=q_targ, noise=noise, pi_optimizer=pi_optimizer, q_optimizer=q_optimizer)
    run = RunState(config, logger, envs=envs, buffer=buffer, **parts)

    # ---- learn
    @captured(capture)
    def update(batch: Batch, delayed: bool) -> dict[str, Tensor]:
        """One step of the critics and, unless it is to be left out, of policy and targets; returns what to log."""
        o, a, r, o2, terminated, discount = batch

        with torch.no_grad():
            smoothing = (target_noise * torch.randn_like(a)).clamp(-noise_clip, noise_clip)
            a2 = (pi_targ(o2) + half_range * smoothing).clamp(low_t, high_t)  # td3-1
            y = target(r, terminated, discount, q_targ(o2, a2))
        q_values = q(o, a)  # (2, B)
        loss_q = q_loss(q_values, y)
        q_optimizer.minimize(loss_q)
        metrics = dict(LossQ=loss_q, Q1Vals=q_values[0], Q2Vals=q_values[1])
        if delayed:
            return metrics

        loss_pi = -q[0](o, pi(o)).mean()  # td3-4
        pi_optimizer.minimize(loss_pi)
        polyak_average(q_targ_params, q_optimizer.flat, polyak)  # td3-5
        polyak_average(pi_targ_params, pi_optimizer.flat, polyak)
        return metrics | dict(LossPi=loss_pi)

    # ---- act
    def explore(o: np.ndarray) -> np.ndarray:
        """The policy's actions with noise, (N, A)."""
        noise[:] = noise_corr * noise + math.sqrt(1 - noise_corr**2) * torch.randn(noise.shape).numpy()
        return (ac.act(o) + noise_scale * noise).clip(low, high)  # td3-6

    o = run.begin()
    first_block = max(1, -(-update_after // update_every)) * update_every  # step of the first block of updates
    for epoch in run.epochs():
        while run.t < epoch * steps_per_epoch:
            run.step(num_envs)
            a = explore(o) if run.t - num_envs * procs >= start_steps else envs.random_actions()
            o2, r, terminated, truncated = envs.step(a)
            buffer.store(o, a, r, o2, terminated, truncated)
            obs_norm.update(torch.as_tensor(o))
            o = envs.reset_done()
            if run.t >= first_block and run.t % update_every < num_envs * procs:  # a block is due
                while run.updates < int(replay_ratio * (run.t - first_block + update_every)):
                    run.updates += 1
                    delayed = run.updates % policy_delay != 0
                    batch = buffer.sample(-(-batch_size // procs)).normalized(obs_norm)
                    logger.store(**update(batch, delayed))
        logger.store(**envs.pop_episodes())

        # ---- evaluate, save, log
        eval_time = time.time()
        if eval_freq and epoch % eval_freq == 0:
            logger.store(**envs.evaluate(result, num_test_episodes, num_test_envs))
        eval_time = time.time() - eval_time
        logger.log_tabular("Epoch", epoch)
        logger.log_tabular("EpRet", with_min_and_max=True)
        logger.log_tabular("EpLen", average_only=True)
        if eval_freq:
            logger.log_tabular("TestEpRet", with_min_and_max=True)
            logger.log_tabular("TestEpLen", average_only=True)
            logger.log_tabular("EvalTime", eval_time)
        logger.log_tabular("TotalEnvInteracts", run.t)
        for key in ("Q1Vals", "Q2Vals"):
            logger.log_tabular(key, with_min_and_max=True)
        for key in ("LossPi", "LossQ"):
            logger.log_tabular(key, average_only=True)
        logger.log_tabular("Time", run.time())
        logger.dump_tabular()
        run.end_epoch()

    run.close()
    return result


PRESETS = {
    "spinningup": dict(
        epochs=100,
        batch_size=100,
        update_every=50,
        ac_kwargs=dict(layer_norm=False),
    )
}

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["td3", *sys.argv[1:]])
