"""Reward-to-go: an action is weighted only by the rewards that came after it, as it did not cause those before.

    python -m spinup.examples.pg_2_reward_to_go

Equation pg-reward-to-go of docs/introduction/policy-optimization.md. The stage before: pg_1_simplest.py, from which
only `weights` differs; the next: pg_3_baseline.py.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical


def weights(rew: Tensor) -> Tensor:
    """What multiplies the log-probability of each action: the rewards from its step on. rew, result (T,)."""
    return rew.flip(0).cumsum(0).flip(0)


def loss(policy: nn.Module, obs: Tensor, act: Tensor, rew: Tensor) -> Tensor:
    """Of one episode; minus its gradient estimates the policy gradient. obs (T, 4), act (T,), rew (T,)."""
    logp = Categorical(logits=policy(obs)).log_prob(act)  # (T,)
    return -(logp * weights(rew)).sum()


@torch.no_grad()
def play(envs: list[gym.Env], policy: nn.Module) -> list[tuple[Tensor, Tensor, Tensor]]:
    """One episode in each environment, side by side: its observations (T, 4), actions (T,) and rewards (T,)."""
    episodes = [([], [], []) for _ in envs]
    going = {i: env.reset()[0] for i, env in enumerate(envs)}  # the last observation of each that has not ended
    while going:
        actions = Categorical(logits=policy(torch.tensor(np.stack([*going.values()])))).sample()
        for i, a in zip([*going], actions.tolist(), strict=True):
            o2, r, terminated, truncated, _ = envs[i].step(a)
            for column, x in zip(episodes[i], (going[i], a, r), strict=True):
                column.append(x)
            going[i] = o2
            if terminated or truncated:
                del going[i]
    return [(torch.tensor(np.stack(obs)), torch.tensor(act), torch.tensor(rew)) for obs, act, rew in episodes]


def train(epochs: int = 60, episodes: int = 10, lr: float = 1e-2, seed: int = 0) -> list[float]:
    """Take one step after each epoch of episodes; returns the mean return of each."""
    torch.manual_seed(seed)
    envs = [gym.make("CartPole-v1") for _ in range(episodes)]
    for i, env in enumerate(envs):
        env.reset(seed=seed * episodes + i)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    history = []
    for epoch in range(1, epochs + 1):
        batch = play(envs, policy)
        optimizer.zero_grad()
        (sum(loss(policy, *episode) for episode in batch) / episodes).backward()
        optimizer.step()
        history.append(float(np.mean([rew.sum() for _, _, rew in batch])))
        print(f"epoch {epoch:3d}  mean return {history[-1]:6.1f}", flush=True)
    return history


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()  # --help
    train()
