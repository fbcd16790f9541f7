"""Which blocks a weight matrix has, and the lookup tables that the products need.

A weight matrix of shape (in_features, out_features) is divided into square blocks of b x b numbers: R = in_features / b
rows of blocks and C = out_features / b columns. A layout says which of the R x C blocks exist; the others are 0. The
values are a tensor (nnz, b, b), ordered by column, those with most blocks first, and then by row. So the columns with
equally many blocks form one tensor, which can be multiplied in one call.
"""

import numpy as np
import torch
from torch import Tensor

BLOCK_SIZES = (16, 32, 64, 128)


def check_block_size(block_size: int, *features: int) -> None:
    """Raise ValueError for an unsupported block size, or one that does not divide a number of features."""
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size is {block_size}; it must be one of {', '.join(map(str, BLOCK_SIZES))}")
    for n in features:
        if n % block_size or n < block_size:
            right = [str(b) for b in BLOCK_SIZES if n % b == 0 and n >= b]
            hint = f"; {' and '.join(right)} do{'es' if len(right) == 1 else ''}" if right else ""
            raise ValueError(f"block_size {block_size} does not divide {n}{hint or '; a multiple of 16 is needed'}")


class BlockLayout:
    """The blocks of a matrix. Immutable.

    mask: booleans (R, C), anything that torch.as_tensor takes
    block_size: b, one of 16, 32, 64, 128
    rows, cols: each block's position, (nnz,) each, in the order of the values
    table: all lookup tables in one int32 tensor, read by `side`
    """

    def __init__(self, mask, block_size: int):
        check_block_size(block_size)
        self.mask = torch.as_tensor(mask, dtype=torch.bool, device="cpu").clone()
        if self.mask.dim() != 2 or not self.mask.numel():
            raise ValueError(f"a layout's mask has shape {tuple(self.mask.shape)}; it must be (row blocks, col blocks)")
        self.block_size = block_size
        self.rows, self.cols, self.table = make_table(self.mask.numpy())

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C), in blocks."""
        return tuple(self.mask.shape)

    @property
    def in_features(self) -> int:
        return self.mask.shape[0] * self.block_size

    @property
    def out_features(self) -> int:
        return self.mask.shape[1] * self.block_size

    @property
    def nnz(self) -> int:
        """The number of blocks that the layout has."""
        return len(self.rows)

    @property
    def density(self) -> float:
        """The fraction of the R x C blocks that the layout has."""
        return self.nnz / self.mask.numel()

    # ---- saving

    def packed(self) -> Tensor:
        """The mask as uint8, with eight blocks per byte."""
        return torch.from_numpy(np.packbits(self.mask.numpy()))

    @classmethod
    def from_packed(cls, packed: Tensor, shape: tuple[int, int], block_size: int) -> "BlockLayout":
        """The layout of shape (R, C) with this packed mask."""
        bits = np.unpackbits(packed.cpu().numpy(), count=shape[0] * shape[1])
        return cls(torch.from_numpy(bits.reshape(shape)).bool(), block_size)

    # ---- between blocks and matrices

    def to_dense(self, w: Tensor) -> Tensor:
        """The matrix (in_features, out_features) with the blocks w, (nnz, b, b), and zeros elsewhere."""
        (rows, cols), b = self.shape, self.block_size
        at = (self.rows * cols + self.cols).to(w.device)
        blocks = w.new_zeros(rows * cols, b, b).index_copy(0, at, w)
        return blocks.view(rows, cols, b, b).transpose(1, 2).reshape(rows * b, cols * b)

    def from_dense(self, matrix: Tensor) -> Tensor:
        """The blocks, (nnz, b, b), of a matrix (in_features, out_features); other values are ignored."""
        (rows, cols), b = self.shape, self.block_size
        blocks = matrix.reshape(rows, b, cols, b).transpose(1, 2).reshape(rows * cols, b, b)
        return blocks.index_select(0, (self.rows * cols + self.cols).to(matrix.device))

    # ---- as a value

    def __eq__(self, other) -> bool:
        same = isinstance(other, BlockLayout) and self.block_size == other.block_size
        return same and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.shape, self.block_size, self.packed().numpy().tobytes()))

    def __deepcopy__(self, memo) -> "BlockLayout":
        return self

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"BlockLayout({rows}x{cols} blocks of {self.block_size}, nnz {self.nnz}, density {self.density:.3g})"


def make_table(mask: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """rows, cols and table of a layout: rows, cols, then what `side` reads for x @ W and dy @ W.T, then `runs`."""
    rows, cols = mask.nonzero()
    parts, tail = [], []
    for transpose in (False, True):
        sources, targets, n = (cols, rows, mask.shape[0]) if transpose else (rows, cols, mask.shape[1])
        degree = np.bincount(targets, minlength=n)
        order = np.argsort(-degree, kind="stable")  # longest first, so that no processor has a long one left at the end
        blocks = np.lexsort((sources, order.argsort()[targets]))
        if not transpose:  # this is the order of the values
            rows, cols = rows[blocks], cols[blocks]
            sources, blocks = rows, np.arange(len(rows))
            parts = [rows, cols]
        else:
            sources = sources[blocks]
        parts += [order, np.concatenate([[0], np.cumsum(degree[order])]), sources, blocks]
        values, counts = np.unique(degree, return_counts=True)
        tail.append(len(values))
        first = 0
        for value, count in zip(values[::-1], counts[::-1], strict=True):
            here = order[first : first + count]
            tail += [value, count, here[0] if here[-1] - here[0] == count - 1 else -1]
            first += count
    table = torch.from_numpy(np.concatenate([*parts, tail]).astype(np.int32))
    return torch.from_numpy(rows.copy()), torch.from_numpy(cols.copy()), table


def side(table: Tensor, nnz: int, n_in: int, n_out: int, transpose: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parts of a layout's table for x @ W, or for dy @ W.T (transpose): targets, ends, sources, blocks.

    targets: output blocks, those with most blocks first, (n_out,)
    ends: the blocks of target i are entries ends[i] to ends[i + 1] of sources and blocks, (n_out + 1,)
    sources, blocks: the input block to read and the block of w to multiply it by, (nnz,) each
    n_in, n_out: numbers of blocks of the product's input and output
    """
    start = 2 * nnz + (2 * nnz + 2 * n_in + 1 if transpose else 0)
    sizes = (n_out, n_out + 1, nnz, nnz)
    return table[start : start + sum(sizes)].split(sizes)


def runs(table: Tensor, nnz: int, n_in: int, n_out: int, transpose: bool) -> list[tuple[int, int, int]]:
    """Runs of targets with equally many blocks, in `side`'s order, as (blocks per target, targets, first).

    first: the first target if the run's targets are contiguous, otherwise -1. The table must be on the CPU.
    """
    tail = table[6 * nnz + 2 * (n_in + n_out) + 2 :].tolist()
    if transpose:
        tail = tail[1 + 3 * tail[0] :]
    return [tuple(tail[i : i + 3]) for i in range(1, 1 + 3 * tail[0], 3)]


def common_blocks(old: BlockLayout, new: BlockLayout) -> tuple[Tensor, Tensor]:
    """Indices, in the old layout and in the new one, of the blocks that both have, (n,) each."""
    index = torch.full(old.shape, -1)
    index[old.rows, old.cols] = torch.arange(old.nnz)
    before = index[new.rows, new.cols]
    after = (before >= 0).nonzero()[:, 0]
    return before[after], after
