"""VPG: vanilla policy gradient with a value baseline, doi:10.1007/BF00992696. Equations: docs/algorithms/vpg.md.

Departures from the textbook: advantages are GAE's and normalized, observations and rewards are scaled by running
statistics, learning rates decay linearly to 0, and initial weights are orthogonal. Each is an option; the preset
"spinningup" keeps only GAE and the normalized advantages.
"""

import torch
from torch import Tensor

from spinup import arguments as arg
from spinup.algorithm import Algorithm
from spinup.buffers import RolloutBuffer, gae, normalize
from spinup.compute.optim import FlatAdam
from spinup.nets import ActorCritic, RunningNorm, check_actor_critic, keep_bounds
from spinup.runs.run import Run


def policy_loss(logp: Tensor, adv: Tensor) -> Tensor:
    """Its gradient is minus the policy gradient."""
    # logp, adv: (T, N)
    return -(logp * adv).mean()  # vpg-1


def value_loss(v: Tensor, ret: Tensor) -> Tensor:
    """Mean squared error of the values against the returns."""
    # v, ret: (T, N)
    return (v - ret).square().mean()  # vpg-3


def vpg(
    env_fn: arg.EnvFn,
    actor_critic: arg.ActorCriticClass = ActorCritic,
    ac_kwargs: arg.AcKwargs = None,
    seed: arg.Seed = 0,
    *,
    num_envs: arg.NumEnvs = 8,
    steps_per_epoch: arg.StepsPerEpoch = 512,
    epochs: arg.Epochs = 2000,
    gamma: arg.Gamma = 0.99,
    lam: arg.Lam = 0.95,
    pi_lr: arg.PiLr = 3e-3,
    vf_lr: arg.VfLr = 1e-3,
    train_v_iters: arg.TrainVIters = 20,
    max_grad_norm: arg.MaxGradNorm = None,
    anneal_lr: arg.AnnealLr = True,
    normalize_obs: arg.NormalizeObs = True,
    normalize_rew: arg.NormalizeRew = True,
    normalize_adv: arg.NormalizeAdv = True,
    value_target: arg.ValueTarget = "gae",
    max_ep_len: arg.MaxEpLen = 1000,
    env_kwargs: arg.EnvKwargs = None,
    wrappers: arg.Wrappers = None,
    vectorization: arg.Vectorization = "sync",
    reseed: arg.Reseed = True,
    log_info: arg.LogInfo = None,
    device: arg.Device = "cpu",
    threads: arg.Threads = 1,
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
    """Train a policy by vanilla policy gradient, with one policy step per epoch, and return its actor-critic."""
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

        # ---- log: how the losses changed in this epoch
        with torch.no_grad():
            pi = ac.pi(o)
            loss_pi = policy_loss(pi.log_prob(a), adv)
            loss_v_old, loss_v = value_loss(v_old, ret), value_loss(ac.v(o), ret)
        run.log(VVals=v_old, LossPi=loss_pi_old, LossV=loss_v_old, Entropy=pi.entropy(), KL=pi_old.kl(pi))
        run.log(DeltaLossPi=loss_pi - loss_pi_old, DeltaLossV=loss_v - loss_v_old)
        keep_bounds(ac.actor)  # of log_std, which has no gradient outside them
        ac.obs_norm.update(o)  # after the update, so that acting and learning see the same observations
        run.end_epoch()

    run.close()
    return ac


ALGORITHM = Algorithm(
    vpg,
    on_policy=True,
    actions=("Box", "Discrete", "MultiDiscrete"),
    spreads=("VVals",),
    means=("LossPi", "LossV", "DeltaLossPi", "DeltaLossV", "Entropy", "KL"),
    probe={"pi_lr": 3e-2, "epochs": 80},
    presets={
        "spinningup": {
            "num_envs": 1,
            "steps_per_epoch": 4000,
            "epochs": 50,
            "lam": 0.97,
            "pi_lr": 3e-4,
            "train_v_iters": 80,
            "anneal_lr": False,
            "normalize_obs": False,
            "normalize_rew": False,
            "value_target": "rtg",
            "ac_kwargs": {"orthogonal": False},
        }
    },
)

if __name__ == "__main__":
    import sys

    from spinup.run import main

    main(["vpg", *sys.argv[1:]])
