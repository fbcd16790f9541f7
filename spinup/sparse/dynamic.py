"""Layouts that change during training: the blocks of smallest norm are dropped, and others grow in their place.

rigl    grows the blocks where the dense weight's gradient has the largest norm (arXiv:1911.11134)
set     grows random blocks (arXiv:1707.04780)
prune   starts dense and only drops blocks, from 20% to 80% of training (arXiv:1710.01878)
"""

import difflib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spinup.sparse.layout import BlockLayout

KINDS = ("rigl", "set", "prune")
PRUNE_FROM, PRUNE_TO = 0.2, 0.8  # fractions of training


class Schedule(nn.Module):
    """When and how a layer's layout changes. Each layer needs its own.

    kind: 'rigl', 'set' or 'prune'
    every: optimizer steps between two changes
    fraction: fraction of the blocks that a change replaces, annealed to 0 along a half cosine (not for prune)

    The training loop sets `progress`, the fraction of training that is done. The number of steps so far and the seed
    are saved with the layer.
    """

    def __init__(self, kind: str, every: int = 1000, fraction: float = 0.3):
        super().__init__()
        if kind not in KINDS:
            match = difflib.get_close_matches(str(kind), ("static", *KINDS), n=1)
            hint = f" ({match[0]}?)" if match else ""
            raise ValueError(f"schedule is '{kind}'; it must be static, {', '.join(KINDS)}{hint}")
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is {every}; it must be a positive whole number of steps, for example 1000")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must be above 0 and at most 1, for example 0.3")
        self.kind, self.every, self.fraction = kind, every, fraction
        self.progress = 0.0
        self.final = 0  # blocks left after pruning; the layer sets it
        self.steps = 0
        self.seed = int(torch.randint(2**31, ()))
        self.dense_grad: Tensor | None = None  # of the weight as a dense matrix, (in_features, out_features)

    def extra_repr(self) -> str:
        return f"{self.kind}, every={self.every}, fraction={self.fraction}"

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.steps, self.seed])

    def set_extra_state(self, state: Tensor) -> None:
        self.steps, self.seed = state.tolist()

    @property
    def due(self) -> bool:
        """Whether the next step changes the layout."""
        return (self.steps + 1) % self.every == 0

    def watch(self, x: Tensor, y: Tensor) -> None:
        """If the next step is to change the layout: collect x.T dy, the dense weight's gradient, in backward."""
        if self.kind != "rigl" or not self.due or not y.requires_grad:
            return
        x = x.detach()

        def add(dy: Tensor) -> None:
            handle.remove()  # ignore later calls, for derivatives of the gradient
            dw = x.reshape(-1, x.shape[-1]).t().to(dy.dtype) @ dy.detach().reshape(-1, dy.shape[-1])
            self.dense_grad = dw if self.dense_grad is None else self.dense_grad + dw

        handle = y.register_hook(add)

    def step(self) -> bool:
        """Count an optimizer step. Returns whether the layout is to change after it."""
        self.steps += 1
        return self.steps % self.every == 0

    def next_layout(self, layout: BlockLayout, norms: Tensor, average: Callable | None = None) -> BlockLayout | None:
        """The layout that follows, or None if it stays the same.

        norms: of the blocks, (nnz,); average: replaces a tensor by its mean over all processes, in place. Processes
        with the same weights get the same layout.
        """
        dense_grad, self.dense_grad = self.dense_grad, None
        norms = norms.detach().cpu()
        if self.kind == "prune":
            n = self.blocks_left(layout)
            return None if n >= layout.nnz else swap(layout, norms, layout.nnz - n)
        n = round(self.fraction * 0.5 * (1 + math.cos(math.pi * self.progress)) * layout.nnz)
        n = min(n, layout.mask.numel() - layout.nnz, layout.nnz - 1)
        if n < 1 or (self.kind == "rigl" and dense_grad is None):
            return None
        if self.kind == "rigl":
            if average is not None:
                average(dense_grad)
            scores = matrix_block_norms(dense_grad, layout.block_size).cpu()
        else:
            generator = torch.Generator().manual_seed(self.seed + self.steps)
            scores = torch.rand(layout.shape, generator=generator)
        return swap(layout, norms, n, scores)

    def blocks_left(self, layout: BlockLayout) -> int:
        """The number of blocks at this progress: from all down to `final`, along a cubic curve."""
        left = 1 - min(max((self.progress - PRUNE_FROM) / (PRUNE_TO - PRUNE_FROM), 0), 1)
        return self.final + round((layout.mask.numel() - self.final) * left**3)


def matrix_block_norms(matrix: Tensor, block_size: int) -> Tensor:
    """The 2-norm of each block of a matrix (in_features, out_features): (R, C)."""
    rows, cols = (n // block_size for n in matrix.shape)
    return matrix.view(rows, block_size, cols, block_size).float().norm(dim=(1, 3))


def swap(layout: BlockLayout, norms: Tensor, n: int, scores: Tensor | None = None) -> BlockLayout:
    """The layout without its n blocks of smallest norm, (nnz,), and with the n others of largest `scores`, (R, C).

    scores None: nothing grows.
    """
    mask = layout.mask.clone()
    dropped = norms.argsort(stable=True)[:n]
    mask[layout.rows[dropped], layout.cols[dropped]] = False
    if scores is not None:
        free = torch.where(layout.mask, -torch.inf, scores).view(-1)
        mask.view(-1)[free.argsort(descending=True, stable=True)[:n]] = True
    return BlockLayout(mask, layout.block_size)
