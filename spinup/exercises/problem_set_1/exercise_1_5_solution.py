"""Exercise 1.5: TD3's targets and losses."""

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def target(
    r: Tensor,
    terminated: Tensor,
    o2: Tensor,
    pi_targ: Callable,
    q1_targ: Callable,
    q2_targ: Callable,
    gamma: float,
    target_noise: float,
    noise_clip: float,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """y, shape (B,), without gradient; r and terminated are (B,) floats, o2 is (B, O), low and high are (A,)."""
    a2 = pi_targ(o2)
    noise = (target_noise * torch.randn_like(a2)).clamp(-noise_clip, noise_clip)
    a2 = torch.clamp(a2 + noise, low, high)
    q = torch.min(q1_targ(o2, a2), q2_targ(o2, a2))
    return r + gamma * (1 - terminated) * q


def q_loss(q1: Tensor, q2: Tensor, y: Tensor) -> Tensor:
    """The loss of both critics, a scalar, from their values (B,) and the targets (B,)."""
    return (q1 - y).square().mean() + (q2 - y).square().mean()


def pi_loss(o: Tensor, pi: Callable, q1: Callable) -> Tensor:
    """The loss of the policy, a scalar, on observations (B, O)."""
    return -q1(o, pi(o)).mean()
