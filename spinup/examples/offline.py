"""Offline RL: implicit Q-learning (IQL, arXiv:2110.06169) learns Pendulum-v1 from recorded steps alone.

    python -m spinup.examples.offline
    python -m spinup.examples.offline --method td3
    python -m spinup.examples.offline --method cloning --data mixed
    python -m spinup.examples.offline --method td3_bc --data mixed

The program first trains a policy by spinup.sac and records it; from then on the environment only tests. Beside IQL
there are TD3 as it is, behavioral cloning, and the sum of the two, TD3+BC (arXiv:2106.06860).
Equations off-1 to off-9: docs/introduction/offline.md. Departures from the papers: IQL's policy is deterministic,
TD3+BC doesn't normalize observations, all policies take a step at each update, and networks, runs and some constants
(alpha, tau, beta, the target networks' speed) are others.
"""

import argparse
import contextlib
import copy
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import spinup.algos.sac
from spinup.envs import make_envs
from spinup.nets import TwinActorCritic, mlp

ENV, GAMMA = "Pendulum-v1", 0.98
METHODS = ("cloning", "td3", "td3_bc", "iql")


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
            o, done = o2, truncated.all()
    return Steps(*(torch.as_tensor(np.array(column), dtype=torch.float32) for column in zip(*rows, strict=True)))


def train_behavior(seed: int, steps: int = 4000) -> nn.Module:
    """The policy to record: SAC, which swings the pendulum up after about 3000 steps."""
    options = dict(steps_per_epoch=steps, epochs=1, start_steps=500, update_after=500, batch_size=128, gamma=GAMMA)
    options |= dict(polyak=0.99, eval_freq=0, num_test_episodes=1, ac_kwargs=dict(hidden_sizes=(64, 64)))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        return spinup.algos.sac.sac(ENV, seed=seed, logger_kwargs=dict(output_dir=folder), **options)


def record(ac: nn.Module, data: str, seed: int, episodes: int = 50) -> Steps:
    """expert: what the policy does, with little noise. mixed: every other episode has random actions instead."""
    rng = np.random.default_rng(seed)
    random = np.arange(episodes) % 2 == 1 if data == "mixed" else np.zeros(episodes, bool)

    def act(o: np.ndarray) -> np.ndarray:
        a = (ac.act(o, deterministic=True) + 0.1 * rng.standard_normal((episodes, 1))).clip(-2, 2)
        return np.where(random[:, None], rng.uniform(-2, 2, (episodes, 1)), a).astype(np.float32)

    return play(act, episodes, seed)


# ---- losses and targets; o and o2 are (B, 3), a and pi (B, 1), all others (B,)


def td3_target(targ: TwinActorCritic, r: Tensor, o2: Tensor) -> Tensor:
    """The smaller of two values of what the policy would do, with a little noise: maybe an action never recorded."""
    a2 = targ.actor(o2) + (0.4 * torch.randn(len(o2), 1)).clamp(-1, 1)
    return r + GAMMA * targ.critic(o2, a2.clamp(-2, 2)).amin(0)  # off-1


def clone_loss(pi: Tensor, a: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """The squared distance to the recorded actions, in half-ranges of the actions."""
    return (weight * ((pi - a) / 2).square().squeeze(-1)).mean()  # off-2, off-8


def td3_bc_loss(q: Tensor, pi: Tensor, a: Tensor, alpha: float = 0.25) -> Tensor:
    """q: values of the policy's actions pi; a: the recorded actions."""
    weight = alpha / q.abs().mean().detach()  # off-3
    return clone_loss(pi, a) - weight * q.mean()  # off-4


def expectile_loss(u: Tensor, tau: float = 0.8) -> Tensor:
    """Squared errors, of which the positive ones weigh tau and the others 1 - tau."""
    return (torch.where(u > 0, tau, 1 - tau) * u.square()).mean()  # off-5


def iql_target(r: Tensor, v2: Tensor) -> Tensor:
    """From the value of the next state: it asks about no action."""
    return r + GAMMA * v2  # off-6


def advantage_weight(q: Tensor, v: Tensor, beta: float = 1.0) -> Tensor:
    """How much to imitate recorded actions: the more, the better they are than the state's value."""
    return (beta * (q - v)).exp().clamp(max=100)  # off-7


# ---- learning


class Learner:
    """Networks, optimizers and the update of all four methods. Cloning needs no values; it learns them to log them."""

    def __init__(self, method: str):
        self.method = method
        with contextlib.closing(make_envs(ENV, 1, seed=0)) as envs:
            self.ac = TwinActorCritic(envs.observation_space, envs.action_space, (64, 64), layer_norm=False)
        self.value, self.targ = mlp([3, 64, 64, 1], nn.ReLU), copy.deepcopy(self.ac).requires_grad_(False)
        self.pi_optimizer, self.q_optimizer, self.v_optimizer = (
            torch.optim.Adam(net.parameters(), 1e-3) for net in (self.ac.actor, self.ac.critic, self.value)
        )

    def v(self, o: Tensor) -> Tensor:
        return self.value(o).squeeze(-1)

    def update(self, batch: Steps) -> None:
        o, a, r, o2 = batch
        if self.method == "iql":
            q = self.targ.critic(o, a).amin(0)
            weight = advantage_weight(q, self.v(o).detach())
            descend(self.v_optimizer, expectile_loss(q - self.v(o)))
        with torch.no_grad():
            y = iql_target(r, self.v(o2)) if self.method == "iql" else td3_target(self.targ, r, o2)
        descend(self.q_optimizer, (self.ac.critic(o, a) - y).square().mean(-1).sum())  # off-9
        pi = self.ac.actor(o)
        if self.method == "iql":
            descend(self.pi_optimizer, clone_loss(pi, a, weight))
        elif self.method == "cloning":
            descend(self.pi_optimizer, clone_loss(pi, a))
        else:
            q = self.ac.critic[0](o, pi)
            descend(self.pi_optimizer, td3_bc_loss(q, pi, a) if self.method == "td3_bc" else -q.mean())
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


def learn(data: Steps, method: str, seed: int, updates: int = 3000, every: int = 500) -> list[tuple]:
    """Rows of updates, return, discounted return and what was expected of it; prints them."""
    torch.manual_seed(seed)
    learner, flat = Learner(method), [x.flatten(0, 1) for x in data]
    print("updates  return  discounted  expected")
    history = []
    for i in range(1, updates + 1):
        rows = torch.randint(len(flat[0]), (256,))
        learner.update(Steps(*(x[rows] for x in flat)))
        if i % every == 0:
            history.append((i, *evaluate(learner.ac)))
            print("{:7.0f} {:7.0f} {:11.0f} {:9.0f}".format(*history[-1]), flush=True)
    return history


def train(method: str = "iql", data: str = "expert", seed: int = 0) -> list[tuple]:
    """Train the policy to record, record it, and learn from the record: the rows of `learn`."""
    print("spinup.sac trains the policy to record ...", flush=True)
    steps = record(train_behavior(seed), data, seed)
    print(f"The mean return of {steps.r.shape[1]} recorded episodes is {steps.r.sum(0).mean():.0f}")
    return learn(steps, method, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], argument_default=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--data", choices=["expert", "mixed"])
    parser.add_argument("--seed", type=int)
    args = vars(parser.parse_args())  # what is given: the defaults are those of train
    if not 0 <= args.get("seed", 0) < 2**31:
        parser.error(f"argument --seed: must be at least 0 and below 2**31, got {args['seed']}")
    train(**args)


if __name__ == "__main__":
    main()
