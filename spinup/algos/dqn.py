"""Deep Q-networks (DQN), doi:10.1038/nature14236, with double Q-learning (arXiv:1509.06461).

Equations: docs/algorithms/dqn.md. Departures from the papers: the target network is a moving average of the
learned one instead of an occasional copy, and Adam replaces RMSProp. Options: n-step returns, double Q-learning and
dueling networks (arXiv:1511.06581). The preset "atari" plays Atari games; the page says how it differs from
the paper.
"""

import copy
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.arguments import CHANGEABLE, Range
from spinup.buffers import Batch, ReplayBuffer
from spinup.compute.capture import captured
from spinup.compute.optim import FlatAdam, flatten, polyak_average
from spinup.hindsight import HindsightBuffer
from spinup.nets import NoNorm, QNetwork, check_q_network
from spinup.runs.run import Run


def target(r: Tensor, terminated: Tensor, discount: Tensor, q2: Tensor) -> Tensor:
    """What Q(s, a) should be, given the target network's values q2 of the best next actions."""
    # r, terminated, discount, q2: (B,)
    return r + discount * (1 - terminated) * q2  # dqn-1


def q_loss(q: Tensor, y: Tensor) -> Tensor:
    """Huber loss of the values against the targets: squared up to an error of 1, then linear."""
    # q, y: (B,)
    return F.smooth_l1_loss(q, y)  # dqn-3


def dqn(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = QNetwork,
    ac_kwargs: arg.AcKwargs = None,
    seed: arg.Seed = 0,
    *,
    num_envs: arg.NumEnvs = 1,
    steps_per_epoch: arg.StepsPerEpoch = 5000,
    epochs: arg.Epochs = 60,
    replay_size: arg.ReplaySize = 1_000_000,
    gamma: arg.Gamma = 0.995,
    n_step: arg.NStep = 3,
    hindsight: arg.Hindsight = 0.0,
    polyak: arg.Polyak = 0.995,
    target_policy: Annotated[
        bool, "test, save and return the target network, a running average of the learned one that varies less"
    ] = True,
    double: Annotated[
        bool,
        "double Q-learning: the learned network chooses the next action, the target network evaluates it",
        CHANGEABLE,
    ] = True,
    q_lr: arg.QLr = 2.5e-4,
    epsilon: Annotated[float, Range(0, 1), "final probability of a random action", CHANGEABLE] = 0.05,
    epsilon_steps: Annotated[
        int, Range(0), "environment steps over which epsilon falls linearly from 1", CHANGEABLE
    ] = 10_000,
    batch_size: arg.BatchSize = 128,
    max_grad_norm: arg.MaxGradNorm = 10.0,
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
    """Train a policy by DQN and return its network."""
    run = Run(ALGORITHM, locals())
    envs, device = run.envs, run.device

    # ---- setup
    norm = {"normalize_obs": True} if normalize_obs else {}  # networks of your own need not accept False
    net = actor_critic(envs.observation_space, envs.action_space, **norm, **(ac_kwargs or {}))
    check_q_network(net, envs.observation_space, envs.action_space, normalize_obs=normalize_obs)
    obs_norm = getattr(net, "obs_norm", NoNorm())
    run.prepare(net)
    net_targ = copy.deepcopy(net)
    net_targ.obs_norm = obs_norm  # the same statistics for both
    q, q_targ = net.q, net_targ.q
    result = net_targ if target_policy else net  # evaluated, saved and returned
    q_targ_params = flatten(q_targ)
    q_optimizer = FlatAdam(q, q_lr, max_grad_norm)
    if hindsight == 0:
        buffer = ReplayBuffer(replay_size, num_envs, envs.observation_space, envs.action_space, device, n_step, gamma)
    else:
        buffer = HindsightBuffer(hindsight, envs, replay_size, device, n_step, gamma)

    # ---- updates
    @captured(capture)
    def update(batch: Batch) -> dict[str, Tensor]:
        """One step of the network. Returns what to log."""
        o, a, r, o2, terminated, discount = batch

        with torch.no_grad():
            best = (q if double else q_targ)(o2).argmax(-1)  # dqn-2
            y = target(r, terminated, discount, q_targ(o2, best))
        q_values = q(o, a)  # (B,)
        loss_q = q_loss(q_values, y)
        q_optimizer.minimize(loss_q)
        polyak_average(q_targ_params, q_optimizer.flat, polyak)  # dqn-4
        return dict(LossQ=loss_q, QVals=q_values)

    # ---- act
    def explore(o: np.ndarray, t: int) -> np.ndarray:
        """Random actions with a probability that falls to epsilon, otherwise greedy ones, (N,)."""
        eps = max(epsilon, 1 - (1 - epsilon) * t / epsilon_steps) if epsilon_steps else epsilon  # dqn-5
        random = torch.rand(num_envs).numpy() < eps
        return np.where(random, envs.random_actions(), net.act(o))

    o = run.begin(result, buffer, ac=net, q_targ=q_targ, q_optimizer=q_optimizer)
    for epoch in run.epochs():
        while run.t < epoch * steps_per_epoch:
            a = explore(o, run.step())
            o2, r, terminated, truncated = envs.step(a)
            buffer.store(o, a, r, o2, terminated, truncated)
            obs_norm.update(torch.as_tensor(o))
            o = envs.reset_done()
            for _ in run.due_updates():
                run.log(**update(buffer.sample(batch_size).normalized(obs_norm)))
        run.end_epoch()

    run.close()
    return result


ALGORITHM = Algorithm(
    dqn,
    on_policy=False,
    actions=("Discrete",),
    spreads=("QVals",),
    means=("LossQ",),
    probe={"q_lr": 1e-2, "epsilon_steps": 500},
    presets={
        "atari": {
            "env_kwargs": {"frameskip": 1},
            "wrappers": ["gymnasium.wrappers:AtariPreprocessing", "gymnasium.wrappers:FrameStackObservation(4)"],
            "steps_per_epoch": 50_000,
            "epochs": 200,
            "gamma": 0.99,
            "q_lr": 1e-4,
            "epsilon": 0.01,
            "epsilon_steps": 1_000_000,
            "batch_size": 32,
            "update_after": 20_000,
            "update_every": 4,
            "replay_ratio": 0.25,
            "max_ep_len": 27_000,
            "ac_kwargs": {"hidden_sizes": [512]},
        }
    },
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["dqn", *sys.argv[1:]])
