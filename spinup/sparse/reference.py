"""The products in plain PyTorch: gather each output's inputs for one batched product or, if that is faster, multiply
block by block and accumulate in place.

These are functions of tensors without autograd; `spinup.sparse.ops` turns them into operators. They run on any device,
and the Triton kernels are tested against them.
"""

import math

import torch
from torch import Tensor

from spinup.sparse.layout import runs, side

# {block size: density} above which a dense product, with zeros filled in, is about as fast or faster (M = 256, one
# thread). For dW the limit is at most 0.6.
DENSE_ABOVE = {16: 0.25, 32: 0.45, 64: 0.8, 128: 0.8}
DENSE_ABOVE_OUTER = {b: min(density, 0.6) for b, density in DENSE_ABOVE.items()}
GATHERED = 2**21  # numbers gathered at a time, few enough to be in the cache when they are read again


def matmul(x: Tensor, w: Tensor, table: Tensor, out_features: int, transpose: bool) -> Tensor:
    """x @ W, or x @ W.T (transpose): (M, in) -> (M, out).

    w: the blocks of W, (nnz, b, b); table: that of W's BlockLayout
    """
    nnz, b = w.shape[:2]
    w = w.contiguous()
    m, n_in, n_out = x.shape[0], x.shape[1] // b, out_features // b
    if nnz > DENSE_ABOVE[b] * n_in * n_out:
        dense = to_dense(w, table, *((n_out, n_in) if transpose else (n_in, n_out)))
        return x @ (dense.t() if transpose else dense)
    if block_by_block(m, b, transpose) and x.dtype in (torch.float32, torch.float64):
        return matmul_by_block(x, w, table, out_features, transpose)
    targets, _, sources, blocks = side(table, nnz, n_in, n_out, transpose)
    x = x.contiguous().view(m, n_in, b)
    y = x.new_empty(m, n_out, b)
    for degree, here, there, start in pieces(runs(table, nnz, n_in, n_out, transpose), m * b):
        count = there.stop - there.start
        if degree == 0:
            y.index_fill_(1, targets[there].long(), 0)
            continue
        gathered = x.index_select(1, sources[here]).view(m, count, degree * b).transpose(0, 1)
        factor = stack_transposed(w, blocks[here], degree) if transpose else w[here].view(count, degree * b, b)
        product = torch.bmm(gathered, factor).transpose(0, 1)  # writing directly into y, with its strides, is slower
        if start >= 0:  # the outputs are contiguous
            y[:, start : start + count] = product
        else:
            y.index_copy_(1, targets[there].long(), product)
    return y.view(m, out_features)


def block_by_block(m: int, b: int, transpose: bool) -> bool:
    """Whether multiplying block by block is faster than gathering, which has to copy transposed blocks."""
    return m * b >= (1024 if b >= 64 else 3072 if transpose else math.inf)


def matmul_by_block(x: Tensor, w: Tensor, table: Tensor, out_features: int, transpose: bool) -> Tensor:
    """Like matmul, with one call per block, which reads a slice of x and adds to a slice of y in place.

    Sums are rounded to the dtype of x after each block, which is too inaccurate for half precision.
    """
    b, nnz = w.shape[1], len(w)
    rows, cols = table[: 2 * nnz].view(2, nnz).tolist()
    sources, targets = (cols, rows) if transpose else (rows, cols)
    y = x.new_zeros(len(x), out_features)
    x_of, y_of = x.split(b, 1), y.split(b, 1)
    for block, source, target in zip(w.transpose(1, 2) if transpose else w, sources, targets, strict=True):
        y_of[target].addmm_(x_of[source], block)
    return y


def outer(x: Tensor, dy: Tensor, table: Tensor, nnz: int, block_size: int) -> Tensor:
    """The blocks of x.T @ dy that the layout has: (M, in), (M, out) -> (nnz, b, b)."""
    b = block_size
    m, n_in, n_out = x.shape[0], x.shape[1] // b, dy.shape[1] // b
    if nnz > DENSE_ABOVE_OUTER[b] * n_in * n_out:
        at = table[:nnz].long() * n_out + table[nnz : 2 * nnz]
        return (x.t() @ dy).view(n_in, b, n_out, b).transpose(1, 2).reshape(-1, b, b).index_select(0, at)
    targets, _, sources, _ = side(table, nnz, n_in, n_out, False)
    x, dy = x.contiguous().view(m, n_in, b), dy.contiguous().view(m, n_out, b)
    dw = x.new_empty(nnz, b, b)
    for degree, here, there, start in pieces(runs(table, nnz, n_in, n_out, False), m * b):
        if degree:
            count = there.stop - there.start
            gathered = x.index_select(1, sources[here]).view(m, count, degree * b).permute(1, 2, 0)
            factor = dy[:, start : start + count] if start >= 0 else dy.index_select(1, targets[there])
            torch.bmm(gathered, factor.transpose(0, 1), out=dw[here].view(count, degree * b, b))
    return dw


def pieces(all_runs: list[tuple[int, int, int]], numbers_per_block: int):
    """The runs of `layout.runs`, split so that about GATHERED numbers are gathered at a time.

    Yields (blocks per target, slice of the blocks, slice of the targets, first target if contiguous, otherwise -1).
    """
    first = at = 0
    for degree, count, start in all_runs:
        most = max(1, GATHERED // (1 + degree * numbers_per_block)) if degree else count
        for i in range(0, count, most):
            n = min(most, count - i)
            yield degree, slice(at, at + n * degree), slice(first, first + n), start + i if start >= 0 else -1
            first, at = first + n, at + n * degree


def stack_transposed(w: Tensor, blocks: Tensor, degree: int) -> Tensor:
    """The transposed blocks, stacked `degree` at a time: (len(blocks) / degree, degree * b, b)."""
    b = w.shape[1]
    lines = blocks.view(-1, 1, degree) * b + torch.arange(b, dtype=torch.int32, device=w.device).view(b, 1)
    return w.view(-1, b).index_select(0, lines.view(-1)).view(-1, b, degree * b).transpose(1, 2)


def to_dense(w: Tensor, table: Tensor, rows: int, cols: int) -> Tensor:
    """W, (rows * b, cols * b), with zeros in place of missing blocks."""
    nnz, b = w.shape[:2]
    dense = w.new_zeros(rows, b, cols, b)
    dense.transpose(1, 2).index_put_((table[:nnz].long(), table[nnz : 2 * nnz].long()), w)
    return dense.view(rows * b, cols * b)
