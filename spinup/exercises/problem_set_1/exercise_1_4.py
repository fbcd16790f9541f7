"""Exercise 1.4: PPO's clipped objective.

Data come from the old policy. With r = pi(a|s) / pi_old(a|s), the ratio of the new policy's probability of an action to
the old one's, PPO maximizes the mean of

    min( r * adv,  clip(r, 1 - eps, 1 + eps) * adv )

Optimizers minimize, so the loss is minus that. clip_ratio is eps.
"""

from torch import Tensor


def policy_loss(logp: Tensor, logp_old: Tensor, adv: Tensor, clip_ratio: float) -> Tensor:
    """Minus the clipped objective, a scalar, from log-probabilities and advantages of shape (B,)."""
    raise NotImplementedError


def clip_fraction(logp: Tensor, logp_old: Tensor, clip_ratio: float) -> Tensor:
    """The share of the samples, 0 to 1, whose ratio lies outside of [1 - clip_ratio, 1 + clip_ratio], a scalar."""
    raise NotImplementedError
