"""Environments: made, seeded, stepped N at a time, and turned into the few kinds of arrays that networks take."""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import math
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from spinup.algorithm import Algorithm, files, find
from spinup.errors import Fault, UserError, closest, first_line, install
from spinup.observations import check_for_flat_images, is_image, known_space, network_space
from spinup.system.terminal import say

# Packages that register environments when imported, by the first part of the id, and the extra that brings them.
NAMESPACES = {"ALE": ("ale_py", "atari")}
DEFAULT_LENGTH = 1000  # max_ep_len, unless said otherwise
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale": "atari"}
SEEDS = 2**31  # seeds are below it: many simulators keep theirs in a C int
LARGEST = float(np.finfo(np.float32).max)
EXACT = 2.0**24  # beyond it float32 skips whole numbers
WRAPPER = re.compile(r"([\w.]+):(\w+)(?:\((.*)\))?", re.DOTALL)
TOLD: set[str] = set()  # the topics of `warn_once`


def warn_once(topic: str, message: str) -> None:
    """Print a warning on stderr, unless there was one on this topic before."""
    if topic not in TOLD:
        TOLD.add(topic)
        say(f"warning: {message}; this is said once", error=True)


# ---- one environment


@functools.cache  # also because catch_warnings makes Python forget which warnings it has shown
def check_env_id(env_id: str) -> None:
    """Raise UserError, with the closest match, where Gymnasium knows no environment `env_id` ("module:Env-v0" too)."""
    module, colon, name = env_id.rpartition(":")
    if colon:
        found = import_module(module, f"environment '{env_id}'", "MyEnv-v0")
        register = getattr(found, "register_envs", None)  # of packages that register nothing when they are imported
        if (
            callable(register) and name not in gym.registry and getattr(register, "__module__", None) == module
        ):  # and not Gymnasium's own
            register()
    if name.split("/")[0] in NAMESPACES:
        namespace, extra = NAMESPACES[name.split("/")[0]]
        try:
            gym.register_envs(importlib.import_module(namespace))
        except ModuleNotFoundError:
            raise UserError(f"environment '{env_id}' needs: {install(extra)}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "... is out of date": told once, when it is made
            gym.spec(name)
    except (gym.error.Error, ValueError):  # ValueError: a version of thousands of digits
        raise UserError(f"there is no environment '{env_id:.80}'{hint(name[:80])}") from None


def hint(env_id: str) -> str:
    """What may be meant by an id that Gymnasium does not know: a typo, or an environment of a package not imported."""

    def base(env_id: str) -> str:
        return re.sub(r"-v\d+$", "", env_id).lower()

    for near in difflib.get_close_matches(base(env_id), map(base, gym.registry), n=1, cutoff=0.8):
        return closest(env_id, [known for known in gym.registry if base(known) == near], cutoff=0)
    modules = modules_with_environments()
    start = re.sub(r"\W|_", "", env_id.lower())
    for module in modules:
        if start.startswith(module.replace("_", "").lower()):
            return f"; did you mean '{module}:{env_id}'?"
    there = f"; packages here that may: {', '.join(modules)}" if modules else ""
    return f"; one that another package registers needs its module, as in my_module:{env_id or 'Env-v0'}{there}"


def modules_with_environments() -> list[str]:
    """Modules of the installed packages that are built on Gymnasium, and may register environments when imported."""
    found = []
    for module, packages in importlib.metadata.packages_distributions().items():
        requirements = [line for package in set(packages) for line in importlib.metadata.requires(package) or ()]
        if any(re.match(r"gymnasium(?![\w-])", line) for line in requirements) and module.isidentifier():
            found.append(module)
    return sorted({*found} - {__package__, "gymnasium", "tests"})


def import_module(module: str, what: str, example: str) -> ModuleType:
    """A module that the user names; UserError where there is none. what, example: for the message"""
    if not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"{what}: '{module}' is not a module's name, as in my_module:{example}")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not: its author wants the traceback
        raise UserError(f"{what}: there is no module '{error.name}' to import") from None


def make_env(
    env_fn: str | Callable[[], gym.Env],
    env_kwargs: dict | None = None,
    wrappers: Sequence | str | None = None,
    **kwargs,
) -> gym.Env:
    """One environment from an id or a function that makes it; Dict, Tuple and discrete observations are flattened.

    wrappers: what is put around it, the first one innermost: functions of an environment, or words as in `wrap`
    kwargs: render_mode and the like, for gymnasium.make

    Raises UserError for an unknown id, unknown env_kwargs, a missing extra, a wrapper that does not fit, or spaces that
    are not supported.
    """
    env = call_maker(env_fn, env_kwargs or {}, kwargs)
    if isinstance(env, gym.vector.VectorEnv):
        raise UserError("env_fn made a vector environment; it must make single ones, num_envs says how many")
    check_is_env(env, "env_fn")
    for wrapper in as_wrappers(wrappers):
        env = wrap(env, wrapper)
        check_is_env(env, f"wrapper {wrapper}")
    check_spaces(env.observation_space, env.action_space)
    return env if isinstance(env.observation_space, spaces.Box) else Flattened(env)


class Flattened(gym.wrappers.FlattenObservation):
    """Ours, as an environment may bring one of its own."""


def call_maker(env_fn: str | Callable[[], gym.Env], env_kwargs: dict, kwargs: dict) -> gym.Env:
    """What env_fn makes. Raises UserError where that fails by a mistake of the user's, and else what was raised."""
    arguments = {**env_kwargs, **kwargs}
    if isinstance(env_fn, str):
        check_env_id(env_fn)
    elif not callable(env_fn):
        raise UserError(f"env_fn is {env_fn!r:.80}; it must be an id or a function that makes an environment")
    try:
        return gym.make(env_fn, **arguments) if isinstance(env_fn, str) else env_fn(**arguments)
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
        name, unknown = label(env_fn), re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in arguments:
            if unknown[1] == "render_mode":
                raise UserError(f"environment '{name}' cannot be drawn: what makes it takes no render_mode") from None
            raise UserError(f"environment '{name}' does not take these env_kwargs: {error}") from None
        if does_not_fit(error):
            verb = "does not take these" if arguments else "needs other"
            raise UserError(f"environment '{name}' {verb} env_kwargs: {error}") from None
        if isinstance(env_fn, str) and env_kwargs and not fails_without(env_fn, kwargs, error):
            raise UserError(f"environment '{name}' does not take these env_kwargs: {first_line(error)}") from None
        raise


def label(env_fn: str | Callable) -> str:
    return env_fn if isinstance(env_fn, str) else getattr(env_fn, "__name__", "env_fn")


def does_not_fit(error: Exception) -> bool:
    """Whether the arguments did not fit what was called, or gymnasium.make called: then none of its code has run."""
    first = error.__cause__ or error
    return isinstance(first, TypeError) and first.__traceback__ is not None and first.__traceback__.tb_next is None


def fails_without(env_id: str, kwargs: dict, error: Exception) -> bool:
    """Whether the environment raises the same without env_kwargs: then they are not to blame."""
    try:
        close(gym.make(env_id, **kwargs), env_id)
    except Exception as other:
        return first_line(other.__cause__ or other) == first_line(error.__cause__ or error)
    return False


def close(env: gym.Env, name: str) -> None:
    """Close an environment; where that raises, a warning is enough, as it has done what it was made for."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        warn_once(f"close of {name}", f"{name} raised {first_line(error)} in close")


def check_is_env(env: gym.Env, maker: str) -> None:
    if not all(isinstance(getattr(env, name, None), spaces.Space) for name in ("observation_space", "action_space")):
        what = "it must make a gymnasium.Env with observation_space and action_space"
        raise UserError(f"{maker} made {env!r:.80}; {what}")


# ---- wrappers


def as_wrappers(wrappers: Sequence | str | None) -> list:
    """The wrappers one by one: `[a:A, b:B(1)]`, as the command line has it, is a list too."""
    if wrappers is None:
        return []
    if isinstance(wrappers, str):
        inside = wrappers.strip()
        inside = inside[1:-1] if inside[:1] == "[" and inside[-1:] == "]" else inside
        return [word.strip() for word in re.split(r",(?=\s*[\w.]+:\w+\s*(?:[(,]|$))", inside)]
    if not (callable(wrappers) or isinstance(wrappers, list | tuple)):
        raise UserError(f"wrappers is {wrappers!r:.80}; it must be a list of functions or of words as module:Name")
    return [wrappers] if callable(wrappers) else list(wrappers)


def wrap(env: gym.Env, wrapper: str | Callable[[gym.Env], gym.Env]) -> gym.Env:
    """The environment in a wrapper: what a function makes of it, or a class by name, "module:Name(1, name=2)"."""
    if callable(wrapper):
        return wrapper(env)
    maker, args, kwargs = find_wrapper(wrapper)
    try:
        return maker(env, *args, **kwargs)
    except (AssertionError, ValueError, TypeError, gym.error.Error) as error:
        if isinstance(error, TypeError) and not does_not_fit(error):
            raise
        raise UserError(f"wrapper '{wrapper}' does not fit {env}: {first_line(error)}") from None


def find_wrapper(wrapper: str) -> tuple[Callable, list, dict]:
    """What "module:Name(1, name=2)" names, and its arguments. Raises UserError where there is nothing like it."""
    match = WRAPPER.fullmatch(wrapper) if isinstance(wrapper, str) else None
    if not match:
        hint = "; it must be a function of an environment or module:Name, as gymnasium.wrappers:TimeLimit(50)"
        raise UserError(f"wrapper {wrapper!r:.200} names no module{hint}")
    module, name, arguments = match.groups()
    maker = getattr(import_module(module, f"wrapper '{wrapper}'", "MyWrapper"), name, None)
    if not callable(maker):
        hint = closest(name, dir(sys.modules[module]), f"{module}:")
        raise UserError(f"wrapper '{wrapper}': module {module} has no '{name}'{hint}")
    try:
        call = Words().visit(ast.parse(f"f({arguments or ''})", mode="eval")).body
        args = [ast.literal_eval(value) for value in call.args]
        return maker, args, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError, AttributeError, RecursionError, MemoryError):
        raise UserError(f"wrapper '{wrapper:.200}': its arguments must be as in {name}(1, name=[2, 'x'])") from None


class Words(ast.NodeTransformer):
    """Makes strings of bare words, as on the command line."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.copy_location(ast.Constant(node.id), node)


def saved_wrappers(folder: Path, config: Mapping, given: Sequence | None = None) -> list:
    """The wrappers of a run: those given, else the ones in its config.json.

    Raises UserError where these are not Gymnasium's own, as what a folder names is not imported.
    """
    if given is not None:
        return as_wrappers(given)
    wrappers = as_wrappers(config.get("wrappers"))
    if flags := wrapper_flags(wrappers):
        named = all(WRAPPER.fullmatch(str(wrapper)) for wrapper in wrappers)
        allow = f"allow its wrappers with{flags} (wrappers=)" if named else "in Python: wrappers=[...]"
        raise UserError(f"{folder}: its wrappers {wrappers} are not all Gymnasium's; {allow}")
    return wrappers


def wrapper_flags(wrappers: Sequence | str | None) -> str:
    """What a command with a run's folder needs where a wrapper is not one of Gymnasium's."""
    words = [str(wrapper) for wrapper in as_wrappers(wrappers)]
    if all(word.startswith("gymnasium.wrappers:") for word in words):
        return ""
    return "".join(f" --wrapper {shlex.quote(word)}" for word in words)


# ---- spaces


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise UserError for spaces that no algorithm here supports."""
    actions = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(action_space, actions):
        raise UserError(f"action space {action_space} is not supported; Box, Discrete, MultiDiscrete, MultiBinary are")
    if 0 in action_space.shape:
        raise UserError(f"action space {action_space} has no actions; its shape must have no 0")
    if is_empty(observation_space):
        raise UserError(f"observation space {observation_space} is empty; a constant can stand for no observation")
    if not has_fixed_size(observation_space):
        raise UserError(
            f"observation space {observation_space} has no fixed size; Box, Discrete, MultiDiscrete, MultiBinary, "
            "and Dict or Tuple of these are supported"
        )


def check_actions(algorithm: Algorithm, space: spaces.Space) -> None:
    """Raise UserError if the algorithm does not take these actions, and say which algorithms do.

    space: VecEnv.action_space
    """
    bounded = not isinstance(space, spaces.Box) or bool(np.all(space.high / 2 - space.low / 2 < LARGEST / 2))
    if takes_actions(algorithm, space, bounded):
        return
    others = [other for other in map(find, files()) if takes_actions(other, space, bounded)]
    names = " and ".join(filter(None, [", ".join(o.name for o in others[:-1]), *(o.name for o in others[-1:])]))
    kinds = (f"a bounded {kind} of actions" if kind == "Box" else f"{kind} actions" for kind in algorithm.actions)
    if bounded:
        raise UserError(f"{algorithm.name} needs {' or '.join(kinds)}, not {space}; {names} take these")
    raise UserError(
        f"{algorithm.name} needs bounded actions, and these have no bounds: {space}; {names} take them, or give the "
        "environment's Box finite bounds"
    )


def takes_actions(algorithm: Algorithm, space: spaces.Space, bounded: bool) -> bool:
    return type(space).__name__ in algorithm.actions and (algorithm.on_policy or bounded)


def has_fixed_size(space: spaces.Space) -> bool:
    """Whether its observations flatten to an array of numbers."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return all(map(has_fixed_size, space.values() if isinstance(space, spaces.Dict) else space))
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def is_empty(space: spaces.Space) -> bool:
    """Whether the space, or a part of it, has no numbers."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = list(space.values() if isinstance(space, spaces.Dict) else space)
        return not parts or any(map(is_empty, parts))
    return 0 in (space.shape or ())


# ---- many environments


class Guarded(gym.Wrapper):
    """One of several environments: where it raises, or returns what it must not, a Fault says which one and when.

    Of its infos, it passes on the numbers that are asked for, as one array: Gymnasium cannot put together infos that
    differ between copies.

    name: what the message calls it; log_info: names of numbers in its infos
    """

    def __init__(self, env: gym.Env, name: str, log_info: Sequence[str] = ()):
        super().__init__(env)
        self.observation_space = known_space(env)
        self.name, self.log_info, self.steps = name, log_info, 0

    def reset(self, **kwargs) -> tuple:
        if self.steps:
            self.warn_of_missing()
        self.steps, self.numbers = 0, np.full(len(self.log_info), np.nan)
        kwargs["options"] = kwargs.get("options") or None  # {} is what Gymnasium leaves of {"reset_mask": ...}
        try:
            result = self.env.reset(**kwargs)
        except Exception as error:
            raise Fault(f"{self.name} raised {first_line(error)} in reset") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise Fault(f"{self.name} returned {result!r:.80} from reset; it must be (observation, info)")
        return self.check_observation(result[0]), self.pick(result[1])

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
        o, r, terminated, truncated, info = result
        o = self.check_observation(o)
        if not isinstance(r, Real):
            raise Fault(f"{self.name} gave the reward {r!r:.80} at step {self.steps}; it must be a number")
        return o, r, self.truth("terminated", terminated), self.truth("truncated", truncated), self.pick(info)

    def close(self) -> None:
        close(self.env, self.name.rpartition(" ")[0])

    def truth(self, what: str, x) -> bool:
        """x where it is True or False, or a number or tensor of it; raises Fault for anything else."""
        if isinstance(x, bool | np.bool_):
            return bool(x)
        value = np.asarray(x)
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise Fault(f"{self.name} gave {x!r:.80} for {what} at step {self.steps}; it must be True or False")
        return bool(value.item())

    def check_observation(self, o) -> np.ndarray:
        """The observation as an array; raises Fault for another shape or kind of number than the space's."""
        space, when = self.observation_space, f"at step {self.steps} of its episode"
        try:
            x = np.asarray(o)
        except Exception as error:  # as of a tensor on a GPU, or of lists of several lengths
            raise Fault(f"{self.name} gave an observation that is no array ({first_line(error)}), {when}") from error
        if x.shape != space.shape:
            what = f"an observation of shape {x.shape}; its space says {space.shape}"
        elif x.dtype != space.dtype and not np.can_cast(x.dtype, space.dtype, "same_kind"):
            what = f"an observation of {x.dtype} ({o!r:.80}); its space says {space.dtype}"
        else:
            return x
        raise Fault(f"{self.name} gave {what}, {when}")

    def pick(self, info) -> dict:
        """The last value of each number in log_info that the episode has shown, NaN before the first."""
        if not self.log_info:
            return {}
        self.info = info
        found = np.array([number_in(info, name) for name in self.log_info])
        self.numbers = np.where(np.isnan(found), self.numbers, found)
        return {"numbers": self.numbers}

    def warn_of_missing(self) -> None:
        """After an episode: tell of names that none of its infos had."""
        for name in np.array(self.log_info, object)[np.isnan(self.numbers)]:
            there = ", ".join(map(str, self.info)) if isinstance(self.info, Mapping) else ""
            where = self.name.rpartition(" ")[0]
            message = f"an episode ended without a number '{name}' in its info, which has {there or 'nothing'}"
            warn_once(f"{where} {name}", f"{where}: {message}")


def number_in(info, name: str) -> float:
    """info[name], or info["a"]["b"] for "a.b"; NaN where that is not a number."""
    try:
        for part in [name] if name in info else name.split("."):
            info = info[part]
        value = np.asarray(info)
        return float(value.item()) if value.size == 1 and value.dtype.kind in "biuf" else np.nan
    except Exception:  # infos are for people, and hold anything
        return np.nan


class VecEnv:
    """N environments side by side, with the true next observation at every step and statistics of their episodes.

    Every episode has a seed of its own, made from the run's seed, the environment's number and the episode's. So the
    seed and the actions since tell all of a running episode: `state_dict` holds them, and `load_state_dict` plays the
    actions again. With `reseed=False` only an environment's first reset has a seed, and episodes after its first cannot
    be played again.

    observation_space: a float32 Box with one dimension, or a Box of images; see spinup.observations
    action_space: what the policy's actions are: a Box or MultiDiscrete with one dimension, or Discrete from 0
    num_envs: N; name: what messages call the environment; made: the other arguments of `make_envs`

    Raises Fault where an environment raises, dies, or gives NaN, infinity, numbers too large for float32 or another
    shape than its space's.
    """

    def __init__(self, envs: gym.vector.VectorEnv, seed: int, name: str, **made):
        self.envs, self.num_envs, self.made = envs, envs.num_envs, made
        self.seed, self.name, self.seeded = seed, name, False
        self.max_ep_len, self.reseed, self.log_info = made["max_ep_len"], made["reseed"], made["log_info"]
        obs, act = envs.single_observation_space, envs.single_action_space
        self.observation_space = network_space(obs)
        self.raw_observation_space, self.raw_action_space = obs, act  # the environment's own; make_envs knows better
        self.own_limit = math.inf  # steps after which the environment itself truncates an episode
        self.action_space = flat_action_space(act)
        self.start = np.asarray(act.start) if isinstance(act, spaces.Discrete | spaces.MultiDiscrete) else 0
        self.finished: list[tuple] = []
        bounded = isinstance(obs, spaces.Box) and (np.isfinite(obs.low).any() or np.isfinite(obs.high).any())
        bytes_alone = is_image(obs) and obs.dtype == np.uint8
        self.bounds = (obs.low, obs.high) if bounded and not bytes_alone else None  # None: none to leave, or told
        check_for_flat_images(name, obs)

    def reset(self) -> np.ndarray:
        """Start all episodes anew, from the seed; the first observations, (N, *obs_shape).

        With `reseed=False` a second call begins the next episodes.
        """
        self.ep_ret, self.ep_len = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        self.done = np.zeros(self.num_envs, bool)
        self.episode = np.zeros(self.num_envs, int)  # the number of each environment's running episode
        self.actions: list[np.ndarray] = []  # the environments' own, back to the first of the longest running episode
        self.envs.action_space.seed(self.seed)
        self.info = np.full((self.num_envs, len(self.log_info)), np.nan)
        seeds = self._episode_seeds() if self.reseed or not self.seeded else None
        self.seeded = True
        o, infos = self._call("reset", seed=seeds)
        self.o, self.info = self._observations(o), infos.get("numbers", self.info)
        return self.o

    def step(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Take the policy's actions (N, *act_shape), each clipped to its bounds.

        Returns (o2, r, terminated, truncated): the true next observations, (N, *obs_shape), and three (N,) arrays.
        Where an episode ended, `reset_done` must come next.
        """
        self.actions.append(self._raw_actions(a))
        o2, r, terminated, truncated, infos = self._call("step", self.actions[-1])
        self.ep_ret += r
        self.ep_len += 1
        self.o, self.info = self._observations(o2), infos.get("numbers", self.info)
        self._check_numbers("reward", r)
        truncated = truncated | (self.ep_len >= self.max_ep_len)
        self.done = terminated | truncated
        return self.o, r, terminated.copy(), truncated

    def reset_done(self) -> np.ndarray:
        """Start new episodes where the last step ended one; the observations to act on next, (N, *obs_shape)."""
        if self.done.any():
            self.finished += self.episodes(self.done)
            self._begin_episodes(self.done)
            self.done = np.zeros_like(self.done)
        return self.o

    def random_actions(self) -> np.ndarray:
        """One action of the policy's for each environment, drawn uniformly from its space: (N, *act_shape)."""
        return (self.envs.action_space.sample() - self.start).reshape(self.num_envs, *self.action_space.shape)

    def episodes(self, mask: np.ndarray) -> list[tuple]:
        """Return, length and the numbers of log_info of the running episodes in mask, (N,)."""
        rows = (self.ep_ret[mask].tolist(), self.ep_len[mask].tolist(), *self.info[mask].T.tolist())
        return list(zip(*rows, strict=True))

    def pop_episodes(self) -> dict[str, list]:
        """Returns, lengths and the numbers of log_info, where there were some, of the episodes since the last call."""
        episodes, self.finished = self.finished, []
        return columns(episodes, ("EpRet", "EpLen", *self.log_info))

    def evaluate(self, ac, episodes: int, num_envs: int | None = None) -> dict[str, list]:
        """What `evaluate` gives for new environments made as these: TestEpRet, TestEpLen and Test_ before log_info's.

        num_envs: how many are there at a time; None: one for each episode, or with "async" as many as these
        """
        if num_envs is None and self.made["vectorization"] == "async":
            num_envs = self.num_envs
        played = evaluate(ac, episodes=episodes, num_envs=num_envs, **self.made)
        names = ("TestEpRet", "TestEpLen", *evaluation_columns(self.log_info))
        return columns(list(zip(*played.values(), strict=True)), names)

    def close(self) -> None:
        try:
            self.envs.close()
        except Exception as error:  # as where a worker process ends itself in it
            warn_once(f"close of {self.name}", f"{self.name} raised {first_line(error)} in close")
            self._end_workers()

    # ---- as it was, in another process

    def state_dict(self) -> dict:
        """What `load_state_dict` needs, between `reset_done` and the next step."""
        kept = ("ep_ret", "ep_len", "episode", "o", "info")
        return {
            **{name: getattr(self, name).copy() for name in kept},
            "actions": np.array(self.actions) if self.actions else np.zeros((0, self.num_envs)),
            "finished": list(self.finished),
            "action_space": self.envs.action_space.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping) -> np.ndarray:
        """Bring all environments to where they were: each episode's seed, and its actions again.

        Returns where that failed, (N,) bool: there another observation came out than was seen then, because the
        environment does not repeat itself from its seed, and a new episode has begun. With `reseed=False` that is so in
        all episodes but an environment's first.
        """
        self.reset()
        self.episode, lengths = state["episode"].copy(), state["ep_len"]
        unknown = (self.episode > 0) & (not self.reseed)
        lengths = np.where(unknown, 0, lengths)
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
        failed = (self.o != state["o"]).reshape(self.num_envs, -1).any(-1) | unknown
        self.actions, self.finished = actions, [tuple(episode) for episode in state["finished"]]
        self.info = state.get("info", self.info).copy()
        self.ep_ret, self.ep_len = state["ep_ret"].copy(), lengths.copy()
        self.envs.action_space.np_random.bit_generator.state = state["action_space"]
        if failed.any():
            self._begin_episodes(failed)
        return failed

    # ---- parts

    def _episode_seeds(self) -> list[int | None]:
        """The seed of each environment's running episode: seed + its number for the first, then one drawn from both."""
        seeds = []
        for i, episode in enumerate(self.episode.tolist()):
            later = np.random.SeedSequence((self.seed, i, episode)).generate_state(1).item() if episode else 0
            seeds.append((later or self.seed + i) % SEEDS if self.reseed or not episode else None)
        return seeds

    def _begin_episodes(self, mask: np.ndarray) -> None:
        """New episodes where mask, (N,), says so."""
        self.ep_ret[mask], self.ep_len[mask] = 0, 0
        self.episode[mask] += 1
        o, infos = self._call("reset", seed=self._episode_seeds(), options={"reset_mask": mask})
        self.o = self._observations(o)
        if self.log_info:
            self.info = np.where(mask[:, None], infos["numbers"], self.info)
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
        self._check_numbers("observation", o)
        if self.bounds and not ((o >= self.bounds[0]) & (o <= self.bounds[1])).all():
            self._warn_of_bounds(o, self.bounds)
        return o.reshape(self.num_envs, *self.observation_space.shape).astype(self.observation_space.dtype)

    def _check_numbers(self, what: str, x: np.ndarray) -> None:
        """Raise Fault for the first environment with NaN, infinity or what is too large for float32 in x, (N, ...)."""
        if x.dtype.itemsize == 1:
            return
        x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
        if np.vdot(x, x) < EXACT**2:  # one call; nearly always enough
            return
        bad = np.argwhere(~(np.abs(x) <= (LARGEST**0.5 if what == "reward" else LARGEST)))
        if len(bad):
            i = int(bad[0, 0])
            square = "the square of which is " if what == "reward" else ""  # it is squared by the critic's loss
            why = f", {square}too large for float32, in which it is learned from: scale it, for example in a wrapper"
            why = why if np.isfinite(x[tuple(bad[0])]) else ""
            raise Fault(f"{self.name} {i} gave the {what} {x[i]} at step {self.ep_len[i]} of its episode{why}")
        if what == "observation" and (coarse := np.argwhere(np.abs(x) >= EXACT)).size:
            i, *where = coarse[0].tolist()
            value = x[(i, *where)]
            told = f"{self.name} {i} observed {value} at index {tuple(where)}, where float32 has steps of"
            hint = "subtract a constant from it or scale it, for example in a wrapper"
            warn_once(f"float32 {self.name}", f"{told} {np.spacing(np.abs(np.float32(value))):g}: {hint}")

    def _warn_of_bounds(self, o: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> None:
        """Tell, once, of an observation outside its space: it can be learned from, and should not be there."""
        outside = (o < bounds[0]) | (o > bounds[1])
        i, *where = np.argwhere(outside)[0].tolist()
        low, high = (bound[tuple(where)] for bound in bounds)
        self.bounds = None
        value = f"{o[(i, *where)]} at index {tuple(where)}, outside of its space's {low} to {high}"
        warn_once(f"bounds of {self.name}", f"{self.name} {i} observed {value}")

    def _raw_actions(self, a: np.ndarray) -> np.ndarray:
        """The environments' own actions for the policy's."""
        return own_actions(self.raw_action_space, a)


def own_actions(space: spaces.Space, a: np.ndarray) -> np.ndarray:
    """The actions in an environment's own space, (N, *its shape), for N of the policy's."""
    a = a.reshape(len(a), *space.shape)
    if isinstance(space, spaces.Box):
        a = a.clip(space.low, space.high)
        return (np.rint(a) if space.dtype.kind in "iu" else a).astype(space.dtype)
    start = space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
    return (a + start).astype(space.dtype)


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


def as_names(log_info: Sequence[str] | str | None) -> tuple[str, ...]:
    """The names in log_info; "a,b" is two."""
    names = log_info.strip("[]").split(",") if isinstance(log_info, str) else log_info or ()
    if not isinstance(names, list | tuple):
        raise UserError(f"log_info is {log_info!r:.80}; it must be a list of names of numbers in the infos")
    names = tuple(name.strip() if isinstance(name, str) else name for name in names)
    for name in names:
        if name in ("EpRet", "EpLen"):
            raise UserError(f"log_info has {name!r}, which is already a column")
        if not isinstance(name, str) or not name or not name.isprintable():
            raise UserError(f"log_info has {name!r:.80}; it must have names of numbers in the infos, as is_success")
    return tuple(dict.fromkeys(names))


def evaluation_columns(log_info: Sequence[str]) -> list[str]:
    """The columns of an evaluation for the names in log_info."""
    return [f"Test_{name}" for name in log_info]


def columns(episodes: list[tuple], names: Sequence[str]) -> dict[str, list]:
    """Rows as columns, without the numbers that are not there."""
    return {name: [row[i] for row in episodes if not np.isnan(row[i])] for i, name in enumerate(names)}


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
    """N copies of an environment, seeded seed, seed + 1, ...

    vectorization: "sync" steps them in turn; "async" each in a process of its own, which pays for slow simulators.
    wrappers: as in `make_env`; reseed, log_info: see spinup.arguments

    Raises UserError as `make_env` does, and where two copies are the same object.
    """
    if num_envs < 1 or max_ep_len < 1:
        raise UserError(f"num_envs is {num_envs} and max_ep_len {max_ep_len}; both must be at least 1")
    kinds = {"sync": gym.vector.SyncVectorEnv, "async": Workers}
    if vectorization not in kinds:
        raise UserError(f"vectorization is '{vectorization}'; it must be 'sync' or 'async'")
    made = dict(env_fn=env_fn, max_ep_len=max_ep_len, env_kwargs=env_kwargs, vectorization=vectorization)
    names = as_names(log_info)
    name = f"{label(env_fn)}: environment"
    first = make_env(env_fn, env_kwargs, wrappers)  # so that a mistake shows here, not in a worker process
    close(first, name)
    seen, here = {id(first.unwrapped)}, os.getpid()

    def make(i: int) -> gym.Env:
        env = make_env(env_fn, env_kwargs, wrappers)
        if os.getpid() == here:  # a worker has its copy for itself
            if id(env.unwrapped) in seen:
                hint = "it must make a new one at each call, as in: lambda: gym.make('CartPole-v1')"
                raise UserError(f"env_fn returned an environment that it had returned before; {hint}")
            seen.add(id(env.unwrapped))
        return Guarded(env, f"{name} {i}", names)

    makers = [functools.partial(make, i) for i in range(num_envs)]
    copy = {"copy": False} if vectorization == "sync" else {}
    envs = kinds[vectorization](makers, autoreset_mode=AutoresetMode.DISABLED, **copy)
    envs = VecEnv(envs, int(seed), name, **made, wrappers=wrappers, reseed=reseed, log_info=names)
    envs.raw_observation_space = (first.env if isinstance(first, Flattened) else first).observation_space
    envs.own_limit = own_limit(first)
    return envs


def own_limit(env: gym.Env) -> float:
    """Steps after which an environment's TimeLimit ends an episode; infinity without one."""
    limit = math.inf
    while isinstance(env, gym.Wrapper):
        limit = min(limit, env._max_episode_steps if isinstance(env, gym.wrappers.TimeLimit) else math.inf)
        env = env.env
    return limit


# ---- a policy in its environment


def bind(policy, envs: VecEnv, max_ep_len: int) -> None:
    """Give a policy the call policy.action, for the environment's own spaces, and its run's max_ep_len."""
    if not hasattr(policy, "action"):  # networks of one's own may have something of that name
        policy.action = functools.partial(own_action, policy, envs.raw_observation_space, envs.raw_action_space)
    policy.max_ep_len = max_ep_len


def own_action(policy, observation_space: spaces.Space, action_space: spaces.Space, observation, deterministic=False):
    """The environment's own action, for one observation as the environment gives it.

    Raises UserError for what is not in the observation space.
    """
    try:
        if isinstance(observation_space, spaces.Box):
            o = np.asarray(observation)
            if o.shape != observation_space.shape:
                raise ValueError(f"its shape is {o.shape}")
        else:
            o = spaces.flatten(observation_space, observation)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        what = f"{' '.join(repr(observation).split()):.80} is not one observation of the policy's environment"
        raise UserError(f"{what}, {observation_space} ({first_line(error)})") from error
    o = o[None] if is_image(observation_space) else o.reshape(1, -1).astype(np.float32)
    return own_actions(action_space, policy.act(o, deterministic))[0]


def longest_episode(policy) -> int:
    """The max_ep_len of the run that a policy is from, or the default."""
    return getattr(policy, "max_ep_len", DEFAULT_LENGTH)


def evaluate(
    ac,
    env_fn: str | Callable[[], gym.Env],
    episodes: int = 10,
    deterministic: bool = True,
    seed: int = 1_000_000,
    max_ep_len: int | None = None,
    env_kwargs: dict | None = None,
    vectorization: str = "sync",
    wrappers: Sequence | str | None = None,
    reseed: bool = True,
    log_info: Sequence[str] | str | None = None,
    num_envs: int | None = None,
) -> dict[str, list]:
    """Play `episodes` episodes, the first seeded seed, the next seed + 1, ...

    max_ep_len: longest episode; None: that of the run the policy is from
    num_envs: environments that play at the same time, an episode each, until all have been played; with 1 they come one
        after another in one environment. None: one for each episode
    vectorization, wrappers, reseed, log_info: as in `make_envs`

    Returns the lists EpRet, EpLen and those of log_info, in the order of the seeds; NaN where an info had no number.
    """
    for what, number in (("episodes", episodes), ("num_envs", 1 if num_envs is None else num_envs)):
        if number < 1:
            raise UserError(f"{what} is {number}; it must be at least 1")
    num_envs = min(episodes, num_envs or episodes)
    max_ep_len = longest_episode(ac) if max_ep_len is None else max_ep_len
    envs = make_envs(env_fn, num_envs, seed, max_ep_len, env_kwargs, vectorization, wrappers, reseed, log_info)
    played = []
    with contextlib.closing(envs):
        for first in range(0, episodes, num_envs):
            envs.seed = seed + first
            played += play_round(ac, envs, deterministic)
    names = ("EpRet", "EpLen", *envs.log_info)
    return {name: [row[i] for row in played[:episodes]] for i, name in enumerate(names)}


def play_round(ac, envs: VecEnv, deterministic: bool) -> list[tuple]:
    """Each environment's first episode, as in `VecEnv.episodes`: so short ones count no more than long ones."""
    played: list[tuple | None] = [None] * envs.num_envs
    o = envs.reset()
    while True:
        envs.step(ac.act(o, deterministic))
        for i in np.flatnonzero(envs.done):
            played[i] = played[i] or envs.episodes(np.arange(envs.num_envs) == i)[0]
        if all(played):
            return [episode for episode in played if episode]
        o = envs.reset_done()
