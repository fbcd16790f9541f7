"""Soft actor-critic (SAC), arXiv:1801.01290 and 1812.05905, for bounded and (arXiv:1910.07207) Discrete actions.

Equations: docs/algorithms/sac.md. Departures from the papers: the temperature steps by its logarithm, the target
entropy of discrete actions is half of its maximum, and n-step returns, without the entropies on the way, can replace
one-step ones.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup.buffers import Batch, ReplayBuffer, check_replay_memory
from spinup.compute import accel, mpi
from spinup.compute.capture import captured
from spinup.compute.optim import Adam, flatten, polyak_average
from spinup.envs import check_actions, make_envs
from spinup.errors import check_arguments
from spinup.nets import Categorical, NoNorm, SoftActorCritic, SquashedGaussian, check_q_actor_critic
from spinup.runs.checkpoint import RunState
from spinup.runs.logger import EpochLogger


def soft_value(pi: SquashedGaussian | Categorical, q: Callable, o: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """E[min_i Q_i(o, a) - alpha log pi(a|o)] and E[log pi(a|o)] over a ~ pi, (B,) each."""
    if isinstance(pi, Categorical):
        q_min, logp = q(o).min(0).values, pi.logp  # (B, K)
        return pi.expectation(q_min - alpha * logp), pi.expectation(logp)  # sac-7: the expectation written out
    a, logp = pi.rsample()  # sac-3: a = tanh(u), sac-4: its log-probability
    return q(o, a).min(0).values - alpha * logp, logp  # the expectation by one sample


def target(r: Tensor, terminated: Tensor, discount: Tensor, v2: Tensor) -> Tensor:
    """What Q(s, a) should be, (B,), from the soft value v2 of the next observations."""
    return r + discount * (1 - terminated) * v2  # sac-1


def q_loss(q: Tensor, y: Tensor) -> Tensor:
    """Squared error of the critics' values, (2, B), against the targets, (B,), summed over the critics."""
    return (q - y).square().mean(-1).sum()  # sac-2


def alpha_loss(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """Falls as log_alpha rises where the entropy, the mean of -logp, (B,), is below its target."""
    return -log_alpha * (logp.mean() + target_entropy)  # sac-6


class Temperature(nn.Module):
    """alpha, as the exponential of a parameter."""

    def __init__(self, alpha: float):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(float(alpha)).log())


def sac(
    env_fn,
    actor_critic=SoftActorCritic,
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
    lr: float = 1e-3,
    alpha: float | str = "auto",
    target_entropy: float | None = None,
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
    """Train a policy by SAC and return its actor-critic. SAC's own arguments:

    lr: learning rate of policy, critics and temperature (Adam)
    alpha: temperature, the weight of the entropy beside the reward; 'auto': adjusted to hold the target entropy
    target_entropy: entropy per state that alpha='auto' holds; None: minus the number of actions' dimensions, or half of
        log K for K Discrete actions
    """
    config = {"algorithm": "sac", **locals()}
    check_arguments(config)

    # ---- setup
    seed_here = seed + 10_000 * mpi.proc_id()
    device = accel.setup(seed_here, device, threads, matmul_precision)
    envs = make_envs(env_fn, num_envs, seed_here, max_ep_len, env_kwargs, vectorization, wrappers, reseed, log_info)
    check_actions("sac", envs.action_space, discrete=True)
    norm = {"normalize_obs": True} if normalize_obs else {}
    ac = actor_critic(envs.observation_space, envs.action_space, **norm, **(ac_kwargs or {})).to(device)
    check_q_actor_critic(
        ac, envs.observation_space, envs.action_space, num_critics=2, soft=True, normalize_obs=normalize_obs
    )
    ac.temperature = Temperature(1.0 if alpha == "auto" else alpha).to(device)
    obs_norm = getattr(ac, "obs_norm", NoNorm())
    mpi.sync_params(ac)
    pi, q, log_alpha = ac.actor, ac.critic, ac.temperature.log_alpha
    q_targ = copy.deepcopy(q)
    q_targ_params = flatten(q_targ)
    pi_optimizer, q_optimizer, alpha_optimizer = (Adam(module, lr) for module in (pi, q, ac.temperature))
    if target_entropy is None:
        space = envs.action_space
        target_entropy = 0.5 * math.log(space.n) if isinstance(space, spaces.Discrete) else -float(space.shape[0])

    procs = mpi.num_procs()
    memory = check_replay_memory(replay_size, envs.observation_space, envs.action_space, device, procs)
    logger = EpochLogger(**(logger_kwargs or {"exp_name": "sac"}))
    logger.save_config(config)
    logger.setup_pytorch_saver(ac)
    logger.log(memory)
    buffer = ReplayBuffer(
        replay_size // procs, num_envs, envs.observation_space, envs.action_space, device, n_step, gamma
    )
    parts = dict(
        ac=ac, q_targ=q_targ, pi_optimizer=pi_optimizer, q_optimizer=q_optimizer, alpha_optimizer=alpha_optimizer
    )
    run = RunState(config, logger, envs=envs, buffer=buffer, **parts)

    # ---- learn
    @captured(capture)
    def update(batch: Batch) -> dict[str, Tensor]:
        """One step of critics, policy and temperature; returns what to log."""
        o, a, r, o2, terminated, discount = batch
        temperature = log_alpha.detach().exp()

        with torch.no_grad():
            v2, _ = soft_value(pi(o2), q_targ, o2, temperature)
            y = target(r, terminated, discount, v2)
        q_values = q(o, a)  # (2, B)
        loss_q = q_loss(q_values, y)
        q_optimizer.minimize(loss_q)

        v, logp = soft_value(pi(o), q, o, temperature)
        loss_pi = -v.mean()  # sac-5
        pi_optimizer.minimize(loss_pi)
        if alpha == "auto":
            alpha_optimizer.minimize(alpha_loss(log_alpha, logp.detach(), target_entropy))

        polyak_average(q_targ_params, q_optimizer.flat, polyak)  # sac-8
        q1, q2 = q_values
        return dict(LossQ=loss_q, LossPi=loss_pi, Q1Vals=q1, Q2Vals=q2, LogPi=logp, Alpha=temperature)

    # ---- act
    o = run.begin()
    first_block = max(1, -(-update_after // update_every)) * update_every  # step of the first block of updates
    for epoch in run.epochs():
        while run.t < epoch * steps_per_epoch:
            run.step(num_envs)
            a = ac.act(o) if run.t - num_envs * procs >= start_steps else envs.random_actions()
            o2, r, terminated, truncated = envs.step(a)
            buffer.store(o, a, r, o2, terminated, truncated)
            obs_norm.update(torch.as_tensor(o))
            o = envs.reset_done()
            if run.t >= first_block and run.t % update_every < num_envs * procs:  # a block is due
                while run.updates < int(replay_ratio * (run.t - first_block + update_every)):
                    run.updates += 1
                    batch = buffer.sample(-(-batch_size // procs)).normalized(obs_norm)
                    logger.store(**update(batch))
        logger.store(**envs.pop_episodes())

        # ---- evaluate, save, log
        eval_time = time.time()
        if eval_freq and epoch % eval_freq == 0:
            logger.store(**envs.evaluate(ac, num_test_episodes, num_test_envs))
        eval_time = time.time() - eval_time
        logger.log_tabular("Epoch", epoch)
        logger.log_tabular("EpRet", with_min_and_max=True)
        logger.log_tabular("EpLen", average_only=True)
        if eval_freq:
            logger.log_tabular("TestEpRet", with_min_and_max=True)
            logger.log_tabular("TestEpLen", average_only=True)
            logger.log_tabular("EvalTime", eval_time)
        logger.log_tabular("TotalEnvInteracts", run.t)
        for key in ("Q1Vals", "Q2Vals", "LogPi"):
            logger.log_tabular(key, with_min_and_max=True)
        for key in ("LossPi", "LossQ", "Alpha"):
            logger.log_tabular(key, average_only=True)
        logger.log_tabular("Time", run.time())
        logger.dump_tabular()
        run.end_epoch()

    run.close()
    return ac


PRESETS = {
    "spinningup": dict(
        epochs=100,
        alpha=0.2,
        batch_size=100,
        update_every=50,
    )
}

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["sac", *sys.argv[1:]])
