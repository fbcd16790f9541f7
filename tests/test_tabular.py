"""Tables against exact values: linear solves, all policies of a small process listed, chains worked out by hand."""

import itertools
import re

import gymnasium as gym
import numpy as np
import pytest
from test_docs import ROOT

from spinup.examples import tabular

# ---- three states, two actions; what is missing from a row of P ends the episode
P = np.array(
    [
        [[0.1, 0.8, 0.1], [0.0, 0.2, 0.6]],
        [[0.5, 0.0, 0.5], [0.3, 0.3, 0.3]],
        [[0.9, 0.1, 0.0], [0.0, 0.0, 0.4]],
    ]
)
R = np.array([[0.0, 1.0], [-1.0, 0.5], [2.0, 3.0]])


def solve(P, R, pi, gamma: float) -> np.ndarray:
    """V of a policy, from S linear equations."""
    P_pi, R_pi = np.einsum("sa,sat->st", pi, P), (pi * R).sum(1)
    return np.linalg.solve(np.eye(len(R)) - gamma * P_pi, R_pi)


class Process(gym.Env):
    """Steps of a process given by P and R: what Gymnasium's text games are, with their model as the attribute P."""

    def __init__(self, P, R, start: int = 0):
        S, A = R.shape
        self.observation_space, self.action_space = gym.spaces.Discrete(S), gym.spaces.Discrete(A)
        self.arrays, self.start = (P, R), start
        ends = 1 - P.sum(2)
        self.P = {
            s: {
                a: [(P[s, a, s2], s2, R[s, a], False) for s2 in range(S)] + [(ends[s, a], s, R[s, a], True)]
                for a in range(A)
            }
            for s in range(S)
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = self.start
        return self.s, {}

    def step(self, a):
        chances = self.P[self.s][a]
        _, self.s, r, terminated = chances[self.np_random.choice(len(chances), p=[p for p, *_ in chances])]
        return self.s, r, terminated, False, {}


def chain(length: int = 5) -> Process:
    """Left or right in a row of states; each step costs 1, the step right from the last state earns 10 and ends."""
    P, R = np.zeros((length, 2, length)), np.full((length, 2), -1.0)
    for s in range(length):
        P[s, 0, max(s - 1, 0)] = 1
        if s + 1 < length:
            P[s, 1, s + 1] = 1
    R[-1, 1] = 10
    return Process(P, R)


def cliff() -> gym.Env:
    return gym.make("CliffWalking-v1", max_episode_steps=1000)


# ---- the model


@pytest.mark.parametrize("name", ["CliffWalking-v1", "FrozenLake-v1"])
def test_model_is_the_environment(name):
    """The mean of many sampled steps, from states drawn at random."""
    env = gym.make(name).unwrapped
    P, R = tabular.model(env)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for s, a in rng.integers([env.observation_space.n, 4], size=(20, 2)):
        counts, total, n = np.zeros(len(R)), 0.0, 600
        for _ in range(n):
            env.s = s
            s2, r, terminated, _, _ = env.step(a)
            counts[s2] += not terminated
            total += r
        assert counts / n == pytest.approx(P[s, a], abs=0.08)
        assert total / n == pytest.approx(R[s, a], abs=0.08)


def test_nothing_follows_a_terminal_state():
    P, R = tabular.model(gym.make("FrozenLake-v1"))
    assert P[[5, 7, 11, 12, 15]].sum() == 0  # holes and goal
    assert P[:, :, [5, 7, 11, 12, 15]].sum() == 0
    assert R[14].max() == pytest.approx(1 / 3)  # beside the goal, on slippery ice


def test_model_of_arrays():
    for found, wanted in zip(tabular.model(Process(P, R)), (P, R), strict=True):
        np.testing.assert_allclose(found, wanted)


# ---- dynamic programming


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99])
def test_policy_evaluation_is_the_linear_solve(gamma):
    pi = np.random.default_rng(0).dirichlet(np.ones(2), size=3)
    np.testing.assert_allclose(tabular.policy_evaluation(P, R, pi, gamma), solve(P, R, pi, gamma), atol=1e-8)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_optimal_values_are_the_best_of_all_policies(gamma):
    """Eight deterministic policies; one of them is the best in every state."""
    tables = [np.eye(2)[list(actions)] for actions in itertools.product(range(2), repeat=3)]
    values = np.array([solve(P, R, pi, gamma) for pi in tables])
    best = values.max(0)
    np.testing.assert_allclose(tabular.value_iteration(P, R, gamma), best, atol=1e-7)
    V, pi = tabular.policy_iteration(P, R, gamma)
    np.testing.assert_allclose(V, best, atol=1e-7)
    assert (pi == tables[int(values.sum(1).argmax())]).all()


def test_values_differ_between_policies():
    """The test above can fail: the best policy depends on gamma, and is not greedy for the reward alone."""
    best = {g: tuple(tabular.policy_iteration(P, R, g)[1].argmax(1)) for g in (0.0, 0.99)}
    assert best[0.0] == (1, 1, 1)
    assert best[0.99] != best[0.0]


def test_the_last_change_bounds_the_error():
    """Each sweep shrinks the error by gamma, so after a last change of c it is at most gamma / (1 - gamma) c."""
    gamma, c = 0.9, 0.1
    pi = np.full((3, 2), 0.5)
    rough = tabular.policy_evaluation(P, R, pi, gamma, tolerance=c)
    assert 0.1 < np.abs(rough - solve(P, R, pi, gamma)).max() <= gamma / (1 - gamma) * c
    rough, exact = (tabular.value_iteration(P, R, gamma, tolerance) for tolerance in (c, 1e-12))
    assert 0.1 < np.abs(rough - exact).max() <= gamma / (1 - gamma) * c


def test_cliff_is_a_shortest_path():
    """Each step costs 1, so V* is minus the discounted number of steps to the goal."""
    gamma = 0.99
    P, R = tabular.model(cliff())
    V = tabular.value_iteration(P, R, gamma).reshape(4, 12)
    rows, columns = np.mgrid[0:3, 0:12]
    steps = (3 - rows) + (11 - columns)
    np.testing.assert_allclose(V[:3], -(1 - gamma**steps) / (1 - gamma), atol=1e-7)
    assert V[3, 0] == pytest.approx(-(1 - gamma**13) / (1 - gamma))


def test_greedy_by_hand():
    Q = np.array([[1.0, 2.0], [3.0, 0.0]])
    assert tabular.greedy(Q).tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(tabular.greedy(Q, epsilon=0.2), [[0.1, 0.9], [0.9, 0.1]])


def test_choose_is_epsilon_greedy():
    rng = np.random.default_rng(0)
    counts = np.bincount([tabular.choose(np.array([1.0, 3.0, 2.0]), 0.3, rng) for _ in range(20_000)])
    np.testing.assert_allclose(counts / 20_000, [0.1, 0.8, 0.1], atol=0.01)
    assert {tabular.choose(np.array([1.0, 3.0]), 0.0, rng) for _ in range(50)} == {1}


# ---- learning from steps


def always_right(length: int = 5) -> np.ndarray:
    return np.tile([0.0, 1.0], (length, 1))


def test_prediction_is_exact_without_chance():
    """Nothing is random here, so Monte Carlo has the values after one episode, and TD(0) in the end."""
    env, gamma, pi = chain(), 0.9, always_right()
    exact = solve(*env.arrays, pi, gamma)
    assert exact[-2:].tolist() == pytest.approx([8, 10])  # -1 + 0.9 * 10
    np.testing.assert_allclose(tabular.monte_carlo(env, pi, gamma, n=1), exact)
    np.testing.assert_allclose(tabular.td_0(env, pi, gamma, n=400, alpha=0.5), exact, atol=1e-9)


def test_td_spreads_one_state_an_episode():
    """After k episodes with alpha = 1, the last k states are right; Monte Carlo needs one."""
    env, pi = chain(), always_right()
    exact = solve(*env.arrays, pi, 0.9)
    for k in range(1, 6):
        right = np.isclose(tabular.td_0(env, pi, 0.9, n=k, alpha=1.0), exact)
        assert right.tolist() == [s >= 5 - k for s in range(5)]


@pytest.mark.parametrize("learn", ["monte_carlo", "td_0"])
def test_prediction_is_right_on_average(learn):
    """With chance in policy and environment: the mean of 20 estimates, within 4 of its standard errors."""
    env, gamma, pi = Process(P, R), 0.9, np.full((3, 2), 0.5)
    more = {"alpha": 0.05} if learn == "td_0" else {}
    found = np.array([getattr(tabular, learn)(env, pi, gamma, n=250, seed=seed, **more) for seed in range(20)])
    error = found.std(0, ddof=1) / 20**0.5
    assert error.max() < 0.12
    np.testing.assert_array_less(np.abs(found.mean(0) - solve(P, R, pi, gamma)), 4 * error)


def test_monte_carlo_leaves_out_episodes_cut_off():
    env, pi = gym.wrappers.TimeLimit(chain(), 3), always_right()
    assert tabular.monte_carlo(env, pi, 0.9, n=5).tolist() == [0] * 5
    assert np.abs(tabular.td_0(env, pi, 0.9, n=5, alpha=0.5)).max() > 0.5


def exact_q(env: Process, gamma: float) -> np.ndarray:
    P, R = env.arrays
    return R + gamma * P @ tabular.value_iteration(P, R, gamma)


@pytest.mark.parametrize("limit", [None, 7])
def test_q_learning_reaches_the_exact_values(limit):
    """Whatever the policy that acts, and although a time limit cuts episodes: only terminal states are worth 0."""
    env, gamma = chain(), 0.9
    limited = gym.wrappers.TimeLimit(env, limit) if limit else env
    Q, _ = tabular.q_learning(limited, gamma, n=2000, alpha=0.5, epsilon=0.9)
    np.testing.assert_allclose(Q, exact_q(env, gamma), atol=1e-6)


def soft_values(P, R, gamma: float, epsilon: float) -> np.ndarray:
    """Q of the best among the policies that take a random action with probability epsilon."""
    V = np.zeros(len(R))
    for _ in range(10_000):
        Q = R + gamma * P @ V
        V = (1 - epsilon) * Q.max(1) + epsilon * Q.mean(1)
    return Q


def test_sarsa_reaches_the_values_of_the_policy_that_acts():
    """Near the best epsilon-greedy policy's values, and far from the optimal ones."""
    env, gamma, epsilon = chain(), 0.9, 0.4
    wanted = soft_values(*env.arrays, gamma, epsilon)
    Q = np.mean([tabular.sarsa(env, gamma, 2000, 0.02, epsilon, seed)[0] for seed in range(4)], 0)
    np.testing.assert_allclose(Q, wanted, atol=0.35)
    assert np.abs(wanted - exact_q(env, gamma)).max() > 1.5


@pytest.mark.parametrize("seed", range(3))
def test_cliff_paths(seed):
    """Q-learning walks along the edge, and falls while it explores; SARSA keeps away, and earns more."""
    found = {}
    for learn in (tabular.sarsa, tabular.q_learning):
        Q, returns = learn(cliff(), 0.99, 500, seed=seed)
        assert len(returns) == 500
        found[learn.__name__] = tabular.path(tabular.greedy(Q), cliff()), np.mean(returns[-100:])
    safe, edge = found["sarsa"], found["q_learning"]
    assert edge[0] == [36, *range(24, 36), 47]
    assert safe[0][-1] == 47
    assert not set(safe[0]) & set(range(25, 35))  # the cells beside the cliff
    assert safe[1] > edge[1] + 10


def test_best_policy_that_explores_keeps_away_from_the_edge():
    """Of all policies with epsilon = 0.1, computed exactly, as the page says."""
    P, R = tabular.model(cliff())
    Q = soft_values(P, R, 0.99, 0.1)
    states = tabular.path(tabular.greedy(Q), cliff())
    assert len(states) == 16
    assert {s // 12 for s in states[2:-3]} == {1}


# ---- functions in place of tables


def test_one_hot_features_are_the_table():
    for env in (chain(), cliff()):
        features = np.eye(env.observation_space.n)
        Q, returns = tabular.q_learning(env, 0.9, 30, seed=3)
        Q_linear, returns_linear = tabular.linear_q_learning(env, features, 0.9, 30, seed=3)
        assert (Q_linear == Q).all()
        assert returns_linear == returns


def test_gradient_steps_by_hand():
    """One state with the feature 2. Left: error -1, so w = 0.1 (-1) 2; right, which ends: error 10, so w = 0.1 10 2."""
    Q, returns = tabular.linear_q_learning(chain(1), np.array([[2.0]]), 0.9, 1, alpha=0.1, epsilon=0.0)
    assert returns == [9]
    assert Q[0].tolist() == pytest.approx([2 * -0.2, 2 * 2.0])


# ---- the program and its page


def test_program(capsys):
    tabular.main(n=300)
    out = capsys.readouterr().out
    assert re.search(r"-13\.1 -12\.2 .* -3\.0\n.* -2\.0\n.* -1\.0\n-12\.2 +\. ", out, re.DOTALL)
    assert "policy iteration differs by at most" in out
    assert "V(start) of that policy with epsilon = 0.1: -42.3" in out
    assert "the path of Q-learning, 13 steps" in out
    assert out.count("return while exploring: -") == 2
    assert out.endswith("largest difference 0\n")


def test_every_equation_of_the_page_has_its_line():
    page = (ROOT / "docs" / "introduction" / "tables-to-networks.md").read_text(encoding="utf-8")
    labels = re.findall(r"^:label: (\S+)$", page, re.MULTILINE)
    source = (ROOT / "spinup" / "examples" / "tabular.py").read_text(encoding="utf-8")
    assert len(labels) >= 10
    assert set(labels) == set(re.findall(r"# (tab-[\w-]+)", source))
