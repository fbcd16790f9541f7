"""Two small tasks whose observations name a goal, in the form of gymnasium-robotics' GoalEnv: for hindsight replay.

    python -m spinup.run dqn --env spinup.examples.goals:BitFlip-v0 --hindsight 0.8 --n_step 1 --log_info is_success
    python -m spinup.run sac --env spinup.examples.goals:Reach-v0 --hindsight 0.8 --log_info is_success

An observation is a dict: "observation" is what the agent sees of the world, "achieved_goal" what it has achieved, and
"desired_goal" what it should achieve. The reward is a function of the last two alone, so it can be computed for any
other goal: compute_reward takes one pair of goals, (G,), or a batch, (B, G), and so does compute_terminated.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class BitFlip(gym.Env):
    """Turn n random bits into n others by flipping one at a time (arXiv:1707.01495, section 3.1).

    Each step costs 1 until the bits are right, which ends the episode; after n steps it is truncated. A policy that
    doesn't know the goal succeeds about once in 2^n / n episodes.
    """

    def __init__(self, bits: int = 15):
        self.bits = bits
        space = spaces.MultiBinary(bits)
        self.observation_space = spaces.Dict(observation=space, achieved_goal=space, desired_goal=space)
        self.action_space = spaces.Discrete(bits)

    def compute_terminated(self, achieved_goal, desired_goal, info) -> np.ndarray:
        return (achieved_goal == desired_goal).all(-1)

    def compute_reward(self, achieved_goal, desired_goal, info) -> np.ndarray:
        return self.compute_terminated(achieved_goal, desired_goal, info) - 1.0

    def observe(self) -> dict:
        return {"observation": self.state.copy(), "achieved_goal": self.state.copy(), "desired_goal": self.goal.copy()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.goal = self.np_random.integers(2, size=(2, self.bits), dtype=np.int8)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.state[action] ^= 1
        self.t += 1
        success = bool(self.compute_terminated(self.state, self.goal, {}))
        reward = float(self.compute_reward(self.state, self.goal, {}))
        return self.observe(), reward, success, self.t == self.bits, {"is_success": success}


class Reach(gym.Env):
    """Move a point in the square from -1 to 1 to a random place and stay there.

    Each step costs 1 while the point is farther than `radius` from the goal; after 50 steps the episode is truncated.
    """

    STEP, LENGTH = 0.1, 50

    def __init__(self, radius: float = 0.05):
        self.radius = radius
        space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(observation=space, achieved_goal=space, desired_goal=space)
        self.action_space = space

    def compute_reward(self, achieved_goal, desired_goal, info) -> np.ndarray:
        return -1.0 * (np.linalg.norm(achieved_goal - desired_goal, axis=-1) > self.radius)

    def compute_terminated(self, achieved_goal, desired_goal, info) -> np.ndarray:
        return np.zeros(achieved_goal.shape[:-1], bool)  # never: the point should stay

    def observe(self) -> dict:
        return {"observation": self.point.copy(), "achieved_goal": self.point.copy(), "desired_goal": self.goal.copy()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.point, self.goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.point = (self.point + self.STEP * action).clip(-1, 1).astype(np.float32)
        self.t += 1
        reward = float(self.compute_reward(self.point, self.goal, {}))
        return self.observe(), reward, False, self.t == self.LENGTH, {"is_success": reward == 0}


gym.register("BitFlip-v0", entry_point=BitFlip)
gym.register("Reach-v0", entry_point=Reach)
