"""One environment: made, wrapped and flattened, and checked in every step."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spinup.envs.constructors import build_env, check_is_env, close_or_warn
from spinup.envs.spaces import check_spaces, mismatch
from spinup.envs.wrapping import as_wrappers, wrap
from spinup.errors import Fault, UserError, first_line
from spinup.observations import known_space
from spinup.system.signals import is_signal
from spinup.system.terminal import warn_once


def make_env(
    env_fn: str | Callable[[], gym.Env],
    env_kwargs: dict | None = None,
    wrappers: Sequence | str | None = None,
    **kwargs,
) -> gym.Env:
    """Make one environment from an id or a function; Dict, Tuple and discrete observations are flattened.

    wrappers: functions of an environment, or strings as in `wrap`; the first is innermost
    kwargs: further arguments of gymnasium.make, such as render_mode

    Raises UserError for an unknown id, unknown env_kwargs, a missing extra, a wrapper that doesn't fit, or an
    unsupported space.
    """
    env = build_env(env_fn, env_kwargs or {}, kwargs)
    if isinstance(env, gym.vector.VectorEnv):
        raise UserError("env_fn made a vector environment; it must make a single one, and num_envs sets how many")
    check_is_env(env, "env_fn")
    for wrapper in as_wrappers(wrappers):
        env = wrap(env, wrapper)
        check_is_env(env, f"wrapper {wrapper}")
    check_spaces(env.observation_space, env.action_space)
    return env if isinstance(env.observation_space, spaces.Box) else Flattened(env)


class Flattened(gym.wrappers.FlattenObservation):
    """Flattens observations, and raises ValueError for one that doesn't fit its space."""

    def observation(self, observation) -> np.ndarray:
        if wrong := mismatch(self.env.observation_space, observation, "the observation"):
            raise ValueError(wrong)
        return super().observation(observation)


def own_limit(env: gym.Env) -> float:
    """Steps after which an environment's own TimeLimit truncates an episode; infinity without one."""
    limit = math.inf
    while isinstance(env, gym.Wrapper):
        limit = min(limit, env._max_episode_steps if isinstance(env, gym.wrappers.TimeLimit) else math.inf)
        env = env.env
    return limit


class CheckedEnv(gym.Wrapper):
    """Checks one of several environments: if it raises or returns something invalid, a Fault says which one and when.

    It replaces the infos by one array with the numbers of log_info: Gymnasium can't batch infos that differ between
    copies.

    name: how messages refer to it; log_info: names of numbers in its infos
    """

    def __init__(self, env: gym.Env, name: str, log_info: Sequence[str] = ()):
        super().__init__(env)
        self.observation_space = known_space(env)
        self.name, self.log_info, self.steps = name, log_info, 0

    def reset(self, **kwargs) -> tuple:
        if self.steps:
            self.warn_about_missing_numbers()
        self.steps, self.numbers = 0, np.full(len(self.log_info), np.nan)
        kwargs["options"] = kwargs.get("options") or None  # Gymnasium reduces {"reset_mask": ...} to {}
        try:
            result = self.env.reset(**kwargs)
        except UserError:
            raise  # a wrapper of ours doesn't fit the environment
        except (Exception, SystemExit) as error:
            if is_signal(error):
                raise
            raise Fault(f"{self.name} raised {first_line(error)} in reset") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise Fault(f"{self.name} returned {result!r:.80} from reset; it must be (observation, info)")
        return self.check_observation(result[0]), self.find_numbers(result[1])

    def step(self, action) -> tuple:
        self.steps += 1
        try:
            result = self.env.step(action)
        except (Exception, SystemExit) as error:
            if is_signal(error):
                raise
            when = f"at step {self.steps} of its episode, on action {action}"
            raise Fault(f"{self.name} raised {first_line(error)} {when}") from error
        if not (isinstance(result, tuple) and len(result) == 5):
            raise Fault(
                f"{self.name} returned {result!r:.80} from step; it must be (observation, reward, terminated, "
                "truncated, info)"
            )
        o, r, terminated, truncated, info = result
        o = self.check_observation(o)
        if not isinstance(r, Real):
            raise Fault(f"{self.name} returned the reward {r!r:.80} at step {self.steps}; it must be a number")
        ended = self.to_bool("terminated", terminated), self.to_bool("truncated", truncated)
        return o, r, *ended, self.find_numbers(info)

    def close(self) -> None:
        close_or_warn(self.env, self.name.rpartition(" ")[0])

    def to_bool(self, what: str, x) -> bool:
        """x as a bool, if it is one or a single number; raises Fault for anything else."""
        if isinstance(x, bool | np.bool_):
            return bool(x)
        value = np.asarray(x)
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise Fault(f"{self.name} returned {x!r:.80} for {what} at step {self.steps}; it must be True or False")
        return bool(value.item())

    def check_observation(self, o) -> np.ndarray:
        """The observation as an array; raises Fault if its shape or dtype doesn't match the space."""
        space, when = self.observation_space, f"at step {self.steps} of its episode"
        try:
            x = np.asarray(o)
        except Exception as error:  # such as for a tensor on a GPU, or nested lists of unequal lengths
            what = f"an observation that isn't an array ({first_line(error)})"
            raise Fault(f"{self.name} returned {what}, {when}") from error
        if x.shape != space.shape:
            what = f"an observation of shape {x.shape}; its space says {space.shape}"
        elif x.dtype != space.dtype and not np.can_cast(x.dtype, space.dtype, "same_kind"):
            what = f"an observation of {x.dtype} ({o!r:.80}); its space says {space.dtype}"
        else:
            return x
        raise Fault(f"{self.name} returned {what}, {when}")

    def find_numbers(self, info) -> dict:
        """The latest value in this episode of each number in log_info; NaN for those not seen yet."""
        if not self.log_info:
            return {}
        self.info = info
        found = np.array([number_in(info, name) for name in self.log_info])
        self.numbers = np.where(np.isnan(found), self.numbers, found)
        return {"numbers": self.numbers}

    def warn_about_missing_numbers(self) -> None:
        """After an episode: warn about names that none of its infos had."""
        for name in np.array(self.log_info, object)[np.isnan(self.numbers)]:
            keys = ", ".join(map(str, self.info)) if isinstance(self.info, Mapping) else ""
            where = self.name.rpartition(" ")[0]
            message = f"an episode ended without a number '{name}' in its info, which has {keys or 'nothing'}"
            warn_once(f"{where} {name}", f"{where}: {message}")


def number_in(info, name: str) -> float:
    """info[name], or info["a"]["b"] for "a.b"; NaN if that isn't a number."""
    try:
        for part in [name] if name in info else name.split("."):
            info = info[part]
        value = np.asarray(info)
        return float(value.item()) if value.size == 1 and value.dtype.kind in "biuf" else np.nan
    except Exception:  # an info can hold anything
        return np.nan
