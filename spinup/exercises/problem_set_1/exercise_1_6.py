"""Exercise 1.6: SAC's squashed Gaussian.

A Gaussian has no bounds and actions have. SAC draws u from a Gaussian and takes the action

    a = tanh(u),    u = mu + sigma * noise,    noise from N(0, I)

The tanh changes densities: it squeezes lengths around u by its slope, 1 - tanh(u)^2, so that

    log pi(a) = sum over the A dimensions of [ log N(u; mu, sigma) - log(1 - tanh(u)^2) ]

The noise is given, so that the checker can compare. Gradients must flow through both results into mu and log_std. And
the result must be right also where tanh(u) rounds to 1, as at u = 12: in float32, log(1 - tanh(u)^2) is -inf there.
"""

from torch import Tensor


def squashed_sample(mu: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions in (-1, 1), shape (B, A), and their log-probabilities, (B,); all inputs are (B, A)."""
    raise NotImplementedError
