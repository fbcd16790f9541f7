"""Observation spaces: which are images, which axes are height, width and channels, and how entries are flattened.

All of it is decided from the space alone. The entries of a Dict or Tuple, images and vectors, become one vector.
"""

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spinup.compute import mpi
from spinup.system.terminal import warn_once

SMALLEST_IMAGE = 8  # pixels per side, for images of other types than uint8
SMALLEST_LIKELY_IMAGE = 16  # pixels per side, for the warning about images that get flattened


def is_image(space: spaces.Space) -> bool:
    """Whether a CNN reads it: a Box of uint8 with two to four dimensions, or one of another type with three or four
    dimensions and the bounds 0 and 1, or 0 and 255.
    """
    if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 4 or 0 in space.shape:
        return False
    if space.dtype == np.uint8:
        return True
    if len(space.shape) == 2 or min(height_and_width(space.shape)) < SMALLEST_IMAGE:
        return False
    return bool((space.low == 0).all() and ((space.high == 1).all() or (space.high == 255).all()))


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether (a, b, c) is (H, W, C) rather than (C, H, W); with four dimensions, the last three count.

    If the middle axis is at least twice as long as the shorter end, that end is the channels. Otherwise the choice that
    makes the image closer to square wins, since some images have more channels than rows.
    """
    a, b, c = shape[-3:]
    if 2 * min(a, c) <= b:
        return c < a
    return max(a, b) * min(b, c) < max(b, c) * min(a, b)  # max(a, b) / min(a, b) < max(b, c) / min(b, c)


def height_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of an image of shape (H, W), (C, H, W) or (H, W, C), or of a stack of these, (K, ...)."""
    height, width = shape[-3:-1] if len(shape) > 2 and channels_last(shape) else shape[-2:]
    return height, width


class Part(NamedTuple):
    """One part of an observation: an image, a vector or an action mask."""

    space: spaces.Box
    frames: int = 1  # steps whose frames are stacked in the image
    is_mask: bool = False  # 1 for each legal action and 0 for each illegal one


class ObservationBox(spaces.Box):
    """A Box that knows its parts: a single image, or the entries of a Dict or Tuple flattened into one vector.

    parts: in the order of the vector; entries of several dimensions that aren't images count as vectors
    """

    def __init__(self, low, high, dtype, parts: tuple[Part, ...]):
        super().__init__(low, high, dtype=dtype)
        self.parts = parts


def parts_of(space: spaces.Box) -> tuple[Part, ...]:
    """The parts of an observation; a single one for a plain Box."""
    return space.parts if isinstance(space, ObservationBox) else (Part(space),)


def leaves(space: spaces.Space) -> list[spaces.Space]:
    """The entries of a Dict or Tuple, nested ones included, in the order in which they are flattened."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.values() if isinstance(space, spaces.Dict) else space
        return [leaf for entry in inner for leaf in leaves(entry)]
    return [space]


def known_space(env: gym.Env) -> spaces.Box:
    """The Box of an environment's observations, which remembers the images that FlattenObservation hides."""
    flattened = isinstance(env, gym.wrappers.FlattenObservation)  # an image that the user has flattened stays a vector
    if flattened and not isinstance(env.env.observation_space, spaces.Box):
        return flattened_space(env.env.observation_space, stacked_frames(env.env))
    space = env.observation_space
    if not (is_image(space) or is_likely_image(space)):
        return space
    (frames,) = stacked_frames(env)
    return ObservationBox(space.low, space.high, space.dtype, (Part(space, frames),))


def flattened_space(space: spaces.Space, frames: Sequence[int] | None = None) -> spaces.Box:
    """FlattenObservation's Box for `space`, which also remembers which entries are images.

    frames: Part.frames of each entry; None: 1
    """
    flat, entries, mask = spaces.flatten_space(space), leaves(space), action_mask(space)
    parts, width = [], 0  # width of the adjacent vector entries that aren't a part yet
    for entry, n in zip(entries, frames or [1] * len(entries), strict=True):
        if not (is_image(entry) or is_likely_image(entry) or entry is mask):
            width += spaces.flatdim(entry)
            continue
        part = Part(spaces.Box(0, 1, (spaces.flatdim(entry),)), is_mask=True) if entry is mask else Part(entry, n)
        parts += [*vector_part(width), part]
        width = 0
    return ObservationBox(flat.low, flat.high, flat.dtype, (*parts, *vector_part(width))) if parts else flat


def action_mask(space: spaces.Space) -> spaces.Space | None:
    """The entry "action_mask" of a Dict, if it has one."""
    return space.get("action_mask") if isinstance(space, spaces.Dict) else None


def mask_slice(space: spaces.Box) -> slice | None:
    """Where the action mask lies in flattened observations; None if they have none."""
    start = 0
    for part in parts_of(space):
        stop = start + int(np.prod(part.space.shape))
        if part.is_mask:
            return slice(start, stop)
        start = stop
    return None


def vector_part(width: int) -> list[Part]:
    return [Part(spaces.Box(-np.inf, np.inf, (width,), np.float32))] if width else []


def network_space(space: spaces.Box) -> spaces.Box:
    """The Box that networks read: images keep their shape, everything else is one float32 vector."""
    dtype = space.dtype if space.dtype == np.uint8 else np.float32
    if is_image(space):
        return ObservationBox(space.low.astype(dtype), space.high.astype(dtype), dtype, parts_of(space))
    bounds = np.full(int(np.prod(space.shape)), np.inf, np.float32)
    if isinstance(space, ObservationBox):
        return ObservationBox(-bounds, bounds, np.float32, space.parts)
    return spaces.Box(-bounds, bounds, dtype=np.float32)


def stacked_frames(env: gym.Env) -> list[int]:
    """For each entry of the observations, how many frames the wrappers of `env` stack in it."""
    found = [1] * len(leaves(env.observation_space))
    while isinstance(env, gym.Wrapper):
        outer, inner = leaves(env.observation_space), leaves(env.env.observation_space)
        if not len(outer) == len(inner) == len(found):
            break
        found = [max(n, frames_added(*pair)) for n, pair in zip(found, zip(outer, inner, strict=True), strict=True)]
        env = env.env
    return found


def frames_added(outer: spaces.Space, inner: spaces.Space) -> int:
    """How many images of `inner` are stacked in one of `outer`, along a new axis or as more channels."""
    if not (is_image(outer) and isinstance(inner, spaces.Box)):
        return 1
    if outer.shape[1:] == inner.shape and not (len(outer.shape) == 3 and channels_last(outer.shape)):
        return outer.shape[0]
    longer = [i for i, (n, m) in enumerate(zip(outer.shape, inner.shape, strict=False)) if n != m]
    if len(outer.shape) == len(inner.shape) == 3 and longer == [2 if channels_last(outer.shape) else 0]:
        return max(1, outer.shape[longer[0]] // inner.shape[longer[0]])
    return 1


def is_likely_image(space: spaces.Space) -> bool:
    """Whether it has the shape of an image, although `is_image` takes it for numbers."""
    if not isinstance(space, spaces.Box) or len(space.shape) < 2 or is_image(space):
        return False
    return min(height_and_width(space.shape)) >= SMALLEST_LIKELY_IMAGE


def check_for_flat_images(name: str, space: spaces.Box) -> None:
    """Warn once about observations that look like images but will be flattened for an MLP."""
    hint = "if they are images, give them as uint8, or with bounds of 0 and 1 or 0 and 255, for a CNN to read"
    for part in parts_of(space):
        if is_likely_image(part.space) and mpi.proc_id() == 0:
            what = f"{name}: observations {part.space}"
            warn_once(what, f"{what} are flattened for an MLP; {hint}")
