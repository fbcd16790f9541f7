"""Exercise 1.2: a Gaussian policy as a torch module."""

import itertools
import math

import torch
from torch import Tensor, nn


class GaussianPolicy(nn.Module):
    """pi(.|s) for actions with act_dim dimensions."""

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: tuple[int, ...] = (64, 64)):
        super().__init__()
        layers = []
        for n_in, n_out in itertools.pairwise([obs_dim, *hidden_sizes, act_dim]):
            layers += [nn.Linear(n_in, n_out), nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])  # no tanh after the last layer
        self.log_std = nn.Parameter(torch.full((act_dim,), -0.5))

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, (B, act_dim), and log standard deviation, (act_dim,), for observations (B, obs_dim)."""
        return self.net(o), self.log_std

    @torch.no_grad()
    def sample(self, o: Tensor) -> Tensor:
        """A random action for each observation, (B, act_dim), without gradient."""
        mu, log_std = self(o)
        return mu + log_std.exp() * torch.randn_like(mu)

    def log_prob(self, o: Tensor, a: Tensor) -> Tensor:
        """log pi(a|o), shape (B,), with gradient for all parameters."""
        mu, log_std = self(o)
        z = (a - mu) / log_std.exp()
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
