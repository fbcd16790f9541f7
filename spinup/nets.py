"""Networks: MLPs and a small CNN, the three policy heads, and the actor-critic of the on-policy algorithms.

Every linear layer is made by a `linear=` factory, called as linear(in_features, out_features): the hook for other
kinds of layers. All modules take observations with any leading shape, (..., *obs_shape).

An actor-critic of your own takes the place of `ActorCritic` through the argument `actor_critic`. It is called as
actor_critic(observation_space, action_space, normalize_obs=..., **ac_kwargs) and must be an nn.Module with

    actor, critic   modules without common parameters; each has its own optimizer
    pi(o)           the policy at o, (..., *obs_shape): an object with log_prob(a), sample(), mode(), entropy(),
                    kl(other) and detach(), as Gaussian below
    v(o)            the value of o, shape (...)
    act(o, deterministic=False)     actions for numpy observations, as numpy, for the environment
    obs_norm        a RunningNorm, or a NoNorm; pi and v pass their observations through it

`check_actor_critic` tries all of it on a batch of observations and says what is missing.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup import mpi
from spinup.errors import UserError, closest

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


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

    def entropy(self) -> Tensor:
        return -(self.logp.exp() * self.logp).sum(-1)

    def kl(self, other: "Categorical") -> Tensor:
        """KL(self || other) per state, shape (...)."""
        return (self.logp.exp() * (self.logp - other.logp)).sum(-1)

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
    classes = {c.lower(): c for c in nn.modules.activation.__all__ if c not in ("MultiheadAttention", "Threshold")}
    key = str(name).lower().removeprefix("torch.").removeprefix("nn.")
    if key not in classes:
        word = str(name).removeprefix("torch.").removeprefix("nn.")
        raise UserError(f"there is no activation torch.nn.{word}{closest(key, classes)}")
    return getattr(nn, classes[key])


def mlp(sizes: Sequence[int], activation: str | type = "Tanh", linear: Callable = nn.Linear) -> nn.Sequential:
    """Linear layers of the given sizes, input and output included, with an activation between each two."""
    activation = activation_class(activation)
    layers = [linear(sizes[0], sizes[1])]
    for n_in, n_out in itertools.pairwise(sizes[1:]):
        layers += [activation(), linear(n_in, n_out)]
    return nn.Sequential(*layers)


def orthogonal_(module: nn.Module, gain: float) -> nn.Module:
    """Orthogonal weights of this gain and zero biases for a module's linear and convolutional layers, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def is_image(space: spaces.Space) -> bool:
    """Whether a CNN will read it: a Box of uint8 with two or three dimensions."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


class CNN(nn.Module):
    """Features of uint8 images, (..., C, H, W), (..., H, W, C) or (..., H, W) -> (..., features).

    From 36 pixels on, the three convolutions of doi:10.1038/nature14236; below, two of 3x3.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape
        self.channels_last = len(shape) == 3 and shape[-1] < shape[0]
        h, w = shape[-3:-1] if self.channels_last else shape[-2:]
        c = 1 if len(shape) == 2 else shape[-1] if self.channels_last else shape[0]
        if min(h, w) >= 36:
            convs = [nn.Conv2d(c, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1)]
        else:
            convs = [nn.Conv2d(c, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, padding=1)]
        self.net = nn.Sequential(*convs, nn.ReLU(), nn.Flatten())
        self.features = self.net(torch.zeros(1, c, h, w)).shape[1]

    def forward(self, o: Tensor) -> Tensor:
        lead = o.shape[: o.dim() - len(self.shape)]
        x = o.reshape(-1, *self.shape)
        x = x.permute(0, 3, 1, 2) if self.channels_last else x.unsqueeze(1) if len(self.shape) == 2 else x
        return self.net(x.float() / 255).reshape(*lead, self.features)


def network(space: spaces.Box, out: int, hidden_sizes, activation, linear, gain: float | None) -> nn.Sequential:
    """From observations of `space` to `out` numbers: an MLP, with a CNN before it for images."""
    hidden_sizes = [hidden_sizes] if isinstance(hidden_sizes, int) else list(hidden_sizes)
    encoder = CNN(space.shape) if is_image(space) else nn.Identity()
    features = encoder.features if is_image(space) else space.shape[0]
    net = nn.Sequential(encoder, mlp([features, *hidden_sizes, out], activation, linear))
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


class NoNorm(nn.Identity):
    """Stands where a RunningNorm could, and changes nothing."""

    def update(self, x: Tensor) -> None:
        pass


# ---- the on-policy actor-critic


class GaussianActor(nn.Module):
    """pi(.|s) for a Box of actions: a mean from the network and a standard deviation that is a parameter.

    In each dimension both are measured in half-ranges from the middle of [low, high], so that an untrained policy
    covers any bounds alike; a dimension without bounds keeps its own unit.
    """

    def __init__(self, net: nn.Module, space: spaces.Box, log_std_init: float):
        super().__init__()
        self.net = net
        self.log_std = nn.Parameter(torch.full(space.shape, float(log_std_init)))
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        bounded = (low < high) & (high - low < np.finfo(np.float32).max)
        low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
        self.register_buffer("middle", torch.as_tensor((high + low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("half_range", torch.as_tensor((high - low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("log_half_range", self.half_range.log(), persistent=False)

    def forward(self, o: Tensor) -> Gaussian:
        mu = torch.addcmul(self.middle, self.half_range, self.net(o))
        return Gaussian(mu, self.log_std + self.log_half_range)


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

    observation_space: a Box of floats with one dimension, or of uint8 images, as VecEnv.observation_space
    action_space: a Box or MultiDiscrete with one dimension, or Discrete, as VecEnv.action_space
    hidden_sizes: units of each hidden layer
    activation: a name from torch.nn, or a class
    linear: makes the linear layers, linear(in_features, out_features)
    log_std_init: log of the Gaussian's first standard deviation, in half-ranges of the actions
    orthogonal: orthogonal first weights with a last policy layer near zero; False: PyTorch's own
    normalize_obs: centre and scale observations by running statistics (not images)
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str | type = "Tanh",
        linear: Callable = nn.Linear,
        log_std_init: float = -0.5,
        orthogonal: bool = True,
        normalize_obs: bool = False,
    ):
        super().__init__()

        def build(out: int, gain: float) -> nn.Sequential:
            return network(observation_space, out, hidden_sizes, activation, linear, gain if orthogonal else None)

        if isinstance(action_space, spaces.Box):
            self.actor = GaussianActor(build(action_space.shape[0], 0.01), action_space, log_std_init)
        elif isinstance(action_space, spaces.Discrete):
            self.actor = CategoricalActor(build(int(action_space.n), 0.01))
        else:
            sizes = action_space.nvec
            self.actor = MultiCategoricalActor(build(int(sizes.sum()), 0.01), sizes)
        self.critic = build(1, 1.0)
        normalize_obs = normalize_obs and not is_image(observation_space)
        self.obs_norm = RunningNorm(observation_space.shape) if normalize_obs else NoNorm()

    def pi(self, o: Tensor) -> Gaussian | Categorical | MultiCategorical:
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


def as_input(o: np.ndarray, module: nn.Module) -> Tensor:
    """Observations as a tensor on the module's device: float32, and uint8 for images."""
    o = torch.as_tensor(o, device=next(module.parameters()).device)
    return o if o.dtype in (torch.float32, torch.uint8) else o.float()


@torch.no_grad()
def check_actor_critic(ac: nn.Module, observation_space: spaces.Box, action_space: spaces.Space) -> None:
    """Try the protocol at the top of this file on three observations; raises UserError with the first thing amiss."""
    name = f"actor_critic {type(ac).__name__}"
    needed = "; spinup.nets says at its top what is needed"
    for attribute in ("parameters", "actor", "critic", "pi", "v", "act", "obs_norm"):
        if not hasattr(ac, attribute):
            raise UserError(f"{name} has no '{attribute}'{needed}")
    for attribute in ("actor", "critic"):
        if not isinstance(getattr(ac, attribute), nn.Module):
            raise UserError(f"{name}: '{attribute}' is no torch.nn.Module{needed}")
    if not hasattr(ac.obs_norm, "update"):
        raise UserError(f"{name}: obs_norm has no 'update'; use a RunningNorm or a NoNorm")
    if {id(p) for p in ac.actor.parameters()} & {id(p) for p in ac.critic.parameters()}:
        raise UserError(f"{name}: actor and critic have parameters in common; each is stepped by itself")
    o = np.stack([observation_space.sample() for _ in range(3)])
    o = np.clip(np.nan_to_num(o), -1, 1) if o.dtype != np.uint8 else o
    if "deterministic" not in inspect.signature(ac.act).parameters:
        raise UserError(f"{name}: act takes no 'deterministic'{needed}")
    a, pi, v = ac.act(o), ac.pi(as_input(o, ac)), ac.v(as_input(o, ac))
    for method in ("log_prob", "sample", "mode", "entropy", "kl", "detach"):
        if not hasattr(pi, method):
            raise UserError(f"{name}: pi(o) has no '{method}'{needed}")
    if not isinstance(a, np.ndarray):
        raise UserError(f"{name}: act(o) gives a {type(a).__name__}; it must be a numpy array")
    shapes = {  # in this order, as each builds on the one before
        "act(o)": (lambda: a, (3, *action_space.shape)),
        "v(o)": (lambda: v, (3,)),
        "pi(o).log_prob(a)": (lambda: pi.log_prob(torch.as_tensor(a, device=v.device)), (3,)),
        "pi(o).entropy()": (lambda: pi.entropy(), (3,)),
        "pi(o).kl(pi(o))": (lambda: pi.kl(pi.detach()), (3,)),
    }
    for what, (compute, wanted) in shapes.items():
        shape = tuple(compute().shape)
        if shape != wanted:
            raise UserError(f"{name}: {what} has shape {shape} for 3 observations; it must be {wanted}")
