"""FlatAdam against torch's Adam and gradient clipping on separate parameters."""

import copy
import math

import pytest
import torch
from torch import nn

from spinup.compute.optim import FlatAdam, flatten, polyak_average


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def losses(steps, scale=1.0):
    """A loss function of a module for each step, each on new data."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 1, 5, 5, generator=rng, dtype=torch.float64)
        y = scale * torch.randn(8, 1, generator=rng, dtype=torch.float64)
        yield lambda module, x=x, y=y: (module(x) - y).square().mean()


def assert_same(module, twin, tol=1e-12):
    for (name, p), q in zip(module.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tol, atol=tol, msg=lambda m, name=name: f"{name}: {m}")


def joined(module, gradients=False):
    """A copy of all parameters, or their gradients, in one vector."""
    return torch.cat([(p.grad if gradients else p.detach()).flatten() for p in module.parameters()])


def test_first_step_by_hand():
    """Adam's first step has length lr in each coordinate, against the gradient's sign."""
    module = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    optimizer = FlatAdam(module, lr=0.1, eps=0.0)
    optimizer.minimize(module(torch.tensor([[3.0, -0.5]], dtype=torch.float64)).sum())
    assert module.weight.tolist() == [pytest.approx([-0.1, 0.1], rel=1e-12)]
    # a second gradient of (-3, -0.5): m = (0.9 * 0.3 - 0.3, -0.095) / 0.19, v = 9 and 0.25 after correction
    optimizer.minimize(module(torch.tensor([[-3.0, -0.5]], dtype=torch.float64)).sum())
    m = (0.9 * 0.1 * 3 - 0.1 * 3) / (1 - 0.9**2)
    assert module.weight.tolist() == [pytest.approx([-0.1 - 0.1 * m / 3, 0.2], rel=1e-12)]


@pytest.mark.parametrize("max_grad_norm", [None, 0.05, 1e9])
@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.5, 0.9), 1e-3)])
def test_every_step_matches_torch(max_grad_norm, betas, eps):
    module = net()
    twin = copy.deepcopy(module)
    ours = FlatAdam(module, 1e-2, max_grad_norm, betas, eps)
    theirs = torch.optim.Adam(twin.parameters(), 1e-2, betas, eps)
    for step, loss in enumerate(losses(12)):
        if step == 6:
            ours.lr = 3e-3
            theirs.param_groups[0]["lr"] = 3e-3
        ours.minimize(loss(module))
        theirs.zero_grad()
        loss(twin).backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(twin.parameters(), max_grad_norm)
        theirs.step()
        assert_same(module, twin)


@pytest.mark.parametrize(("max_grad_norm", "expected"), [(None, 5), (10, 5), (1, 1), (5 + 1e-5, 5), (0.0, 0)])
def test_clipping_by_hand(max_grad_norm, expected):
    """A gradient of (3, 4) over two parameters has length 5."""
    module = nn.Linear(1, 1).double()
    optimizer = FlatAdam(module, 0.1, max_grad_norm)
    optimizer.minimize(3 * module.weight.sum() + 4 * module.bias.sum())
    length = expected / (5 + 1e-6) if expected == 1 else expected / 5
    assert joined(module, gradients=True).tolist() == pytest.approx([3 * length, 4 * length], rel=1e-12)


def test_clipping_of_a_zero_gradient_is_zero():
    module = nn.Linear(1, 1).double()
    optimizer = FlatAdam(module, 0.1, 0.5)
    before = optimizer.flat.detach().clone()
    optimizer.minimize(0 * module.weight.sum())
    assert torch.equal(optimizer.flat.detach(), before)


def test_minimize_does_not_accumulate_gradients():
    module = nn.Linear(1, 1)
    optimizer = FlatAdam(module, 0.1)
    for _ in range(3):
        optimizer.minimize(2 * module.weight.sum())
        assert joined(module, gradients=True).tolist() == [2, 0]  # the loss doesn't depend on the bias


def test_only_the_modules_own_parameters_get_gradients():
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = FlatAdam(module, 0.1)
    optimizer.minimize(module(other(torch.ones(1, 2))).sum())
    assert other.weight.grad is None
    assert (optimizer.flat.grad != 0).any()


def test_parameters_stay_views_of_the_flat_tensor():
    module = net()
    twin = copy.deepcopy(module)
    optimizer = FlatAdam(module, 1e-2)

    def lies_in(flat, x):
        return x.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()

    assert_same(module, twin, 0)  # flattening keeps the values, shapes and names
    for loss in losses(3):
        optimizer.minimize(loss(module))
        assert all(lies_in(optimizer.flat, p) and lies_in(optimizer.flat.grad, p.grad) for p in module.parameters())
    module.load_state_dict(net(seed=5).state_dict())
    assert_same(module, net(seed=5), 0)
    assert optimizer.flat.sum().item() == pytest.approx(joined(module).sum().item())
    with torch.no_grad():
        optimizer.flat.fill_(0.5)
    assert all((p == 0.5).all() for p in module.parameters())


def test_flatten_keeps_the_order_and_pads_with_zeros():
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0]]))
        module.bias.copy_(torch.tensor([3.0]))
    flat = flatten(copy.deepcopy(module))
    assert flat.tolist() == [1, 2, *[0] * 14, 3, *[0] * 15]  # 16 float32 are 64 bytes
    assert isinstance(flat, nn.Parameter)
    assert flat.grad.tolist() == [0] * 32
    assert flatten(module, alignment=1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parameters_and_gradients_are_aligned_to_64_bytes(dtype):
    module = net().to(dtype)
    FlatAdam(module, 0.1)
    assert all(x.data_ptr() % 64 == 0 for p in module.parameters() for x in (p, p.grad))


def test_padding_stays_zero():
    module = net()
    optimizer = FlatAdam(module, 1e-2, max_grad_norm=0.5)
    for loss in losses(5):
        optimizer.minimize(loss(module))
    total = sum(p.numel() for p in module.parameters())
    for flat in (optimizer.flat, optimizer.grad, optimizer.m, optimizer.v):
        assert (flat != 0).sum() == total < len(flat)


def test_state_dicts_have_no_padding():
    """Checkpoints hold one number per parameter, like those from before there was padding."""
    module, other = net(), net()
    optimizer, twin = FlatAdam(module, 1e-2), FlatAdam(other, 1e-2)
    *before, last = losses(4)
    for loss in before:
        optimizer.minimize(loss(module))
    state = optimizer.state_dict()
    assert state["m"].shape == state["v"].shape == joined(module).shape
    twin.load_state_dict(copy.deepcopy(state))
    other.load_state_dict(module.state_dict())
    optimizer.minimize(last(module))
    twin.minimize(last(other))
    assert_same(module, other, 0)


def test_training_after_a_state_is_loaded():
    """The steps after load_state_dict start from what was loaded."""
    module, twin = net(), net(seed=7)
    optimizer = FlatAdam(module, 1e-2)
    module.load_state_dict(twin.state_dict())
    theirs = torch.optim.Adam(twin.parameters(), 1e-2)
    for loss in losses(3):
        optimizer.minimize(loss(module))
        theirs.zero_grad()
        loss(twin).backward()
        theirs.step()
    assert_same(module, twin)


def test_step_uses_the_present_gradient():
    module, twin = net(), net()
    (loss,) = losses(1)
    FlatAdam(twin, 1e-2).minimize(loss(twin))
    optimizer = FlatAdam(module, 1e-2)
    loss(module).backward()
    optimizer.step()
    assert_same(module, twin)


def test_many_steps_in_float32_stay_close_to_torch():
    module = net().float()
    twin = copy.deepcopy(module)
    ours, theirs = FlatAdam(module, 1e-3, 0.5), torch.optim.Adam(twin.parameters(), 1e-3)
    x, y = torch.randn(16, 1, 5, 5), torch.randn(16, 1)
    for _ in range(50):
        ours.minimize((module(x) - y).square().mean())
        theirs.zero_grad()
        (twin(x) - y).square().mean().backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        theirs.step()
    assert_same(module, twin, 1e-4)


def test_minimize_finds_a_minimum():
    module = nn.Linear(2, 1, bias=False).double()
    optimizer = FlatAdam(module, 0.05, max_grad_norm=1.0)
    target = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    for step in range(600):
        optimizer.lr = 0.05 * (1 - step / 600)
        optimizer.minimize((module.weight - target).square().sum())
    assert math.dist(module.weight.flatten().tolist(), [2, -1]) < 1e-3


def test_polyak_average_by_hand():
    target, source = torch.tensor([1.0, 2.0, -4.0]), torch.tensor([3.0, 6.0, 4.0])
    polyak_average(target, source, 0.75)
    assert target.tolist() == [1.5, 3, -2]  # 3/4 of the target and 1/4 of the source
    assert source.tolist() == [3, 6, 4]
    polyak_average(target, source, 0.0)
    assert target.tolist() == [3, 6, 4]
    polyak_average(target, torch.zeros(3), 1.0)
    assert target.tolist() == [3, 6, 4]


def test_polyak_average_moves_running_statistics():
    class Net(nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.norm.running_mean.fill_(mean)
            self.register_buffer("scale", torch.tensor(mean), persistent=False)

    target, source = Net(0.0), Net(4.0)
    source.norm.num_batches_tracked.fill_(3)
    polyak_average(flatten(target), FlatAdam(source, lr=0.1).flat, 0.75)
    assert target.norm.running_mean.tolist() == [1, 1]
    assert target.norm.num_batches_tracked == 0  # not a number to average
    assert target.scale == 0  # not saved: a constant


def test_polyak_average_moves_every_parameter_of_a_module():
    module, other = net(0), net(1)
    expected = [0.9 * p + 0.1 * q for p, q in zip(module.parameters(), other.parameters(), strict=True)]
    target, source = flatten(module), FlatAdam(other, 0.1).flat
    polyak_average(target, source, 0.9)
    for p, q in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    assert target.requires_grad  # the averaging isn't part of any graph
    assert target.is_leaf
    assert_same(other, net(1), 0)


def test_minimize_steps_only_its_own_parameters():
    """In a chain of two modules, the other module's parameters and gradients stay unchanged."""
    first, second = net(0), nn.Linear(1, 1).double()
    one, two = FlatAdam(first, 0.1), FlatAdam(second, 0.1)
    before = [p.detach().clone() for p in first.parameters()]
    x = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    two.minimize(second(first(x)).sum())
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), before, strict=True))
    assert (one.grad == 0).all()
    kept = two.flat.detach().clone()
    one.minimize(second(first(x)).sum())
    assert torch.equal(two.flat.detach(), kept)
    assert any((p != q).any() for p, q in zip(first.parameters(), before, strict=True))


def test_subnormal_moments_are_flushed_to_zero_only_within_adam():
    """While a gradient stays 0 its mean decays: 0.9^900 is below the smallest normal number."""
    module = nn.Linear(4, 3)
    optimizer = FlatAdam(module, 1e-2)
    optimizer.grad.fill_(1.0)
    optimizer.step()
    optimizer.grad.zero_()
    smallest = torch.finfo(torch.float32).smallest_normal
    lengths = []
    for _ in range(900):
        optimizer.step()
        lengths.append(optimizer.m.abs().max().item())
    assert all(length == 0 or length >= smallest for length in lengths)
    assert lengths[0] == pytest.approx(0.09)
    # Kernels that take m - 0.1 m stop once 0.1 m is subnormal, and so 0; those that take 0.9 m reach 0.
    assert lengths[-1] < smallest / 0.1
    assert (torch.tensor([1e-40]) * 1).item() > 0  # elsewhere subnormal numbers are kept


# ---- as a torch optimizer


@pytest.mark.parametrize("none", [False, True])
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_zero_grad_backward_and_step_do_what_minimize_does(none, max_grad_norm):
    """none: other code sets p.grad to None, as torch's own zero_grad does."""
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    second = copy.deepcopy(first)
    one, two = FlatAdam(first, 1e-2, max_grad_norm), FlatAdam(second, 1e-2, max_grad_norm)
    for _ in range(3):
        x = torch.randn(4, 3)
        one.minimize(first(x).square().mean())
        second.zero_grad(set_to_none=True) if none else two.zero_grad()
        second(x).square().mean().backward()
        two.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_gradients_accumulate_until_zero_grad():
    module = torch.nn.Linear(2, 1, bias=False)
    optimizer, x = FlatAdam(module, 0.1), torch.ones(1, 2)
    for times in (1, 2):
        module(x).sum().backward()
        assert module.weight.grad.tolist() == [[times, times]]
    optimizer.zero_grad()
    assert module.weight.grad.tolist() == [[0, 0]]


def test_hooks_are_called_around_each_step():
    module = torch.nn.Linear(2, 1, bias=False)
    optimizer, called = FlatAdam(module, 0.1), []
    before = module.weight.detach().clone()
    optimizer.before_step.append(lambda o: (called.append(torch.equal(module.weight, before)), o.grad.neg_()))
    optimizer.after_step.append(lambda o: called.append(torch.equal(module.weight, before)))
    optimizer.minimize(module(torch.ones(1, 2)).sum())
    assert called == [True, False]
    torch.testing.assert_close(module.weight.detach(), before + 0.1, rtol=0, atol=1e-6)  # uphill: the hook's sign
