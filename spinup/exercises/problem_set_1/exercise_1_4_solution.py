"""Exercise 1.4: PPO's clipped objective."""

import torch
from torch import Tensor


def policy_loss(logp: Tensor, logp_old: Tensor, adv: Tensor, clip_ratio: float) -> Tensor:
    """Minus the clipped objective, a scalar, from log-probabilities and advantages of shape (B,)."""
    ratio = (logp - logp_old).exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    return -torch.min(ratio * adv, clipped * adv).mean()


def clip_fraction(logp: Tensor, logp_old: Tensor, clip_ratio: float) -> Tensor:
    """The share of the samples, 0 to 1, whose ratio lies outside of [1 - clip_ratio, 1 + clip_ratio], a scalar."""
    ratio = (logp - logp_old).exp()
    return ((ratio - 1).abs() > clip_ratio).float().mean()
