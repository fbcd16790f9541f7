"""Images in a replay buffer, with each frame stored once.

A step's next observation is the following step's observation, and consecutive frame stacks share all but one frame. So
an image is split into planes (its channels, or the images of its stack), and a plane that the environment's previous
observation has, bit for bit, isn't stored again.
"""

from collections.abc import Mapping

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from spinup.observations import Part, channels_last, is_image, parts_of

# Extra room for planes, as a share: each episode's first observation shares no planes with the previous step.
SPARE = 1 / 16


def plane_layout(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...], bool]:
    """For images of this shape: the number of planes, the shape of one, and whether planes are along the last axis."""
    if len(shape) == 3 and channels_last(shape):
        return shape[-1], shape[:-1], True
    return (1, shape, False) if len(shape) == 2 else (shape[0], shape[1:], False)


def stored_dtype(part: Part) -> torch.dtype:
    """uint8 if all values fit into it by their type, otherwise float32."""
    return torch.uint8 if part.space.dtype in (np.uint8, bool) else torch.float32


def frame_bytes(part: Part) -> float:
    """Bytes for the images of one step, o and o2, if episodes are long."""
    count, shape, _ = plane_layout(part.space.shape)
    plane = torch.Size(shape).numel() * stored_dtype(part).itemsize
    # Each new plane takes its pixels and a reference count; each cell takes the ids of its planes.
    return (1 + SPARE) * count / part.frames * (plane + 4) + 2 * 4 * count


class FrameStore:
    """The images of `cells` transitions, of o and o2; storing into a cell replaces the transition there.

    num_envs: environments that share the cells; part: the images' part of the observation
    """

    def __init__(self, cells: int, num_envs: int, part: Part, device: torch.device):
        self.shape, self.dtype, self.device = part.space.shape, stored_dtype(part), device
        self.count, self.plane, self.last_axis = plane_layout(self.shape)
        self.planes = torch.zeros(cells, 2, self.count, dtype=torch.int32, device=device)  # plane ids of o and o2
        expected = int((1 + SPARE) * cells * self.count / part.frames)
        self.sizes = expected, max(expected // 8, 2 * self.count * num_envs)  # planes in the first and in later chunks
        self.chunks: list[Tensor] = []
        self.refs = np.zeros(0, np.int32)  # reference count of each plane
        self.num_ids, self.free_ids = 0, []  # ids handed out so far; those of them not in use anymore
        self.latest: list[dict[bytes, int]] = [{} for _ in range(num_envs)]  # plane -> id, of each one's last image
        self.grow()

    def store(self, cells: range, filled: bool, o: np.ndarray, o2: np.ndarray) -> None:
        """Store one step of all environments, images (N, *shape), in these cells; filled: they hold an older step."""
        rows = slice(cells.start, cells.stop)
        old = self.planes[rows].flatten().tolist() if filled else ()
        new = [[self.add(n, image) for image in images] for n, images in enumerate(zip(o, o2, strict=True))]
        self.planes[rows] = torch.tensor(new, dtype=torch.int32)
        for i in old:  # released only now, since the new images may share them
            self.refs[i] -= 1
            if self.refs[i] == 0:
                self.free_ids.append(i)

    def add(self, n: int, image: np.ndarray) -> list[int]:
        """Store the planes of environment n's current image that are new; returns the ids of all its planes."""
        before, now, ids = self.latest[n], {}, []
        image = image.astype(np.uint8, copy=False) if self.dtype == torch.uint8 else image
        for plane in np.moveaxis(image, -1, 0) if self.last_axis else image.reshape(self.count, *self.plane):
            key = plane.tobytes()
            i = now.get(key, before.get(key))
            if i is None:
                i = self.add_plane(plane)
            now[key] = i
            ids.append(i)
            self.refs[i] += 1
        self.latest[n] = now
        return ids

    def add_plane(self, plane: np.ndarray) -> int:
        """Store a new plane and return its id."""
        if self.free_ids:
            i = self.free_ids.pop()
        else:
            i, self.num_ids = self.num_ids, self.num_ids + 1
            if i == len(self.refs):
                self.grow()
        first, later = self.sizes
        chunk = 0 if i < first else 1 + (i - first) // later
        self.chunks[chunk][i - self.first_id(chunk)] = torch.from_numpy(np.ascontiguousarray(plane))
        return i

    def grow(self) -> None:
        """Add a chunk. On the CPU the operating system provides its memory only as it fills."""
        size = self.sizes[min(len(self.chunks), 1)]
        self.chunks.append(torch.empty(size, *self.plane, dtype=self.dtype, device=self.device))
        self.refs = np.concatenate([self.refs, np.zeros(size, np.int32)])

    def first_id(self, chunk: int) -> int:
        """The id of a chunk's first plane."""
        return self.sizes[0] + (chunk - 1) * self.sizes[1] if chunk else 0

    def read(self, cells: Tensor, following: bool) -> Tensor:
        """The images in these cells, (B,), of o or (following) of o2: (B, *shape)."""
        ids = self.planes[:, int(following)].index_select(0, cells).flatten()
        planes = self.read_planes(ids).unflatten(0, (len(cells), self.count))
        return planes.movedim(1, -1).contiguous() if self.last_axis else planes.reshape(-1, *self.shape)

    def read_planes(self, ids: Tensor) -> Tensor:
        """ids: (n,); returns (n, *plane shape)."""
        if len(self.chunks) == 1:
            return self.chunks[0].index_select(0, ids)
        planes = torch.empty(len(ids), *self.plane, dtype=self.dtype, device=self.device)
        for i, chunk in enumerate(self.chunks):
            offset = ids - self.first_id(i)
            here = ((offset >= 0) & (offset < len(chunk))).nonzero().squeeze(-1)
            planes[here] = chunk.index_select(0, offset[here])
        return planes

    def state_dict(self, cells: int) -> dict:
        """The content of the first `cells` cells."""
        used = [chunk[: max(0, self.num_ids - self.first_id(i))] for i, chunk in enumerate(self.chunks)]
        return {"planes": self.planes[:cells], "chunks": used}

    def load_state_dict(self, state: Mapping, newest: range) -> None:
        """newest: the cells of the last step, one for each environment"""
        for i, saved in enumerate(state["chunks"]):
            if i == len(self.chunks):
                self.grow()
            self.chunks[i][: len(saved)] = saved
        self.num_ids, used = sum(map(len, state["chunks"])), state["planes"]
        self.planes[: len(used)] = used
        self.refs[:] = np.bincount(used.flatten().numpy(), minlength=len(self.refs))
        self.free_ids = np.flatnonzero(self.refs[: self.num_ids] == 0).tolist()
        for n, cell in enumerate(newest):
            ids = self.planes[cell, 1]
            self.latest[n] = {
                plane.tobytes(): int(i) for plane, i in zip(self.read_planes(ids).cpu().numpy(), ids, strict=True)
            }


class Images:
    """The images among the observations of a replay buffer; everything else stays in the buffer's own columns.

    space: the observation space; cells, num_envs, device: as in FrameStore
    """

    def __init__(self, space: spaces.Box, cells: int, num_envs: int, device: torch.device):
        self.shape, self.dtype = space.shape, torch.from_numpy(np.zeros(0, space.dtype)).dtype
        self.sizes = [torch.Size(part.space.shape).numel() for part in parts_of(space)]
        self.stores = [
            FrameStore(cells, num_envs, part, device) if is_image(part.space) else None for part in parts_of(space)
        ]
        self.numbers = sum(size for size, store in zip(self.sizes, self.stores, strict=True) if not store)

    def split(self, o: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Split observations, (N, *obs_shape), into their numbers, (N, numbers), and their images, (N, *shape) each."""
        parts = np.split(o.reshape(len(o), -1), np.cumsum(self.sizes)[:-1], 1)
        pairs = list(zip(parts, self.stores, strict=True))
        numbers = [part for part, store in pairs if not store]
        images = [part.reshape(-1, *store.shape) for part, store in pairs if store]
        return np.concatenate(numbers, 1) if numbers else np.zeros((len(o), 0), np.float32), images

    def store(self, cells: range, filled: bool, o: list[np.ndarray], o2: list[np.ndarray]) -> None:
        for store, *images in zip(filter(None, self.stores), o, o2, strict=True):
            store.store(cells, filled, *images)

    def join(self, numbers: Tensor, cells: Tensor, following: bool) -> Tensor:
        """The inverse of `split`: numbers (B, numbers) and the images of o or (following) o2 in cells (B,), as
        observations (B, *obs_shape).
        """
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
