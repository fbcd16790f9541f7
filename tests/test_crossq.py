"""CrossQ: batch normalization and its equations on numbers worked out by hand, and its updates against a twin.

See also test_off_policy.py, test_resume.py, test_capture.py and test_mpi.py.
"""

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import (
    ByBoth,
    Line,
    Probe,
    Replay,
    Walk,
    assert_follows,
    column,
    fit,
    lines,
    parameters,
    polyak_loop,
    rows,
    train,
)
from torch import nn

import spinup
from spinup import run
from spinup.algos.crossq import alpha_loss, joint_values, q_loss, target
from spinup.envs import evaluate
from spinup.errors import Fault, UserError
from spinup.nets import (
    BatchNorm,
    BatchNormActorCritic,
    BatchNormNetwork,
    QFunctions,
    SoftActorCritic,
    SquashedGaussian,
    check_q_actor_critic,
)

OBS, ACT = spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,))
SMALL = dict(epochs=1, start_steps=0, batch_size=8, replay_size=1000, eval_freq=0, ac_kwargs=dict(hidden_sizes=(16,)))


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: x.clone() for key, x in module.state_dict().items() if key.endswith((".mean", ".var"))}


# ---- batch normalization


def test_batch_norm_by_hand():
    norm = BatchNorm(2, momentum=0.5, eps=0.0)
    norm.weight.data[:], norm.bias.data[:] = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 10.0])
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # means 2 and 2, variances 1 and 4
    assert norm(x).tolist() == [[1, 10], [3, 22]]  # the running mean is 0 and the running variance 1
    assert norm.mean.tolist() == [0, 0]
    assert norm(x, training=True).tolist() == [[-1, 7], [1, 13]]
    assert norm.mean.tolist() == [1, 1]  # halfway to 2 and 2
    assert norm.var.tolist() == [1, 2.5]  # halfway from 1 and 1 to 1 and 4
    close = [[0, 10 - 3 / math.sqrt(2.5)], [2, 10 + 9 / math.sqrt(2.5)]]
    torch.testing.assert_close(norm(x), torch.tensor(close))
    assert norm.mean.tolist() == [1, 1]


def test_default_momentum_and_epsilon():
    norm = BatchNorm(1)
    y = norm(torch.tensor([[0.0], [2.0]]), training=True)  # mean 1, variance 1
    assert y.flatten().tolist() == pytest.approx([-1 / math.sqrt(1.001), 1 / math.sqrt(1.001)], rel=1e-6)
    assert norm.mean.item() == pytest.approx(0.01)
    norm(torch.tensor([[0.0], [4.0]]), training=True)  # mean 2, variance 4
    assert norm.mean.item() == pytest.approx(0.99 * 0.01 + 0.01 * 2)
    assert norm.var.item() == pytest.approx(0.99 + 0.01 * 4)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_is_torchs(training):
    torch.manual_seed(0)
    norm, twin = BatchNorm(5, momentum=0.1, eps=1e-3), nn.BatchNorm1d(5, momentum=0.1, eps=1e-3)
    gradients = []
    for module in (norm, twin):
        module.weight.data, module.bias.data = torch.linspace(-1, 2, 5), torch.linspace(0, 1, 5)
    for _ in range(3):
        x = 3 * torch.randn(40, 5) + 7
        norm(x, training=True), twin(x)
        torch.testing.assert_close(norm.mean, twin.running_mean)
        assert (norm.var < twin.running_var).all()  # torch's divides by 39 instead of 40
        torch.testing.assert_close(norm.var, twin.running_var, rtol=1 / 39, atol=0)
    twin.running_var.copy_(norm.var)
    twin.train(training)
    x = torch.randn(40, 5)
    for y in (norm(x.requires_grad_(), training), twin(x)):
        gradients.append((y.detach(), *torch.autograd.grad(y.square().sum() + y[0].sum(), x)))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_constant_feature_is_harmless():
    norm, x = BatchNorm(1), torch.full((6, 1), 5.0, requires_grad=True)
    for _ in range(2000):
        y = norm(x, training=True)
    assert y.abs().max() < 1e-4
    assert norm.var.item() >= 0
    assert norm(x).isfinite().all()
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


def test_batch_norm_takes_any_leading_shape():
    torch.manual_seed(0)
    norm, x = BatchNorm(3), torch.randn(4, 5, 3)
    flat, stacked = (norm(y, training=True) for y in (x.reshape(20, 3), x))
    torch.testing.assert_close(stacked, flat.view(4, 5, 3), rtol=0, atol=0)
    torch.testing.assert_close(norm(x[1, 2]), norm(x)[1, 2], rtol=0, atol=0)


# ---- networks


def test_network_normalizes_its_input_and_after_each_activation():
    torch.manual_seed(0)
    net, x = BatchNormNetwork([3, 8, 6, 2], "ReLU", nn.Linear, batch_norm=True), torch.randn(9, 3)
    twins = [nn.BatchNorm1d(n, eps=1e-3) for n in (3, 8, 6)]
    first, second, third = (copy.deepcopy(linear) for linear in net.linears)
    y = third(twins[2](second(twins[1](first(twins[0](x)).relu())).relu()))
    torch.testing.assert_close(net(x, training=True), y)
    assert len(net.norms) == 3


def test_default_networks():
    ac = BatchNormActorCritic(OBS, ACT)
    for net, sizes in [(ac.actor.net, (3, 256, 256, 4)), *((q.net, (5, 256, 256, 1)) for q in ac.critic)]:
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        assert [tuple(linear.weight.shape) for linear in net.linears] == shapes
        assert [len(norm.mean) for norm in net.norms] == list(sizes[:-1])
        assert isinstance(net.activation, nn.ReLU)


def test_switches_of_the_networks():
    def norms(part):
        return sum(isinstance(module, BatchNorm) for module in part.modules())

    for critics, actor in ((True, False), (False, True), (False, False)):
        ac = BatchNormActorCritic(OBS, ACT, (8, 8), critic_width=3, batch_norm=critics, actor_batch_norm=actor)
        assert norms(ac.critic) == (6 if critics else 0)
        assert norms(ac.actor) == (3 if actor else 0)
        assert ac.critic[1].net.linears[1].weight.shape == (24, 24)
        o, a = torch.randn(6, 3), torch.randn(6, 2)
        assert critics or torch.equal(ac.critic(o, a, training=True), ac.critic(o, a))
    ac = BatchNormActorCritic(OBS, ACT, (8, 5), critic_width=1.5)
    assert [layer.out_features for layer in ac.critic[0].net.linears] == [12, 8, 1]
    for width in (0, 0.5, "wide"):
        with pytest.raises(UserError, match=f"critic_width is {width!r}; it must be"):
            BatchNormActorCritic(OBS, ACT, critic_width=width)


@pytest.mark.parametrize("space", [OBS, spaces.Box(0, 255, (10, 12, 3), np.uint8), spaces.Box(-1, 1, (3, 2))])
def test_act_takes_any_leading_shape_and_depends_on_no_batch(space):
    torch.manual_seed(0)
    if len(space.shape) == 2:
        space = spinup.envs.make_envs(lambda: Walk()).observation_space  # as environments flatten it
    ac = BatchNormActorCritic(space, ACT, (8,))
    check_q_actor_critic(ac, space, ACT, 2, soft=True, training=True)
    o = np.stack([space.sample() for _ in range(6)])
    ac.actor(torch.as_tensor(o), training=True)
    before, whole = statistics(ac), ac.act(o, deterministic=True)
    for lead in [(), (1,), (6,), (3, 2)]:
        part = o[: math.prod(lead)].reshape(*lead, *space.shape)
        np.testing.assert_allclose(ac.act(part, True).reshape(-1, 2), whole[: math.prod(lead)], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(x, before[key]) for key, x in statistics(ac).items())
    assert ac.act(o).shape == (6, 2)
    assert (ac.act(o) != whole).any()


# ---- equations


class Normalized(nn.Module):
    """Two critics, Q(o, a) = N(o + a) and 2 N(o + a), with N batch normalization."""

    def __init__(self):
        super().__init__()
        self.norm = BatchNorm(1, momentum=0.5, eps=0.0)

    def forward(self, o, a, training=False):
        q = self.norm(o + a, training).squeeze(-1)
        return torch.stack([q, 2 * q])


def test_joint_values_by_hand():
    o, a, o2, a2 = (torch.tensor(x).unsqueeze(-1) for x in ([1.0, 1.0], [0.0, 2.0], [4.0, 4.0], [1.0, 3.0]))
    q = Normalized()
    q_values, q2 = joint_values(q, o, a, o2, a2, joint=True)
    # 1, 3, 5, 7: mean 4 and variance 5
    torch.testing.assert_close(q_values, torch.tensor([[-3.0, -1.0], [-6.0, -2.0]]) / math.sqrt(5))
    torch.testing.assert_close(q2, torch.tensor([[1.0, 3.0], [2.0, 6.0]]) / math.sqrt(5))
    assert q.norm.mean.tolist() == [2]
    assert q.norm.var.tolist() == pytest.approx([3])
    torch.testing.assert_close(q(o, a)[0], torch.tensor([-1.0, 1.0]) / math.sqrt(3))  # by the running statistics
    q = Normalized()
    q_values, q2 = joint_values(q, o, a, o2, a2, joint=False)
    assert q_values.tolist() == q2.tolist() == [[-1, 1], [-2, 2]]  # what differs between the two is lost
    assert q.norm.mean.tolist() == [0.5 * (0.5 * 2) + 0.5 * 6]


def test_the_next_pairs_take_part_in_the_gradient():
    """Of q, through mean and variance, though not through the target."""
    rest = (torch.ones(2, 1), torch.zeros(2, 1))
    for joint in (True, False):
        o2 = torch.tensor([[4.0], [6.0]], requires_grad=True)
        q_values, _ = joint_values(Normalized(), torch.tensor([[1.0], [3.0]]), rest[1], o2, rest[1], joint)
        (gradient,) = torch.autograd.grad(q_loss(q_values, torch.zeros(2)), o2, materialize_grads=True)
        assert (gradient != 0).any() == joint


def test_target():
    r, v2 = torch.tensor([1.0, 1.0, -2.0]), torch.tensor([10.0, 10.0, 4.0])
    terminated, discount = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.5, 0.25])
    assert target(r, terminated, discount, v2).tolist() == [6, 1, -1]  # 1 + 10 / 2; nothing behind the end; -2 + 4 / 4


def test_q_loss():
    q = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    loss = q_loss(q, torch.tensor([3.0, -1.0]))
    loss.backward()
    assert loss.item() == 7  # ((1 - 3)^2 + (2 + 1)^2) / 2 + (0 + (0 + 1)^2) / 2
    assert q.grad.tolist() == [[-2, 3], [0, 1]]


@pytest.mark.parametrize(
    ("logp", "target_entropy", "loss", "gradient"), [(-2.0, -3.0, 2.5, 5.0), (2.0, -1.0, -0.5, -1)]
)
def test_alpha_loss_in_both_directions(logp, target_entropy, loss, gradient):
    log_alpha = torch.tensor(0.5, requires_grad=True)
    value = alpha_loss(log_alpha, torch.tensor([logp - 1, logp + 1]), target_entropy)
    value.backward()
    assert (value.item(), log_alpha.grad.item()) == (loss, gradient)


# ---- updates


def test_first_losses_by_hand(tmp_path):
    """Q1 = 5, Q2 = 3, rewards of 1, gamma 0.5, no terminal state and no entropy: y = 1 + 3 / 2, LossPi = -3."""
    options = {**SMALL, "gamma": 0.5, "update_after": 20, "steps_per_epoch": 30, "alpha": 0.0}
    options["actor_critic"] = lines("crossq", Line(5.0), Line(3.0))
    train("crossq", fit("td3", lambda: Probe(truncates=True)), tmp_path, **options)
    (row,) = rows(tmp_path)
    assert (row["AverageQ1Vals"], row["AverageQ2Vals"]) == (5, 3)
    assert row["LossQ"] == pytest.approx((5 - 2.5) ** 2 + (3 - 2.5) ** 2)
    assert row["LossPi"] == -3


OFF = dict(polyak=0.9, joint=False, beta1=0.9, policy_delay=1, policy_average=0.0)
OFF_NETWORKS = dict(hidden_sizes=(16, 16), batch_norm=False, actor_batch_norm=False, critic_width=1)


def test_with_everything_switched_off_it_is_sac_to_the_bit(tmp_path):
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 60, "epochs": 2, "n_step": 2}
    ac = train("crossq", Walk, tmp_path / "crossq", **options | OFF | dict(ac_kwargs=OFF_NETWORKS))
    same = dict(polyak=0.9, policy_delay=1, normalize_obs=False)
    same |= dict(ac_kwargs=dict(hidden_sizes=(16, 16), layer_norm=False))
    sac = train("sac", Walk, tmp_path / "sac", **options | same)
    assert torch.equal(parameters(ac), parameters(sac))
    for name in ("AverageQ1Vals", "LossQ", "LossPi", "AverageLogPi", "Alpha"):
        assert column(tmp_path / "crossq", name) == column(tmp_path / "sac", name)


SWITCHES = {
    "polyak": dict(polyak=0.9),
    "joint": dict(joint=False),
    "beta1": dict(beta1=0.9),
    "policy_delay": dict(policy_delay=1),
    "batch_norm": dict(ac_kwargs=dict(hidden_sizes=(16,), batch_norm=False)),
    "actor_batch_norm": dict(ac_kwargs=dict(hidden_sizes=(16,), actor_batch_norm=False)),
    "critic_width": dict(ac_kwargs=dict(hidden_sizes=(16,), critic_width=2)),
}


def test_each_switch_changes_the_run(tmp_path):
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 40}
    losses = [tuple(column(tmp_path / name, "LossQ")) for name in ("all", *SWITCHES) if train(
        "crossq", Walk, tmp_path / name, **options | SWITCHES.get(name, {}))]  # fmt: skip
    assert len(set(losses)) == 1 + len(SWITCHES)
    assert all(math.isfinite(x) for (x,) in losses)


def normalize(norm, running, x, training):
    """What BatchNorm does, written out; running: [mean, variance], which training moves."""
    mean, var = running
    if training:
        mean, var = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
        running[:] = [0.99 * r + 0.01 * new.detach() for r, new in zip(running, (mean, var), strict=True)]
    return norm.weight * (x - mean) / torch.sqrt(var + 1e-3) + norm.bias


class Twin:
    """A network with batch normalization, and its running statistics beside it."""

    def __init__(self, net):
        self.net, self.running = net, [[norm.mean.clone(), norm.var.clone()] for norm in net.norms]

    def __call__(self, x, training=False):
        for i, (linear, norm, running) in enumerate(zip(self.net.linears, self.net.norms, self.running, strict=True)):
            x = linear(normalize(norm, running, torch.tanh(x) if i else x, training))
        return x


@pytest.mark.parametrize("polyak", [0.0, 0.9])
@pytest.mark.parametrize(("joint", "average"), [(True, 0.0), (True, 0.15), (False, 0.999)])
def test_updates_are_a_twins(monkeypatch, tmp_path, joint, polyak, average):
    """Eight updates with torch.optim.Adam and everything written out, on the same batches and noise."""
    options = {**SMALL, "update_after": 30, "steps_per_epoch": 37, "lr": 2e-3, "gamma": 0.8, "n_step": 2}
    # By Tanh: the bias of a ReLU that is never 0 has no effect, and a gradient of nothing but rounding errors.
    options["ac_kwargs"] = dict(hidden_sizes=(16,), activation="Tanh")
    options["policy_average"] = average
    replay = Replay(monkeypatch, "crossq", Walk, tmp_path, **options, joint=joint, polyak=polyak)
    assert len(replay.batches) == 8
    first, averaged, n = replay.first, copy.deepcopy(replay.first.actor), 0
    actor, critics = Twin(first.actor.net), [Twin(q.net) for q in first.critic]
    targets = [Twin(copy.deepcopy(q.net)) for q in first.critic]
    log_alpha = torch.zeros((), requires_grad=True)
    adam = dict(lr=2e-3, betas=(0.5, 0.999))
    pi_adam, alpha_adam = torch.optim.Adam(first.actor.parameters(), **adam), torch.optim.Adam([log_alpha], **adam)
    q_adam = torch.optim.Adam(first.critic.parameters(), **adam)

    def draw(o, training=False):
        mu, log_std = actor(o, training).split(2, dim=1)
        noise = torch.randn(8, 2)
        u = mu + log_std.exp() * noise
        logp = -(noise**2) / 2 - log_std - math.log(2 * math.pi) / 2 - torch.log(1 - torch.tanh(u) ** 2)
        return torch.tanh(u), logp.sum(1)

    def both(nets, pair, next_pair):
        if joint:
            return [net(torch.cat([pair, next_pair]), True)[:, 0].split(8) for net in nets]
        return [(net(pair, True)[:, 0], net(next_pair, True)[:, 0]) for net in nets]

    losses = []
    for i, (batch, random) in enumerate(zip(replay.batches, replay.random, strict=True), 1):
        torch.set_rng_state(random)
        alpha, unit = log_alpha.exp().item(), (batch.a - torch.tensor([5.0, -1.0])) / torch.tensor([5.0, 2.0])
        with torch.no_grad():
            a2, logp2 = draw(batch.o2)
        pair, next_pair = torch.cat([batch.o, unit], 1), torch.cat([batch.o2, a2], 1)
        values = both(critics, pair, next_pair)
        with torch.no_grad():
            next_values = both(targets, pair, next_pair) if polyak else values
            v2 = torch.min(*(q2 for _, q2 in next_values)) - alpha * logp2
            y = batch.r + torch.where(batch.terminated == 1, 0.0, batch.discount * v2)
        q_adam.zero_grad()
        sum(((q - y) ** 2).mean() for q, _ in values).backward()
        q_adam.step()
        for net, source in zip(targets, critics, strict=True):
            for p, q in zip(net.net.parameters(), source.net.parameters(), strict=True):
                p.data.mul_(polyak).add_((1 - polyak) * q.data)
        losses.append(sum(((q - y) ** 2).mean().item() for q, _ in values))
        if i % 3 == 0:
            a, logp = draw(batch.o, training=True)
            pi_adam.zero_grad()
            (alpha * logp - torch.min(*(net(torch.cat([batch.o, a], 1))[:, 0] for net in critics))).mean().backward()
            pi_adam.step()
            n += 1
            decay = min(average, n / (n + 9))
            polyak_loop(averaged, first.actor, decay)
            for norm, running in zip(averaged.net.norms, actor.running, strict=True):
                norm.mean, norm.var = (
                    decay * old + (1 - decay) * new for old, new in zip((norm.mean, norm.var), running, strict=True)
                )
            alpha_adam.zero_grad()
            (log_alpha * (-logp.detach().mean() + 1.0)).backward()  # the entropy minus its target, -1
            alpha_adam.step()

    assert_follows(replay, {"actor": averaged, "critic": first.critic})
    assert replay.ac.temperature.log_alpha.item() == pytest.approx(log_alpha.item(), abs=1e-6)
    expected = [[(norm.mean, norm.var) for norm in averaged.net.norms], *(net.running for net in critics)]
    for ours, running in zip([replay.ac.actor, *replay.ac.critic], expected, strict=True):
        for norm, (mean, var) in zip(ours.net.norms, running, strict=True):
            torch.testing.assert_close(norm.mean, mean, rtol=0, atol=1e-5)
            torch.testing.assert_close(norm.var, var, rtol=1e-5, atol=1e-5)
    assert replay.row["LossQ"] == pytest.approx(sum(losses) / 8, rel=1e-4)


def test_the_policys_step_leaves_the_critics_statistics_alone(tmp_path):
    """One update, with a step of the policy and without: the same critics."""
    one = {**SMALL, "update_after": 20, "steps_per_epoch": 20}
    never, always = (train("crossq", Walk, tmp_path / str(d), **one, policy_delay=d) for d in (1000, 1))
    assert torch.equal(parameters(never.critic), parameters(always.critic))
    assert all(torch.equal(x, statistics(always.critic)[key]) for key, x in statistics(never.critic).items())
    assert any((x != statistics(always.actor)[key]).any() for key, x in statistics(never.actor).items())


def test_the_policy_climbs_the_lower_critic(tmp_path):
    falls, rises = Line(0.0, -2.0), Line(5.0, 2.0)
    for name, critics in (("first", (falls, rises)), ("second", (rises, falls))):
        options = {**SMALL, "lr": 1e-2, "alpha": 0.0, "update_after": 20, "steps_per_epoch": 150, "policy_delay": 1}
        ac = train("crossq", fit("td3", Probe), tmp_path / name, actor_critic=lines("crossq", *critics), **options)
        assert ac.actor(torch.zeros(1, 1)).mode().item() < 0.2  # of (0, 1)


@pytest.mark.parametrize("schedule", [None, "rigl"])
def test_block_sparse_layers(tmp_path, schedule):
    linear = dict(sparsity=0.5, block_size=16) | ({} if schedule is None else dict(schedule=schedule, every=5))
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 60, "polyak": 0.9}
    ac = train("crossq", Walk, tmp_path, **options | dict(ac_kwargs=dict(hidden_sizes=(32, 32), linear=linear)))
    sparse = [
        [hasattr(layer, "layout") for layer in net.linears] for net in (ac.actor.net, *(q.net for q in ac.critic))
    ]
    assert sparse == [[False, True, False]] * 3
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())


# ---- what is saved, and what acts


def test_a_saved_policy_acts_by_its_running_statistics(tmp_path):
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 80}
    ac = train("crossq", "Pendulum-v1", tmp_path, **options)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(saved[key], x) for key, x in statistics(ac).items())
    assert any(key.startswith("actor.") for key in statistics(ac))
    loaded, o = spinup.load(tmp_path), np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_allclose(loaded.act(o, True), ac.act(o, True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loaded.act(o[3], True), loaded.act(o, True)[3], rtol=1e-4, atol=1e-5)
    returns = evaluate(loaded, "Pendulum-v1", 2)["EpRet"]
    np.testing.assert_allclose(returns, evaluate(ac, "Pendulum-v1", 2)["EpRet"], rtol=1e-3)
    for key in [key for key in saved if key.startswith("actor.") and key.endswith(".mean")]:
        saved[key] += 1.0
    torch.save(saved, tmp_path / "model.pt")
    assert np.abs(spinup.load(tmp_path).act(o, True) - loaded.act(o, True)).max() > 1e-3


def test_a_checkpoint_has_the_running_statistics_and_the_targets(tmp_path):
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 40, "checkpoint_freq": 1}
    for polyak in (0.0, 0.9):
        folder = tmp_path / str(polyak)
        ac = train("crossq", Walk, folder, **options, polyak=polyak)
        (file,) = folder.glob("checkpoint/*/rank0.pt")
        parts = torch.load(file, weights_only=True)["parts"]
        states = parts["ac"] | {f"actor.{key}": x for key, x in parts["pi_avg"].items()}
        assert all(torch.equal(states[key], x) for key, x in statistics(ac).items())
        assert ("q_targ" in parts) == (polyak > 0)


def test_nan_in_the_running_statistics_ends_the_run(tmp_path):
    class Broken(BatchNormActorCritic):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.critic[1].net.norms[0].mean[2] = math.nan

    options = {**SMALL, "update_after": 20, "steps_per_epoch": 21, "alpha": 0.0, "policy_delay": 1000}
    with pytest.raises(Fault, match=r"critic\.1\.net\.norms\.0\.mean contains NaN or infinity after epoch 1"):
        train("crossq", Walk, tmp_path, actor_critic=Broken, **options)


# ---- networks of one's own, and mistakes


class OwnPart(nn.Module):
    """With torch's own layers, whose mode says what they normalize by."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(n_in), nn.Linear(n_in, n_out)).eval()


class OwnActor(OwnPart):
    def forward(self, o, training=False):
        x = self.net.train(training)(o)
        return SquashedGaussian(x, torch.zeros_like(x), torch.tensor([5.0, -1.0]), torch.tensor([5.0, 2.0]))


class OwnQ(OwnPart):
    def forward(self, o, a, training=False):
        return self.net.train(training)(torch.cat([o, a], -1)).squeeze(-1)


class OwnCritic(nn.ModuleList):
    def forward(self, o, a, training=False):
        return torch.stack([q(o, a, training) for q in self])


class Own(nn.Module):
    """The protocol in spinup/nets/__init__.py, and nothing of ours."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.actor, self.critic = OwnActor(3, 2), OwnCritic([OwnQ(5, 1), OwnQ(5, 1)])

    @torch.no_grad()
    def act(self, o, deterministic=False):
        pi = self.actor(torch.as_tensor(o))
        return (pi.mode() if deterministic else pi.sample()).numpy()


def test_own_networks(tmp_path):
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 60, "capture": False, "ac_kwargs": None}
    ac = train("crossq", Walk, tmp_path, actor_critic=Own, **options)
    assert type(ac) is Own
    assert ac.critic[0].net[0].running_mean.abs().max() > 0
    (file,) = tmp_path.glob("checkpoint/*/rank0.pt")
    learned = torch.load(file, weights_only=True)["parts"]["ac"]
    assert learned["actor.net.0.num_batches_tracked"] == 41 // 3
    assert not torch.equal(ac.actor.net[0].running_mean, torch.zeros(3))  # averaged, as the parameters are
    assert not torch.equal(ac.actor.net[0].running_mean, learned["actor.net.0.running_mean"])


def test_networks_without_training_are_refused(tmp_path):
    options = {**SMALL, "update_after": 20, "steps_per_epoch": 20}
    with pytest.raises(UserError) as error:
        train("crossq", Walk, tmp_path / "run", actor_critic=SoftActorCritic, **options)
    message = "actor_critic SoftActorCritic: actor takes no 'training'; help(spinup.nets) describes what is needed"
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()

    class HalfWay(BatchNormActorCritic):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.critic = QFunctions(self.critic)

    with pytest.raises(UserError, match="HalfWay: critic takes no 'training'"):
        train("crossq", Walk, tmp_path / "run", actor_critic=HalfWay, **options)


def test_help_and_wrong_flags(capsys, tmp_path):
    run.main(["crossq", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "--polyak",
        "0: no target networks",
        "--joint",
        "share batch statistics",
        "batch_norm",
        "critic_width",
    ):
        assert words in text
    for words, message in (
        ("--batch_size 1", "batch_size is 1; batch statistics need at least 2 transitions on each process"),
        ("--ac_kwargs:critic_width 0", "critic_width is 0.0; it must be"),
        ("--env CartPole-v1", "crossq needs a bounded Box of actions, not Discrete(2)"),
    ):
        flags = [] if "--env" in words else ["--env", "Pendulum-v1"]
        with pytest.raises(SystemExit) as status:
            run.main(["crossq", *flags, *words.split(), "--data_dir", str(tmp_path), "--quiet"])
        assert status.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]


def test_the_papers_preset_widens_the_critics(tmp_path):
    words = "--preset paper --hid 4 --steps_per_epoch 30 --epochs 1 --start_steps 20 --eval_freq 0 --replay_size 100"
    run.main(["crossq", *words.split(), "--env", "Pendulum-v1", "--data_dir", str(tmp_path), "--quiet"])
    (file,) = tmp_path.rglob("model.pt")
    shapes = {key: tuple(x.shape) for key, x in torch.load(file, weights_only=True).items()}
    assert shapes["critic.0.net.linears.0.weight"] == (32, 4)
    assert shapes["actor.net.linears.0.weight"] == (4, 3)


def test_it_learns_what_to_do_by_the_observation(tmp_path):
    """The best action is 0 at -1 and 1 at 1; with batch normalization in the policy, as by default."""
    options = {**SMALL, "lr": 1e-2, "gamma": 0.5, "update_after": 100, "start_steps": 100, "steps_per_epoch": 800}
    options |= dict(num_envs=4, batch_size=64, policy_delay=1, alpha=0.05, ac_kwargs=dict(hidden_sizes=(32,)))
    ac = train("crossq", fit("crossq", ByBoth), tmp_path, **options)
    low, high = ac.act(np.array([[-1.0], [1.0]], np.float32), True)[:, 0]
    assert low < 0.3
    assert high > 0.7
