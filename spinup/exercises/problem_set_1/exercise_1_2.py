"""Exercise 1.2: a Gaussian policy as a torch module.

The mean of the policy is a network of the observation: linear layers of the sizes obs_dim, hidden sizes, act_dim, with
a tanh between each two of them and none at the end. The logarithm of its standard deviation is a parameter of shape
(act_dim,), which begins at -0.5 and does not depend on the observation. Write the three methods.

The checker looks at the parts, and then trains your policy by PPO on an environment with two action dimensions.
"""

from torch import Tensor, nn


class GaussianPolicy(nn.Module):
    """pi(.|s) for actions with act_dim dimensions."""

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: tuple[int, ...] = (64, 64)):
        super().__init__()
        raise NotImplementedError

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, (B, act_dim), and log standard deviation, (act_dim,), for observations (B, obs_dim)."""
        raise NotImplementedError

    def sample(self, o: Tensor) -> Tensor:
        """A random action for each observation, (B, act_dim), without gradient."""
        raise NotImplementedError

    def log_prob(self, o: Tensor, a: Tensor) -> Tensor:
        """log pi(a|o), shape (B,), with gradient for all parameters."""
        raise NotImplementedError
