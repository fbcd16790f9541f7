"""Exercise 2.3: a silent bug in soft actor-critic.

The program runs, the critic's loss falls, and the policy's loss has a gradient. But the policy learns nothing:
`python exercise_2_3.py` tries it on the probes of spinup.probes. Find the bug and fix it. Keep the names and arguments
of functions and classes.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from spinup.probes import check, table

ALPHA = 0.02


class Policy(nn.Module):
    """A squashed Gaussian over a box of actions."""

    def __init__(self, obs_dim: int, low: Tensor, high: Tensor):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs_dim, 32), nn.ReLU(), nn.Linear(32, 2 * len(low)))
        self.middle, self.half_range = (high + low) / 2, (high - low) / 2

    def forward(self, o: Tensor) -> Normal:
        """The Gaussian before the tanh."""
        mu, log_std = self.net(o).chunk(2, dim=-1)
        return Normal(mu, log_std.clamp(-5, 2).exp())

    def sample(self, o: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, A) and their log-probabilities (B,) for observations (B, O)."""
        gaussian = self(o)
        u = gaussian.sample()
        log_slope = 2 * (np.log(2) - u - nn.functional.softplus(-2 * u))  # log(1 - tanh(u)^2)
        logp = (gaussian.log_prob(u) - log_slope).sum(dim=-1)
        return self.middle + self.half_range * u.tanh(), logp

    def mode(self, o: Tensor) -> Tensor:
        """The action of the Gaussian's mean, (B, A)."""
        return self.middle + self.half_range * self(o).mean.tanh()


class Critic(nn.Module):
    """The smaller of two values, (B,), of observations (B, O) and actions (B, A); `both` gives the two, (2, B)."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(obs_dim + act_dim, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(2)
        )

    def both(self, o: Tensor, a: Tensor) -> Tensor:
        x = torch.cat([o, a], dim=-1)
        return torch.stack([net(x).squeeze(-1) for net in self.nets])

    def forward(self, o: Tensor, a: Tensor) -> Tensor:
        return self.both(o, a).min(dim=0).values


def q_loss(q: Critic, q_targ: Critic, pi: Policy, batch: list[Tensor], gamma: float) -> Tensor:
    """Mean squared error of both critics against their common target, a scalar."""
    o, a, r, o2, terminated = batch
    with torch.no_grad():
        a2, logp2 = pi.sample(o2)
        y = r + gamma * (1 - terminated) * (q_targ(o2, a2) - ALPHA * logp2)
    return (q.both(o, a) - y).square().mean()


def pi_loss(q: Critic, pi: Policy, o: Tensor) -> Tensor:
    """Minus the soft value of the policy's actions, a scalar."""
    a, logp = pi.sample(o)
    return (ALPHA * logp - q(o, a)).mean()


def train(env_fn, gamma: float = 0.99, steps: int = 500, seed: int = 0):
    """Train, and return the functions value(o) and act(o) for one observation."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    env = env_fn()
    low, high = (torch.as_tensor(x) for x in (env.action_space.low, env.action_space.high))
    pi, q = Policy(env.observation_space.shape[0], low, high), Critic(env.observation_space.shape[0], len(low))
    q_targ = copy.deepcopy(q)
    pi_optimizer, q_optimizer = (
        torch.optim.Adam(pi.parameters(), 5e-3, fused=True),
        torch.optim.Adam(q.parameters(), 1e-2, fused=True),
    )
    buffer = []

    env.action_space.seed(seed)
    o, _ = env.reset(seed=seed)
    for t in range(steps):
        a = env.action_space.sample()
        if t >= 150:
            with torch.no_grad():
                a = pi.sample(torch.as_tensor(o)[None])[0][0].numpy()
        o2, r, terminated, truncated, _ = env.step(a)
        buffer.append((o, a, r, o2, terminated))
        o = env.reset()[0] if terminated or truncated else o2
        if t >= 50:
            columns = zip(*(buffer[i] for i in random.integers(len(buffer), size=32)), strict=True)
            batch = [torch.as_tensor(np.array(column, np.float32)) for column in columns]
            q_optimizer.zero_grad()
            q_loss(q, q_targ, pi, batch, gamma).backward()
            q_optimizer.step()
            pi_optimizer.zero_grad()
            pi_loss(q, pi, batch[0]).backward()
            pi_optimizer.step()
            with torch.no_grad():
                for p, p_targ in zip(q.parameters(), q_targ.parameters(), strict=True):
                    p_targ.lerp_(p, 0.1)

    @torch.no_grad()
    def act(o):
        return pi.mode(torch.as_tensor(o)[None])[0].numpy()

    @torch.no_grad()
    def value(o):
        return q(torch.as_tensor(o)[None], torch.as_tensor(act(o))[None]).numpy()

    return value, act


if __name__ == "__main__":
    print(table(check(train, discrete=False, box=True, only=["reward by observation", "action by observation"])))
