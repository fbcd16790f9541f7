"""Layouts to start from. The number of blocks depends on shape and density alone; which ones they are, on `generator`
(None: torch's global one, so that torch.manual_seed decides).

Arguments in common: in_features, out_features, density (share of blocks to keep, over 0 and at most 1), block_size.
"""

import difflib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spinup.sparse.layout import BlockLayout, check_block_size


def grid(in_features: int, out_features: int, density: float, block_size: int) -> tuple[int, int, int]:
    """Rows and columns of blocks and how many blocks to keep; at least one for every row and every column."""
    check_block_size(block_size, in_features, out_features)
    if not 0 < density <= 1:
        raise ValueError(f"density is {density}; it must lie over 0 and be at most 1")
    rows, cols = in_features // block_size, out_features // block_size
    return rows, cols, max(round(density * rows * cols), rows, cols)


def spread(total: int, n: int, generator: torch.Generator | None) -> Tensor:
    """`total` as n numbers that differ by one at most, the larger ones anywhere, (n,)."""
    sizes = torch.full((n,), total // n)
    sizes[torch.randperm(n, generator=generator)[: total % n]] += 1
    return sizes


def dense(in_features: int, out_features: int, block_size: int = 64) -> BlockLayout:
    """All blocks."""
    check_block_size(block_size, in_features, out_features)
    return BlockLayout(torch.ones(in_features // block_size, out_features // block_size), block_size)


def regular(in_features, out_features, density, block_size=64, generator=None) -> BlockLayout:
    """Each column has equally many blocks, and each row, give or take one: equal work for each output.

    The columns take the rows that were taken least so far, by lot where several were. The first columns are those
    with one block more, so that equals are neighbours.
    """
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    degrees = [nnz // cols + (col < nnz % cols) for col in range(cols)]
    taken, mask = torch.zeros(rows), torch.zeros(rows, cols)
    for col in torch.randperm(cols, generator=generator).tolist():
        chosen = (taken + torch.rand(rows, generator=generator)).argsort()[: degrees[col]]
        mask[chosen, col] = 1
        taken[chosen] += 1
    return BlockLayout(mask, block_size)


def random(in_features, out_features, density, block_size=64, generator=None) -> BlockLayout:
    """Any blocks, all equally likely; a row or column can be empty."""
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    mask = torch.zeros(rows * cols)
    mask[torch.randperm(rows * cols, generator=generator)[:nnz]] = 1
    return BlockLayout(mask.view(rows, cols), block_size)


def barabasi_albert(in_features, out_features, density, block_size=64, generator=None) -> BlockLayout:
    """Few rows with many blocks (Barabasi and Albert, doi:10.1126/science.286.5439.509).

    Column after column chooses its rows, with chances in proportion to one more than the blocks that they have.
    """
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    degrees, taken, mask = spread(nnz, cols, generator).tolist(), torch.ones(rows), torch.zeros(rows, cols)
    for col in torch.randperm(cols, generator=generator).tolist():
        chosen = torch.multinomial(taken, degrees[col], generator=generator)
        mask[chosen, col] = 1
        taken[chosen] += 1
    return BlockLayout(mask, block_size)


def watts_strogatz(in_features, out_features, density, block_size=64, generator=None, rewire=0.1) -> BlockLayout:
    """A band around the diagonal, of which a share `rewire` went elsewhere (Watts and Strogatz, doi:10.1038/30918).

    The ends meet as on a ring: most links are short, and a few long ones make all units near neighbours.
    """
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    degrees, mask = spread(nnz, cols, generator).tolist(), torch.zeros(rows, cols, dtype=torch.bool)
    for col, degree in enumerate(degrees):
        first = math.floor((col + 0.5) * rows / cols - degree / 2 + 0.5)
        mask[torch.arange(first, first + degree) % rows, col] = True
        moved = mask[:, col].nonzero()[torch.rand(degree, generator=generator) < rewire, 0]
        free = (~mask[:, col]).nonzero()[:, 0]
        moved = moved[: len(free)]
        mask[free[torch.randperm(len(free), generator=generator)[: len(moved)]], col] = True
        mask[moved, col] = False
    return BlockLayout(mask, block_size)


def butterfly(in_features: int, out_features: int, block_size: int = 64) -> BlockLayout:
    """Blocks whose numbers differ in one binary digit or none, as in a fast Fourier transform (arXiv:2112.00029).

    Density (1 + log2 n) / n for n x n blocks. As many such layers as digits link everything. In a rectangle the
    pattern of the longer side is shrunk to the shorter one.
    """
    check_block_size(block_size, in_features, out_features)
    rows, cols = in_features // block_size, out_features // block_size
    n = 1 << (max(rows, cols) - 1).bit_length()
    r, c = torch.arange(rows) * n // rows, torch.arange(cols) * n // cols
    step = n // min(1 << (min(rows, cols) - 1).bit_length(), n)
    differ = (r // step)[:, None] ^ (c // step)[None]
    return BlockLayout((differ & (differ - 1)) == 0, block_size)


def from_magnitude(matrix: Tensor, density: float, block_size: int = 64) -> BlockLayout:
    """The blocks of greatest norm of a matrix (in_features, out_features)."""
    in_features, out_features = matrix.shape
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    norms = matrix.detach().reshape(rows, block_size, cols, block_size).float().norm(dim=(1, 3)).cpu()
    mask = torch.zeros(rows * cols)
    mask[norms.view(-1).argsort(descending=True, stable=True)[:nnz]] = 1
    return BlockLayout(mask.view(rows, cols), block_size)


NAMES = {f.__name__: f for f in (regular, random, barabasi_albert, watts_strogatz)}


def make(name: str, in_features, out_features, density, block_size=64, generator=None) -> BlockLayout:
    """The layout of this name. Raises ValueError for a name that there is not."""
    if name not in NAMES:
        match = difflib.get_close_matches(str(name), NAMES, n=1)
        raise ValueError(f"layout is '{name}'; it must be {', '.join(NAMES)}" + (f" ({match[0]}?)" if match else ""))
    return NAMES[name](in_features, out_features, density, block_size, generator=generator)


# ---- about layouts


def erk_densities(shapes: Sequence[tuple[int, int]], density: float) -> list[float]:
    """Densities of layers with these shapes, in proportion to (in + out) / (in * out) and at most 1, such that all of
    them together keep a share `density` (Erdos-Renyi-Kernel, arXiv:1911.11134: small layers stay denser).
    """
    full: set[int] = set()
    while True:
        budget = density * sum(a * b for a, b in shapes) - sum(shapes[i][0] * shapes[i][1] for i in full)
        rest = [i for i in range(len(shapes)) if i not in full]
        scale = budget / sum(sum(shapes[i]) for i in rest) if rest else 0.0
        found = {i: scale * sum(shapes[i]) / math.prod(shapes[i]) for i in rest}
        over = {i for i, d in found.items() if d > 1}
        if not over:
            return [1.0 if i in full else found[i] for i in range(len(shapes))]
        full |= over


def mix_factor(layers: Sequence[BlockLayout]) -> float:
    """The share of (input, output) pairs with a path through these layers, one after another: 1 is full mixing."""
    reached = layers[0].mask.float()
    for layer in layers[1:]:
        reached = ((reached @ layer.mask.float()) > 0).float()
    return reached.mean().item()
