"""Images in a replay buffer, each frame kept once.

The next observation of a step is the observation of the one after, and a stack of frames has all but one in common with
the stack before. So an image is taken apart into planes, its channels or the images of its stack, and a plane that is
in the environment's previous observation, to the bit, is not stored again.
"""

from collections.abc import Mapping

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from spinup.observations import Part, channels_last, is_image, parts_of

# Planes for which there is room beside those of whole episodes: each one's last observation and first one are new.
SPARE = 1 / 16


def planes_of(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...], bool]:
    """How many planes images of this shape have, the shape of one, and whether they lie along the last axis."""
    if len(shape) == 3 and channels_last(shape):
        return shape[-1], shape[:-1], True
    return (1, shape, False) if len(shape) == 2 else (shape[0], shape[1:], False)


def stored_dtype(part: Part) -> torch.dtype:
    """uint8 for what cannot be anything else."""
    return torch.uint8 if part.space.dtype in (np.uint8, bool) else torch.float32


def frame_bytes(part: Part) -> float:
    """Bytes that the images of one step take, the observation and the next one, where episodes are long."""
    count, shape, _ = planes_of(part.space.shape)
    plane = torch.Size(shape).numel() * stored_dtype(part).itemsize
    return (1 + SPARE) * count / part.frames * (plane + 4) + 2 * 4 * count  # pixels and uses of each; its numbers


class FrameStore:
    """The images of `cells` steps, of observations and of next ones; a step stored in a cell replaces the one there.

    num_envs: how many environments take turns in the cells; part: what the images are
    """

    def __init__(self, cells: int, num_envs: int, part: Part, device: torch.device):
        self.shape, self.dtype, self.device = part.space.shape, stored_dtype(part), device
        self.count, self.plane, self.last_axis = planes_of(self.shape)
        # The numbers of the planes in each cell: of the observation, and of the next.
        self.planes = torch.zeros(cells, 2, self.count, dtype=torch.int32, device=device)
        expected = int((1 + SPARE) * cells * self.count / part.frames)
        self.sizes = expected, max(expected // 8, 2 * self.count * num_envs)  # of the first chunk, of each later one
        self.chunks: list[Tensor] = []
        self.uses = np.zeros(0, np.int32)  # how often the images of all cells have this plane
        self.made, self.free = 0, []  # planes that have a number; those of them that no image has
        self.latest: list[dict[bytes, int]] = [{} for _ in range(num_envs)]  # the planes of each one's last image
        self.grow()

    def store(self, cells: range, filled: bool, o: np.ndarray, o2: np.ndarray) -> None:
        """One step of all environments, images (N, *shape), in these cells; filled: they hold an older step."""
        rows = slice(cells.start, cells.stop)
        old = self.planes[rows].flatten().tolist() if filled else ()
        new = [[self.add(n, image) for image in images] for n, images in enumerate(zip(o, o2, strict=True))]
        self.planes[rows] = torch.tensor(new, dtype=torch.int32)
        for number in old:  # only now, as the new images may have some of them
            self.uses[number] -= 1
            if self.uses[number] == 0:
                self.free.append(number)

    def add(self, n: int, image: np.ndarray) -> list[int]:
        """The numbers of the planes of an image that environment n shows now."""
        before, now, numbers = self.latest[n], {}, []
        image = image.astype(np.uint8, copy=False) if self.dtype == torch.uint8 else image
        for plane in np.moveaxis(image, -1, 0) if self.last_axis else image.reshape(self.count, *self.plane):
            key = plane.tobytes()
            number = now.get(key, before.get(key))
            if number is None:
                number = self.put(plane)
            now[key] = number
            numbers.append(number)
            self.uses[number] += 1
        self.latest[n] = now
        return numbers

    def put(self, plane: np.ndarray) -> int:
        """The number of a new plane."""
        if self.free:
            number = self.free.pop()
        else:
            number, self.made = self.made, self.made + 1
            if number == len(self.uses):
                self.grow()
        first, later = self.sizes
        chunk = 0 if number < first else 1 + (number - first) // later
        self.chunks[chunk][number - self.start(chunk)] = torch.from_numpy(np.ascontiguousarray(plane))
        return number

    def grow(self) -> None:
        """Room for more planes; memory on the CPU is taken as it fills."""
        size = self.sizes[min(len(self.chunks), 1)]
        self.chunks.append(torch.empty(size, *self.plane, dtype=self.dtype, device=self.device))
        self.uses = np.concatenate([self.uses, np.zeros(size, np.int32)])

    def start(self, chunk: int) -> int:
        """The number of a chunk's first plane."""
        return self.sizes[0] + (chunk - 1) * self.sizes[1] if chunk else 0

    def read(self, cells: Tensor, following: bool) -> Tensor:
        """The images in these cells, (B,), of the observations or of the following ones: (B, *shape)."""
        numbers = self.planes[:, int(following)].index_select(0, cells).flatten()
        planes = self.read_planes(numbers).unflatten(0, (len(cells), self.count))
        return planes.movedim(1, -1).contiguous() if self.last_axis else planes.reshape(-1, *self.shape)

    def read_planes(self, numbers: Tensor) -> Tensor:
        if len(self.chunks) == 1:
            return self.chunks[0].index_select(0, numbers)
        planes = torch.empty(len(numbers), *self.plane, dtype=self.dtype, device=self.device)
        for i, chunk in enumerate(self.chunks):
            inside = numbers - self.start(i)
            here = ((inside >= 0) & (inside < len(chunk))).nonzero().squeeze(-1)
            planes[here] = chunk.index_select(0, inside[here])
        return planes

    def state_dict(self, cells: int) -> dict:
        """What is in the first `cells` cells."""
        used = [chunk[: max(0, self.made - self.start(i))] for i, chunk in enumerate(self.chunks)]
        return {"planes": self.planes[:cells], "chunks": used}

    def load_state_dict(self, state: Mapping, newest: range) -> None:
        """newest: the cells of the last step, one for each environment"""
        for i, saved in enumerate(state["chunks"]):
            if i == len(self.chunks):
                self.grow()
            self.chunks[i][: len(saved)] = saved
        self.made, used = sum(map(len, state["chunks"])), state["planes"]
        self.planes[: len(used)] = used
        self.uses[:] = np.bincount(used.flatten().numpy(), minlength=len(self.uses))
        self.free = np.flatnonzero(self.uses[: self.made] == 0).tolist()
        for n, cell in enumerate(newest):
            numbers = self.planes[cell, 1]
            self.latest[n] = {
                plane.tobytes(): int(number)
                for plane, number in zip(self.read_planes(numbers).cpu().numpy(), numbers, strict=True)
            }


class Images:
    """The images among the observations of a replay buffer; what is no image it leaves to the buffer's own columns.

    space: of the observations; cells, num_envs, device: of FrameStore
    """

    def __init__(self, space: spaces.Box, cells: int, num_envs: int, device: torch.device):
        self.shape, self.dtype = space.shape, torch.from_numpy(np.zeros(0, space.dtype)).dtype
        self.sizes = [torch.Size(part.space.shape).numel() for part in parts_of(space)]
        self.stores = [
            FrameStore(cells, num_envs, part, device) if is_image(part.space) else None for part in parts_of(space)
        ]
        self.numbers = sum(size for size, store in zip(self.sizes, self.stores, strict=True) if not store)

    def split(self, o: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """All that is no image in observations (N, *obs_shape), (N, numbers), and each of their images (N, *shape)."""
        parts = np.split(o.reshape(len(o), -1), np.cumsum(self.sizes)[:-1], 1)
        pairs = list(zip(parts, self.stores, strict=True))
        numbers = [part for part, store in pairs if not store]
        images = [part.reshape(-1, *store.shape) for part, store in pairs if store]
        return np.concatenate(numbers, 1) if numbers else np.zeros((len(o), 0), np.float32), images

    def store(self, cells: range, filled: bool, o: list[np.ndarray], o2: list[np.ndarray]) -> None:
        for store, *images in zip(filter(None, self.stores), o, o2, strict=True):
            store.store(cells, filled, *images)

    def join(self, numbers: Tensor, cells: Tensor, following: bool) -> Tensor:
        """The observations in these cells, (B,), or those that follow: (B, *obs_shape); the inverse of `split`."""
        parts, used = [], 0
        for size, store in zip(self.sizes, self.stores, strict=True):
            if store:
                parts.append(store.read(cells, following).to(self.dtype).flatten(1))
            else:
                parts.append(numbers[:, used : used + size])
                used += size
        return (torch.cat(parts, 1) if len(parts) > 1 else parts[0]).reshape(-1, *self.shape)

    def state_dict(self, cells: int) -> list:
        return [store.state_dict(cells) for store in filter(None, self.stores)]

    def load_state_dict(self, state: list, newest: range) -> None:
        for store, saved in zip(filter(None, self.stores), state, strict=True):
            store.load_state_dict(saved, newest)
