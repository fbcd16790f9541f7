"""Exercise 2.4: PPO, fixed. `python exercise_2_4_solution.py` trains on CartPole-v1."""

import copy

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn


def make_policy(obs_dim: int, num_actions: int) -> nn.Module:
    """Observations (B, O) -> unnormalized log-probabilities (B, K)."""
    return nn.Sequential(nn.Linear(obs_dim, 32), nn.Tanh(), nn.Linear(32, num_actions))


def log_prob(pi: nn.Module, o: Tensor, a: Tensor) -> Tensor:
    """log pi(a|o), (B,), of integer actions (B,)."""
    return pi(o).log_softmax(dim=-1).gather(-1, a[:, None]).squeeze(-1)


def policy_loss(logp: Tensor, logp_old: Tensor, adv: Tensor, clip_ratio: float) -> Tensor:
    """Minus PPO's clipped objective, a scalar."""
    ratio = (logp - logp_old).exp()
    return -torch.min(ratio * adv, ratio.clamp(1 - clip_ratio, 1 + clip_ratio) * adv).mean()


def collect(env: gym.Env, pi: nn.Module, steps: int, gamma: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Whole episodes of at least this many steps together: o (B, O), a (B,), advantages (B,), and the mean return."""
    observations, actions, returns, totals = [], [], [], []
    while len(actions) < steps:
        o, rewards, done = env.reset()[0], [], False
        while not done:
            with torch.no_grad():
                a = torch.distributions.Categorical(logits=pi(torch.as_tensor(o))).sample().item()
            observations.append(o)
            actions.append(a)
            o, r, terminated, truncated, _ = env.step(a)
            rewards.append(float(r))
            done = terminated or truncated
        later, togo = 0.0, []
        for r in reversed(rewards):
            later = r + gamma * later
            togo.append(later)
        returns += reversed(togo)
        totals.append(sum(rewards))
    ret = torch.tensor(returns)
    adv = (ret - ret.mean()) / (ret.std() + 1e-8)
    return torch.as_tensor(np.array(observations)), torch.tensor(actions), adv, float(np.mean(totals))


def train(env_fn, gamma: float = 0.99, epochs: int = 30, steps: int = 500, passes: int = 20, seed: int = 0, tell=None):
    """Train, and return None (it has no value function) and act(o) for one observation."""
    torch.manual_seed(seed)
    env = env_fn()
    env.reset(seed=seed)
    pi = make_policy(env.observation_space.shape[0], int(env.action_space.n))
    pi_old = copy.deepcopy(pi)
    optimizer = torch.optim.Adam(pi.parameters(), 1e-2, fused=True)

    for epoch in range(epochs):
        o, a, adv, ep_ret = collect(env, pi, steps, gamma)
        pi_old.load_state_dict(pi.state_dict())  # the policy that collected these data
        with torch.no_grad():
            logp_old = log_prob(pi_old, o, a)
            clipped = ((log_prob(pi, o, a) - logp_old).exp() - 1).abs() > 0.2
        for _ in range(passes):
            optimizer.zero_grad()
            policy_loss(log_prob(pi, o, a), logp_old, adv, clip_ratio=0.2).backward()
            optimizer.step()
        if tell:
            tell(f"epoch {epoch + 1:3}  return {ep_ret:6.1f}  clipped in the first pass {clipped.float().mean():.2f}")

    def act(o):
        return torch.distributions.Categorical(logits=pi(torch.as_tensor(o))).sample().item()

    return None, act


if __name__ == "__main__":
    train(lambda: gym.make("CartPole-v1"), tell=print)
