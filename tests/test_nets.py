"""Distributions against torch.distributions, statistics against numpy, then properties of every network."""

import copy
import functools
import math
import re
import types

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as td
from torch import nn

from spinup.compute.capture.front import validating
from spinup.errors import UserError
from spinup.nets import (
    CNN,
    ActorCritic,
    Bounds,
    Categorical,
    DeterministicActorCritic,
    Gaussian,
    HiddenLinear,
    MultiCategorical,
    NoNorm,
    QFunction,
    QFunctions,
    RunningNorm,
    SoftActorCritic,
    SquashedGaussian,
    TwinActorCritic,
    activation_class,
    as_input,
    check_actor_critic,
    check_makes_networks,
    check_q_actor_critic,
    keep_bounds,
    mlp,
    orthogonal_,
)
from spinup.nets.encoders import make_encoder
from spinup.nets.layers import UNSUITABLE
from spinup.observations import flattened_space, network_space

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 12, 10), np.uint8)
ACTIONS = {
    "box": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 10], np.float32)),
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([2, 5, 3]),
}
LEADS = [(), (5,), (4, 2)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def close(x, y, tol=1e-12):
    torch.testing.assert_close(x, y, rtol=tol, atol=tol, check_dtype=False)


# ---- distributions by hand


def test_gaussian_by_hand():
    pi = Gaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([0.0, math.log(2)]))
    # z = (1, 0.5): -z^2 / 2 = -0.5 - 0.125, minus log 2, minus 2 * log sqrt(2 pi)
    close(pi.log_prob(torch.tensor([[2.0, -1.0]])), torch.tensor([-0.625 - math.log(2) - math.log(2 * math.pi)]), 1e-6)
    close(pi.entropy(), torch.tensor([1 + math.log(2 * math.pi) + math.log(2)]), 1e-6)
    other = Gaussian(torch.tensor([[1.0, 0.0]]), torch.tensor([math.log(2), 0.0]))
    # log 2 + 1/8 - 1/2 for the first dimension; -log 2 + (4 + 4) / 2 - 1/2 for the second
    close(pi.kl(other), torch.tensor([1 / 8 - 1 / 2 + 4 - 1 / 2]), 1e-6)


def test_categorical_by_hand():
    pi = Categorical(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log())
    close(pi.log_prob(torch.tensor([0, 2])), torch.tensor([-math.log(2), -math.log(4)]), 1e-6)
    close(pi.entropy(), torch.full((2,), 1.5 * math.log(2)), 1e-6)
    # 1/2 log(1/2 / 1/4) + 1/4 log(1/4 / 1/2) = 1/4 log 2
    close(pi.kl(Categorical(pi.logp.flip(0))), torch.full((2,), 0.25 * math.log(2)), 1e-6)


# ---- distributions against torch.distributions


def gaussian_pair(lead, free_log_std):
    std_shape = (3,) if free_log_std else (*lead, 3)
    mu, log_std = torch.randn(*lead, 3, dtype=torch.float64), torch.randn(std_shape, dtype=torch.float64)
    return Gaussian(mu, log_std), td.Independent(td.Normal(mu, log_std.exp().expand_as(mu)), 1)


def categorical_pair(lead, k):
    logits = 2 * torch.randn(*lead, k, dtype=torch.float64)
    return Categorical(logits.log_softmax(-1)), td.Categorical(logits=logits)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("free_log_std", [True, False])
def test_gaussian_matches_torch(lead, free_log_std):
    (p, p_twin), (q, q_twin) = (gaussian_pair(lead, free_log_std) for _ in range(2))
    a = torch.randn(*lead, 3, dtype=torch.float64)
    for ours, twin in [(p.log_prob(a), p_twin.log_prob(a)), (p.entropy(), p_twin.entropy())]:
        assert ours.shape == lead
        close(ours, twin)
    assert p.kl(q).shape == lead
    close(p.kl(q), td.kl_divergence(p_twin, q_twin))
    close(p.kl(p), torch.zeros(lead))
    assert torch.equal(p.mode(), p.mu)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("k", [1, 2, 7])
def test_categorical_matches_torch(lead, k):
    (p, p_twin), (q, q_twin) = (categorical_pair(lead, k) for _ in range(2))
    a = torch.randint(k, lead)
    for ours, twin in [(p.log_prob(a), p_twin.log_prob(a)), (p.entropy(), p_twin.entropy())]:
        assert ours.shape == lead
        close(ours, twin)
    assert p.kl(q).shape == lead
    close(p.kl(q), td.kl_divergence(p_twin, q_twin))
    close(p.kl(p), torch.zeros(lead))
    assert torch.equal(p.mode(), p_twin.probs.argmax(-1))


@pytest.mark.parametrize("lead", LEADS)
def test_multi_categorical_is_a_sum_of_torch_categoricals(lead):
    sizes = [2, 5, 3]
    pairs, other_pairs = ([categorical_pair(lead, k) for k in sizes] for _ in range(2))
    p, q = (MultiCategorical(tuple(ours for ours, _ in x)) for x in (pairs, other_pairs))
    a = torch.stack([torch.randint(k, lead) for k in sizes], -1)
    log_prob = sum(twin.log_prob(a[..., i]) for i, (_, twin) in enumerate(pairs))
    kl = sum(td.kl_divergence(x, y) for (_, x), (_, y) in zip(pairs, other_pairs, strict=True))
    for ours, twin in [
        (p.log_prob(a), log_prob),
        (p.entropy(), sum(twin.entropy() for _, twin in pairs)),
        (p.kl(q), kl),
    ]:
        assert ours.shape == lead
        close(ours, twin)
    assert p.mode().tolist() == torch.stack([twin.probs.argmax(-1) for _, twin in pairs], -1).tolist()
    assert p.sample().shape == (*lead, 3)


@pytest.mark.parametrize("logits", [[0.0, 1000.0, -1000.0], [0.0, -200.0, 5.0]])
def test_categorical_stays_finite_where_a_probability_underflows(logits):
    logits = torch.tensor(logits, requires_grad=True)
    p, q = Categorical(logits.log_softmax(-1)), Categorical(torch.zeros(3).log_softmax(-1))
    loss = p.entropy() + p.kl(q) + p.log_prob(torch.tensor(0))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


IMPOSSIBLE = [[0.0, 0.0, -math.inf], [1.0, -math.inf, -math.inf], [-math.inf, 3.0, -200.0]]


@pytest.mark.parametrize("kind", ["one", "several"])
@pytest.mark.parametrize("logits", IMPOSSIBLE)
def test_actions_of_probability_0_do_not_affect_entropy_and_kl(logits, kind):
    logits = torch.tensor(logits, requires_grad=True)
    possible = logits > -math.inf
    p, q = Categorical(logits.log_softmax(-1)), Categorical(torch.tensor([0.5, 0.25, 0.25]).log())
    twin = td.Categorical(logits=logits[possible].detach().double())
    entropy, kl = twin.entropy(), (twin.probs * (twin.logits - q.logp[possible])).sum()
    if kind == "several":  # next to a choice that is certain
        p, q = (MultiCategorical((x, Categorical(torch.tensor([0.0])))) for x in (p, q))
    close(p.entropy(), entropy, 1e-6)
    close(p.kl(q), kl, 1e-6)
    close(p.kl(p.detach()), torch.tensor(0.0), 1e-7)
    close(p.detach().kl(p), torch.tensor(0.0), 1e-7)
    assert q.kl(p).item() == math.inf
    (gradient,) = torch.autograd.grad(p.entropy() + p.kl(q) + p.detach().kl(p), logits)
    assert gradient.isfinite().all()
    assert (gradient[~possible] == 0).all()
    samples = {int(p.sample().flatten()[0]) for _ in range(200)}
    assert samples <= set(possible.nonzero().flatten().tolist())


def test_discrete_sac_with_actions_of_probability_0():
    from spinup.algos.sac import soft_value

    logits = torch.tensor([IMPOSSIBLE[0], [0.0, 0.0, 0.0]], requires_grad=True)
    v, logp = soft_value(Categorical(logits.log_softmax(-1)), lambda o: torch.ones(2, 2, 3), None, torch.tensor(0.5))
    close(v, torch.tensor([1 + 0.5 * math.log(2), 1 + 0.5 * math.log(3)]), 1e-6)
    close(logp, -torch.tensor([math.log(2), math.log(3)]), 1e-6)
    (gradient,) = torch.autograd.grad(v.sum() + logp.sum(), logits)
    assert gradient.isfinite().all()


def test_expectations_equal_the_plain_sums_bit_for_bit():
    """For a network's log-probabilities: the recorded runs depend on it."""
    logp = (3 * torch.randn(500, 7)).log_softmax(-1).requires_grad_()
    other = (3 * torch.randn(500, 7)).log_softmax(-1)
    p, q = Categorical(logp), Categorical(other)
    plain = [-(logp.exp() * logp).sum(-1), (logp.exp() * (logp - other)).sum(-1)]
    for x, y in zip((p.entropy(), p.kl(q)), plain, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(*(torch.autograd.grad(z.square().sum(), logp, retain_graph=True)[0] for z in (x, y)))


def test_gradients_match_torch():
    """Policy gradients and Fisher-vector products differentiate these; values alone wouldn't reveal a detached part."""
    a, mu, log_std = torch.randn(3, 6, 2, dtype=torch.float64)
    log_std = log_std[0]
    logits, choice = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))

    def gradient(loss, *inputs):
        inputs = [x.clone().requires_grad_() for x in inputs]
        return torch.autograd.grad(loss(*inputs), inputs)

    twins = [
        (
            lambda mu, log_std: (Gaussian(mu, log_std).log_prob(a) + Gaussian(mu, log_std).entropy()).sum(),
            lambda mu, log_std: (
                td.Normal(mu, log_std.exp()).log_prob(a) + td.Normal(mu, log_std.exp()).entropy()
            ).sum(),
            (mu, log_std),
        ),
        (
            lambda mu, log_std: Gaussian(a, log_std / 2).kl(Gaussian(mu, log_std)).sum(),
            lambda mu, log_std: td.kl_divergence(td.Normal(a, (log_std / 2).exp()), td.Normal(mu, log_std.exp())).sum(),
            (mu, log_std),
        ),
        (
            lambda x: sum(
                (p.log_prob(choice) + p.entropy() + p.kl(p.detach())).sum() for p in [Categorical(x.log_softmax(-1))]
            ),
            lambda x: (td.Categorical(logits=x).log_prob(choice) + td.Categorical(logits=x).entropy()).sum(),
            (logits,),
        ),
    ]
    for ours, twin, inputs in twins:
        for x, y in zip(gradient(ours, *inputs), gradient(twin, *inputs), strict=True):
            close(x, y)


# ---- samples


def test_gaussian_samples():
    mu, log_std = torch.tensor([3.0, -50.0]), torch.tensor([-1.0, 2.0])
    x = Gaussian(mu.expand(100_000, 2), log_std).sample()
    std = log_std.exp()
    assert ((x.mean(0) - mu).abs() < 5 * std / 100_000**0.5).all()
    assert ((x.std(0) / std - 1).abs() < 5 / (2 * 100_000) ** 0.5).all()
    z = (x - mu) / std
    assert abs((z[:, 0] * z[:, 1]).mean()) < 5 / 100_000**0.5  # dimensions are independent
    assert abs((z.abs() < 1).float().mean() - 0.6827) < 0.005


def test_samples_are_constants_to_the_gradient():
    """Like torch.distributions' sample; otherwise d log pi(a|s) / d mu would be 0 at a sample a."""
    mu = torch.zeros(4, 2, requires_grad=True)
    pi = Gaussian(mu, torch.zeros(2))
    a = pi.sample()
    (gradient,) = torch.autograd.grad(pi.log_prob(a).sum(), mu)
    close(gradient, a.detach())


def chi_square(samples, p):
    expected = len(samples) * p
    return float(((torch.bincount(samples, minlength=len(p)) - expected).square() / expected).sum())


def test_categorical_samples():
    p = torch.tensor([0.4, 0.3, 0.2, 0.09, 0.01])
    x = Categorical(p.log().expand(100_000, 5)).sample()
    assert x.dtype == torch.int64
    assert chi_square(x, p) < 18.5  # the 99.9% quantile with 4 degrees of freedom
    x = Categorical(torch.tensor([0.5, 0.0, 0.5]).log().expand(10_000, 3)).sample()
    assert not (x == 1).any(), "an action of probability 0 was drawn"


def test_multi_categorical_samples_are_independent():
    p, q = torch.tensor([0.7, 0.3]), torch.tensor([0.2, 0.5, 0.3])
    pi = MultiCategorical((Categorical(p.log().expand(100_000, 2)), Categorical(q.log().expand(100_000, 3))))
    x = pi.sample()
    assert x.shape == (100_000, 2)
    joint = (p.unsqueeze(1) * q).flatten()
    assert chi_square(3 * x[:, 0] + x[:, 1], joint) < 20.5  # the 99.9% quantile with 5 degrees of freedom


@pytest.mark.parametrize("action", ACTIONS)
def test_samples_are_seeded_and_detach_removes_the_graph(action):
    ac = ActorCritic(BOX, ACTIONS[action])
    pi = ac.pi(torch.randn(6, 3))
    torch.manual_seed(1)
    first, second = pi.sample().detach(), pi.sample()
    torch.manual_seed(1)
    assert torch.equal(pi.sample(), first)
    assert not torch.equal(first, second)
    assert pi.entropy().requires_grad
    detached = pi.detach()
    assert type(detached) is type(pi)
    assert not detached.entropy().requires_grad
    assert not detached.log_prob(first).requires_grad
    close(detached.log_prob(first), pi.log_prob(first), 0)
    assert pi.kl(detached).requires_grad


# ---- layers


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("Tanh", nn.Tanh),
        ("tanh", nn.Tanh),
        ("torch.nn.Tanh", nn.Tanh),
        ("nn.ReLU", nn.ReLU),
        ("relu", nn.ReLU),
        ("torch.nn.relu", nn.ReLU),
        ("RELU", nn.ReLU),
        ("LeakyReLU", nn.LeakyReLU),
        ("SiLU", nn.SiLU),
        ("elu", nn.ELU),
        (nn.GELU, nn.GELU),
    ],
)
def test_activation_names(name, cls):
    assert activation_class(name) is cls
    assert [type(m) for m in mlp([2, 3, 4, 1], name)] == [nn.Linear, cls, HiddenLinear, cls, nn.Linear]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Tahn", r"no activation torch\.nn\.Tahn; did you mean '(?i:tanh)'\?$"),
        ("torch.nn.Tahn", r"no activation torch\.nn\.Tahn; did you mean '(?i:tanh)'\?$"),
        ("nn.rellu", r"no activation torch\.nn\.rellu; did you mean '(?i:relu)'\?$"),
        ("Linear", "no activation torch.nn.Linear"),
        ("GLU", "no activation torch.nn.GLU"),
        ("Softmax2d", "no activation torch.nn.Softmax2d; there are ReLU, RReLU, "),
        (None, "activation is None; it must be a name from torch.nn, such as Tanh, or a class of elementwise modules"),
        (torch.tanh, "activation is <built-in method tanh"),
        (int, "activation is <class 'int'>"),
        (nn.Tanh(), r"activation is Tanh\(\)"),
        (nn.Linear, "activation is <class 'torch.nn.modules.linear.Linear'>"),
        (nn.Softmax2d, "activation is <class 'torch.nn.modules.activation.Softmax2d'>"),
    ],
)
def test_a_wrong_activation_is_named_once_with_the_closest_match(name, pattern):
    with pytest.raises(UserError, match=pattern) as error:
        ActorCritic(BOX, spaces.Discrete(2), activation=name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [c for c in nn.modules.activation.__all__ if getattr(nn, c) not in UNSUITABLE])
def test_a_layer_between_linear_ones_treats_every_row_alike(name):
    """Whatever the leading shape; a softmax would normalize over T in (T, N, H)."""
    layer, x = activation_class(name)().eval(), torch.randn(2, 3, 4)  # RReLU is random in training
    assert torch.equal(layer(x).flatten(0, 1), layer(x.flatten(0, 1)))


@pytest.mark.parametrize("linear", [5, "Linear", int, torch.relu, nn.Linear(2, 2), lambda n: None, lambda n, m: None])
def test_a_wrong_linear_is_named(linear):
    what = "it must be a function of in_features and out_features that makes a layer, or a dict for block-sparse ones"
    with pytest.raises(UserError, match=f"^linear is {re.escape(repr(linear)[:80])}; {what}$"):
        ActorCritic(BOX, spaces.Discrete(2), linear=linear)


@pytest.mark.parametrize("name", ["Threshold", "MultiheadAttention"])
def test_an_activation_that_needs_arguments_is_a_user_error(name):
    with pytest.raises(UserError, match=name):
        ActorCritic(BOX, spaces.Discrete(2), activation=name)


@pytest.mark.parametrize(
    ("hidden_sizes", "shapes"),
    [
        ((64, 64), [(64, 3), (64, 64), (1, 64)]),
        ([5], [(5, 3), (1, 5)]),
        (7, [(7, 3), (1, 7)]),
        ((), [(1, 3)]),
        ((8, 4, 2), [(8, 3), (4, 8), (2, 4), (1, 2)]),
    ],
)
def test_hidden_sizes(hidden_sizes, shapes):
    ac = ActorCritic(BOX, spaces.Discrete(2), hidden_sizes=hidden_sizes)
    assert [tuple(p.shape) for p in ac.critic.parameters() if p.dim() == 2] == shapes
    assert [tuple(p.shape) for p in ac.actor.parameters() if p.dim() == 2] == [*shapes[:-1], (2, *shapes[-1][1:])]


class OtherLinear(nn.Module):
    """A linear layer that isn't an nn.Linear."""

    made: list

    def __init__(self, n_in, n_out):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_out, n_in) / n_in**0.5)
        self.made.append((n_in, n_out))

    def forward(self, x):
        return x @ self.w.T


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("space", [BOX, IMAGE], ids=["box", "image"])
def test_the_factory_makes_every_linear_layer(space, action, monkeypatch):
    monkeypatch.setattr(OtherLinear, "made", [], raising=False)
    ac = ActorCritic(space, ACTIONS[action], hidden_sizes=(16, 8), linear=OtherLinear)
    assert not any(isinstance(m, nn.Linear) for m in ac.modules())
    features = 3 if space is BOX else ac.critic[0].features
    n_out = {"box": 2, "discrete": 4, "multidiscrete": 10}[action]
    assert OtherLinear.made == [(features, 16), (16, 8), (8, n_out), (features, 16), (16, 8), (8, 1)]
    check_actor_critic(ac, space, ACTIONS[action])


@pytest.fixture
def precision(monkeypatch):
    """Sets the precision of float32 products during the test; disables oneDNN, which rounds on its own with AMX."""
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_hidden_layers_multiply_in_bfloat16_if_that_is_allowed_and_faster(precision, monkeypatch):
    x = torch.randn(128, 64)

    def made(has, allowed):
        """A layer and its float32 output for x; the precision set when the layer is made applies."""
        monkeypatch.setattr(HiddenLinear, "bfloat16", has)
        precision(allowed)
        layer = HiddenLinear(64, 32)
        return layer, nn.functional.linear(x, layer.weight, layer.bias)

    for has, allowed in ((True, "highest"), (True, "high"), (False, "medium")):
        layer, plain = made(has, allowed)
        assert torch.allclose(layer(x), plain, rtol=0, atol=1e-5)
    layer, plain = made(True, "medium")
    y = layer(x)
    rounded = x.bfloat16().double() @ layer.weight.bfloat16().double().t()  # exact products of the rounded factors
    assert y.dtype == torch.float32
    assert torch.allclose(y - layer.bias, rounded.float(), rtol=2**-8, atol=1e-5)  # and the sum is rounded once
    assert not torch.allclose(y, plain, rtol=0, atol=1e-4)
    assert torch.allclose(layer(x[:127]), plain[:127], rtol=0, atol=1e-5)
    y.square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    exact = torch.autograd.grad(nn.functional.linear(x, layer.weight, layer.bias).square().sum(), layer.weight)[0]
    assert (layer.weight.grad - exact).norm() < 0.02 * exact.norm()


def test_the_first_and_last_layer_keep_their_precision(precision, monkeypatch):
    monkeypatch.setattr(HiddenLinear, "bfloat16", True)
    precision("medium")
    net, x = mlp([3, 64, 64, 2], "ReLU"), torch.randn(128, 3)
    first, hidden, last = net[:2], net[2:4], net[4:]
    h = first(x)
    exact = copy.deepcopy(net).double()
    assert torch.allclose(h.double(), exact[:2](x.double()), atol=1e-6)
    h2 = hidden(h)
    assert not torch.allclose(h2.double(), exact[2:4](h.double()), atol=1e-5)
    assert torch.allclose(last(h2).double(), exact[4:](h2.double()), atol=1e-6)


def test_linear_layers_without_bias():
    linear = functools.partial(nn.Linear, bias=False)
    ac = ActorCritic(BOX, spaces.Discrete(2), linear=linear)
    check_actor_critic(ac, BOX, spaces.Discrete(2))


def gain(layer):
    """The length of the weight's rows (or columns), after checking that they are orthogonal and equally long."""
    w = layer.weight.detach().double().flatten(1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    close(gram, gram[0, 0] * torch.eye(len(gram)), 1e-5)
    return math.sqrt(gram[0, 0])


@pytest.mark.parametrize("space", [BOX, IMAGE], ids=["box", "image"])
@pytest.mark.parametrize("action", ACTIONS)
def test_orthogonal_gains(space, action):
    ac = ActorCritic(space, ACTIONS[action], hidden_sizes=(32, 16))
    for net, last in [(ac.actor.net, 0.01), (ac.critic, 1.0)]:
        layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert len(layers) == (3 if space is BOX else 5)
        assert [gain(m) for m in layers] == pytest.approx([math.sqrt(2)] * (len(layers) - 1) + [last], rel=1e-4)
        assert all((m.bias == 0).all() for m in layers)


def test_hidden_convolutions_keep_their_gain_with_other_linear_layers(monkeypatch):
    monkeypatch.setattr(OtherLinear, "made", [], raising=False)
    ac = ActorCritic(IMAGE, spaces.Discrete(2), linear=OtherLinear)
    convs = [m for m in ac.actor.modules() if isinstance(m, nn.Conv2d)]
    assert [gain(m) for m in convs] == pytest.approx([math.sqrt(2)] * 2, rel=1e-4)


def test_orthogonal_false_keeps_torchs_default_weights():
    ac = ActorCritic(BOX, spaces.Discrete(2), orthogonal=False)
    first = ac.actor.net[1][0]
    assert first.weight.abs().max() <= 1 / 3**0.5
    assert (first.bias != 0).any()


def test_orthogonal_of_a_single_layer_has_the_last_gain():
    assert gain(orthogonal_(nn.Linear(4, 4), 0.3)) == pytest.approx(0.3, rel=1e-4)


# ---- images


@pytest.mark.parametrize(
    "shape",
    [
        (3, 84, 84),
        (84, 84, 3),
        (4, 84, 84),
        (84, 84),
        (10, 10, 4),
        (4, 10, 10),
        (8, 8),
        (36, 40, 3),
        (35, 40),
        (5, 5, 1),
    ],
)
def test_cnn_reads_images_of_any_layout(shape):
    net = CNN(shape)
    for lead in [(), (2,), (2, 1)]:
        o = torch.randint(256, (*lead, *shape), dtype=torch.uint8)
        features = net(o)
        assert features.shape == (*lead, net.features)
        assert features.isfinite().all()
    assert isinstance(net.net[0], nn.Conv2d)
    assert net.net[0].kernel_size == ((3, 3) if min(s for s in shape if s > 4) < 36 else (8, 8))


def test_channels_last_equals_channels_first_with_moved_axes():
    first, last = CNN((3, 12, 10)), CNN((12, 10, 3))
    last.load_state_dict(first.state_dict())
    o = torch.randint(256, (4, 3, 12, 10), dtype=torch.uint8)
    close(first(o), last(o.permute(0, 2, 3, 1)), 0)
    flat, one = CNN((12, 10)), CNN((1, 12, 10))
    one.load_state_dict(flat.state_dict())
    close(flat(o[:, 0]), one(o[:, :1]), 0)


def test_cnn_scales_bytes_to_one():
    net = CNN((2, 8, 8))
    o = torch.randint(256, (3, 2, 8, 8), dtype=torch.uint8)
    close(net(o), net.net(o.float() / 255), 0)
    assert not torch.equal(net(o), net(255 - o))


# ---- running statistics


def batches(shape, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(5, 3, size=(*lead, *shape)) for lead in [(7,), (1,), (4, 3), (2, 1, 5), (1,), (100,)]]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_running_norm_has_numpys_mean_and_standard_deviation(shape):
    norm, seen = RunningNorm(shape), np.zeros((0, *shape))
    for x in batches(shape):
        norm.update(torch.as_tensor(x, dtype=torch.float32))
        seen = np.concatenate([seen, x.reshape(-1, *shape)])
        assert int(norm.count) == len(seen)
        np.testing.assert_allclose(norm.mean, seen.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(norm.std, seen.std(0), rtol=1e-5, atol=1e-3 if len(seen) == 1 else 1e-5)
    x = batches(shape, 1)[-1]
    expected = ((x - seen.mean(0)) / seen.std(0)).clip(-10, 10)
    np.testing.assert_allclose(norm(torch.as_tensor(x, dtype=torch.float32)), expected, rtol=1e-4, atol=1e-4)


def test_running_norm_by_hand():
    norm = RunningNorm((1,))
    close(norm(torch.tensor([3.0])), torch.tensor([3.0]), 0)  # nothing seen yet: unchanged
    norm.update(torch.tensor([[1.0], [3.0]]))
    assert (norm.mean.item(), norm.std.item()) == pytest.approx((2, 1), rel=1e-6)
    norm.update(torch.tensor([[8.0]]))  # 1, 3, 8: mean 4, mean square deviation 26/3
    assert (norm.mean.item(), norm.std.item()) == pytest.approx((4, (26 / 3) ** 0.5), rel=1e-6)
    close(
        norm(torch.tensor([[4.0], [4.0 + (26 / 3) ** 0.5], [1e9], [-1e9]])), torch.tensor([[0], [1], [10], [-10]]), 1e-6
    )


def test_running_norm_of_a_constant_is_zero():
    norm = RunningNorm((2,))
    x = torch.stack([torch.full((50,), 123.4), torch.arange(50.0)], 1)
    for _ in range(5):
        norm.update(x)
        out = norm(x)
        assert torch.equal(out[:, 0], torch.zeros(50))
        assert out[:, 1].std(correction=0).item() == pytest.approx(1, rel=1e-5)
    assert (norm.std > 0).all()


def test_running_norm_keeps_the_scale_of_a_small_feature_over_many_updates():
    """1000 epochs of the same data don't change the statistics after the first."""
    norm = RunningNorm(())
    x = torch.tensor([-1e-3, 1e-3])
    for _ in range(1000):
        norm.update(x)
    assert norm.std.item() == pytest.approx(1e-3, rel=0.02)


def test_running_norm_far_from_zero_and_in_many_batches():
    norm, rng = RunningNorm(()), np.random.default_rng(0)
    x = (1000 + rng.normal(size=(200, 64))).astype(np.float32)
    for row in x:
        norm.update(torch.as_tensor(row))
    assert norm.mean.item() == pytest.approx(x.mean(dtype=np.float64), abs=1e-2)
    assert norm.std.item() == pytest.approx(x.std(dtype=np.float64), rel=1e-2)


def test_running_norm_changes_only_in_update_and_is_saved():
    ac = ActorCritic(BOX, spaces.Discrete(2), normalize_obs=True)
    ac.obs_norm.update(5 + 2 * torch.randn(100, 3))
    state = {k: v.clone() for k, v in ac.state_dict().items()}
    o = torch.randn(20, 3)
    ac.pi(o), ac.v(o), ac.act(o.numpy())
    assert all(torch.equal(v, state[k]) for k, v in ac.state_dict().items())
    assert {"obs_norm.mean", "obs_norm.var", "obs_norm.count"} <= set(state)
    other = ActorCritic(BOX, spaces.Discrete(2), normalize_obs=True)
    other.load_state_dict(state)
    close(other.v(o), ac.v(o), 0)
    close(other.pi(o).logp, ac.pi(o).logp, 0)
    ac.obs_norm.update(torch.zeros(50, 3))
    other.obs_norm.update(torch.zeros(50, 3))
    assert torch.equal(ac.obs_norm.mean, other.obs_norm.mean)
    assert int(other.obs_norm.count) == 150


def test_the_networks_see_normalized_observations():
    ac = ActorCritic(BOX, spaces.Discrete(2), normalize_obs=True)
    ac.obs_norm.update(100 + 7 * torch.randn(500, 3))
    o = 100 + 7 * torch.randn(4, 5, 3)
    z = (o - ac.obs_norm.mean) / ac.obs_norm.std
    close(ac.v(o), ac.critic(z).squeeze(-1), 0)
    close(ac.pi(o).logp, ac.actor(z).logp, 0)
    assert isinstance(ActorCritic(BOX, spaces.Discrete(2)).obs_norm, NoNorm)
    assert isinstance(ActorCritic(IMAGE, spaces.Discrete(2), normalize_obs=True).obs_norm, NoNorm)


# ---- the actor-critic


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("space", [BOX, IMAGE], ids=["box", "image"])
@pytest.mark.parametrize("normalize_obs", [False, True])
def test_pi_v_and_act_take_any_leading_shape(space, action, normalize_obs):
    action_space = ACTIONS[action]
    ac = ActorCritic(space, action_space, normalize_obs=normalize_obs)
    space.seed(0)
    o = np.stack([space.sample() for _ in range(6)])
    v, mode = ac.v(as_input(o, ac)), ac.act(o, deterministic=True)
    logp = ac.pi(as_input(o, ac)).log_prob(torch.as_tensor(mode))
    assert v.shape == logp.shape == (6,)
    for lead in [(), (1,), (6,), (3, 2), (2, 3, 1)]:
        part = o[: math.prod(lead)].reshape(*lead, *space.shape)
        part_v, part_a = ac.v(as_input(part, ac)), ac.act(part, deterministic=True)
        assert part_v.shape == lead
        assert part_a.shape == (*lead, *action_space.shape)
        close(part_v.flatten(), v[: math.prod(lead)], 1e-5)
        np.testing.assert_allclose(
            part_a.reshape(-1, *action_space.shape), mode[: math.prod(lead)], rtol=1e-4, atol=1e-6
        )
        part_logp = ac.pi(as_input(part, ac)).log_prob(torch.as_tensor(part_a))
        close(part_logp.flatten(), logp[: math.prod(lead)], 1e-4)


@pytest.mark.parametrize("action", ACTIONS)
def test_act_samples_or_takes_the_mode(action):
    ac = ActorCritic(BOX, ACTIONS[action], orthogonal=False)
    o = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    mode = ac.pi(torch.as_tensor(o)).mode()
    for _ in range(2):
        np.testing.assert_array_equal(ac.act(o, deterministic=True), mode.detach().numpy())
    torch.manual_seed(4)
    first, second = ac.act(o), ac.act(o)
    assert (first != second).any()
    torch.manual_seed(4)
    np.testing.assert_array_equal(ac.act(o), first)
    assert isinstance(first, np.ndarray)
    assert first.dtype == ACTIONS[action].dtype


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.bool_])
def test_other_numbers_are_read_as_float32(dtype):
    ac = ActorCritic(BOX, spaces.Discrete(2), normalize_obs=True)
    o = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    np.testing.assert_array_equal(ac.act(o, True), ac.act(o.astype(np.float32), True))
    assert as_input(o, ac).dtype == torch.float32
    image = np.zeros((2, 3, 12, 10), np.uint8)
    assert as_input(image, ActorCritic(IMAGE, spaces.Discrete(2))).dtype == torch.uint8


@pytest.mark.parametrize("action", ACTIONS)
def test_act_leaves_no_graph_and_no_gradient(action):
    ac = ActorCritic(BOX, ACTIONS[action])
    ac.act(np.zeros((2, 3), np.float32))
    assert all(p.grad is None for p in ac.parameters())
    ac.pi(torch.zeros(2, 3)).entropy().sum().backward()  # and the parameters aren't inference tensors


def test_gaussian_covers_the_bounds_of_each_dimension():
    low, high = np.array([-1, 0, -np.inf, 2, -4], np.float32), np.array([1, 10, np.inf, np.inf, -2], np.float32)
    ac = ActorCritic(BOX, spaces.Box(low, high), log_std_init=-0.5)
    for p in ac.actor.net.parameters():
        nn.init.zeros_(p)
    pi = ac.pi(torch.randn(4, 3))
    # the middle of the bounds and half their width; a dimension with a missing bound keeps its own unit
    close(pi.mu, torch.tensor([0.0, 5, 0, 0, -3]).expand(4, 5), 1e-6)
    close(pi.log_std.exp(), math.exp(-0.5) * torch.tensor([1.0, 5, 1, 1, 1]), 1e-6)
    nn.init.ones_(ac.actor.net[1][-1].bias)
    close(ac.pi(torch.zeros(3)).mu, torch.tensor([1.0, 10, 1, 1, -2]), 1e-6)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([0, -1], [0, 1]),  # low == high in one dimension
        ([-np.finfo(np.float32).max] * 2, [np.finfo(np.float32).max] * 2),  # finite, but too wide for a float32
    ],
)
def test_gaussian_is_finite_for_extreme_bounds(low, high):
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    pi = ActorCritic(BOX, space).pi(torch.randn(4, 3))
    assert pi.mu.isfinite().all()
    assert pi.entropy().isfinite().all()
    assert pi.log_prob(pi.sample()).isfinite().all()


def test_standard_deviation_is_a_parameter_and_the_bounds_are_not_saved():
    ac = ActorCritic(BOX, ACTIONS["box"], log_std_init=0.25)
    state = ac.state_dict()
    assert state["actor.log_std"].tolist() == [0.25, 0.25]
    assert not any("middle" in k or "half_range" in k for k in state)
    ac.pi(torch.zeros(2, 3)).log_prob(torch.zeros(2, 2)).sum().backward()
    assert (ac.actor.log_std.grad != 0).all()


def test_actor_and_critic_are_separate():
    ac = ActorCritic(IMAGE, ACTIONS["box"])
    actor, critic = ({id(p) for p in net.parameters()} for net in (ac.actor, ac.critic))
    assert not actor & critic
    assert actor | critic == {id(p) for p in ac.parameters()}


# ---- a user's own actor-critic


class Own(nn.Module):
    """Exactly the protocol in spinup/nets/__init__.py."""

    def __init__(self, continuous=False):
        super().__init__()
        self.continuous = continuous
        self.actor, self.critic = nn.Linear(3, 2 if continuous else 4), nn.Linear(3, 1)
        self.obs_norm = NoNorm()

    def pi(self, o):
        x = self.actor(self.obs_norm(o))
        return Gaussian(x, torch.zeros(2)) if self.continuous else Categorical(x.log_softmax(-1))

    def v(self, o):
        return self.critic(self.obs_norm(o)).squeeze(-1)

    def act(self, o, deterministic=False):
        pi = self.pi(torch.as_tensor(o))
        return (pi.mode() if deterministic else pi.sample()).detach().numpy()


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_check_accepts_a_users_actor_critic(action):
    check_actor_critic(Own(action == "box"), BOX, ACTIONS[action])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("space", [BOX, IMAGE, spaces.Box(0, 255, (40, 40), np.uint8)], ids=["box", "image", "gray"])
def test_check_accepts_ours_and_changes_nothing(space, action):
    ac = ActorCritic(space, ACTIONS[action], normalize_obs=True)
    before = {k: v.clone() for k, v in ac.state_dict().items()}
    check_actor_critic(ac, space, ACTIONS[action])
    assert all(torch.equal(v, before[k]) for k, v in ac.state_dict().items())


def error_of(ac):
    with pytest.raises(UserError) as error:
        check_actor_critic(ac, BOX, ACTIONS["discrete"])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("networks", "what"), [(ActorCritic(BOX, ACTIONS["discrete"]), "an object of ActorCritic"), (5, "5")]
)
def test_networks_must_be_made_by_a_run(networks, what):
    with pytest.raises(UserError, match=f"actor_critic is {what}; it must be a class, or a function that makes"):
        check_makes_networks(networks)


def test_q_check_names_an_actor_of_another_kind():
    with pytest.raises(UserError, match=r"actor\(o\) is a Gaussian; it must be a tensor of shape \(3, 2\)"):
        check_q_actor_critic(ActorCritic(BOX, ACTIONS["box"]), BOX, ACTIONS["box"], 1)


@pytest.mark.parametrize("attribute", ["actor", "critic", "obs_norm"])
def test_check_names_a_missing_module(attribute):
    ac = Own()
    delattr(ac, attribute)
    assert f"Own has no '{attribute}'" in error_of(ac)


@pytest.mark.parametrize("method", ["pi", "v", "act"])
def test_check_names_a_missing_method(method):
    own = type("Own", (nn.Module,), {name: vars(Own)[name] for name in {"pi", "v", "act"} - {method}})()
    own.actor, own.critic, own.obs_norm, own.continuous = nn.Linear(3, 4), nn.Linear(3, 1), NoNorm(), False
    assert f"Own has no '{method}'" in error_of(own)


def test_check_names_common_parameters():
    ac = Own()
    ac.critic.weight = ac.actor.weight
    message = error_of(ac)
    assert "actor" in message
    assert "critic" in message
    assert "in common" in message


BROKEN_SHAPES = {
    "v(o)": {"v": lambda self, o: self.critic(o)},  # the un-squeezed value that broadcasts: exercise 2.2
    "act(o)": {"act": lambda self, o, deterministic=False: np.zeros((len(o), 1), int)},
    "pi(o).log_prob(a)": {"log_prob": lambda self, a: torch.zeros(3, 1)},
    "pi(o).entropy()": {"entropy": lambda self: torch.zeros(())},
    "pi(o).kl(pi(o))": {"kl": lambda self, other: torch.zeros(3, 4)},
}


class Policy:
    """A policy with one method changed or missing."""

    def __init__(self, policy, missing=None, **methods):
        self.policy, self.missing, self.methods = policy, missing, methods

    def __getattr__(self, name):
        if name == self.missing:
            raise AttributeError(name)
        method = self.methods.get(name)
        return functools.partial(method, self) if method else getattr(self.policy, name)


@pytest.mark.parametrize("what", BROKEN_SHAPES)
def test_check_names_a_wrong_shape(what):
    class Broken(Own):
        def pi(self, o):
            return Policy(super().pi(o), **{k: v for k, v in BROKEN_SHAPES[what].items() if k not in ("v", "act")})

    for name in {"v", "act"} & set(BROKEN_SHAPES[what]):
        setattr(Broken, name, BROKEN_SHAPES[what][name])
    message = error_of(Broken())
    assert what in message
    assert "must be (3,)" in message


@pytest.mark.parametrize("method", ["log_prob", "sample", "mode", "entropy", "kl", "detach"])
def test_check_names_what_a_policy_lacks(method):
    class Broken(Own):
        def pi(self, o):
            return Policy(super().pi(o), missing=method)

        def act(self, o, deterministic=False):
            return np.zeros(len(o), int)

    assert method in error_of(Broken())


def test_check_names_an_act_without_deterministic():
    class Broken(Own):
        def act(self, o):
            return super().act(o)

    message = error_of(Broken())
    assert "act" in message
    assert "deterministic" in message


def test_check_refuses_actions_that_are_tensors():
    class Broken(Own):
        def act(self, o, deterministic=False):
            return torch.as_tensor(super().act(o, deterministic))

    message = error_of(Broken())
    assert "act" in message
    assert "numpy" in message


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool])
def test_check_refuses_discrete_actions_that_are_not_whole_numbers(dtype):
    class Broken(Own):
        def act(self, o, deterministic=False):
            return super().act(o, deterministic).astype(dtype)

    name = np.dtype(dtype).name
    assert error_of(Broken()) == f"actor_critic Broken: act(o) returns {name}; for Discrete(4) it must return int64"
    check_actor_critic(Own(continuous=True), BOX, ACTIONS["box"])  # a Box's are float32


@pytest.mark.parametrize("attribute", ["actor", "critic"])
def test_check_refuses_parameters_in_float64(attribute):
    ac = Own()
    getattr(ac, attribute).double()
    what = f"{attribute}.weight is torch.float64; parameters must be torch.float32"
    assert error_of(ac) == f"actor_critic Own: {what}"
    q = OwnQ("plain")
    getattr(q, attribute).double()
    assert "is torch.float64; parameters must be torch.float32" in q_error_of(q, "td3")


@pytest.mark.parametrize("attribute", ["actor", "critic"])
def test_check_refuses_an_actor_or_critic_that_isnt_a_module(attribute):
    class Broken(Own):
        def __init__(self):
            super().__init__()
            net = getattr(self, attribute)
            delattr(self, attribute)
            object.__setattr__(self, attribute, net.forward)

    assert f"'{attribute}'" in error_of(Broken())


def test_check_refuses_an_obs_norm_without_update():
    ac = Own()
    ac.obs_norm = nn.Identity()
    assert "obs_norm" in error_of(ac)


def test_check_refuses_an_actor_critic_that_isnt_a_module():
    class NoModule:
        def __init__(self):
            self.actor, self.critic, self.obs_norm = nn.Linear(3, 4), nn.Linear(3, 1), NoNorm()

        pi, v, act = Own.pi, Own.v, Own.act
        continuous = False

    assert "Module" in error_of(NoModule())


# ---- squashed Gaussians


def squashed(lead=(), size=3, dtype=torch.float64):
    """A policy whose bounds differ in each dimension, most of them not centered at 0."""
    low, high = torch.tensor([-1.0, 0.0, -7.0], dtype=dtype)[:size], torch.tensor([1.0, 10.0, -5.0], dtype=dtype)[:size]
    mu, log_std = torch.randn(2, *lead, size, dtype=dtype)
    return SquashedGaussian(mu, 0.5 * log_std, (high + low) / 2, (high - low) / 2)


def test_squashed_gaussian_by_hand(monkeypatch):
    pi = SquashedGaussian(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, math.log(2)]]), *torch.tensor([[5.0], [2]]))
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.tensor([[0.0, -0.5]]))
    a, logp = pi.rsample()  # u = (0, 1 - 2 / 2) = (0, 0), where the slope of tanh is 1
    assert a.tolist() == [[5, 5]]
    # -0 - 0.5^2 / 2, minus log 2, minus 2 log sqrt(2 pi)
    close(logp, torch.tensor([-0.125 - math.log(2) - math.log(2 * math.pi)]), 1e-6)
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.tensor([[math.atanh(0.5), -0.5]]))
    a, logp = pi.rsample()  # tanh(u) = 0.5 in the first dimension, with the slope 1 - 0.25
    close(a, torch.tensor([[5 + 2 * 0.5, 5]]), 1e-6)
    more = -(math.atanh(0.5) ** 2) / 2 - math.log(0.75)
    close(logp, torch.tensor([-0.125 - math.log(2) - math.log(2 * math.pi) + more]), 1e-6)
    close(pi.mode(), torch.tensor([[5, 5 + 2 * math.tanh(1)]]), 1e-6)


@pytest.mark.parametrize("lead", LEADS)
def test_squashed_gaussian_matches_torch(lead):
    """Bounds shift and scale the actions but not the densities, which are those of actions in (-1, 1)."""
    pi = squashed(lead)
    torch.manual_seed(3)
    a, logp = pi.rsample()
    torch.manual_seed(3)
    u = pi.mu + pi.log_std.exp() * torch.randn_like(pi.mu)
    tanh = td.TanhTransform(cache_size=1)  # the cache keeps u, since inverting tanh would lose digits
    twin = td.Independent(td.TransformedDistribution(td.Normal(pi.mu, pi.log_std.exp()), tanh), 1)
    x = tanh(u)
    assert a.shape == (*lead, 3)
    assert logp.shape == lead
    close(logp, twin.log_prob(x))
    close(a, torch.tensor([0.0, 5, -6]) + torch.tensor([1.0, 5, 1]) * x)
    torch.manual_seed(3)
    close(pi.sample(), a)
    close(pi.mode(), torch.tensor([0.0, 5, -6]) + torch.tensor([1.0, 5, 1]) * pi.mu.tanh())


@pytest.mark.parametrize("u", [10.0, -10.0, 7.0, -15.0, 40.0])
def test_squashed_log_probability_stays_exact_when_tanh_rounds_to_1(u, monkeypatch):
    """In float32, against log(1 - tanh(u)^2) = -2 log cosh(u) in float64; 1 - tanh(u)^2 itself is 0 in float32."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    mu = torch.tensor([[u, 0.3]], requires_grad=True)
    a, logp = SquashedGaussian(mu, torch.zeros(1, 2), torch.zeros(2), torch.ones(2)).rsample()
    expected = -math.log(2 * math.pi) + 2 * math.log(math.cosh(u)) + 2 * math.log(math.cosh(0.3))
    assert logp.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(logp.sum(), mu)
    assert gradient.tolist() == [pytest.approx([2 * math.tanh(u), 2 * math.tanh(0.3)], rel=1e-5)]
    assert a[0, 0].item() == pytest.approx(math.tanh(u), abs=1e-6)


def test_squashed_densities_integrate_to_one():
    """The mean of 1 / density over samples in a region is its volume."""
    pi = SquashedGaussian(torch.full((200_000, 1), 0.2), torch.zeros(200_000, 1), torch.tensor([3.0]), torch.ones(1))
    a, logp = pi.rsample()
    inside = (a[:, 0] - 3).abs() < 0.8
    assert (logp.neg().exp() * inside).mean().item() == pytest.approx(1.6, rel=0.02)


def test_gradients_of_squashed_samples_flow_into_mu_and_log_std():
    pi = squashed((4,))
    weights = torch.randn(4, 3, dtype=torch.float64)

    def ours(mu, log_std):
        torch.manual_seed(5)
        a, logp = SquashedGaussian(mu, log_std, pi.middle, pi.half_range).rsample()
        return (a * weights).sum(-1), logp

    def twin(mu, log_std):
        torch.manual_seed(5)
        u = mu + log_std.exp() * torch.randn_like(mu)
        x = torch.tanh(u)
        logp = (td.Normal(mu, log_std.exp()).log_prob(u) - torch.log(1 - x**2)).sum(-1)
        return ((pi.middle + pi.half_range * x) * weights).sum(-1), logp

    inputs = [x.clone().requires_grad_() for x in (pi.mu, pi.log_std)]
    assert torch.autograd.gradcheck(ours, inputs)  # finite differences
    for i in range(2):
        gradients = [torch.autograd.grad(f(*inputs)[i].sum(), inputs) for f in (ours, twin)]
        for x, y in zip(*gradients, strict=True):
            assert (x != 0).all()
            close(x, y, 1e-10)


def test_squashed_samples_have_no_gradient_and_modes_do():
    pi = squashed((5,))
    mu = pi.mu.clone().requires_grad_()
    assert not pi._replace(mu=mu).sample().requires_grad
    assert pi._replace(mu=mu).mode().requires_grad


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_squashed_actions_stay_within_bounds(scale):
    space = spaces.Box(np.array([-1, 0, -7, 0.1, 2], np.float32), np.array([1, 10, -5, 0.3, 2], np.float32))
    bounds = Bounds(space)
    mu = scale * torch.randn(2000, 5)
    pi = SquashedGaussian(mu, torch.full_like(mu, 0.5), bounds.middle, bounds.half_range)
    low, high = torch.tensor(space.low), torch.tensor(space.high)
    rounding = 1e-6 * (1 + high.abs().maximum(low.abs()))  # of middle + half_range
    for a in (pi.sample(), pi.mode(), pi.rsample()[0]):
        assert (a >= low - rounding).all()
        assert (a <= high + rounding).all()
        assert (a[:, 4] == 2).all()  # low == high
        if scale == 30:  # both ends are reached
            near = 1e-4 * (high - low)
            assert (a.min(0).values <= low + near).all()
            assert (a.max(0).values >= high - near).all()
    logp = pi.rsample()[1]
    assert logp.isfinite().all()


def test_bounds_by_hand():
    bounds = Bounds(spaces.Box(np.array([0, -3, 5], np.float32), np.array([10, 1, 5], np.float32)))
    close(bounds.from_unit(torch.tensor([[-1.0, -1, -1], [0, 0.5, 0], [1, 1, 1]])),
          torch.tensor([[0.0, -3, 5], [5, 0, 5], [10, 1, 5]]), 0)  # fmt: skip
    close(bounds.to_unit(torch.tensor([[0.0, -3, 5], [7.5, 0, 5]])), torch.tensor([[-1.0, -1, 0], [0.5, 0.5, 0]]), 0)
    assert len(bounds.state_dict()) == 0  # bounds belong to the environment, so they aren't saved


# ---- actors and action-value functions

OFF_POLICY = {"ddpg": DeterministicActorCritic, "td3": TwinActorCritic, "sac": SoftActorCritic}
CRITICS = {"ddpg": 1, "td3": 2, "sac": 2}
WIDE = spaces.Box(np.array([-1, 0, -7], np.float32), np.array([1, 10, -5], np.float32))
SHAPES = [(name, space, action) for name in OFF_POLICY for space in (BOX, IMAGE) for action in ("box", "discrete")]
SHAPES = [x for x in SHAPES if x[2] == "box" or x[0] == "sac"]
kinds = pytest.mark.parametrize(("name", "space", "action"), SHAPES)


def observations(space, n=6):
    space.seed(0)
    return np.stack([space.sample() for _ in range(n)])


def test_deterministic_actor_covers_the_bounds_of_each_dimension():
    ac = DeterministicActorCritic(BOX, WIDE)
    o = torch.randn(50, 3)
    with torch.no_grad():
        plain = ac.actor.net(o).tanh()
        close(ac.actor(o), torch.tensor([0.0, 5, -6]) + torch.tensor([1.0, 5, 1]) * plain, 1e-6)
        for bias, ends in ((100, WIDE.high), (-100, WIDE.low)):
            ac.actor.net[1][-1].bias.fill_(bias)
            assert ac.actor(o).tolist() == [ends.tolist()] * 50
        for p in ac.actor.net.parameters():
            p.zero_()
        assert ac.actor(o).tolist() == [[0, 5, -6]] * 50


def test_a_dimension_with_low_equal_to_high_is_harmless():
    space = spaces.Box(np.array([2, -1], np.float32), np.array([2, 1], np.float32))
    o = torch.randn(7, 3)
    for name, make in OFF_POLICY.items():
        ac = make(BOX, space)
        check_q_actor_critic(ac, BOX, space, CRITICS[name], soft=name == "sac")
        assert (ac.act(o.numpy())[:, 0] == 2).all()
        a = ac.actor(o).rsample()[0] if name == "sac" else ac.actor(o)
        q = ac.critic(o, a)
        assert q.isfinite().all()
        gradients = torch.autograd.grad(q.sum(), list(ac.actor.parameters()))
        assert all(g.isfinite().all() for g in gradients)
        assert any((g != 0).any() for g in gradients)


def test_log_std_is_clamped():
    ac = SoftActorCritic(BOX, WIDE)
    for bias, log_std in ((100.0, 2.0), (-100.0, -20.0), (1.5, 1.5)):
        nn.init.zeros_(ac.actor.net[1][-1].weight)
        with torch.no_grad():
            ac.actor.net[1][-1].bias.copy_(torch.tensor([0.5] * 3 + [bias] * 3))
        pi = ac.actor(torch.randn(4, 3))
        assert pi.log_std.tolist() == [[log_std] * 3] * 4
        assert pi.mu.tolist() == [[0.5] * 3] * 4  # the first half of the outputs
        assert all(x.isfinite().all() for x in pi.rsample())


def q_function(space=BOX, action_space=WIDE, layer_norm=False):
    return QFunction(space, action_space, (16, 8), "ReLU", nn.Linear, layer_norm)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("space", [BOX, IMAGE], ids=["box", "image"])
def test_q_function_shapes(space, lead):
    o = torch.as_tensor(observations(space, math.prod(lead))).reshape(*lead, *space.shape)
    q = q_function(space)
    a = torch.rand(*lead, 3)
    assert q(o, a).shape == lead  # never (..., 1), which would broadcast: exercise 2.2
    q = q_function(space, ACTIONS["discrete"])
    a = torch.randint(4, lead)
    assert q(o).shape == (*lead, 4)
    assert q(o, a).shape == lead
    each = [q(o).reshape(-1, 4)[i, a.flatten()[i]] for i in range(math.prod(lead))]
    close(q(o, a).flatten(), torch.stack(each), 0)


def test_q_function_reads_observations_and_scaled_actions():
    q, o, a = q_function(), torch.randn(5, 3), torch.tensor(WIDE.low) + torch.rand(5, 3) * torch.tensor([2.0, 10, 2])
    unit = (a - torch.tensor([0.0, 5, -6])) / torch.tensor([1.0, 5, 1])
    assert unit.abs().max() <= 1
    close(q(o, a), q.net(torch.cat([o, unit], 1)).squeeze(1), 1e-6)
    image = q_function(IMAGE)
    o = torch.as_tensor(observations(IMAGE, 5))
    close(image(o, a), image.net(torch.cat([image.encoder(o), unit], 1)).squeeze(1), 1e-6)


def test_action_values_depend_on_each_dimension_of_the_action():
    q = q_function()
    a = torch.tensor([[0.0, 5, -6]]).repeat(20, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(q(torch.randn(20, 3), a).sum(), a)
    assert (gradient != 0).any(0).all()


@kinds
def test_critics_are_stacked_and_independent(name, space, action):
    ac = OFF_POLICY[name](space, ACTIONS[action], hidden_sizes=(16,))
    o = torch.as_tensor(observations(space))
    a = torch.rand(6, 2) if action == "box" else torch.randint(4, (6,))
    n = CRITICS[name]
    assert isinstance(ac.critic, QFunctions)
    assert len(ac.critic) == n
    assert ac.critic(o, a).shape == (n, 6)
    for i in range(n):
        close(ac.critic(o, a)[i], ac.critic[i](o, a), 0)
    if action == "discrete":
        assert ac.critic(o).shape == (n, 6, 4)
    if n == 2:
        assert (ac.critic[0](o, a) != ac.critic[1](o, a)).all()  # their initial weights differ
    groups = [{id(p) for p in part.parameters()} for part in (ac.actor, *ac.critic)]
    assert len(set.union(*groups)) == sum(map(len, groups)) == len(list(ac.parameters()))


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"layer_norm": False}])
@kinds
def test_only_critics_have_layer_norm(name, space, action, options):
    ac = OFF_POLICY[name](space, ACTIONS[action], hidden_sizes=(16, 8), **options)
    layer_norm = options.get("layer_norm", True)
    assert not any(isinstance(m, nn.LayerNorm) for m in ac.actor.modules())
    norm = [nn.LayerNorm] * layer_norm
    for q in ac.critic:
        assert [type(m) for m in q.net] == [nn.Linear, *norm, nn.ReLU, HiddenLinear, *norm, nn.ReLU, nn.Linear]
        assert [m.normalized_shape for m in q.net if isinstance(m, nn.LayerNorm)] == [(16,), (8,)] * layer_norm
    if layer_norm:
        hidden = ac.critic[0].net[:2](torch.randn(5, ac.critic[0].net[0].in_features))
        close(hidden.mean(-1), torch.zeros(5), 1e-5)
        close(hidden.std(-1, correction=0), torch.ones(5), 1e-3)


@pytest.mark.parametrize("name", OFF_POLICY)
def test_default_networks_are_the_originals(name):
    ac = OFF_POLICY[name](BOX, ACTIONS["box"], layer_norm=False)
    for net, n_in, n_out in [(ac.actor.net[1], 3, 4 if name == "sac" else 2), *((q.net, 5, 1) for q in ac.critic)]:
        shapes = [tuple(m.weight.shape) for m in net if isinstance(m, nn.Linear)]
        assert shapes == [(256, n_in), (256, 256), (n_out, 256)]
        assert [type(m) for m in net[1::2]] == [nn.ReLU, nn.ReLU]


@kinds
def test_the_factory_makes_every_linear_layer_of_actors_and_critics(name, space, action, monkeypatch):
    monkeypatch.setattr(OtherLinear, "made", [], raising=False)
    ac = OFF_POLICY[name](space, ACTIONS[action], hidden_sizes=(16, 8), linear=OtherLinear, activation="Tanh")
    assert not any(
        isinstance(m, nn.Linear | nn.ReLU) for part in (ac.actor.net[1], *ac.critic) for m in part.children()
    )
    features = 3 if space is BOX else ac.critic[0].encoder.features
    n_out = {"box": 4 if name == "sac" else 2, "discrete": 4}[action]
    q_in, q_out = (features + 2, 1) if action == "box" else (features, 4)
    actor, critic = [(features, 16), (16, 8), (8, n_out)], [(q_in, 16), (16, 8), (8, q_out)]
    assert OtherLinear.made == actor + CRITICS[name] * critic
    check_q_actor_critic(ac, space, ACTIONS[action], CRITICS[name], soft=name == "sac")


@kinds
def test_act_takes_any_leading_shape(name, space, action):
    action_space = ACTIONS[action]
    ac = OFF_POLICY[name](space, action_space, hidden_sizes=(16,))
    o = observations(space)
    mode = ac.act(o, deterministic=True)
    for lead in [(), (1,), (6,), (3, 2), (2, 3, 1)]:
        part = o[: math.prod(lead)].reshape(*lead, *space.shape)
        for deterministic in (True, False):
            a = ac.act(part, deterministic)
            assert isinstance(a, np.ndarray)
            assert a.shape == (*lead, *action_space.shape)
            assert a.dtype == action_space.dtype
        again = ac.act(part, deterministic=True).reshape(-1, *action_space.shape)
        np.testing.assert_allclose(again, mode[: math.prod(lead)], rtol=1e-4, atol=1e-5)
    pi = ac.actor(as_input(o, ac))
    expected = pi.mode() if name == "sac" else pi
    np.testing.assert_allclose(mode, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


@kinds
def test_only_the_soft_policy_samples(name, space, action):
    ac = OFF_POLICY[name](space, ACTIONS[action], hidden_sizes=(16,))
    o = observations(space, 50)
    torch.manual_seed(4)
    first, second = ac.act(o), ac.act(o)
    torch.manual_seed(4)
    np.testing.assert_array_equal(ac.act(o), first)
    assert (first != second).any() == (name == "sac")
    np.testing.assert_array_equal(ac.act(o, deterministic=True), ac.act(o, deterministic=True))
    assert (first != ac.act(o, deterministic=True)).any() == (name == "sac")
    assert all(ACTIONS[action].contains(a) for a in first.clip(*bounds_of(ACTIONS[action])))
    assert all(p.grad is None and not p.is_inference() for p in ac.parameters())


def bounds_of(space):
    return (space.low, space.high) if isinstance(space, spaces.Box) else (0, int(space.n) - 1)


# ---- a user's own actor-critic, for DDPG, TD3 and SAC


class OwnQ(nn.Module):
    """Exactly the protocol in spinup/nets/__init__.py; kind is "plain", "soft" or "discrete"."""

    def __init__(self, kind, n=2):
        super().__init__()
        self.kind, self.n = kind, n
        self.actor = nn.Linear(3, 4 if kind == "discrete" else 2)
        self.actor.forward = self.policy
        self.critic = OwnCritics([nn.Linear(3, 4) if kind == "discrete" else nn.Linear(5, 1) for _ in range(n)])

    def policy(self, o):
        x = nn.functional.linear(o, self.actor.weight, self.actor.bias)
        if self.kind == "discrete":
            return Categorical(x.log_softmax(-1))
        if self.kind == "soft":
            return SquashedGaussian(x, torch.zeros(2), torch.zeros(2), torch.ones(2))
        return x.tanh()

    def act(self, o, deterministic=False):
        a = self.actor(torch.as_tensor(o))
        return (a if self.kind == "plain" else a.mode() if deterministic else a.sample()).detach().numpy()


class OwnCritics(nn.ModuleList):
    def __init__(self, nets):
        super().__init__(map(OwnCritic, nets))

    def forward(self, o, a=None):
        return torch.stack([q(o, a) for q in self])


class OwnCritic(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, o, a=None):
        if a is None:
            return self.net(o)
        if not a.is_floating_point():
            return self.net(o).gather(-1, a.unsqueeze(-1)).squeeze(-1)
        return self.net(torch.cat([o, a], -1)).squeeze(-1)


PROTOCOLS = {  # the kind of OwnQ, its actions, the number of critics, and whether the policy is soft
    "ddpg": ("plain", "box", 1, False),
    "td3": ("plain", "box", 2, False),
    "sac": ("soft", "box", 2, True),
    "discrete sac": ("discrete", "discrete", 2, True),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_check_accepts_a_users_action_values(protocol):
    kind, action, n, soft = PROTOCOLS[protocol]
    check_q_actor_critic(OwnQ(kind, n), BOX, ACTIONS[action], n, soft)


@kinds
def test_check_accepts_our_action_values_and_changes_nothing(name, space, action):
    ac = OFF_POLICY[name](space, ACTIONS[action], hidden_sizes=(16,))
    before = {k: v.clone() for k, v in ac.state_dict().items()}
    check_q_actor_critic(ac, space, ACTIONS[action], CRITICS[name], soft=name == "sac")
    assert all(torch.equal(v, before[k]) for k, v in ac.state_dict().items())


def test_check_shows_the_same_observations_each_time():
    """Layers such as batch normalization remember them, and random ones would make each run another."""

    def statistics():
        ac = OFF_POLICY["td3"](BOX, ACTIONS["box"], hidden_sizes=(4,))
        ac.actor.net[0] = nn.BatchNorm1d(3)
        check_q_actor_critic(ac, BOX, ACTIONS["box"], 2)
        return ac.actor.net[0].running_mean

    assert statistics().any()
    assert torch.equal(statistics(), statistics())


def q_error_of(ac, protocol):
    _, action, n, soft = PROTOCOLS[protocol]
    with pytest.raises(UserError) as error:
        check_q_actor_critic(ac, BOX, ACTIONS[action], n, soft)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"actor_critic {type(ac).__name__}")
    return str(error.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("attribute", ["actor", "critic"])
def test_q_check_names_a_missing_module(protocol, attribute):
    ac = OwnQ(*PROTOCOLS[protocol][::2])
    delattr(ac, attribute)
    assert f"OwnQ has no '{attribute}'; help(spinup.nets) describes" in q_error_of(ac, protocol)
    setattr(ac, attribute, None)
    assert f"'{attribute}' is not a torch.nn.Module" in q_error_of(ac, protocol)


def test_q_check_names_a_missing_act_and_one_without_deterministic():
    ac = type("Bare", (nn.Module,), {})()
    ac.actor, ac.critic = nn.Linear(3, 2), nn.Linear(5, 1)
    assert "Bare has no 'act'" in q_error_of(ac, "ddpg")

    class Plain(OwnQ):
        def act(self, o):
            return super().act(o)

    assert "act takes no 'deterministic'" in q_error_of(Plain("plain", 1), "ddpg")


def test_q_check_names_common_parameters():
    class Shared(OwnQ):
        def __init__(self):
            super().__init__("plain")
            self.actor.log_std = self.critic[1].net.bias

    assert "actor and critic have parameters in common" in q_error_of(Shared(), "td3")


def broken(protocol, **methods):
    """An OwnQ with another act, or another forward of its actor or critic."""
    kind, _, n, _ = PROTOCOLS[protocol]
    ac = OwnQ(kind, n)
    for name, method in methods.items():
        target, attribute = (ac, name) if name == "act" else (getattr(ac, name), "forward")
        setattr(target, attribute, method)
    return ac


def zeros(*shape):
    return lambda *args, **kwargs: torch.zeros(shape)


def rsample_of(a, logp):
    class Pi:
        def rsample(self):
            return torch.zeros(a), torch.zeros(logp)

    return lambda o: Pi()


def an_act(*shape, dtype=np.float32):
    return lambda o, deterministic=False: np.zeros(shape, dtype)


WRONG_SHAPES = [
    ("ddpg", dict(act=an_act(3, 1)), "act(o) has shape (3, 1) for 3 observations; it must be (3, 2)"),
    (
        "td3",
        dict(actor=zeros(3, 1), act=an_act(3, 2)),
        "actor(o) has shape (3, 1) for 3 observations; it must be (3, 2)",
    ),
    ("td3", dict(critic=zeros(1, 3)), "critic(o, a) has shape (1, 3) for 3 observations; it must be (2, 3)"),
    ("td3", dict(critic=zeros(2, 3, 1)), "critic(o, a) has shape (2, 3, 1) for 3 observations; it must be (2, 3)"),
    ("ddpg", dict(critic=zeros(2, 3)), "critic(o, a) has shape (2, 3) for 3 observations; it must be (1, 3)"),
    (
        "sac",
        dict(actor=rsample_of((3, 1), (3,)), act=an_act(3, 2)),
        "actor(o).rsample()[0] has shape (3, 1) for 3 observations; it must be (3, 2)",
    ),
    (
        "sac",  # log-probabilities that were not summed over the dimensions
        dict(actor=rsample_of((3, 2), (3, 2)), act=an_act(3, 2)),
        "actor(o).rsample()[1] has shape (3, 2) for 3 observations; it must be (3,)",
    ),
    ("discrete sac", dict(act=an_act(3, 1, dtype=int)), "act(o) has shape (3, 1) for 3 observations; it must be (3,)"),
    (
        "discrete sac",
        dict(actor=lambda o: Categorical(torch.zeros(3, 5)), act=an_act(3, dtype=int)),
        "actor(o).logp has shape (3, 5) for 3 observations; it must be (3, 4)",
    ),
    (
        "discrete sac",
        dict(critic=zeros(2, 3)),
        "critic(o) has shape (2, 3) for 3 observations; it must be (2, 3, 4)",
    ),
    (
        "discrete sac",
        dict(critic=lambda o, a=None: torch.zeros((2, 3, 4) if a is None else (2, 3, 1))),
        "critic(o, a) has shape (2, 3, 1) for 3 observations; it must be (2, 3)",
    ),
]


@pytest.mark.parametrize(("protocol", "methods", "message"), WRONG_SHAPES)
def test_q_check_names_a_wrong_shape(protocol, methods, message):
    assert message in q_error_of(broken(protocol, **methods), protocol)


def test_q_check_names_a_first_critic_of_a_wrong_shape():
    """The policies of TD3 and DDPG ascend only this one."""
    ac = OwnQ("plain")
    ac.critic.forward = zeros(2, 3)
    ac.critic[0].forward = zeros(3, 1)
    assert "critic[0](o, a) has shape (3, 1) for 3 observations; it must be (3,)" in q_error_of(ac, "td3")


def test_q_check_names_what_a_policy_lacks():
    only_logp = types.SimpleNamespace(logp=torch.zeros(3, 4))
    for protocol, a, pi, method in (
        ("sac", an_act(3, 2), torch.zeros(3, 4), "rsample"),
        ("discrete sac", an_act(3, dtype=int), torch.zeros(3, 4), "logp"),
        ("discrete sac", an_act(3, dtype=int), only_logp, "expectation"),
    ):
        ac = broken(protocol, act=a, actor=lambda o, pi=pi: pi)
        assert f"actor(o) has no '{method}'; help(spinup.nets) describes" in q_error_of(ac, protocol)


def test_q_check_refuses_actions_that_are_tensors():
    ac = broken("td3", act=lambda o, deterministic=False: torch.zeros(3, 2))
    assert "act(o) returns a Tensor; it must return a numpy array" in q_error_of(ac, "td3")


# ---- bounds on the standard deviation, and squashed policies for the on-policy algorithms


BOUNDED = spaces.Box(np.array([-1, 0, -7, 100], np.float32), np.array([1, 10, -5, 101], np.float32))


def squashed_at(low, high, mu, log_std=0.0, dtype=torch.float32):
    low, high, mu, log_std = (torch.tensor([x], dtype=dtype) for x in (low, high, mu, log_std))
    return SquashedGaussian(mu, log_std, (high + low) / 2, (high - low) / 2)


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.4, 0.4), (0, 10), (-2e4, 1e4), (1e-4, 3e-4)])
@pytest.mark.parametrize("u", [0.0, 1e-3, 0.7, -2.5, 5.0, -7.0, 7.5])
def test_squashed_log_probability_of_a_stored_action_is_exact(low, high, u):
    """In float32, for the stored action, against float64; also where tanh has lost most of its digits."""
    pi = squashed_at(low, high, 0.3 + 0.9 * u, -0.3)
    a = torch.addcmul(pi.middle, pi.half_range, torch.tensor([u]).tanh())
    low, high = ((pi.middle + sign * pi.half_range).double() for sign in (-1, 1))  # the bounds as float32 rounds them
    near, far = ((a.double() - low) / pi.half_range.double(), (high - a.double()) / pi.half_range.double())
    x = 0.5 * (near / far).log()
    assert x.item() == pytest.approx(u, abs=1e-3 if abs(u) < 4 else 0.5)
    normal = td.Normal(pi.mu.double(), pi.log_std.double().exp())
    expected = (normal.log_prob(x) - (near * far).log()).item()
    assert pi.log_prob(a).item() == pytest.approx(expected, abs=2e-5, rel=2e-6)


@pytest.mark.parametrize("lead", LEADS)
def test_squashed_log_probability_matches_rsample(lead):
    pi = squashed(lead)
    a, logp = pi.rsample()
    assert pi.log_prob(a).shape == lead
    close(pi.log_prob(a), logp, 1e-8)


@pytest.mark.parametrize("bound", ["low", "high"])
def test_squashed_log_probability_on_a_bound_is_finite(bound):
    actor = actor_of(BOUNDED, squash=True, mu=20.0 if bound == "high" else -20.0)
    pi = actor(torch.zeros(2, 3))
    a = torch.as_tensor(getattr(BOUNDED, bound)).expand(2, -1)
    assert torch.allclose(pi.sample(), a, rtol=1e-5, atol=1e-5)
    logp = pi.log_prob(a)
    assert logp.isfinite().all()
    gradients = torch.autograd.grad(logp.sum(), list(actor.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("log_std", "tol"), [(-4.0, 1e-6), (-1.0, 1e-6), (0.0, 1e-5), (1.0, 0.02), (2.0, 0.1)])
@pytest.mark.parametrize("mu", [0.0, 0.5, -2.0, 7.0])
def test_squashed_entropy_is_the_integral(mu, log_std, tol):
    pi = squashed_at(-3.0, 5.0, mu, log_std, torch.float64)
    u = torch.linspace(mu - 12 * math.exp(log_std), mu + 12 * math.exp(log_std), 200_001, dtype=torch.float64)
    logp = td.Normal(mu, math.exp(log_std)).log_prob(u)
    log_slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
    expected = -torch.trapezoid(logp.exp() * (logp - log_slope), u)
    assert pi.entropy().item() == pytest.approx(expected.item(), abs=tol)


def test_squashed_entropy_is_the_mean_over_samples_and_has_a_gradient():
    mu, log_std = torch.randn(3, requires_grad=True), torch.full((3,), -0.5, requires_grad=True)
    pi = SquashedGaussian(mu.expand(100_000, 3), log_std, torch.zeros(3), torch.ones(3))
    close(pi.entropy().mean(), -pi.rsample()[1].mean(), 0.01)
    assert pi.entropy().shape == (100_000,)
    gradients = torch.autograd.grad(pi.entropy().mean(), (mu, log_std))
    assert (gradients[0].sign() == -mu.sign()).all()  # toward the middle
    assert (gradients[1] > 0).all()


def test_squashed_kl_is_that_of_the_gaussians():
    p, q = squashed((4,)), squashed((4,))
    normals = [td.Independent(td.Normal(x.mu, x.log_std.exp()), 1) for x in (p, q)]
    close(p.kl(q), td.kl_divergence(*normals))
    a, _ = (many := p._replace(mu=p.mu[0].expand(200_000, 3), log_std=p.log_std[0].expand(200_000, 3))).rsample()
    other = q._replace(mu=q.mu[0], log_std=q.log_std[0])
    close((many.log_prob(a) - other.log_prob(a)).mean(), p.kl(q)[0], 0.05)  # the definition, by samples of actions
    kept = p.detach()
    p.mu.add_(1)
    assert not torch.equal(kept.mu, p.mu)


def actor_of(space, mu=None, **kwargs):
    actor = ActorCritic(BOX, space, **kwargs).actor
    if mu is not None:
        nn.init.zeros_(actor.net[-1][-1].weight)
        nn.init.constant_(actor.net[-1][-1].bias, mu)
    return actor


@pytest.mark.parametrize("squash", [False, True])
def test_squashed_actions_cover_their_bounds(squash):
    pi = actor_of(BOUNDED, squash=squash, log_std_init=1.0)(torch.zeros(2000, 3))
    assert isinstance(pi, SquashedGaussian if squash else Gaussian)
    a = pi.sample().numpy()
    low, high = BOUNDED.low, BOUNDED.high
    assert ((a >= low) & (a <= high)).all() == squash
    assert (a.min(0) < low + 0.05 * (high - low)).all()
    assert (a.max(0) > high - 0.05 * (high - low)).all()
    check_actor_critic(ActorCritic(BOX, BOUNDED, squash=squash), BOX, BOUNDED)


def test_a_squashed_policy_with_low_equal_to_high():
    space = spaces.Box(np.array([-1, 2], np.float32), np.array([1, 2], np.float32))
    ac = ActorCritic(BOX, space, squash=True)
    pi = ac.pi(torch.zeros(5, 3))
    assert pi.log_prob(pi.sample()).isfinite().all()
    assert pi.entropy().isfinite().all()


@pytest.mark.parametrize("low", [-np.inf, 0.0])
def test_a_squashed_policy_needs_bounds(low):
    with pytest.raises(UserError, match="squashed policy needs bounded actions"):
        ActorCritic(BOX, spaces.Box(low, np.inf, (2,)), squash=True)


@pytest.mark.parametrize("squash", [False, True])
def test_log_std_is_clamped_and_returns_to_its_bounds(squash):
    actor = actor_of(BOUNDED, squash=squash, log_std_init=-1.0, log_std_min=-1.5, log_std_max=-0.5)
    unit = actor.log_half_range * (not squash)
    for moved, seen in [(-1.2, -1.2), (-9.0, -1.5), (3.0, -0.5)]:
        actor.log_std.data.fill_(moved)
        close(actor(torch.zeros(3)).log_std, unit + seen, 1e-6)
    keep_bounds(actor)
    close(actor.log_std, torch.full((4,), -0.5), 1e-6)
    assert torch.autograd.grad((actor(torch.zeros(3)).log_std).sum(), actor.log_std)[0].tolist() == [1.0] * 4


@pytest.mark.parametrize("log_std", [-1.5, -0.5])
def test_log_std_has_a_gradient_at_its_bounds(log_std):
    actor = actor_of(BOUNDED, log_std_init=log_std, log_std_min=-1.5, log_std_max=-0.5)
    assert torch.autograd.grad(actor(torch.zeros(3)).log_std.sum(), actor.log_std)[0].tolist() == [1.0] * 4


@pytest.mark.parametrize(("bounds", "moved"), [({"log_std_min": -1.0}, 5.0), ({"log_std_max": 0.0}, -5.0)])
def test_log_std_may_have_one_bound(bounds, moved):
    actor = actor_of(BOUNDED, **bounds)
    actor.log_std.data.fill_(moved)
    keep_bounds(actor)
    assert actor.log_std.tolist() == [moved] * 4
    actor.log_std.data.fill_(-moved)
    keep_bounds(actor)
    assert actor.log_std.tolist() == [next(iter(bounds.values()))] * 4


def test_an_initial_log_std_outside_its_bounds_is_refused():
    message = "log_std_init is -0.5; it must lie in log_std_min 0.0 to log_std_max None"
    with pytest.raises(UserError, match=re.escape(message)):
        ActorCritic(BOX, BOUNDED, log_std_min=0.0)


# ---- observations with several parts, and normalized ones off-policy


PARTS = network_space(
    flattened_space(
        spaces.Dict(
            a=spaces.Box(-1, 1, (2,)),
            b=spaces.Box(0, 255, (12, 10, 3), np.uint8),
            c=spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (2, 40, 40), np.float32))),
            d=spaces.MultiBinary(2),
        )
    )
)


@pytest.mark.parametrize("lead", LEADS)
def test_each_image_among_the_parts_has_its_cnn(lead):
    encoder, features = make_encoder(PARTS)
    assert [type(net) for net in encoder.encoders] == [nn.Identity, CNN, nn.Identity, CNN, nn.Identity]
    a, b, c, d, e = torch.randn(*lead, 2), torch.randint(256, (*lead, 12, 10, 3)), torch.eye(3)[0].expand(*lead, 3), (
        torch.rand(*lead, 2, 40, 40)
    ), torch.ones(*lead, 2)  # fmt: skip
    o = torch.cat([x.float().reshape(*lead, -1) for x in (a, b, c, d, e)], -1)
    expected = [a, encoder.encoders[1](b.to(torch.uint8)), c, encoder.encoders[3].net(d.reshape(-1, 2, 40, 40)), e]
    expected = torch.cat([x.reshape(*lead, -1) for x in expected], -1)
    close(encoder(o), expected, 1e-6)
    assert features == expected.shape[-1]


@pytest.mark.parametrize("cls", [ActorCritic, DeterministicActorCritic, SoftActorCritic])
def test_actor_critics_take_parts(cls):
    check = check_actor_critic if cls is ActorCritic else check_q_actor_critic
    counts = {} if cls is ActorCritic else dict(num_critics=cls.num_critics, soft=cls is SoftActorCritic)
    for normalize_obs in (False, True):
        ac = cls(PARTS, WIDE, normalize_obs=normalize_obs)
        check(ac, PARTS, WIDE, **counts)
        assert any(isinstance(layer, nn.Conv2d) for layer in ac.critic.modules())


def test_parts_norm_leaves_images_alone():
    norm = ActorCritic(PARTS, WIDE, normalize_obs=True).obs_norm
    o = torch.randn(50, *PARTS.shape) * 3 + 5
    norm.update(o)
    images = torch.ones(PARTS.shape, dtype=torch.bool)
    images[[0, 1, 362, 363, 364, -2, -1]] = False
    assert images.sum() == 360 + 3200
    plain = RunningNorm((7,))
    plain.update(o[:, ~images])
    close(norm(o)[:, images], o[:, images], 0)
    close(norm(o)[:, ~images], plain(o[:, ~images]), 1e-6)


@pytest.mark.parametrize("cls", [DeterministicActorCritic, TwinActorCritic, SoftActorCritic])
def test_off_policy_act_normalizes(cls):
    ac = cls(BOX, WIDE, normalize_obs=True)
    ac.obs_norm.update(10 + 3 * torch.randn(100, 3))
    o = np.full((4, 3), 12, np.float32)
    plain = cls(BOX, WIDE)
    plain.load_state_dict(ac.state_dict(), strict=False)
    assert not plain.obs_norm.state_dict()
    close(*map(torch.as_tensor, (ac.act(o, True), plain.act(ac.obs_norm(torch.as_tensor(o)).numpy(), True))), 0)
    assert isinstance(cls(IMAGE, WIDE, normalize_obs=True).obs_norm, NoNorm)


def test_q_check_names_a_missing_obs_norm():
    protocol = dict(num_critics=1)
    ac = DeterministicActorCritic(BOX, WIDE)
    del ac.obs_norm
    with pytest.raises(UserError, match="has no 'obs_norm'"):
        check_q_actor_critic(ac, BOX, WIDE, **protocol, normalize_obs=True)


# ---- tracing


@pytest.mark.parametrize("name", ["squashed", "bounded", "parts", "discrete"])
def test_dynamo_can_trace_policies(name):
    """As one graph: no Python that depends on tensors' values, no state that changes."""
    space, action, kwargs = {
        "squashed": (BOX, BOUNDED, dict(squash=True)),
        "bounded": (BOX, BOUNDED, dict(log_std_min=-2.0, log_std_max=1.0)),
        "parts": (PARTS, BOUNDED, {}),
        "discrete": (BOX, spaces.Discrete(3), {}),
    }[name]
    ac = ActorCritic(space, action, hidden_sizes=16, normalize_obs=True, **kwargs)
    o = torch.rand(6, *space.shape)
    a = torch.as_tensor(ac.act(o.numpy()))

    def loss(o, a):
        pi = ac.pi(o)
        return (pi.log_prob(a) + pi.entropy() + pi.kl(pi.detach()) + ac.v(o)).mean()

    with validating():
        traced = torch.compile(loss, backend="eager", fullgraph=True)(o, a)
    close(traced, loss(o, a), 1e-6)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        *(((84, 84, 4), 4), ((4, 84, 84), 4), ((210, 160, 3), 3), ((3, 210, 160), 3), ((1, 6, 7), 1), ((6, 7, 2), 2)),
        *(((7, 7, 20), 20), ((20, 7, 7), 20), ((8, 8, 119), 119), ((119, 8, 8), 119), ((3, 3, 20), 20)),
        *(((6, 7, 20), 20), ((20, 6, 7), 20), ((10, 9, 119), 119), ((12, 16, 5), 5), ((5, 12, 16), 5)),
        ((8, 8, 8), 8),
    ],
)
def test_channels_are_found_at_either_end(shape, channels):
    cnn = CNN(shape)
    assert cnn.net[0].in_channels == channels
    assert cnn(torch.zeros(2, *shape, dtype=torch.uint8)).shape == (2, cnn.features)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3])])
@pytest.mark.parametrize(
    "given", [dict(squash=True), dict(log_std_init=0), dict(log_std_min=-1.0), dict(log_std_max=0.0)]
)
def test_arguments_of_gaussians_are_refused_for_other_policies(space, given):
    name = next(iter(given))
    with pytest.raises(UserError, match=f"{name} needs a Gaussian policy, for Box actions; these are .*: leave it out"):
        ActorCritic(spaces.Box(-1, 1, (2,)), space, **given)
