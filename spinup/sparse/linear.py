"""A linear layer with a block-sparse weight, and operations on its blocks."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from spinup.sparse import layouts
from spinup.sparse.dynamic import Schedule, swap
from spinup.sparse.layout import BlockLayout, check_block_size, common_blocks
from spinup.sparse.ops import block_matmul


class BlockSparseLinear(nn.Module):
    """y = x W + b for a block-sparse W: (..., in_features) -> (..., out_features).

    density: fraction of blocks to keep, above 0 and at most 1; not together with a BlockLayout
    layout: a BlockLayout, or the name of one in spinup.sparse.layouts
    block_size: 16, 32, 64 or 128; it must divide both numbers of features
    schedule: a Schedule that changes the layout during training; None: the layout is fixed

    weight, (nnz, b, b), contains the blocks in the layout's order. With a pruning schedule it starts with all blocks
    and keeps its size: the first layout.nnz are in use, the others are 0. The layout is saved with the layer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        density: float | None = None,
        layout: str | BlockLayout = "regular",
        block_size: int = 64,
        bias: bool = True,
        schedule: Schedule | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        if isinstance(layout, BlockLayout):
            if density is not None:
                raise ValueError("give either a density or a BlockLayout: a layout has a density of its own")
            if (layout.in_features, layout.out_features) != (in_features, out_features):
                has = f"{layout.in_features} x {layout.out_features}"
                raise ValueError(f"the layout is for {has} features, the layer has {in_features} x {out_features}")
        else:
            density = 0.1 if density is None else density
            layout = layouts.make(layout, in_features, out_features, density, block_size, generator)
        if schedule is not None and schedule.kind == "prune":
            schedule.final = layout.nnz
            layout = layouts.dense(in_features, out_features, layout.block_size)
        self.layout, self.block_size, self.schedule = layout, layout.block_size, schedule
        self.weight = nn.Parameter(torch.empty(layout.nnz, self.block_size, self.block_size))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.register_buffer("mask", layout.packed())
        self.register_buffer("table", layout.table, persistent=False)
        self.reset_parameters(generator)

    def forward(self, x: Tensor) -> Tensor:
        y = block_matmul(x, self.blocks, self.layout, self.table)
        if self.schedule is not None:
            self.schedule.watch(x, y)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def blocks(self) -> Tensor:
        """The blocks in use, (layout.nnz, b, b)."""
        return self.weight if self.layout.nnz == len(self.weight) else self.weight[: self.layout.nnz]

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.layout}"

    # ---- initialization

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Like nn.Linear: uniform within +-1 / sqrt(inputs), for each column's own number of inputs."""
        bound = (self.layout.mask.sum(0).clamp(min=1) * self.block_size).rsqrt()  # (C,)
        self.weight.uniform_(-1, 1, generator=generator)
        self.weight.mul_(bound[self.layout.cols].to(self.weight).view(-1, 1, 1))
        if self.bias is not None:
            self.bias.uniform_(-1, 1, generator=generator)
            self.bias.mul_(bound.to(self.bias).repeat_interleave(self.block_size))

    @torch.no_grad()
    def orthogonal_(self, gain: float = 1.0) -> "BlockSparseLinear":
        """Orthogonal blocks, scaled for outputs with the variance of a dense orthogonal matrix of this gain; bias 0."""
        degree = self.layout.mask.sum(0)[self.layout.cols].tolist()
        for block, n in zip(self.blocks, degree, strict=True):
            nn.init.orthogonal_(block, gain / math.sqrt(n))
        if self.bias is not None:
            self.bias.zero_()
        return self

    @torch.no_grad()
    def identity_(self) -> "BlockSparseLinear":
        """The identity, in the diagonal blocks that the layout has; bias 0. Deep stacks need layer norms after it."""
        on_diagonal = (self.layout.rows == self.layout.cols).to(self.weight).view(-1, 1, 1)
        self.blocks.copy_(on_diagonal * torch.eye(self.block_size).to(self.weight))
        if self.bias is not None:
            self.bias.zero_()
        return self

    # ---- from and to dense layers

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls, linear: nn.Linear, density: float | None = None, block_size: int = 64, layout: BlockLayout | None = None
    ) -> "BlockSparseLinear":
        """A layer with the blocks of nn.Linear's weight that are in `layout` or, without one, those of largest norm."""
        if layout is None:
            layout = layouts.from_magnitude(linear.weight.t(), 0.1 if density is None else density, block_size)
        elif density is not None:
            raise ValueError("give either a density or a BlockLayout: a layout has a density of its own")
        layer = cls(linear.in_features, linear.out_features, layout=layout, bias=linear.bias is not None)
        layer = layer.to(linear.weight)
        layer.weight.copy_(layout.from_dense(linear.weight.t()))
        if linear.bias is not None:
            layer.bias.copy_(linear.bias)
        return layer

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """An nn.Linear that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.weight)
        linear.weight.copy_(self.layout.to_dense(self.blocks).t())
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear

    # ---- other layouts

    @torch.no_grad()
    def change_layout(self, layout: BlockLayout, *others: Tensor) -> None:
        """Switch to another layout of the same shape, with no more blocks than weight has room for.

        Blocks in both layouts keep their values; new ones are 0. others: tensors of weight's shape to change along with
        it, such as an optimizer's moments. Everything is changed in place, so views and optimizers stay valid.
        """
        if layout.shape != self.layout.shape or layout.block_size != self.block_size:
            raise ValueError(f"{layout} does not fit a layer with {self.layout}")
        if layout.nnz > len(self.weight):
            raise ValueError(f"the layout has {layout.nnz} blocks, but the layer has room for {len(self.weight)}")
        before, after = (at.to(self.weight.device) for at in common_blocks(self.layout, layout))
        for values in (self.weight, *others):
            values.copy_(torch.zeros_like(values).index_copy_(0, after, values.index_select(0, before)))
        self._take_layout(layout)

    def _take_layout(self, layout: BlockLayout) -> None:
        self.layout = layout
        self.mask.copy_(layout.packed())
        self.table = layout.table.to(self.mask.device)

    def follow(self, other: "BlockSparseLinear") -> None:
        """Adopt the layout and the steps of the layer of which this is a copy, as in a target network."""
        self.schedule.steps = other.schedule.steps
        if self.layout is not other.layout:
            self.change_layout(other.layout)

    def evolve(self, average: Callable[[Tensor], None] | None = None, *others: Tensor) -> bool:
        """One step of the schedule: call it after each optimizer step. Returns whether the layout changed.

        average: replaces a tensor by its mean over all processes, in place; others: as in `change_layout`
        """
        if not self.schedule.step():
            return False
        layout = self.schedule.next_layout(self.layout, self.block_norms(), average)
        if layout is None:
            return False
        self.change_layout(layout, *others)
        return True

    @torch.no_grad()
    def prune_(self, density: float) -> "BlockSparseLinear":
        """Keep only the blocks of largest norm, so that `density` is what remains of the dense matrix.

        The layer gets a new, smaller parameter, so create its optimizer afterwards.
        """
        left = round(density * self.layout.mask.numel())
        if not 1 <= left <= self.layout.nnz:
            most = self.layout.density
            raise ValueError(
                f"density is {density}; it must leave at least one block and be at most {most:.3g}, as it is now"
            )
        self.change_layout(swap(self.layout, self.block_norms(), self.layout.nnz - left))
        self.weight = nn.Parameter(self.blocks.clone())
        return self

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        layout, errors = BlockLayout.from_packed(self.mask, self.layout.shape, self.block_size), args[-1]
        if layout.nnz > len(self.weight):
            errors.append(f"{prefix}mask has {layout.nnz} blocks, {prefix}weight {len(self.weight)}")
        elif layout != self.layout:
            self._take_layout(layout)

    # ---- norms

    def block_norms(self) -> Tensor:
        """The 2-norm of each block in use, (nnz,)."""
        return block_norms(self.blocks)

    def group_lasso(self) -> Tensor:
        """The sum of the blocks' norms, a scalar. As a penalty in the loss it drives whole blocks to 0."""
        return block_norms(self.blocks).sum()


def block_norms(w: Tensor) -> Tensor:
    """The 2-norms of blocks (nnz, b, b), in at least float32; the gradient at a block of zeros is 0."""
    return torch.linalg.vector_norm(w, dim=(1, 2), dtype=torch.promote_types(w.dtype, torch.float32))


# ---- layers from plain settings

SETTINGS = ("sparsity", "block_size", "layout", "schedule", "every", "fraction")


def linear_factory(settings: Mapping) -> Callable[..., BlockSparseLinear]:
    """A function of (in_features, out_features) that makes layers, from settings that JSON can hold.

    sparsity: fraction of blocks left out, from 0 to below 1 [0.9]
    block_size: 16, 32, 64 or 128 [64]
    layout: a name from spinup.sparse.layouts ['regular']
    schedule: 'static', 'rigl', 'set' or 'prune' ['static']; every, fraction: as in Schedule

    Raises ValueError for an unknown setting or an invalid value.
    """
    unknown = [key for key in settings if key not in SETTINGS]
    if unknown:
        raise ValueError(f"linear has no setting '{unknown[0]}'; it has {', '.join(SETTINGS)}")
    sparsity, block_size = settings.get("sparsity", 0.9), settings.get("block_size", 64)
    if not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}; it must be at least 0 and below 1, for example 0.9")
    check_block_size(block_size)
    layout, kind = settings.get("layout", "regular"), settings.get("schedule", "static")
    options = {key: settings[key] for key in ("every", "fraction") if key in settings}
    layouts.make(layout, block_size, block_size, 1.0, block_size)  # raises if there is no such layout
    if kind != "static":
        Schedule(kind, **options)  # or schedule

    def make(in_features: int, out_features: int) -> BlockSparseLinear:
        schedule = None if kind == "static" else Schedule(kind, **options)
        density = round(1 - sparsity, 12)
        return BlockSparseLinear(in_features, out_features, density, layout, block_size, schedule=schedule)

    return make


def summary(module: nn.Module) -> str:
    """One line about a network: its parameters and FLOPs, also if it were dense, and its layers' density.

    FLOPs are those of the forward pass of one input through all linear layers; convolutions are not counted.
    """
    sparse = [m for m in module.modules() if isinstance(m, BlockSparseLinear)]
    dense = [m for m in module.modules() if isinstance(m, nn.Linear)]
    kept = sum(m.blocks.numel() for m in sparse)
    whole = sum(m.in_features * m.out_features for m in sparse)
    unused = sum(m.weight.numel() - m.blocks.numel() for m in sparse)
    parameters = sum(p.numel() for p in module.parameters()) - unused
    flops = 2 * (kept + sum(m.weight.numel() for m in dense))
    full = flops + 2 * (whole - kept)
    share = kept / whole if whole else 1.0
    return (
        f"{parameters:,} parameters ({parameters + whole - kept:,} if dense); {len(sparse)} block-sparse layers of "
        f"density {share:.3f}; {flops / 1e6:.3g} MFLOPs forward per input ({full / 1e6:.3g} if dense)"
    )
