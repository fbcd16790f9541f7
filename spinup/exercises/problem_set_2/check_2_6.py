"""The checker of exercise 2.6."""

import random

import gymnasium as gym
import numpy as np

from spinup.exercises.judge import Wrong


class Starts(gym.Wrapper):
    """Notes the first observation of each episode in which a step is taken."""

    def __init__(self, env):
        super().__init__(env)
        self.seen, self.first = [], None

    def reset(self, **kwargs):
        o, info = super().reset(**kwargs)
        self.first = o.copy()
        return o, info

    def step(self, action):
        if self.first is not None:
            self.seen.append(self.first)
            self.first = None
        return super().step(action)


def starts(module, seed: int, theta=(1.0, 1.0, 1.0, 1.0), env=None) -> np.ndarray:
    """First observations of 4 episodes of one evaluation, (4, 4)."""
    env = env or Starts(gym.make("CartPole-v1", max_episode_steps=10))
    env.seen.clear()
    returns = module.evaluate(env, np.array(theta), episodes=4, seed=seed)
    if not isinstance(returns, list) or len(returns) != 4 or len(env.seen) != 4:
        raise Wrong("evaluate must play as many episodes as it is told, and return the list of their returns")
    return np.array(env.seen)


def check(module) -> str:
    """Starts repeat with the seed and between policies, differ within an evaluation, and training repeats."""
    env = Starts(gym.make("CartPole-v1", max_episode_steps=10))
    a, b, other = starts(module, 3, env=env), starts(module, 3, (-1.0, 2.0, -1.0, 0.0), env), starts(module, 900)
    if not np.array_equal(a[0], b[0]):
        raise Wrong("two evaluations with the same seed start from different states; give the environment the seed")
    if np.allclose(a, a[0]):
        raise Wrong("all episodes of an evaluation start from the same state; give each a seed of its own, as seed + i")
    if not np.array_equal(a, b):
        raise Wrong(
            "only the first episodes of two evaluations agree; seed every reset, or a fresh environment each time"
        )
    if np.array_equal(a, other):
        raise Wrong("evaluations with different seeds start from the same states; the argument seed is not used")
    before = np.random.get_state()[1].copy(), random.getstate()
    starts(module, 3)
    if not np.array_equal(before[0], np.random.get_state()[1]) or before[1] != random.getstate():
        raise Wrong(
            "evaluate seeds the global random numbers; the training that uses them would repeat itself after it"
        )
    results = []
    for seed in range(3):  # one seed may repeat its result by chance: a return of 500 is the largest
        first, second = [module.train(seed=seed) for _ in range(2)]
        if first != second:
            raise Wrong(f"train(seed={seed}) gave {first} and then {second}")
        results.append(first)
    if results[0] == results[1] == results[2]:
        raise Wrong("train gives the same result for the seeds 0, 1, and 2; the seed must matter")
    if not max(map(max, results)) >= 50:
        raise Wrong(f"training never comes to a return of 50: {results}; a policy that does not learn has 9")
    return "evaluations repeat, compare policies on the same starts, and leave everything else alone"
