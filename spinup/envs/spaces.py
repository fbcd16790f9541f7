"""Observation and action spaces: which are supported, and how the policy's actions become the environment's."""

import numpy as np
from gymnasium import spaces

from spinup.algorithm import Algorithm, files, find
from spinup.errors import UserError, first_line
from spinup.observations import action_mask, is_image
from spinup.wrappers import num_choices

FLOAT32_MAX = float(np.finfo(np.float32).max)


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
    if bounded or type(space).__name__ not in algorithm.actions:
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


def flat_action_space(space: spaces.Space) -> spaces.Space:
    """The space of the policy's actions: a Box or MultiDiscrete with one dimension, or Discrete from 0."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32))
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n)
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(space.shape, 2)
    return spaces.MultiDiscrete(sizes.ravel())


def to_env_actions(space: spaces.Space, a: np.ndarray) -> np.ndarray:
    """The policy's actions, (N, *act_shape), converted to the environment's action space, (N, *space.shape)."""
    a = a.reshape(len(a), *space.shape)
    if isinstance(space, spaces.Box):
        a = a.clip(space.low, space.high)
        return (np.rint(a) if space.dtype.kind in "iu" else a).astype(space.dtype)
    start = space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
    return (a + start).astype(space.dtype)


def mismatch(space: spaces.Space, x, name: str = "it") -> str | None:
    """How an observation differs from its space, in words: in entries, shapes, dtypes or choices; None: it doesn't.

    name: what the words call it; its entries are called name['key'] and name[0]. A Box's bounds aren't checked.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        keys = list(space) if isinstance(space, spaces.Dict) else range(len(space))
        try:
            entries = {key: x[key] for key in keys}
        except (TypeError, LookupError):
            entries = {}
        if len(entries) < len(keys) or (isinstance(space, spaces.Tuple) and len(x) > len(keys)):
            return f"{name} is {' '.join(repr(x).split()):.80}; it must have the entries {', '.join(map(repr, keys))}"
        found = (mismatch(space[key], entry, f"{name}[{key!r}]") for key, entry in entries.items())
        return next(filter(None, found), None)
    try:
        x = np.asarray(x)
    except Exception as error:  # such as for a tensor on a GPU, or nested lists of unequal lengths
        return f"{name} isn't an array ({first_line(error)})"
    if x.shape != space.shape:
        return f"{name} has shape {x.shape}; its space says {space.shape}"
    if not np.can_cast(x.dtype, space.dtype, "same_kind"):
        return f"{name} is of {x.dtype}; its space says {space.dtype}"
    if not isinstance(space, spaces.Box) and not space.contains(x.astype(space.dtype)):
        return f"{name} is {x.tolist()}; its space is {space}"
    return None


def is_flattened(space: spaces.Space, x) -> bool:
    """Whether x is an observation of a space other than a Box as `make_env` flattens it."""
    if isinstance(space, spaces.Box) or not isinstance(x, np.ndarray) or x.dtype.kind not in "biuf":
        return False
    return x.shape == (spaces.flatdim(space),) != space.shape


def flat_observation(observation_space: spaces.Space, observation) -> np.ndarray:
    """One observation of the environment's own space as a batch of one in VecEnv's, (1, *obs_shape).

    One that `make_env` has flattened already is taken, too. Raises UserError if it doesn't fit the space, or isn't
    finite.
    """
    flattened = is_flattened(observation_space, observation)
    wrong = None if flattened else mismatch(observation_space, observation)
    if wrong is None:
        as_it_is = flattened or isinstance(observation_space, spaces.Box)
        o = np.asarray(observation) if as_it_is else spaces.flatten(observation_space, observation)
        wrong = None if np.isfinite(o).all() else "it has a value that isn't finite"
    if wrong:
        what = f"{' '.join(repr(observation).split()):.80} is not one observation of the policy's environment"
        raise UserError(f"{what}, {observation_space} ({wrong})")
    return o[None] if is_image(observation_space) else o.reshape(1, -1).astype(np.float32)


def layout(space: spaces.Space) -> str:
    """What networks for one of VecEnv's spaces depend on, in words: all but a Box's bounds."""
    return f"Box{space.shape} of {space.dtype}" if isinstance(space, spaces.Box) else " ".join(str(space).split())
