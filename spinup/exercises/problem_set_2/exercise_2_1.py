"""Exercise 2.1: a silent bug in DDPG.

The program runs, its loss falls, and no error is raised. But its values are wrong: `python exercise_2_1.py` tries it on
two of the probes of spinup.probes. Find the bug and fix it. Keep the names and arguments of functions and classes.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from spinup.probes import check, table


class Actor(nn.Module):
    """Actions within bounds for observations (B, O)."""

    def __init__(self, obs_dim: int, low: Tensor, high: Tensor):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs_dim, 32), nn.ReLU(), nn.Linear(32, len(low)), nn.Tanh())
        self.middle, self.half_range = (high + low) / 2, (high - low) / 2

    def forward(self, o: Tensor) -> Tensor:
        return self.middle + self.half_range * self.net(o)


class Critic(nn.Module):
    """Q(o, a) for observations (B, O) and actions (B, A)."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs_dim + act_dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, o: Tensor, a: Tensor) -> Tensor:
        return self.net(torch.cat([o, a], dim=-1))


class Buffer:
    """The transitions so far."""

    def __init__(self):
        self.rows = []

    def store(self, o, a, r, o2, terminated) -> None:
        self.rows.append((o, a, r, o2, terminated))

    def sample(self, batch_size: int) -> list[Tensor]:
        """Random transitions: o (B, O), a (B, A), r (B,), o2 (B, O), terminated (B,)."""
        chosen = np.random.randint(len(self.rows), size=batch_size)
        columns = zip(*(self.rows[i] for i in chosen), strict=True)
        return [torch.as_tensor(np.array(column, np.float32)) for column in columns]


def q_loss(q: Critic, q_targ: Critic, pi_targ: Actor, batch: list[Tensor], gamma: float) -> Tensor:
    """Mean squared error of the critic against its targets, a scalar."""
    o, a, r, o2, terminated = batch
    with torch.no_grad():
        y = (1 - terminated) * gamma * q_targ(o2, pi_targ(o2)).squeeze(-1) + r
    return (q(o, a) - y).square().mean()


def pi_loss(q: Critic, pi: Actor, o: Tensor) -> Tensor:
    """Minus the mean value of the policy's actions, a scalar."""
    return -q(o, pi(o)).mean()


def train(env_fn, gamma: float = 0.99, steps: int = 500, seed: int = 0):
    """Train, and return the functions value(o) and act(o) for one observation."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    env = env_fn()
    low, high = (torch.as_tensor(x) for x in (env.action_space.low, env.action_space.high))
    pi, q = Actor(env.observation_space.shape[0], low, high), Critic(env.observation_space.shape[0], len(low))
    pi_targ, q_targ = copy.deepcopy(pi), copy.deepcopy(q)
    pi_optimizer, q_optimizer = (
        torch.optim.Adam(pi.parameters(), 3e-3, fused=True),
        torch.optim.Adam(q.parameters(), 1e-2, fused=True),
    )
    buffer = Buffer()

    env.action_space.seed(seed)
    o, _ = env.reset(seed=seed)
    for t in range(steps):
        a = env.action_space.sample()
        if t >= 150:
            noise = np.random.normal(0, 0.2, a.shape) * (high - low).numpy()
            a = np.clip(pi(torch.as_tensor(o)).detach().numpy() + noise, low.numpy(), high.numpy())
        o2, r, terminated, truncated, _ = env.step(a)
        buffer.store(o, a, r, o2, terminated)
        o = env.reset()[0] if terminated or truncated else o2
        if t >= 50:
            batch = buffer.sample(32)
            q_optimizer.zero_grad()
            q_loss(q, q_targ, pi_targ, batch, gamma).backward()
            q_optimizer.step()
            pi_optimizer.zero_grad()
            pi_loss(q, pi, batch[0]).backward()
            pi_optimizer.step()
            with torch.no_grad():
                for net, target in ((q, q_targ), (pi, pi_targ)):
                    for p, p_targ in zip(net.parameters(), target.parameters(), strict=True):
                        p_targ.lerp_(p, 0.1)

    def act(o):
        return pi(torch.as_tensor(o)[None]).detach()[0].numpy()

    def value(o):
        return q(torch.as_tensor(o)[None], torch.as_tensor(act(o))[None]).detach().numpy()

    return value, act


if __name__ == "__main__":
    print(table(check(train, discrete=False, box=True, only=["reward by observation", "action by observation"])))
