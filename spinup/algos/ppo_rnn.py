"""Recurrent PPO: PPO-clip, arXiv:1707.06347, with memory. Equations: docs/algorithms/ppo_rnn.md.

For tasks whose observations don't show the whole state. Policy and value function are networks with a GRU or LSTM
each, trained on whole sequences of steps; everything else is as in ppo.py.
"""

from typing import Annotated

import torch
from torch import Tensor

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.arguments import CHANGEABLE, PASSES, Range
from spinup.buffers import (
    RecurrentBuffer,
    first_steps,
    gae,
    minibatches,
    normalize,
    sequence_length,
    sequences,
    states_at_sequences,
)
from spinup.compute import mpi
from spinup.compute.capture import captured
from spinup.compute.optim import FlatAdam
from spinup.nets import RecurrentActorCritic, RunningNorm, check_recurrent_actor_critic, keep_bounds
from spinup.runs.run import Run


def policy_loss(logp: Tensor, logp_old: Tensor, adv: Tensor, clip_ratio: float) -> Tensor:
    """Minus the clipped surrogate objective."""
    # logp, logp_old, adv: (T, M)
    ratio = (logp - logp_old).exp()  # ppo_rnn-5: r = pi(a|h) / pi_old(a|h)
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.min(ratio * adv, clipped * adv).mean()  # ppo_rnn-6


def value_loss(v: Tensor, ret: Tensor, v_old: Tensor, vf_clip: float | None) -> Tensor:
    """Squared error against the returns; with vf_clip, moving v further than that from v_old gains nothing."""
    # v, ret, v_old: (T, M)
    loss = (v - ret).square()  # ppo_rnn-7
    if vf_clip is not None:
        clipped = v_old + (v - v_old).clamp(-vf_clip, vf_clip)
        loss = torch.max(loss, (clipped - ret).square())  # ppo_rnn-10
    return loss.mean()


def approx_kl(logp: Tensor, logp_old: Tensor) -> Tensor:
    """KL(pi_old || pi) from samples of pi_old: unbiased, and no sample's term is negative."""
    # logp, logp_old: (T, M)
    log_ratio = logp - logp_old
    return (log_ratio.expm1() - log_ratio).mean()  # ppo_rnn-8


def ppo_rnn(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = RecurrentActorCritic,
    ac_kwargs: arg.AcKwargs = None,
    seed: arg.Seed = 0,
    *,
    num_envs: arg.NumEnvs = 16,
    steps_per_epoch: arg.StepsPerEpoch = 2048,
    epochs: arg.Epochs = 500,
    gamma: arg.Gamma = 0.99,
    lam: arg.Lam = 0.95,
    clip_ratio: Annotated[
        float,
        Range(0),
        "how far the probability ratio may move from 1 before its gradient is cut off; 0.1 to 0.3",
        CHANGEABLE,
    ] = 0.2,
    pi_lr: arg.PiLr = 3e-4,
    vf_lr: arg.VfLr = 3e-4,
    train_pi_iters: Annotated[int, Range(0, PASSES), "passes over the epoch's data for the policy", CHANGEABLE] = 10,
    train_v_iters: arg.TrainVIters = 10,
    minibatch_size: Annotated[
        int | None,
        Range(1),
        "samples per gradient step on each MPI process, rounded up to whole sequences; None: the whole epoch",
        CHANGEABLE,
    ] = 256,
    seq_len: Annotated[
        int | None,
        Range(1),
        "the most steps through which gradients flow: an environment's steps in an epoch are cut into equal sequences, "
        "at most this long; None: they stay whole",
        CHANGEABLE,
    ] = 32,
    target_kl: Annotated[
        float | None,
        Range(0),
        "end the epoch's policy steps once the KL divergence from the old policy exceeds 1.5 times this",
        CHANGEABLE,
    ] = None,
    ent_coef: Annotated[float, Range(0), "weight of the entropy bonus", CHANGEABLE] = 0.0,
    vf_clip: Annotated[
        float | None,
        Range(0),
        "how far a value may move from its old one in an epoch before its gradient is cut off; None: no limit",
        CHANGEABLE,
    ] = None,
    max_grad_norm: arg.MaxGradNorm = 0.5,
    anneal_lr: arg.AnnealLr = True,
    normalize_obs: arg.NormalizeObs = True,
    normalize_rew: arg.NormalizeRew = True,
    normalize_adv: arg.NormalizeAdv = False,
    recompute_adv: Annotated[
        bool, "recompute the advantages before each pass, with the current value function", CHANGEABLE
    ] = True,
    value_target: arg.ValueTarget = "gae",
    max_ep_len: arg.MaxEpLen = 1000,
    env_kwargs: arg.EnvKwargs = None,
    wrappers: arg.Wrappers = None,
    vectorization: arg.Vectorization = "sync",
    reseed: arg.Reseed = True,
    log_info: arg.LogInfo = None,
    device: arg.Device = "cpu",
    threads: arg.Threads = 1,
    capture: arg.Capture = True,
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
    """Train a policy by PPO-clip with memory and return its actor-critic."""
    run = Run(ALGORITHM, locals())
    envs, device = run.envs, run.device
    length = sequence_length(run.steps_per_env, seq_len)
    per_minibatch = minibatch_size and -(-minibatch_size // length)  # sequences

    # ---- setup
    ac = actor_critic(envs.observation_space, envs.action_space, normalize_obs=normalize_obs, **(ac_kwargs or {}))
    check_recurrent_actor_critic(ac, envs.observation_space, envs.action_space)
    ac.rew_norm = RunningNorm(())
    run.prepare(ac)
    pi_optimizer = FlatAdam(ac.actor, pi_lr, max_grad_norm)
    vf_optimizer = FlatAdam(ac.critic, vf_lr, max_grad_norm)
    start = ac.initial_state(num_envs)
    buffer = RecurrentBuffer(
        run.steps_per_env, num_envs, envs.observation_space, envs.action_space, initial_state=start
    )

    # ---- updates
    @captured(capture and target_kl is None)  # the KL test branches in Python
    def update_pi(batch: tuple[Tensor, ...]) -> bool:
        """One step of the policy. Returns False, without a step, if it is already too far from the old one."""
        o, a, adv, logp_old, first, state = batch  # (length, B, ...), and the states before the first step, (B, S)
        pi, _ = ac.pi(o, state, first)  # ppo_rnn-1
        logp = pi.log_prob(a)  # (length, B)
        if target_kl is not None and mpi.mpi_avg(approx_kl(logp.detach(), logp_old).item()) > 1.5 * target_kl:
            return False
        loss = policy_loss(logp, logp_old, adv, clip_ratio)
        if ent_coef:
            loss = loss - ent_coef * pi.entropy().mean()  # ppo_rnn-9
        pi_optimizer.minimize(loss)
        return True

    @captured(capture)
    def update_v(batch: tuple[Tensor, ...]) -> None:
        """One step of the value function."""
        o, ret, v_old, first, state = batch
        v, _ = ac.v(o, state, first)  # ppo_rnn-1
        vf_optimizer.minimize(value_loss(v, ret, v_old, vf_clip))

    @torch.no_grad()
    def estimate(o, r, o2, terminated, done, v_start, first) -> tuple[Tensor, ...]:
        """Advantages, value targets and values of the rollout, (T, N) each, and the states after its steps."""
        v, states = ac.v(o, v_start, first)
        v2, _ = ac.v(o2, states)  # ppo_rnn-3: the true next observation, one step further
        adv, ret = gae(r, v, v2, terminated, done, gamma, lam)  # ppo_rnn-4
        if value_target == "rtg":
            _, ret = gae(r, v, v2, terminated, done, gamma, lam=1.0)
        return normalize(adv) if normalize_adv else adv, ret, v, states

    # ---- act
    obs = run.begin(ac, buffer, ac=ac, pi_optimizer=pi_optimizer, vf_optimizer=vf_optimizer)
    for epoch in run.epochs():
        for _ in range(buffer.t, run.steps_per_env):  # 0 unless resuming mid-epoch
            run.step()
            action, buffer.state = ac.act(obs, buffer.state)
            next_obs, reward, terminated, truncated = envs.step(action)
            buffer.store(obs, action, reward, next_obs, terminated, truncated)
            buffer.state[terminated | truncated] = 0.0  # ppo_rnn-2
            obs = envs.reset_done()

        # ---- learn
        o, a, r, o2, terminated, done = buffer.get(device)  # (T, N, ...)
        pi_start, v_start = buffer.starts(device)  # (N, S)
        first = first_steps(done)  # (T, N)
        if normalize_rew:
            ac.rew_norm.update(buffer.discounted_returns(gamma))
            r = ac.rew_norm.scale(r)
        if anneal_lr:
            pi_optimizer.lr = pi_lr * (1 - (epoch - 1) / epochs)
            vf_optimizer.lr = vf_lr * (1 - (epoch - 1) / epochs)
        with torch.no_grad():
            pi, pi_states = ac.pi(o, pi_start, first)
            logp_old = pi.log_prob(a)
        adv, ret, v_old, v_states = estimate(o, r, o2, terminated, done, v_start, first)
        first_adv, first_ret = adv, ret  # the log compares old and new losses on these
        pi_state, v_state = (  # (M, S), for M sequences
            states_at_sequences(*states, length) for states in ((pi_start, pi_states), (v_start, v_states))
        )

        keep_updating, pi_iters = True, 0
        for i in range(max(train_pi_iters, train_v_iters)):
            if recompute_adv and i > 0:
                adv, ret, *_ = estimate(o, r, o2, terminated, done, v_start, first)
            data = [sequences(x, length) for x in (o, a, adv, ret, logp_old, v_old, first)]  # (length, M, ...)
            for (rows,) in minibatches(per_minibatch, torch.arange(len(pi_state), device=device)):
                b_o, b_a, b_adv, b_ret, b_logp_old, b_v_old, b_first = (x[:, rows] for x in data)
                if i < train_pi_iters and keep_updating:
                    keep_updating = update_pi((b_o, b_a, b_adv, b_logp_old, b_first, pi_state[rows]))
                if i < train_v_iters:
                    update_v((b_o, b_ret, b_v_old, b_first, v_state[rows]))
            pi_iters += i < train_pi_iters and keep_updating

        # ---- log: how the losses changed in this epoch, on its first advantages and returns
        with torch.no_grad():
            (pi, pi_states), (v, v_states) = ac.pi(o, pi_start, first), ac.v(o, v_start, first)
            logp = pi.log_prob(a)
            loss_pi_old, loss_pi = (policy_loss(x, logp_old, first_adv, clip_ratio) for x in (logp_old, logp))
            loss_v_old, loss_v = (value_loss(x, first_ret, v_old, vf_clip) for x in (v_old, v))
            clipped = ((logp - logp_old).exp() - 1).abs() > clip_ratio
        run.log(VVals=v_old, LossPi=loss_pi_old, LossV=loss_v_old, Entropy=pi.entropy())
        run.log(DeltaLossPi=loss_pi - loss_pi_old, DeltaLossV=loss_v - loss_v_old)
        run.log(KL=approx_kl(logp, logp_old), ClipFrac=clipped.float(), StopIter=pi_iters)
        keep_bounds(ac.actor)  # of log_std, which has no gradient outside them
        buffer.begin(*(states[-1] * ~done[-1, :, None] for states in (pi_states, v_states)))  # ppo_rnn-2
        ac.obs_norm.update(o)  # after the update, so that acting and learning see the same observations
        run.end_epoch()

    run.close()
    return ac


ALGORITHM = Algorithm(
    ppo_rnn,
    on_policy=True,
    actions=("Box", "Discrete", "MultiDiscrete"),
    spreads=("VVals",),
    means=("LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "Entropy", "KL", "ClipFrac", "StopIter"),
    probe={"pi_lr": 1e-2, "epochs": 40, "train_pi_iters": 5, "minibatch_size": None, "normalize_adv": True},
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["ppo_rnn", *sys.argv[1:]])
