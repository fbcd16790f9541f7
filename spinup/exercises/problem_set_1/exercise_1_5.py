"""Exercise 1.5: TD3's targets and losses.

The target of both critics comes from the target networks, with noise on the target policy's action:

    a2 = clip( pi_targ(o2) + clip(target_noise * N(0, I), -noise_clip, noise_clip), low, high )
    y  = r + gamma * (1 - terminated) * min( q1_targ(o2, a2), q2_targ(o2, a2) )

Each critic's loss is the mean squared error against y, and q_loss is the sum of the two. The policy climbs the first
critic. pi and pi_targ map observations (B, O) to actions (B, A); critics map observations and actions to values (B,).
Noise is in the units of the actions. The target is a fixed number: no gradient flows into it.
"""

from collections.abc import Callable

from torch import Tensor


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
    raise NotImplementedError


def q_loss(q1: Tensor, q2: Tensor, y: Tensor) -> Tensor:
    """The loss of both critics, a scalar, from their values (B,) and the targets (B,)."""
    raise NotImplementedError


def pi_loss(o: Tensor, pi: Callable, q1: Callable) -> Tensor:
    """The loss of the policy, a scalar, on observations (B, O)."""
    raise NotImplementedError
