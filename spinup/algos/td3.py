"""Twin delayed DDPG (TD3), arXiv:1802.09477. Equations: docs/algorithms/td3.md.

Departures from the paper: noise is measured in half-ranges of the actions, networks and minibatches have other sizes,
and the critics have layer normalization. Options: n-step returns, and the target policy as the result.
"""

import copy
import math
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.arguments import CHANGEABLE, Range
from spinup.buffers import Batch, ReplayBuffer
from spinup.compute.capture import captured
from spinup.compute.optim import FlatAdam, flatten, polyak_average
from spinup.hindsight import HindsightBuffer
from spinup.nets import NoNorm, TwinActorCritic, check_q_actor_critic
from spinup.runs.run import Run


def target(r: Tensor, terminated: Tensor, discount: Tensor, q2: Tensor) -> Tensor:
    """What Q(s, a) should be, given the target critics' values q2 of the next observations and actions."""
    # r, terminated, discount: (B,); q2: (2, B)
    return r + discount * (1 - terminated) * q2.amin(0)  # td3-2


def q_loss(q: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of the critics' values against the targets, summed over the critics."""
    # q: (2, B); y: (B,)
    return (q - y).square().mean(-1).sum()  # td3-3


def td3(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = TwinActorCritic,
    ac_kwargs: arg.AcKwargs = None,
    seed: arg.Seed = 0,
    *,
    num_envs: arg.NumEnvs = 1,
    steps_per_epoch: arg.StepsPerEpoch = 4000,
    epochs: arg.Epochs = 250,
    replay_size: arg.ReplaySize = 1_000_000,
    gamma: arg.Gamma = 0.99,
    n_step: arg.NStep = 1,
    hindsight: arg.Hindsight = 0.0,
    polyak: arg.Polyak = 0.995,
    target_policy: arg.TargetPolicy = False,
    pi_lr: arg.PiLr = 1e-3,
    q_lr: arg.QLr = 1e-3,
    act_noise: arg.ActNoise = 0.1,
    noise_corr: arg.NoiseCorr = 0.0,
    target_noise: Annotated[
        float,
        Range(0),
        "standard deviation of the noise on the target policy's actions, in half-ranges of the actions",
        CHANGEABLE,
    ] = 0.2,
    noise_clip: Annotated[
        float, Range(0), "limit of the target policy's noise, in half-ranges of the actions", CHANGEABLE
    ] = 0.5,
    policy_delay: Annotated[
        int, Range(1), "steps of the critics per step of the policy and the target networks", CHANGEABLE
    ] = 2,
    batch_size: arg.BatchSize = 256,
    start_steps: arg.StartSteps = 10_000,
    update_after: arg.UpdateAfter = 1000,
    update_every: arg.UpdateEvery = 1,
    replay_ratio: arg.ReplayRatio = 1.0,
    normalize_obs: arg.NormalizeObs = False,
    max_ep_len: arg.MaxEpLen = 1000,
    env_kwargs: arg.EnvKwargs = None,
    wrappers: arg.Wrappers = None,
    vectorization: arg.Vectorization = "sync",
    reseed: arg.Reseed = True,
    log_info: arg.LogInfo = None,
    device: arg.Device = "cpu",
    threads: arg.Threads = 1,
    matmul_precision: arg.MatmulPrecision = "highest",
    capture: arg.Capture = True,
    init_from: arg.InitFrom = None,
    stop_at: arg.StopAt = None,
    patience: arg.Patience = None,
    on_epoch: arg.OnEpoch = None,
    eval_freq: arg.EvalFreq = 1,
    num_test_episodes: arg.NumTestEpisodes = 10,
    num_test_envs: arg.NumTestEnvs = None,
    save_freq: arg.SaveFreq = 1,
    checkpoint_freq: arg.CheckpointFreq = 10,
    logger_kwargs: arg.LoggerKwargs = None,
) -> torch.nn.Module:
    """Train a policy by TD3 and return its actor-critic."""
    run = Run(ALGORITHM, locals())
    envs, device = run.envs, run.device

    # ---- setup
    norm = {"normalize_obs": True} if normalize_obs else {}  # networks of your own need not accept False
    ac = actor_critic(envs.observation_space, envs.action_space, **norm, **(ac_kwargs or {}))
    check_q_actor_critic(ac, envs.observation_space, envs.action_space, num_critics=2, normalize_obs=normalize_obs)
    obs_norm = getattr(ac, "obs_norm", NoNorm())
    run.prepare(ac)
    ac_targ = copy.deepcopy(ac)
    ac_targ.obs_norm = obs_norm  # the same statistics for both
    pi, q = ac.actor, ac.critic
    pi_targ, q_targ = ac_targ.actor, ac_targ.critic
    result = ac_targ if target_policy else ac  # evaluated, saved and returned
    pi_targ_params, q_targ_params = flatten(pi_targ), flatten(q_targ)
    pi_optimizer, q_optimizer = FlatAdam(pi, pi_lr), FlatAdam(q, q_lr)
    if hindsight == 0:
        buffer = ReplayBuffer(replay_size, num_envs, envs.observation_space, envs.action_space, device, n_step, gamma)
    else:
        buffer = HindsightBuffer(hindsight, envs, replay_size, device, n_step, gamma)
    low, high = envs.action_space.low, envs.action_space.high
    noise = np.zeros((num_envs, *low.shape), np.float32)
    noise_scale = act_noise * (high - low) / 2
    low_t, high_t = (torch.as_tensor(x, device=device) for x in (low, high))
    half_range = (high_t - low_t) / 2

    # ---- updates
    @captured(capture)
    def update(batch: Batch, skip_policy: bool) -> dict[str, Tensor]:
        """One step of the critics and, unless skipped, of the policy and the targets. Returns what to log."""
        o, a, r, o2, terminated, discount = batch

        with torch.no_grad():
            smoothing = (target_noise * torch.randn_like(a)).clamp(-noise_clip, noise_clip)
            a2 = (pi_targ(o2) + half_range * smoothing).clamp(low_t, high_t)  # td3-1
            y = target(r, terminated, discount, q_targ(o2, a2))
        q_values = q(o, a)  # (2, B)
        loss_q = q_loss(q_values, y)
        q_optimizer.minimize(loss_q)
        metrics = dict(LossQ=loss_q, Q1Vals=q_values[0], Q2Vals=q_values[1])
        if skip_policy:
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

    parts = dict(ac=ac, pi_targ=pi_targ, q_targ=q_targ, noise=noise, pi_optimizer=pi_optimizer, q_optimizer=q_optimizer)
    o = run.begin(result, buffer, **parts)
    for epoch in run.epochs():
        while run.t < epoch * steps_per_epoch:
            a = explore(o) if run.step() >= start_steps else envs.random_actions()
            o2, r, terminated, truncated = envs.step(a)
            buffer.store(o, a, r, o2, terminated, truncated)
            obs_norm.update(torch.as_tensor(o))
            o = envs.reset_done()
            for i in run.due_updates():
                batch = buffer.sample(batch_size).normalized(obs_norm)
                run.log(**update(batch, i % policy_delay != 0))
        run.end_epoch()

    run.close()
    return result


ALGORITHM = Algorithm(
    td3,
    on_policy=False,
    actions=("Box",),
    spreads=("Q1Vals", "Q2Vals"),
    means=("LossPi", "LossQ"),
    probe={"pi_lr": 3e-3, "q_lr": 1e-2, "act_noise": 0.5},
    presets={"spinningup": {"epochs": 100, "batch_size": 100, "update_every": 50, "ac_kwargs": {"layer_norm": False}}},
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["td3", *sys.argv[1:]])
