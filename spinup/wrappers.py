"""Wrappers of our own, for `--wrapper`; Gymnasium has many more."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spinup.errors import UserError


class ActionMask(gym.Wrapper):
    """Adds the mask of legal actions to the observations, as the entry "action_mask" of a Dict.

    It asks the environment's method `action_masks`, as Stable-Baselines3's wrappers do, or takes info["action_mask"].
    Environments whose observations have that entry already need no wrapper.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        inner = env.observation_space
        entries = inner.spaces if isinstance(inner, spaces.Dict) else {"observation": inner}
        if "action_mask" in entries:
            raise ValueError("its observations have an action_mask already")
        mask = spaces.MultiBinary(num_choices(env.action_space))
        self.observation_space = spaces.Dict({**entries, "action_mask": mask})

    def reset(self, **kwargs) -> tuple[dict, dict]:
        o, info = self.env.reset(**kwargs)
        return self.add_mask(o, info), info

    def step(self, action) -> tuple:
        o, *rest, info = self.env.step(action)
        return self.add_mask(o, info), *rest, info

    def add_mask(self, o, info: dict) -> dict:
        if self.env.has_wrapper_attr("action_masks"):
            mask = self.env.get_wrapper_attr("action_masks")()
        elif "action_mask" in info:
            mask = info["action_mask"]
        else:
            raise UserError(
                "ActionMask: the environment has no masks: no method action_masks and no info['action_mask']"
            )
        entries = o if isinstance(o, dict) else {"observation": o}
        return {**entries, "action_mask": np.asarray(mask, np.int8).reshape(-1)}


class SelectObservation(gym.ObservationWrapper):
    """Keeps some numbers of vector observations, by index, such as to hide velocities from a policy with memory."""

    def __init__(self, env: gym.Env, *indices: int):
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"it needs observations that are vectors, not {space}")
        size, self.indices = space.shape[0], list(indices)
        if not indices or not all(type(i) is int and 0 <= i < size for i in indices):
            raise ValueError(f"its arguments must be indices from 0 to {size - 1}, as in SelectObservation(0, 2)")
        self.observation_space = spaces.Box(space.low[self.indices], space.high[self.indices], dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[self.indices]


def num_choices(space: spaces.Space) -> int:
    """The length of a mask: the number of Discrete actions, or the sum over the choices of MultiDiscrete ones."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return 2 * int(np.prod(space.shape))
    raise ValueError(f"action masks need Discrete, MultiDiscrete or MultiBinary actions, not {space}")
