"""Reinforcement learning with tables: dynamic programming, temporal differences, SARSA and Q-learning on a cliff walk.

    python -m spinup.examples.tabular

Equations of docs/introduction/tables-to-networks.md; their labels are beside the lines that compute them. V is a
table (S,), Q and R are tables (S, A), P is (S, A, S), and a policy pi is a table of probabilities (S, A). What follows
from here: spinup/algos/dqn.py, whose table is a network.
"""

import argparse
from collections.abc import Iterator

import gymnasium as gym
import numpy as np


def model(env: gym.Env) -> tuple[np.ndarray, np.ndarray]:
    """P[s, a, s2], the probability that s2 follows and the episode continues, and R[s, a], the expected reward."""
    S, A = env.observation_space.n, env.action_space.n
    P, R = np.zeros((S, A, S)), np.zeros((S, A))
    for s, a in np.ndindex(S, A):
        for p, s2, r, terminated in env.unwrapped.P[s][a]:
            P[s, a, s2] += p * (not terminated)  # nothing follows a terminal state
            R[s, a] += p * r
    return P, R


# ---- dynamic programming: the model is known


def policy_evaluation(P, R, pi, gamma: float, tolerance: float = 1e-10) -> np.ndarray:
    """V of the policy: repeat its Bellman equation in all states until nothing changes."""
    V, error = np.zeros(len(R)), np.inf
    while error > tolerance:
        target = (pi * (R + gamma * P @ V)).sum(1)  # tab-evaluation
        error = np.abs(target - V).max()  # tab-error
        V = target
    return V


def greedy(Q: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """The policy that takes the best action, and with probability epsilon any."""
    S, A = Q.shape
    pi = np.full((S, A), epsilon / A)
    pi[np.arange(S), Q.argmax(1)] += 1 - epsilon  # tab-epsilon
    return pi


def policy_iteration(P, R, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Optimal V and pi: evaluate, act greedily, and again, until no action is better than what the policy does."""
    pi = greedy(R)
    while True:
        V = policy_evaluation(P, R, pi, gamma)
        Q = R + gamma * P @ V  # tab-q
        if (Q.max(1) - V).max() < 1e-6:
            return V, pi
        pi = greedy(Q)  # tab-improvement


def value_iteration(P, R, gamma: float, tolerance: float = 1e-10) -> np.ndarray:
    """Optimal V: repeat the Bellman optimality equation in all states until nothing changes."""
    V, error = np.zeros(len(R)), np.inf
    while error > tolerance:
        target = (R + gamma * P @ V).max(1)  # tab-optimality
        error = np.abs(target - V).max()
        V = target
    return V


# ---- prediction: the value of a policy, from steps made with it


def episodes(env: gym.Env, pi: np.ndarray, n: int, seed: int = 0) -> Iterator[list]:
    """n episodes of (s, r, s2, terminated)."""
    rng = np.random.default_rng([seed, 1])  # not [seed], the stream that the environment draws from
    for i in range(n):
        s, _ = env.reset(seed=seed if i == 0 else None)
        steps, done = [], False
        while not done:
            s2, r, terminated, truncated, _ = env.step(rng.choice(len(pi[s]), p=pi[s]))
            steps.append((s, r, s2, terminated))
            s, done = s2, terminated or truncated
        yield steps


def monte_carlo(env: gym.Env, pi, gamma: float, n: int, seed: int = 0) -> np.ndarray:
    """V of the policy: the mean of the returns that followed each state."""
    V, visits = np.zeros(len(pi)), np.zeros(len(pi))
    for steps in episodes(env, pi, n, seed):
        *_, terminated = steps[-1]
        if not terminated:
            continue  # cut off: its returns are unknown
        G = 0.0
        for s, r, _, _ in reversed(steps):
            G = r + gamma * G
            visits[s] += 1
            V[s] += (G - V[s]) / visits[s]  # tab-mc
    return V


def td_0(env: gym.Env, pi, gamma: float, n: int, alpha: float, seed: int = 0) -> np.ndarray:
    """V of the policy: move each state's value toward the reward plus the value of the next state."""
    V = np.zeros(len(pi))
    for steps in episodes(env, pi, n, seed):
        for s, r, s2, terminated in steps:
            delta = r + gamma * (not terminated) * V[s2] - V[s]  # tab-td
            V[s] += alpha * delta
    return V


# ---- control: better policies, from steps alone


def choose(q: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
    """Epsilon-greedy: a random action with probability epsilon, else the best. q (A,)"""
    return int(rng.integers(len(q)) if rng.random() < epsilon else q.argmax())  # tab-epsilon


def sarsa(env: gym.Env, gamma: float, n: int, alpha=0.1, epsilon=0.1, seed: int = 0) -> tuple[np.ndarray, list]:
    """Q of the policy that acts, and the return of each of n episodes. On-policy: the target's action is the next."""
    rng, returns = np.random.default_rng([seed, 1]), []
    Q = np.zeros((env.observation_space.n, env.action_space.n))
    for i in range(n):
        s, _ = env.reset(seed=seed if i == 0 else None)
        a, done, total = choose(Q[s], epsilon, rng), False, 0.0
        while not done:
            s2, r, terminated, truncated, _ = env.step(a)
            a2 = choose(Q[s2], epsilon, rng)
            Q[s, a] += alpha * (r + gamma * (not terminated) * Q[s2, a2] - Q[s, a])  # tab-sarsa
            s, a, done, total = s2, a2, terminated or truncated, total + r
        returns.append(total)
    return Q, returns


def q_learning(env: gym.Env, gamma: float, n: int, alpha=0.1, epsilon=0.1, seed: int = 0) -> tuple[np.ndarray, list]:
    """Q of the best policy, and the return of each of n episodes. Off-policy: the target's action is the best one."""
    rng, returns = np.random.default_rng([seed, 1]), []
    Q = np.zeros((env.observation_space.n, env.action_space.n))
    for i in range(n):
        s, _ = env.reset(seed=seed if i == 0 else None)
        done, total = False, 0.0
        while not done:
            a = choose(Q[s], epsilon, rng)
            s2, r, terminated, truncated, _ = env.step(a)
            Q[s, a] += alpha * (r + gamma * (not terminated) * Q[s2].max() - Q[s, a])  # tab-q-learning
            s, done, total = s2, terminated or truncated, total + r
        returns.append(total)
    return Q, returns


# ---- the table becomes a function


def linear_q_learning(
    env: gym.Env, x: np.ndarray, gamma: float, n: int, alpha=0.1, epsilon=0.1, seed: int = 0
) -> tuple[np.ndarray, list]:
    """Q-learning with weights in place of a table: Q = x @ w with features x (S, F), weights w (F, A)."""
    rng, returns = np.random.default_rng([seed, 1]), []
    w = np.zeros((x.shape[1], env.action_space.n))
    for i in range(n):
        s, _ = env.reset(seed=seed if i == 0 else None)
        done, total = False, 0.0
        while not done:
            a = choose(x[s] @ w, epsilon, rng)
            s2, r, terminated, truncated, _ = env.step(a)
            error = r + gamma * (not terminated) * (x[s2] @ w).max() - x[s] @ w[:, a]
            w[:, a] += alpha * error * x[s]  # tab-gradient: x[s] is the gradient of Q(s, a) with respect to w[:, a]
            s, done, total = s2, terminated or truncated, total + r
        returns.append(total)
    return x @ w, returns


# ---- the cliff


def path(pi: np.ndarray, env: gym.Env, limit: int = 100) -> list[int]:
    """The states that the policy's likeliest actions pass through from the start."""
    s, _ = env.reset(seed=0)
    states, done = [int(s)], False
    while not done and len(states) < limit:
        s, _, done, _, _ = env.step(pi[s].argmax())
        states.append(int(s))
    return states


def show(title: str, cells: list[str]) -> None:
    print(f"\n{title}")
    for row in np.array(cells).reshape(4, 12):
        print(" ".join(f"{cell:>5}" for cell in row))


def main(gamma: float = 0.99, n: int = 500) -> None:
    """Everything above on Gymnasium's cliff walk: each step costs 1, and a fall 100 and the way back to the start."""
    env = gym.make("CliffWalking-v1", max_episode_steps=1000)
    P, R = model(env)
    ground = P.sum((0, 1)) > 0  # states that some step leads to: not the cliff, nor the goal
    best = value_iteration(P, R, gamma)
    V, _ = policy_iteration(P, R, gamma)
    show("V*, by value iteration", [f"{v:.1f}" if g else "." for v, g in zip(best, ground, strict=True)])
    print(f"policy iteration differs by at most {np.abs(V - best).max():.1g}")

    explores = greedy(R + gamma * P @ V, epsilon=0.1)
    start = int(env.reset()[0])
    print(f"\nV(start) of that policy with epsilon = 0.1: {policy_evaluation(P, R, explores, gamma)[start]:.1f}")
    print(f"the same from {n} episodes, by Monte Carlo: {monte_carlo(env, explores, gamma, n)[start]:.1f}")
    print(f"the same by TD(0): {td_0(env, explores, gamma, n, alpha=0.1)[start]:.1f}")

    for name, learn in (("SARSA", sarsa), ("Q-learning", q_learning)):
        Q, returns = learn(env, gamma, n)
        steps = path(greedy(Q), env)
        show(f"the path of {name}, {len(steps) - 1} steps", ["#" if s in steps else "." for s in range(len(Q))])
        print(f"return while exploring: {np.mean(returns[-100:]):.1f} over the last 100 episodes")
    Q_linear, _ = linear_q_learning(env, np.eye(len(Q)), gamma, n)
    print(f"\nWith one-hot features, weights are the table: largest difference {np.abs(Q_linear - Q).max():.1g}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()  # --help
    main()
