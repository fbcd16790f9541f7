"""Soft actor-critic (SAC), arXiv:1801.01290 and 1812.05905, for bounded and (arXiv:1910.07207) Discrete actions.

Equations: docs/algorithms/sac.md. Departures from the papers: target networks that move faster, normalized
observations, and layer normalization in the critics; several steps of the critics for one of the policy
(arXiv:2101.05982); a learning rate that falls at the end; half of the papers' target entropy, and half of its maximum
for discrete actions; and an optimizer that steps on log(alpha).
Options: n-step returns, which omit the entropies of the steps in between, and an average of the policies as the result.
"""

import copy
import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.arguments import CHANGEABLE, COUNT, Range
from spinup.buffers import Batch, ReplayBuffer
from spinup.compute.capture import captured
from spinup.compute.optim import FlatAdam, flatten, polyak_average
from spinup.hindsight import HindsightBuffer
from spinup.nets import Categorical, NoNorm, SoftActorCritic, SquashedGaussian, check_q_actor_critic
from spinup.runs.run import Run


def soft_value(pi: SquashedGaussian | Categorical, q: Callable, o: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """E[min_i Q_i(o, a) - alpha log pi(a|o)] and E[log pi(a|o)] over a ~ pi, (B,) each."""
    # o: (B, ...); alpha: (); q gives (2, B), or (2, B, K) for K Discrete actions
    if hasattr(pi, "logp"):  # Discrete actions
        q_min, logp = q(o).min(0).values, pi.logp  # (B, K) each
        return pi.expectation(q_min - alpha * logp), pi.expectation(logp)  # sac-7: the expectation written out
    a, logp = pi.rsample()  # sac-3: a = tanh(u), sac-4: its log-probability
    return q(o, a).min(0).values - alpha * logp, logp  # the expectation, estimated by one sample


def target(r: Tensor, terminated: Tensor, discount: Tensor, v2: Tensor) -> Tensor:
    """What Q(s, a) should be, given the soft values v2 of the next observations."""
    # r, terminated, discount, v2: (B,)
    return r + discount * (1 - terminated) * v2  # sac-1


def q_loss(q: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of the critics' values against the targets, summed over the critics."""
    # q: (2, B); y: (B,)
    return (q - y).square().mean(-1).sum()  # sac-2


def alpha_loss(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """Pushes alpha up when the entropy, the mean of -logp, is below its target."""
    # log_alpha: (); logp: (B,)
    return -log_alpha * (logp.mean() + target_entropy)  # sac-6


class Temperature(nn.Module):
    """alpha, parametrized by its logarithm."""

    def __init__(self, alpha: float):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(float(alpha)).log())


def sac(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = SoftActorCritic,
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
    polyak: arg.Polyak = 0.9,
    lr: Annotated[float, Range(0), "learning rate of policy, critics and temperature (Adam)", CHANGEABLE] = 1e-3,
    anneal_lr: Annotated[
        float,
        Range(0, 1),
        "last part of the run, in which the learning rate falls linearly to 0; 0: it stays",
        CHANGEABLE,
    ] = 0.2,
    alpha: Annotated[
        float | Literal["auto"],
        Range(0),
        "temperature: the weight of the entropy relative to the reward; 'auto': adjusted to hold the target entropy",
    ] = "auto",
    target_entropy: Annotated[
        float | None,
        Range(-COUNT),
        "mean entropy that alpha='auto' holds; None: minus half the number of action dimensions, "
        "or half of log K for K Discrete actions",
        CHANGEABLE,
    ] = None,
    policy_delay: Annotated[
        int, Range(1), "steps of the critics for each step of policy and temperature", CHANGEABLE
    ] = 3,
    policy_average: Annotated[
        float,
        Range(0, 1),
        "decay of a running average of the policy, which is tested, saved and returned; 0: the learned policy is",
    ] = 0.0,
    batch_size: arg.BatchSize = 256,
    start_steps: arg.StartSteps = 5000,
    update_after: arg.UpdateAfterOrStart = None,
    update_every: arg.UpdateEvery = 1,
    replay_ratio: arg.ReplayRatio = 1.0,
    normalize_obs: arg.NormalizeObs = True,
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
    """Train a policy by SAC and return its actor-critic."""
    run = Run(ALGORITHM, locals())
    envs, device = run.envs, run.device

    # ---- setup
    norm = {"normalize_obs": True} if normalize_obs else {}  # networks of your own need not accept False
    ac = actor_critic(envs.observation_space, envs.action_space, **norm, **(ac_kwargs or {}))
    check_q_actor_critic(
        ac, envs.observation_space, envs.action_space, num_critics=2, soft=True, normalize_obs=normalize_obs
    )
    ac.temperature = Temperature(1.0 if alpha == "auto" else alpha)
    obs_norm = getattr(ac, "obs_norm", NoNorm())
    run.prepare(ac, fixed=() if alpha == "auto" else ("temperature.",))
    pi, q, log_alpha = ac.actor, ac.critic, ac.temperature.log_alpha
    q_targ = copy.deepcopy(q)
    q_targ_params = flatten(q_targ)
    result = ac  # tested, saved and returned
    if policy_average:
        result = copy.deepcopy(ac)
        result.critic, result.temperature, result.obs_norm = q, ac.temperature, obs_norm
        pi_avg_params = flatten(result.actor)
    pi_optimizer, q_optimizer, alpha_optimizer = (FlatAdam(module, lr) for module in (pi, q, ac.temperature))
    if target_entropy is None:
        space = envs.action_space
        target_entropy = 0.5 * math.log(space.n) if isinstance(space, spaces.Discrete) else -0.5 * space.shape[0]
    if hindsight == 0:
        buffer = ReplayBuffer(replay_size, num_envs, envs.observation_space, envs.action_space, device, n_step, gamma)
    else:
        buffer = HindsightBuffer(hindsight, envs, replay_size, device, n_step, gamma)

    # ---- updates
    @captured(capture)
    def update(batch: Batch, skip_policy: bool) -> dict[str, Tensor]:
        """One step of the critics and, unless skipped, the policy and the temperature. Returns what to log."""
        o, a, r, o2, terminated, discount = batch
        temperature = log_alpha.detach().exp()

        with torch.no_grad():
            v2, _ = soft_value(pi(o2), q_targ, o2, temperature)
            y = target(r, terminated, discount, v2)
        q_values = q(o, a)  # (2, B)
        loss_q = q_loss(q_values, y)
        q_optimizer.minimize(loss_q)
        polyak_average(q_targ_params, q_optimizer.flat, polyak)  # sac-8
        metrics = dict(LossQ=loss_q, Q1Vals=q_values[0], Q2Vals=q_values[1], Alpha=temperature)
        if skip_policy:
            return metrics

        v, logp = soft_value(pi(o), q, o, temperature)
        loss_pi = -v.mean()  # sac-5
        pi_optimizer.minimize(loss_pi)
        if policy_average:
            n = pi_optimizer.t  # steps so far
            decay = (n / (n + 9)).clamp(max=policy_average)  # sac-9: rho_n
            polyak_average(pi_avg_params, pi_optimizer.flat, decay)  # sac-9
        if alpha == "auto":
            alpha_optimizer.minimize(alpha_loss(log_alpha, logp.detach(), target_entropy))
        return metrics | dict(LossPi=loss_pi, LogPi=logp)

    # ---- act
    parts = dict(pi_optimizer=pi_optimizer, q_optimizer=q_optimizer, alpha_optimizer=alpha_optimizer)
    if policy_average:
        parts["pi_avg"] = result.actor
    o = run.begin(result, buffer, ac=ac, q_targ=q_targ, **parts)
    for epoch in run.epochs():
        if anneal_lr:
            for optimizer in (pi_optimizer, q_optimizer, alpha_optimizer):
                optimizer.lr = lr * min(1.0, (epochs - epoch + 1) / (anneal_lr * epochs))
        while run.t < epoch * steps_per_epoch:
            a = ac.act(o) if run.step() >= start_steps else envs.random_actions()
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
    sac,
    on_policy=False,
    actions=("Box", "Discrete"),
    spreads=("Q1Vals", "Q2Vals", "LogPi"),
    means=("LossPi", "LossQ", "Alpha"),
    probe={"lr": 1e-2, "policy_delay": 1, "normalize_obs": False},
    presets={
        "spinningup": {
            "epochs": 100,
            "polyak": 0.995,
            "anneal_lr": 0.0,
            "alpha": 0.2,
            "policy_delay": 1,
            "batch_size": 100,
            "start_steps": 10_000,
            "update_after": 1000,
            "update_every": 50,
            "normalize_obs": False,
            "ac_kwargs": {"layer_norm": False},
        },
    },
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["sac", *sys.argv[1:]])
