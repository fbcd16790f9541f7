"""Networks: MLPs and a small CNN, policies, action-value functions, and the actor-critics made of them.

Every linear layer is made by a `linear=` factory, called as linear(in_features, out_features): the hook for other
kinds of layers. All modules take observations with any leading shape, (..., *obs_shape).

An actor-critic of your own takes the place of ours through the argument `actor_critic`. For VPG, TRPO and PPO it is
called as actor_critic(observation_space, action_space, normalize_obs=..., **ac_kwargs) and must be an nn.Module with

    actor, critic   modules without common parameters; each has its own optimizer
    pi(o)           the policy at o, (..., *obs_shape): an object with log_prob(a), sample(), mode(), entropy(),
                    kl(other) and detach(), as Gaussian below
    v(o)            the value of o, shape (...)
    act(o, deterministic=False)     actions for numpy observations, as numpy, for the environment
    obs_norm        a RunningNorm, or a NoNorm; pi and v pass their observations through it

For DDPG, TD3 and SAC it is called as actor_critic(observation_space, action_space, **ac_kwargs) and must have

    actor           a module without parameters of the critic's: actor(o) is the action, (..., *act_shape), for DDPG
                    and TD3, and for SAC the policy, as SquashedGaussian or Categorical below
    critic          a list of n action-value functions as one module, as QFunctions below: critic(o, a) is all their
                    values, (n, ...), critic[0](o, a) those of the first, (...); with Discrete actions critic(o) is
                    also the values of all K actions, (n, ..., K)
    act(o, deterministic=False)     as above

and, to be called with normalize_obs=True, obs_norm, a RunningNorm or a NoNorm: act passes observations through it, and
actor and critic are given what has passed through it already.

`check_actor_critic` and `check_q_actor_critic` try all of it on a batch of observations and say what is missing.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup import accel, mpi
from spinup.encoders import CNN as CNN  # also for those who import it from here
from spinup.encoders import make_encoder
from spinup.errors import UserError, closest
from spinup.observations import is_image, parts_of

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
# Points and weights for the mean of a function of a standard normal number (Gauss and Hermite).
NORMAL_POINTS, NORMAL_WEIGHTS = (x.tolist() for x in np.polynomial.hermite_e.hermegauss(32))


# ---- policies: what the equations call pi(.|s), for a batch of states


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


# ---- layers


def activation_class(name: str | type) -> type[nn.Module]:
    """The class for a name from torch.nn in any spelling: "torch.nn.Tanh", "nn.ReLU", "tanh"."""
    if isinstance(name, type):
        return name
    others = ("MultiheadAttention", "Threshold", "GLU")  # of several inputs, with arguments, to another width
    classes = {c.lower(): c for c in nn.modules.activation.__all__ if c not in others}
    key = str(name).lower().removeprefix("torch.").removeprefix("nn.")
    if key not in classes:
        word = str(name).removeprefix("torch.").removeprefix("nn.")
        raise UserError(f"there is no activation torch.nn.{word}{closest(key, classes)}")
    return getattr(nn, classes[key])


def mlp(
    sizes: Sequence[int],
    activation: str | type = "Tanh",
    linear: Callable | dict = nn.Linear,
    layer_norm: bool = False,
) -> nn.Sequential:
    """Linear layers of the given sizes, input and output included, with an activation between each two.

    linear, layer_norm: of `make_linears`; layer normalization (arXiv:1607.06450) before each activation
    """
    activation = activation_class(activation)
    first, *others = make_linears(linear, sizes)
    layers = [first]
    for n, layer in zip(sizes[1:-1], others, strict=True):
        layers += [nn.LayerNorm(n)] if layer_norm else []
        layers += [nn.ReLU(inplace=True) if activation is nn.ReLU else activation(), layer]
    return nn.Sequential(*layers)


class HiddenLinear(nn.Linear):
    """nn.Linear between hidden layers, where the time goes; what a network reads and gives keeps its precision.

    Where float32 products may be of bfloat16 (`torch.set_float32_matmul_precision("medium")`), those of large batches
    are so on every CPU that has them. torch leaves that to its libraries: with AMX they take bfloat16 in all layers, on
    other such CPUs they go on in float32. What the products give is rounded to bfloat16 too, gradients included;
    parameters stay float32.
    """

    bfloat16 = accel.cpu_has_bfloat16()
    large = 128  # smaller batches lose more time by rounding x and the weights than they gain

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.allowed = torch.get_float32_matmul_precision() == "medium"

    def forward(self, x: Tensor) -> Tensor:
        allowed = self.allowed and x.dtype == torch.float32
        if allowed and self.bfloat16 and x.is_cpu and x.numel() >= self.large * self.in_features:
            return nn.functional.linear(x.bfloat16(), self.weight.bfloat16()).float() + self.bias
        return super().forward(x)


def make_linears(linear: Callable | dict, sizes: Sequence[int]) -> list[nn.Module]:
    """The linear layers of an MLP of these sizes.

    linear: a function that makes each; or a dict of settings, as {"sparsity": 0.9, "block_size": 64}: the layers
        between hidden ones are block-sparse (spinup.sparse.linear_factory), the first and the last are dense

    Raises UserError for settings that cannot be.
    """
    pairs = list(itertools.pairwise(sizes))
    if callable(linear):
        hidden = HiddenLinear if linear is nn.Linear else linear
        return [(hidden if 0 < i < len(pairs) - 1 else linear)(*pair) for i, pair in enumerate(pairs)]
    from spinup.sparse import linear_factory

    if not isinstance(linear, dict):
        raise UserError(f"linear is {linear!r:.80}; it must be a function or a dict of settings of block-sparse layers")
    try:
        make = linear_factory(linear)
        if len(pairs) < 3:
            raise ValueError("they stand between hidden layers; give two of these or more, for example --hid 256,256")
        return [nn.Linear(*pairs[0]), *(make(*pair) for pair in pairs[1:-1]), nn.Linear(*pairs[-1])]
    except (TypeError, ValueError) as error:
        raise UserError(f"block-sparse layers: {error}") from None


def orthogonal_(module: nn.Module, gain: float) -> nn.Module:
    """Orthogonal weights of this gain and zero biases for a module's linear and convolutional layers, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif hasattr(layer, "orthogonal_"):  # a block-sparse layer knows how
            layer.orthogonal_(gain)
    return module


def as_sizes(hidden_sizes: int | Sequence[int]) -> list[int]:
    """Units of each hidden layer; one number is one layer."""
    sizes = list(hidden_sizes) if isinstance(hidden_sizes, Iterable) else [hidden_sizes]
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and 1 <= n <= 2**20 for n in sizes):
        raise UserError(f"hidden_sizes is {hidden_sizes!r:.80}; it must be a list of sizes, each in 1 to {2**20}")
    return sizes


def network(space: spaces.Box, out: int, hidden_sizes, activation, linear, gain: float | None = None) -> nn.Sequential:
    """From observations of `space` to `out` numbers: an MLP, with a CNN before it for images.

    gain: of the last layer's orthogonal weights, sqrt(2) in the others; None: PyTorch's own initial weights
    """
    encoder, features = make_encoder(space)
    net = nn.Sequential(encoder, mlp([features, *as_sizes(hidden_sizes), out], activation, linear))
    if gain is not None:
        orthogonal_(net, math.sqrt(2))
        orthogonal_(net[-1][-1], gain)
    return net


class RunningNorm(nn.Module):
    """Centres and scales by the mean and standard deviation of everything it was shown, over all MPI processes.

    The statistics change only in `update`, and are saved with the module.
    """

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def std(self) -> Tensor:
        """The standard deviation; never 0, for a constant feature."""
        return (self.var + 1e-8).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take the batch x, (..., *shape), into the statistics."""
        x = x.detach().cpu().reshape(-1, *self.mean.shape).double().numpy()
        n, old_n = int(mpi.mpi_sum(len(x))), int(self.count)
        mean = mpi.mpi_sum(x.sum(0)) / n
        m2 = mpi.mpi_sum(np.square(x - mean).sum(0))
        old_mean, old_var = self.mean.cpu().double().numpy(), self.var.cpu().double().numpy()
        shift = mean - old_mean
        m2 = m2 + old_var * old_n + np.square(shift) * old_n * n / (old_n + n)
        self.mean.copy_(torch.as_tensor(old_mean + shift * n / (old_n + n)))
        self.var.copy_(torch.as_tensor(m2 / (old_n + n)))
        self.count += n


class PartsNorm(RunningNorm):
    """A RunningNorm of what is no image in observations (..., size) of several parts."""

    def __init__(self, space: spaces.Box):
        sizes = [(torch.Size(part.space.shape).numel(), is_image(part.space)) for part in parts_of(space)]
        numbers = torch.from_numpy(np.concatenate([np.full(size, not image) for size, image in sizes]).nonzero()[0])
        super().__init__(numbers.shape)
        self.register_buffer("numbers", numbers, persistent=False)  # where they are in an observation

    def forward(self, x: Tensor) -> Tensor:
        return x.index_copy(-1, self.numbers, super().forward(x.index_select(-1, self.numbers)))

    def update(self, x: Tensor) -> None:
        super().update(x.index_select(-1, self.numbers.to(x.device)))


class NoNorm(nn.Identity):
    """Stands where a RunningNorm could, and changes nothing."""

    def update(self, x: Tensor) -> None:
        pass


def make_obs_norm(space: spaces.Box, normalize_obs: bool) -> nn.Module:
    """What centres and scales observations of `space`, but not images; nothing where that is not wanted."""
    images = [is_image(part.space) for part in parts_of(space)]
    if not normalize_obs or all(images):
        return NoNorm()
    return PartsNorm(space) if any(images) else RunningNorm(space.shape)


# ---- the on-policy actor-critic


class GaussianActor(nn.Module):
    """pi(.|s) for a Box of actions: a mean from the network and a standard deviation that is a parameter.

    In each dimension both are measured in half-ranges from the middle of [low, high], so that an untrained policy
    covers any bounds alike; a dimension without bounds keeps its own unit.

    log_std_min: least logarithm of the standard deviation; None: it has none
    log_std_max: greatest logarithm of the standard deviation; None: it has none
    squash: actions are the tanh of the Gaussian's, and so within their bounds
    """

    def __init__(
        self,
        net: nn.Module,
        space: spaces.Box,
        log_std_init: float,
        log_std_min: float | None = None,
        log_std_max: float | None = None,
        squash: bool = False,
    ):
        super().__init__()
        self.net, self.log_std_min, self.log_std_max, self.squash = net, log_std_min, log_std_max, squash
        smallest, largest = (inf if x is None else x for x, inf in ((log_std_min, -math.inf), (log_std_max, math.inf)))
        if not smallest <= log_std_init <= largest:
            bounds = f"log_std_min {log_std_min} to log_std_max {log_std_max}"
            raise UserError(f"log_std_init is {log_std_init}; it must lie in {bounds}")
        self.log_std = nn.Parameter(torch.full(space.shape, float(log_std_init)))
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        finite = high - low < np.finfo(np.float32).max
        if squash and not finite.all():
            raise UserError(f"a squashed policy needs actions with bounds, and these have none: {space}")
        bounded = (low < high) & finite
        low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
        self.register_buffer("middle", torch.as_tensor((high + low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("half_range", torch.as_tensor((high - low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("log_half_range", self.half_range.log(), persistent=False)

    @torch.no_grad()
    def keep_bounds(self) -> None:
        """Bring a log_std that has left its bounds back to them: outside it has no gradient that would."""
        if self.has_bounds:
            self.log_std.clamp_(self.log_std_min, self.log_std_max)

    @property
    def has_bounds(self) -> bool:
        return self.log_std_min is not None or self.log_std_max is not None

    def forward(self, o: Tensor) -> Gaussian | SquashedGaussian:
        log_std = self.log_std.clamp(self.log_std_min, self.log_std_max) if self.has_bounds else self.log_std
        if self.squash:
            return SquashedGaussian(self.net(o), log_std, self.middle, self.half_range)
        mu = torch.addcmul(self.middle, self.half_range, self.net(o))
        return Gaussian(mu, log_std + self.log_half_range)


def keep_bounds(module: nn.Module) -> None:
    """Bring parameters with bounds that gradient steps have left back to them, in each part of `module` that has any.

    To be called between updates.
    """
    for part in module.modules():
        if hasattr(part, "keep_bounds"):
            part.keep_bounds()


class CategoricalActor(nn.Module):
    """pi(.|s) for a Discrete action."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, o: Tensor) -> Categorical:
        return Categorical(self.net(o).log_softmax(-1))


class MultiCategoricalActor(nn.Module):
    """pi(.|s) for MultiDiscrete actions."""

    def __init__(self, net: nn.Module, sizes: Sequence[int]):
        super().__init__()
        self.net = net
        self.sizes = [int(n) for n in sizes]

    def forward(self, o: Tensor) -> MultiCategorical:
        return MultiCategorical(tuple(Categorical(x.log_softmax(-1)) for x in self.net(o).split(self.sizes, -1)))


class ActorCritic(nn.Module):
    """Policy and value function in two separate networks.

    observation_space: a Box of numbers with one dimension, or of images, as VecEnv.observation_space
    action_space: a Box or MultiDiscrete with one dimension, or Discrete, as VecEnv.action_space
    hidden_sizes: units of each hidden layer
    activation: a name from torch.nn, or a class
    linear: makes the linear layers, linear(in_features, out_features); or a dict, for block-sparse ones
    log_std_init: log of the Gaussian's first standard deviation, in half-ranges of the actions
    log_std_min: least logarithm of the standard deviation; None: it has none
    log_std_max: greatest logarithm of the standard deviation; None: it has none
    squash: the tanh of the Gaussian, which keeps actions within their bounds; needs a Box that has some
    orthogonal: orthogonal first weights with a last policy layer near zero; False: PyTorch's own
    normalize_obs: centre and scale observations by running statistics (not images)
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str | type = "Tanh",
        linear: Callable | dict = nn.Linear,
        log_std_init: float = -0.5,
        orthogonal: bool = True,
        normalize_obs: bool = False,
        log_std_min: float | None = None,
        log_std_max: float | None = None,
        squash: bool = False,
    ):
        super().__init__()
        self.register_buffer("_here", torch.empty(0), persistent=False)  # for as_input

        def build(out: int, gain: float) -> nn.Sequential:
            return network(observation_space, out, hidden_sizes, activation, linear, gain if orthogonal else None)

        if isinstance(action_space, spaces.Box):
            std = log_std_init, log_std_min, log_std_max
            self.actor = GaussianActor(build(action_space.shape[0], 0.01), action_space, *std, squash)
        elif isinstance(action_space, spaces.Discrete):
            self.actor = CategoricalActor(build(int(action_space.n), 0.01))
        else:
            sizes = action_space.nvec
            self.actor = MultiCategoricalActor(build(int(sizes.sum()), 0.01), sizes)
        self.critic = build(1, 1.0)
        self.obs_norm = make_obs_norm(observation_space, normalize_obs)

    def pi(self, o: Tensor) -> Gaussian | SquashedGaussian | Categorical | MultiCategorical:
        """The policy at observations (..., *obs_shape)."""
        return self.actor(self.obs_norm(o))

    def v(self, o: Tensor) -> Tensor:
        """The value of observations (..., *obs_shape), shape (...)."""
        return self.critic(self.obs_norm(o)).squeeze(-1)

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions for observations (..., *obs_shape): samples, or the policy's mode."""
        pi = self.pi(as_input(o, self))
        return (pi.mode() if deterministic else pi.sample()).cpu().numpy()


# ---- the off-policy actor-critics


class Bounds(nn.Module):
    """Carries actions between a bounded Box and half-ranges from its middle, [-1, 1] in each dimension."""

    def __init__(self, space: spaces.Box):
        super().__init__()
        low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (space.low, space.high))
        self.register_buffer("middle", (high + low) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)
        # A dimension of one point says nothing, and is divided by 1.
        self.register_buffer("slope", 1 / torch.where(high > low, self.half_range, 1.0), persistent=False)
        self.register_buffer("offset", -self.middle * self.slope, persistent=False)

    def from_unit(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.middle, self.half_range, x)

    def to_unit(self, a: Tensor) -> Tensor:
        return torch.addcmul(self.offset, self.slope, a)


class DeterministicActor(nn.Module):
    """mu(s): the tanh of a network, stretched to the bounds of each action."""

    def __init__(self, net: nn.Module, space: spaces.Box):
        super().__init__()
        self.net, self.bounds = net, Bounds(space)

    def forward(self, o: Tensor) -> Tensor:
        return self.bounds.from_unit(self.net(o).tanh())


class SquashedGaussianActor(nn.Module):
    """pi(.|s) within bounds, with a mean and a standard deviation from the network's two halves."""

    def __init__(self, net: nn.Module, space: spaces.Box):
        super().__init__()
        self.net, self.bounds = net, Bounds(space)

    def forward(self, o: Tensor) -> SquashedGaussian:
        mu, log_std = self.net(o).chunk(2, -1)
        return SquashedGaussian(mu, log_std.clamp(-20, 2), self.bounds.middle, self.bounds.half_range)


class QFunction(nn.Module):
    """Q(s, a), shape (...), for actions (..., A) of a Box or Discrete ones, (...).

    Without an action it is Q(s, .) of all K Discrete actions, shape (..., K).
    """

    def __init__(self, observation_space, action_space, hidden_sizes, activation, linear, layer_norm: bool):
        super().__init__()
        self.encoder, features = make_encoder(observation_space)
        self.bounds = Bounds(action_space) if isinstance(action_space, spaces.Box) else None
        inputs, out = (features + action_space.shape[0], 1) if self.bounds else (features, int(action_space.n))
        self.net = mlp([inputs, *as_sizes(hidden_sizes), out], activation, linear, layer_norm)

    def forward(self, o: Tensor, a: Tensor | None = None) -> Tensor:
        x = self.encoder(o)
        if self.bounds is None:
            q = self.net(x)
            return q if a is None else q.gather(-1, a.unsqueeze(-1)).squeeze(-1)
        return self.net(torch.cat([x, self.bounds.to_unit(a)], -1)).squeeze(-1)


class QFunctions(nn.ModuleList):
    """Several independent action-value functions, their values stacked: (n, ...)."""

    def forward(self, o: Tensor, a: Tensor | None = None) -> Tensor:
        return torch.stack([q(o, a) for q in self])


class DeterministicActorCritic(nn.Module):
    """Policy and one action-value function, for DDPG.

    observation_space: a Box of numbers with one dimension, or of images, as VecEnv.observation_space
    action_space: a bounded Box with one dimension, as VecEnv.action_space
    hidden_sizes: units of each hidden layer
    activation: a name from torch.nn, or a class
    linear: makes the linear layers, linear(in_features, out_features); or a dict, for block-sparse ones
    layer_norm: layer normalization (arXiv:1607.06450) in the action-value functions; None: with DDPG and TD3, and not
        with SAC
    normalize_obs: centre and scale observations by running statistics (not images): `act` does, and actor and critic
        are given observations that went through obs_norm
    """

    num_critics, layer_norm = 1, True

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: str | type = "ReLU",
        linear: Callable | dict = nn.Linear,
        layer_norm: bool | None = None,
        normalize_obs: bool = False,
    ):
        super().__init__()
        self.register_buffer("_here", torch.empty(0), persistent=False)  # for as_input
        self.obs_norm = make_obs_norm(observation_space, normalize_obs)
        common = hidden_sizes, activation, linear
        layer_norm = self.layer_norm if layer_norm is None else layer_norm
        self.actor = self.make_actor(observation_space, action_space, *common)
        self.critic = QFunctions(
            QFunction(observation_space, action_space, *common, layer_norm) for _ in range(self.num_critics)
        )

    def make_actor(self, observation_space, action_space, *common) -> nn.Module:
        return DeterministicActor(network(observation_space, action_space.shape[0], *common), action_space)

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions for observations (..., *obs_shape); exploration noise is the algorithm's."""
        return self.actor(self.obs_norm(as_input(o, self))).cpu().numpy()


class TwinActorCritic(DeterministicActorCritic):
    """Policy and two action-value functions, for TD3; the arguments are those of DeterministicActorCritic."""

    num_critics = 2


class SoftActorCritic(DeterministicActorCritic):
    """A stochastic policy, of bounded Box or Discrete actions, and two action-value functions, for SAC.

    The arguments are those of DeterministicActorCritic.
    """

    num_critics, layer_norm = 2, False

    def make_actor(self, observation_space, action_space, *common) -> nn.Module:
        if isinstance(action_space, spaces.Discrete):
            return CategoricalActor(network(observation_space, int(action_space.n), *common))
        return SquashedGaussianActor(network(observation_space, 2 * action_space.shape[0], *common), action_space)

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions for observations (..., *obs_shape): samples, or the policy's mode."""
        pi = self.actor(self.obs_norm(as_input(o, self)))
        return (pi.mode() if deterministic else pi.sample()).cpu().numpy()


# ---- in and out


def as_input(o: np.ndarray, module: nn.Module) -> Tensor:
    """Observations as a tensor on the module's device: float32, and uint8 for images."""
    # The first of its parameters would tell too, but is a long search in each step.
    device = module._here.device if hasattr(module, "_here") else next(module.parameters()).device
    o = torch.as_tensor(o, device=device)
    return accel.aligned(o if o.dtype in (torch.float32, torch.uint8) else o.float())


def describe(ac: nn.Module) -> str:
    """How many parameters actor and critic have, and what their block-sparse layers save."""
    parts = {"actor": ac.actor, "critic": ac.critic}
    if any(hasattr(layer, "layout") for layer in ac.modules()):
        from spinup.sparse import summary

        return "\n".join(f"{name}: {summary(part)}" for name, part in parts.items())
    return ", ".join(
        f"{name}: {sum(p.numel() for p in part.parameters()):,} parameters" for name, part in parts.items()
    )


# ---- is an actor-critic what the algorithms need?

NEEDED = "; spinup.nets says at its top what is needed"


@torch.no_grad()
def check_actor_critic(ac: nn.Module, observation_space: spaces.Box, action_space: spaces.Space) -> None:
    """Try VPG's, TRPO's and PPO's protocol, at the top of this file, on three observations.

    Raises UserError with the first thing amiss.
    """
    name, o, a = check_parts(ac, observation_space, ("pi", "v", "obs_norm"))
    pi, v = ac.pi(o), ac.v(o)
    check_policy(name, "pi(o)", pi, ("log_prob", "sample", "mode", "entropy", "kl", "detach"))
    shapes = {  # in this order, as each builds on the one before
        "act(o)": (lambda: a, (3, *action_space.shape)),
        "v(o)": (lambda: v, (3,)),
        "pi(o).log_prob(a)": (lambda: pi.log_prob(torch.as_tensor(a, device=v.device)), (3,)),
        "pi(o).entropy()": (lambda: pi.entropy(), (3,)),
        "pi(o).kl(pi(o))": (lambda: pi.kl(pi.detach()), (3,)),
    }
    check_shapes(name, shapes)


@torch.no_grad()
def check_q_actor_critic(
    ac: nn.Module,
    observation_space: spaces.Box,
    action_space: spaces.Space,
    num_critics: int,
    soft: bool = False,
    normalize_obs: bool = False,
) -> None:
    """Try DDPG's and TD3's protocol, or SAC's (soft), as `check_actor_critic` does; num_critics: how many it needs."""
    name, o, a = check_parts(ac, observation_space, ("obs_norm",) if normalize_obs else ())
    pi, discrete = ac.actor(o), isinstance(action_space, spaces.Discrete)
    shapes = {"act(o)": (lambda: a, (3, *action_space.shape))}
    if discrete:
        check_policy(name, "actor(o)", pi, ("logp",))
        shapes["actor(o).logp"] = (lambda: pi.logp, (3, int(action_space.n)))
        shapes["critic(o)"] = (lambda: ac.critic(o), (num_critics, 3, int(action_space.n)))
    elif soft:
        check_policy(name, "actor(o)", pi, ("rsample",))
        shapes["actor(o).rsample()[0]"] = (lambda: pi.rsample()[0], (3, *action_space.shape))
        shapes["actor(o).rsample()[1]"] = (lambda: pi.rsample()[1], (3,))
    else:
        shapes["actor(o)"] = (lambda: pi, (3, *action_space.shape))
        shapes["critic[0](o, a)"] = (lambda: ac.critic[0](o, torch.as_tensor(a, device=o.device)), (3,))
    shapes["critic(o, a)"] = (lambda: ac.critic(o, torch.as_tensor(a, device=o.device)), (num_critics, 3))
    check_shapes(name, shapes)


def check_parts(ac: nn.Module, observation_space: spaces.Box, more: Sequence[str] = ()) -> tuple:
    """What both kinds of actor-critic have; returns its name, three observations and what it does at them."""
    name = f"actor_critic {type(ac).__name__}"
    for attribute in ("parameters", "actor", "critic", *more, "act"):
        if not hasattr(ac, attribute):
            raise UserError(f"{name} has no '{attribute}'{NEEDED}")
    if "obs_norm" in more and not hasattr(ac.obs_norm, "update"):
        raise UserError(f"{name}: obs_norm has no 'update'; use a RunningNorm or a NoNorm")
    for attribute in ("actor", "critic"):
        if not isinstance(getattr(ac, attribute), nn.Module):
            raise UserError(f"{name}: '{attribute}' is no torch.nn.Module{NEEDED}")
    if {id(p) for p in ac.actor.parameters()} & {id(p) for p in ac.critic.parameters()}:
        raise UserError(f"{name}: actor and critic have parameters in common; each is stepped by itself")
    if "deterministic" not in inspect.signature(ac.act).parameters:
        raise UserError(f"{name}: act takes no 'deterministic'{NEEDED}")
    o = np.stack([observation_space.sample() for _ in range(3)])
    o = np.clip(np.nan_to_num(o), -1, 1) if o.dtype != np.uint8 else o
    a = ac.act(o)
    if not isinstance(a, np.ndarray):
        raise UserError(f"{name}: act(o) gives a {type(a).__name__}; it must be a numpy array")
    return name, as_input(o, ac), a


def check_policy(name: str, what: str, pi, methods: Sequence[str]) -> None:
    for method in methods:
        if not hasattr(pi, method):
            raise UserError(f"{name}: {what} has no '{method}'{NEEDED}")


def check_shapes(name: str, shapes: dict) -> None:
    """shapes: {what: (function that computes it, the shape it must have)}."""
    for what, (compute, wanted) in shapes.items():
        shape = tuple(compute().shape)
        if shape != wanted:
            raise UserError(f"{name}: {what} has shape {shape} for 3 observations; it must be {wanted}")
