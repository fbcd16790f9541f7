"""Layers and the networks made of them."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from types import BuiltinFunctionType
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup.arguments import takes
from spinup.compute import accel
from spinup.errors import UserError, closest
from spinup.nets.encoders import make_encoder

# Modules of torch.nn.modules.activation that take several inputs, need arguments, change the width, or need images; the
# last three normalize over the steps of a rollout, (T, N, H), rather than over the units.
UNSUITABLE = (nn.MultiheadAttention, nn.Threshold, nn.GLU, nn.Softmax2d, nn.Softmax, nn.Softmin, nn.LogSoftmax)


def activation_class(name: str | type) -> type[nn.Module]:
    """The class for the name of an activation in torch.nn, in any spelling: "torch.nn.Tanh", "nn.ReLU", "tanh"."""
    classes = {c.lower(): getattr(nn, c) for c in nn.modules.activation.__all__}
    classes = {key: c for key, c in classes.items() if c not in UNSUITABLE}
    if isinstance(name, str):
        word = name.removeprefix("torch.").removeprefix("nn.")
        if word.lower() not in classes:
            hint = closest(word.lower(), classes) or f"; there are {', '.join(c.__name__ for c in classes.values())}"
            raise UserError(f"there is no activation torch.nn.{word:.80}{hint}")
        return classes[word.lower()]
    is_module = isinstance(name, type) and issubclass(name, nn.Module)
    if not is_module or name in UNSUITABLE or not takes(name, 0):
        what = "a name from torch.nn, such as Tanh, or a class of elementwise modules without arguments"
        raise UserError(f"activation is {name!r:.80}; it must be {what}")
    return name


def mlp(
    sizes: Sequence[int],
    activation: str | type = "Tanh",
    linear: Callable | dict = nn.Linear,
    layer_norm: bool = False,
) -> nn.Sequential:
    """Linear layers with an activation between each two: (..., sizes[0]) -> (..., sizes[-1]).

    linear: see `make_linears`; layer_norm: layer normalization (arXiv:1607.06450) before each activation
    """
    activation = activation_class(activation)
    first, *others = make_linears(linear, sizes)
    layers = [first]
    for n, layer in zip(sizes[1:-1], others, strict=True):
        layers += [nn.LayerNorm(n)] if layer_norm else []
        layers += [nn.ReLU(inplace=True) if activation is nn.ReLU else activation(), layer]
    return nn.Sequential(*layers)


class HiddenLinear(nn.Linear):
    """nn.Linear between hidden layers, where most of the time goes; it may multiply in bfloat16.

    With `torch.set_float32_matmul_precision("medium")`, large batches use bfloat16 products on every CPU with hardware
    for them. torch itself leaves this to its libraries: with AMX they use bfloat16 in all layers, on other such CPUs in
    none. Products are rounded to bfloat16 too, including those of the gradients; parameters stay float32, and so do
    the first and the last layer of a network.
    """

    bfloat16 = accel.cpu_has_bfloat16()
    large = 128  # rounding x and the weights costs smaller batches more time than it saves

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

    linear: a function that makes each layer; or a dict of settings such as {"sparsity": 0.9, "block_size": 64}: layers
        between hidden ones are block-sparse (spinup.sparse.linear_factory), the first and the last are dense

    Raises UserError for invalid settings.
    """
    pairs = list(itertools.pairwise(sizes))
    if not isinstance(linear, dict):
        hidden = HiddenLinear if linear is nn.Linear else linear
        makers = [hidden if 0 < i < len(pairs) - 1 else linear for i in range(len(pairs))]
        layers = [make(*pair) for make, pair in zip(makers, pairs, strict=True)] if can_make_layers(linear) else [None]
        if not all(isinstance(layer, nn.Module) for layer in layers):
            what = "a function of in_features and out_features that makes a layer, or a dict for block-sparse ones"
            raise UserError(f"linear is {linear!r:.80}; it must be {what}")
        return layers
    from spinup.sparse import linear_factory

    try:
        make = linear_factory(linear)
        if len(pairs) < 3:
            raise ValueError("they go between hidden layers, so at least two are needed, for example --hid 256,256")
        return [nn.Linear(*pairs[0]), *(make(*pair) for pair in pairs[1:-1]), nn.Linear(*pairs[-1])]
    except (TypeError, ValueError) as error:
        raise UserError(f"block-sparse layers: {error}") from None


def can_make_layers(linear: Any) -> bool:
    """Whether it is a function of two arguments or a class of modules, rather than a module or a function in C."""
    if isinstance(linear, type):
        return issubclass(linear, nn.Module) and takes(linear, 2)
    return callable(linear) and not isinstance(linear, nn.Module | BuiltinFunctionType) and takes(linear, 2)


def orthogonal_(module: nn.Module, gain: float) -> nn.Module:
    """Initialize a module's linear, convolutional and recurrent layers in place: orthogonal weights of this gain (1 for
    recurrent ones), zero biases.
    """
    for layer in module.modules():
        if isinstance(layer, nn.RNNCellBase):
            for p in layer.parameters():
                nn.init.orthogonal_(p) if p.dim() > 1 else nn.init.zeros_(p)
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif hasattr(layer, "orthogonal_"):  # a block-sparse layer
            layer.orthogonal_(gain)
    return module


def as_sizes(hidden_sizes: int | Sequence[int]) -> list[int]:
    """The number of units of each hidden layer, as a list; a single number means one layer."""
    sizes = list(hidden_sizes) if isinstance(hidden_sizes, Iterable) else [hidden_sizes]
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and 1 <= n <= 2**20 for n in sizes):
        raise UserError(f"hidden_sizes is {hidden_sizes!r:.80}; it must be a list of sizes, each in 1 to {2**20}")
    return sizes


def network(space: spaces.Box, out: int, hidden_sizes, activation, linear, gain: float | None = None) -> nn.Sequential:
    """An MLP, behind a CNN for images: observations of `space`, (..., *obs_shape) -> (..., out).

    gain: for orthogonal initial weights, the last layer's gain; the others have sqrt(2). None: PyTorch's default
    """
    encoder, features = make_encoder(space)
    net = nn.Sequential(encoder, mlp([features, *as_sizes(hidden_sizes), out], activation, linear))
    if gain is not None:
        orthogonal_(net, math.sqrt(2))
        orthogonal_(net[-1][-1], gain)
    return net
