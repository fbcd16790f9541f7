"""Exercise 1.1: the log-likelihood of a diagonal Gaussian.

A policy for continuous actions gives, for each of B observations, a mean and the logarithm of a standard deviation for
each of A action dimensions. Write the log-probability density of the actions that were taken, one number for each
observation:

    log p(a) = - sum over the A dimensions of [ ((a - mu) / sigma)^2 / 2 + log sigma + log(2 pi) / 2 ]

with sigma = exp(log_std). Use torch's arithmetic, not torch.distributions, so that you see every term.
"""

from torch import Tensor


def gaussian_log_likelihood(a: Tensor, mu: Tensor, log_std: Tensor) -> Tensor:
    """log p(a), shape (B,), for actions and means (B, A) and log standard deviations (B, A) or (A,)."""
    raise NotImplementedError
