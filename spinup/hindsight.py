"""Hindsight experience replay (HER), arXiv:1707.01495: learn from a failed attempt at one goal as a success at another.

Equations: docs/algorithms/her.md. For environments whose observations name a goal, as gymnasium-robotics' GoalEnv has
it: a Dict with "achieved_goal" and "desired_goal", and a reward that is a function of these two.
"""

from collections.abc import Callable, Mapping

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from spinup.buffers import Batch, ReplayBuffer
from spinup.compute import mpi
from spinup.envs import Flattened, VecEnv, env_name
from spinup.errors import Fault, UserError, first_line
from spinup.system.terminal import warn_once

RUNNING = -1  # in place of the end of an episode that has none yet
COMPARED = 1000  # stored transitions whose rewards are compared with compute_reward
REWARD_WRAPPERS = (gym.RewardWrapper, gym.wrappers.NormalizeReward)


class HindsightBuffer(ReplayBuffer):
    """A ReplayBuffer that gives sampled transitions goals which their episodes achieved later.

    hindsight: probability of that, for each sampled transition; envs: a VecEnv of goal environments; the other
    arguments are those of ReplayBuffer. n_step must be 1.

    Raises UserError if the environments are not goal environments or n_step isn't 1.
    """

    extra_bytes = 8  # self.end

    def __init__(self, hindsight: float, envs: VecEnv, size: int, device: torch.device = "cpu", n_step=1, gamma=0.99):
        if n_step != 1:
            raise UserError(f"n_step is {n_step}; with hindsight it must be 1: a new goal changes each step's reward")
        self.hindsight, self.goals = hindsight, Goals(envs)
        super().__init__(size, envs.num_envs, envs.observation_space, envs.action_space, device, n_step, gamma)
        self.end = torch.empty(self.rows, self.num_envs, dtype=torch.long, device=device)  # row of its episode's last
        self.began = np.zeros(self.num_envs, int)  # steps before each environment's current episode
        self.compared = False  # whether compare_rewards has run

    def store(self, o, a, r, o2, terminated, truncated) -> None:
        super().store(o, a, r, o2, terminated, truncated)
        self.end[(self.t - 1) % self.rows] = RUNNING
        self.end_episodes(terminated | truncated)

    def mark_episode_end(self, mask: np.ndarray) -> None:
        super().mark_episode_end(mask)
        self.end_episodes(mask)

    def end_episodes(self, mask: np.ndarray) -> None:
        """Write down that the newest row is the last of the current episodes of the environments in mask, (N,)."""
        for n in np.flatnonzero(mask):
            steps = np.arange(max(self.began[n], self.t - self.rows), self.t)  # those that aren't overwritten
            self.end[steps % self.rows, int(n)] = (self.t - 1) % self.rows
            self.began[n] = self.t

    def state_dict(self) -> dict:
        return super().state_dict() | {"end": self.end[: self.t], "began": self.began}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.end[: self.t] = state["end"]
        self.began[:] = state["began"]

    def transitions(self, i: Tensor) -> Batch:
        """The transitions with the flat indices i, (B,), each relabeled with probability `hindsight`."""
        if not self.compared:
            self.compare_rewards()
        batch, achieved, desired = super().transitions(i), self.goals.achieved, self.goals.desired
        k = (torch.rand(len(i)) < self.hindsight).nonzero().squeeze(1).to(i.device)  # (K,), rows of the batch
        goal = self.next_observations(self.draw_future(i[k]))[:, achieved]  # her-1: g', (K, G)
        batch.o[k, desired] = batch.o2[k, desired] = goal  # her-2
        batch.r[k] = self.goals.reward(batch.o2[k, achieved], goal)  # her-3: r'
        if self.goals.compute_terminated:
            batch.terminated[k] = self.goals.terminated(batch.o2[k, achieved], goal)  # her-3: d'
        return batch

    def draw_future(self, i: Tensor) -> Tensor:
        """For each of the transitions i, (K,), itself or a later one of its episode, with equal probabilities: (K,)."""
        row, n = i // self.num_envs, i % self.num_envs
        end = self.end[row, n]
        end = torch.where(end == RUNNING, (self.t - 1) % self.rows, end)
        later = (end - row) % self.rows  # the number of them; rows wrap around
        steps = (torch.rand(len(i), dtype=torch.float64).to(i.device) * (later + 1)).long()  # her-1: t' - t
        return (row + steps) % self.rows * self.num_envs + n

    def compare_rewards(self) -> None:
        """Warn if compute_reward or compute_terminated differ from what the environments returned."""
        self.compared = True
        stored = super().transitions(torch.arange(min(COMPARED, len(self)), device=self.r.device))
        achieved, desired = stored.o2[:, self.goals.achieved], stored.o2[:, self.goals.desired]
        pairs = {"compute_reward": (stored.r, self.goals.reward(achieved, desired))}
        if self.goals.compute_terminated:
            pairs["compute_terminated"] = (stored.terminated, self.goals.terminated(achieved, desired))
        for name, (theirs, ours) in pairs.items():
            other = int((~torch.isclose(theirs, ours, rtol=1e-3, atol=1e-5)).sum())
            if other > 0.01 * len(theirs) and mpi.proc_id() == 0:  # goals are rounded to float32: some may differ
                message = f"{name} differs from what step returned in {other} of {len(theirs)} steps"
                hint = "relabeled steps have its value, so what else step or a wrapper takes into account is lost"
                warn_once(f"{name} {self.goals.name}", f"{self.goals.name}: {message}; {hint}")


class Goals:
    """The goals in the observations of a VecEnv, and the environment's functions of them.

    achieved, desired: their places in the flattened observations; compute_terminated: None if there is none

    Raises UserError if the observations have no goals or the environment no compute_reward.
    """

    def __init__(self, envs: VecEnv):
        self.name, env = env_name(envs.made["env_fn"]), envs.spare()
        env = env.env if isinstance(env, Flattened) else env
        check_goals(self.name, env)
        places = entries(env.observation_space)
        self.achieved, self.desired = places["achieved_goal"], places["desired_goal"]
        self.space = env.observation_space["desired_goal"]
        try:
            o, _ = env.reset(seed=envs.seed)
        except Exception as error:
            raise Fault(f"{self.name} raised {first_line(error)} in reset") from error
        pairs = np.stack([o["achieved_goal"], o["desired_goal"]]), np.stack([o["desired_goal"]] * 2)
        self.compute_reward = self.find(env, "compute_reward", pairs)
        self.compute_terminated = self.find(env, "compute_terminated", pairs)
        if self.compute_reward is None:
            what = "hindsight needs the environment's compute_reward(achieved_goal, desired_goal, info)"
            raise UserError(f"{what}, and {self.name} has none")

    def find(self, env: gym.Env, name: str, pairs: tuple[np.ndarray, np.ndarray]) -> Callable | None:
        """The environment's function of that name, of batches of goals; None if there is none.

        pairs: two pairs of goals, to test whether it takes batches; otherwise it is called for each pair
        """
        layer = env
        while not hasattr(layer, name) and isinstance(layer, gym.Wrapper):
            layer = layer.env
        function: Callable | None = getattr(layer, name, None)
        if function is None:
            return None

        def call_each(achieved, desired, info, function=function):
            pairs = zip(achieved, desired, strict=True)
            return np.array([np.asarray(function(*pair, info)).item() for pair in pairs], float)

        try:
            each = call_each(*pairs, {})
        except NotImplementedError:  # GoalEnv's own
            return None
        except Exception as error:
            raise Fault(f"{self.name} raised {first_line(error)} in {name}") from error
        try:
            batch = np.asarray(function(*pairs, {}), float)
        except Exception:  # it doesn't take batches
            return call_each
        return function if batch.shape == each.shape and np.allclose(batch, each) else call_each

    def reward(self, achieved: Tensor, desired: Tensor) -> Tensor:
        """The rewards, (B,), for flattened goals, (B, G) each."""
        return self.call("compute_reward", achieved, desired)

    def terminated(self, achieved: Tensor, desired: Tensor) -> Tensor:
        """1.0 where the episode would have terminated, else 0.0, (B,), for flattened goals, (B, G) each."""
        return self.call("compute_terminated", achieved, desired)

    def call(self, name: str, achieved: Tensor, desired: Tensor) -> Tensor:
        function: Callable = getattr(self, name)
        goals = (self.own_form(x) for x in (achieved, desired))
        try:
            values = np.asarray(function(*goals, {}) if len(achieved) else (), np.float32)
        except Exception as error:
            raise Fault(f"{self.name} raised {first_line(error)} in {name}") from error
        if not np.isfinite(values).all():
            raise Fault(f"{self.name} returned NaN or infinity from {name}")
        return torch.from_numpy(values).to(achieved.device)

    def own_form(self, goals: Tensor) -> np.ndarray:
        """Flattened goals, (B, G), with the shape and dtype that the environment gave them: (B, *goal_shape)."""
        return goals.cpu().numpy().reshape(-1, *self.space.shape).astype(self.space.dtype)


def entries(space: spaces.Dict) -> dict[str, slice]:
    """The places of a Dict's entries in its flattened observations."""
    ends = np.cumsum([spaces.flatdim(entry) for entry in space.values()]).tolist()
    return {name: slice(*pair) for name, pair in zip(space, zip([0, *ends], ends, strict=False), strict=True)}


def has_goals(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Dict) and {"achieved_goal", "desired_goal"} <= set(space)


def check_goals(name: str, env: gym.Env) -> None:
    """Raise UserError if the observations have no goals, a wrapper hides them or changes rewards, or they don't fit."""
    space, layer, hidden = env.observation_space, env, ""
    while isinstance(layer, gym.Wrapper):
        wrapper = type(layer).__name__
        if isinstance(layer, REWARD_WRAPPERS) and not hasattr(layer, "compute_reward"):
            what = f"hindsight computes rewards by the environment's compute_reward, which knows nothing of {wrapper}"
            raise UserError(f"{what}; leave that wrapper out, or give it a compute_reward")
        if not has_goals(layer.observation_space) and has_goals(layer.env.observation_space):
            hidden = f"; its wrapper {wrapper} hides them"
        if has_goals(layer.observation_space) and has_goals(layer.env.observation_space):
            goal, inner = (x.observation_space["desired_goal"] for x in (layer, layer.env))
            if goal.shape != inner.shape:
                what = f"hindsight needs the goals as compute_reward takes them, of shape {inner.shape}"
                raise UserError(f"{what}; the wrapper {wrapper} makes them {goal.shape}")
        layer = layer.env
    if not has_goals(space):
        what = "hindsight needs a goal environment, with a Dict of observations that has achieved_goal and desired_goal"
        raise UserError(f"{what}; {name} has {space}{hidden}")
    achieved, desired = space["achieved_goal"], space["desired_goal"]
    if not isinstance(desired, spaces.Box | spaces.MultiBinary) or achieved.shape != desired.shape:
        what = "hindsight needs goals that are Boxes or MultiBinary, of one shape"
        raise UserError(f"{what}; {name} has achieved_goal {achieved} and desired_goal {desired}")
