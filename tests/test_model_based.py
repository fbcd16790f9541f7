"""spinup/examples/model_based.py: likelihoods against torch.distributions, plans in models that are known exactly."""

import math
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F

from spinup.examples import model_based


def make_model(members: int = 3, seed: int = 0, **options) -> model_based.Ensemble:
    torch.manual_seed(seed)
    return model_based.Ensemble(members, **options)


# ---- the model


def test_members_are_networks_side_by_side():
    """Member 1's output by its own weights, step by step; its inputs and nobody else's decide it."""
    model = make_model(width=8)
    with torch.no_grad():
        for b in model.biases:
            b.normal_()
    model.x_mean, model.x_std = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 2, 0.5, 1])
    x = torch.randn(3, 5, 4)
    mean, log_std = model(x)
    h = (x[1] - model.x_mean) / model.x_std
    for w, b in zip(model.weights, model.biases, strict=True):
        h = h @ w[1] + b[1]
        h = F.silu(h) if w.shape[-1] == 8 and w is not model.weights[-1] else h
    torch.testing.assert_close(mean[1], h[:, :4])
    torch.testing.assert_close(log_std[1], 2.5 * (h[:, 4:].tanh() - 1))


def test_standard_deviations_have_limits():
    model = make_model()
    for b in (-1e3, 1e3):
        with torch.no_grad():
            model.biases[-1].fill_(b)
        log_std = model(torch.randn(3, 5, 4))[1]
        torch.testing.assert_close(log_std, torch.full_like(log_std, -5.0 if b < 0 else 0.0))


def test_loss_is_the_likelihood_of_torch_distributions():
    """Of outputs in units of their spread; the unit itself shifts the likelihood by a constant."""
    model = make_model()
    model.y_mean, model.y_std = torch.tensor([1.0, 0, -5, 2]), torch.tensor([0.5, 1, 3, 2])
    x, y = torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    mean, log_std = model(x)
    wanted = -Normal(mean, log_std.exp()).log_prob((y - model.y_mean) / model.y_std).sum(-1).mean()
    torch.testing.assert_close(model.loss(x, y), wanted)
    in_units = Normal(model.y_mean + model.y_std * mean, model.y_std * log_std.exp())
    shift = model.y_std.log().sum()
    torch.testing.assert_close(model.loss(x, y), -in_units.log_prob(y).sum(-1).mean() - shift)


def test_loss_by_hand():
    """One output, mean 0 and standard deviation exp(-2.5): a value of exp(-2.5) is one deviation away."""
    model = make_model(1, outputs=1)
    with torch.no_grad():
        model.weights[-1].zero_()
    loss = model.loss(torch.zeros(1, 1, 4), torch.full((1, 1, 1), math.exp(-2.5)))
    assert loss.item() == pytest.approx(0.5 - 2.5 + math.log(math.sqrt(2 * math.pi)))


def test_samples_have_the_models_moments():
    model = make_model(2)
    model.y_mean, model.y_std = torch.tensor([1.0, 0, -5, 2]), torch.tensor([0.5, 1, 3, 2])
    x = torch.randn(2, 1, 4)
    mean, log_std = model(x)
    samples = model.sample(x.expand(2, 20_000, 4))
    std = model.y_std * log_std.exp()
    error = (samples.mean(1) - (model.y_mean + model.y_std * mean).squeeze(1)) / std.squeeze(1)
    assert error.abs().max() < 4 / 20_000**0.5
    torch.testing.assert_close(samples.std(1), std.squeeze(1), rtol=0.03, atol=0)


def test_fit_finds_a_function_and_its_noise():
    """y = 3 x with noise of 0.5 in one output and 0.05 in the other."""
    torch.manual_seed(0)
    x = torch.rand(2000, 1) * 4 - 2
    y = 3 * x + torch.tensor([0.5, 0.05]) * torch.randn(2000, 2)
    model = make_model(2, inputs=1, outputs=2, width=32)
    model_based.fit(model, torch.optim.Adam(model.parameters(), 5e-3), x, y, steps=2000)
    mean, log_std = model(torch.tensor([[[-1.0], [1.0]]]).expand(2, 2, 1))
    found = model.y_mean + model.y_std * mean
    torch.testing.assert_close(found, torch.tensor([[-3.0, -3], [3, 3]]).expand(2, 2, 2), atol=0.25, rtol=0)
    noise = (model.y_std * log_std.exp()).mean((0, 1))
    torch.testing.assert_close(noise, torch.tensor([0.5, 0.05]), rtol=0.4, atol=0)


# ---- planning in a known model


class Point(nn.Module):
    """A point on a line: an action of a moves it by a, and the reward is minus the squared distance to 3. Its members
    disagree: the second one's rewards are larger by 1."""

    weights = (torch.zeros(2),)

    def sample(self, x):
        s, a = x.split(1, dim=-1)
        return torch.cat([a, -(s - 3).square() + torch.tensor([0.0, 1.0])[:, None, None]], dim=-1)


def test_imagined_returns_by_hand():
    """From 0 by +1 and +2 to 1 and 3: rewards -9 and -4 of the points that were left. By 0 and 0: -9 and -9."""
    actions = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]]])
    found = model_based.imagine(Point(), torch.zeros(1), actions)
    assert found.tolist() == [[-13.0, -18.0], [-11.0, -16.0]]


@pytest.mark.parametrize(("start", "first"), [(0.0, 2.0), (2.0, 1.0), (9.0, -2.0)])
def test_plans_are_optimal(start, first):
    """As fast as the limits of the actions allow, and no farther than to 3."""
    torch.manual_seed(0)
    actions = model_based.plan(Point(), torch.tensor([start]), torch.zeros(3, 1), rounds=15)
    assert actions[0].item() == pytest.approx(first, abs=0.1)
    assert actions.abs().max() <= 2
    if start == 0:
        assert actions[1].item() == pytest.approx(1, abs=0.1)


def test_one_round_of_planning_by_hand(monkeypatch):
    """Of five sequences of one action the two with the largest values win; the plan is their mean."""
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.tensor([-1.0, 0.1, 0.2, 0.3, 0.9]).reshape(shape))
    monkeypatch.setattr(model_based, "imagine", lambda model, o, actions: actions[None, :, 0, 0])
    found = model_based.plan(None, torch.zeros(1), torch.zeros(1, 1), rounds=1, population=5, elites=2)
    assert found.item() == pytest.approx(2 * (0.3 + 0.9) / 2)


class Pendulum(nn.Module):
    """The true Pendulum-v1 as a model of one member."""

    weights = (torch.zeros(1),)

    def sample(self, x):
        c, s, speed, a = x.unbind(-1)
        angle = torch.atan2(s, c)
        r = -(angle.square() + 0.1 * speed.square() + 0.001 * a.square())
        new = (speed + 0.05 * (15 * s + 3 * a)).clamp(-8, 8)
        angle = angle + 0.05 * new
        return torch.stack([angle.cos() - c, angle.sin() - s, new - speed, r], dim=-1)


def test_the_true_model_is_not_exploited():
    """Imagined and real returns agree, of plans and of random actions, and plans are better."""
    torch.manual_seed(0)
    planned, real, random, random_real = model_based.exploitation(Pendulum(), horizon=10, seed=0, starts=5)
    assert planned == pytest.approx(real, abs=1e-3)
    assert random == pytest.approx(random_real, abs=1e-3)
    assert planned > random


def test_planning_with_the_true_model_swings_up():
    """What a perfect model would give: 60 steps to the top, from hanging down."""
    torch.manual_seed(0)
    env = gym.make("Pendulum-v1")
    env.reset(seed=0)
    env.unwrapped.state = np.array([np.pi, 0.0])
    o, mean = np.array([-1.0, 0, 0], np.float32), torch.zeros(20, 1)
    for _ in range(80):
        mean = model_based.plan(Pendulum(), torch.as_tensor(o), mean)
        o = env.step(mean[0].numpy())[0]
        mean = torch.cat([mean[1:], mean[-1:]])
    assert o[0] > 0.95


# ---- learning


def test_what_is_recorded(monkeypatch, capsys):
    """Steps of the environment, in order: the change of the observation, and the reward by its formula."""
    found = []
    monkeypatch.setattr(model_based, "fit", lambda model, optimizer, x, y: found.append((x, y)) or 0.5)
    rows, _ = model_based.train(members=2, seed=3, episodes=1)
    (x, y), steps = found[0], slice(0, 199)
    assert [row[0] for row in rows] == [200]
    assert x.shape == y.shape == (200, 4)
    torch.testing.assert_close(x[steps, :3] + y[steps, :3], x[1:200, :3])
    torch.testing.assert_close(Pendulum().sample(x), y, atol=1e-4, rtol=1e-4)
    assert rows[0][1] == pytest.approx(y[:, 3].sum().item(), rel=1e-5)
    assert x[:, 3].std().item() == pytest.approx(4 / 12**0.5, rel=0.1)  # the first episode is random


def test_a_model_of_pendulum_learns(capsys):
    """One random episode makes the error of a step a small part of what a step changes."""
    torch.manual_seed(0)
    _, model = model_based.train(members=2, seed=0, episodes=1)
    x = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 2, 1], [0, 1, -3, -1]]).expand(2, 3, 4)
    errors = model.y_mean + model.y_std * model(x)[0] - Pendulum().sample(x)
    assert (errors.abs() < 0.5 * model.y_std).all()


def test_same_seed_same_run(capsys):
    options = {"members": 2, "horizon": 2, "episodes": 1}
    assert model_based.train(seed=1, **options)[0] == model_based.train(seed=1, **options)[0]
    assert model_based.train(seed=1, **options)[0] != model_based.train(seed=2, **options)[0]


def test_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["model_based", "--members", "2", "--episodes", "1"])
    exploitation = model_based.exploitation
    monkeypatch.setattr(
        model_based, "exploitation", lambda model, horizon, seed: exploitation(model, min(horizon, 5), seed, starts=1)
    )
    model_based.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["steps", "return", "loss"]
    assert [line.split()[0] for line in lines[-4:]] == ["5", "10", "20", "40"]


@pytest.mark.parametrize("name", ["members", "horizon", "episodes"])
def test_cli_refuses_zero(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["model_based", f"--{name}", "0"])
    with pytest.raises(SystemExit, match="2"):
        model_based.main()
    assert f"argument --{name}: must be at least 1 and below 2**31, got 0" in capsys.readouterr().err
