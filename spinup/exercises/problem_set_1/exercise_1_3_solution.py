"""Exercise 1.3: generalized advantage estimation."""

import torch
from torch import Tensor


def gae(
    r: Tensor, v: Tensor, v2: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (T, N) each; r, v and v2 are (T, N) floats, terminated and done (T, N) booleans."""
    delta = r + gamma * v2 * ~terminated - v
    adv = torch.zeros_like(r)
    later = torch.zeros_like(r[0])  # adv[t + 1]
    for t in reversed(range(len(r))):
        later = delta[t] + gamma * lam * later * ~done[t]
        adv[t] = later
    return adv, adv + v
