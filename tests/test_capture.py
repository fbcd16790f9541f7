"""Captured updates against the same updates run as Python: bitwise equality of runs, single updates and operations."""

import contextlib
import copy
import functools
import gc
import pickle
import re
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from gymnasium import spaces
from probes import OFF_POLICY, Mixed, Target, Walk, fit, parameters, taken, train, without_time
from test_masks import Masked
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spinup.compute.accel import ALIGNMENT
from spinup.compute.capture import captured, cuda, front, program, replay, unguarded
from spinup.compute.capture.operators import operator
from spinup.compute.capture.record import tensors_in
from spinup.compute.optim import FlatAdam
from spinup.errors import Fault

SMALL = dict(epochs=2, steps_per_epoch=60, start_steps=10, update_after=10, batch_size=5, replay_size=1000, eval_freq=0)


@pytest.fixture(autouse=True)
def trace_at_once(monkeypatch):
    monkeypatch.setattr(front, "PATIENCE", 0.0)


# ---- whole runs

# Each run has several options, since its steps are compared bit by bit.
DENSE = dict(num_envs=3, n_step=3, update_every=7, matmul_precision="medium", batch_size=150)
DENSE |= dict(ac_kwargs=dict(hidden_sizes=(8, 8), activation="Tanh"))
SPARSE = dict(hidden_sizes=(32, 32), linear=dict(sparsity=0.5, block_size=16))
EVOLVING = dict(ac_kwargs=SPARSE | dict(linear=SPARSE["linear"] | dict(schedule="set", every=3)))


def assert_same_run(algo, env, folder, options, capfd):
    """Check that table and networks are the same; returns the captured run's lines on stderr about its updates."""
    capfd.readouterr()
    ours = train(algo, env, folder / "True", **options, capture=True)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("capture: ")]
    plain = train(algo, env, folder / "False", **options, capture=False)
    assert without_time(folder / "True") == without_time(folder / "False")
    for name, x in ours.state_dict().items():
        assert torch.equal(x, plain.state_dict()[name]), name
    return said


@pytest.mark.parametrize("algo", [*OFF_POLICY, "dqn"])
def test_runs_are_bitwise_the_same(tmp_path, algo, capfd):
    norm = {} if algo == "crossq" else dict(layer_norm=True)
    options = SMALL | DENSE | dict(ac_kwargs=DENSE["ac_kwargs"] | norm)
    precision = torch.get_float32_matmul_precision()
    try:
        assert assert_same_run(algo, fit(algo, Mixed), tmp_path, taken(algo, options), capfd) == []
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("algo", [*OFF_POLICY, "dqn"])
def test_runs_with_evolving_layers_are_bitwise_the_same(tmp_path, algo, capfd):
    assert len(assert_same_run(algo, fit(algo, Mixed), tmp_path, taken(algo, SMALL | EVOLVING), capfd)) == 1


def test_a_run_with_fixed_block_sparse_layers_is_bitwise_the_same(tmp_path, capfd):
    assert assert_same_run("td3", Target, tmp_path, SMALL | dict(ac_kwargs=SPARSE), capfd) == []


CROSSQ = {
    "targets, one pass each": dict(polyak=0.9, joint=False, policy_average=0.0),
    "each step, no normalization": dict(
        policy_delay=1, alpha=0.2, ac_kwargs=dict(hidden_sizes=(8, 8), batch_norm=False, actor_batch_norm=False)
    ),
}


@pytest.mark.parametrize("variant", CROSSQ)
def test_crossq_is_bitwise_the_same(tmp_path, variant, capfd):
    assert assert_same_run("crossq", Target, tmp_path, SMALL | CROSSQ[variant], capfd) == []


SAC = {"discrete": (Walk, dict(alpha="auto")), "box": (Target, dict(alpha=0.2, policy_delay=2, policy_average=0.9))}


@pytest.mark.parametrize("variant", SAC)
def test_sac_is_bitwise_the_same(tmp_path, variant, capfd):
    env, settings = SAC[variant]
    assert assert_same_run("sac", env, tmp_path, SMALL | settings, capfd) == []


PPO = {
    "uneven minibatches": (Mixed, dict(minibatch_size=28)),
    "all at once": (Target, dict(minibatch_size=None, recompute_adv=False)),
    "limits": (Target, dict(vf_clip=0.1, ent_coef=0.1, max_grad_norm=0.01, normalize_rew=False)),
    "target_kl": (Mixed, dict(target_kl=1e-3)),
    "evolving": (Mixed, EVOLVING),
}


@pytest.mark.parametrize("variant", PPO)
def test_ppo_is_bitwise_the_same(tmp_path, variant, capfd):
    options = dict(epochs=3, steps_per_epoch=64, num_envs=2, train_pi_iters=4, train_v_iters=4, minibatch_size=16)
    env, more = PPO[variant]
    said = assert_same_run("ppo", env, tmp_path, options | more, capfd)
    assert len(said) == (2 if variant == "evolving" else 0), said


LSTM = dict(ac_kwargs=dict(cell="lstm", memory_size=8))
RECURRENT = {
    "gru": (Walk, dict(seq_len=8, minibatch_size=16)),
    "lstm, whole rollouts": (Target, LSTM | dict(seq_len=None, minibatch_size=None)),
}


@pytest.mark.parametrize("variant", RECURRENT)
def test_recurrent_ppo_is_bitwise_the_same(tmp_path, variant, capfd):
    env, more = RECURRENT[variant]
    options = dict(epochs=2, steps_per_epoch=64, num_envs=2, train_pi_iters=3, train_v_iters=3)
    assert assert_same_run("ppo_rnn", env, tmp_path, options | more, capfd) == []


class Images(Walk):
    observation_space = spaces.Box(0, 255, (8, 8), np.uint8)

    def observe(self):
        return self.np_random.integers(0, 256, (8, 8), np.uint8)

    def reward(self, a):
        return float(a[0])


def test_runs_on_images_are_bitwise_the_same(tmp_path, capfd):
    assert assert_same_run("sac", Images, tmp_path, SMALL | dict(steps_per_epoch=30), capfd) == []


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_runs_with_action_masks_are_bitwise_the_same(tmp_path, algo, capfd):
    assert assert_same_run(algo, Masked, tmp_path, taken(algo, SMALL | dict(normalize_obs=True)), capfd) == []


def test_runs_in_one_process_do_not_share_a_limit_of_graphs(tmp_path, capfd):
    options = dict(epochs=1, steps_per_epoch=16, num_envs=1, minibatch_size=8, train_pi_iters=1, train_v_iters=1)
    for i in range(10):
        train("ppo", Mixed, tmp_path / str(i), **options)
    assert "capture: " not in capfd.readouterr().err


# ---- alignment


class Products(TorchDispatchMode):
    """Counts matrix products, and records their tensors whose address isn't a multiple of ALIGNMENT."""

    kinds = torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm

    def __init__(self):
        super().__init__()
        self.count, self.unaligned = 0, []

    def check(self, op, *trees) -> None:
        if op.overloadpacket in self.kinds:
            self.count += 1
            begins = [(x.untyped_storage().data_ptr(), x) for x in tensors_in(trees)]
            begins += [(x.data_ptr(), x) for x in tensors_in(trees) if isinstance(x, nn.Parameter)]
            self.unaligned += [(op, tuple(x.shape)) for begin, x in begins if begin % ALIGNMENT]

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        results = op(*args, **(kwargs or {}))
        self.check(op, args, kwargs, results)
        return results


def options_for(algo):
    if algo in OFF_POLICY:
        return SMALL
    return dict(epochs=2, steps_per_epoch=66, num_envs=3) | (dict(minibatch_size=20) if algo == "ppo" else {})


@pytest.mark.parametrize("algo", ["vpg", "ppo", *OFF_POLICY])
def test_products_have_aligned_operands(tmp_path, algo):
    """Otherwise the last digits may differ: from run to run, after resuming, and between Python and replay."""
    with Products() as seen:
        train(algo, fit(algo, Target), tmp_path, **options_for(algo))
    assert seen.count > 20
    assert seen.unaligned == []


@pytest.mark.parametrize("algo", ["ppo", *OFF_POLICY])
def test_replayed_products_have_aligned_operands(tmp_path, algo, monkeypatch):
    seen, certify = Products(), replay.certified_step

    def check_and_certify(operation):
        seen.check(operation.op, *operation)
        return certify(operation)

    monkeypatch.setattr(replay, "certified_step", check_and_certify)
    train(algo, fit(algo, Target), tmp_path, **options_for(algo))
    assert seen.count > 10
    assert seen.unaligned == []


def test_dispatch_modes_and_debuggers_see_python(monkeypatch):
    for observe in (Products, functools.partial(trace_of_python, [])):
        _, _, update, batches = make(captured())
        for batch in batches[:3]:
            update(batch)
        monkeypatch.setattr(front, "run_compiled", lambda *args: pytest.fail("replayed"))
        with observe():
            update(batches[3])
        monkeypatch.undo()
        monkeypatch.setattr(front, "PATIENCE", 0.0)


@contextlib.contextmanager
def trace_of_python(lines: list):
    before = sys.gettrace()
    sys.settrace(lambda *event: lines.append(event))
    yield
    sys.settrace(before)


# ---- one update


def descend(net, optimizer, python=lambda loss: None):
    """An update that fits net to its batch, with some noise, and also calls `python`."""

    def update(batch, noise=0.0):
        x, y = batch
        scale = torch.tensor([2.0, 0.5])  # created from Python numbers in each call, and changed in place
        scale[0] += 1
        loss = ((net(x) - y) * scale).square().mean() + noise * torch.randn(3).mean()
        python(loss)
        optimizer.minimize(loss)
        return {"Loss": loss, "Parts": net(x)[0].detach()}

    return update


def make(wrap, python=lambda loss: None, lr=0.1):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 2))
    optimizer = FlatAdam(net, lr)
    update = wrap(descend(net, optimizer, python))
    batches = [(torch.randn(5, 3), torch.randn(5, 2)) for _ in range(40)]
    return net, optimizer, update, batches


def test_two_programs_in_turn_do_the_same_updates():
    results, nets = [], []
    for on in (True, False):
        net, _, update, batches = make(captured(on))
        results.append([update(batch, 0.0 if i % 2 else 0.5) for i, batch in enumerate(batches)])
        nets.append(net)
    for ours, plain in zip(*results, strict=True):  # after all calls: no later call has overwritten a result
        assert ours.keys() == plain.keys()
        assert all(torch.equal(ours[key], plain[key]) for key in ours)
    assert torch.equal(*map(parameters, nets))
    assert len({result["Loss"].item() for result in results[0]}) == 40


def test_results_are_detached_in_python_too():
    for on in (True, False):
        _, _, update, batches = make(captured(on))
        assert not any(x.requires_grad for x in update(batches[0]).values())


def test_arguments_are_not_kept():
    """A call copies its arguments, since the caller may reuse their memory."""
    _, _, update, batches = make(captured())
    before = [x.clone() for x in batches[0]]
    for batch in batches[:4]:
        update(batch)
    assert all(torch.equal(x, y) for x, y in zip(batches[0], before, strict=True))


def test_an_update_is_not_traced_before_it_has_taken_some_seconds(monkeypatch):
    monkeypatch.setattr(front, "PATIENCE", 1e9)
    monkeypatch.setattr(front, "import_dynamo", lambda: pytest.fail("traced"))
    _, _, update, batches = make(captured())
    for batch in batches:
        update(batch)


def test_a_missing_dynamo_means_python(monkeypatch, capsys):
    def missing():
        raise ImportError("no module torch._dynamo")

    monkeypatch.setattr(front, "import_dynamo", missing)
    net, _, update, batches = make(captured())
    plain_net, _, plain, _ = make(captured(False))
    for batch in batches[:5]:
        assert torch.equal(update(batch)["Loss"], plain(batch)["Loss"])
    assert torch.equal(parameters(net), parameters(plain_net))
    line = "capture: update runs as Python from here on: torch's Dynamo does not load here (ImportError: no module"
    assert capsys.readouterr().err.count(line) == 1


def test_an_old_torch_means_python(monkeypatch):
    monkeypatch.setitem(front.SETTINGS, "not_yet_invented", True)
    front.import_dynamo.cache_clear()
    with pytest.raises(ImportError, match="does not know not_yet_invented"):
        front.import_dynamo()


def test_errors_of_an_update_are_those_of_python():
    _, _, update, _ = make(captured())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        update((torch.randn(5, 4), torch.randn(5, 2)))


def test_nan_is_reported_in_the_update_that_has_it():
    _, optimizer, update, batches = make(captured())
    for batch in batches[:4]:
        update(batch)
    optimizer.flat.data[0] = float("nan")
    with pytest.raises(Fault, match=r"^the loss of Sequential is nan in its gradient step 5"):
        update(batches[4])


def test_constantly_registered_hooks_mean_python(capsys):
    net, _, update, batches = make(captured())
    for batch in batches[: front.MAX_COMPILES + 2]:
        net.register_forward_hook(lambda module, args, out: None)
        update(batch)
    assert capsys.readouterr().err.count("the hooks of Sequential changed again and again") == 1


def test_what_it_does_not_read_needs_no_other_trace():
    _, _, update, batches = make(captured())
    other = nn.Linear(2, 2)
    for i, batch in enumerate(batches[:6]):
        setattr(nn.Linear, f"unread{i}", i)
        globals()[f"unread{i}"] = i
        other.register_forward_hook(lambda module, args, out: None)
        update(batch)
        delattr(nn.Linear, f"unread{i}")
        del globals()[f"unread{i}"]
    assert [trace.compiles for trace in update.traces.values()] == [1]


def test_errors_in_the_first_calls_need_no_other_trace():
    index, values = torch.full((2,), 9), torch.ones(4)
    update = captured()(lambda batch: values[index] * batch[0])
    for _ in range(3):
        with pytest.raises(IndexError, match="index 9 is out of bounds"):
            update((torch.ones(2),))
    index.zero_()
    assert update((torch.ones(2),)).tolist() == [1, 1]
    assert [trace.compiles for trace in update.traces.values()] == [1]


def test_finished_updates_and_their_batches_are_freed():
    net, optimizer, update, batches = make(captured())
    first = weakref.ref(batches[0][0])
    for batch in batches[:5]:
        update(batch)
    del batches, batch
    gc.collect()
    assert first() is None
    freed = [weakref.ref(x) for x in (net, optimizer, update)]
    del net, optimizer, update
    gc.collect()
    assert [x() for x in freed] == [None] * 3


def test_a_view_of_a_parameter_stays_one():
    """As in Python, a returned view of a parameter shows later changes."""
    net = nn.Linear(2, 2)

    @captured()
    def update(batch):
        return {"Row": net.weight[0], "Sum": (net.weight * batch[0]).sum()}

    for _ in range(4):
        result = update((torch.ones(2, 2),))
    with torch.no_grad():
        net.weight.fill_(7)
    assert result["Row"].tolist() == [7, 7]
    assert result["Sum"] != 28


def test_a_view_of_an_argument_means_python(capsys):
    update = captured()(lambda batch: {"Row": batch[0][0]})
    for i in range(4):
        x = torch.full((2, 2), float(i))
        assert update((x,))["Row"].tolist() == [i, i]
    assert "it returns a view of its arguments" in capsys.readouterr().err


def test_results_are_not_overwritten_within_a_call():
    """Memory is reused after its last use; here in turns, in a chain whose first value is needed at the end."""

    def update(batch):
        x = first = batch[0] * 2
        for _ in range(6):
            x = x + 1
        y = x.view(-1)[2:]
        z = [x * k for k in range(4)]
        square = batch[0][:, :2] + torch.ones(2).cumsum(0)
        return {"Sum": sum(z) + first, "View": y, "First": first[0], "Gap": square - square.t()}

    run = captured()(update)
    for k in range(6):
        x = torch.full((2, 3), float(k))
        result = run((x,))
        assert (result["Sum"] == 6 * (2 * k + 6) + 2 * k).all()
        assert result["View"].tolist() == [2 * k + 6] * 4
        assert result["First"].tolist() == [2 * k] * 3
        assert result["Gap"].tolist() == [[0, 1], [-1, 0]]


# ---- operations


def assert_repeats(update, batches):
    """Check that the captured update returns what the plain one does, in each call."""
    run = captured()(update)
    for x in batches:
        plain = {key: value.clone() for key, value in update((x,)).items()}
        ours = run((x,))
        assert all(torch.equal(ours[key], plain[key]) for key in plain), x
    assert not run.stays_python


SOURCES = [torch.arange(6.0).view(2, 3) + k for k in range(6)]


def test_replaced_torch_functions_are_not_used(monkeypatch):
    monkeypatch.setattr(torch, "mul", torch.add)
    assert_repeats(lambda batch: {"Product": batch[0] * batch[0].exp()}, SOURCES)


def test_operators_are_used_if_torch_functions_differ():
    """Operations whose torch function of the same name acts differently, or doesn't exist."""
    x = torch.linspace(-2, 2, 6).view(2, 3)

    def update(batch):
        y = batch[0]
        changed = y.clone()
        changed.lerp_(y + 1, 0.3).clamp_(-1, 1).mul_(2)
        return {
            "Number": torch.ops.aten.mul.Scalar(y, 0.1) / 3,
            "Divided": torch.ops.aten.div.Scalar(y, 3),
            "Whole": torch.ops.aten.mul.Scalar(y.long(), 3),
            "Promoted": torch.ops.aten.mul.Scalar(y.long(), 0.5),
            "One": torch.ops.aten.mul.Scalar(y.sum(), 0.1),
            "Reversed": 2 - y,
            "Changed": changed,
            "Added": torch.add(y, y, alpha=0.3),
            "Mean": y.mean(-1, dtype=torch.float64),
            "Normed": nn.functional.layer_norm(y, (3,)),
            "Best": y.max(-1).values,
            "Gathered": y.gather(-1, y.argmax(-1, keepdim=True)),
        }

    assert_repeats(update, [x + k for k in range(6)])


class Layers(nn.Module):
    """Layers that change results in place in ways that the operators' signatures don't declare."""

    def __init__(self):
        super().__init__()
        self.gru, self.lstm, self.norm = nn.GRUCell(3, 4), nn.LSTM(3, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        h = self.norm(self.gru(x) + self.lstm(x.unsqueeze(0))[0][0])
        return torch.kron(h, torch.ones(1, 2)), h.quantile(0.3, dim=-1), h.unsafe_chunk(2, -1), x.unsafe_chunk(3, -1)


def test_layers_that_change_their_inputs():
    torch.manual_seed(0)
    net = Layers()
    other = copy.deepcopy(net)

    def update(net, batch):
        results = {i: x * 1 for i, x in enumerate(tree_leaves(net(batch[0])))}
        return results | {"Mean": net.norm.running_mean}

    run = captured()(functools.partial(update, net))
    for x in SOURCES:
        ours, expected = run((x,)), update(other, (x,))
        assert all(torch.equal(ours[key], expected[key]) for key in expected)


def test_operations_whose_out_variants_are_wrong():
    """In torch 2.13, the out= variants of these raise or return something else."""

    def update(batch):
        p = batch[0].sigmoid()
        return {
            "Entropy": nn.functional.binary_cross_entropy(p, p.flip(0)),
            "Distance": nn.functional.pairwise_distance(p, p.flip(0)),
            "Norm": torch.nn.utils.get_total_norm([p, p + 1]),
            "Sign": torch.copysign(p, -1.0),
            "Floor": torch.ops.aten.floor_divide.Scalar(p, 0.1),
            "Add": torch.ops.aten.add.Scalar(p, 2, 3),
            "Size": torch.ops.aten.norm.Scalar(p, 2),
            "Zero": torch.autograd.grad(p.requires_grad_().sgn().sum(), p)[0],
        }

    assert_repeats(update, SOURCES)


def test_operations_that_dynamo_replaces_by_others():
    """By a division or product and an fma, for example, which round otherwise."""
    torch.manual_seed(0)
    y, z, x = torch.randn(64), torch.randn(64), torch.rand(64) + 1

    def update(batch):
        lerped = [y.clone(), z.clone()]
        torch._foreach_lerp_(lerped, [z, x], 0.3)
        return {
            "Quotient": torch.addcdiv(y, z, x, value=0.3),
            "QuotientInPlace": y.clone().addcdiv_(z, x, value=0.3),
            "Product": torch.addcmul(y, z, x, value=0.3),
            "ProductInPlace": y.clone().addcmul_(z, x, value=0.3),
            "Power": torch._foreach_pow([x], 3.3)[0],
            "Lerp": torch.cat(lerped),
        }

    assert_repeats(update, SOURCES)


def attention(batch):
    with torch.no_grad():  # where Python takes a faster path than Dynamo
        x = batch[0][None, :, :2]
        return {"X": ATTENTION(x, x, x, need_weights=False)[0]}


ATTENTION = nn.MultiheadAttention(2, 2, batch_first=True).eval()
COMPILING = {
    "is_compiling": lambda batch: {"X": batch[0] * (2 if torch.compiler.is_compiling() else 1)},
    "is_dynamo_compiling": lambda batch: {"X": batch[0] * (2 if torch.compiler.is_dynamo_compiling() else 1)},
    "MultiheadAttention": attention,
}


@pytest.mark.parametrize("name", COMPILING)
def test_what_depends_on_being_compiled_means_python(name, capsys):
    run = captured()(COMPILING[name])
    for x in SOURCES:
        assert torch.equal(run((x,))["X"], COMPILING[name]((x,))["X"])
    assert re.search(f"runs as Python from here on: it (calls|uses) `{name}`", capsys.readouterr().err)


@pytest.mark.parametrize("where", ["result", "state"])
def test_a_graph_that_differs_from_python_is_not_used(where, monkeypatch, capsys):
    """With Dynamo's own addcmul_, which rounds differently: each call does what Python does, also the first."""
    monkeypatch.setattr(unguarded, "REWRITTEN_METHODS", ())
    torch.manual_seed(0)
    y, z = torch.randn(64), torch.randn(64)

    def update(state, batch):
        x = state if where == "state" else state.clone()
        x.addcmul_(y, z * torch.rand(64), value=0.3)
        return {"X": x.clone(), "Mean": batch[0].mean()}

    runs = []
    for wrap in (captured(), lambda update: update):
        torch.manual_seed(1)
        state = torch.zeros(64)
        run = wrap(functools.partial(update, state))
        runs.append([run((x,)) for x in SOURCES])
        runs[-1].append({"X": state, "Mean": torch.rand(1)})
    for ours, plain in zip(*runs, strict=True):
        assert all(torch.equal(ours[key], plain[key]) for key in plain)
    assert capsys.readouterr().err.count("partial runs as Python from here on: Dynamo computes something else") == 1


@pytest.mark.parametrize("value", [0.3, torch.tensor(0.3)], ids=["number", "tensor"])
def test_a_scaled_sum_in_place(value):
    y, z = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    run = captured()(lambda batch: {"X": y.clone().add_(z, alpha=value) + batch[0].sum()})
    for x in SOURCES:
        assert torch.equal(run((x,))["X"], y.clone().add_(z, alpha=value) + x.sum())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_do_not_enlarge_the_memory_of_their_results(capfd, reduction):
    """The out= variants of some losses write the values before the reduction there, and warn in each call."""
    names = ("mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "soft_margin_loss", "l1_loss")

    def update(batch):
        x = batch[0].sigmoid().requires_grad_()
        losses = {name: getattr(nn.functional, name)(x, x.flip(0).detach(), reduction=reduction) for name in names}
        grads = torch.autograd.grad(sum(loss.sum() for loss in losses.values()), x)
        return losses | {"Gradient": grads[0]}

    assert_repeats(update, SOURCES)
    assert "resize" not in capfd.readouterr().err


def test_indexing_by_number_is_replayed_and_by_mask_is_not(capsys):
    x = torch.arange(10.0)
    by_number = captured()(lambda batch: {"X": x[batch[0]]})
    for i in range(8):
        assert by_number((torch.tensor([i, i + 1]),))["X"].tolist() == [i, i + 1]
    by_mask = captured()(lambda batch: {"X": x[batch[0]]})
    assert [len(by_mask((x > i,))["X"]) for i in range(8)] == [9 - i for i in range(8)]
    assert capsys.readouterr().err.count("reads a tensor's value in Python") == 1


def test_complex_conjugates_are_conjugated(capsys):
    def update(batch):
        z = torch.complex(batch[0], batch[0] + 1) * 2
        return {"Square": torch.view_as_real(z.conj() * z), "Negative": z.conj().imag * 3}

    run = captured()(update)
    for x in SOURCES:
        ours, plain = run((x,)), update((x,))
        assert all(torch.equal(ours[key], plain[key]) for key in plain)
    assert "it conjugates complex numbers" in capsys.readouterr().err


def test_random_numbers_continue_as_in_python():
    torch.manual_seed(0)
    expected = [(torch.rand(3), torch.randn(3) + 1, torch.nn.functional.dropout(torch.ones(9))) for _ in range(7)]
    torch.manual_seed(0)
    run = captured()(lambda batch: (torch.rand(3), torch.randn(3) + 1, torch.nn.functional.dropout(torch.ones(9))))
    for numbers in expected:
        assert all(map(torch.equal, run((SOURCES[0],)), numbers))


def test_batches_of_another_dtype_are_another_program():
    run = captured()(lambda batch: {"Third": batch[0] / 3})
    for x in (SOURCES[1], SOURCES[1].double(), SOURCES[1], SOURCES[1].double()):
        assert torch.equal(run((x,))["Third"], x / 3)


@pytest.mark.parametrize(
    "change", [lambda x: x.t().contiguous().t(), lambda x: torch.cat([torch.zeros(1), x.reshape(-1)])[1:].view(2, 3)]
)
def test_strides_and_alignment_of_the_batch_are_kept(change):
    """A replay computes on copies with the arguments' strides and alignment, since the last digits depend on these."""
    seen = []

    @shows_its_argument(seen)
    def update(batch):
        return {"X": batch[0] * 2}

    for x in SOURCES:
        update((change(x),))
    strides = {(x.stride(), x.data_ptr() % ALIGNMENT) for x in seen}
    assert strides == {(change(SOURCES[0]).stride(), change(SOURCES[0]).data_ptr() % ALIGNMENT)}


def shows_its_argument(seen: list):
    """Captures an update that appends its argument to `seen` in each call, by the operator below."""
    OBSERVERS.append(seen)

    def decorate(update):
        @captured()
        def shown(batch):
            torch.ops.spinup.show_for_tests(batch[0])
            return update(batch)

        return shown

    return decorate


OBSERVERS: list[list] = []


@operator("show_for_tests(Tensor x) -> ()")
def show(x):
    OBSERVERS[-1].append(x)


# ---- what a caller may do


def assert_acts_as_python(make_update, calls, message=None, capsys=None):
    """make_update(wrap) returns an update; calls() the batch and options of each call, new ones for both runs."""
    results = []
    for on in (True, False):
        update = make_update(captured(on))
        results.append([update(*call) for call in calls()])
    for ours, plain in zip(*map(tree_leaves, results), strict=True):
        assert ours.dtype == plain.dtype
        assert torch.equal(ours, plain)
    if capsys:
        said = capsys.readouterr().err
        assert said.count("capture: ") == bool(message), said
        assert (message or "") in said


def double(wrap):
    return wrap(lambda batch: batch[0] * 2)


def batches_of(make_batch, n=6):
    return lambda: [(make_batch(i),) for i in range(n)]


FALLBACKS = {
    "a number": (batches_of(lambda i: (torch.ones(3) * i, 2.0)), "its batch is not a tuple of tensors"),
    "a generator": (batches_of(lambda i: iter([torch.ones(3)])), "its batch is not a tuple of tensors"),
    "expanded": (batches_of(lambda i: (torch.full((1,), float(i)).expand(3),)), "an expanded tensor"),
    "gradients": (batches_of(lambda i: (torch.ones(3, requires_grad=True),)), "its batch requires gradients"),
    "shapes": (batches_of(lambda i: (torch.ones(i),), front.MAX_TRACES + 2), "differ again and again"),
    "empty": (batches_of(lambda i: (torch.ones(0, 3),)), None),
    "aliases": (batches_of(lambda i: (torch.ones(3).fill_(i),) * 2), None),
    "numpy's memory": (
        batches_of(lambda i: (torch.from_numpy(np.zeros(99, np.float32)[4 * i : 4 * i + 3]),), 16),
        "its batch is aligned differently in each call",
    ),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_batches_of_other_kinds(name, capsys):
    calls, message = FALLBACKS[name]
    make_update = double if name != "a generator" else lambda wrap: wrap(lambda batch: next(batch) * 2)
    assert_acts_as_python(make_update, calls, message, capsys)


def test_options_that_are_equal_but_have_different_types(capsys):
    def calls():
        return [((torch.arange(3),), k) for k in (1, 1.0, True) for _ in range(3)]

    assert_acts_as_python(lambda wrap: wrap(lambda batch, k: batch[0] * k), calls, None, capsys)


def test_options_with_parts_that_are_equal_but_have_different_types():
    update = captured()(lambda batch, options: batch[0] * options[0])
    for options, dtype in [((1,), torch.int64), ((1.0,), torch.float32), ((True,), torch.int64)]:
        for _ in range(3):
            assert update((torch.ones(2, dtype=torch.int64),), options).dtype == dtype


def test_options_that_arent_hashable_mean_python(capsys):
    def calls():
        return [((torch.arange(3),), [2])] * 3

    assert_acts_as_python(lambda wrap: wrap(lambda batch, k: batch[0] * k[0]), calls, "hashable", capsys)


def test_arguments_passed_by_name(capsys):
    def scaled(data, scale=2.0, shift=0.0):
        return data[0] * scale + shift

    update, plain = captured()(scaled), captured(False)(scaled)
    x = (torch.arange(3.0),)
    for named in [{}, dict(scale=3.0), dict(shift=1.0), dict(shift=1.0, scale=3.0)] * 3:
        assert torch.equal(update(x, **named), scaled(x, **named))
        assert torch.equal(update(data=x, **named), scaled(x, **named))
        assert torch.equal(plain(x, **named), scaled(x, **named))
    assert len(update.traces) == 5  # one for each pair, and one without
    for wrong, message in [(dict(scal=1.0), "unexpected keyword argument 'scal'"), (dict(data=x), "multiple values")]:
        with pytest.raises(TypeError, match=rf"scaled\(\) got (an )?{message}"):
            update(x, **wrong)
    assert capsys.readouterr().err == ""


def test_arguments_without_a_position_mean_python(capsys):
    update = captured()(lambda batch, *, scale: batch[0] * scale)
    for scale in (2, 3, 3):
        assert update((torch.ones(1),), scale=scale) == scale
    assert capsys.readouterr().err.count("some of its arguments can only be passed by name") == 1


def test_a_batch_in_a_parameters_memory_means_python(capsys):
    results = []
    for on in (True, False):
        net, optimizer, _, batches = make(captured(on))

        @captured(on)
        def update(batch, net=net, optimizer=optimizer):
            x, y, weight = batch
            optimizer.minimize((net(x) - y).square().mean())
            return weight.sum()

        weights = [torch.zeros(8, 3)] * 4 + [net[0].weight.detach()] * 4
        results.append([update((*batch, w)) for batch, w in zip(batches, weights, strict=False)])
    assert all(map(torch.equal, *results))
    assert "its batch holds memory that it also reads elsewhere" in capsys.readouterr().err


def test_an_argument_changed_in_place_is_changed_in_the_first_call_too(capsys):
    update = captured()(lambda batch: batch[0].add_(1).sum())
    x = torch.zeros(3)
    update((x,))
    assert x.tolist() == [1, 1, 1]
    assert "it changes its arguments in place" in capsys.readouterr().err


def test_hooks_on_parameters_are_called_in_each_update(capsys):
    net, _, update, batches = make(captured())
    calls = []
    net[0].weight.register_hook(lambda grad: calls.append(1))
    for batch in batches[:6]:
        update(batch)
    assert len(calls) == 6
    assert "a hook on a parameter" in capsys.readouterr().err


def test_global_module_hooks_are_called_only_for_the_updates_modules():
    _, _, update, batches = make(captured())
    _, _, plain, _ = make(captured(False))
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: out * 2 if isinstance(out, torch.Tensor) else pytest.fail("a module of Dynamo's")
    )
    try:
        for batch in batches[:5]:
            assert torch.equal(update(batch)["Loss"], plain(batch)["Loss"])
    finally:
        hook.remove()


def test_anomaly_detection_sees_python():
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    update = captured()(lambda batch: torch.autograd.grad(net(batch[0]).sqrt().sum() * 0, net.weight)[0])
    for _ in range(4):
        assert update((torch.zeros(1, 1),)).isnan()
    with pytest.raises(RuntimeError, match="SqrtBackward0"), pytest.warns(), torch.autograd.detect_anomaly():
        update((torch.zeros(1, 1),))


def test_hooks_on_saved_tensors_and_function_modes_see_python():
    def halve(x):
        return x * 0.5 if x.is_floating_point() else x

    class Halve(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            return result * 0.5 if getattr(function, "__name__", "") == "mean" else result

    for observe in (lambda: torch.autograd.graph.saved_tensors_hooks(halve, lambda x: x), Halve):
        net, _, update, batches = make(captured())
        plain_net, _, plain, _ = make(captured(False))
        for i, batch in enumerate(batches[:10]):
            with observe() if i > 3 else contextlib.nullcontext():
                assert torch.equal(update(batch)["Loss"], plain(batch)["Loss"])
        assert torch.equal(parameters(net), parameters(plain_net))


@pytest.mark.parametrize("kind", ["cond", "checkpoint"])
def test_functions_within_a_graph_mean_python(kind, capsys):
    def update(batch):
        if kind == "cond":
            return torch.cond(batch[0].sum() > 5, torch.exp, torch.neg, (batch[0],))
        return torch.utils.checkpoint.checkpoint(lambda x: x * torch.rand(()), batch[0], use_reentrant=False)

    results = []
    for on in (True, False):
        torch.manual_seed(0)
        run = captured(on)(update)
        results.append([run((x,)) for x in SOURCES])
    assert all(map(torch.equal, *results))
    assert "which contains functions" in capsys.readouterr().err


def test_a_numpy_number_means_python(capsys):
    conf = {"c": np.float64(0.1)}

    def update(batch):
        return batch[0] * conf["c"]

    assert_acts_as_python(lambda wrap: wrap(update), lambda: [((x,),) for x in SOURCES], "a NumPy number", capsys)


class Learner:
    factor = 3

    @captured()
    def update(self, batch):
        return batch[0] * self.factor


def test_a_method_means_python(capsys):
    learner = Learner()
    assert [learner.update((torch.tensor(i),)).item() for i in range(4)] == [0, 3, 6, 9]
    assert capsys.readouterr().err.count("it is a method") == 1


@captured()
def triple(batch):
    return batch[0] * 3


def test_a_captured_update_is_copied_and_pickled_like_a_function():
    triple((torch.ones(2),))
    assert copy.deepcopy(triple) is triple
    assert pickle.loads(pickle.dumps(triple)) is triple


def test_captured_updates_within_another_are_part_of_it(capsys):
    inner = captured()(lambda batch: batch[0] * 2)
    assert_acts_as_python(lambda wrap: wrap(lambda batch: inner(batch) + 1), lambda: [((x,),) for x in SOURCES])
    assert "capture: " not in capsys.readouterr().err


def test_a_call_of_another_thread_runs_as_python(monkeypatch):
    """While a replay is running, since both would write to the same memory."""
    outer, inner = threading.Event(), threading.Event()
    update = captured()(lambda batch: batch[0] * 2)
    for x in SOURCES:
        update((x,))
    run = front.run_compiled

    def wait(*args):
        outer.set()
        assert inner.wait(60)
        return run(*args)

    monkeypatch.setattr(front, "run_compiled", wait)
    results = []
    thread = threading.Thread(target=lambda: results.append(update((torch.ones(2, 3),))))
    thread.start()
    assert outer.wait(60)
    monkeypatch.setattr(front, "run_compiled", lambda *args: pytest.fail("replayed"))
    assert (update((torch.zeros(2, 3),)) == 0).all()
    inner.set()
    thread.join()
    assert (results[0] == 2).all()


def test_an_interrupted_trace_is_repeated(monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    _, _, update, batches = make(captured())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", interrupt)
        with pytest.raises(KeyboardInterrupt):
            update(batches[0])
    for batch in batches[:4]:
        update(batch)
    assert not update.stays_python


def test_a_graph_that_was_interrupted_before_its_first_call_is_not_run_unchecked(monkeypatch):
    scale, run_program = [1.0], program.Program.run
    run = captured()(lambda batch: {"X": batch[0] * scale[0]})
    run((SOURCES[0],))

    def interrupted(self, args):
        raise KeyboardInterrupt

    scale[0] = 2.0
    run((SOURCES[1],))  # as Python; the next call traces it
    monkeypatch.setattr(program.Program, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run((SOURCES[1],))
    monkeypatch.setattr(program.Program, "run", run_program)
    for scale[0] in (1.0, 2.0, 1.0, 2.0):
        assert torch.equal(run((SOURCES[2],))["X"], SOURCES[2] * scale[0])
    assert not run.stays_python


def test_a_python_version_without_dynamo_means_python(monkeypatch, capsys):
    def refuse(*args, **options):
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    monkeypatch.setattr(torch, "compile", refuse)
    assert (double(captured())((torch.ones(2),)) == 2).all()
    assert "does not load here (RuntimeError: torch.compile is not supported" in capsys.readouterr().err


# ---- CUDA graphs, and a substitute on the CPU


class FakeGraph(cuda.CudaGraph):
    """Acts like a CUDA graph: capturing has no effect, and each replay writes to the same memory."""

    def warm_up(self, function):
        return function()

    def capture(self, function):
        memory = tensors_in(function.args)
        before = [x.detach().clone() for x in memory]
        self.function, self.results = function, function()
        with torch.no_grad():
            for x, y in zip(memory, before, strict=True):
                x.copy_(y)
        return self.results

    def replay(self):
        for x, y in zip(self.results, self.function(), strict=True):
            x.copy_(y)


@pytest.fixture
def graphs(monkeypatch):
    """Captured updates on the CPU take the path of those on a GPU; the fixture is the list of graphs."""
    made = []

    class Counted(FakeGraph):
        def __init__(self):
            self.replays = 0
            made.append(self)

        def replay(self):
            self.replays += 1
            super().replay()

    monkeypatch.setattr(program, "Replay", functools.partial(cuda.GraphReplay, graph=Counted))
    return made


def test_graphs_do_the_same_updates(graphs):
    results, nets = [], []
    for on in (True, False):
        net, _, update, batches = make(captured(on))
        results.append([update(batch)["Loss"] for batch in batches])
        nets.append(net)
    assert all(map(torch.equal, *results))  # the next replay doesn't overwrite results
    assert torch.equal(*map(parameters, nets))
    assert [graph.replays for graph in graphs] == [40 - 1 - cuda.WARM_UP]


def test_a_graph_for_each_shape(graphs):
    _, _, update, batches = make(captured())
    for x, y in batches:
        update((x, y))
        update((x[:3], y[:3]))
    assert [graph.replays for graph in graphs] == [40 - 1 - cuda.WARM_UP] * 2


def test_tensors_that_have_moved_mean_another_graph(graphs):
    net, _, update, batches = make(captured())
    plain_net, _, plain, _ = make(captured(False))
    for i, batch in enumerate(batches[:20]):
        for each in (net, plain_net) if i == 10 else ():
            each[3].weight.data = each[3].weight.data * 2
        assert torch.equal(update(batch)["Loss"], plain(batch)["Loss"])
    assert [graph.replays for graph in graphs] == [10 - 1 - cuda.WARM_UP] * 2


def test_a_learning_rate_changes_within_a_graph(graphs):
    net, optimizer, update, batches = make(captured())
    for batch in batches[:6]:
        update(batch)
    optimizer.lr = 0.0
    before = parameters(net)
    update(batches[6])
    assert torch.equal(parameters(net), before)
    assert len(graphs) == 1


def test_an_update_that_a_graph_cannot_hold_runs_as_python(graphs, monkeypatch, capsys):
    def refuse(self, function):
        raise RuntimeError("operation not permitted when stream is capturing\nand more lines")

    monkeypatch.setattr(FakeGraph, "capture", refuse)
    net, _, update, batches = make(captured())
    plain_net, _, plain, _ = make(captured(False))
    for batch in batches[:8]:
        assert torch.equal(update(batch)["Loss"], plain(batch)["Loss"])
    assert torch.equal(parameters(net), parameters(plain_net))
    line = "it does what a CUDA graph can't hold (operation not permitted when stream is capturing)"
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("algo", ["ppo", *OFF_POLICY])
def test_runs_on_a_gpu_agree_with_python(tmp_path, algo):
    """Up to rounding, for a few epochs: other kernels may be chosen while a graph is captured."""
    options = SMALL if algo in OFF_POLICY else dict(epochs=3, steps_per_epoch=64, num_envs=2, minibatch_size=16)
    nets = [
        train(algo, fit(algo, Mixed), tmp_path / str(on), **options, device="cuda", capture=on) for on in (True, False)
    ]
    torch.testing.assert_close(*map(parameters, nets), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_updates_on_a_gpu_are_one_graph(monkeypatch):
    replays, replay_graph = [], cuda.CudaGraph.replay
    monkeypatch.setattr(cuda.CudaGraph, "replay", lambda self: (replays.append(1), replay_graph(self)))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).cuda()
    update = captured()(descend(net, FlatAdam(net, 0.01)))
    batches = [(torch.randn(5, 3).cuda(), torch.randn(5, 2).cuda()) for _ in range(40)]
    losses = [update(batch)["Loss"].item() for batch in batches]
    assert len(replays) == 40 - 1 - cuda.WARM_UP
    assert len(set(losses)) == 40


# ---- what stays as it was


def test_captured_needs_parentheses():
    with pytest.raises(TypeError, match=r"captured needs parentheses: @captured\(\)"):
        captured(lambda batch: None)


def test_distributions_are_still_validated():
    update = captured()(lambda batch: batch[0] * 2)
    for _ in range(3):
        update((torch.ones(3),))
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(torch.zeros(1), torch.tensor(-1.0))


def test_changing_a_returned_parameter_changes_no_later_result():
    net = nn.Linear(2, 3)
    update = captured()(lambda batch: (net.weight, batch[0] * 2))
    for _ in range(4):
        weight, _ = update((torch.ones(3),))
        assert weight.shape == (3, 2)
        assert weight.data_ptr() == net.weight.data_ptr()
        weight.unsqueeze_(0)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_an_error_leaves_gradients_switched_on(calls):
    table = torch.arange(3.0)

    @captured()
    def update(batch):
        with torch.no_grad():
            return table[batch[0]] * 2

    for _ in range(calls):
        update((torch.ones(2, dtype=torch.long),))
    with pytest.raises(IndexError):
        update((torch.full((2,), 9),))
    assert torch.is_grad_enabled()
