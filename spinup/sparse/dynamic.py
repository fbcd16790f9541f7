"""Layouts that change as a layer learns: blocks are dropped by their norm, and others grow in their place.

rigl    drops the weakest, grows where the gradient of the full weight is greatest (arXiv:1911.11134)
set     drops the weakest, grows anywhere (arXiv:1707.04780)
prune   starts with all blocks and drops the weakest, from 20% to 80% of the training (arXiv:1710.01878)
"""

import difflib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spinup.sparse.layout import BlockLayout

KINDS = ("rigl", "set", "prune")
PRUNE_FROM, PRUNE_TO = 0.2, 0.8  # shares of the training


class Schedule(nn.Module):
    """When and how a layer's layout changes; one for each layer.

    kind: 'rigl', 'set' or 'prune'
    every: steps of the optimizer between two changes
    fraction: share of the blocks that a change replaces; falls to 0 over the training as a half cosine (not prune)

    progress, the share of the training that is done, is set from outside. Steps so far and the seed of what is
    drawn are saved with the layer.
    """

    def __init__(self, kind: str, every: int = 1000, fraction: float = 0.3):
        super().__init__()
        if kind not in KINDS:
            match = difflib.get_close_matches(str(kind), ("static", *KINDS), n=1)
            hint = f" ({match[0]}?)" if match else ""
            raise ValueError(f"schedule is '{kind}'; it must be static, {', '.join(KINDS)}{hint}")
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is {every}; it must be a whole number of steps, for example 1000")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must lie over 0 and be at most 1, for example 0.3")
        self.kind, self.every, self.fraction = kind, every, fraction
        self.progress = 0.0
        self.final = 0  # blocks that pruning leaves; the layer sets it
        self.steps = 0
        self.seed = int(torch.randint(2**31, ()))
        self.signal: Tensor | None = None  # gradient of the full weight, (in_features, out_features)

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
        """Where the next step needs it: when y's gradient comes, add x.T dy, the gradient of the full weight."""
        if self.kind != "rigl" or not self.due or not y.requires_grad:
            return
        x = x.detach()

        def add(dy: Tensor) -> None:
            handle.remove()  # of derivatives of the gradient nothing is wanted
            dw = x.reshape(-1, x.shape[-1]).t().to(dy.dtype) @ dy.detach().reshape(-1, dy.shape[-1])
            self.signal = dw if self.signal is None else self.signal + dw

        handle = y.register_hook(add)

    def step(self) -> bool:
        """Count a step of the optimizer; whether it is one to change the layout after."""
        self.steps += 1
        return self.steps % self.every == 0

    def next_layout(self, layout: BlockLayout, norms: Tensor, average: Callable | None = None) -> BlockLayout | None:
        """The layout after this one, or None where it stays.

        norms: of the blocks, (nnz,); average: replaces a tensor by its mean over all processes, in place. All
        processes come to the same layout as long as their weights are the same.
        """
        signal, self.signal = self.signal, None
        norms = norms.detach().cpu()
        if self.kind == "prune":
            n = self.blocks_left(layout)
            return None if n >= layout.nnz else swap(layout, norms, layout.nnz - n)
        n = round(self.fraction * 0.5 * (1 + math.cos(math.pi * self.progress)) * layout.nnz)
        n = min(n, layout.mask.numel() - layout.nnz, layout.nnz - 1)
        if n < 1 or (self.kind == "rigl" and signal is None):
            return None
        if self.kind == "rigl":
            if average is not None:
                average(signal)
            chances = matrix_block_norms(signal, layout.block_size).cpu()
        else:
            generator = torch.Generator().manual_seed(self.seed + self.steps)
            chances = torch.rand(layout.shape, generator=generator)
        return swap(layout, norms, n, chances)

    def blocks_left(self, layout: BlockLayout) -> int:
        """How many blocks pruning leaves at this progress: all, and then fewer along a cubic curve, to `final`."""
        left = 1 - min(max((self.progress - PRUNE_FROM) / (PRUNE_TO - PRUNE_FROM), 0), 1)
        return self.final + round((layout.mask.numel() - self.final) * left**3)


def matrix_block_norms(matrix: Tensor, block_size: int) -> Tensor:
    """The 2-norm of each block of a matrix (in_features, out_features): (R, C)."""
    rows, cols = (n // block_size for n in matrix.shape)
    return matrix.view(rows, block_size, cols, block_size).float().norm(dim=(1, 3))


def swap(layout: BlockLayout, norms: Tensor, n: int, chances: Tensor | None = None) -> BlockLayout:
    """The layout without its n blocks of least norm, (nnz,), and with n others of the greatest `chances`, (R, C).

    chances None: nothing grows.
    """
    mask = layout.mask.clone()
    dropped = norms.argsort(stable=True)[:n]
    mask[layout.rows[dropped], layout.cols[dropped]] = False
    if chances is not None:
        free = torch.where(layout.mask, -torch.inf, chances).view(-1)
        mask.view(-1)[free.argsort(descending=True, stable=True)[:n]] = True
    return BlockLayout(mask, layout.block_size)
