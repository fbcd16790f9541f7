"""A baseline: an action is weighted by how much better things went than they do on average from its state.

    python -m spinup.examples.pg_3_baseline

Equation pg-baseline of docs/introduction/policy-optimization.md. The average is a second network, fitted to the rewards
that followed. The stage before: pg_2_reward_to_go.py; the next: pg_4_gae.py.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical


def reward_to_go(rew: Tensor) -> Tensor:
    """The rewards from each step on. rew, result (T,)."""
    return rew.flip(0).cumsum(0).flip(0)


def loss(policy: nn.Module, value: nn.Module, obs: Tensor, act: Tensor, rew: Tensor) -> Tensor:
    """Of one episode; minus its gradient estimates the policy gradient. obs (T, 4), act (T,), rew (T,)."""
    logp = Categorical(logits=policy(obs)).log_prob(act)  # (T,)
    weights = reward_to_go(rew) - value(obs).squeeze(-1).detach()
    return -(logp * weights).sum()


def fit(value: nn.Module, optimizer: torch.optim.Optimizer, obs: Tensor, ret: Tensor, steps: int = 40) -> None:
    """Move value(obs) toward ret by least squares. obs (B, 4), ret (B,)."""
    for _ in range(steps):
        optimizer.zero_grad()
        (value(obs).squeeze(-1) - ret).square().mean().backward()
        optimizer.step()


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
    value = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    value_optimizer = torch.optim.Adam(value.parameters(), lr)
    history = []
    for epoch in range(1, epochs + 1):
        batch = play(envs, policy)
        optimizer.zero_grad()
        (sum(loss(policy, value, *episode) for episode in batch) / episodes).backward()
        optimizer.step()
        obs, ret = (torch.cat(x) for x in zip(*((o, reward_to_go(r)) for o, _, r in batch), strict=True))
        fit(value, value_optimizer, obs, ret)  # after the policy's step: the baseline must not know these returns
        history.append(float(np.mean([rew.sum() for _, _, rew in batch])))
        print(f"epoch {epoch:3d}  mean return {history[-1]:6.1f}", flush=True)
    return history


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()  # --help
    train()
