"""N environments side by side, seeded, with the true next observations and the statistics of episodes."""

import functools
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from spinup.envs.constructors import close_or_warn, env_name
from spinup.envs.single import CheckedEnv, Flattened, make_env, own_limit
from spinup.envs.spaces import FLOAT32_MAX, flat_action_space, to_env_actions
from spinup.errors import Fault, UserError, first_line
from spinup.observations import check_for_flat_images, is_image, mask_slice, network_space
from spinup.system.terminal import warn_once

SEED_LIMIT = 2**31  # environment seeds stay below: many simulators store them in a C int
FLOAT32_EXACT = 2.0**24  # above this, float32 can't represent every integer


class VecEnv:
    """N environments stepped in lockstep, with the true next observation at every step and episode statistics.

    Each episode has its own seed, derived from the run's seed, the environment's index and the episode's number. That
    seed and the actions so far determine a running episode: `state_dict` holds them, and `load_state_dict` replays
    them. With `reseed=False` only an environment's first reset is seeded, so only its first episode can be replayed.

    observation_space: a float32 Box with one dimension, or a Box of images; see spinup.observations
    action_space: of the policy's actions: a Box or MultiDiscrete with one dimension, or Discrete from 0
    num_envs: N; name: how messages refer to the environment; made: the other arguments of `make_envs`

    Raises Fault if an environment raises, dies, or returns NaN, infinity, a number too large for float32 or a shape
    that doesn't match its space.
    """

    def __init__(self, envs: gym.vector.VectorEnv, seed: int, name: str, **made):
        self.envs, self.num_envs, self.made = envs, envs.num_envs, made
        self.seed, self.name, self.seeded = seed, name, False
        self.max_ep_len, self.reseed, self.log_info = made["max_ep_len"], made["reseed"], made["log_info"]
        obs, act = envs.single_observation_space, envs.single_action_space
        self.observation_space = network_space(obs)
        self.raw_observation_space, self.raw_action_space = obs, act  # make_envs replaces the first if it was flattened
        self.mask = mask_slice(self.observation_space)  # of the actions, in an observation
        self.own_limit = math.inf  # steps after which the environment itself truncates an episode
        self.action_space = flat_action_space(act)
        self.action_start = np.asarray(act.start) if isinstance(act, spaces.Discrete | spaces.MultiDiscrete) else 0
        self.finished: list[tuple] = []
        self.spares: list[gym.Env] = []
        bounded = isinstance(obs, spaces.Box) and (np.isfinite(obs.low).any() or np.isfinite(obs.high).any())
        only_bytes = is_image(obs) and obs.dtype == np.uint8
        self.bounds = (obs.low, obs.high) if bounded and not only_bytes else None  # None: nothing to check
        check_for_flat_images(name, obs)

    def reset(self) -> np.ndarray:
        """Start all episodes over from the seed; returns the first observations, (N, *obs_shape).

        With `reseed=False` a second call starts the next episodes instead.
        """
        self.ep_ret, self.ep_len = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        self.done = np.zeros(self.num_envs, bool)
        self.episode = np.zeros(self.num_envs, int)  # each environment's current episode, from 0
        self.actions: list[np.ndarray] = []  # as sent to the environments, since the longest running episode began
        self.envs.action_space.seed(self.seed)
        self.info = np.full((self.num_envs, len(self.log_info)), np.nan)
        seeds = self._episode_seeds() if self.reseed or not self.seeded else None
        self.seeded = True
        o, infos = self._call("reset", seed=seeds)
        self.o, self.info = self._observations(o), infos.get("numbers", self.info)
        return self.o

    def step(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Take the policy's actions, (N, *act_shape), each clipped to its bounds.

        Returns (o2, r, terminated, truncated): the true next observations, (N, *obs_shape), and three (N,) arrays.
        Call `reset_done` before the next step.
        """
        self.actions.append(to_env_actions(self.raw_action_space, a))
        o2, r, terminated, truncated, infos = self._call("step", self.actions[-1])
        self.ep_ret += r
        self.ep_len += 1
        self.o, self.info = self._observations(o2), infos.get("numbers", self.info)
        self._check_numbers("reward", r)
        truncated = truncated | (self.ep_len >= self.max_ep_len)
        self.done = terminated | truncated
        return self.o, r, terminated.copy(), truncated

    def reset_done(self) -> np.ndarray:
        """Start a new episode wherever one has ended; returns the observations to act on next, (N, *obs_shape)."""
        if self.done.any():
            self.finished += self.episodes(self.done)
            self._begin_episodes(self.done)
            self.done = np.zeros_like(self.done)
        return self.o

    def random_actions(self) -> np.ndarray:
        """Uniformly random actions, legal ones if the observations have an action mask, (N, *act_shape)."""
        actions = self.envs.action_space.sample(mask=self._legal_actions()) - self.action_start
        return actions.reshape(self.num_envs, *self.action_space.shape)

    def _legal_actions(self) -> tuple | None:
        """The action masks of all environments in the form that Gymnasium's `sample` takes; None: all are legal."""
        if self.mask is None:
            return None
        masks = self.o[:, self.mask].astype(np.int8)
        if isinstance(self.action_space, spaces.Discrete):
            return tuple(masks)
        ends = np.cumsum(self.action_space.nvec)[:-1]
        return tuple(tuple(np.split(mask, ends)) for mask in masks)

    def episodes(self, mask: np.ndarray) -> list[tuple]:
        """(return, length, *numbers of log_info) of the current episode of each environment in mask, (N,)."""
        rows = (self.ep_ret[mask].tolist(), self.ep_len[mask].tolist(), *self.info[mask].T.tolist())
        return list(zip(*rows, strict=True))

    def columns(self, episodes: list[tuple]) -> dict[str, list]:
        """Rows as those of `episodes` as the columns EpRet, EpLen and those of log_info."""
        names = ("EpRet", "EpLen", *self.log_info)
        return {name: [row[i] for row in episodes] for i, name in enumerate(names)}

    def pop_episodes(self) -> dict[str, list]:
        """EpRet, EpLen and the numbers of log_info of the episodes finished since the last call; NaNs are dropped."""
        episodes, self.finished = self.finished, []
        return columns_without_nan(episodes, ("EpRet", "EpLen", *self.log_info))

    def spare(self) -> gym.Env:
        """One more environment like these, for its functions: in this process, and closed with the others."""
        self.spares.append(make_env(self.made["env_fn"], self.made["env_kwargs"], self.made["wrappers"]))
        return self.spares[-1]

    def close(self) -> None:
        while self.spares:
            close_or_warn(self.spares.pop(), self.name)
        try:
            self.envs.close()
        except Exception as error:  # such as when a worker process exits in it
            warn_once(f"close of {self.name}", f"{self.name} raised {first_line(error)} in close")
            self._terminate_workers()

    # ---- saving and restoring

    def state_dict(self) -> dict:
        """What `load_state_dict` needs; call it between `reset_done` and the next step."""
        kept = ("ep_ret", "ep_len", "episode", "o", "info")
        return {
            **{name: getattr(self, name).copy() for name in kept},
            "actions": np.array(self.actions) if self.actions else np.zeros((0, self.num_envs)),
            "finished": list(self.finished),
            "action_space": self.envs.action_space.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping) -> np.ndarray:
        """Restore all environments by replaying each running episode's actions from its seed.

        Returns a mask of failures, (N,) bool: there the replay led to a different observation or return, because the
        environment isn't deterministic given its seed, and a new episode has begun. With `reseed=False` every episode
        after an environment's first fails. Raises UserError if the state is that of another log_info.
        """
        if (names := state["info"].shape[1]) != len(self.log_info):
            raise UserError(f"log_info is {list(self.log_info)}; the checkpoint has {names} such numbers")
        self.reset()
        self.episode, lengths = state["episode"].copy(), state["ep_len"]
        unknown = (self.episode > 0) & (not self.reseed)
        lengths = np.where(unknown, 0, lengths)
        seeds, actions, steps = self._episode_seeds(), list(state["actions"]), int(lengths.max())
        # All environments step together: one with a shorter episode repeats it, so that its last replay ends with the
        # longest one.
        spans, position = np.maximum(lengths, 1), np.zeros(self.num_envs, int)
        ended, failed, returns = np.zeros(self.num_envs, bool), unknown, np.zeros(self.num_envs)
        for left in range(steps, 0, -1):
            begins = (left % spans == 0) | (left == steps) | ended
            position[begins], returns[begins] = 0, 0.0
            if begins.any():
                self.o = self._observations(self._call("reset", seed=seeds, options={"reset_mask": begins})[0])
            raw = np.stack([actions[row][i] for i, row in enumerate(steps - spans + position)])
            if self.mask is not None and (lengths == 0).any():  # the last episode's action may be illegal in this one
                legal = to_env_actions(self.raw_action_space, self.random_actions())
                raw = np.where(lengths == 0, legal.T, raw.T).T
            o, r, terminated, truncated, _ = self._call("step", raw)
            ended = terminated | truncated
            failed = failed | (ended & (lengths > 0))  # the episode went on in the run
            position, returns = position + 1, returns + r
        if (lengths == 0).any():
            o = self._call("reset", seed=seeds, options={"reset_mask": lengths == 0})[0]
        self.o = self._observations(o)
        failed = failed | (self.o != state["o"]).reshape(self.num_envs, -1).any(-1)
        failed = failed | ((returns != state["ep_ret"]) & (lengths > 0))
        self.actions, self.finished = actions, [tuple(episode) for episode in state["finished"]]
        self.info = state["info"].copy()
        self.ep_ret, self.ep_len = state["ep_ret"].copy(), lengths.copy()
        self.envs.action_space.np_random.bit_generator.state = state["action_space"]
        if failed.any():
            self._begin_episodes(failed)
        return failed

    # ---- helpers

    def _episode_seeds(self) -> list[int | None]:
        """Each environment's seed for its current episode: first seed + i, then drawn from (seed, i, episode)."""
        seeds = []
        for i, episode in enumerate(self.episode.tolist()):
            later = np.random.SeedSequence((self.seed, i, episode)).generate_state(1).item() if episode else 0
            seeds.append((later or self.seed + i) % SEED_LIMIT if self.reseed or not episode else None)
        return seeds

    def _begin_episodes(self, mask: np.ndarray) -> None:
        """Start a new episode in each environment in mask, (N,)."""
        self.ep_ret[mask], self.ep_len[mask] = 0, 0
        self.episode[mask] += 1
        o, infos = self._call("reset", seed=self._episode_seeds(), options={"reset_mask": mask})
        self.o = self._observations(o)
        if self.log_info:
            self.info = np.where(mask[:, None], infos["numbers"], self.info)
        del self.actions[: len(self.actions) - self.ep_len.max()]

    def _call(self, what: str, *args, **kwargs) -> tuple:
        """Call Gymnasium's `reset` or `step`; raises Fault if an environment fails or a worker process dies in it."""
        try:
            return getattr(self.envs, what)(*args, **kwargs)
        except (EOFError, ConnectionError) as error:
            for process in self.envs.processes:
                process.join(0.1)  # is_alive() may lag behind the broken pipe
            dead = [i for i, process in enumerate(self.envs.processes) if not process.is_alive()]
            self._terminate_workers()
            raise Fault(f"the process of {self.name} {', '.join(map(str, dead))} died in {what}") from error
        except (Fault, UserError):
            self._terminate_workers()
            raise

    def _terminate_workers(self) -> None:
        """Terminate the worker processes of an async vector environment and mark it as closed."""
        for process in getattr(self.envs, "processes", ()):
            process.terminate()
            process.join()
        self.envs.closed = True

    def _observations(self, o: np.ndarray) -> np.ndarray:
        """Check and convert Gymnasium's observations; a copy, since Gymnasium's next step overwrites its array."""
        self._check_numbers("observation", o)
        if self.bounds and not ((o >= self.bounds[0]) & (o <= self.bounds[1])).all():
            self._warn_out_of_bounds(o, self.bounds)
        return o.reshape(self.num_envs, *self.observation_space.shape).astype(self.observation_space.dtype)

    def _check_numbers(self, what: str, x: np.ndarray) -> None:
        """Raise Fault for the first environment with NaN, infinity or a number too large for float32 in x, (N, ...)."""
        if x.dtype.itemsize == 1:
            return
        x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
        if np.vdot(x, x) < FLOAT32_EXACT**2:  # a single fast call that nearly always settles it
            return
        bad = np.argwhere(~(np.abs(x) <= (FLOAT32_MAX**0.5 if what == "reward" else FLOAT32_MAX)))
        if len(bad):
            i = int(bad[0, 0])
            square = "the square of which is " if what == "reward" else ""  # the critic's loss squares it
            why = f", {square}too large for float32, which training uses: scale it, for example in a wrapper"
            why = why if np.isfinite(x[tuple(bad[0])]) else ""
            raise Fault(f"{self.name} {i} returned the {what} {x[i]} at step {self.ep_len[i]} of its episode{why}")
        if what == "observation" and (coarse := np.argwhere(np.abs(x) >= FLOAT32_EXACT)).size:
            i, *where = coarse[0].tolist()
            value = x[(i, *where)]
            finding = f"{self.name} {i} observed {value} at index {tuple(where)}, where float32 has steps of"
            hint = "subtract a constant or scale it, for example in a wrapper"
            warn_once(f"float32 {self.name}", f"{finding} {np.spacing(np.abs(np.float32(value))):g}: {hint}")

    def _warn_out_of_bounds(self, o: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> None:
        """Warn once about an observation outside its space: likely a bug in the environment, but training can go on."""
        outside = (o < bounds[0]) | (o > bounds[1])
        i, *where = np.argwhere(outside)[0].tolist()
        low, high = (bound[tuple(where)] for bound in bounds)
        self.bounds = None
        value = f"{o[(i, *where)]} at index {tuple(where)}, outside its space's bounds, {low} to {high}"
        warn_once(f"bounds of {self.name}", f"{self.name} {i} observed {value}")


def make_envs(
    env_fn: str | Callable[[], gym.Env],
    num_envs: int = 1,
    seed: int = 0,
    max_ep_len: int = 1000,
    env_kwargs: dict | None = None,
    vectorization: str = "sync",
    wrappers: Sequence | str | None = None,
    reseed: bool = True,
    log_info: Sequence[str] | str | None = None,
) -> VecEnv:
    """Make N copies of an environment, seeded with seed, seed + 1, ...

    vectorization: "sync" steps them in turn; "async" runs each in its own process, which pays off for slow simulators
    wrappers: as in `make_env`; reseed, log_info: see spinup.arguments

    Raises UserError as `make_env` does, and if two copies are the same object.
    """
    if num_envs < 1 or max_ep_len < 1:
        raise UserError(f"num_envs is {num_envs} and max_ep_len {max_ep_len}; both must be at least 1")
    kinds = {"sync": gym.vector.SyncVectorEnv, "async": Workers}
    if vectorization not in kinds:
        raise UserError(f"vectorization is '{vectorization}'; it must be 'sync' or 'async'")
    made = dict(env_fn=env_fn, max_ep_len=max_ep_len, env_kwargs=env_kwargs, vectorization=vectorization)
    names = as_names(log_info)
    name = f"{env_name(env_fn)}: environment"
    first = make_env(env_fn, env_kwargs, wrappers)  # so that mistakes surface here, not in a worker process
    close_or_warn(first, name)
    seen, main_pid = {id(first.unwrapped)}, os.getpid()

    def make(i: int) -> gym.Env:
        env = make_env(env_fn, env_kwargs, wrappers)
        if os.getpid() == main_pid:  # a worker process has a copy of its own anyway
            if id(env.unwrapped) in seen:
                hint = "it must make a new one on each call, as in: lambda: gym.make('CartPole-v1')"
                raise UserError(f"env_fn returned the same environment twice; {hint}")
            seen.add(id(env.unwrapped))
        return CheckedEnv(env, f"{name} {i}", names)

    makers = [functools.partial(make, i) for i in range(num_envs)]
    copy = {"copy": False} if vectorization == "sync" else {}
    envs = kinds[vectorization](makers, autoreset_mode=AutoresetMode.DISABLED, **copy)
    envs = VecEnv(envs, int(seed), name, **made, wrappers=wrappers, reseed=reseed, log_info=names)
    envs.raw_observation_space = (first.env if isinstance(first, Flattened) else first).observation_space
    envs.own_limit = own_limit(first)
    return envs


def as_names(log_info: Sequence[str] | str | None) -> tuple[str, ...]:
    """The names in log_info, a list or a string such as "a,b"."""
    names = log_info.strip("[]").split(",") if isinstance(log_info, str) else log_info or ()
    if not isinstance(names, list | tuple):
        raise UserError(f"log_info is {log_info!r:.80}; it must be a list of names of numbers in the infos")
    names = tuple(name.strip() if isinstance(name, str) else name for name in names)
    for name in names:
        if name in ("EpRet", "EpLen"):
            raise UserError(f"log_info has {name!r}, which is already a column")
        if not isinstance(name, str) or not name or not name.isprintable():
            raise UserError(f"log_info has {name!r:.80}; it must name numbers in the infos, such as is_success")
    return tuple(dict.fromkeys(names))


class Workers(gym.vector.AsyncVectorEnv):
    """Environments in worker processes that don't react to Ctrl-C, SIGTERM and SIGHUP; the main process closes them.

    A terminal, `timeout` and Slurm signal all processes of a run, but the run still needs its environments to finish
    the current step and write its checkpoint.
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]], **kwargs):
        super().__init__([functools.partial(make_without_signals, os.getpid(), env_fn) for env_fn in env_fns], **kwargs)

    def _check_spaces(self) -> None:  # overridden because it is called as soon as the processes exist
        for process in self.processes:
            # Workers ignore SIGTERM. multiprocessing also calls terminate, when this process exits.
            process._popen.terminate = process._popen.kill
        super()._check_spaces()


def make_without_signals(parent: int, env_fn: Callable[[], gym.Env]) -> gym.Env:
    """Make the environment; in a process other than `parent`, stop signals have no effect from now on.

    The handlers do nothing, instead of being SIG_IGN, which programs started by the environment would inherit.
    """
    if os.getpid() != parent:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, frame: None)
    return env_fn()


def columns_without_nan(episodes: list[tuple], names: Sequence[str]) -> dict[str, list]:
    """Rows turned into named columns, leaving out NaNs: numbers that an episode didn't have."""
    return {name: [row[i] for row in episodes if not np.isnan(row[i])] for i, name in enumerate(names)}


def evaluation_columns(log_info: Sequence[str]) -> list[str]:
    """The column names of an evaluation for the names in log_info."""
    return [f"Test_{name}" for name in log_info]
