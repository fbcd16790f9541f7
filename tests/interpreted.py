"""Runs the Triton kernels on the CPU, with TRITON_INTERPRET=1, and prints a line of JSON per case.

test_sparse_kernels.py starts it as a process, because the variable must be set before Triton is imported.
"""

import json

import torch

from spinup.sparse import BlockLayout, kernels, layouts, reference

assert kernels.INTERPRETED
torch.use_deterministic_algorithms(True)  # torch.empty returns NaN, which shows what a kernel leaves unwritten
G = torch.Generator().manual_seed(0)
LAYOUTS = {
    "one block": BlockLayout([[0, 0], [0, 1], [0, 0]], 16),
    "empty row and column": BlockLayout([[1, 0, 1], [0, 0, 0], [0, 0, 1]], 32),
    "all blocks": layouts.dense(96, 64, 32),
    "uneven": layouts.barabasi_albert(160, 128, 0.3, 16, G),
    "regular": layouts.regular(192, 256, 0.5, 64, G),
    "large blocks": layouts.random(256, 384, 0.5, 128, G),
}


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


def products(layout: BlockLayout, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor, module) -> list[torch.Tensor]:
    """y, dx and dW, computed by kernels or by reference."""
    y = module.matmul(x, w, layout.table, layout.out_features, False)
    dx = module.matmul(dy, w, layout.table, layout.in_features, True)
    return [y, dx, module.outer(x, dy, layout.table, layout.nnz, layout.block_size)]


def case(name: str, dtype: torch.dtype, m: int, strided: bool = False) -> dict:
    """Errors of y, dx and dW against float64, those of dense products, and whether a repeat gives the same."""
    layout, b = LAYOUTS[name], LAYOUTS[name].block_size
    x, dy = (torch.randn(m, n, generator=G).to(dtype) for n in (layout.in_features, layout.out_features))
    w = torch.randn(layout.nnz, b, b, generator=G).to(dtype)
    if strided:  # columns of a wider tensor, a transposed one, and blocks that are transposed in memory
        x, dy = x.repeat(1, 3)[:, : layout.in_features], dy.t().contiguous().t()
        w = w.transpose(1, 2).contiguous().transpose(1, 2)
    found, matrix = products(layout, x, w, dy, kernels), layout.to_dense(w)
    exact = [x.double() @ matrix.double(), dy.double() @ matrix.t().double()]
    exact += [layout.from_dense(x.t().double() @ dy.double())]
    dense = [x @ matrix, dy @ matrix.t(), layout.from_dense(x.t() @ dy)]
    again = products(layout, x, w, dy, kernels)
    return {
        "case": [name, str(dtype).removeprefix("torch."), m, strided],
        "errors": [relative(*pair) for pair in zip(found, exact, strict=True)],
        "dense": [relative(*pair) for pair in zip(dense, exact, strict=True)],
        "repeats": all(torch.equal(*pair) for pair in zip(found, again, strict=True)),
        "dtypes": all(t.dtype == dtype for t in found),
    }


for name in LAYOUTS:
    for dtype in (torch.float32, torch.float16):
        print(json.dumps(case(name, dtype, 37)))
for m in (1, 7, 64, 1000):
    print(json.dumps(case("empty row and column", torch.float32, m)))
print(json.dumps(case("uneven", torch.float32, 20, strided=True)))
print(json.dumps(case("one block", torch.float16, 1100)))  # a batch so large, with so few blocks, is split

layout = LAYOUTS["uneven"]
x, w = torch.randn(5, 160, generator=G).double(), torch.randn(layout.nnz, 16, 16, generator=G).double()
double = [m.matmul(x, w, layout.table, 128, False) for m in (kernels, reference)]
empty = kernels.matmul(x[:0].float(), w.float(), layout.table, 128, False)
print(json.dumps({"double": torch.equal(*double), "empty": list(empty.shape), "precision": [
    kernels.precision(torch.float32), kernels.precision(torch.float16)]}))  # fmt: skip
torch.set_float32_matmul_precision("high")
print(json.dumps({"precision": [kernels.precision(torch.float32), kernels.precision(torch.float16)]}))
