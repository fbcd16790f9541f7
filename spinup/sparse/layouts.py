"""Initial layouts. The number of blocks depends only on shape and density; which ones they are, on `generator` (None:
torch's global one, which torch.manual_seed seeds).

Shared arguments: in_features, out_features, density (fraction of blocks to keep, above 0 and at most 1), block_size.
"""

import difflib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spinup.sparse.layout import BlockLayout, check_block_size


def grid(in_features: int, out_features: int, density: float, block_size: int) -> tuple[int, int, int]:
    """Rows and columns of blocks, and the number of blocks to keep: at least as many as rows and as columns."""
    check_block_size(block_size, in_features, out_features)
    if not 0 < density <= 1:
        raise ValueError(f"density is {density}; it must be above 0 and at most 1")
    rows, cols = in_features // block_size, out_features // block_size
    return rows, cols, max(round(density * rows * cols), rows, cols)


def spread(total: int, n: int, generator: torch.Generator | None) -> Tensor:
    """n numbers with the sum `total` that differ by at most one, the larger ones at random places, (n,)."""
    sizes = torch.full((n,), total // n)
    sizes[torch.randperm(n, generator=generator)[: total % n]] += 1
    return sizes


def dense(in_features: int, out_features: int, block_size: int = 64) -> BlockLayout:
    """All blocks."""
    check_block_size(block_size, in_features, out_features)
    return BlockLayout(torch.ones(in_features // block_size, out_features // block_size), block_size)


def regular(in_features, out_features, density, block_size=64, generator=None) -> BlockLayout:
    """All columns have the same number of blocks, and all rows, up to one: equal work for each output.

    The columns, in random order, choose the rows with fewest blocks so far, at random among equals. If the number of
    blocks doesn't divide, the first columns get one more, so that columns with equally many are contiguous.
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
    """Random blocks, all equally likely. A row or column can be empty."""
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    mask = torch.zeros(rows * cols)
    mask[torch.randperm(rows * cols, generator=generator)[:nnz]] = 1
    return BlockLayout(mask.view(rows, cols), block_size)


def barabasi_albert(in_features, out_features, density, block_size=64, generator=None) -> BlockLayout:
    """A few rows with many blocks (Barabasi and Albert, doi:10.1126/science.286.5439.509).

    The columns, in random order, choose rows with a probability proportional to one plus their number of blocks.
    """
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    degrees, taken, mask = spread(nnz, cols, generator).tolist(), torch.ones(rows), torch.zeros(rows, cols)
    for col in torch.randperm(cols, generator=generator).tolist():
        chosen = torch.multinomial(taken, degrees[col], generator=generator)
        mask[chosen, col] = 1
        taken[chosen] += 1
    return BlockLayout(mask, block_size)


def watts_strogatz(in_features, out_features, density, block_size=64, generator=None, rewire=0.1) -> BlockLayout:
    """A band around the diagonal, a fraction `rewire` of it moved at random (Watts and Strogatz, doi:10.1038/30918).

    The band wraps around. Most connections are short; a few long ones bring all units close to each other.
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

    Its density is (1 + log2 n) / n for n x n blocks. log2 n such layers connect every input with every output. For a
    rectangle, the pattern of the longer side is shrunk to the shorter one.
    """
    check_block_size(block_size, in_features, out_features)
    rows, cols = in_features // block_size, out_features // block_size
    n = 1 << (max(rows, cols) - 1).bit_length()
    r, c = torch.arange(rows) * n // rows, torch.arange(cols) * n // cols
    step = n // min(1 << (min(rows, cols) - 1).bit_length(), n)
    differ = (r // step)[:, None] ^ (c // step)[None]
    return BlockLayout((differ & (differ - 1)) == 0, block_size)


def from_magnitude(matrix: Tensor, density: float, block_size: int = 64) -> BlockLayout:
    """The blocks of largest norm of a matrix (in_features, out_features)."""
    in_features, out_features = matrix.shape
    rows, cols, nnz = grid(in_features, out_features, density, block_size)
    norms = matrix.detach().reshape(rows, block_size, cols, block_size).float().norm(dim=(1, 3)).cpu()
    mask = torch.zeros(rows * cols)
    mask[norms.view(-1).argsort(descending=True, stable=True)[:nnz]] = 1
    return BlockLayout(mask.view(rows, cols), block_size)


NAMES = {f.__name__: f for f in (regular, random, barabasi_albert, watts_strogatz)}


def make(name: str, in_features, out_features, density, block_size=64, generator=None) -> BlockLayout:
    """The layout with this name. Raises ValueError if the name is unknown."""
    if name not in NAMES:
        match = difflib.get_close_matches(str(name), NAMES, n=1)
        raise ValueError(f"layout is '{name}'; it must be {', '.join(NAMES)}" + (f" ({match[0]}?)" if match else ""))
    return NAMES[name](in_features, out_features, density, block_size, generator=generator)


# ---- about layouts


def erk_densities(shapes: Sequence[tuple[int, int]], density: float) -> list[float]:
    """Densities of layers with these shapes, proportional to (in + out) / (in * out) and at most 1, so that together
    the layers keep a fraction `density` of their weights (Erdos-Renyi-Kernel, arXiv:1911.11134: small layers stay
    denser).
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
    """The fraction of (input, output) pairs that are connected through these layers, in sequence: 1 is full mixing."""
    reached = layers[0].mask.float()
    for layer in layers[1:]:
        reached = ((reached @ layer.mask.float()) > 0).float()
    return reached.mean().item()
