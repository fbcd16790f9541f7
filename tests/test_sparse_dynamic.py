"""Layouts that change during training, by hand and against dense layers; block-sparse policies in the algorithms."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from probes import without_time
from torch import nn

import spinup
from spinup import nets
from spinup.algorithm import files, find
from spinup.compute import optim
from spinup.envs import Player
from spinup.errors import UserError
from spinup.run import main
from spinup.sparse import BlockLayout, BlockSparseLinear, Schedule, layouts, matrix_block_norms
from spinup.sparse.dynamic import swap


def layer_with(kind: str, mask, seed: int = 0, **options) -> BlockSparseLinear:
    """A layer whose block k has norm 16 (k + 1)."""
    torch.manual_seed(seed)
    layout = BlockLayout(mask, 16)
    layer = BlockSparseLinear(
        layout.in_features, layout.out_features, layout=layout, schedule=Schedule(kind, **options)
    )
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, len(layer.weight) + 1).view(-1, 1, 1).expand_as(layer.weight))
    return layer


# ---- which blocks are dropped and grown


def test_swap_by_hand():
    layout = BlockLayout([[1, 0, 1], [0, 1, 0]], 16)
    assert layout.cols.tolist() == [0, 1, 2]
    scores = torch.tensor([[9.0, 1.0, 9.0], [3.0, 9.0, 2.0]])
    assert swap(layout, torch.tensor([5.0, 1.0, 2.0]), 1, scores).mask.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert swap(layout, torch.tensor([5.0, 1.0, 2.0]), 2, scores).mask.tolist() == [[1, 0, 0], [1, 0, 1]]
    assert swap(layout, torch.tensor([5.0, 1.0, 2.0]), 2).mask.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_matrix_block_norms():
    matrix = torch.zeros(32, 48)
    matrix[16:, 32:] = 2
    assert matrix_block_norms(matrix, 16).tolist() == [[0, 0, 0], [0, 0, 32]]


def test_rigl_grows_where_the_gradient_of_the_dense_weight_is_largest():
    layer = layer_with("rigl", [[1, 1, 0], [1, 0, 0], [0, 1, 0]], every=2, fraction=0.5)
    x = torch.randn(8, 48)
    x[:, 16:32] *= 100  # so the gradient is largest in row 1, which lacks blocks 1 and 2
    dense = layer.to_dense()
    for step in (1, 2):
        y = layer(x)
        y[:, 32:].square().sum().backward()
        before, old = layer.layout, layer.weight.detach().clone()
        assert layer.evolve() == (step == 2)
    grad = torch.autograd.grad(dense(x)[:, 32:].square().sum(), dense.weight)[0].t()
    norms = matrix_block_norms(grad, 16)
    assert norms.argmax() == 5
    assert layer.layout.nnz == before.nnz == 4
    assert layer.layout.mask[1, 2]
    dropped = [
        (r, c) for r, c in zip(before.rows.tolist(), before.cols.tolist(), strict=True) if not layer.layout.mask[r, c]
    ]
    assert dropped == [(before.rows[i], before.cols[i]) for i in (0, 1)]  # the two of smallest norm
    matrix, old_matrix = layer.layout.to_dense(layer.weight), before.to_dense(old)
    both = torch.kron((before.mask & layer.layout.mask).float(), torch.ones(16, 16)).bool()
    assert torch.equal(matrix[both], old_matrix[both])
    assert matrix[~both].abs().sum() == 0


def test_dense_grad_is_that_of_a_dense_layer_over_several_passes():
    layer = layer_with("rigl", torch.eye(3), every=1)
    dense, x = layer.to_dense(), torch.randn(2, 4, 48)
    for net in (layer, dense):
        (net(x).tanh().sum() + net(2 * x).square().sum()).backward()
    assert torch.allclose(layer.schedule.dense_grad, dense.weight.grad.t(), rtol=1e-4, atol=1e-4)


def test_dense_grad_ignores_higher_derivatives_and_steps_without_a_change():
    layer = layer_with("rigl", torch.eye(3), every=2)
    x = torch.randn(4, 48)
    layer(x).sum().backward()
    assert layer.schedule.dense_grad is None
    layer.evolve()
    (g,) = torch.autograd.grad(layer(x).square().sum(), layer.weight, create_graph=True)
    first = layer.schedule.dense_grad.clone()
    g.square().sum().backward()
    assert torch.equal(layer.schedule.dense_grad, first)
    with torch.no_grad():
        layer(x)
    assert torch.equal(layer.schedule.dense_grad, first)


def test_set_grows_random_blocks_determined_by_its_seed_and_step():
    a, b = (layer_with("set", torch.eye(6), every=1, fraction=0.5) for _ in range(2))
    c = layer_with("set", torch.eye(6), every=1, fraction=0.5, seed=1)
    for layer in (a, b, c):
        assert layer.evolve()
    assert a.layout == b.layout != c.layout
    assert (a.layout.mask & torch.eye(6).bool()).sum() == 3
    first = a.layout
    b.load_state_dict(a.state_dict())
    b.evolve()
    a.evolve()
    assert a.layout == b.layout != first


def test_the_replaced_fraction_is_annealed_along_a_cosine():
    layer = layer_with("set", torch.eye(16), every=1, fraction=0.5)
    left = []
    for progress in (0, 0.5, 1):
        layer.schedule.progress = progress
        before = layer.layout.mask
        layer.evolve()
        left.append((before & layer.layout.mask).sum().item())
    assert left == [8, 12, 16]


def test_pruning_follows_its_curve_and_keeps_the_largest_norms():
    torch.manual_seed(0)
    layer = BlockSparseLinear(128, 128, 0.25, block_size=16, schedule=Schedule("prune", every=1))
    assert (layer.layout.density, layer.schedule.final) == (1, 16)
    weight, strength = layer.weight, layer.layout.to_dense(layer.weight.detach().clone())
    m = torch.ones_like(layer.weight)
    x = torch.randn(4, 128)
    for progress, blocks in ((0.1, 64), (0.2, 64), (0.5, 16 + 6), (0.8, 16), (1, 16)):
        layer.schedule.progress = progress
        layer.evolve(None, m)
        assert layer.layout.nnz == blocks
        best = layouts.from_magnitude(strength, blocks / 64, 16)
        assert layer.layout == best
        assert torch.allclose(layer(x), x @ best.to_dense(best.from_dense(strength)) + layer.bias, atol=1e-6)
        assert layer.weight is weight
        assert layer.weight[blocks:].abs().sum() == 0
        assert (m[:blocks] == 1).all()
        assert (m[blocks:] == 0).all()
    layer(x).sum().backward()
    assert layer.weight.grad[16:].abs().sum() == 0
    fresh = BlockSparseLinear(128, 128, 0.25, block_size=16, schedule=Schedule("prune"))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    assert fresh.schedule.steps == 5


def test_change_layout_refuses_other_shapes_and_too_many_blocks():
    layer = layer_with("set", torch.eye(3))
    with pytest.raises(ValueError, match="does not fit a layer with"):
        layer.change_layout(BlockLayout(torch.eye(4), 16))
    with pytest.raises(ValueError, match="the layout has 9 blocks, but the layer has room for 3"):
        layer.change_layout(layouts.dense(48, 48, 16))


# ---- with our optimizer and target networks


def network(kind: str = "rigl", **options) -> nn.Sequential:
    torch.manual_seed(0)
    settings = {"sparsity": 0.6, "block_size": 16, "schedule": kind, "every": 3, **options}
    return nets.mlp([5, 64, 64, 64, 2], "ReLU", settings)


def test_hidden_layers_are_sparse_and_the_first_and_last_dense():
    net = network()
    assert [type(layer).__name__ for layer in net[::2]] == ["Linear", *["BlockSparseLinear"] * 2, "Linear"]
    assert net[2].layout.nnz == round(0.4 * 16)


@pytest.mark.parametrize("kind", ["rigl", "set", "prune"])
def test_adam_and_a_target_network_follow_the_layout(kind):
    """As Adam on dense matrices would, with moments and weights outside the mask set to 0."""
    net = network(kind)
    target, layer = copy.deepcopy(net), net[2]
    adam = optim.FlatAdam(net, lr=0.01)
    target_flat = optim.flatten(target)
    (_, m, v), layouts_seen = adam.evolving[0], []
    for step in range(1, 10):
        optim.set_progress(net, step / 10)
        before = layer.layout
        state = {name: before.to_dense(t[: before.nnz].detach().clone()) for name, t in (("m", m), ("v", v))}
        old_target = target[2].layout.to_dense(target[2].blocks.detach().clone())
        adam.minimize(net(torch.randn(16, 5)).square().sum())
        optim.polyak_average(target_flat, adam.flat, 0.9)
        assert target[2].layout is layer.layout
        both = layer.layout.mask & before.mask
        kept = torch.kron(both.float(), torch.ones(16, 16)).bool()
        new = {name: layer.layout.to_dense(t[: layer.layout.nnz]) for name, t in (("m", m), ("v", v))}
        if layer.layout is not before:
            layouts_seen.append(step)
            assert all(new[name][~kept].abs().sum() == 0 for name in new)
            assert all((new[name][kept] != state[name][kept]).any() for name in new)  # the step itself moved them
        expected = 0.9 * torch.where(kept, old_target, 0.0) + 0.1 * layer.layout.to_dense(layer.blocks.detach())
        assert torch.allclose(target[2].layout.to_dense(target[2].blocks.detach()), expected, atol=1e-6)
    assert layouts_seen == [3, 6]  # at 9 the schedules have ended
    memory = adam.flat.untyped_storage().data_ptr()
    assert all(p.untyped_storage().data_ptr() == memory for p in net.parameters())


def test_only_the_minimized_loss_affects_growth(monkeypatch):
    """Not, for example, the policy's loss, which is backpropagated through the critic before the critic's own step."""
    grads = []
    monkeypatch.setattr(optim.mpi, "average_tensor", lambda t: grads.append(t.clone()) if t.dim() == 2 else None)
    for other in (False, True):
        net, x = network(every=1), torch.linspace(-1, 1, 40).view(8, 5)
        adam = optim.FlatAdam(net, 0.01)
        if other:
            inputs = (100 * x).requires_grad_()
            torch.autograd.grad(net(inputs).sum(), inputs)
            assert net[2].schedule.dense_grad is not None
        adam.minimize(net(x).square().sum())
    assert len(grads) == 4  # two layers, twice
    assert torch.equal(grads[0], grads[2])
    assert torch.equal(grads[1], grads[3])


def test_dense_grad_is_averaged_over_processes():
    layer = layer_with("rigl", torch.eye(3), every=1, fraction=0.4)
    layer(torch.randn(4, 48)).sum().backward()
    wanted = torch.zeros(48, 48)
    wanted[32:, :16] = 1  # the mean over all processes

    def average(grad: torch.Tensor) -> None:
        assert grad.abs().sum() > 0
        grad.copy_(wanted)

    assert layer.evolve(average)
    assert layer.layout.mask[2, 0]


# ---- in the algorithms


@pytest.mark.parametrize(
    ("linear", "hidden", "message"),
    [
        ({"sparsity": 1.0}, [64, 64], "sparsity is 1.0; it must be at least 0 and below 1"),
        ({"block_size": 64}, [100, 100], "block_size 64 does not divide 100"),
        ({"block_size": 64}, [96, 96], "block_size 64 does not divide 96; 16 and 32 do"),
        ({"layout": "regualr"}, [64, 64], r"layout is 'regualr'; it must be .* \(regular\?\)"),
        ({"sparsity": 0.5}, [64], "they go between hidden layers, so at least two are needed"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(linear, hidden, message):
    with pytest.raises(UserError, match=message):
        spinup.ppo("CartPole-v1", ac_kwargs={"linear": linear, "hidden_sizes": hidden}, epochs=1)


def words(algo: str, *more: str) -> list[str]:
    """A short run of an algorithm that takes some gradient steps of all its networks."""
    short = ["--hid", "64,64", "--block_size", "16", "--sparsity", "0.6", "--epochs", "5", "--seed", "3", *more]
    if find(algo).on_policy:
        return [algo, "--env", "CartPole-v1", "--steps", "64", *short]
    env = "Pendulum-v1" if "Box" in find(algo).actions else "CartPole-v1"
    off_policy = ["--steps", "20", "--update_after", "20", "--eval_freq", "0", "--batch_size", "16"]
    off_policy += ["--start_steps", "20"] if "start_steps" in find(algo).arguments else []
    return [algo, "--env", env, *off_policy, *short]


@pytest.mark.parametrize("algo", files())
@pytest.mark.parametrize("schedule", ["static", "rigl", "prune"])
def test_every_algorithm_trains_saves_and_loads(algo, schedule, data_dir):
    main(words(algo, "--quiet", "--sparse_schedule", schedule, "--sparse_every", "1", "--exp_name", "x"))
    folder = data_dir / "x" / "x_s3"
    config = json.loads((folder / "config.json").read_text())
    assert config["ac_kwargs"]["linear"] == {"sparsity": 0.6, "block_size": 16, "schedule": schedule, "every": 1}
    policy, state = spinup.load(folder), torch.load(folder / "model.pt", weights_only=True)
    part = "actor" if hasattr(policy, "actor") else "q"
    layer = next(m for m in getattr(policy, part).modules() if isinstance(m, BlockSparseLinear))
    name = next(key for key in state if key.startswith(f"{part}.") and key.endswith(".mask")).removesuffix("mask")
    assert layer.layout == BlockLayout.from_packed(state[f"{name}mask"], (4, 4), 16)
    assert layer.layout.nnz == 6
    assert torch.equal(state[f"{name}weight"], layer.weight.detach())
    if schedule != "static":
        assert layer.schedule.steps == state[f"{name}schedule._extra_state"][0] >= 5
    observation_space = spinup.make_env(config["env_fn"]).observation_space
    assert len(Player(policy, 2).act(np.zeros((2, *observation_space.shape), np.float32), False)) == 2


@pytest.mark.parametrize("algo", [a for a in files() if "target_policy" in find(a).arguments])
def test_layers_are_pruned_alike_whichever_policy_is_the_result(algo, data_dir):
    """The learned network's layers know the progress of the run although its average is saved, and the average follows
    their layouts."""
    tables, left = [], []
    for value in ("False", "True"):
        main(words(algo, "--quiet", "--sparse_schedule", "prune", "--sparse_every", "1", "--exp_name", value,
            "--target_policy", value))  # fmt: skip
        folder = data_dir / value / f"{value}_s3"
        tables.append(without_time(folder))
        left += [m.layout.nnz for m in spinup.load(folder).modules() if isinstance(m, BlockSparseLinear)]
    assert tables[0] == tables[1]
    assert set(left) == {6}  # pruned from 16 to 0.4 of them


def test_the_same_seed_gives_the_same_run(data_dir):
    for name in ("a", "b"):
        main(words("sac", "--quiet", "--sparse_schedule", "rigl", "--sparse_every", "5", "--exp_name", name))
    a, b = (torch.load(data_dir / n / f"{n}_s3" / "model.pt", weights_only=True) for n in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_prints_its_numbers_of_parameters(capsys):
    main(words("ppo"))
    out = capsys.readouterr().out
    # 4*64+64, 6*256+64, 64*2+2 parameters
    assert "actor: 2,050 parameters (4,610 if dense); 1 block-sparse layers of density 0.375" in out


def test_flags_in_the_help(capsys):
    main(["sac", "--help"])
    out = capsys.readouterr().out
    for flag in ("sparsity", "block_size", "layout", "sparse_schedule", "sparse_every", "sparse_fraction"):
        assert f"--{flag}, --ac_kwargs:linear:" in out


MPI_SCRIPT = """
import sys, torch
from spinup.compute import mpi, optim
from spinup import nets
torch.manual_seed(mpi.proc_id())
net = nets.mlp([5, 64, 64, 2], "ReLU", {"sparsity": 0.6, "block_size": 16, "schedule": sys.argv[1], "every": 2})
masks = [net[2].layout.mask]
mpi.sync_params(net)
masks += [net[2].layout.mask]
adam = optim.FlatAdam(net, 0.01)
for _ in range(4):
    adam.minimize(net(torch.randn(16, 5)).square().sum())
    masks += [net[2].layout.mask]
torch.save({"masks": torch.stack(masks), "flat": adam.flat.data, "m": adam.m.data}, f"{sys.argv[2]}/{mpi.proc_id()}.pt")
"""


@pytest.mark.parametrize("kind", ["rigl", "set"])
def test_all_mpi_processes_have_the_same_layout(kind, tmp_path):
    pytest.importorskip("mpi4py")
    launcher = Path(sys.executable).parent / "mpiexec"
    if not launcher.exists():
        pytest.skip("there is no mpiexec beside python")
    (tmp_path / "train.py").write_text(MPI_SCRIPT)
    command = [str(launcher), "-n", "2", sys.executable, str(tmp_path / "train.py"), kind, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(command, check=True, timeout=120, env=env)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert (a["masks"][0] != b["masks"][0]).any()  # each process drew its own
    assert torch.equal(a["masks"][0], a["masks"][1])  # and took over the first one's
    for key, rest in (("masks", slice(1, None)), ("flat", slice(None)), ("m", slice(None))):
        assert torch.equal(a[key][rest], b[key][rest])
    assert (a["masks"][1] != a["masks"][-1]).any()
