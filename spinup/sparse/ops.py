"""x @ W for a block-sparse W as a PyTorch operator, differentiable any number of times and usable in torch.compile.

The two operators are closed under differentiation: the derivatives of `block_matmul` are a `block_matmul` with the
transposed matrix and a `block_outer`, and those of `block_outer` are two `block_matmul`. Each has an implementation in
plain PyTorch (reference.py) and one in Triton (kernels.py), chosen by device.
"""

import torch
from torch import Tensor

from spinup.sparse import reference
from spinup.sparse.layout import BlockLayout

library = torch.library.Library("spinup", "DEF")
library.define("block_matmul(Tensor x, Tensor w, Tensor table, int out_features, bool transpose) -> Tensor")
library.define("block_outer(Tensor x, Tensor dy, Tensor table, int nnz, int block_size) -> Tensor")
library.impl("block_matmul", reference.matmul, "CPU")
library.impl("block_outer", reference.outer, "CPU")


@torch.library.impl(library, "block_matmul", "CUDA")
def _(x: Tensor, w: Tensor, table: Tensor, out_features: int, transpose: bool) -> Tensor:
    from spinup.sparse import kernels

    return kernels.matmul(x, w, table, out_features, transpose)


@torch.library.impl(library, "block_outer", "CUDA")
def _(x: Tensor, dy: Tensor, table: Tensor, nnz: int, block_size: int) -> Tensor:
    from spinup.sparse import kernels

    return kernels.outer(x, dy, table, nnz, block_size)


@torch.library.register_fake("spinup::block_matmul")
def _(x, w, table, out_features, transpose):
    return x.new_empty(x.shape[0], out_features)


@torch.library.register_fake("spinup::block_outer")
def _(x, dy, table, nnz, block_size):
    return x.new_empty(nnz, block_size, block_size)


def _matmul_context(ctx, inputs, output) -> None:
    x, w, table, _, ctx.transpose = inputs
    ctx.save_for_backward(x, w, table)


def _matmul_backward(ctx, dy: Tensor):
    x, w, table = ctx.saved_tensors
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dx = torch.ops.spinup.block_matmul(dy, w, table, x.shape[1], not ctx.transpose)
    if ctx.needs_input_grad[1]:
        pair = (dy, x) if ctx.transpose else (x, dy)
        dw = torch.ops.spinup.block_outer(*pair, table, w.shape[0], w.shape[1])
    return dx, dw, None, None, None


def _outer_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3])


def _outer_backward(ctx, dw: Tensor):
    x, dy, table = ctx.saved_tensors
    dw = dw.contiguous()
    d_x = d_dy = None
    if ctx.needs_input_grad[0]:
        d_x = torch.ops.spinup.block_matmul(dy, dw, table, x.shape[1], True)
    if ctx.needs_input_grad[1]:
        d_dy = torch.ops.spinup.block_matmul(x, dw, table, dy.shape[1], False)
    return d_x, d_dy, None, None, None


torch.library.register_autograd("spinup::block_matmul", _matmul_backward, setup_context=_matmul_context)
torch.library.register_autograd("spinup::block_outer", _outer_backward, setup_context=_outer_context)


def block_matmul(
    x: Tensor, w: Tensor, layout: BlockLayout, table: Tensor | None = None, gates: Tensor | None = None
) -> Tensor:
    """x @ W: (..., in_features) -> (..., out_features), for the matrix W with the blocks w, (nnz, b, b).

    gates: a factor for each block, (nnz,)
    table: layout.table on x's device, if the caller has it

    Under autocast the product has autocast's dtype, like dense products. Raises ValueError if shapes don't fit the
    layout.
    """
    if x.shape[-1] != layout.in_features:
        raise ValueError(f"x has {x.shape[-1]} features; the layout needs {layout.in_features}")
    if w.shape != (layout.nnz, layout.block_size, layout.block_size):
        expected = (layout.nnz, layout.block_size, layout.block_size)
        raise ValueError(f"the blocks have shape {tuple(w.shape)}; this layout needs {expected}")
    w = w if gates is None else w * gates.view(-1, 1, 1)
    table = layout.table.to(x.device) if table is None else table
    if x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, w = x.to(dtype), w.to(dtype)
    flat = x.reshape(-1, layout.in_features)
    y = torch.ops.spinup.block_matmul(flat, w, table, layout.out_features, False)
    return y.view(*x.shape[:-1], layout.out_features)
