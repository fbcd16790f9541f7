"""Environments by id or function: known ids, constructors, and messages for what can be wrong with them."""

import difflib
import functools
import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType

import gymnasium as gym
from gymnasium import spaces

from spinup.errors import UserError, closest, first_line, install
from spinup.system.terminal import warn_once

# Id namespace -> (module that registers its environments when imported, extra that installs it).
NAMESPACES = {"ALE": ("ale_py", "atari")}
MODULES = {"gymnasium_robotics": "robotics"}  # module -> extra that installs it
# The environments of gymnasium_robotics begin so.
ROBOTS = ("AdroitHand", "AntMaze", "Fetch", "FrankaKitchen", "HandManipulate", "HandReach", "PointMaze")
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale": "atari"}


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
    return sorted({*found} - {"spinup", "gymnasium", "tests"})


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


def build_env(env_fn: str | Callable[[], gym.Env], env_kwargs: dict, kwargs: dict) -> gym.Env:
    """Call env_fn, or gymnasium.make for an id. Raises UserError for wrong arguments; other errors pass through."""
    if not isinstance(env_kwargs, Mapping):
        raise UserError(f"env_kwargs is {env_kwargs!r:.80}; it must be a dict")
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
