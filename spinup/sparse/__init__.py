"""Block-sparse linear layers for PyTorch, fast on the CPU and with Triton kernels for CUDA.

    from spinup.sparse import BlockSparseLinear
    layer = BlockSparseLinear(2048, 2048, density=0.1, block_size=64)

Nothing here needs the rest of spinup: torch and numpy are enough. Triton is imported only for CUDA tensors, and
matplotlib only to draw.
"""

from spinup.sparse import layouts
from spinup.sparse.attention import block_sparse_attention
from spinup.sparse.draw import draw
from spinup.sparse.dynamic import Schedule, matrix_block_norms
from spinup.sparse.layout import BlockLayout
from spinup.sparse.linear import BlockSparseLinear, block_norms, linear_factory, summary
from spinup.sparse.ops import block_matmul

__all__ = [
    "BlockLayout",
    "BlockSparseLinear",
    "Schedule",
    "block_matmul",
    "block_norms",
    "block_sparse_attention",
    "draw",
    "layouts",
    "linear_factory",
    "matrix_block_norms",
    "summary",
]
