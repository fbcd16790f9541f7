"""Compare block-sparse and dense layers: times, speed-ups and errors.

    python benchmarks/sparse.py                       the table for the CPU, with 2 threads
    python benchmarks/sparse.py --errors              relative errors against float64, and those of dense products
    python benchmarks/sparse.py --device cuda         the table for the GPU: all shapes, dtypes and block sizes
    python benchmarks/sparse.py --device cuda --quick

Timed are the products of a layer (M, in) -> (M, out): forward, dx, dW, and forward with backward through autograd. They
are compared with the same layer in torch (dense), a square dense layer with as many weights as the blocks have (dense
of equal parameters), torch's own block-sparse format, which has only the forward pass (torch BSR), and on a GPU with
stk if it is installed. Before a shape is timed, y, dx and dW are checked against the masked dense matrix. All take
turns, so that noise affects them equally; times are medians with quartiles. With --threads 1 they are CPU time, which
other programs hardly disturb; otherwise wall time, for which the machine should be idle.
Writes CSV and a figure into --out.
"""

import argparse
import csv
import itertools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from spinup.compute import accel
from spinup.sparse import BlockLayout, block_matmul, layouts

CPU_SHAPES = [(256, 2048, 2048), (256, 1024, 1024), (256, 256, 256), (1, 2048, 2048)]
GPU_SHAPES = [
    *[(64, 12288, 12288), (256, 1024, 1024), (256, 256, 256), (4096, 1024, 1024)],
    *[(4096, 4096, 4096), (8192, 8192, 8192), (4096, 4096, 16384)],
]
DENSITIES = [1.0, 0.5, 0.25, 0.1, 0.05, 0.02]
BLOCK_SIZES = [16, 32, 64, 128]
GPU_DTYPES = ["bf16", "fp16", "fp32", "tf32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}
PASSES = ("forward", "dx", "dW", "forward+backward")


# ---- what is timed


def operands(layout: BlockLayout, m: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Random x, w and dy, with w scaled so that y is about 1."""
    g = torch.Generator().manual_seed(0)
    scale = math.sqrt(layout.in_features * layout.density)
    shapes = [(m, layout.in_features), (layout.nnz, layout.block_size, layout.block_size), (m, layout.out_features)]
    x, w, dy = (torch.randn(shape, generator=g) for shape in shapes)
    return tuple(t.to(device, dtype) for t in (x, w / scale, dy))


def with_backward(product: Callable, x: Tensor, w: Tensor, dy: Tensor) -> Callable[[], tuple]:
    """A function that computes y, dx and dw, forward and backward."""
    x, w = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()

    def run() -> tuple:
        y = product(x, w)
        return (y, *torch.autograd.grad(y, (x, w), dy))

    return run


def sparse_passes(layout: BlockLayout, x: Tensor, w: Tensor, dy: Tensor) -> dict[str, Callable]:
    table, op = layout.table.to(x.device), torch.ops.spinup
    size = (layout.nnz, layout.block_size)
    return {
        "forward": lambda: op.block_matmul(x, w, table, layout.out_features, False),
        "dx": lambda: op.block_matmul(dy, w, table, layout.in_features, True),
        "dW": lambda: op.block_outer(x, dy, table, *size),
        "forward+backward": with_backward(lambda x, w: block_matmul(x, w, layout, table), x, w, dy),
    }


def dense_passes(x: Tensor, matrix: Tensor, dy: Tensor) -> dict[str, Callable]:
    """Those of a dense layer, with the weight as in nn.Linear, (out, in)."""
    weight = matrix.t().contiguous()
    return {
        "forward": lambda: torch.nn.functional.linear(x, weight),
        "dx": lambda: dy @ weight,
        "dW": lambda: dy.t() @ x,
        "forward+backward": with_backward(torch.nn.functional.linear, x, weight, dy),
    }


def others(layout: BlockLayout, m: int, matrix: Tensor, x: Tensor) -> dict[str, dict[str, Callable]]:
    """The other kinds of layers, if they run here."""
    side = round(math.sqrt(layout.density * layout.in_features * layout.out_features) / 8) * 8
    small = [torch.randn(m, side).to(x), torch.randn(side, side).to(x), torch.randn(m, side).to(x)]
    found = {"dense of equal parameters": dense_passes(*small)}
    try:
        bsr = matrix.t().contiguous().to_sparse_bsr((layout.block_size, layout.block_size))
        bsr @ x.t()
        found["torch BSR"] = {"forward": lambda: (bsr @ x.t()).t()}
    except (RuntimeError, NotImplementedError) as error:
        print(f"  torch BSR does not run: {str(error).splitlines()[0][:90]}", file=sys.stderr)
    if x.is_cuda and layout.block_size == 128:
        try:
            import stk
        except ModuleNotFoundError:
            return found
        blocked = stk.ops.to_sparse(matrix.contiguous(), 128)
        found["stk"] = {"forward": lambda: stk.ops.dsd(x, blocked)}
    return found


def check(layout: BlockLayout, x: Tensor, w: Tensor, dy: Tensor) -> None:
    """Exit if y, dx or dW differs from that of the masked matrix."""
    for name, (error, dense) in errors(layout, x, w, dy).items():
        if not error <= max(1.5 * dense, 1e-6):
            sys.exit(f"{layout}, {x.dtype}: {name} is wrong, relative error {error:.2e} (dense {dense:.2e})")


def errors(layout: BlockLayout, x: Tensor, w: Tensor, dy: Tensor) -> dict[str, tuple[float, float]]:
    """Relative errors (2-norm) against float64 of y, dx, dW: block-sparse, and dense in the same dtype."""
    matrix = layout.to_dense(w)
    found = with_backward(lambda x, w: block_matmul(x, w, layout), x, w, dy)()
    dense = [x @ matrix, dy @ matrix.t(), layout.from_dense(x.t() @ dy)]
    x, matrix, dy = x.double(), matrix.double(), dy.double()
    exact = [x @ matrix, dy @ matrix.t(), layout.from_dense(x.t() @ dy)]

    def relative(y: Tensor, exact: Tensor) -> float:
        return ((y.double() - exact).norm() / exact.norm()).item()

    pairs = zip(("y", "dx", "dW"), found, dense, exact, strict=True)
    return {name: (relative(a, e), relative(b, e)) for name, a, b, e in pairs}


# ---- timing


def as_graph(run: Callable) -> Callable:
    """The same work as a CUDA graph, so that launching costs almost nothing."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def seconds(run: Callable, cuda: bool) -> float:
    if cuda:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def take_turns(runs: dict, budget: float, cuda: bool) -> dict[tuple, tuple[float, ...]]:
    """{key: (median, lower and upper quartile, minimum)} of the seconds, from rounds of all for `budget` seconds."""
    for run in runs.values():
        run()
    times = {key: [] for key in runs}
    stop = time.perf_counter() + budget
    while time.perf_counter() < stop or len(times[next(iter(runs))]) < 5:
        for key, run in runs.items():
            times[key].append(seconds(run, cuda))
    quartiles = {key: statistics.quantiles(values, n=4) for key, values in times.items()}
    return {key: (q[1], q[0], q[2], min(times[key])) for key, q in quartiles.items()}


def measure(m: int, layout: BlockLayout, dtype: str, device: str, budget: float) -> list[dict]:
    """A row of the table for each product, kind of layer and kind of launch."""
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    cuda = device == "cuda"
    x, w, dy = operands(layout, m, DTYPES[dtype], device)
    check(layout, x, w, dy)
    matrix = layout.to_dense(w)
    kinds = {"sparse": sparse_passes(layout, x, w, dy), "dense": dense_passes(x, matrix, dy)}
    kinds |= others(layout, m, matrix, x)
    runs = {(kind, name, "eager"): run for kind, passes in kinds.items() for name, run in passes.items()}
    if cuda:
        for (kind, name, _), run in list(runs.items()):
            if kind in ("sparse", "dense", "dense of equal parameters"):
                runs[kind, name, "graph"] = as_graph(run)
    rows = []
    times = take_turns(runs, budget, cuda)
    for (kind, name, launch), (median, low, high, least) in times.items():
        dense = times["dense", name, launch]
        speedup = dense[0] / median
        row = dict(m=m, inputs=layout.in_features, outputs=layout.out_features, block_size=layout.block_size)
        row |= dict(density=layout.density, dtype=dtype, kind=kind, launch=launch, product=name)
        row |= dict(us=1e6 * median, us_low=1e6 * low, us_high=1e6 * high, us_least=1e6 * least)
        row |= dict(speedup=speedup, speedup_least=dense[3] / least)
        rows.append({**row, "phi": speedup * layout.density if kind == "sparse" else math.nan})
    return rows


# ---- the report


def show(rows: list[dict]) -> None:
    """A line per layer: time in microseconds and speed-up over dense of forward+backward, and other kinds."""
    found = {(row["kind"], row["product"], row["launch"]): row for row in rows}
    for launch in dict.fromkeys(row["launch"] for row in rows):
        sparse, dense = (found[kind, "forward+backward", launch] for kind in ("sparse", "dense"))
        single = " ".join(f"{name} {found['sparse', name, launch]['speedup']:5.2f}x" for name in PASSES[:3])
        line = f"M {sparse['m']:<5} {sparse['inputs']}x{sparse['outputs']} b {sparse['block_size']:<4}"
        line += f"d {sparse['density']:.3f} {sparse['dtype']} {launch}: dense {dense['us']:9.1f} us, sparse "
        line += f"{sparse['us']:9.1f} us ({sparse['us_low']:.1f}-{sparse['us_high']:.1f}), {sparse['speedup']:5.2f}x, "
        line += f"phi {sparse['phi']:.2f}, of the minimal times {sparse['speedup_least']:.2f}x; {single}"
        if ("torch BSR", "forward", launch) in found:
            line += f"; BSR forward {found['torch BSR', 'forward', launch]['speedup']:.2f}x"
        print(line, flush=True)


def break_even(rows: list[dict]) -> list[str]:
    """For each shape and block size, the density, interpolated, below which forward+backward is faster than dense."""
    lines, groups = [], {}
    for row in rows:
        if row["kind"] == "sparse" and row["product"] == "forward+backward":
            key = tuple(row[k] for k in ("m", "inputs", "outputs", "block_size", "dtype", "launch"))
            groups.setdefault(key, []).append((row["density"], row["speedup"]))
    for (m, inputs, outputs, b, dtype, launch), points in groups.items():
        text = "none of those measured"
        points.sort()
        for (d0, s0), (d1, s1) in itertools.pairwise([(0.0, math.inf), *points]):
            if s0 >= 1 > s1:
                share = 0.0 if math.isinf(s0) else (s0 - 1) / (s0 - s1)
                text = f"{d0 + share * (d1 - d0):.2f}" if d0 else text
                break
        else:
            text = "faster at all of those measured"
        lines.append(f"M {m} {inputs}x{outputs} b {b} {dtype} {launch}: break-even density {text}")
    return lines


def draw(rows: list[dict], file: Path) -> None:
    """Speed-up of forward+backward over dense against density, a line per block size, with 1/d."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [r for r in rows if r["kind"] == "sparse" and r["product"] == "forward+backward"]
    launch = "graph" if any(r["launch"] == "graph" for r in rows) else "eager"
    rows = [r for r in rows if r["launch"] == launch]
    panels = list(dict.fromkeys((r["m"], r["inputs"], r["outputs"], r["dtype"]) for r in rows))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.4 * columns, 3.6 * lines), squeeze=False, layout="constrained"
    )
    for ax, panel in zip(axes.flat, panels, strict=False):
        here = [r for r in rows if (r["m"], r["inputs"], r["outputs"], r["dtype"]) == panel]
        for b in sorted({r["block_size"] for r in here}):
            points = sorted((r["density"], r["speedup"]) for r in here if r["block_size"] == b)
            ax.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"b = {b}")
        ds = sorted({r["density"] for r in here})
        ax.plot(ds, [1 / d for d in ds], "k--", linewidth=1, label="1/d")
        ax.axhline(1, color="gray", linewidth=0.8)
        m, inputs, outputs, dtype = panel
        ax.set(xscale="log", yscale="log", xlabel="density d", title=f"M {m}, {inputs} x {outputs}, {dtype}")
        ax.set_ylabel("speed-up over dense")
    axes.flat[0].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def table_of_errors(device: str) -> None:
    """For each dtype, the relative errors of y, dx and dW against float64, and of dense ones; the worst layouts."""
    print(
        "Relative errors against float64: block-sparse (dense with the same zeros, ratio), for the block size, density"
    )
    print("and layout with the largest ratio; and that of a dense y without zeros. M 256, 1024 x 1024")
    for dtype in [name for name in ("fp32", "tf32", "fp16", "bf16") if device == "cuda" or name != "tf32"]:
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        worst: dict[str, tuple] = {}
        for b, d, name in itertools.product(BLOCK_SIZES, (0.1, 0.25), ("regular", "barabasi_albert", "watts_strogatz")):
            layout = layouts.make(name, 1024, 1024, d, b, torch.Generator().manual_seed(0))
            for key, pair in errors(layout, *operands(layout, 256, DTYPES[dtype], device)).items():
                worst[key] = max(worst.get(key, (0, 0, 0)), (pair[0] / pair[1], *pair))
        full = layouts.dense(1024, 1024, 128)
        _, without_zeros = errors(full, *operands(full, 256, DTYPES[dtype], device))["y"]
        found = ", ".join(f"{key} {sparse:.2e} ({dense:.2e}, {r:.2f}x)" for key, (r, sparse, dense) in worst.items())
        print(f"  {dtype}: {found}; dense without zeros {without_zeros:.2e}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=4.0, help="timing budget per layer")
    parser.add_argument("--quick", action="store_true", help="the first shape, fewer densities and block sizes")
    parser.add_argument("--errors", action="store_true", help="print relative errors only")
    parser.add_argument("--out", type=Path, default=Path("data/bench-sparse"), help="folder for the CSV and the figure")
    return parser.parse_args()


def cases(args: argparse.Namespace):
    """(M, layout, dtype) of every layer to time."""
    cuda = args.device == "cuda"
    shapes, densities, blocks = GPU_SHAPES if cuda else CPU_SHAPES, DENSITIES, BLOCK_SIZES
    if args.quick:
        shapes, densities, blocks = (
            [(4096, 4096, 4096)] if cuda else shapes[:1],
            [1.0, 0.75, 0.5, 0.25, 0.1, 0.05],
            [64],
        )
    for (m, inputs, outputs), dtype, b, d in itertools.product(
        shapes, GPU_DTYPES if cuda else ["fp32"], blocks, densities
    ):
        names = ["regular"] if d != 0.1 or args.quick else ["regular", "barabasi_albert", "watts_strogatz"]
        for name in names:
            yield m, name, layouts.make(name, inputs, outputs, d, b, torch.Generator().manual_seed(0)), dtype


def main() -> None:
    args = parse()
    warnings.filterwarnings("ignore", message="Sparse (BSR|CSR)")
    accel.setup(0, args.device, args.threads)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"torch {torch.__version__}, {name}", flush=True)
    if args.errors:
        return table_of_errors(args.device)
    rows, seen = [], set()
    for m, kind, layout, dtype in cases(args):
        key = (m, layout.shape, layout.block_size, layout.nnz, dtype, kind)
        if key in seen:  # small matrices can't have every density: each row has a block
            continue
        seen.add(key)
        here = [{"layout": kind, **row} for row in measure(m, layout, dtype, args.device, args.seconds)]
        print(f"{kind:<16}", end="")
        show(here)
        rows += here
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{args.device}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    regular = [row for row in rows if row["layout"] == "regular"]
    print("\n".join(break_even(regular)))
    draw(regular, args.out / f"{args.device}.png")
    print(f"written: {args.out / args.device}.csv, .png")


if __name__ == "__main__":
    main()
