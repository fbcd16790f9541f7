"""For speed.py: the arguments of SAC, TD3 and DDPG for each package, and the matrix products of their updates."""

import itertools
import time

BATCH = {"offpolicy-256": 256, "offpolicy-100": 100}
STEPS_PER_EPOCH = 1000  # the first ones, before the clock starts: 500 random ones, and 500 with an update after each
RANDOM_STEPS = 500
HIDDEN = (256, 256)
NOISE = 0.1  # of TD3's and DDPG's actions, in half-ranges


def peer_kwargs(algo, setting):
    """The arguments of SAC, TD3 and DDPG in stable_baselines3 and in sbx, without the exploration noise."""
    own = {
        "sac": {"ent_coef": "auto", "target_entropy": "auto"},
        "td3": {"policy_delay": 2, "target_policy_noise": 0.2, "target_noise_clip": 0.5},
        "ddpg": {},
    }
    return {
        "learning_rate": 1e-3,
        "buffer_size": 1_000_000,
        "learning_starts": RANDOM_STEPS,
        "batch_size": BATCH[setting],
        "tau": 0.005,
        "gamma": 0.99,
        "train_freq": 1,
        "gradient_steps": 1,
        "n_steps": 1,
        "policy_kwargs": {"net_arch": list(HIDDEN)},  # with ReLU, the default of all of them
        **own[algo],
    }


def spinup_kwargs(algo, setting):
    """The arguments of spinup.sac, td3 and ddpg that give them the same work as the peers with `peer_kwargs`."""
    deterministic = {"pi_lr": 1e-3, "q_lr": 1e-3, "act_noise": NOISE}
    own = {
        "sac": {"lr": 1e-3, "alpha": "auto", "target_entropy": -6.0, "policy_delay": 1},  # "auto" on HalfCheetah
        "td3": {**deterministic, "policy_delay": 2, "target_noise": 0.2, "noise_clip": 0.5},
        "ddpg": deterministic,
    }
    return {
        "steps_per_epoch": STEPS_PER_EPOCH,
        "replay_size": 1_000_000,
        "start_steps": RANDOM_STEPS,
        "update_after": RANDOM_STEPS + 1,  # the peers' first update comes after the policy's first step
        "batch_size": BATCH[setting],
        "polyak": 0.995,
        "gamma": 0.99,
        "update_every": 1,
        "replay_ratio": 1.0,
        "n_step": 1,
        "normalize_obs": False,
        "eval_freq": 0,
        "ac_kwargs": {"hidden_sizes": HIDDEN, "activation": "ReLU", "layer_norm": False},
        **own[algo],
    }


# ---- a lower bound on an update's time


def update_products(algo, observations, actions):
    """The matrix products of one update, or of two for TD3, whose policy has every second step; the number of updates.

    A product is (what, n, m), for a layer with n inputs and m outputs, and takes 2 B n m operations for a batch of B:
    "forward" is (B, n) times (n, m); "weights", the gradient of the weights, is (m, B) times (B, n); and "inputs", the
    gradient of the inputs, is (B, m) times (m, n). The last is missing if no layer below learns.

    Critic step: the policy (TD3 and DDPG: the target policy) forward at o2; the target critics forward at (o2, a2); the
    critics forward at (o, a), the gradients of their weights, and of the inputs of all their layers but the first.
    Policy step: the policy forward at o; the critics (TD3: the first) forward at (o, pi(o)), and the gradients of the
    inputs of all their layers; the gradients of the inputs of the policy's layers but the first, and of its weights.

    With two hidden layers, SAC has 45 products, TD3 64 in two updates, and DDPG 28.
    """
    policy = list(itertools.pairwise((observations, *HIDDEN, 2 * actions if algo == "sac" else actions)))
    critic = list(itertools.pairwise((observations + actions, *HIDDEN, 1)))
    critics = 1 if algo == "ddpg" else 2
    policy_critics = 2 if algo == "sac" else 1  # that the policy's loss goes through

    def products(what, layers):
        return [(what, n, m) for n, m in layers]

    critics_step = [
        *products("forward", policy + critics * critic + critics * critic),
        *products("weights", critics * critic),
        *products("inputs", critics * critic[1:]),
    ]
    policy_step = [
        *products("forward", policy + policy_critics * critic),
        *products("inputs", policy_critics * critic + policy[1:]),
        *products("weights", policy),
    ]
    updates = 2 if algo == "td3" else 1
    return updates * critics_step + policy_step, updates


def time_products(algo, batch, observations, actions, repeats=200):
    """Seconds that the products of one update take, in sequence, with nothing else in between.

    The matrices have the same memory layout as in autograd, exist from the start, and are shared by products of equal
    shape. So more of them fit into the cache than in an update, which makes this a lower bound.
    """
    import torch

    products, updates = update_products(algo, observations, actions)
    memory = {}

    def matrix(name, *shape):
        return memory.setdefault((name, *shape), torch.randn(shape))

    calls = []
    for what, n, m in products:
        x, w, g = matrix("x", batch, n), matrix("w", m, n), matrix("g", batch, m)
        a, b = {"forward": (x, w.t()), "weights": (g.t(), x), "inputs": (g, w)}[what]
        calls.append((a, b, matrix("out", a.shape[0], b.shape[1])))

    def run(times):
        start = time.perf_counter()
        for _ in range(times):
            for a, b, out in calls:
                torch.mm(a, b, out=out)
        return time.perf_counter() - start

    run(repeats // 10 + 1)
    return run(repeats) / repeats / updates
