"""Exercise 2.6: a silent bug in an evaluation.

The cross-entropy method draws policies around a mean, evaluates each, and moves the mean to the best of them. With one
seed the program should do the same thing each time it is run, and it does not: `python exercise_2_6.py` runs it twice.
Find the bug and fix it. Keep the names and arguments of functions.

An evaluation's episodes should have different starts, the same for every policy that is compared; and evaluating
must change nothing about the training that goes on around it.
"""

import gymnasium as gym
import numpy as np


def act(theta: np.ndarray, o: np.ndarray) -> int:
    """The action, 0 or 1, of a linear policy with the weights theta, (4,)."""
    return int(theta @ o > 0)


def evaluate(env: gym.Env, theta: np.ndarray, episodes: int, seed: int) -> list[float]:
    """The policy's returns in this many episodes."""
    returns = []
    for _ in range(episodes):
        o, _ = env.reset()
        total, done = 0.0, False
        while not done:
            o, r, terminated, truncated, _ = env.step(act(theta, o))
            total += float(r)
            done = terminated or truncated
        returns.append(total)
    return returns


def train(seed: int = 0, iters: int = 4, population: int = 8, elite: int = 2, max_steps: int = 500) -> list[float]:
    """Search for iters rounds, and return the mean policy's return after each."""
    random = np.random.default_rng(seed)
    env = gym.make("CartPole-v1", max_episode_steps=max_steps)
    mean, std, scores = np.zeros(4), np.ones(4), []
    for _ in range(iters):
        thetas = mean + std * random.standard_normal((population, 4))
        fitness = [np.mean(evaluate(env, theta, episodes=2, seed=seed)) for theta in thetas]
        best = thetas[np.argsort(fitness)[-elite:]]
        mean, std = best.mean(0), best.std(0) + 0.1
        scores.append(float(np.mean(evaluate(env, mean, episodes=5, seed=10_000 + seed))))
    env.close()
    return scores


if __name__ == "__main__":
    for run in (1, 2):
        print(f"run {run}, seed 0: {train(seed=0)}")
