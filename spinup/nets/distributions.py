"""Action distributions for a batch of states: what the equations call pi(.|s)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
# Gauss-Hermite quadrature, for the mean of a function of a standard normal variable.
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
        """Actions, (..., A)."""
        return self.mu + self.log_std.exp() * torch.randn_like(self.mu)

    def mode(self) -> Tensor:
        """Actions, (..., A)."""
        return self.mu

    def entropy(self) -> Tensor:
        """Entropy per state, shape (...)."""
        return (self.log_std + (LOG_SQRT_2PI + 0.5)).sum(-1).expand(self.mu.shape[:-1])

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self || other) per state, shape (...)."""
        variance_ratio = (2 * (self.log_std - other.log_std)).exp()
        shift = ((self.mu - other.mu) * (-other.log_std).exp()).square()
        return (other.log_std - self.log_std + 0.5 * (variance_ratio + shift - 1)).sum(-1)

    def detach(self) -> "Gaussian":
        """A constant copy, which later optimizer steps don't change."""
        return Gaussian(self.mu.detach().clone(), self.log_std.detach().clone())


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which stays finite when tanh(u) rounds to 1; u: (...)."""
    return 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))


class SquashedGaussian(NamedTuple):
    """The tanh of a diagonal Gaussian, scaled to the bounds of each action.

    Densities are those of actions scaled to (-1, 1), and so don't depend on the bounds' units.
    """

    mu: Tensor  # (..., A), before the tanh
    log_std: Tensor  # (..., A) or (A,)
    middle: Tensor  # (A,)
    half_range: Tensor  # (A,)

    def log_prob(self, a: Tensor) -> Tensor:
        """log pi(a|s), shape (...), for actions (..., A).

        Computed from the distances to both bounds, to keep the digits that tanh(u) loses near 1. On a bound, where the
        density is infinite or 0, the distance is set to half the machine epsilon.
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
        """Actions, (..., A)."""
        u = self.mu + self.log_std.exp() * torch.randn_like(self.mu)
        return torch.addcmul(self.middle, self.half_range, u.tanh())

    def mode(self) -> Tensor:
        """The squashed mean of the Gaussian, (..., A): the median, close to but not exactly the density's maximum."""
        return torch.addcmul(self.middle, self.half_range, self.mu.tanh())

    def entropy(self) -> Tensor:
        """-E[log pi(a|s)] per state, shape (...): the Gaussian's entropy plus the mean log-slope of tanh by quadrature.

        Per action, its error is at most 1e-6 for a standard deviation up to 1, and 0.1 up to e^2.
        """
        points, weights = self.mu.new_tensor(NORMAL_POINTS), self.mu.new_tensor(NORMAL_WEIGHTS)
        u = self.mu.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * points
        mean_log_slope = (log_tanh_slope(u) * weights).sum(-1) / math.sqrt(2 * math.pi)
        return (self.log_std + (LOG_SQRT_2PI + 0.5) + mean_log_slope).sum(-1)

    def kl(self, other: "SquashedGaussian") -> Tensor:
        """KL(self || other) per state, shape (...): that of the Gaussians, since both pass through the same tanh."""
        return Gaussian(self.mu, self.log_std).kl(Gaussian(other.mu, other.log_std))

    def detach(self) -> "SquashedGaussian":
        return self._replace(mu=self.mu.detach().clone(), log_std=self.log_std.detach().clone())


class Categorical(NamedTuple):
    """A distribution over K actions."""

    logp: Tensor  # (..., K), log-probabilities

    def log_prob(self, a: Tensor) -> Tensor:
        """log pi(a|s), shape (...), for integer actions (...)."""
        return self.logp.gather(-1, a.unsqueeze(-1)).squeeze(-1)

    def sample(self) -> Tensor:
        """Integer actions, (...)."""
        # Of K exponential clocks with rates p, clock k rings first with probability p_k.
        return (self.logp.exp() / torch.empty_like(self.logp).exponential_()).argmax(-1)

    def mode(self) -> Tensor:
        """Integer actions, (...)."""
        return self.logp.argmax(-1)

    def expectation(self, x: Tensor) -> Tensor:
        """E[x] over the actions, shape (...), for x (..., K), which may be infinite for actions of probability 0."""
        p = self.logp.exp()
        return (p * x.masked_fill(p == 0, 0.0)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy per state, shape (...)."""
        return -self.expectation(self.logp)

    def kl(self, other: "Categorical") -> Tensor:
        """KL(self || other) per state, shape (...); infinite if other excludes an action that self may take."""
        return self.expectation(self.logp - other.logp)

    def detach(self) -> "Categorical":
        return Categorical(self.logp.detach().clone())


class MultiCategorical(NamedTuple):
    """C independent Categoricals; actions are (..., C), and log_prob, entropy and kl are sums over them, (...)."""

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
