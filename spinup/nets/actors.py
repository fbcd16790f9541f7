"""The parts of actor-critics: networks for policies and action-value functions."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup.errors import UserError
from spinup.nets.distributions import Categorical, Gaussian, MultiCategorical, SquashedGaussian
from spinup.nets.encoders import make_encoder
from spinup.nets.layers import activation_class, as_sizes, make_linears, mlp
from spinup.nets.norms import BatchNorm


class GaussianActor(nn.Module):
    """pi(.|s) for Box actions: the network outputs the mean, and the log standard deviation is a parameter.

    Both are in half-ranges from the middle of [low, high] in each dimension, so that an untrained policy covers any
    bounds equally well; dimensions without bounds keep their own unit.

    log_std_min, log_std_max: bounds of the log standard deviation; None: unbounded
    squash: apply tanh to the Gaussian, so that actions stay within their bounds
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
            raise UserError(f"a squashed policy needs bounded actions, and these are unbounded: {space}")
        bounded = (low < high) & finite
        low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
        self.register_buffer("middle", torch.as_tensor((high + low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("half_range", torch.as_tensor((high - low) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("log_half_range", self.half_range.log(), persistent=False)

    @torch.no_grad()
    def keep_bounds(self) -> None:
        """Clamp log_std to its bounds: beyond them it has no gradient that could bring it back."""
        if self.has_bounds:
            self.log_std.clamp_(self.log_std_min, self.log_std_max)

    @property
    def has_bounds(self) -> bool:
        return self.log_std_min is not None or self.log_std_max is not None

    def forward(self, o: Tensor) -> Gaussian | SquashedGaussian:
        return self.policy(self.net(o), o)

    def policy(self, x: Tensor, o: Tensor) -> Gaussian | SquashedGaussian:
        """The policy with the network's output x, (..., A), at observations o."""
        log_std = self.log_std
        # Not clamp, which from torch 2.14 on has no gradient at its bounds: log_std would stay there.
        if self.log_std_min is not None:
            log_std = torch.where(log_std < self.log_std_min, self.log_std_min, log_std)
        if self.log_std_max is not None:
            log_std = torch.where(log_std > self.log_std_max, self.log_std_max, log_std)
        if self.squash:
            return SquashedGaussian(x, log_std, self.middle, self.half_range)
        mu = torch.addcmul(self.middle, self.half_range, x)
        return Gaussian(mu, log_std + self.log_half_range)


def keep_bounds(module: nn.Module) -> None:
    """Clamp the bounded parameters of `module`, which gradient steps may have moved; call it between updates."""
    for part in module.modules():
        if hasattr(part, "keep_bounds"):
            part.keep_bounds()


def mask_illegal(x: Tensor, o: Tensor, mask: slice | None) -> Tensor:
    """Logits or values x, (..., K), with minus infinity for illegal actions (arXiv:2006.14171).

    mask: where observations o, (..., size), say which actions are legal; None: all are. A mask that allows no action,
        such as a terminal state's, is ignored.
    """
    if mask is None:
        return x
    legal = o[..., mask] != 0
    return x.masked_fill(~legal & legal.any(-1, keepdim=True), -math.inf)


class CategoricalActor(nn.Module):
    """pi(.|s) for Discrete actions. mask: see `mask_illegal`."""

    def __init__(self, net: nn.Module, mask: slice | None = None):
        super().__init__()
        self.net, self.mask = net, mask

    def forward(self, o: Tensor) -> Categorical:
        return self.policy(self.net(o), o)

    def policy(self, x: Tensor, o: Tensor) -> Categorical:
        """The policy with logits x, (..., K), at observations o."""
        return Categorical(mask_illegal(x, o, self.mask).log_softmax(-1))


class MultiCategoricalActor(nn.Module):
    """pi(.|s) for MultiDiscrete actions. mask: see `mask_illegal`; the choices' masks stand one after the other."""

    def __init__(self, net: nn.Module, sizes: Sequence[int], mask: slice | None = None):
        super().__init__()
        self.net = net
        self.sizes = [int(n) for n in sizes]
        ends = np.cumsum(self.sizes) + (mask.start if mask else 0)
        self.masks = [slice(int(end) - n, int(end)) if mask else None for end, n in zip(ends, self.sizes, strict=True)]

    def forward(self, o: Tensor) -> MultiCategorical:
        return self.policy(self.net(o), o)

    def policy(self, x: Tensor, o: Tensor) -> MultiCategorical:
        """The policy with all choices' logits x, (..., sum of sizes), at observations o."""
        logits = zip(x.split(self.sizes, -1), self.masks, strict=True)
        return MultiCategorical(tuple(Categorical(mask_illegal(x, o, mask).log_softmax(-1)) for x, mask in logits))


class Bounds(nn.Module):
    """Converts actions, (..., A), between a bounded Box and [-1, 1] in each dimension."""

    def __init__(self, space: spaces.Box):
        super().__init__()
        low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (space.low, space.high))
        self.register_buffer("middle", (high + low) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)
        # low == high: avoid dividing by 0.
        self.register_buffer("slope", 1 / torch.where(high > low, self.half_range, 1.0), persistent=False)
        self.register_buffer("offset", -self.middle * self.slope, persistent=False)

    def from_unit(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.middle, self.half_range, x)

    def to_unit(self, a: Tensor) -> Tensor:
        return torch.addcmul(self.offset, self.slope, a)


class DeterministicActor(nn.Module):
    """mu(s), (..., A): the tanh of a network's output, scaled to the bounds of each action."""

    def __init__(self, net: nn.Module, space: spaces.Box):
        super().__init__()
        self.net, self.bounds = net, Bounds(space)

    def forward(self, o: Tensor) -> Tensor:
        return self.bounds.from_unit(self.net(o).tanh())


class SquashedGaussianActor(nn.Module):
    """pi(.|s) within bounds: the network outputs the mean and the log standard deviation."""

    def __init__(self, net: nn.Module, space: spaces.Box):
        super().__init__()
        self.net, self.bounds = net, Bounds(space)

    def forward(self, o: Tensor) -> SquashedGaussian:
        mu, log_std = self.net(o).chunk(2, -1)
        return SquashedGaussian(mu, log_std.clamp(-20, 2), self.bounds.middle, self.bounds.half_range)


class QFunction(nn.Module):
    """Q(s, a), (...), for Box actions (..., A) or Discrete actions (...).

    Without an action it is Q(s, .), the values of all K Discrete actions, (..., K).

    dueling: Q = V + A - mean A, with V and the K advantages A from the last layer (arXiv:1511.06581)
    mask: see `mask_illegal`
    """

    def __init__(
        self,
        observation_space,
        action_space,
        hidden_sizes,
        activation,
        linear,
        layer_norm: bool,
        dueling: bool = False,
        mask: slice | None = None,
    ):
        super().__init__()
        self.dueling, self.mask = dueling, mask
        self.encoder, features = make_encoder(observation_space)
        self.bounds = Bounds(action_space) if isinstance(action_space, spaces.Box) else None
        inputs, out = (features + action_space.shape[0], 1) if self.bounds else (features, int(action_space.n))
        self.net = mlp([inputs, *as_sizes(hidden_sizes), out + dueling], activation, linear, layer_norm)

    def forward(self, o: Tensor, a: Tensor | None = None) -> Tensor:
        x = self.encoder(o)
        if self.bounds is None:
            q = self.net(x)
            if self.dueling:
                v, adv = q[..., :1], q[..., 1:]
                q = v + adv - adv.mean(-1, keepdim=True)
            q = mask_illegal(q, o, self.mask)
            return q if a is None else q.gather(-1, a.unsqueeze(-1)).squeeze(-1)
        return self.net(torch.cat([x, self.bounds.to_unit(a)], -1)).squeeze(-1)


class QFunctions(nn.ModuleList):
    """n independent action-value functions, with their values stacked: (n, ...)."""

    def forward(self, o: Tensor, a: Tensor | None = None) -> Tensor:
        return torch.stack([q(o, a) for q in self])


class BatchNormNetwork(nn.Module):
    """An MLP with batch normalization of its input and after each activation, as in arXiv:1902.05605.

    training: by the statistics of the batch (BatchNorm). Without batch_norm it's a plain MLP.
    """

    def __init__(self, sizes: Sequence[int], activation, linear, batch_norm: bool):
        super().__init__()
        self.linears = nn.ModuleList(make_linears(linear, sizes))
        self.norms = nn.ModuleList(BatchNorm(n) for n in sizes[:-1]) if batch_norm else None
        self.activation = activation_class(activation)()

    def forward(self, x: Tensor, training: bool = False) -> Tensor:
        for i, linear in enumerate(self.linears):
            x = self.activation(x) if i > 0 else x
            x = linear(self.norms[i](x, training) if self.norms else x)
        return x


class BatchNormActor(nn.Module):
    """pi(.|s) within bounds, like SquashedGaussianActor, by a BatchNormNetwork."""

    def __init__(self, observation_space, action_space, hidden_sizes, activation, linear, batch_norm: bool):
        super().__init__()
        self.encoder, features = make_encoder(observation_space)
        sizes = [features, *as_sizes(hidden_sizes), 2 * action_space.shape[0]]
        self.net, self.bounds = BatchNormNetwork(sizes, activation, linear, batch_norm), Bounds(action_space)

    def forward(self, o: Tensor, training: bool = False) -> SquashedGaussian:
        mu, log_std = self.net(self.encoder(o), training).chunk(2, -1)
        return SquashedGaussian(mu, log_std.clamp(-20, 2), self.bounds.middle, self.bounds.half_range)


class BatchNormQFunction(nn.Module):
    """Q(s, a), (...), for bounded Box actions, (..., A), by a BatchNormNetwork."""

    def __init__(self, observation_space, action_space, hidden_sizes, activation, linear, batch_norm: bool):
        super().__init__()
        self.encoder, features = make_encoder(observation_space)
        sizes = [features + action_space.shape[0], *as_sizes(hidden_sizes), 1]
        self.net, self.bounds = BatchNormNetwork(sizes, activation, linear, batch_norm), Bounds(action_space)

    def forward(self, o: Tensor, a: Tensor, training: bool = False) -> Tensor:
        x = torch.cat([self.encoder(o), self.bounds.to_unit(a)], -1)
        return self.net(x, training).squeeze(-1)


class BatchNormQFunctions(QFunctions):
    """n independent BatchNormQFunctions, with their values stacked: (n, ...)."""

    def forward(self, o: Tensor, a: Tensor, training: bool = False) -> Tensor:
        return torch.stack([q(o, a, training) for q in self])
