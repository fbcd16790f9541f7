"""Attention restricted to blocks of (query, key) pairs: FlexAttention on CUDA, a mask elsewhere."""

import torch
from torch import Tensor
from torch.nn import functional

from spinup.sparse.layout import BlockLayout


def block_sparse_attention(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None) -> Tensor:
    """softmax(q k.T * scale) v over the pairs in the blocks of `layout`, whose rows are queries and columns keys.

    q: (..., layout.in_features, d); k, v: (..., layout.out_features, d)
    scale: None: 1 / sqrt(d)

    The result is 0 for a query without blocks. On CUDA this compiles FlexAttention's kernel (arXiv:2412.05496), which
    skips missing blocks. Elsewhere all products are computed and masked, because FlexAttention has no backward pass on
    the CPU. Raises ValueError for lengths that differ from the layout's.
    """
    if (q.shape[-2], k.shape[-2]) != (layout.in_features, layout.out_features):
        lengths = f"{q.shape[-2]} queries and {k.shape[-2]} keys"
        raise ValueError(f"{lengths}, but the layout has {layout.in_features} and {layout.out_features}")
    if q.is_cuda:
        return _flex(q, k, v, layout, scale)
    mask = layout.mask.repeat_interleave(layout.block_size, 0).repeat_interleave(layout.block_size, 1).to(q.device)
    empty = ~mask.any(1, keepdim=True)
    # The softmax over no keys is undefined: let such a query see all keys, and replace its result by 0.
    y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask | empty, scale=scale)
    return y.masked_fill(empty, 0)


def _flex(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    lead = q.shape[:-2]
    q, k, v = (x.reshape(-1, 1, *x.shape[-2:]) for x in (q, k, v))
    y = torch.compile(flex_attention)(q, k, v, block_mask=flex_mask(layout, q.device), scale=scale)
    return y.reshape(*lead, *y.shape[-2:])


def flex_mask(layout: BlockLayout, device="cpu"):
    """The layout as FlexAttention's BlockMask: all its blocks are full."""
    from torch.nn.attention.flex_attention import BlockMask

    counts = layout.mask.sum(1).int()[None, None].to(device)
    keys = layout.mask.int().argsort(dim=1, descending=True, stable=True).int()[None, None].to(device)
    return BlockMask.from_kv_blocks(
        torch.zeros_like(counts),
        torch.zeros_like(keys),
        counts,
        keys,
        BLOCK_SIZE=layout.block_size,
        seq_lengths=(layout.in_features, layout.out_features),
    )
