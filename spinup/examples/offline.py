"""Offline RL: TD3+BC (arXiv:2106.06860) learns Pendulum-v1 from recorded steps alone.

    python -m spinup.examples.offline
    python -m spinup.examples.offline --alpha inf
    python -m spinup.examples.offline --alpha 0 --data noisy

The program first trains a policy by spinup.sac and records it; from then on the environment only tests. alpha weighs
values against imitation: 0 is behavioral cloning, and inf is TD3 as it is.
Equations off-1 to off-5: docs/introduction/offline.md. Departures from the paper: observations are not normalized, the
policy takes a step at each update, target networks move faster, and networks and runs are smaller.
"""

import argparse
import contextlib
import copy
import math
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spinup.algos.sac import sac
from spinup.envs import make_envs
from spinup.nets import TwinActorCritic

ENV, GAMMA = "Pendulum-v1", 0.98


class Steps(NamedTuple):
    """T steps of each of N episodes; Pendulum's never terminate, so no flag says which did."""

    o: Tensor  # (T, N, 3)
    a: Tensor  # (T, N, 1)
    r: Tensor  # (T, N)
    o2: Tensor  # (T, N, 3)


# ---- the dataset


def play(act: Callable[[np.ndarray], np.ndarray], episodes: int, seed: int) -> Steps:
    """Episodes side by side, with actions act(o), (N, 1), at observations o, (N, 3)."""
    with contextlib.closing(make_envs(ENV, episodes, seed)) as envs:
        rows, o, done = [], envs.reset(), False
        while not done:  # all end at the same step
            a = act(o)
            o2, r, _, truncated = envs.step(a)
            rows.append((o, a, r, o2))
            o, done = o2, bool(truncated.all())
    return Steps(*(torch.as_tensor(np.array(column), dtype=torch.float32) for column in zip(*rows, strict=True)))


def train_behavior(seed: int, steps: int = 4000) -> nn.Module:
    """The policy to record: SAC; most seeds swing the pendulum up after 4000 steps."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        return sac(
            ENV,
            seed=seed,
            ac_kwargs=dict(hidden_sizes=(64, 64), layer_norm=False),
            steps_per_epoch=steps,
            epochs=1,
            start_steps=500,
            normalize_obs=False,
            batch_size=128,
            gamma=GAMMA,
            polyak=0.99,
            target_entropy=-1,
            policy_delay=1,
            eval_freq=0,
            num_test_episodes=1,
            logger_kwargs=dict(output_dir=folder),
        )


def record(ac: nn.Module, data: str, seed: int, episodes: int = 50) -> Steps:
    """expert: what the policy does, with little noise. noisy: each action is, with probability 1/2, a random one."""
    rng, shape = np.random.default_rng(seed), (episodes, 1)

    def act(o: np.ndarray) -> np.ndarray:
        a = (ac.act(o, deterministic=True) + 0.1 * rng.standard_normal(shape)).clip(-2, 2)
        random = rng.random(shape) < 0.5 * (data == "noisy")
        return np.where(random, rng.uniform(-2, 2, shape), a).astype(np.float32)

    return play(act, episodes, seed)


# ---- losses and targets; o and o2 are (B, 3), a and pi (B, 1), r, q and y (B,)


def target(targ: TwinActorCritic, r: Tensor, o2: Tensor) -> Tensor:
    """The smaller of two values of what the policy would do, with a little noise: maybe an action never recorded."""
    a2 = targ.actor(o2) + (0.4 * torch.randn(len(o2), 1)).clamp(-1, 1)
    return r + GAMMA * targ.critic(o2, a2.clamp(-2, 2)).amin(0)  # off-1


def clone_loss(pi: Tensor, a: Tensor) -> Tensor:
    """Behavioral cloning: the squared distance to the recorded actions, in half-ranges of the actions."""
    return ((pi - a) / 2).square().mean()  # off-2


def actor_loss(q: Tensor, pi: Tensor, a: Tensor, alpha: float) -> Tensor:
    """q: values of the policy's actions pi; a: the recorded actions."""
    if math.isinf(alpha):
        return -q.mean()  # TD3
    weight = alpha / q.abs().mean().detach()  # off-3
    return clone_loss(pi, a) - weight * q.mean()  # off-4


# ---- learning


class Learner:
    """Networks, optimizers and an update. Cloning needs no critics: it learns them only to show what they expect."""

    def __init__(self, alpha: float):
        self.alpha = alpha
        with contextlib.closing(make_envs(ENV, 1, seed=0)) as envs:
            self.ac = TwinActorCritic(envs.observation_space, envs.action_space, (64, 64), layer_norm=False)
        self.targ = copy.deepcopy(self.ac).requires_grad_(False)
        self.pi_optimizer, self.q_optimizer = (
            torch.optim.Adam(net.parameters(), 1e-3) for net in (self.ac.actor, self.ac.critic)
        )

    def update(self, batch: Steps) -> None:
        o, a, r, o2 = batch
        y = target(self.targ, r, o2)  # without a gradient
        descend(self.q_optimizer, (self.ac.critic(o, a) - y).square().mean(-1).sum())  # off-5
        pi = self.ac.actor(o)
        descend(self.pi_optimizer, actor_loss(self.ac.critic[0](o, pi), pi, a, self.alpha))
        for slow, fast in zip(self.targ.parameters(), self.ac.parameters(), strict=True):
            slow.lerp_(fast.data, 0.02)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def evaluate(ac: TwinActorCritic, episodes: int = 20, seed: int = 1_000_000) -> tuple[float, float, float]:
    """Mean return; mean discounted return; the discounted return that the critics expected at the first step."""
    steps = play(ac.act, episodes, seed)
    discounts = GAMMA ** torch.arange(len(steps.r))
    expected = ac.critic(steps.o[0], ac.actor(steps.o[0])).amin(0).mean()
    return steps.r.sum(0).mean().item(), (discounts @ steps.r).mean().item(), expected.item()


def learn(data: Steps, alpha: float, seed: int, updates: int = 3000, every: int = 500) -> list[tuple]:
    """Rows of updates, return, discounted return and what was expected of it; prints them."""
    torch.manual_seed(seed)
    learner, flat = Learner(alpha), [x.flatten(0, 1) for x in data]
    print("updates  return  discounted  expected")
    history = []
    for i in range(1, updates + 1):
        rows = torch.randint(len(flat[0]), (256,))
        learner.update(Steps(*(x[rows] for x in flat)))
        if i % every == 0:
            history.append((i, *evaluate(learner.ac)))
            print("{:7.0f} {:7.0f} {:11.0f} {:9.0f}".format(*history[-1]), flush=True)
    return history


def train(data: str = "expert", alpha: float = 0.25, seed: int = 0) -> list[tuple]:
    """Train the policy to record, record it, and learn from the record: the rows of `learn`."""
    print("spinup.sac trains the policy to record ...", flush=True)
    steps = record(train_behavior(seed), data, seed)
    print(f"The mean return of {steps.r.shape[1]} recorded episodes is {steps.r.sum(0).mean():.0f}")
    return learn(steps, alpha, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], argument_default=argparse.SUPPRESS)
    parser.add_argument("--data", choices=["expert", "noisy"])
    parser.add_argument("--alpha", type=float, help="weight of the values; 0: behavioral cloning, inf: TD3")
    parser.add_argument("--seed", type=int)
    args = vars(parser.parse_args())  # what is given: the defaults are those of train
    if not args.get("alpha", 0.0) >= 0:  # NaN is refused too
        parser.error(f"argument --alpha: must be at least 0, got {args['alpha']}")
    if not 0 <= args.get("seed", 0) < 2**31:
        parser.error(f"argument --seed: must be at least 0 and below 2**31, got {args['seed']}")
    train(**args)


if __name__ == "__main__":
    main()
