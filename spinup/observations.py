"""What observations are made of: numbers, images, and several of both in one array.

Decided here, from the space alone: what an image is, which of its axes are height, width and channels, and how the
entries of a Dict or Tuple lie in the vector that they are flattened to.
"""

import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spinup.compute import mpi

SMALLEST_IMAGE = 8  # pixels a side, of what is no uint8 and still an image
SMALLEST_LIKELY_IMAGE = 16  # a side, of what may be one


def is_image(space: spaces.Space) -> bool:
    """Whether a CNN reads it: a Box of uint8 with two to four dimensions, or one of other numbers with three or four
    whose bounds are 0 and 1, or 0 and 255.
    """
    if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 4 or 0 in space.shape:
        return False
    if space.dtype == np.uint8:
        return True
    if len(space.shape) == 2 or min(height_and_width(space.shape)) < SMALLEST_IMAGE:
        return False
    return bool((space.low == 0).all() and ((space.high == 1).all() or (space.high == 255).all()))


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether (a, b, c) is (H, W, C) rather than (C, H, W); of four dimensions it is asked of the last three.

    The smaller end is the number of channels if the middle is at least twice as long; else the image is the one that is
    nearer to a square, since some have more channels than pixels in height.
    """
    a, b, c = shape[-3:]
    if 2 * min(a, c) <= b:
        return c < a
    return max(a, b) * min(b, c) < max(b, c) * min(a, b)  # max(a, b) / min(a, b) < max(b, c) / min(b, c)


def height_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    """Pixels of an image, (H, W), (C, H, W), (H, W, C), or of a stack of these, (K, ...)."""
    height, width = shape[-3:-1] if len(shape) > 2 and channels_last(shape) else shape[-2:]
    return height, width


class Part(NamedTuple):
    """An image, or a vector of numbers, of which observations consist."""

    space: spaces.Box
    frames: int = 1  # so many images of earlier steps lie in one of the image's


class ObservationBox(spaces.Box):
    """Observations with images: one, or several entries of a Dict or Tuple, images and vectors, in one vector.

    parts: what it consists of, in order; those with more than one dimension that are no images count as vectors
    """

    def __init__(self, low, high, dtype, parts: tuple[Part, ...]):
        super().__init__(low, high, dtype=dtype)
        self.parts = parts


def parts_of(space: spaces.Box) -> tuple[Part, ...]:
    """What an observation consists of; most are one part."""
    return space.parts if isinstance(space, ObservationBox) else (Part(space),)


def leaves(space: spaces.Space) -> list[spaces.Space]:
    """The entries of a Dict or Tuple, those of inner ones included, in the order in which they are flattened."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.values() if isinstance(space, spaces.Dict) else space
        return [leaf for entry in inner for leaf in leaves(entry)]
    return [space]


def known_space(env: gym.Env) -> spaces.Box:
    """The Box of an environment's observations, flattened by FlattenObservation or not, that remembers its images."""
    flattened = isinstance(env, gym.wrappers.FlattenObservation)  # an image that a user has flattened stays so
    if flattened and not isinstance(env.env.observation_space, spaces.Box):
        return flattened_space(env.env.observation_space, stacked_frames(env.env))
    space = env.observation_space
    if not (is_image(space) or is_likely_image(space)):
        return space
    return ObservationBox(space.low, space.high, space.dtype, (Part(space, *stacked_frames(env)),))


def flattened_space(space: spaces.Space, frames: Sequence[int] | None = None) -> spaces.Box:
    """The Box of what FlattenObservation makes of `space`; it remembers which entries are images.

    frames: Part.frames of each entry; None: 1
    """
    flat, entries = spaces.flatten_space(space), leaves(space)
    parts, width = [], 0  # of the vector that has not ended yet
    for entry, n in zip(entries, frames or [1] * len(entries), strict=True):
        if not (is_image(entry) or is_likely_image(entry)):
            width += spaces.flatdim(entry)
            continue
        parts += [*vector_part(width), Part(entry, n)]
        width = 0
    return ObservationBox(flat.low, flat.high, flat.dtype, (*parts, *vector_part(width))) if parts else flat


def vector_part(width: int) -> list[Part]:
    return [Part(spaces.Box(-np.inf, np.inf, (width,), np.float32))] if width else []


def network_space(space: spaces.Box) -> spaces.Box:
    """What networks are given for a Box of observations: images as they are, all else as one vector of float32."""
    dtype = space.dtype if space.dtype == np.uint8 else np.float32
    if is_image(space):
        return ObservationBox(space.low.astype(dtype), space.high.astype(dtype), dtype, parts_of(space))
    bounds = np.full(int(np.prod(space.shape)), np.inf, np.float32)
    if isinstance(space, ObservationBox):
        return ObservationBox(-bounds, bounds, np.float32, space.parts)
    return spaces.Box(-bounds, bounds, dtype=np.float32)


def stacked_frames(env: gym.Env) -> list[int]:
    """For each entry of the observations, how many frames a wrapper of `env` puts in it."""
    found = [1] * len(leaves(env.observation_space))
    while isinstance(env, gym.Wrapper):
        outer, inner = leaves(env.observation_space), leaves(env.env.observation_space)
        if not len(outer) == len(inner) == len(found):
            break
        found = [max(n, frames_added(*pair)) for n, pair in zip(found, zip(outer, inner, strict=True), strict=True)]
        env = env.env
    return found


def frames_added(outer: spaces.Space, inner: spaces.Space) -> int:
    """How many images of `inner` make one of `outer`: along one more axis, or as more channels."""
    if not (is_image(outer) and isinstance(inner, spaces.Box)):
        return 1
    if outer.shape[1:] == inner.shape and not (len(outer.shape) == 3 and channels_last(outer.shape)):
        return outer.shape[0]
    longer = [i for i, (n, m) in enumerate(zip(outer.shape, inner.shape, strict=False)) if n != m]
    if len(outer.shape) == len(inner.shape) == 3 and longer == [2 if channels_last(outer.shape) else 0]:
        return max(1, outer.shape[longer[0]] // inner.shape[longer[0]])
    return 1


def is_likely_image(space: spaces.Space) -> bool:
    """Whether it may be an image that `is_image` takes for numbers."""
    if not isinstance(space, spaces.Box) or len(space.shape) < 2 or is_image(space):
        return False
    return min(height_and_width(space.shape)) >= SMALLEST_LIKELY_IMAGE


@functools.cache  # so that each is told once
def warn_of_flat_image(name: str, text: str) -> None:
    if mpi.proc_id() == 0:
        hint = "if they are images, give them as uint8, or with bounds of 0 and 1 or 0 and 255, for a CNN to read"
        print(f"warning: {name}: observations {text} are flattened for an MLP; {hint}", file=sys.stderr, flush=True)


def check_for_flat_images(name: str, space: spaces.Box) -> None:
    """Warn, once, of observations that may be images and that no CNN will read."""
    for part in parts_of(space):
        if is_likely_image(part.space):
            warn_of_flat_image(name, str(part.space))
