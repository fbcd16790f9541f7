"""Generalized advantage estimation: the value function also stands in for the far future, arXiv:1506.02438.

    python -m spinup.examples.pg_4_gae

Equation pg-gae of docs/introduction/policy-optimization.md. The stage before: pg_3_baseline.py. What follows from here:
spinup/algos/vpg.py, and then PPO's many steps on the same data.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical


def advantages(rew: Tensor, v: Tensor, gamma: float, lam: float) -> Tensor:
    """Discounted sums of temporal-difference errors. rew, result (T,); v (T + 1,), the last 0 in a terminal state."""
    delta = rew + gamma * v[1:] - v[:-1]
    adv = delta.clone()
    for t in reversed(range(len(rew) - 1)):
        adv[t] += gamma * lam * adv[t + 1]
    return adv


def values(value: nn.Module, obs: Tensor, terminated: bool) -> Tensor:
    """V of the T + 1 observations of an episode; that of a terminal state is 0. obs (T + 1, 4), result (T + 1,)."""
    v = value(obs).squeeze(-1).detach()
    v[-1] *= not terminated  # an episode that was only cut off would have gone on
    return v


def loss(policy: nn.Module, obs: Tensor, act: Tensor, adv: Tensor) -> Tensor:
    """Of one episode; minus its gradient estimates the policy gradient. obs (T + 1, 4), act (T,), adv (T,)."""
    logp = Categorical(logits=policy(obs[:-1])).log_prob(act)  # (T,)
    return -(logp * adv).sum()


def fit(value: nn.Module, optimizer: torch.optim.Optimizer, obs: Tensor, ret: Tensor, steps: int = 40) -> None:
    """Move value(obs) toward ret by least squares. obs (B, 4), ret (B,)."""
    for _ in range(steps):
        optimizer.zero_grad()
        (value(obs).squeeze(-1) - ret).square().mean().backward()
        optimizer.step()


@torch.no_grad()
def play(envs: list[gym.Env], policy: nn.Module) -> list[tuple[Tensor, Tensor, Tensor, bool]]:
    """One episode in each environment: observations (T + 1, 4), actions (T,), rewards (T,), whether it terminated."""
    episodes = [([], [], []) for _ in envs]
    ends = [False for _ in envs]
    going = {i: env.reset()[0] for i, env in enumerate(envs)}  # the last observation of each that has not ended
    while going:
        actions = Categorical(logits=policy(torch.tensor(np.stack([*going.values()])))).sample()
        for i, a in zip([*going], actions.tolist(), strict=True):
            o2, r, terminated, truncated, _ = envs[i].step(a)
            for column, x in zip(episodes[i], (going[i], a, r), strict=True):
                column.append(x)
            going[i] = o2
            if terminated or truncated:
                episodes[i][0].append(going.pop(i))
                ends[i] = terminated
    episodes = [(torch.tensor(np.stack(obs)), torch.tensor(act), torch.tensor(rew)) for obs, act, rew in episodes]
    return [(*episode, end) for episode, end in zip(episodes, ends, strict=True)]


def train(
    epochs: int = 60, episodes: int = 10, lr: float = 1e-2, gamma: float = 0.99, lam: float = 0.95, seed: int = 0
) -> list[float]:
    """Take one step after each epoch of episodes; returns the mean return of each."""
    torch.manual_seed(seed)
    envs = [gym.make("CartPole-v1") for _ in range(episodes)]
    for i, env in enumerate(envs):
        env.reset(seed=seed * episodes + i)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    value = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    value_optimizer = torch.optim.Adam(value.parameters(), lr)
    history = []
    for epoch in range(1, epochs + 1):
        batch = play(envs, policy)
        v = [values(value, obs, terminated) for obs, _, _, terminated in batch]
        adv = [advantages(rew, vi, gamma, lam) for (_, _, rew, _), vi in zip(batch, v, strict=True)]
        optimizer.zero_grad()
        losses = (loss(policy, obs, act, x) for (obs, act, _, _), x in zip(batch, adv, strict=True))
        (sum(losses) / episodes).backward()
        optimizer.step()
        obs = torch.cat([obs[:-1] for obs, _, _, _ in batch])
        fit(value, value_optimizer, obs, torch.cat([x + vi[:-1] for x, vi in zip(adv, v, strict=True)]))
        history.append(float(np.mean([rew.sum() for _, _, rew, _ in batch])))
        print(f"epoch {epoch:3d}  mean return {history[-1]:6.1f}", flush=True)
    return history


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()  # --help
    train()
