"""CrossQ, arXiv:1902.05605: SAC with batch normalization instead of target networks.

Equations: docs/algorithms/crossq.md. Departures from the paper: critics are 256 units wide instead of 2048, the
learning rate falls at the end, and an average of the policies is the result (the preset "paper" has the paper's
settings); the target entropy is half of the paper's; batch normalization isn't replaced by batch renormalization after
100,000 steps; and n-step returns can replace one-step ones. Each ingredient has a switch: the networks' `batch_norm`,
`actor_batch_norm` and `critic_width`, and `joint`, `polyak`, `beta1` and `policy_average`.
"""

import copy
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.arguments import CHANGEABLE, COUNT, Range
from spinup.buffers import Batch, ReplayBuffer
from spinup.compute import mpi
from spinup.compute.capture import captured
from spinup.compute.optim import FlatAdam, flatten, polyak_average
from spinup.errors import UserError
from spinup.hindsight import HindsightBuffer
from spinup.nets import BatchNormActorCritic, NoNorm, check_q_actor_critic
from spinup.runs.run import Run


def joint_values(q: nn.Module, o: Tensor, a: Tensor, o2: Tensor, a2: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
    """Q(s, a) and Q(s', a'), (2, B) each; joint: normalized by the statistics of both minibatches together."""
    # o, o2: (B, ...); a, a2: (B, A)
    if not joint:
        return q(o, a, training=True), q(o2, a2, training=True)  # each by its own
    # crossq-3; each layer normalizes by crossq-1 and moves its running statistics by crossq-2
    q_values, q2 = q(torch.cat([o, o2]), torch.cat([a, a2]), training=True).chunk(2, -1)
    return q_values, q2


def target(r: Tensor, terminated: Tensor, discount: Tensor, v2: Tensor) -> Tensor:
    """What Q(s, a) should be, given the soft values v2 of the next observations."""
    # r, terminated, discount, v2: (B,)
    return r + discount * (1 - terminated) * v2  # crossq-4


def q_loss(q: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of the critics' values against the targets, summed over the critics."""
    # q: (2, B); y: (B,)
    return (q - y).square().mean(-1).sum()  # crossq-5


def alpha_loss(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """Pushes alpha up when the entropy, the mean of -logp, is below its target."""
    # log_alpha: (); logp: (B,)
    return -log_alpha * (logp.mean() + target_entropy)  # crossq-7


class Temperature(nn.Module):
    """alpha, parametrized by its logarithm."""

    def __init__(self, alpha: float):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(float(alpha)).log())


def crossq(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = BatchNormActorCritic,
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
    polyak: Annotated[
        float,
        Range(0, 1),
        "0: no target networks; above: decay of the target critics' running average, as in SAC",
    ] = 0.0,
    joint: Annotated[
        bool,
        "one pass of the critics over this and the next state together, so that they share batch statistics; False: "
        "one pass each",
    ] = True,
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
        "mean entropy that alpha='auto' holds; None: minus half the number of action dimensions",
        CHANGEABLE,
    ] = None,
    beta1: Annotated[float, Range(0, 0.99999), "decay of the mean gradient in Adam"] = 0.5,
    policy_delay: Annotated[
        int, Range(1), "steps of the critics for each step of policy and temperature", CHANGEABLE
    ] = 3,
    policy_average: Annotated[
        float,
        Range(0, 1),
        "decay of a running average of the policy, which is tested, saved and returned; 0: the learned policy is",
    ] = 0.999,
    batch_size: arg.BatchSize = 256,
    start_steps: arg.StartSteps = 5000,
    update_after: arg.UpdateAfterOrStart = None,
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
    """Train a policy by CrossQ and return its actor-critic."""
    run = Run(ALGORITHM, locals())
    envs, device = run.envs, run.device

    # ---- setup
    norm = {"normalize_obs": True} if normalize_obs else {}  # networks of your own need not accept False
    ac = actor_critic(envs.observation_space, envs.action_space, **norm, **(ac_kwargs or {}))
    check_q_actor_critic(
        ac, envs.observation_space, envs.action_space, 2, soft=True, normalize_obs=normalize_obs, training=True
    )
    if batch_size < 2 * mpi.num_procs():
        raise UserError(f"batch_size is {batch_size}; batch statistics need at least 2 transitions on each process")
    ac.temperature = Temperature(1.0 if alpha == "auto" else alpha)
    obs_norm = getattr(ac, "obs_norm", NoNorm())
    run.prepare(ac, fixed=() if alpha == "auto" else ("temperature.",))
    pi, q, log_alpha = ac.actor, ac.critic, ac.temperature.log_alpha
    q_targ = copy.deepcopy(q) if polyak else q
    q_targ_params = flatten(q_targ) if polyak else None
    result = ac  # tested, saved and returned
    if policy_average:
        result = copy.deepcopy(ac)
        result.critic, result.temperature, result.obs_norm = q, ac.temperature, obs_norm
        pi_avg_params = flatten(result.actor)
    optimizers = (FlatAdam(module, lr, betas=(beta1, 0.999)) for module in (pi, q, ac.temperature))
    pi_optimizer, q_optimizer, alpha_optimizer = optimizers
    if target_entropy is None:
        target_entropy = -0.5 * envs.action_space.shape[0]
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
            a2, logp2 = pi(o2).rsample()
        q_values, q2 = joint_values(q, o, a, o2, a2, joint)
        with torch.no_grad():
            if polyak:
                _, q2 = joint_values(q_targ, o, a, o2, a2, joint)
            y = target(r, terminated, discount, q2.min(0).values - temperature * logp2)
        loss_q = q_loss(q_values, y)
        q_optimizer.minimize(loss_q)
        if polyak:
            polyak_average(q_targ_params, q_optimizer.flat, polyak)  # crossq-8
        metrics = dict(LossQ=loss_q, Q1Vals=q_values[0], Q2Vals=q_values[1], Alpha=temperature)
        if skip_policy:
            return metrics

        a_pi, logp = pi(o, training=True).rsample()
        loss_pi = (temperature * logp - q(o, a_pi).min(0).values).mean()  # crossq-6
        pi_optimizer.minimize(loss_pi)
        if policy_average:
            n = pi_optimizer.t  # steps so far
            decay = (n / (n + 9)).clamp(max=policy_average)  # crossq-9: rho_n
            polyak_average(pi_avg_params, pi_optimizer.flat, decay)  # crossq-9
        if alpha == "auto":
            alpha_optimizer.minimize(alpha_loss(log_alpha, logp.detach(), target_entropy))
        return metrics | dict(LossPi=loss_pi, LogPi=logp)

    # ---- act
    parts = dict(pi_optimizer=pi_optimizer, q_optimizer=q_optimizer, alpha_optimizer=alpha_optimizer)
    if polyak:
        parts["q_targ"] = q_targ
    if policy_average:
        parts["pi_avg"] = result.actor
    o = run.begin(result, buffer, ac=ac, **parts)
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
    crossq,
    on_policy=False,
    actions=("Box",),
    spreads=("Q1Vals", "Q2Vals", "LogPi"),
    means=("LossPi", "LossQ", "Alpha"),
    probe={
        "lr": 3e-3,
        "polyak": 0.0,
        "policy_delay": 1,
        "steps_per_epoch": 1400,
        "ac_kwargs": {"hidden_sizes": (32, 32), "actor_batch_norm": False},  # observations are constant
    },
    presets={"paper": {"anneal_lr": 0.0, "policy_average": 0.0, "ac_kwargs": {"critic_width": 8.0}}},
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["crossq", *sys.argv[1:]])
