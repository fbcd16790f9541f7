"""Block-sparse layers: layouts, the products against masked dense matrices in float64, the layer, conversions."""

import copy
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from spinup.compute.capture.front import validating
from spinup.sparse import (
    BlockLayout,
    BlockSparseLinear,
    block_matmul,
    block_norms,
    block_sparse_attention,
    draw,
    layouts,
    linear_factory,
    reference,
    summary,
)
from spinup.sparse.attention import flex_mask
from spinup.sparse.layout import common_blocks, runs, side


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MASKS = {
    "one block": torch.tensor([[0, 0], [0, 1], [0, 0]]),
    "all blocks": torch.ones(3, 4),
    "empty row and column": torch.tensor([[1, 0, 1], [0, 0, 0], [0, 0, 1]]),
    "rectangular": torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]),
    "one column": torch.tensor([[1], [0], [1], [1]]),
    "degrees 1 to 4": torch.ones(4, 4).triu(),
    "sparse regular": layouts.regular(16 * 12, 16 * 8, 0.2, 16, generator()).mask,
    "sparse and uneven": layouts.barabasi_albert(16 * 20, 16 * 16, 0.15, 16, generator()).mask,
    "sparse and random": layouts.random(16 * 16, 16 * 24, 0.1, 16, generator()).mask,
}


def tensors(layout: BlockLayout, m: int = 7, dtype=torch.float64, seed: int = 0):
    """Random x, w and dy."""
    g = generator(seed)
    b, options = layout.block_size, dict(generator=g, dtype=torch.float64)
    x = torch.randn(m, layout.in_features, **options)
    w = torch.randn(layout.nnz, b, b, **options) / math.sqrt(layout.in_features * layout.density)
    dy = torch.randn(m, layout.out_features, **options)
    return [t.to(dtype) for t in (x, w, dy)]


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The relative error in the 2-norm."""
    return ((found.double() - exact).norm() / exact.norm().clamp(min=1e-300)).item()


def masked_matrix(layout: BlockLayout, w: torch.Tensor) -> torch.Tensor:
    """The dense matrix, assembled block by block: a slow version of to_dense."""
    b = layout.block_size
    matrix = w.new_zeros(layout.in_features, layout.out_features)
    for block, r, c in zip(w, layout.rows.tolist(), layout.cols.tolist(), strict=True):
        matrix[r * b : r * b + b, c * b : c * b + b] = block
    return matrix


# ---- layouts


def test_layout_by_hand():
    layout = BlockLayout([[0, 1, 1], [1, 0, 1]], 16)
    assert (layout.shape, layout.nnz, layout.in_features, layout.out_features) == ((2, 3), 4, 32, 48)
    assert layout.density == pytest.approx(4 / 6)
    # Column 2 has two blocks and comes first; the others follow from left to right.
    assert layout.rows.tolist() == [0, 1, 1, 0]
    assert layout.cols.tolist() == [2, 2, 0, 1]
    forward = [part.tolist() for part in side(layout.table, 4, 2, 3, False)]
    assert forward == [[2, 0, 1], [0, 2, 3, 4], [0, 1, 1, 0], [0, 1, 2, 3]]
    backward = [part.tolist() for part in side(layout.table, 4, 3, 2, True)]
    assert backward == [[0, 1], [0, 2, 4], [1, 2, 0, 2], [3, 0, 2, 1]]
    assert runs(layout.table, 4, 2, 3, False) == [(2, 1, 2), (1, 2, 0)]
    assert runs(layout.table, 4, 3, 2, True) == [(2, 2, 0)]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_layout_round_trips(mask):
    layout = BlockLayout(mask, 16)
    assert BlockLayout.from_packed(layout.packed(), layout.shape, 16) == layout
    assert copy.deepcopy(layout) is layout
    assert hash(BlockLayout(mask, 16)) == hash(layout)
    _, w, _ = tensors(layout)
    assert torch.equal(layout.to_dense(w), masked_matrix(layout, w))
    assert torch.equal(layout.from_dense(layout.to_dense(w)), w)
    assert torch.equal(reference.to_dense(w, layout.table, *layout.shape), layout.to_dense(w))


def test_layouts_differ_by_mask_and_block_size():
    layout = BlockLayout([[1, 0], [0, 1]], 16)
    assert layout != BlockLayout([[1, 0], [0, 1]], 32)
    assert layout != BlockLayout([[0, 1], [1, 0]], 16)
    assert layout != "layout"


@pytest.mark.parametrize("name", layouts.NAMES)
@pytest.mark.parametrize(("inputs", "outputs", "density"), [(512, 512, 0.1), (256, 640, 0.3), (640, 256, 0.05)])
def test_layouts_have_the_number_of_blocks_for_their_density(name, inputs, outputs, density):
    made = [layouts.make(name, inputs, outputs, density, 32, generator(seed)) for seed in (1, 1, 2)]
    rows, cols = inputs // 32, outputs // 32
    assert {layout.nnz for layout in made} == {max(round(density * rows * cols), rows, cols)}
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(("rows", "cols", "density"), [(32, 32, 0.1), (8, 24, 0.3), (24, 8, 0.1), (5, 5, 1.0)])
def test_regular_layouts_balance_rows_and_columns(rows, cols, density):
    mask = layouts.regular(rows * 16, cols * 16, density, 16, generator()).mask
    for dim in (0, 1):
        degree = mask.sum(dim)
        assert degree.max() - degree.min() <= 1
        assert degree.min() >= 1
    assert (mask.sum(0).diff() <= 0).all()


def test_barabasi_albert_has_hubs():
    regular, hubs = (
        layouts.make(n, 2048, 2048, 0.1, 16, generator()).mask.sum(1) for n in ("regular", "barabasi_albert")
    )
    assert hubs.max() > 2 * regular.max()


def test_watts_strogatz_is_a_band_with_some_blocks_rewired():
    def distance(rewire: float) -> torch.Tensor:
        layout = layouts.watts_strogatz(1024, 1024, 0.05, 16, generator(), rewire)
        d = (layout.rows - layout.cols).abs()
        return torch.minimum(d, 64 - d)

    assert distance(0).max() <= 2
    assert 0.03 < (distance(0.1) > 2).float().mean() < 0.2


def test_butterfly_mixes_fully_in_log2_n_layers():
    layout = layouts.butterfly(8 * 16, 8 * 16, 16)
    assert layout.density == 4 / 8
    assert layout.mask[0].tolist() == [True, True, True, False, True, False, False, False]
    assert layouts.mix_factor([layout] * 3) == 1
    assert layouts.mix_factor([layout] * 2) < 1
    wide = layouts.butterfly(8 * 16, 4 * 16, 16)
    assert wide.mask.any(0).all()
    assert wide.mask.any(1).all()


def test_from_magnitude_keeps_the_largest():
    matrix = torch.ones(64, 32)
    matrix[16:32, 16:] = 3
    matrix[48:, :16] = 2
    layout = layouts.from_magnitude(matrix, 0.5, 16)
    assert layout.nnz == 4
    assert layout.mask[1, 1]
    assert layout.mask[3, 0]


def test_mix_factor_by_hand():
    diagonal = BlockLayout(torch.eye(4), 16)
    shifted = BlockLayout(torch.eye(4) + torch.eye(4).roll(1, 0), 16)
    assert layouts.mix_factor([diagonal, diagonal]) == 0.25
    assert layouts.mix_factor([shifted, shifted]) == 0.75


def test_erk_densities_keep_the_total_and_favor_small_layers():
    shapes = [(100, 100), (1000, 1000), (10, 10)]
    densities = layouts.erk_densities(shapes, 0.1)
    kept = sum(d * a * b for d, (a, b) in zip(densities, shapes, strict=True))
    assert kept == pytest.approx(0.1 * sum(a * b for a, b in shapes))
    assert densities[2] == 1
    assert densities[0] == pytest.approx(10 * densities[1])
    assert layouts.erk_densities([(64, 64)] * 2, 0.3) == pytest.approx([0.3, 0.3])
    assert layouts.erk_densities([(64, 64)] * 2, 1.0) == pytest.approx([1, 1])


def test_common_blocks():
    old, new = BlockLayout([[1, 1], [1, 0]], 16), BlockLayout([[0, 1], [1, 1]], 16)
    before, after = common_blocks(old, new)
    positions = [(old.rows[i].item(), old.cols[i].item()) for i in before]
    assert positions == [(new.rows[i].item(), new.cols[i].item()) for i in after]
    assert sorted(positions) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockLayout([[1]], 48), "block_size is 48; it must be one of 16, 32, 64, 128"),
        (lambda: BlockLayout([1, 0], 16), "has shape (2,); it must be (row blocks, col blocks)"),
        (lambda: BlockSparseLinear(100, 64), "block_size 64 does not divide 100; a multiple of 16 is needed"),
        (lambda: BlockSparseLinear(96, 64), "block_size 64 does not divide 96; 16 and 32 do"),
        (lambda: BlockSparseLinear(48, 64), "block_size 64 does not divide 48; 16 does"),
        (lambda: BlockSparseLinear(64, 64, 0.0), "density is 0.0; it must be above 0 and at most 1"),
        (lambda: BlockSparseLinear(64, 64, layout="reglar"), "layout is 'reglar'; it must be regular, random"),
        (lambda: BlockSparseLinear(64, 64, 0.5, BlockLayout([[1]], 64)), "give either a density or a BlockLayout"),
        (
            lambda: BlockSparseLinear(64, 128, layout=BlockLayout([[1]], 64)),
            "is for 64 x 64 features, the layer has 64",
        ),
        (lambda: linear_factory({"sparsity": 1}), "sparsity is 1; it must be at least 0 and below 1"),
        (lambda: linear_factory({"sparsity": "much"}), "sparsity is much; it must be at least 0"),
        (lambda: linear_factory({"block_size": 8}), "block_size is 8; it must be one of"),
        (lambda: linear_factory({"layout": "x"}), "layout is 'x'; it must be"),
        (lambda: linear_factory({"schedule": "riggle"}), "schedule is 'riggle'; it must be static, rigl, set, prune"),
        (lambda: linear_factory({"schedule": "rigl", "every": 0}), "every is 0; it must be a positive whole number"),
        (lambda: linear_factory({"schedule": "rigl", "fraction": 2}), "fraction is 2; it must be above 0"),
        (lambda: linear_factory({"density": 0.1}), "linear has no setting 'density'; it has sparsity, block_size"),
    ],
)
def test_invalid_arguments_are_reported(make, message):
    with pytest.raises(ValueError, match=r".") as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_shapes_are_reported():
    layout = BlockLayout(MASKS["rectangular"], 16)
    x, w, _ = tensors(layout)
    with pytest.raises(ValueError, match="x has 16 features; the layout needs 32"):
        block_matmul(x[:, :16], w, layout)
    with pytest.raises(ValueError, match=r"the blocks have shape \(3, 16, 16\)"):
        block_matmul(x, w[:3], layout)


# ---- the products


@pytest.mark.parametrize("m", [1, 7, 64, 1000])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_products_equal_those_of_the_masked_matrix(mask, m):
    layout = BlockLayout(mask, 16)
    x, w, dy = tensors(layout, m)
    matrix = masked_matrix(layout, w)
    x.requires_grad_()
    w.requires_grad_()
    y = block_matmul(x, w, layout)
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    assert relative(y, x @ matrix) < 1e-14
    assert relative(dx, dy @ matrix.t()) < 1e-14
    assert relative(dw, layout.from_dense(x.t() @ dy)) < 1e-14


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("density", [0.12, 0.9])
@pytest.mark.parametrize("m", [5, 16])
def test_products_for_all_block_sizes_on_both_sides_of_the_dense_threshold(block_size, density, m):
    layout = layouts.random(12 * block_size, 8 * block_size, density, block_size, generator())
    assert (layout.density > reference.DENSE_ABOVE[block_size]) == (density == 0.9)
    x, w, dy = tensors(layout, m)
    matrix = masked_matrix(layout, w)
    size = (layout.nnz, block_size)
    assert relative(reference.matmul(x, w, layout.table, layout.out_features, False), x @ matrix) < 1e-14
    assert relative(reference.matmul(dy, w, layout.table, layout.in_features, True), dy @ matrix.t()) < 1e-14
    assert relative(reference.outer(x, dy, layout.table, *size), layout.from_dense(x.t() @ dy)) < 1e-14


def test_products_gathered_in_many_pieces(monkeypatch):
    layout = BlockLayout(MASKS["sparse and uneven"], 16)
    x, w, dy = tensors(layout, 9)
    whole = reference.matmul(x, w, layout.table, layout.out_features, False)
    dw = reference.outer(x, dy, layout.table, layout.nnz, 16)
    monkeypatch.setattr(reference, "GATHERED", 500)
    assert len(list(reference.pieces(runs(layout.table, layout.nnz, *layout.shape, False), 9 * 16))) > 10
    assert relative(reference.matmul(x, w, layout.table, layout.out_features, False), whole) < 1e-14
    assert relative(reference.outer(x, dy, layout.table, layout.nnz, 16), dw) < 1e-14


@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_no_output_is_left_uninitialized(mask, block_size):
    """With deterministic algorithms, torch.empty returns NaN."""
    layout = BlockLayout(mask, block_size)
    x, w, dy = tensors(layout, 16)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        y = reference.matmul(x, w, layout.table, layout.out_features, False)
        dx = reference.matmul(dy, w, layout.table, layout.in_features, True)
        dw = reference.outer(x, dy, layout.table, layout.nnz, block_size)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(t.isfinite().all() for t in (y, dx, dw))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block_size", [32, 64])
@pytest.mark.parametrize("name", ["regular", "barabasi_albert"])
def test_rounding_errors_are_like_those_of_dense_products(name, block_size, dtype):
    """At most 1.5 times the relative error, against float64, that the dense products have."""
    layout = layouts.make(name, 512, 512, 0.15, block_size, generator())
    x, w, dy = tensors(layout, 96, dtype)
    exact_x, exact_w, exact_dy = x.double(), masked_matrix(layout, w.double()), dy.double()
    matrix = masked_matrix(layout, w)
    x.requires_grad_()
    w.requires_grad_()
    y = block_matmul(x, w, layout)
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    x = x.detach()
    for found, dense, exact in (
        (y, x @ matrix, exact_x @ exact_w),
        (dx, dy @ matrix.t(), exact_dy @ exact_w.t()),
        (dw, layout.from_dense(x.t() @ dy), layout.from_dense(exact_x.t() @ exact_dy)),
    ):
        assert found.dtype == dtype
        assert relative(found, exact) <= 1.5 * relative(dense, exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_sums_are_rounded_once(dtype):
    layout = BlockLayout(torch.tensor([[1, 0]] * 32 + [[0, 1]] * 32), 64)  # a density of 0.5: no dense product
    x, w, _ = tensors(layout, 16, dtype)
    exact = x.double() @ masked_matrix(layout, w.double())
    assert relative(block_matmul(x, w, layout), exact) <= 1.1 * relative(exact.to(dtype), exact)


def test_inputs_of_any_shape_and_stride():
    layout = BlockLayout(MASKS["sparse and random"], 16)
    x, w, _ = tensors(layout, 12)
    expected = x @ masked_matrix(layout, w)
    assert torch.allclose(block_matmul(x[0], w, layout), expected[0])
    assert torch.allclose(block_matmul(x.view(3, 4, -1), w, layout), expected.view(3, 4, -1))
    assert torch.allclose(block_matmul(x.t().contiguous().t(), w, layout), expected)
    assert torch.allclose(block_matmul(x.repeat(1, 2)[:, : x.shape[1]], w, layout), expected)
    assert torch.allclose(block_matmul(x, w.transpose(1, 2).contiguous().transpose(1, 2), layout), expected)
    assert block_matmul(x[:0], w, layout).shape == (0, layout.out_features)


@pytest.mark.parametrize("mask", [MASKS["empty row and column"], MASKS["rectangular"]])
def test_gradients_to_second_order(mask):
    layout = BlockLayout(mask, 16)
    x, w, _ = tensors(layout, 2)
    x.requires_grad_()
    w.requires_grad_()

    def product(x, w):
        return block_matmul(x, w, layout)

    assert torch.autograd.gradcheck(product, (x, w))
    assert torch.autograd.gradgradcheck(product, (x, w), fast_mode=True)


def test_hessian_vector_product_equals_that_of_the_masked_matrix():
    layout = BlockLayout(MASKS["sparse and random"], 16)
    x, w, _ = tensors(layout)
    v = torch.randn(w.shape, generator=generator(3), dtype=w.dtype)

    def hvp(f):
        blocks = w.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(blocks).tanh().square().sum(), blocks, create_graph=True)
        return torch.autograd.grad((g * v).sum(), blocks)[0]

    assert relative(hvp(lambda w: block_matmul(x, w, layout)), hvp(lambda w: x @ layout.to_dense(w))) < 1e-13


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own, in 2.14
@pytest.mark.parametrize("transpose", [False, True])
def test_opcheck(transpose):
    layout = BlockLayout(MASKS["rectangular"], 16)
    x, w, dy = tensors(layout, 3)
    inputs, out = (dy, layout.in_features) if transpose else (x, layout.out_features)
    arguments = (inputs.requires_grad_(), w.requires_grad_(), layout.table, out, transpose)
    torch.library.opcheck(torch.ops.spinup.block_matmul.default, arguments)
    arguments = (x.detach().requires_grad_(), dy.detach().requires_grad_(), layout.table, layout.nnz, 16)
    torch.library.opcheck(torch.ops.spinup.block_outer.default, arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_applies_as_to_dense_layers(dtype):
    layer, dense = BlockSparseLinear(64, 64, 0.5, block_size=16), nn.Linear(64, 64)
    x = torch.randn(5, 64)
    with torch.autocast("cpu", dtype):
        y = layer(x)
        assert y.dtype == dense(x).dtype == dtype
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert torch.allclose(y.float(), layer(x), atol=0.05)


# ---- the layer


def test_compiles_to_one_graph():
    torch.manual_seed(0)
    net = nn.Sequential(
        BlockSparseLinear(64, 96, 0.3, block_size=16), nn.Tanh(), BlockSparseLinear(96, 32, 0.5, block_size=16)
    )
    x = torch.randn(6, 64, requires_grad=True)
    expected = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    with validating():
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(x).square().sum(), [x, *net.parameters()])
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_layer_equals_its_dense_copy():
    torch.manual_seed(0)
    layer = BlockSparseLinear(128, 64, 0.3, block_size=16).double()
    dense, x = layer.to_dense(), torch.randn(2, 5, 128, dtype=torch.float64, requires_grad=True)
    for net in (layer, dense):
        net(x).square().sum().backward()
    assert torch.allclose(layer(x), dense(x))
    assert torch.allclose(layer.bias.grad, dense.bias.grad)
    assert torch.allclose(layer.weight.grad, layer.layout.from_dense(dense.weight.grad.t()))
    back = BlockSparseLinear.from_dense(dense, layout=layer.layout)
    assert torch.equal(back.weight, layer.weight)
    assert torch.equal(back(x), layer(x))
    assert BlockSparseLinear.from_dense(dense, layer.layout.density, 16).layout == layer.layout


def test_initial_weights_match_a_dense_layer_with_as_many_inputs():
    layer = BlockSparseLinear(1024, 1024, layout=BlockLayout(torch.ones(32, 32).triu(), 32), generator=generator())
    degree = layer.layout.mask.sum(0)[layer.layout.cols] * 32
    for n in (32, 1024):
        values = layer.weight.detach()[degree == n].abs()
        assert values.max() <= n**-0.5
        assert values.mean() == pytest.approx(n**-0.5 / 2, rel=0.05)
    assert layer.bias.abs().max() <= 32**-0.5


def test_orthogonal_blocks_keep_the_scale():
    torch.manual_seed(0)
    layer = BlockSparseLinear(512, 512, 0.2, block_size=32).orthogonal_(math.sqrt(2))
    assert layer(torch.randn(1000, 512)).detach().var() == pytest.approx(2, rel=0.05)
    degree = layer.layout.mask.sum(0)[layer.layout.cols[0]].item()
    assert torch.allclose(layer.weight[0] @ layer.weight[0].t(), torch.eye(32) * 2 / degree, atol=1e-5)
    assert layer.bias.abs().sum() == 0


def test_identity():
    layer, x = BlockSparseLinear(64, 64, layout=layouts.butterfly(64, 64, 16)).identity_(), torch.randn(3, 64)
    assert torch.equal(layer(x), x)


def test_state_dict_has_the_packed_mask_and_the_blocks():
    torch.manual_seed(0)
    a, b = (BlockSparseLinear(160, 160, 0.2, "random", 16) for _ in range(2))
    assert a.layout != b.layout
    assert {k: v.numel() for k, v in a.state_dict().items()} == {"weight": 20 * 256, "bias": 160, "mask": 13}
    b.load_state_dict(a.state_dict())
    x = torch.randn(3, 160)
    assert b.layout == a.layout
    assert torch.equal(b(x), a(x))
    c = copy.deepcopy(a)
    assert torch.equal(c(x), a(x))
    c.weight.data.zero_()
    assert a.weight.abs().sum() > 0


def test_a_state_dict_with_too_few_blocks_is_refused():
    layer = BlockSparseLinear(64, 64, 0.25, block_size=16)
    state = {**layer.state_dict(), "mask": torch.full_like(layer.mask, 255)}
    with pytest.raises(RuntimeError, match="mask has 16 blocks, weight 4"):
        layer.load_state_dict(state)


def test_moves_between_dtypes_and_devices():
    layer = BlockSparseLinear(64, 64, 0.5, block_size=16)
    x = torch.randn(3, 64)
    assert layer.to(torch.float64)(x.double()).dtype == torch.float64
    assert (layer.mask.dtype, layer.table.dtype) == (torch.uint8, torch.int32)
    meta = layer.to("meta")
    assert meta.table.device.type == "meta"
    assert meta(torch.empty(3, 64, device="meta", dtype=torch.float64)).shape == (3, 64)


def test_block_norms_lasso_and_pruning():
    layer = BlockSparseLinear(64, 64, 0.5, block_size=16)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(8.0).view(8, 1, 1).expand_as(layer.weight))
    assert layer.block_norms().tolist() == [16.0 * i for i in range(8)]
    layer.group_lasso().backward()
    assert torch.equal(layer.weight.grad[0], torch.zeros(16, 16))
    assert torch.allclose(layer.weight.grad[5], torch.full((16, 16), 1 / 16))
    x, before = torch.randn(4, 64), layer.layout
    kept = BlockLayout(torch.zeros(4, 4).index_put((before.rows[5:], before.cols[5:]), torch.ones(3)), 16)
    expected = x @ kept.to_dense(kept.from_dense(before.to_dense(layer.weight))) + layer.bias
    layer.prune_(3 / 16)
    assert (layer.layout, layer.weight.shape) == (kept, (3, 16, 16))
    assert torch.allclose(layer(x), expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"density is 0.5; it must leave at least one block and be at most 0.188"):
        layer.prune_(0.5)


def test_gates_multiply_blocks():
    layout = BlockLayout(MASKS["sparse and random"], 16)
    x, w, dy = tensors(layout)
    gates = torch.rand(layout.nnz, dtype=torch.float64).requires_grad_()
    y = block_matmul(x, w, layout, gates=gates)
    assert torch.allclose(y, x @ layout.to_dense(w * gates.detach().view(-1, 1, 1)))
    (found,) = torch.autograd.grad(y, gates, dy)
    assert torch.allclose(found, (layout.from_dense(x.t() @ dy) * w).sum((1, 2)))


def test_block_norms_of_half_precision_do_not_overflow():
    w = torch.full((1, 128, 128), 1000.0, dtype=torch.float16)
    assert block_norms(w).item() == pytest.approx(128_000, rel=1e-4)


def test_summary_counts():
    net = nn.Sequential(nn.Linear(8, 64), BlockSparseLinear(64, 64, 0.25, block_size=16), nn.Linear(64, 2))
    # 8*64+64, 4*256+64, 64*2+2 parameters; a dense middle has 64*64+64
    assert summary(net) == (
        "1,794 parameters (4,866 if dense); 1 block-sparse layers of density 0.250; "
        "0.00333 MFLOPs forward per input (0.00947 if dense)"
    )


# ---- the benchmark and the example


def load_benchmark():
    """benchmarks/sparse.py, a script outside of any package."""
    spec = importlib.util.spec_from_file_location("bench", Path(__file__).parents[1] / "benchmarks" / "sparse.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:Sparse BSR tensor support is in beta:UserWarning")
def test_benchmark_measures_and_finds_the_break_even(tmp_path):
    bench = load_benchmark()
    layout = layouts.regular(64, 64, 0.5, 16, generator())
    rows = [{"layout": "regular", **row} for row in bench.measure(8, layout, "fp32", "cpu", 0.0)]
    kinds = {(row["kind"], row["product"]) for row in rows}
    assert {(kind, name) for kind in ("sparse", "dense") for name in bench.PASSES} <= kinds
    assert all(row["speedup"] == 1 for row in rows if row["kind"] == "dense")
    bench.show(rows)
    bench.draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    points = [{**rows[3], "density": d, "speedup": s} for d, s in ((0.1, 5), (0.5, 1.5), (1.0, 0.5))]
    assert rows[3]["product"] == "forward+backward"
    assert bench.break_even(points)[0].endswith("break-even density 0.75")
    assert bench.break_even(points[:2])[0].endswith("faster at all of those measured")
    assert bench.break_even(points[2:])[0].endswith("none of those measured")


def test_benchmark_stops_at_a_wrong_result(monkeypatch):
    bench = load_benchmark()
    layout = layouts.regular(64, 64, 0.5, 16, generator())
    x, w, dy = bench.operands(layout, 8, torch.float32, "cpu")
    bench.check(layout, x, w, dy)
    monkeypatch.setattr(bench, "block_matmul", lambda x, w, layout: block_matmul(x, 1.001 * w, layout))
    with pytest.raises(SystemExit, match=r"y is wrong, relative error 1\.00e-03"):
        bench.check(layout, x, w, dy)


def test_example_learns(monkeypatch, capsys):
    from spinup.sparse import example

    monkeypatch.setattr(sys, "argv", ["example", "--steps", "60"])
    example.main()
    losses = [float(line.split("loss ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 4
    assert max(losses) < 1.0


# ---- attention, pictures, imports


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_attention_covers_the_pairs_of_the_layout(lead):
    layout = BlockLayout([[1, 0, 1], [0, 0, 0], [0, 1, 0]], 16)
    g = generator()
    q, k, v = (torch.randn(*lead, 48, 8, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3))
    found = block_sparse_attention(q, k, v, layout)
    mask = torch.kron(layout.mask.double(), torch.ones(16, 16)).bool()
    weights = ((q @ k.transpose(-1, -2)) / math.sqrt(8)).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
    assert torch.allclose(found, weights @ v)
    assert found[..., 16:32, :].abs().sum() == 0
    for grad in torch.autograd.grad(found.square().sum(), (q, k, v)):
        assert grad.isfinite().all()
    with pytest.raises(ValueError, match="32 queries and 48 keys, but the layout has 48 and 48"):
        block_sparse_attention(q[..., :32, :], k, v, layout)


def test_flex_mask_is_the_layout():
    layout = BlockLayout([[1, 0, 1], [0, 0, 0], [0, 1, 0]], 128)
    assert torch.equal(flex_mask(layout).to_dense()[0, 0].bool(), layout.mask)


def test_draw_layouts_and_layers():
    from matplotlib import pyplot as plt

    layer = BlockSparseLinear(64, 96, 0.3, block_size=16)
    axes = [draw(layer.layout), draw(layer, title="layer"), draw(layer.layout, norms=torch.ones(layer.layout.nnz))]
    for ax in axes:
        shown = torch.as_tensor(ax.images[0].get_array().filled(float("nan")))
        assert torch.equal(shown.isfinite(), layer.layout.mask)
    assert axes[1].get_title() == "layer"
    assert shown.nan_to_num().sum() == layer.layout.nnz
    plt.close("all")


def test_imports_nothing_else_of_spinup_nor_triton_nor_matplotlib():
    code = (
        "import sys, torch; before = set(sys.modules); import spinup.sparse; new = set(sys.modules) - before\n"
        "ours = {m for m in new if m.split('.')[0] == 'spinup'} - {'spinup'}\n"
        "assert all(m.startswith('spinup.sparse') for m in ours), ours\n"
        "assert not {'triton', 'matplotlib', 'pandas', 'gymnasium'} & new, new\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
