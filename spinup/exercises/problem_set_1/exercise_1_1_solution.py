"""Exercise 1.1: the log-likelihood of a diagonal Gaussian."""

import math

from torch import Tensor


def gaussian_log_likelihood(a: Tensor, mu: Tensor, log_std: Tensor) -> Tensor:
    """log p(a), shape (B,), for actions and means (B, A) and log standard deviations (B, A) or (A,)."""
    z = (a - mu) / log_std.exp()
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
