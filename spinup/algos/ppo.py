"""PPO-clip: Proximal Policy Optimization, arXiv:1707.06347. Equations: docs/algorithms/ppo.md.

Departures from the paper: policy and value function are separate networks with an optimizer each; the KL divergence
from the old policy can end an epoch's policy steps early; observations and rewards are scaled by running statistics,
learning rates decay linearly to 0, advantages are recomputed before each pass, gradients are clipped, and initial
weights are orthogonal. All but the first are options; the preset "spinningup" keeps the two networks and the early
stop.
"""

from typing import Annotated

import torch
from torch import Tensor

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.arguments import CHANGEABLE, PASSES, Range
from spinup.buffers import RolloutBuffer, gae, minibatches, normalize
from spinup.compute import mpi
from spinup.compute.capture import captured
from spinup.compute.optim import FlatAdam
from spinup.nets import ActorCritic, RunningNorm, check_actor_critic, keep_bounds
from spinup.runs.run import Run


def policy_loss(logp: Tensor, logp_old: Tensor, adv: Tensor, clip_ratio: float) -> Tensor:
    """Minus the clipped surrogate objective."""
    # logp, logp_old, adv: (B,) or (T, N)
    ratio = (logp - logp_old).exp()  # ppo-1: r = pi(a|s) / pi_old(a|s)
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.min(ratio * adv, clipped * adv).mean()  # ppo-2


def value_loss(v: Tensor, ret: Tensor, v_old: Tensor, vf_clip: float | None) -> Tensor:
    """Squared error against the returns; with vf_clip, moving v further than that from v_old gains nothing."""
    # v, ret, v_old: (B,) or (T, N)
    loss = (v - ret).square()  # ppo-4
    if vf_clip is not None:
        clipped = v_old + (v - v_old).clamp(-vf_clip, vf_clip)
        loss = torch.max(loss, (clipped - ret).square())  # ppo-7
    return loss.mean()


def approx_kl(logp: Tensor, logp_old: Tensor) -> Tensor:
    """KL(pi_old || pi) from samples of pi_old: unbiased, and no sample's term is negative."""
    # logp, logp_old: (B,) or (T, N)
    log_ratio = logp - logp_old
    return (log_ratio.expm1() - log_ratio).mean()  # ppo-5


def ppo(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = ActorCritic,
    ac_kwargs: arg.AcKwargs = None,
    seed: arg.Seed = 0,
    *,
    num_envs: arg.NumEnvs = 8,
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
        int | None, Range(1), "samples per gradient step on each MPI process; None: the whole epoch", CHANGEABLE
    ] = 64,
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
    """Train a policy by PPO-clip and return its actor-critic."""
    run = Run(ALGORITHM, locals())
    envs, device = run.envs, run.device

    # ---- setup
    ac = actor_critic(envs.observation_space, envs.action_space, normalize_obs=normalize_obs, **(ac_kwargs or {}))
    check_actor_critic(ac, envs.observation_space, envs.action_space)
    ac.rew_norm = RunningNorm(())
    run.prepare(ac)
    pi_optimizer = FlatAdam(ac.actor, pi_lr, max_grad_norm)
    vf_optimizer = FlatAdam(ac.critic, vf_lr, max_grad_norm)
    buffer = RolloutBuffer(run.steps_per_env, num_envs, envs.observation_space, envs.action_space)

    # ---- updates
    @captured(capture and target_kl is None)  # the KL test branches in Python
    def update_pi(batch: tuple[Tensor, ...]) -> bool:
        """One step of the policy. Returns False, without a step, if it is already too far from the old one."""
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
    def estimate(o, r, o2, terminated, done) -> tuple[Tensor, Tensor, Tensor]:
        """Advantages, value targets and values of the rollout, (T, N) each."""
        v, v2 = ac.v(o), ac.v(o2)
        adv, ret = gae(r, v, v2, terminated, done, gamma, lam)  # ppo-3
        if value_target == "rtg":
            _, ret = gae(r, v, v2, terminated, done, gamma, lam=1.0)
        return normalize(adv) if normalize_adv else adv, ret, v

    # ---- act
    obs = run.begin(ac, buffer, ac=ac, pi_optimizer=pi_optimizer, vf_optimizer=vf_optimizer)
    for epoch in run.epochs():
        for _ in range(buffer.t, run.steps_per_env):  # 0 unless resuming mid-epoch
            run.step()
            action = ac.act(obs)
            next_obs, reward, terminated, truncated = envs.step(action)
            buffer.store(obs, action, reward, next_obs, terminated, truncated)
            obs = envs.reset_done()

        # ---- learn
        o, a, r, o2, terminated, done = buffer.get(device)  # (T, N, ...)
        if normalize_rew:
            ac.rew_norm.update(buffer.discounted_returns(gamma))
            r = ac.rew_norm.scale(r)
        if anneal_lr:
            pi_optimizer.lr = pi_lr * (1 - (epoch - 1) / epochs)
            vf_optimizer.lr = vf_lr * (1 - (epoch - 1) / epochs)
        with torch.no_grad():
            logp_old = ac.pi(o).log_prob(a)
        adv, ret, v_old = estimate(o, r, o2, terminated, done)
        first_adv, first_ret = adv, ret  # the log compares old and new losses on these

        keep_updating, pi_iters = True, 0
        for i in range(max(train_pi_iters, train_v_iters)):
            if recompute_adv and i > 0:
                adv, ret, _ = estimate(o, r, o2, terminated, done)
            data = [x.flatten(0, 1) for x in (o, a, adv, ret, logp_old, v_old)]
            for b_o, b_a, b_adv, b_ret, b_logp_old, b_v_old in minibatches(minibatch_size, *data):
                if i < train_pi_iters and keep_updating:
                    keep_updating = update_pi((b_o, b_a, b_adv, b_logp_old))
                if i < train_v_iters:
                    update_v((b_o, b_ret, b_v_old))
            pi_iters += i < train_pi_iters and keep_updating

        # ---- log: how the losses changed in this epoch, on its first advantages and returns
        with torch.no_grad():
            pi, v = ac.pi(o), ac.v(o)
            logp = pi.log_prob(a)
            loss_pi_old, loss_pi = (policy_loss(x, logp_old, first_adv, clip_ratio) for x in (logp_old, logp))
            loss_v_old, loss_v = (value_loss(x, first_ret, v_old, vf_clip) for x in (v_old, v))
            clipped = ((logp - logp_old).exp() - 1).abs() > clip_ratio
        run.log(VVals=v_old, LossPi=loss_pi_old, LossV=loss_v_old, Entropy=pi.entropy())
        run.log(DeltaLossPi=loss_pi - loss_pi_old, DeltaLossV=loss_v - loss_v_old)
        run.log(KL=approx_kl(logp, logp_old), ClipFrac=clipped.float(), StopIter=pi_iters)
        keep_bounds(ac.actor)  # of log_std, which has no gradient outside them
        ac.obs_norm.update(o)  # after the update, so that acting and learning see the same observations
        run.end_epoch()

    run.close()
    return ac


ALGORITHM = Algorithm(
    ppo,
    on_policy=True,
    actions=("Box", "Discrete", "MultiDiscrete"),
    spreads=("VVals",),
    means=("LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "Entropy", "KL", "ClipFrac", "StopIter"),
    probe={"pi_lr": 1e-2, "epochs": 40, "train_pi_iters": 5, "minibatch_size": None, "normalize_adv": True},
    presets={
        "spinningup": {
            "num_envs": 1,
            "steps_per_epoch": 4000,
            "epochs": 50,
            "lam": 0.97,
            "vf_lr": 1e-3,
            "train_pi_iters": 80,
            "train_v_iters": 80,
            "minibatch_size": None,
            "target_kl": 0.01,
            "max_grad_norm": None,
            "anneal_lr": False,
            "normalize_obs": False,
            "normalize_rew": False,
            "normalize_adv": True,
            "recompute_adv": False,
            "value_target": "rtg",
            "ac_kwargs": {"orthogonal": False},
        }
    },
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["ppo", *sys.argv[1:]])
