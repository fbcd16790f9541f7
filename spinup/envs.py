"""Environments: made, seeded, stepped N at a time, and turned into the few kinds of arrays that networks take."""

import importlib
import warnings
from collections.abc import Callable

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from spinup.errors import UserError, closest

# Packages that register environments when imported, by the first part of the id, and the extra that brings them.
NAMESPACES = {"ALE": ("ale_py", "atari")}
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale": "atari"}


def check_env_id(env_id: str) -> None:
    """Raise UserError, with the closest match, where Gymnasium knows no environment `env_id` ("module:Env-v0" too)."""
    module, colon, name = env_id.rpartition(":")
    if colon and not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"environment '{env_id}': '{module}' is not a module's name, as in my_module:MyEnv-v0")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and what it imports is not: its author wants the traceback
            raise UserError(f"environment '{env_id}': there is no module '{error.name}' to import") from None
    namespace, extra = NAMESPACES.get(name.split("/")[0], (None, None))
    if namespace:
        try:
            gym.register_envs(importlib.import_module(namespace))
        except ModuleNotFoundError:
            raise UserError(f"environment '{env_id}' needs: pip install \"spinup[{extra}]\"") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "... is out of date": told once, when it is made
            gym.spec(name)
    except gym.error.Error:
        hint = closest(name, gym.registry) or "; `gymnasium.pprint_registry()` lists them"
        raise UserError(f"there is no environment '{env_id}'{hint}") from None


def make_env(env_fn: str | Callable[[], gym.Env], env_kwargs: dict | None = None, **kwargs) -> gym.Env:
    """One environment from an id or a function that makes it; Dict, Tuple and discrete observations are flattened.

    kwargs: render_mode and the like, for gymnasium.make. Raises UserError for an unknown id, unknown env_kwargs, a
    missing extra, or spaces that are not supported.
    """
    env_kwargs = {**(env_kwargs or {}), **kwargs}
    if isinstance(env_fn, str):
        check_env_id(env_fn)
    elif not callable(env_fn):
        raise UserError(f"env_fn is {env_fn!r:.80}; it must be an id or a function that makes an environment")
    try:
        env = gym.make(env_fn, **env_kwargs) if isinstance(env_fn, str) else env_fn(**env_kwargs)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UserError(f"environment '{env_fn}' does not take these env_kwargs: {error}") from None
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        if not isinstance(env_fn, str):
            raise
        spec = gym.spec(env_fn.rpartition(":")[2])
        if spec.namespace is None and "gymnasium-robotics" in str(error):
            newest = closest(f"{spec.name}-v5", gym.registry)
            raise UserError(f"environment '{env_fn}' is no longer part of Gymnasium{newest}") from None
        extra = next((extra for part, extra in EXTRAS.items() if part in str(spec.entry_point).lower()), None)
        if extra is None:
            raise
        raise UserError(f"environment '{env_fn}' needs: pip install \"spinup[{extra}]\" ({error})") from None
    if isinstance(env, gym.vector.VectorEnv):
        raise UserError("env_fn made a vector environment; it must make single ones, num_envs says how many")
    check_spaces(env.observation_space, env.action_space)
    return env if isinstance(env.observation_space, spaces.Box) else gym.wrappers.FlattenObservation(env)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise UserError for spaces that no algorithm here supports."""
    actions = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(action_space, actions):
        raise UserError(f"action space {action_space} is not supported; Box, Discrete, MultiDiscrete, MultiBinary are")
    if not has_fixed_size(observation_space):
        raise UserError(
            f"observation space {observation_space} has no fixed size; Box, Discrete, MultiDiscrete, MultiBinary, "
            "and Dict or Tuple of these are supported"
        )


def check_actions(algo: str, space: spaces.Space, discrete: bool = False) -> None:
    """Raise UserError where `algo`, which takes bounded Box actions, and Discrete ones if `discrete`, cannot use these.

    space: VecEnv.action_space
    """
    if isinstance(space, spaces.Box) and not np.all(space.high / 2 - space.low / 2 < np.finfo(np.float32).max / 2):
        raise UserError(
            f"{algo} needs bounded actions, and these have no bounds: {space}; ppo, trpo and vpg take them, or "
            "gymnasium.wrappers.RescaleAction gives them bounds"
        )
    if not isinstance(space, spaces.Box) and not (discrete and isinstance(space, spaces.Discrete)):
        others = "ppo, trpo and vpg take these" if discrete else "sac (Discrete alone), ppo, trpo and vpg take these"
        kinds = "a bounded Box of actions" + " or Discrete ones" * discrete
        raise UserError(f"{algo} needs {kinds}, not {space}; {others}")


def has_fixed_size(space: spaces.Space) -> bool:
    """Whether its observations flatten to an array of numbers."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return all(map(has_fixed_size, space.values() if isinstance(space, spaces.Dict) else space))
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


class VecEnv:
    """N environments side by side, with the true next observation at every step and statistics of their episodes.

    observation_space: a float32 Box with one dimension, or a uint8 Box of images
    action_space: what the policy's actions are: a Box or MultiDiscrete with one dimension, or Discrete from 0
    num_envs: N; max_ep_len: an episode is truncated after so many steps
    """

    def __init__(self, envs: gym.vector.VectorEnv, seed: int, max_ep_len: int):
        self.envs, self.num_envs, self.max_ep_len = envs, envs.num_envs, max_ep_len
        self.seed = seed
        obs, act = envs.single_observation_space, envs.single_action_space
        image = obs.dtype == np.uint8 and len(obs.shape) in (2, 3)
        size = int(np.prod(obs.shape))
        self.observation_space = obs if image else spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.raw_action_space = act
        self.action_space = flat_action_space(act)
        self.start = np.asarray(act.start) if isinstance(act, spaces.Discrete | spaces.MultiDiscrete) else 0
        self.finished: list[tuple[float, int]] = []

    def reset(self) -> np.ndarray:
        """Start all episodes anew, from the seed; the first observations, (N, *obs_shape)."""
        self.ep_ret, self.ep_len = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        self.done = np.zeros(self.num_envs, bool)
        self.envs.action_space.seed(self.seed)
        self.o = self._observations(self.envs.reset(seed=self.seed)[0])
        return self.o

    def step(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Take the policy's actions (N, *act_shape), each clipped to its bounds.

        Returns (o2, r, terminated, truncated): the true next observations, (N, *obs_shape), and three (N,) arrays.
        Where an episode ended, `reset_done` must come next.
        """
        o2, r, terminated, truncated, _ = self.envs.step(self._raw_actions(a))
        self.o = self._observations(o2)
        self.ep_ret += r
        self.ep_len += 1
        truncated = truncated | (self.ep_len >= self.max_ep_len)
        self.done = terminated | truncated
        return self.o, r, terminated.copy(), truncated

    def reset_done(self) -> np.ndarray:
        """Start new episodes where the last step ended one; the observations to act on next, (N, *obs_shape)."""
        if self.done.any():
            self.finished += zip(self.ep_ret[self.done].tolist(), self.ep_len[self.done].tolist(), strict=True)
            self.ep_ret[self.done], self.ep_len[self.done] = 0, 0
            self.o = self._observations(self.envs.reset(options={"reset_mask": self.done})[0])
            self.done = np.zeros_like(self.done)
        return self.o

    def random_actions(self) -> np.ndarray:
        """One action of the policy's for each environment, drawn uniformly from its space: (N, *act_shape)."""
        return (self.envs.action_space.sample() - self.start).reshape(self.num_envs, *self.action_space.shape)

    def pop_episodes(self) -> dict[str, list]:
        """Returns and lengths of the episodes that have ended since the last call."""
        episodes, self.finished = self.finished, []
        return {"EpRet": [ret for ret, _ in episodes], "EpLen": [length for _, length in episodes]}

    def close(self) -> None:
        self.envs.close()

    def _observations(self, o: np.ndarray) -> np.ndarray:
        """A copy, as the next step overwrites Gymnasium's own array."""
        return o.reshape(self.num_envs, *self.observation_space.shape).astype(self.observation_space.dtype)

    def _raw_actions(self, a: np.ndarray) -> np.ndarray:
        """The environments' own actions for the policy's."""
        space = self.raw_action_space
        a = a.reshape(self.num_envs, *space.shape)
        if isinstance(space, spaces.Box):
            return a.clip(space.low, space.high).astype(space.dtype)
        return (a + self.start).astype(space.dtype)


def flat_action_space(space: spaces.Space) -> spaces.Space:
    """The policy's side of an action space: a Box or MultiDiscrete with one dimension, or Discrete from 0."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32))
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n)
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(space.shape, 2)
    return spaces.MultiDiscrete(sizes.ravel())


def make_envs(
    env_fn: str | Callable[[], gym.Env],
    num_envs: int = 1,
    seed: int = 0,
    max_ep_len: int = 1000,
    env_kwargs: dict | None = None,
    vectorization: str = "sync",
) -> VecEnv:
    """N copies of an environment, seeded seed, seed + 1, ...

    vectorization: "sync" steps them in turn; "async" each in a process of its own, which pays for slow simulators.
    Raises UserError as `make_env` does.
    """
    if num_envs < 1 or max_ep_len < 1:
        raise UserError(f"num_envs is {num_envs} and max_ep_len {max_ep_len}; both must be at least 1")
    kinds = {"sync": gym.vector.SyncVectorEnv, "async": gym.vector.AsyncVectorEnv}
    if vectorization not in kinds:
        raise UserError(f"vectorization is '{vectorization}'; it must be 'sync' or 'async'")
    make_env(env_fn, env_kwargs).close()  # so that a mistake shows here, not in a worker process
    fns = [lambda: make_env(env_fn, env_kwargs)] * num_envs
    copy = {"copy": False} if vectorization == "sync" else {}
    return VecEnv(kinds[vectorization](fns, autoreset_mode=AutoresetMode.DISABLED, **copy), int(seed), max_ep_len)


def evaluate(
    ac,
    env_fn: str | Callable[[], gym.Env],
    episodes: int = 10,
    deterministic: bool = True,
    seed: int = 1_000_000,
    max_ep_len: int = 1000,
    env_kwargs: dict | None = None,
) -> dict[str, list]:
    """Play `episodes` episodes, all at once, one in each of as many environments, seeded seed, seed + 1, ...

    Each environment gives its first episode, so short episodes count no more than long ones. Returns the lists EpRet
    and EpLen in the order of the seeds.
    """
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; it must be at least 1")
    envs = make_envs(env_fn, episodes, seed, max_ep_len, env_kwargs)
    ep_ret, ep_len = np.zeros(episodes), np.zeros(episodes, int)
    running = np.ones(episodes, bool)
    o = envs.reset()
    while running.any():
        envs.step(ac.act(o, deterministic))
        ended = running & envs.done
        ep_ret[ended], ep_len[ended] = envs.ep_ret[ended], envs.ep_len[ended]
        running &= ~ended
        o = envs.reset_done()
    envs.close()
    return {"EpRet": ep_ret.tolist(), "EpLen": ep_len.tolist()}
