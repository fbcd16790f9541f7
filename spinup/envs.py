"""Create, seed and vectorize environments, and convert their spaces to the few kinds of arrays that networks take."""

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
from spinup.observations import action_mask, check_for_flat_images, is_image, known_space, mask_slice, network_space
from spinup.system.signals import is_signal
from spinup.system.terminal import say
from spinup.wrappers import num_choices

# Id namespace -> (module that registers its environments when imported, extra that installs it).
NAMESPACES = {"ALE": ("ale_py", "atari")}
DEFAULT_LENGTH = 1000  # default of max_ep_len
MODULES = {"gymnasium_robotics": "robotics"}  # module -> extra that installs it
# The environments of gymnasium_robotics begin so.
ROBOTS = ("AdroitHand", "AntMaze", "Fetch", "FrankaKitchen", "HandManipulate", "HandReach", "PointMaze")
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale": "atari"}
SEED_LIMIT = 2**31  # environment seeds stay below: many simulators store them in a C int
FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_EXACT = 2.0**24  # above this, float32 can't represent every integer
WRAPPER_SPEC = re.compile(r"([\w.]+):(\w+)(?:\((.*)\))?", re.DOTALL)
WARNED: set[str] = set()  # topics that `warn_once` has warned about


def warn_once(topic: str, message: str) -> None:
    """Print a warning to stderr, unless this topic already had one."""
    if topic not in WARNED:
        WARNED.add(topic)
        say(f"warning: {message} (shown once)", error=True)


# ---- one environment


@functools.cache  # also because catch_warnings resets Python's record of warnings already shown
def check_env_id(env_id: str) -> None:
    """Raise UserError, suggesting the closest match, if `env_id` ("Env-v0" or "module:Env-v0") isn't registered."""
    module, colon, name = env_id.rpartition(":")
    if colon:
        found = import_module(module, f"environment '{env_id}'", "MyEnv-v0")
        # Some packages register their environments by a function instead of on import. The check of __module__ skips
        # Gymnasium's own register_envs, if the module imported it.
        register = getattr(found, "register_envs", None)
        if callable(register) and name not in gym.registry and getattr(register, "__module__", None) == module:
            register()
    if name.split("/")[0] in NAMESPACES:
        namespace, extra = NAMESPACES[name.split("/")[0]]
        try:
            gym.register_envs(importlib.import_module(namespace))
        except ModuleNotFoundError:
            raise UserError(f"environment '{env_id}' needs: {install(extra)}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "... is out of date" appears once, when the environment is made
            gym.spec(name)
    except (gym.error.Error, ValueError):  # ValueError: a version with thousands of digits
        raise UserError(f"there is no environment '{env_id:.80}'{suggest_env(name[:80])}") from None


def suggest_env(env_id: str) -> str:
    """A hint for an unregistered id: a likely typo, or a package that may register it when imported."""

    def base(env_id: str) -> str:
        return re.sub(r"-v\d+$", "", env_id).lower()

    for match in difflib.get_close_matches(base(env_id), map(base, gym.registry), n=1, cutoff=0.8):
        return closest(env_id, [known for known in gym.registry if base(known) == match], cutoff=0)
    if env_id.startswith(ROBOTS):
        return f"; did you mean 'gymnasium_robotics:{env_id}'?"
    modules = modules_with_environments()
    start = re.sub(r"\W|_", "", env_id.lower())
    for module in modules:
        if start.startswith(module.replace("_", "").lower()):
            return f"; did you mean '{module}:{env_id}'?"
    candidates = f"; installed packages that may register it: {', '.join(modules)}" if modules else ""
    return f"; if another package registers it, name the module: my_module:{env_id or 'Env-v0'}{candidates}"


@functools.cache  # takes half a second
def modules_with_environments() -> list[str]:
    """Modules of installed packages that depend on Gymnasium, and so may register environments when imported."""
    found = []
    for module, packages in importlib.metadata.packages_distributions().items():
        requirements = [line for package in set(packages) for line in importlib.metadata.requires(package) or ()]
        if any(re.match(r"gymnasium(?![\w-])", line) for line in requirements) and module.isidentifier():
            found.append(module)
    return sorted({*found} - {__package__, "gymnasium", "tests"})


def import_module(module: str, what: str, example: str) -> ModuleType:
    """Import a module that the user named. Raises UserError if it doesn't exist. what, example: for the message"""
    if not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"{what}: '{module}' is not a valid module name; write it as in my_module:{example}")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists but one of its imports doesn't: its author needs the traceback
        needs = f"; it needs: {install(MODULES[error.name])}" if error.name in MODULES else " to import"
        raise UserError(f"{what}: there is no module '{error.name}'{needs}") from None


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
    """A class of our own, to tell it from a FlattenObservation that the user applied."""


def build_env(env_fn: str | Callable[[], gym.Env], env_kwargs: dict, kwargs: dict) -> gym.Env:
    """Call env_fn, or gymnasium.make for an id. Raises UserError for wrong arguments; other errors pass through."""
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
            raise UserError(f"environment '{env_fn}' is not part of Gymnasium anymore{newest}") from None
        extra = next((extra for part, extra in EXTRAS.items() if part in str(spec.entry_point).lower()), None)
        if extra is None and ":" in env_fn:
            raise
        needs = f"needs: {install(extra)} ({error})" if extra else f"cannot be made: {first_line(error)}"
        raise UserError(f"environment '{env_fn}' {needs}") from None
    except Exception as error:
        name, unknown = env_name(env_fn), re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in arguments:
            if unknown[1] == "render_mode":
                raise UserError(f"environment '{name}' can't be rendered: its env_fn takes no render_mode") from None
            raise UserError(f"environment '{name}' does not take these env_kwargs: {error}") from None
        if is_signature_error(error):
            verb = "does not take these" if arguments else "needs other"
            raise UserError(f"environment '{name}' {verb} env_kwargs: {error}") from None
        if isinstance(env_fn, str) and env_kwargs and not fails_without_env_kwargs(env_fn, kwargs, error):
            raise UserError(f"environment '{name}' does not take these env_kwargs: {first_line(error)}") from None
        raise


def env_name(env_fn: str | Callable) -> str:
    return env_fn if isinstance(env_fn, str) else getattr(env_fn, "__name__", "env_fn")


def is_signature_error(error: Exception) -> bool:
    """Whether the call itself failed because the arguments don't match the signature, before any code ran."""
    first = error.__cause__ or error
    return isinstance(first, TypeError) and first.__traceback__ is not None and first.__traceback__.tb_next is None


def fails_without_env_kwargs(env_id: str, kwargs: dict, error: Exception) -> bool:
    """Whether the environment raises the same error without env_kwargs, so that they aren't the cause."""
    try:
        close_or_warn(gym.make(env_id, **kwargs), env_id)
    except Exception as other:
        return first_line(other.__cause__ or other) == first_line(error.__cause__ or error)
    return False


def close_or_warn(env: gym.Env, name: str) -> None:
    """Close an environment. An error in it is only a warning: the environment isn't needed anymore."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        warn_once(f"close of {name}", f"{name} raised {first_line(error)} in close")


def check_is_env(env: gym.Env, source: str) -> None:
    if not all(isinstance(getattr(env, name, None), spaces.Space) for name in ("observation_space", "action_space")):
        what = "it must return a gymnasium.Env with observation_space and action_space"
        raise UserError(f"{source} returned {env!r:.80}; {what}")


# ---- wrappers


def as_wrappers(wrappers: Sequence | str | None) -> list:
    """The wrappers as a list; also reads the command line's `[a:A, b:B(1)]`."""
    if wrappers is None:
        return []
    if isinstance(wrappers, str):
        inside = wrappers.strip()
        inside = inside[1:-1] if inside[:1] == "[" and inside[-1:] == "]" else inside
        return [spec.strip() for spec in re.split(r",(?=\s*[\w.]+:\w+\s*(?:[(,]|$))", inside)]
    if not (callable(wrappers) or isinstance(wrappers, list | tuple)):
        raise UserError(f"wrappers is {wrappers!r:.80}; it must be a list of functions or of strings as module:Name")
    return [wrappers] if callable(wrappers) else list(wrappers)


def wrap(env: gym.Env, wrapper: str | Callable[[gym.Env], gym.Env]) -> gym.Env:
    """Apply a wrapper: a function of the environment, or a class by name, as in "module:Name(1, name=2)"."""
    if callable(wrapper):
        return wrapper(env)
    cls, args, kwargs = find_wrapper(wrapper)
    try:
        return cls(env, *args, **kwargs)
    except Exception as error:
        unfit = isinstance(error, AssertionError | ValueError | gym.error.Error) or is_signature_error(error)
        if not (unfit or wrapper.startswith("gymnasium.")):  # a fault in the user's wrapper
            raise
        raise UserError(f"wrapper '{wrapper}' does not fit {env}: {first_line(error)}") from None


def find_wrapper(wrapper: str) -> tuple[Callable, list, dict]:
    """The class and arguments that "module:Name(1, name=2)" stands for. Raises UserError if it can't be resolved."""
    match = WRAPPER_SPEC.fullmatch(wrapper) if isinstance(wrapper, str) else None
    if not match:
        hint = "; it must be a function of an environment or module:Name, as in gymnasium.wrappers:TimeLimit(50)"
        raise UserError(f"wrapper {wrapper!r:.200} names no module{hint}")
    module, name, arguments = match.groups()
    imported = import_module(module, f"wrapper '{wrapper}'", "MyWrapper")
    try:
        cls = getattr(imported, name, None)
    except ImportError as error:  # Gymnasium imports some of its wrappers only now
        raise UserError(f"wrapper '{wrapper}': {first_line(error)}") from None
    if not callable(cls):
        hint = closest(name, dir(sys.modules[module]), f"{module}:")
        raise UserError(f"wrapper '{wrapper}': module {module} has no '{name}'{hint}")
    try:
        call = NamesToStrings().visit(ast.parse(f"f({arguments or ''})", mode="eval")).body
        if not isinstance(call.func, ast.Constant):  # f(1)(2)
            raise ValueError
        args = [ast.literal_eval(value) for value in call.args]
        return cls, args, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, AttributeError, RecursionError, MemoryError):
        raise UserError(f"wrapper '{wrapper:.200}': its arguments must be literals: {name}(1, name=[2, 'x'])") from None


class NamesToStrings(ast.NodeTransformer):
    """Turns bare names into strings, so that the command line needs no quotes."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.copy_location(ast.Constant(node.id), node)


def saved_wrappers(folder: Path, config: Mapping, given: Sequence | None = None) -> list:
    """A run's wrappers: those given, or the ones in its config.json.

    Raises UserError if config.json names wrappers other than Gymnasium's and ours: code that a folder names isn't
    trusted.
    """
    if given is not None:
        return as_wrappers(given)
    wrappers = as_wrappers(config.get("wrappers"))
    if flags := wrapper_flags(wrappers):
        named = all(WRAPPER_SPEC.fullmatch(str(wrapper)) for wrapper in wrappers)
        allow = f"allow its wrappers with{flags} (wrappers=)" if named else "in Python: wrappers=[...]"
        raise UserError(f"{folder}: its wrappers {wrappers} are not all Gymnasium's or spinup's; {allow}")
    return wrappers


def wrapper_flags(wrappers: Sequence | str | None) -> str:
    """The flags that allow a run's wrappers on the command line; "" if all are Gymnasium's or ours."""
    specs = [str(wrapper) for wrapper in as_wrappers(wrappers)]
    if all(spec.startswith(("gymnasium.wrappers:", "spinup.wrappers:")) for spec in specs):
        return ""
    return "".join(f" --wrapper {shlex.quote(spec)}" for spec in specs)


# ---- spaces


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raise UserError for spaces that no algorithm here supports."""
    actions = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(action_space, actions):
        raise UserError(f"action space {action_space} is not supported; Box, Discrete, MultiDiscrete, MultiBinary are")
    if 0 in action_space.shape:
        raise UserError(f"action space {action_space} has no actions; no dimension may be 0")
    if is_empty(observation_space):
        raise UserError(f"observation space {observation_space} is empty; without observations, return a constant")
    if not has_fixed_size(observation_space):
        raise UserError(
            f"observation space {observation_space} has no fixed size; Box, Discrete, MultiDiscrete, MultiBinary, "
            "and Dict or Tuple of these are supported"
        )
    if (mask := action_mask(observation_space)) is not None:
        try:
            size = num_choices(action_space)
        except ValueError as error:
            raise UserError(f"observations have an action_mask: {error}") from None
        if spaces.flatdim(mask) != size:
            found = f"the action_mask in the observations has {spaces.flatdim(mask)} entries"
            raise UserError(f"{found}; it must have {size}, one for each action of {action_space}")


def check_actions(algorithm: Algorithm, space: spaces.Space) -> None:
    """Raise UserError, naming the algorithms that would work, if this one doesn't support the action space.

    space: VecEnv.action_space
    """
    bounded = not isinstance(space, spaces.Box) or bool(np.all(space.high / 2 - space.low / 2 < FLOAT32_MAX / 2))
    if takes_actions(algorithm, space, bounded):
        return
    others = [other for other in map(find, files()) if takes_actions(other, space, bounded)]
    names = " and ".join(filter(None, [", ".join(o.name for o in others[:-1]), *(o.name for o in others[-1:])]))
    kinds = (f"a bounded {kind} of actions" if kind == "Box" else f"{kind} actions" for kind in algorithm.actions)
    if bounded:
        raise UserError(f"{algorithm.name} needs {' or '.join(kinds)}, not {space}; {names} take these")
    raise UserError(
        f"{algorithm.name} needs bounded actions, and these are unbounded: {space}; {names} take them, or give the "
        "environment's Box finite bounds"
    )


def takes_actions(algorithm: Algorithm, space: spaces.Space, bounded: bool) -> bool:
    return type(space).__name__ in algorithm.actions and (algorithm.on_policy or bounded)


def has_fixed_size(space: spaces.Space) -> bool:
    """Whether its observations flatten to an array of fixed length."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return all(map(has_fixed_size, space.values() if isinstance(space, spaces.Dict) else space))
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def is_empty(space: spaces.Space) -> bool:
    """Whether the space, or one of its entries, holds no numbers; an action mask doesn't count."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = [space[key] for key in space if key != "action_mask"] if isinstance(space, spaces.Dict) else list(space)
        return not parts or any(map(is_empty, parts))
    return 0 in (space.shape or ())


# ---- many environments


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

    def pop_episodes(self) -> dict[str, list]:
        """EpRet, EpLen and the numbers of log_info of the episodes finished since the last call; NaNs are dropped."""
        episodes, self.finished = self.finished, []
        return columns_without_nan(episodes, ("EpRet", "EpLen", *self.log_info))

    def evaluate(self, ac, episodes: int, num_envs: int | None = None) -> dict[str, list]:
        """`evaluate` in new environments made like these; the columns are TestEpRet, TestEpLen and Test_NAME.

        num_envs: environments played at a time; None: one for each episode, or with "async" as many as in training
        """
        if num_envs is None and self.made["vectorization"] == "async":
            num_envs = self.num_envs
        played = evaluate(ac, episodes=episodes, num_envs=num_envs, **self.made)
        names = ("TestEpRet", "TestEpLen", *evaluation_columns(self.log_info))
        return columns_without_nan(list(zip(*played.values(), strict=True)), names)

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

        Returns a mask of failures, (N,) bool: there the replay led to a different observation, because the environment
        isn't deterministic given its seed, and a new episode has begun. With `reseed=False` every episode after an
        environment's first fails.
        """
        self.reset()
        self.episode, lengths = state["episode"].copy(), state["ep_len"]
        unknown = (self.episode > 0) & (not self.reseed)
        lengths = np.where(unknown, 0, lengths)
        seeds, actions, steps = self._episode_seeds(), list(state["actions"]), int(lengths.max())
        # All environments step together: one with a shorter episode repeats it, so that its last replay ends with the
        # longest one.
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
        """Call Gymnasium's `reset` or `step`; raises Fault if a worker process died in it."""
        try:
            return getattr(self.envs, what)(*args, **kwargs)
        except (EOFError, ConnectionError) as error:
            for process in self.envs.processes:
                process.join(0.1)  # is_alive() may lag behind the broken pipe
            dead = [i for i, process in enumerate(self.envs.processes) if not process.is_alive()]
            self._terminate_workers()
            raise Fault(f"the process of {self.name} {', '.join(map(str, dead))} died in {what}") from error
        except Fault:
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

    def _raw_actions(self, a: np.ndarray) -> np.ndarray:
        return to_env_actions(self.raw_action_space, a)


def to_env_actions(space: spaces.Space, a: np.ndarray) -> np.ndarray:
    """The policy's actions, (N, *act_shape), converted to the environment's action space, (N, *space.shape)."""
    a = a.reshape(len(a), *space.shape)
    if isinstance(space, spaces.Box):
        a = a.clip(space.low, space.high)
        return (np.rint(a) if space.dtype.kind in "iu" else a).astype(space.dtype)
    start = space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
    return (a + start).astype(space.dtype)


class Workers(gym.vector.AsyncVectorEnv):
    """Environments in worker processes that don't react to Ctrl-C, SIGTERM and SIGHUP; the main process closes them.

    A terminal, `timeout` and Slurm signal all processes of a run, but the run still needs its environments to finish
    the current step and write its checkpoint.
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]], **kwargs):
        super().__init__([functools.partial(make_without_signals, os.getpid(), env_fn) for env_fn in env_fns], **kwargs)

    def _check_spaces(self) -> None:  # overridden because it is called as soon as the processes exist
        for process in self.processes:
            process._popen.terminate = process._popen.kill  # also for multiprocessing, when this process exits
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


def flat_action_space(space: spaces.Space) -> spaces.Space:
    """The space of the policy's actions: a Box or MultiDiscrete with one dimension, or Discrete from 0."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32))
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n)
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(space.shape, 2)
    return spaces.MultiDiscrete(sizes.ravel())


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


def evaluation_columns(log_info: Sequence[str]) -> list[str]:
    """The column names of an evaluation for the names in log_info."""
    return [f"Test_{name}" for name in log_info]


def columns_without_nan(episodes: list[tuple], names: Sequence[str]) -> dict[str, list]:
    """Rows turned into named columns, leaving out NaNs: numbers that an episode didn't have."""
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


def own_limit(env: gym.Env) -> float:
    """Steps after which an environment's own TimeLimit truncates an episode; infinity without one."""
    limit = math.inf
    while isinstance(env, gym.Wrapper):
        limit = min(limit, env._max_episode_steps if isinstance(env, gym.wrappers.TimeLimit) else math.inf)
        env = env.env
    return limit


# ---- policies


def has_memory(policy) -> bool:
    """Whether the policy's `act` also takes and returns the state of a memory (spinup.nets)."""
    return hasattr(policy, "initial_state")


class Player:
    """A policy that acts in N environments from the first steps of their episodes on, with its memory if it has one."""

    def __init__(self, policy, num_envs: int):
        self.policy = policy
        self.state = policy.initial_state(num_envs) if has_memory(policy) else None

    def act(self, o: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions at observations o, (N, *obs_shape): (N, *act_shape)."""
        if self.state is None:
            return self.policy.act(o, deterministic)
        a, self.state = self.policy.act(o, self.state, deterministic)
        return a


def bind(policy, envs: VecEnv, max_ep_len: int) -> None:
    """Give a policy the method policy.action, which works in the environment's own spaces, its run's max_ep_len, and
    policy.trained_on, the spaces of its observations and actions in VecEnv's format.
    """
    if not hasattr(policy, "action"):  # a user's network may have an attribute of that name
        function = env_action_and_state if has_memory(policy) else env_action
        policy.action = functools.partial(function, policy, envs.raw_observation_space, envs.raw_action_space)
    policy.max_ep_len = max_ep_len
    policy.trained_on = {"observations": envs.observation_space, "actions": envs.action_space}


def check_fits(policy, envs: VecEnv) -> None:
    """Raise UserError if a policy was trained on other spaces than these environments have."""
    here = {"observations": envs.observation_space, "actions": envs.action_space}
    for what, space in getattr(policy, "trained_on", {}).items():
        if (ours := layout(space)) != (theirs := layout(here[what])):
            name = env_name(envs.made["env_fn"])
            raise UserError(f"the policy's {what} are {ours:.80}, those of {name} {theirs:.80}; they must be the same")


def layout(space: spaces.Space) -> str:
    """What networks for one of VecEnv's spaces depend on, in words: all but a Box's bounds."""
    return f"Box{space.shape} of {space.dtype}" if isinstance(space, spaces.Box) else " ".join(str(space).split())


def env_action(policy, observation_space: spaces.Space, action_space: spaces.Space, observation, deterministic=False):
    """The policy's action for one observation, both as the environment's own spaces have them.

    Raises UserError if the observation doesn't fit the space.
    """
    return to_env_actions(action_space, policy.act(flat_observation(observation_space, observation), deterministic))[0]


def env_action_and_state(
    policy, observation_space: spaces.Space, action_space: spaces.Space, observation, state=None, deterministic=False
) -> tuple:
    """For a policy with memory: the action, as in `env_action`, and the state for the next step of the episode.

    state: that which the step before returned; None at the first step
    """
    a, state = policy.act(flat_observation(observation_space, observation), state, deterministic)
    return to_env_actions(action_space, a)[0], state


def flat_observation(observation_space: spaces.Space, observation) -> np.ndarray:
    """One observation of the environment's own space as a batch of one in VecEnv's, (1, *obs_shape).

    Raises UserError if it doesn't fit the space.
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
    return o[None] if is_image(observation_space) else o.reshape(1, -1).astype(np.float32)


def longest_episode(policy) -> int:
    """The max_ep_len of the run that trained the policy, or the default."""
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
    """Play episodes seeded with seed, seed + 1, ...

    max_ep_len: longest episode; None: that of the run that trained the policy
    num_envs: environments that play at the same time, one episode each per round; None: one for each episode
    vectorization, wrappers, reseed, log_info: as in `make_envs`

    Returns the lists EpRet, EpLen and those of log_info, in the order of the seeds; NaN if no info had the number.
    """
    for what, number in (("episodes", episodes), ("num_envs", 1 if num_envs is None else num_envs)):
        if number < 1:
            raise UserError(f"{what} is {number}; it must be at least 1")
    num_envs = min(episodes, num_envs or episodes)
    max_ep_len = longest_episode(ac) if max_ep_len is None else max_ep_len
    envs = make_envs(env_fn, num_envs, seed, max_ep_len, env_kwargs, vectorization, wrappers, reseed, log_info)
    played = []
    with contextlib.closing(envs):
        check_fits(ac, envs)
        for first in range(0, episodes, num_envs):
            envs.seed = seed + first
            played += play_round(ac, envs, deterministic)
    names = ("EpRet", "EpLen", *envs.log_info)
    return {name: [row[i] for row in played[:episodes]] for i, name in enumerate(names)}


def play_round(ac, envs: VecEnv, deterministic: bool) -> list[tuple]:
    """Play one episode in each environment. Counting only the first of each avoids a bias toward short episodes."""
    played: list[tuple | None] = [None] * envs.num_envs
    o, player = envs.reset(), Player(ac, envs.num_envs)
    while True:
        envs.step(player.act(o, deterministic))
        for i in np.flatnonzero(envs.done):
            played[i] = played[i] or envs.episodes(np.arange(envs.num_envs) == i)[0]
        if all(played):
            return [episode for episode in played if episode]
        o = envs.reset_done()
