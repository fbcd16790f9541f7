"""Exercise 1.6: SAC's squashed Gaussian."""

import math

from torch import Tensor
from torch.nn.functional import softplus


def squashed_sample(mu: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions in (-1, 1), shape (B, A), and their log-probabilities, (B,); all inputs are (B, A)."""
    u = mu + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - u - softplus(-2 * u))  # log(1 - tanh(u)^2)
    return u.tanh(), (log_normal - log_slope).sum(-1)
