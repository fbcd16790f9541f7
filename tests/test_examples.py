"""The programs of the introduction: their gradients against exact ones, what they record, and that they learn.

The gradients are exact because the chain below is so small that every trajectory can be listed with its probability.
"""

import ast
import importlib
import itertools
import re
import runpy
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spinup.examples import pg_1_simplest, pg_2_reward_to_go, pg_3_baseline, pg_4_gae

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, and no package
policy_gradients = importlib.import_module("policy_gradients")

PROGRAMS = ("pg_1_simplest", "pg_2_reward_to_go", "pg_3_baseline", "pg_4_gae")


WITH_COMMAND = [f for f in (ROOT / "spinup/examples").glob("*.py") if "__main__" in f.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", sorted(WITH_COMMAND), ids=lambda file: file.stem)
def test_help_and_unknown_flags(file, capsys, monkeypatch):
    """Every program answers at once, and none trains with a flag that it doesn't have."""
    for flag, status, out in (("--help", 0, "usage: "), ("--epoch_s", 2, "")):
        monkeypatch.setattr(sys, "argv", [file.stem, flag])
        with pytest.raises(SystemExit, match=str(status)):
            runpy.run_path(str(file), run_name="__main__")
        captured = capsys.readouterr()
        assert captured.out.startswith(out)
        assert ("unrecognized arguments: --epoch_s" in captured.err) == (status == 2)


# ---- a chain of at most three steps over two states, with two actions; any step may end the episode

STEPS, SIZE, END = 3, 4 * 2, 0.2
TO_1 = torch.tensor([[0.8, 0.3], [0.4, 0.9]], dtype=torch.double)  # P(next state is 1 | state, action)
REWARD = torch.tensor([[[1.0, -0.5], [0.2, 3.0]], [[2.0, 1.5], [-1.0, 0.7]]], dtype=torch.double)  # of s, a, s2


def code(t: int, s: int) -> Tensor:
    """The observation of state s at time t: one-hot, (8,)."""
    return nn.functional.one_hot(torch.tensor(2 * t + s), SIZE).double()


def make_policy(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(SIZE, 2, dtype=torch.double)


def trajectories(policy: nn.Module):
    """(probability, observations (T + 1, 8), actions (T,), rewards (T,)) of every trajectory."""

    def go_on(p, obs, act, rew, s):
        t = len(act)
        probabilities = torch.softmax(policy(obs[-1]), dim=-1)
        for a in range(2):
            for s2, p2 in ((0, 1 - TO_1[s, a]), (1, TO_1[s, a])):
                path = [*obs, code(t + 1, s2)], [*act, a], [*rew, REWARD[s, a, s2]]
                p_path = p * probabilities[a] * p2
                if t + 1 == STEPS:
                    yield p_path, *path
                else:
                    yield p_path * END, *path
                    yield from go_on(p_path * (1 - END), *path, s2)

    for s in range(2):
        for p, obs, act, rew in go_on(torch.tensor(0.5, dtype=torch.double), [code(0, s)], [], [], s):
            yield p, torch.stack(obs), torch.tensor(act), torch.stack(rew)


def exact_values(policy: nn.Module, gamma: float) -> nn.Module:
    """V of the policy as a linear layer on the codes; 0 at time 3, by when every episode has ended."""
    v = torch.zeros(4, 2, dtype=torch.double)
    for t in reversed(range(STEPS)):
        for s in range(2):
            pi = torch.softmax(policy(code(t, s)), dim=-1).detach()
            next_v = gamma * (1 - END) * v[t + 1]
            q = (1 - TO_1[s]) * (REWARD[s, :, 0] + next_v[0]) + TO_1[s] * (REWARD[s, :, 1] + next_v[1])
            v[t, s] = pi @ q
    return linear(v.flatten())


def linear(weights: Tensor) -> nn.Module:
    layer = nn.Linear(len(weights), 1, bias=False, dtype=torch.double)
    layer.weight.data = weights[None].clone()
    return layer


WRONG = linear(torch.tensor([5.0, -5.0] * 4, dtype=torch.double))


def gradient(y: Tensor, policy: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(y, list(policy.parameters()))])


def exact_gradient(policy: nn.Module, gamma: float = 1.0) -> Tensor:
    """Of the expected discounted return, summed over all trajectories."""
    total = sum(p * (rew * gamma ** torch.arange(len(rew))).sum() for p, _, _, rew in trajectories(policy))
    return gradient(total, policy)


def moments(policy: nn.Module, loss) -> tuple[Tensor, float]:
    """Mean, and trace of the covariance, of the estimate -grad loss(obs, act, rew) over all trajectories."""
    mean, square = 0.0, 0.0
    for p, obs, act, rew in trajectories(policy):
        g = -gradient(loss(obs, act, rew), policy)
        mean, square = mean + p.detach() * g, square + p.detach() * g.square().sum()
    return mean, float(square - mean.square().sum())


def estimators(policy: nn.Module, value: nn.Module, gamma: float = 1.0, lam: float = 0.9) -> dict:
    """The loss of each program as a function of one trajectory; all of them end in a terminal state."""

    def gae(obs, act, rew):
        v = pg_4_gae.values(value, obs, terminated=True)
        return pg_4_gae.loss(policy, obs, act, pg_4_gae.advantages(rew, v, gamma, lam))

    return {
        "simplest": lambda obs, act, rew: pg_1_simplest.loss(policy, obs[:-1], act, rew),
        "reward_to_go": lambda obs, act, rew: pg_2_reward_to_go.loss(policy, obs[:-1], act, rew),
        "baseline": lambda obs, act, rew: pg_3_baseline.loss(policy, value, obs[:-1], act, rew),
        "gae": gae,
    }


# ---- the mathematics


def test_trajectories_are_all():
    policy = make_policy()
    every = [(p.item(), rew.sum().item()) for p, _, _, rew in trajectories(policy)]
    assert sum(p for p, _ in every) == pytest.approx(1)
    v = exact_values(policy, 1.0).weight[0].tolist()
    assert sum(p * ret for p, ret in every) == pytest.approx((v[0] + v[1]) / 2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["simplest", "reward_to_go", "baseline", "gae"])
def test_estimates_are_unbiased(name, seed):
    policy = make_policy(seed)
    mean, _ = moments(policy, estimators(policy, exact_values(policy, 1.0))[name])
    torch.testing.assert_close(mean, exact_gradient(policy))


@pytest.mark.parametrize("name", ["baseline", "gae"])
def test_wrong_values_are_harmless_as_a_baseline_only(name):
    policy = make_policy()
    mean, _ = moments(policy, estimators(policy, WRONG, lam=0.5)[name])
    error = float((mean - exact_gradient(policy)).norm())
    assert error < 1e-9 if name == "baseline" else error > 0.1


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_gae_is_unbiased_with_the_true_values_or_lambda_1(lam):
    policy = make_policy()
    target = exact_gradient(policy)
    mean, _ = moments(policy, estimators(policy, exact_values(policy, 1.0), lam=lam)["gae"])
    torch.testing.assert_close(mean, target)
    mean, _ = moments(policy, estimators(policy, WRONG, lam=lam)["gae"])
    assert torch.allclose(mean, target) == (lam == 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_variance_falls_with_each_stage(seed):
    policy = make_policy(seed)
    variances = [moments(policy, loss)[1] for loss in estimators(policy, exact_values(policy, 1.0), lam=0.5).values()]
    assert all(b < 0.95 * a for a, b in itertools.pairwise(variances)), variances


def test_reward_to_go_can_raise_the_variance():
    """Where the second reward cancels the first, the whole return is always 0; docs/introduction tell of it."""
    policy = nn.Linear(2, 2, dtype=torch.double)
    obs = torch.eye(2, dtype=torch.double)
    norms = {m: [] for m in (pg_1_simplest, pg_2_reward_to_go)}
    for act in ([0, 0], [0, 1], [1, 0], [1, 1]):
        first = 1.0 if act[0] else -1.0
        rew = torch.tensor([first, -first], dtype=torch.double)
        for module, found in norms.items():
            found.append(float(gradient(module.loss(policy, obs, torch.tensor(act), rew), policy).norm()))
    assert norms[pg_1_simplest] == [0.0] * 4
    assert min(norms[pg_2_reward_to_go]) > 0.1


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_discounted_gradient_needs_a_discount_of_each_step(gamma):
    """With gamma^t on step t the estimate is the gradient of the discounted return; without, as in use, it is not."""
    policy = make_policy()
    value = exact_values(policy, gamma)

    def loss(obs, act, rew, discounted):
        v = pg_4_gae.values(value, obs, terminated=True)
        adv = pg_4_gae.advantages(rew, v, gamma, lam=0.9)
        return pg_4_gae.loss(policy, obs, act, adv * gamma ** torch.arange(len(rew)) if discounted else adv)

    target = exact_gradient(policy, gamma)
    with_discount, _ = moments(policy, lambda *x: loss(*x, discounted=True))
    without, _ = moments(policy, lambda *x: loss(*x, discounted=False))
    torch.testing.assert_close(with_discount, target)
    assert (without - target).norm() > 0.05 * target.norm()


def test_expected_grad_log_prob_lemma():
    """The mean of grad log pi(a|s) b(s) over actions is 0; with a b that depends on the action it is not."""
    policy, o = make_policy(), code(1, 1)
    logp = torch.log_softmax(policy(o), dim=-1)
    p = logp.exp().detach()
    g = [gradient(torch.log_softmax(policy(o), dim=-1)[a], policy) for a in range(2)]
    assert float((p[0] * g[0] * 7 + p[1] * g[1] * 7).norm()) < 1e-12
    assert float((p[0] * g[0] * 7 + p[1] * g[1] * 8).norm()) > 0.01


def test_weights_by_hand():
    rew = torch.tensor([1.0, 2.0, 4.0])
    assert pg_1_simplest.weights(rew).tolist() == [7, 7, 7]
    assert pg_2_reward_to_go.weights(rew).tolist() == [7, 6, 4]
    assert pg_3_baseline.reward_to_go(rew).tolist() == [7, 6, 4]
    # delta = 1 + 1 - 1, 2 + 3 / 2 - 2, 4 + 8 / 2 - 3; summed with gamma lam = 1/4
    adv = pg_4_gae.advantages(rew, torch.tensor([1.0, 2.0, 3.0, 8.0]), gamma=0.5, lam=0.5)
    assert adv.tolist() == pytest.approx([1 + 2.75 / 4, 1.5 + 5 / 4, 5])


def test_only_a_terminal_state_is_worth_nothing():
    value = linear(torch.tensor([1.0, 10.0], dtype=torch.double))
    obs = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.double)
    assert pg_4_gae.values(value, obs, terminated=True).tolist() == [1, 0]
    assert pg_4_gae.values(value, obs, terminated=False).tolist() == [1, 10]


def test_fit_reaches_the_least_squares_solution():
    torch.manual_seed(0)
    value = nn.Linear(4, 1)
    obs, true = torch.randn(50, 4), torch.tensor([1.0, -2.0, 0.5, 3.0])
    for module in (pg_3_baseline, pg_4_gae):
        module.fit(value, torch.optim.Adam(value.parameters(), 0.05), obs, obs @ true + 1, steps=600)
        torch.testing.assert_close(value.weight[0], true, atol=0.02, rtol=0)


# ---- the programs


class Count(gym.Env):
    """Observations (k, t, 0, 0), reward 10 k + t + a, an end after k steps, terminal where k is odd."""

    observation_space = gym.spaces.Box(-100, 100, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, k: int):
        self.k = k

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observe(), {}

    def observe(self):
        return np.array([self.k, self.t, 0, 0], np.float32)

    def step(self, a):
        r = float(10 * self.k + self.t + a)
        self.t += 1
        end = self.t == self.k
        return self.observe(), r, end and self.k % 2 == 1, end and self.k % 2 == 0, {}


@pytest.mark.parametrize("name", PROGRAMS)
def test_play_records_whole_episodes(name):
    module = importlib.import_module(f"spinup.examples.{name}")
    lengths = [3, 1, 4]
    batch = module.play([Count(k) for k in lengths], nn.Linear(4, 2))
    for k, (obs, act, rew, *terminated) in zip(lengths, batch, strict=True):
        rows = k + 1 if terminated else k
        assert obs.tolist() == [[k, t, 0, 0] for t in range(rows)]
        assert rew.tolist() == [10 * k + t + a for t, a in enumerate(act.tolist())]
        assert set(act.tolist()) <= {0, 1}
        assert terminated in ([], [k % 2 == 1])


# The mean return over the last ten of 60 epochs. A random policy gets about 22; the whole return, with so few episodes,
# stays noisy. With seeds 0 to 4 the programs reach what benchmarks/policy_gradients.py prints.
SLOW = dict.fromkeys(PROGRAMS[1:-1], pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "reaches"),
    [
        pytest.param(name, reaches, marks=SLOW.get(name, ()))
        for name, reaches in zip(PROGRAMS, (80, 300, 350, 350), strict=True)
    ],
)
def test_learns(name, reaches, capsys):
    history = importlib.import_module(f"spinup.examples.{name}").train(seed=0)
    assert history[0] < 60
    assert np.mean(history[-10:]) > reaches
    assert len(capsys.readouterr().out.splitlines()) == len(history) == 60


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_seed_same_run(name, capsys):
    train = importlib.import_module(f"spinup.examples.{name}").train
    assert train(epochs=3, seed=1) == train(epochs=3, seed=1)
    assert train(epochs=3, seed=1) != train(epochs=3, seed=2)


@pytest.mark.parametrize("name", PROGRAMS)
def test_stands_alone(name):
    """A program needs nothing but PyTorch, NumPy, Gymnasium and a parser for --help, and runs as a module."""
    source = (ROOT / "spinup" / "examples" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} == {"argparse", "torch", "numpy", "gymnasium"}
    assert re.search(r'\n\nif __name__ == "__main__":\n    argparse.*\n    train\(\)\n$', source)
    assert f"python -m spinup.examples.{name}\n" in source


# ---- the figures of the introduction


def test_noise_by_hand():
    """Of (1, 0) and (3, 0): variance 2, mean (2, 0), whose squared norm 4 is too large by 2 / 2."""
    assert policy_gradients.noise(np.array([[1.0, 0.0], [3.0, 0.0]])) == pytest.approx(2 / 3)


def test_noise_counts_episodes():
    """The mean of as many samples as it says has noise as large as the signal: here 2 / 0.5 = 4."""
    samples = np.random.default_rng(0).normal([0.5, 0.5], 1.0, (200_000, 2))
    assert policy_gradients.noise(samples) == pytest.approx(4, rel=0.05)


def test_variance_of_cartpole_falls():
    rows = policy_gradients.variance(epochs=(0,), episodes=200)
    assert [len(row) for row in rows.values()] == [1] * 5
    assert 15 < rows["mean return"][0] < 40
    assert rows["whole return"][0] > rows["reward-to-go"][0] > rows["baseline"][0] > 0


def test_figures_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(policy_gradients, "IMAGES", tmp_path)
    names = list(policy_gradients.STAGES)
    policy_gradients.show_variance({"mean return": [20.0, 90.0]} | {name: [3.0, 44.04] for name in names})
    policy_gradients.show_learning({name: np.arange(0.0, 80.0, 2.0).reshape(2, 20) for name in names})
    out = capsys.readouterr().out
    assert "| weights | return 20 | return 90 |" in out
    assert "| GAE | 3.0 | 44.0 |" in out
    assert "| GAE | 49 | 29 | 69 |" in out  # of the last ten of 0, 2, ... 38 and of 40, ... 78
    assert {path.name for path in tmp_path.iterdir()} == {"pg-variance.svg", "pg-learning.svg"}
