"""Policies for a batch of states: what the equations call pi(.|s)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
# Points and weights for the mean of a function of a standard normal variable (Gauss-Hermite quadrature).
NORMAL_POINTS, NORMAL_WEIGHTS = (x.tolist() for x in np.polynomial.hermite_e.hermegauss(32))


class Gaussian(NamedTuple):
    """A diagonal Gaussian over actions in the environment's units."""

    mu: Tensor  # (..., A)
    log_std: Tensor  # (..., A) or (A,)

    def log_prob(self, a: Tensor) -> Tensor:
        """log pi(a|s), shape (...), for actions (..., A)."""
        z = (a - self.mu) * (-self.log_std).exp()
        return -0.5 * z.square().sum(-1) - (self.log_std + LOG_SQRT_2PI).sum(-1)

    @torch.no_grad()
    def sample(self) -> Tensor:
        return self.mu + self.log_std.exp() * torch.randn_like(self.mu)

    def mode(self) -> Tensor:
        return self.mu

    def entropy(self) -> Tensor:
        return (self.log_std + (LOG_SQRT_2PI + 0.5)).sum(-1).expand(self.mu.shape[:-1])

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self || other) per state, shape (...)."""
        variance_ratio = (2 * (self.log_std - other.log_std)).exp()
        shift = ((self.mu - other.mu) * (-other.log_std).exp()).square()
        return (other.log_std - self.log_std + 0.5 * (variance_ratio + shift - 1)).sum(-1)

    def detach(self) -> "Gaussian":
        """A constant copy: later steps of the network leave it as it is."""
        return Gaussian(self.mu.detach().clone(), self.log_std.detach().clone())


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which stays finite where tanh(u) rounds to 1."""
    return 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))


class SquashedGaussian(NamedTuple):
    """The tanh of a diagonal Gaussian, stretched to the bounds of each action.

    Densities are of actions in half-ranges from the middle, in (-1, 1), and so do not depend on the bounds' units.
    """

    mu: Tensor  # (..., A), before the tanh
    log_std: Tensor  # (..., A) or (A,)
    middle: Tensor  # (A,)
    half_range: Tensor  # (A,)

    def log_prob(self, a: Tensor) -> Tensor:
        """log pi(a|s), shape (...), for actions (..., A).

        From the distances to both bounds, which keep the digits that tanh(u) near 1 loses. Actions on a bound, where
        the density is infinite or 0, count as the last ones before it that the number's precision tells from it.
        """
        nearest = torch.finfo(a.dtype).eps / 2
        log_above_low = ((a - (self.middle - self.half_range)) / self.half_range).clamp(min=nearest).log()
        log_below_high = ((self.middle + self.half_range - a) / self.half_range).clamp(min=nearest).log()
        u = 0.5 * (log_above_low - log_below_high)  # x = tanh(u): 2u = log(1 + x) - log(1 - x)
        log_slope = log_above_low + log_below_high  # 1 - x^2 = (1 + x)(1 - x)
        z = (u - self.mu) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - LOG_SQRT_2PI - log_slope).sum(-1)

    def rsample(self) -> tuple[Tensor, Tensor]:
        """Actions (..., A) and their log-probabilities (...); gradients flow through both."""
        noise = torch.randn_like(self.mu)
        u = self.mu + self.log_std.exp() * noise  # sac-3
        logp = (-0.5 * noise.square() - self.log_std - log_tanh_slope(u) - LOG_SQRT_2PI).sum(-1)  # sac-4
        return torch.addcmul(self.middle, self.half_range, u.tanh()), logp  # sac-3: a

    @torch.no_grad()
    def sample(self) -> Tensor:
        u = self.mu + self.log_std.exp() * torch.randn_like(self.mu)
        return torch.addcmul(self.middle, self.half_range, u.tanh())

    def mode(self) -> Tensor:
        """The action of the Gaussian's mean: the median, and not quite the density's highest point."""
        return torch.addcmul(self.middle, self.half_range, self.mu.tanh())

    def entropy(self) -> Tensor:
        """-E[log pi(a|s)] per state, shape (...): the Gaussian's, and the mean of the tanh's log-slope by quadrature.

        Right to 1e-6 for each action with a standard deviation up to 1, and to 0.1 up to e^2.
        """
        points, weights = self.mu.new_tensor(NORMAL_POINTS), self.mu.new_tensor(NORMAL_WEIGHTS)
        u = self.mu.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * points
        mean_log_slope = (log_tanh_slope(u) * weights).sum(-1) / math.sqrt(2 * math.pi)
        return (self.log_std + (LOG_SQRT_2PI + 0.5) + mean_log_slope).sum(-1)

    def kl(self, other: "SquashedGaussian") -> Tensor:
        """KL(self || other) per state, shape (...): that of the Gaussians, as both go through the same tanh."""
        return Gaussian(self.mu, self.log_std).kl(Gaussian(other.mu, other.log_std))

    def detach(self) -> "SquashedGaussian":
        return self._replace(mu=self.mu.detach().clone(), log_std=self.log_std.detach().clone())


class Categorical(NamedTuple):
    """A choice among K actions."""

    logp: Tensor  # (..., K), log-probabilities

    def log_prob(self, a: Tensor) -> Tensor:
        """log pi(a|s), shape (...), for integer actions (...)."""
        return self.logp.gather(-1, a.unsqueeze(-1)).squeeze(-1)

    def sample(self) -> Tensor:
        # The first of K exponential clocks with rates p rings for k with probability p_k.
        return (self.logp.exp() / torch.empty_like(self.logp).exponential_()).argmax(-1)

    def mode(self) -> Tensor:
        return self.logp.argmax(-1)

    def expectation(self, x: Tensor) -> Tensor:
        """E[x] over the actions, shape (...), for x (..., K); what x is for actions of probability 0 has no part."""
        p = self.logp.exp()
        return (p * x.masked_fill(p == 0, 0.0)).sum(-1)

    def entropy(self) -> Tensor:
        return -self.expectation(self.logp)

    def kl(self, other: "Categorical") -> Tensor:
        """KL(self || other) per state, shape (...); infinite where other never takes an action that self does."""
        return self.expectation(self.logp - other.logp)

    def detach(self) -> "Categorical":
        return Categorical(self.logp.detach().clone())


class MultiCategorical(NamedTuple):
    """Several independent choices at once; actions have shape (..., number of choices)."""

    choices: tuple[Categorical, ...]

    def log_prob(self, a: Tensor) -> Tensor:
        return sum(c.log_prob(x) for c, x in zip(self.choices, a.unbind(-1), strict=True))

    def sample(self) -> Tensor:
        return torch.stack([c.sample() for c in self.choices], -1)

    def mode(self) -> Tensor:
        return torch.stack([c.mode() for c in self.choices], -1)

    def entropy(self) -> Tensor:
        return sum(c.entropy() for c in self.choices)

    def kl(self, other: "MultiCategorical") -> Tensor:
        return sum(c.kl(d) for c, d in zip(self.choices, other.choices, strict=True))

    def detach(self) -> "MultiCategorical":
        return MultiCategorical(tuple(c.detach() for c in self.choices))
