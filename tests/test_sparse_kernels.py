"""The Triton kernels: in its interpreter on the CPU, compiled for a GPU without having one, and on a GPU."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spinup.sparse import block_matmul, layouts

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason='Triton is not installed: pip install -e ".[triton]" (Linux only)',
)


def run_python(*arguments: str, **variables: str) -> list[dict]:
    """The lines of JSON that a script or `-c` code prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_triton
def test_kernels_under_the_interpreter():
    """Errors at most 1.5 times those of dense products of the same dtype, both against float64."""
    *cases, at_highest, at_high = run_python(str(ROOT / "tests" / "interpreted.py"), TRITON_INTERPRET="1")
    assert len(cases) == 18
    for case in cases:
        assert case["repeats"], case
        assert case["dtypes"], case
        for error, dense in zip(case["errors"], case["dense"], strict=True):
            # Triton accumulates in float32 in another order than the CPU's dense product, which splits long sums.
            assert error <= max(1.5 * dense, 2e-7 if case["case"][1] == "float32" else 0), case
    assert at_highest == {"double": True, "empty": [0, 128], "precision": ["ieee", "ieee"]}
    assert at_high == {"precision": ["tf32", "ieee"]}


COMPILE = """
import json
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from spinup.sparse import kernels

def ptx(kernel, dtype, warps, **constants):
    names = kernel.arg_names
    tables = ("targets_ptr", "ends_ptr", "sources_ptr", "blocks_ptr", "rows_ptr", "cols_ptr")
    kinds = {n: "*i32" if n in tables else "*" + dtype if n.endswith("_ptr") else "i32" for n in names}
    signature = {n: "constexpr" if n in constants else kinds[n] for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n.endswith(("_ptr", "stride"))}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, aligned)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": 3})
    return made.asm["ptx"], made.metadata.shared

for dtype, precision in (("bf16", "ieee"), ("fp32", "tf32")):
    bk = 64 if dtype == "bf16" else 32
    for b, warps in ((16, 4), (128, 8)):
        common = dict(B=b, PRECISION=precision)
        for name, (text, shared) in {
            "matmul": ptx(kernels.matmul_kernel, dtype, warps, BM=128, BK=min(b, bk), TRANSPOSE=b == 16, **common),
            "outer": ptx(kernels.outer_kernel, dtype, warps, BM=bk, **common),
        }.items():
            print(json.dumps([name, dtype, b, "wgmma.mma" in text, "mma.sync" in text, "cp.async" in text, shared]))
"""


@needs_triton
def test_kernels_compile_for_hopper_to_matrix_instructions(tmp_path):
    """Needs no GPU, and says nothing about speed."""
    made = run_python("-W", "ignore", "-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path))
    assert len(made) == 8
    for name, _, b, wgmma, mma, pipelined, shared in made:
        assert wgmma or (mma and name == "outer" and b == 16)
        assert pipelined
        assert shared <= 227 * 1024


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("name", ["regular", "barabasi_albert"])
@pytest.mark.parametrize("m", [1, 1000])
def test_on_a_gpu(name, block_size, dtype, m):
    torch.manual_seed(0)
    layout = layouts.make(name, 6 * block_size, 8 * block_size, 0.3, block_size)
    x = torch.randn(m, layout.in_features, device="cuda", dtype=dtype, requires_grad=True)
    w = torch.randn(layout.nnz, block_size, block_size, device="cuda", dtype=dtype, requires_grad=True)
    dy = torch.randn(m, layout.out_features, device="cuda", dtype=dtype)
    matrix = layout.to_dense(w.detach())
    first, second = ((y := block_matmul(x, w, layout), *torch.autograd.grad(y, (x, w), dy)) for _ in range(2))
    x = x.detach()
    exact = [x.double() @ matrix.double(), dy.double() @ matrix.t().double()]
    exact += [layout.from_dense(x.t().double() @ dy.double())]
    dense = [x @ matrix, dy @ matrix.t(), layout.from_dense(x.t() @ dy)]
    fan_in, fan_out = (layout.mask.sum(dim).max().item() * block_size for dim in (0, 1))
    for found, again, wanted, other, n in zip(first, second, exact, dense, (fan_in, fan_out, m), strict=True):
        assert torch.equal(found, again)
        error, dense_error = ((t.double() - wanted).norm() / wanted.norm() for t in (found, other))
        assert error <= 1.5 * max(dense_error, running_sum_error(n, dtype))


def running_sum_error(n: int, dtype: torch.dtype) -> float:
    """The relative error expected of one running sum of n random terms: u sqrt(n / 6), u half of eps.

    After k terms the sum is about sqrt(k), and rounding it adds a variance of u^2 k / 3. Our kernels keep one such sum
    in float32 for each output; dense libraries keep several, which makes their error smaller.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.finfo(wide).eps / 2 * math.sqrt(n / 6)


def test_running_sum_error_matches_a_simulation():
    terms = torch.randn(4000, 600, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(4000)
    for column in terms.t():
        total += column
    error = (total.double() - terms.double().sum(1)).norm() / terms.double().sum(1).norm()
    assert error.item() == pytest.approx(running_sum_error(600, torch.float32), rel=0.3)


@pytest.mark.gpu
@needs_triton
def test_training_on_a_gpu_equals_that_of_a_masked_dense_layer():
    from spinup.sparse import BlockSparseLinear

    torch.manual_seed(0)
    layer = BlockSparseLinear(256, 256, 0.2, block_size=32).cuda()
    dense, mask = layer.to_dense(), layer.layout.to_dense(torch.ones(layer.layout.nnz, 32, 32)).t().cuda()
    x, y = torch.randn(512, 256, device="cuda"), torch.randn(512, 256, device="cuda")
    for _ in range(20):
        losses = []
        for net in (layer, dense):
            loss = (net(x) - y).square().mean()
            grads = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), grads, strict=True):
                    p -= 10 * (g * mask if p is dense.weight else g)
            losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] < 0.97
