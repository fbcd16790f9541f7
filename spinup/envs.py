"""Environments: made, seeded, stepped N at a time, and turned into the few kinds of arrays that networks take."""

import functools
import importlib
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from numbers import Real

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from spinup.errors import Fault, UserError, closest, first_line, install

# Packages that register environments when imported, by the first part of the id, and the extra that brings them.
NAMESPACES = {"ALE": ("ale_py", "atari")}
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale": "atari"}


@functools.cache  # also because catch_warnings makes Python forget which warnings it has shown
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
            raise UserError(f"environment '{env_id}' needs: {install(extra)}") from None
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
    arguments = {**(env_kwargs or {}), **kwargs}
    if isinstance(env_fn, str):
        check_env_id(env_fn)
    elif not callable(env_fn):
        raise UserError(f"env_fn is {env_fn!r:.80}; it must be an id or a function that makes an environment")
    try:
        env = gym.make(env_fn, **arguments) if isinstance(env_fn, str) else env_fn(**arguments)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        if not isinstance(env_fn, str):
            raise
        spec = gym.spec(env_fn.rpartition(":")[2])
        if spec.namespace is None and "gymnasium-robotics" in str(error):
            newest = closest(f"{spec.name}-v5", gym.registry)
            raise UserError(f"environment '{env_fn}' is no longer part of Gymnasium{newest}") from None
        extra = next((extra for part, extra in EXTRAS.items() if part in str(spec.entry_point).lower()), None)
        if extra is None and ":" in env_fn:
            raise
        needs = f"needs: {install(extra)} ({error})" if extra else f"cannot be made: {first_line(error)}"
        raise UserError(f"environment '{env_fn}' {needs}") from None
    except Exception as error:
        refused = any(text in str(error) for text in ("unexpected keyword argument", "takes no arguments"))
        if not refused and not (env_kwargs and isinstance(env_fn, str)):
            raise
        why = error if refused else first_line(error)
        raise UserError(f"environment '{env_fn}' does not take these env_kwargs: {why}") from None
    if isinstance(env, gym.vector.VectorEnv):
        raise UserError("env_fn made a vector environment; it must make single ones, num_envs says how many")
    if not all(isinstance(getattr(env, name, None), spaces.Space) for name in ("observation_space", "action_space")):
        what = "it must make a gymnasium.Env with observation_space and action_space"
        raise UserError(f"env_fn made {env!r:.80}; {what}")
    check_spaces(env.observation_space, env.action_space)
    return env if isinstance(env.observation_space, spaces.Box) else gym.wrappers.FlattenObservation(env)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise UserError for spaces that no algorithm here supports."""
    actions = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(action_space, actions):
        raise UserError(f"action space {action_space} is not supported; Box, Discrete, MultiDiscrete, MultiBinary are")
    if 0 in action_space.shape:
        raise UserError(f"action space {action_space} has no actions; its shape must have no 0")
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
            "give the environment's Box finite bounds"
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


class Guarded(gym.Wrapper):
    """One of several environments: where it raises, or returns what it must not, a Fault says which one and when.

    name: what the message calls it
    """

    def __init__(self, env: gym.Env, name: str):
        super().__init__(env)
        self.name, self.steps = name, 0

    def reset(self, **kwargs) -> tuple:
        self.steps = 0
        try:
            result = self.env.reset(**kwargs)
        except Exception as error:
            raise Fault(f"{self.name} raised {first_line(error)} in reset") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise Fault(f"{self.name} returned {result!r:.80} from reset; it must be (observation, info)")
        self.check_observation(result[0])
        return result

    def step(self, action) -> tuple:
        self.steps += 1
        try:
            result = self.env.step(action)
        except Exception as error:
            when = f"at step {self.steps} of its episode, on action {action}"
            raise Fault(f"{self.name} raised {first_line(error)} {when}") from error
        if not (isinstance(result, tuple) and len(result) == 5):
            raise Fault(
                f"{self.name} returned {result!r:.80} from step; it must be (observation, reward, terminated, "
                "truncated, info)"
            )
        o, r = result[:2]
        self.check_observation(o)
        if not isinstance(r, Real):
            raise Fault(f"{self.name} gave the reward {r!r:.80} at step {self.steps}; it must be a number")
        return result

    def check_observation(self, o) -> None:
        """Raise Fault for another shape or kind of number than the space's."""
        space, dtype = self.observation_space, getattr(o, "dtype", None) or np.asarray(o).dtype
        if np.shape(o) != space.shape:
            what = f"an observation of shape {np.shape(o)}; its space says {space.shape}"
        elif dtype != space.dtype and not np.can_cast(dtype, space.dtype, "same_kind"):
            what = f"an observation of {dtype} ({o!r:.80}); its space says {space.dtype}"
        else:
            return
        raise Fault(f"{self.name} gave {what}, at step {self.steps} of its episode")


class VecEnv:
    """N environments side by side, with the true next observation at every step and statistics of their episodes.

    Every episode has a seed of its own, made from the run's seed, the environment's number and the episode's. So the
    seed and the actions since tell all of a running episode: `state_dict` holds them, and `load_state_dict` plays the
    actions again.

    observation_space: a float32 Box with one dimension, or a uint8 Box of images
    action_space: what the policy's actions are: a Box or MultiDiscrete with one dimension, or Discrete from 0
    num_envs: N; max_ep_len: an episode is truncated after so many steps; name: what messages call the environment

    Raises Fault where an environment raises, dies, or gives NaN, infinity or another shape than its space's.
    """

    def __init__(self, envs: gym.vector.VectorEnv, seed: int, max_ep_len: int, name: str = "environment"):
        self.envs, self.num_envs, self.max_ep_len = envs, envs.num_envs, max_ep_len
        self.seed, self.name = seed, name
        obs, act = envs.single_observation_space, envs.single_action_space
        image = obs.dtype == np.uint8 and len(obs.shape) in (2, 3)
        size = int(np.prod(obs.shape))
        self.observation_space = obs if image else spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.raw_action_space = act
        self.action_space = flat_action_space(act)
        self.start = np.asarray(act.start) if isinstance(act, spaces.Discrete | spaces.MultiDiscrete) else 0
        self.finished: list[tuple[float, int]] = []
        bounded = isinstance(obs, spaces.Box) and (np.isfinite(obs.low).any() or np.isfinite(obs.high).any())
        self.bounds = (obs.low, obs.high) if bounded and not image else None  # None: nothing to leave, or told already

    def reset(self) -> np.ndarray:
        """Start all episodes anew, from the seed; the first observations, (N, *obs_shape)."""
        self.ep_ret, self.ep_len = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        self.done = np.zeros(self.num_envs, bool)
        self.episode = np.zeros(self.num_envs, int)  # the number of each environment's running episode
        self.actions: list[np.ndarray] = []  # the environments' own, back to the first of the longest running episode
        self.envs.action_space.seed(self.seed)
        self.o = self._observations(self._call("reset", seed=self._episode_seeds())[0])
        return self.o

    def step(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Take the policy's actions (N, *act_shape), each clipped to its bounds.

        Returns (o2, r, terminated, truncated): the true next observations, (N, *obs_shape), and three (N,) arrays.
        Where an episode ended, `reset_done` must come next.
        """
        self.actions.append(self._raw_actions(a))
        o2, r, terminated, truncated, _ = self._call("step", self.actions[-1])
        self.ep_ret += r
        self.ep_len += 1
        self.o = self._observations(o2)
        self._check_finite("reward", r)
        truncated = truncated | (self.ep_len >= self.max_ep_len)
        self.done = terminated | truncated
        return self.o, r, terminated.copy(), truncated

    def reset_done(self) -> np.ndarray:
        """Start new episodes where the last step ended one; the observations to act on next, (N, *obs_shape)."""
        if self.done.any():
            self.finished += zip(self.ep_ret[self.done].tolist(), self.ep_len[self.done].tolist(), strict=True)
            self._begin_episodes(self.done)
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

    # ---- as it was, in another process

    def state_dict(self) -> dict:
        """What `load_state_dict` needs, between `reset_done` and the next step."""
        kept = ("ep_ret", "ep_len", "episode", "o")
        return {
            **{name: getattr(self, name).copy() for name in kept},
            "actions": np.array(self.actions) if self.actions else np.zeros((0, self.num_envs)),
            "finished": list(self.finished),
            "action_space": self.envs.action_space.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping) -> np.ndarray:
        """Bring all environments to where they were: each episode's seed, and its actions again.

        Returns where that failed, (N,) bool: there another observation came out than was seen then, because the
        environment does not repeat itself from its seed, and a new episode has begun.
        """
        self.reset()
        self.episode, lengths = state["episode"].copy(), state["ep_len"]
        seeds, actions, steps = self._episode_seeds(), list(state["actions"]), int(lengths.max())
        # All step together, so an environment with a shorter episode plays it several times over, the last in full.
        spans, position = np.maximum(lengths, 1), np.zeros(self.num_envs, int)
        for left in range(steps, 0, -1):
            begins = (left % spans == 0) | (left == steps)
            position[begins] = 0
            if begins.any():
                self._call("reset", seed=seeds, options={"reset_mask": begins})
            raw = np.stack([actions[row][i] for i, row in enumerate(steps - spans + position)])
            o = self._call("step", raw)[0]
            position += 1
        if (lengths == 0).any():
            o = self._call("reset", seed=seeds, options={"reset_mask": lengths == 0})[0]
        self.o = self._observations(o)
        failed = (self.o != state["o"]).reshape(self.num_envs, -1).any(-1)
        self.actions, self.finished = actions, [tuple(episode) for episode in state["finished"]]
        self.ep_ret, self.ep_len = state["ep_ret"].copy(), lengths.copy()
        self.envs.action_space.np_random.bit_generator.state = state["action_space"]
        if failed.any():
            self._begin_episodes(failed)
        return failed

    # ---- parts

    def _episode_seeds(self) -> list[int]:
        """The seed of each environment's running episode: seed + its number for the first, then one drawn from both."""
        seeds = []
        for i, episode in enumerate(self.episode.tolist()):
            later = np.random.SeedSequence((self.seed, i, episode)).generate_state(1).item() if episode else 0
            seeds.append(later or self.seed + i)
        return seeds

    def _begin_episodes(self, mask: np.ndarray) -> None:
        """New episodes where mask, (N,), says so."""
        self.ep_ret[mask], self.ep_len[mask] = 0, 0
        self.episode[mask] += 1
        self.o = self._observations(self._call("reset", seed=self._episode_seeds(), options={"reset_mask": mask})[0])
        del self.actions[: len(self.actions) - self.ep_len.max()]

    def _call(self, what: str, *args, **kwargs) -> tuple:
        """Gymnasium's `reset` or `step`; a worker process of an asynchronous one may die in it."""
        try:
            return getattr(self.envs, what)(*args, **kwargs)
        except (EOFError, ConnectionError) as error:
            for process in self.envs.processes:
                process.join(0.1)  # until when the end of one shows
            dead = [i for i, process in enumerate(self.envs.processes) if not process.is_alive()]
            self._end_workers()
            raise Fault(f"the process of {self.name} {', '.join(map(str, dead))} died in {what}") from error
        except Fault:
            self._end_workers()
            raise

    def _end_workers(self) -> None:
        """Leave no process of an asynchronous vector environment behind; it answers no more."""
        for process in getattr(self.envs, "processes", ()):
            process.terminate()
            process.join()
        self.envs.closed = True

    def _observations(self, o: np.ndarray) -> np.ndarray:
        """A copy, as the next step overwrites Gymnasium's own array."""
        if self.bounds and not ((o >= self.bounds[0]) & (o <= self.bounds[1])).all():
            self._check_finite("observation", o)
            self._warn_of_bounds(o)
        o = o.reshape(self.num_envs, *self.observation_space.shape).astype(self.observation_space.dtype)
        self._check_finite("observation", o)
        return o

    def _check_finite(self, what: str, x: np.ndarray) -> None:
        """Raise Fault for the first environment with NaN or infinity in x, (N, ...)."""
        if x.dtype.kind != "f" or math.isfinite(np.vdot(x, x)):  # one call; the squares of huge values overflow
            return
        bad = np.argwhere(~np.isfinite(x))
        if len(bad):
            i = int(bad[0, 0])
            raise Fault(f"{self.name} {i} gave the {what} {x[i]} at step {self.ep_len[i]} of its episode")

    def _warn_of_bounds(self, o: np.ndarray) -> None:
        """Tell, once, of an observation outside its space: it can be learned from, and should not be there."""
        outside = (o < self.bounds[0]) | (o > self.bounds[1])
        i, *where = np.argwhere(outside)[0].tolist()
        low, high = (bound[tuple(where)] for bound in self.bounds)
        self.bounds = None
        value = f"{o[(i, *where)]} at index {tuple(where)}, outside of its space's {low} to {high}"
        print(f"warning: {self.name} {i} observed {value}; this is said once", file=sys.stderr, flush=True)

    def _raw_actions(self, a: np.ndarray) -> np.ndarray:
        """The environments' own actions for the policy's."""
        space = self.raw_action_space
        a = a.reshape(self.num_envs, *space.shape)
        if isinstance(space, spaces.Box):
            a = a.clip(space.low, space.high)
            return (np.rint(a) if space.dtype.kind in "iu" else a).astype(space.dtype)
        return (a + self.start).astype(space.dtype)


class Workers(gym.vector.AsyncVectorEnv):
    """Environments in processes that leave Ctrl-C, SIGTERM and SIGHUP to this one, which closes them when it ends.

    A terminal, `timeout` and Slurm send them to all processes of a run, which needs its environments for the step at
    work and its checkpoint.
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]], **kwargs):
        super().__init__([functools.partial(make_deaf, os.getpid(), env_fn) for env_fn in env_fns], **kwargs)

    def _check_spaces(self) -> None:  # the first thing that is done with them
        for process in self.processes:
            process._popen.terminate = process._popen.kill  # also for multiprocessing, as this process ends
        super()._check_spaces()


def make_deaf(parent: int, env_fn: Callable[[], gym.Env]) -> gym.Env:
    """The environment; in another process than `parent`, signals to stop do nothing from now on.

    They are not ignored, as programs that the environment starts would ignore them too.
    """
    if os.getpid() != parent:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, frame: None)
    return env_fn()


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
    kinds = {"sync": gym.vector.SyncVectorEnv, "async": Workers}
    if vectorization not in kinds:
        raise UserError(f"vectorization is '{vectorization}'; it must be 'sync' or 'async'")
    make_env(env_fn, env_kwargs).close()  # so that a mistake shows here, not in a worker process
    name = f"{env_fn if isinstance(env_fn, str) else getattr(env_fn, '__name__', 'env_fn')}: environment"

    def maker(i: int) -> Callable[[], gym.Env]:
        return lambda: Guarded(make_env(env_fn, env_kwargs), f"{name} {i}")

    copy = {"copy": False} if vectorization == "sync" else {}
    envs = kinds[vectorization]([maker(i) for i in range(num_envs)], autoreset_mode=AutoresetMode.DISABLED, **copy)
    return VecEnv(envs, int(seed), max_ep_len, name)


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
