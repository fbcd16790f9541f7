"""Exercise 1.3: generalized advantage estimation.

Rollouts have the shape (T, N): T steps of N environments side by side. For each step

    delta[t] = r[t] + gamma * (1 - terminated[t]) * v2[t] - v[t]
    adv[t]   = delta[t] + gamma * lam * adv[t + 1],    without the second term where the episode ended at t

v2[t] is the value of the true next state. An episode ends (done) in a terminal state (terminated), whose value is 0, or
because it was cut off, and then v2 still counts. The next row of the same environment belongs to a new episode. After
the last row nothing is known: adv[T] is 0.

The returns are what the value function will be fitted to: adv + v.
"""

from torch import Tensor


def gae(
    r: Tensor, v: Tensor, v2: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (T, N) each; r, v and v2 are (T, N) floats, terminated and done (T, N) booleans."""
    raise NotImplementedError
