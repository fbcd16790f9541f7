"""Captured updates against the same updates run as Python: the same numbers, or a clear refusal."""

import copy
import functools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import OFF_POLICY, Mixed, Target, Walk, fit, parameters, train, without_time
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spinup.capture import Program, captured, every_time
from spinup.errors import Fault, UserError
from spinup.optim import Adam

SMALL = dict(epochs=2, steps_per_epoch=60, start_steps=10, update_after=10, batch_size=5, replay_size=1000, eval_freq=0)


# ---- whole runs

VARIANTS = {
    "layer norm": dict(ac_kwargs=dict(hidden_sizes=(8, 8), layer_norm=True)),
    "tanh": dict(ac_kwargs=dict(hidden_sizes=(8, 8), layer_norm=False, activation="Tanh")),
    "environments, n-step": dict(num_envs=3, n_step=3, update_every=7),
    "block-sparse": dict(ac_kwargs=dict(hidden_sizes=(32, 32), linear=dict(sparsity=0.5, block_size=16))),
    "block-sparse, evolving": dict(
        ac_kwargs=dict(hidden_sizes=(32, 32), linear=dict(sparsity=0.5, block_size=16, schedule="set", every=3))
    ),
    "bfloat16": dict(matmul_precision="medium", batch_size=150, ac_kwargs=dict(hidden_sizes=(8, 8))),
}


def assert_same_run(algo, env, folder, options):
    ours, plain = (train(algo, env, folder / str(flag), **options, capture=flag) for flag in (True, False))
    ours, plain = ours.state_dict(), plain.state_dict()
    assert without_time(folder / "True") == without_time(folder / "False")
    for name, x in ours.items():
        assert torch.equal(x, plain[name]), name


@pytest.mark.parametrize("algo", OFF_POLICY)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_run_to_the_bit(tmp_path, algo, variant):
    precision = torch.get_float32_matmul_precision()
    try:
        assert_same_run(algo, fit(algo, Mixed), tmp_path, SMALL | VARIANTS[variant])
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("env", [Walk, Target], ids=["discrete", "box"])
@pytest.mark.parametrize("alpha", ["auto", 0.2])
def test_the_same_sac_to_the_bit(tmp_path, env, alpha):
    assert_same_run("sac", env, tmp_path, SMALL | dict(alpha=alpha))


PPO = {
    "uneven minibatches": dict(minibatch_size=28),
    "all at once": dict(minibatch_size=None, recompute_adv=False),
    "limits": dict(vf_clip=0.1, ent_coef=0.1, max_grad_norm=0.01, normalize_rew=False),
    "target_kl": dict(target_kl=1e-3),
    "block-sparse, evolving": dict(
        ac_kwargs=dict(hidden_sizes=(32, 32), linear=dict(sparsity=0.5, block_size=16, schedule="set", every=3))
    ),
}


@pytest.mark.parametrize("variant", PPO)
@pytest.mark.parametrize("env", [Mixed, Target], ids=["discrete", "box"])
def test_the_same_ppo_to_the_bit(tmp_path, env, variant):
    options = dict(epochs=3, steps_per_epoch=64, num_envs=2, train_pi_iters=4, train_v_iters=4, minibatch_size=16)
    assert_same_run("ppo", env, tmp_path, options | PPO[variant])


class Images(Walk):
    observation_space = spaces.Box(0, 255, (8, 8), np.uint8)

    def observe(self):
        return self.np_random.integers(0, 256, (8, 8), np.uint8)

    def reward(self, a):
        return float(a[0])


def test_the_same_run_on_images_to_the_bit(tmp_path):
    assert_same_run("sac", Images, tmp_path, SMALL | dict(steps_per_epoch=30))


# ---- one update


def count_calls(update, calls):
    def counted(*args):
        calls.append(args)
        return update(*args)

    return counted


def descend(net, optimizer, python=lambda loss: None):
    """An update that fits net to its batch, with some noise, and does `python` as well."""

    def update(batch, noise=0.0):
        x, y = batch
        scale = torch.tensor([2.0, 0.5])  # made anew from Python's numbers in each call, and changed
        scale[0] += 1
        loss = ((net(x) - y) * scale).square().mean() + noise * torch.randn(3).mean()
        python(loss)
        optimizer.minimize(loss)
        return {"Loss": loss, "Parts": net(x)[0].detach()}

    return update


def make(wrap, python=lambda loss: None, lr=0.1):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 2))
    optimizer = Adam(net, lr)
    calls = []
    update = wrap(count_calls(descend(net, optimizer, python), calls))
    batches = [(torch.randn(5, 3), torch.randn(5, 2)) for _ in range(40)]
    return net, optimizer, calls, update, batches


def test_the_same_updates_with_few_calls_of_python():
    """Two programs, one for each option, take turns; calls 1, 2, 4, 8 and 16 of each run as Python."""
    results, nets = [], []
    for on in (True, False):
        net, _, calls, update, batches = make(captured(on))
        results.append([])
        for i, batch in enumerate(batches):
            result = update(batch, 0.0 if i % 2 else 0.5)
            results[-1].append({key: x.clone() for key, x in result.items()})
        nets.append(net)
        assert len(calls) == (10 if on else 40)
    for ours, plain in zip(*results, strict=True):
        assert ours.keys() == plain.keys()
        assert all(torch.equal(ours[key], plain[key]) for key in ours)
    assert torch.equal(*map(parameters, nets))
    assert len({result["Loss"].item() for result in results[0]}) == 40


def test_arguments_are_not_kept():
    """What is given to a call is copied: the next batch may lie in the same memory, or the caller change it."""
    _, _, _, update, batches = make(captured())
    before = [x.clone() for x in batches[0]]
    update(batches[0])
    update(batches[1])
    assert all(torch.equal(x, y) for x, y in zip(batches[0], before, strict=True))


def test_a_changed_learning_rate_holds_from_the_next_update():
    net, optimizer, calls, update, batches = make(captured())
    for batch in batches[:5]:
        update(batch)
    optimizer.lr = 0.0
    before = parameters(net)
    update(batches[5])
    assert len(calls) == 3  # 1, 2 and 4
    assert torch.equal(parameters(net), before)


def test_python_that_reads_a_tensor_runs_each_time():
    seen = []
    _, _, calls, update, batches = make(captured(), lambda loss: seen.append(loss.item()))
    with pytest.warns(
        UserWarning, match=r"^each update runs as Python, for it reads a tensor there \(aten._local_scalar_dense"
    ):
        update(batches[0])
    results = [update(batch)["Loss"].item() for batch in batches[1:]]
    assert seen[1:] == results
    assert len(calls) == 40


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net[0].weight.set_(torch.zeros(8, 3)),  # other memory
        lambda net: net.__setitem__(1, nn.Tanh()),  # another operation
        lambda net: setattr(net[2], "eps", 0.5),  # another number
    ],
    ids=["memory", "operation", "number"],
)
def test_an_update_that_does_something_else_is_found_out(change):
    net, _, _, update, batches = make(captured())
    for batch in batches[:3]:
        update(batch)
    with torch.no_grad():
        change(net)
    with pytest.raises(UserError, match=r"^update 4 does other operations than the first.* or set capture to False$"):
        update(batches[3])


def test_every_thousandth_update_is_compared():
    net, _, calls, update, batches = make(captured(), lr=0.0)
    for _ in range(999):
        update(batches[0])
    assert len(calls) == 10  # 1, 2, 4, ..., 512
    net[1] = nn.Tanh()
    with pytest.raises(UserError, match=r"^update 1000 does other"):
        update(batches[0])


def test_rows_are_picked_by_number_and_not_by_mask():
    x = torch.arange(10.0)
    by_number = captured()(lambda batch: {"X": x[batch[0]]})
    for i in range(8):
        assert by_number((torch.tensor([i, i + 1]),))["X"].tolist() == [i, i + 1]
    by_mask = captured()(lambda batch: {"X": x[batch[0]]})
    with pytest.warns(UserWarning, match="reads a tensor"):
        by_mask((x > 5,))
    assert [len(by_mask((x > i,))["X"]) for i in range(8)] == [9 - i for i in range(8)]


def test_functions_for_every_time_run_in_each_repetition():
    seen = []

    @every_time
    def look(x):
        seen.append(x.item())

    _, _, calls, update, batches = make(captured(), look)
    losses = [update(batch)["Loss"].item() for batch in batches]
    assert seen == losses
    assert len(calls) == 6


def test_nan_is_told_in_the_update_that_has_it():
    _, optimizer, calls, update, batches = make(captured())
    for batch in batches[:4]:
        update(batch)
    optimizer.flat.data[0] = float("nan")
    with pytest.raises(Fault, match=r"^the loss of Sequential is nan in its gradient step 5"):
        update(batches[4])
    assert len(calls) == 3


def test_results_are_not_overwritten_within_a_call():
    """Memory is taken over after the last use: here by turns, in a chain whose first link is needed at the end."""

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


# ---- what a repetition leaves out, and what it does by other functions


def assert_repeats(update, batches):
    """The captured update gives what the plain one does, in the calls as Python (1, 2, 4) and in those between."""
    run = captured()(update)
    for x in batches:
        plain = {key: value.clone() for key, value in update((x,)).items()}
        ours = run((x,))
        assert all(torch.equal(ours[key], plain[key]) for key in plain), x


class Calls(TorchDispatchMode):
    """Counts copies and takes down where the results of matrix products are put."""

    def __init__(self):
        super().__init__()
        self.copies, self.products = 0, []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.copies += op is torch.ops.aten._foreach_copy_.default
        if op is torch.ops.aten.mm.out:
            self.products.append(kwargs["out"].data_ptr())
        return op(*args, **(kwargs or {}))


def test_gradients_are_made_in_the_flat_one():
    net, _, _, update, batches = make(captured())
    for batch in batches[:4]:
        update(batch)
    with Calls() as seen:
        update(batches[4])
    weights = [p.grad.data_ptr() for p in net.parameters() if p.dim() == 2]
    assert set(weights) <= set(seen.products)
    assert seen.copies == 1  # of the batch


SOURCES = [torch.arange(6.0).view(2, 3) + k for k in range(6)]


def copies(*pairs):
    torch._foreach_copy_([to for to, _ in pairs], [x for _, x in pairs])


def used_later(x, to):
    y = x * 2
    copies((to[0], y))
    to[0] += 1
    return y


def destination_used_between(x, to):
    y = x * 2
    z = to[0] + 1
    copies((to[0], y))
    return z


def destination_read_by_the_source(x, to):
    copies((to[0], x.mm(to[0].t()).mm(x)))
    return to[0].clone()


def copied_twice(x, to):
    y = x * 2
    copies((to[0], y), (to[1], y))
    to[0] += 1
    return to.clone()


def into_another_layout(x, to):
    y = (x * 2).t()
    copies((to[0].view(3, 2), y), (to[1], x + 1), (to[2], y.reshape(-1)[:6].view(2, 3)))
    return to.clone()


def a_part_alone(x, to):
    y = torch.cat([x, x * 3])
    copies((to[0], y[2:]))
    return to.clone()


def into_a_result(x, to):
    made = x + 1
    z = made.sum()
    y = x * 2
    copies((made, y))
    return made + z


def an_argument(x, to):
    copies((to[0], x))
    to[0] += 1
    return to.clone()


def another_is_made_of_the_destination(x, to):
    y = x * 2
    copies((to[1], to[0]), (to[0], y))
    return to.clone()


def one_destination_for_two(x, to):
    second, first = x * 3, x * 2
    copies((to[0], first), (to[0], second))
    return to.clone()


def destinations_that_overlap(x, to):
    part, whole = x[0] * 5, (x * 2).view(-1)
    flat = to[0].view(-1)
    copies((flat, whole), (flat[1:4], part))
    return to.clone()


def destinations_with_gaps(x, to):
    flat = to[0].view(-1)
    copies((flat[::4], x[0, :2] * 5), (flat[3:], x[0] * 2))
    return to.clone()


def a_product_reshaped(x, to):
    y = torch.matmul(x.view(1, 2, 3), to.view(6, 3)[:3] + to[0, 0, 0] + 1)  # a product, and then a view without notice
    copies((to[0].view(1, 2, 3), y))
    return to.clone()


def a_product_with_the_destination(x, to):
    copies((to.view(6, 3)[:2].view(1, 2, 3), torch.matmul(x.view(1, 2, 3), to.view(6, 3)[:3])))
    return to.clone()


def read_as_another_type(x, to):
    copies((to.view(torch.int32)[0], (x * 2).view(torch.int32)))
    return to.clone()


@pytest.mark.parametrize(
    "function",
    [
        another_is_made_of_the_destination,
        one_destination_for_two,
        destinations_that_overlap,
        destinations_with_gaps,
        a_product_reshaped,
        a_product_with_the_destination,
        read_as_another_type,
        used_later,
        destination_used_between,
        destination_read_by_the_source,
        copied_twice,
        into_another_layout,
        a_part_alone,
        into_a_result,
        an_argument,
    ],
)
def test_copies_that_are_needed_stay(function):
    to, plain = torch.zeros(3, 2, 3), torch.zeros(3, 2, 3)
    run = captured()(lambda batch: {"Result": function(batch[0], to)})
    for x in SOURCES:
        assert torch.equal(run((x,))["Result"], function(x, plain))
        assert torch.equal(to, plain)


def test_a_destination_seen_through_other_tensors_is_not_changed_early():
    array = np.zeros((2, 3), np.float32)
    to, same = torch.from_numpy(array), torch.from_numpy(array)

    def update(batch):
        y = batch[0] * 2
        before = same + 1
        copies((to, y))
        return {"Before": before}

    run, before = captured()(update), torch.zeros(2, 3)
    for x in SOURCES:
        assert torch.equal(run((x,))["Before"], before + 1)
        before = x * 2


def test_memory_that_a_copy_no_longer_needs_is_used_again():
    """Of the two sums one is given back after its last use; where the other would lie, it need not."""
    memory, to = {}, torch.zeros(2, 3)

    def update(batch):
        copies((to, (batch[0] + 1) * 2))
        return {}

    Program(update, (SOURCES[0],), (), memory)((SOURCES[0],))
    assert len(memory[to.nbytes]) == 1


def test_a_destination_seen_by_a_function_for_every_time_is_not_changed_early():
    to, seen = torch.zeros(2, 3), []

    @every_time
    def look():
        seen.append(to.clone())

    def update(batch):
        y = batch[0] * 2
        look()
        copies((to, y))
        return {"To": to}

    run = captured()(update)
    for x in SOURCES:
        run((x,))
    assert all(torch.equal(x, 2 * y) for x, y in zip(seen[1:], SOURCES[:-1], strict=True))


def test_functions_that_do_something_else_are_not_used(monkeypatch):
    monkeypatch.setattr(torch, "mul", torch.add)
    assert_repeats(lambda batch: {"Product": batch[0] * batch[0].exp()}, SOURCES)


def test_numbers_and_methods_are_what_they_were():
    """Operations that torch's functions of the same name do otherwise, or not at all, are done by the operators."""
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
    """Whose products, splits and shapes are changed in place in ways that the operations' signatures do not tell."""

    def __init__(self):
        super().__init__()
        self.gru, self.lstm, self.norm = nn.GRUCell(3, 4), nn.LSTM(3, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        h = self.norm(self.gru(x) + self.lstm(x.unsqueeze(0))[0][0])
        return torch.kron(h, torch.ones(1, 2)), h.quantile(0.3, dim=-1), h.unsafe_chunk(2, -1), x.unsafe_chunk(3, -1)


def test_layers_that_change_what_they_are_given():
    torch.manual_seed(0)
    net = Layers()
    other = copy.deepcopy(net)

    def update(net, batch):
        results = {i: x * 1 for i, x in enumerate(tree_leaves(net(batch[0])))}
        return results | {"Mean": net.norm.running_mean}

    run = captured()(functools.partial(update, net))
    for x in SOURCES:
        ours, wanted = run((x,)), update(other, (x,))
        assert all(torch.equal(ours[key], wanted[key]) for key in wanted)


def test_operations_whose_variants_for_given_memory_do_something_else():
    """Those of torch 2.13 for these raise, or are wrong."""

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


def test_complex_conjugates_are_conjugated():
    def update(batch):
        z = torch.complex(batch[0], batch[0] + 1) * 2
        return {"Square": torch.view_as_real(z.conj() * z), "Negative": z.conj().imag * 3}

    assert_repeats(update, SOURCES)


@pytest.mark.parametrize("own", [False, True], ids=["torch's generator", "own generator"])
def test_random_numbers_go_on_as_they_would(own):
    draw = functools.partial(torch.rand, 3, generator=torch.Generator() if own else None)
    seed = draw.keywords["generator"].manual_seed if own else torch.manual_seed
    seed(0)
    wanted = [(draw(), draw() + 1) for _ in range(7)]
    seed(0)
    run = captured()(lambda batch: {"First": draw(), "Second": draw() + 1})
    for first, second in wanted:
        ours = run((SOURCES[0],))
        assert torch.equal(ours["First"], first)
        assert torch.equal(ours["Second"], second)


def test_numbers_of_another_type_are_another_program():
    run = captured()(lambda batch: {"Third": batch[0] / 3})
    for x in (SOURCES[1], SOURCES[1].double(), SOURCES[1], SOURCES[1].double()):
        assert torch.equal(run((x,))["Third"], x / 3)
