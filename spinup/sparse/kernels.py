"""The products of reference.py in Triton, for CUDA. The only file that imports Triton.

Both kernels map the batch to the rows of a matrix instruction, so that even blocks of 16 can use it. Both accumulate in
float32, in a fixed order and without atomics, so that equal inputs give bitwise equal outputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spinup.sparse import reference
from spinup.sparse.layout import side

INTERPRETED = triton.knobs.runtime.interpret  # TRITON_INTERPRET=1: on the CPU, for tests
PROGRAMS = 264  # two per multiprocessor of an H100 or H200: `outer` splits the batch until it has about as many


@triton.jit
def matmul_kernel(
    x_ptr, w_ptr, y_ptr, targets_ptr, ends_ptr, sources_ptr, blocks_ptr,
    m, x_stride, y_stride,
    B: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, TRANSPOSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of BM rows of the batch and one output block: y = sum of x_source @ w_block over the target's blocks."""
    target = tl.program_id(1)  # in order of decreasing number of blocks
    rows = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    inside = rows[:, None] < m
    k, n = tl.arange(0, BK), tl.arange(0, B)
    # A block is w[k, n], and of the transposed matrix w[n, k].
    in_block = n[None, :] * B + k[:, None] if TRANSPOSE else k[:, None] * B + n[None, :]
    step = BK if TRANSPOSE else BK * B
    parts: tl.constexpr = B // BK
    start, stop = tl.load(ends_ptr + target), tl.load(ends_ptr + target + 1)
    total = tl.zeros((BM, B), dtype=tl.float32)
    for i in range(start * parts, stop * parts):
        source, block = tl.load(sources_ptr + i // parts), tl.load(blocks_ptr + i // parts).to(tl.int64)
        part = i % parts
        x = tl.load(x_ptr + rows[:, None] * x_stride + (source * B + part * BK + k)[None, :], mask=inside, other=0.0)
        w = tl.load(w_ptr + block * (B * B) + part * step + in_block)
        total = tl.dot(x, w, total, input_precision=PRECISION)
    column = tl.load(targets_ptr + target) * B + n
    tl.store(y_ptr + rows[:, None] * y_stride + column[None, :], total.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def outer_kernel(
    x_ptr, dy_ptr, out_ptr, rows_ptr, cols_ptr,
    m, x_stride, dy_stride, nnz, m_per_split,
    B: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of x.T @ dy over one part of the batch."""
    block, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i, j = tl.load(rows_ptr + block) * B + tl.arange(0, B), tl.load(cols_ptr + block) * B + tl.arange(0, B)
    first = split.to(tl.int64) * m_per_split
    last = tl.minimum(first + m_per_split, m)
    total = tl.zeros((B, B), dtype=tl.float32)
    for start in range(first, last, BM):
        batch = start + tl.arange(0, BM)
        x = tl.load(x_ptr + batch[None, :] * x_stride + i[:, None], mask=batch[None, :] < last, other=0.0)
        dy = tl.load(dy_ptr + batch[:, None] * dy_stride + j[None, :], mask=batch[:, None] < last, other=0.0)
        total = tl.dot(x, dy, total, input_precision=PRECISION)
    at = tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]
    tl.store(out_ptr + (split * nnz + block) * (B * B) + at, total.to(out_ptr.dtype.element_ty))


def precision(dtype: torch.dtype) -> str:
    """Precision of float32 products, as set by torch.set_float32_matmul_precision; Triton's own default is TF32."""
    return "tf32" if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"


def batch_tile(m: int) -> int:
    """Rows of the batch in a tile: the power of 2 that fits the batch, from 16 to 128."""
    return min(128, max(16, triton.next_power_of_2(m)))


def matmul(x: Tensor, w: Tensor, table: Tensor, out_features: int, transpose: bool) -> Tensor:
    """Like reference.matmul, which also does the products of float64: Triton has no matrix instruction for it."""
    if x.dtype == torch.float64:
        return reference.matmul(x, w, table, out_features, transpose)
    nnz, b = w.shape[:2]
    m, n_in, n_out = x.shape[0], x.shape[1] // b, out_features // b
    y = x.new_empty(m, out_features)
    if not m:
        return y
    x, w = x if x.stride(1) == 1 else x.contiguous(), w.contiguous()
    bm = batch_tile(m)
    matmul_kernel[(triton.cdiv(m, bm), n_out)](
        x, w, y, *side(table, nnz, n_in, n_out, transpose),
        m, x.stride(0), y.stride(0),
        B=b, BM=bm, BK=min(b, 64 if x.element_size() < 4 else 32), TRANSPOSE=transpose, PRECISION=precision(x.dtype),
        num_warps=8 if bm * b >= 128 * 128 else 4, num_stages=3,
    )  # fmt: skip
    return y


def outer(x: Tensor, dy: Tensor, table: Tensor, nnz: int, block_size: int) -> Tensor:
    """Like reference.outer. With few blocks, several programs share the batch, and their results are added."""
    if x.dtype == torch.float64:
        return reference.outer(x, dy, table, nnz, block_size)
    b, m = block_size, x.shape[0]
    x, dy = (t if t.stride(1) == 1 else t.contiguous() for t in (x, dy))
    bm = 64 if x.element_size() < 4 else 32
    splits = max(1, min(triton.cdiv(m, 8 * bm), PROGRAMS // nnz))
    m_per_split = triton.cdiv(triton.cdiv(m, splits), bm) * bm
    out = x.new_empty(splits, nnz, b, b, dtype=torch.float32 if splits > 1 else x.dtype)
    outer_kernel[(nnz, splits)](
        x, dy, out, table[:nnz], table[nnz : 2 * nnz],
        m, x.stride(0), dy.stride(0), nnz, m_per_split,
        B=b, BM=bm, PRECISION=precision(x.dtype), num_warps=8 if b == 128 else 4, num_stages=3,
    )  # fmt: skip
    return out[0] if splits == 1 else out.sum(0).to(x.dtype)
