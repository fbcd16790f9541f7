"""Buffers for transitions, and advantage estimates. Rollouts have shape (T, N, ...): T steps of N environments."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from spinup.compute import accel, mpi
from spinup.errors import UserError
from spinup.frames import Images, frame_bytes
from spinup.observations import Part, is_image, parts_of


def discount_cumsum(x: Tensor, c: Tensor) -> Tensor:
    """y[t] = x[t] + c[t] * y[t + 1], with y[T] = 0; x, c and the result: (T, ...).

    Computed by doubling: each pass doubles the number of terms in y[t], so log2(T) passes over whole tensors suffice.
    """
    y, c, span = x.clone(), c.clone(), 1
    while span < len(x):
        y[:-span] += c[:-span] * y[span:]
        c[:-span] = c[:-span] * c[span:]
        span *= 2
    return y


def gae(
    r: Tensor, v: Tensor, v2: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates (arXiv:1506.02438) and the lambda-returns they imply, each (T, N).

    r: rewards; v: values of the states; v2: values of the true next states (before any reset); terminated: the next
    state is terminal, so its value is 0; done: the episode ended, by termination or truncation; all (T, N).
    Truncated episodes and the last row bootstrap from v2. With lam = 1 the returns are discounted rewards-to-go.
    """
    terminated, done = terminated.to(r.dtype), done.to(r.dtype)
    delta = r + gamma * (1 - terminated) * v2 - v  # vpg-2, trpo-6, ppo-3, ppo_rnn-4: delta
    adv = discount_cumsum(delta, gamma * lam * (1 - done))  # vpg-2, trpo-6, ppo-3, ppo_rnn-4: A
    return adv, adv + v


def normalize(x: Tensor) -> Tensor:
    """x, (...), shifted and scaled to mean 0 and standard deviation 1 over all MPI processes; returns (...)."""
    mean, std = mpi.mpi_statistics_scalar(x.cpu().numpy().ravel())
    return (x - mean) / (std + 1e-8)


def minibatches(size: int | None, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """All rows of `tensors`, (B, ...) each, in random order, `size` at a time; None: everything at once, in order."""
    if size is None or size >= len(tensors[0]):
        yield tensors
    else:
        for rows in torch.randperm(len(tensors[0])).to(tensors[0].device).split(size):
            yield tuple(x[rows] for x in tensors)  # copies rather than slices, to be aligned (accel.ALIGNMENT)


class Rollout(NamedTuple):
    """What N environments did in T steps."""

    o: Tensor  # (T, N, *obs_shape)
    a: Tensor  # (T, N, *act_shape)
    r: Tensor  # (T, N)
    o2: Tensor  # (T, N, *obs_shape), the true next observation, even at the end of an episode
    terminated: Tensor  # (T, N), bool
    done: Tensor  # (T, N), bool: terminated or truncated


class RolloutBuffer:
    """T steps of N environments, written row by row and read as a whole.

    steps: T; num_envs: N; observation_space, action_space: those of VecEnv
    """

    columns = ("o", "a", "r", "o2", "terminated", "done")

    def __init__(self, steps: int, num_envs: int, observation_space: spaces.Box, action_space: spaces.Space):
        check_rollout_memory(steps * num_envs, observation_space, action_space)

        def rows(shape: tuple[int, ...] = (), dtype=np.float32) -> np.ndarray:
            size = steps * num_envs * math.prod(shape) * np.dtype(dtype).itemsize
            # made by torch, whose memory is aligned (accel.ALIGNMENT), unlike numpy's
            return torch.zeros(size, dtype=torch.uint8).numpy().view(dtype).reshape(steps, num_envs, *shape)

        self.o, self.o2 = (rows(observation_space.shape, observation_space.dtype) for _ in range(2))
        self.a = rows(action_space.shape, action_space.dtype)
        self.r, self.terminated, self.done = rows(), rows(dtype=bool), rows(dtype=bool)
        self.t = 0
        self.running_return = torch.zeros(num_envs)

    def store(self, o, a, r, o2, terminated, truncated) -> None:
        """Store one step of all environments; each argument is (N, ...)."""
        t = self.t
        self.o[t], self.a[t], self.r[t], self.o2[t] = o, a, r, o2
        self.terminated[t], self.done[t] = terminated, terminated | truncated
        self.t += 1

    def get(self, device: torch.device = "cpu") -> Rollout:
        """The full buffer as tensors. On the CPU they share its memory, so use them before the next `store`."""
        assert self.t == len(self.r), f"{self.t} of {len(self.r)} steps stored"
        self.t = 0
        arrays = (self.o, self.a, self.r, self.o2, self.terminated, self.done)
        return Rollout(*(torch.from_numpy(x).to(device) for x in arrays))

    def discounted_returns(self, gamma: float) -> Tensor:
        """R[t] = r[t] + gamma * R[t - 1] within each episode, (T, N); reward scaling divides by its deviation.

        Call it exactly once for each filling of the buffer, since episodes continue from one to the next.
        """
        r, done = torch.from_numpy(self.r), torch.from_numpy(self.done).float()
        began = first_steps(done)
        x = r.clone()
        x[0] += gamma * self.running_return
        returns = discount_cumsum(x.flip(0), (gamma * (1 - began)).flip(0)).flip(0)
        self.running_return = returns[-1] * (1 - done[-1])
        return returns

    def mark_episode_end(self, mask: np.ndarray) -> None:
        """Mark the newest transition of the environments in mask, (N,), as the last of its episode."""
        if self.t == 0:  # that transition is in the previous filling
            self.running_return[torch.from_numpy(mask)] = 0.0
        else:
            self.done[self.t - 1] |= mask

    def state_dict(self) -> dict:
        columns = {name: getattr(self, name)[: self.t].copy() for name in self.columns}
        return {**columns, "running_return": self.running_return}

    def load_state_dict(self, state: Mapping) -> None:
        self.t, self.running_return = len(state["r"]), state["running_return"]
        for name in self.columns:
            getattr(self, name)[: self.t] = state[name]


class RecurrentBuffer(RolloutBuffer):
    """A RolloutBuffer that also keeps the states of recurrent networks, (N, S) each.

    initial_state: N states at the beginning of an episode
    state: the policy's, for the next step; pi_start, v_start: the policy's and the value function's, for the first step
        of the rollout
    """

    def __init__(self, *args, initial_state: np.ndarray):
        super().__init__(*args)
        self.state, self.pi_start, self.v_start = (initial_state.copy() for _ in range(3))

    def starts(self, device: torch.device = "cpu") -> tuple[Tensor, Tensor]:
        """The states of the policy and the value function at the rollout's first step, (N, S) each."""
        pi_start, v_start = (torch.from_numpy(x).to(device) for x in (self.pi_start, self.v_start))
        return pi_start, v_start

    def begin(self, pi_state: Tensor, v_state: Tensor) -> None:
        """Start the next rollout in these states, (N, S)."""
        self.pi_start, self.v_start = pi_state.cpu().numpy(), v_state.cpu().numpy()
        self.state = self.pi_start.copy()

    def mark_episode_end(self, mask: np.ndarray) -> None:
        super().mark_episode_end(mask)
        self.state[mask] = 0.0
        if self.t == 0:
            self.pi_start[mask] = self.v_start[mask] = 0.0

    def state_dict(self) -> dict:
        return {**super().state_dict(), **{name: getattr(self, name) for name in ("state", "pi_start", "v_start")}}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.state, self.pi_start, self.v_start = (state[name].copy() for name in ("state", "pi_start", "v_start"))


def first_steps(done: Tensor) -> Tensor:
    """Which steps of a rollout, after its first, are the first of an episode; done and the result: (T, N)."""
    return torch.cat([torch.zeros_like(done[:1]), done[:-1]])


def sequence_length(steps: int, longest: int | None) -> int:
    """The length of the longest equal sequences into which `steps` steps can be cut; longest: its limit, if any.

    Raises UserError if they'd be shorter than half the limit.
    """
    length = steps if longest is None else max(n for n in range(1, min(longest, steps) + 1) if steps % n == 0)
    if longest is not None and length < min(longest, steps) / 2:
        raise UserError(
            f"seq_len is {longest}, but an environment takes {steps} steps in an epoch, which can't be cut into equal "
            f"sequences of {-(-longest // 2)} to {longest}; change seq_len, steps_per_epoch or num_envs"
        )
    return length


def sequences(x: Tensor, length: int) -> Tensor:
    """Rollouts x, (T, N, ...), cut into M = T / length * N sequences: (length, M, ...)."""
    return x.unflatten(0, (-1, length)).transpose(0, 1).flatten(1, 2)


def states_at_sequences(start: Tensor, states: Tensor, length: int) -> Tensor:
    """The states at the first steps of all sequences, (M, S), from those at the rollout's first step, (N, S), and those
    after each of its steps, (T, N, S).
    """
    return torch.cat([start[None], states[:-1]])[::length].flatten(0, 1)


class Batch(NamedTuple):
    """B transitions from a ReplayBuffer. With n-step returns each spans up to n steps of one episode."""

    o: Tensor  # (B, *obs_shape)
    a: Tensor  # (B, *act_shape)
    r: Tensor  # (B,): r[0] + gamma r[1] + ..., the rewards between o and o2
    o2: Tensor  # (B, *obs_shape), the true observation after the last of these steps
    terminated: Tensor  # (B,), 1.0 if o2 is terminal, else 0.0
    discount: Tensor  # (B,): gamma ** (number of steps)

    def normalized(self, obs_norm: torch.nn.Module) -> "Batch":
        """The batch with its observations passed through obs_norm."""
        return self._replace(o=obs_norm(self.o), o2=obs_norm(self.o2))


class ReplayBuffer:
    """The last `size` transitions of N environments, on the learner's device; new ones overwrite the oldest.

    size: over all MPI processes, like the batch size of `sample`; each process holds its share. num_envs: N;
    observation_space, action_space: those of VecEnv; n_step: rewards summed per transition; gamma: discount factor.
    Observations are float32, or uint8 for images. Tensors have shape (rows, N, ...), one row per time step; images are
    in `images`, which stores each frame once. memory: a line that says how much memory the buffer takes.

    Raises UserError if it wouldn't fit into memory.
    """

    columns = ("o", "a", "r", "o2", "terminated", "done")
    extra_bytes = 0  # per transition, of what a subclass keeps besides

    def __init__(
        self,
        size: int,
        num_envs: int,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        device: torch.device = "cpu",
        n_step: int = 1,
        gamma: float = 0.99,
    ):
        self.procs = mpi.num_procs()
        each = replay_bytes(observation_space, action_space) + self.extra_bytes
        self.memory = check_replay_memory(size, each, observation_space, device, self.procs)
        size //= self.procs
        self.rows, self.num_envs, self.n_step, self.gamma = max(1, size // num_envs), num_envs, n_step, gamma

        def column(shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
            # a CPU's memory is taken only as it fills
            return torch.empty(self.rows, num_envs, *shape, dtype=dtype, device=device)

        has_images = any(is_image(part.space) for part in parts_of(observation_space))
        self.images = Images(observation_space, self.rows * num_envs, num_envs, device) if has_images else None
        numbers = (self.images.numbers,) if has_images else observation_space.shape
        dtype = torch.float32 if has_images else torch_dtype(observation_space)
        self.o, self.o2 = column(numbers, dtype), column(numbers, dtype)
        self.a = column(action_space.shape, torch_dtype(action_space))
        self.r, self.terminated, self.done = column(), column(), column(dtype=torch.bool)
        self.t = 0  # rows written so far
        self._make_views()

    def _make_views(self) -> None:
        """Views of the columns for reading and writing, made once: per step they'd cost more than a small batch."""
        columns = {name: getattr(self, name) for name in self.columns}
        self.flat = {name: column.flatten(0, 1) for name, column in columns.items()}  # (rows * N, ...)
        self.written = [column.numpy() if column.is_cpu else column for column in columns.values()]

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("flat", "written")}

    def __setstate__(self, state: Mapping) -> None:  # a copy needs views of its own columns
        vars(self).update(state)
        self._make_views()

    def __len__(self) -> int:
        """The number of stored transitions."""
        return min(self.t, self.rows) * self.num_envs

    def store(self, o, a, r, o2, terminated, truncated) -> None:
        """Store one step of all environments; each argument is a numpy array (N, ...)."""
        row = self.t % self.rows
        if self.images:
            (o, images), (o2, images2) = self.images.split(o), self.images.split(o2)
            self.images.store(self.cells(row), self.t >= self.rows, images, images2)
        values = (o, a, r, o2, terminated, terminated | truncated)
        for column, x in zip(self.written, values, strict=True):
            column[row] = x if isinstance(column, np.ndarray) else torch.as_tensor(x)
        self.t += 1

    def cells(self, row: int) -> range:
        """The flat indices of a row's transitions, one for each environment."""
        return range(row * self.num_envs, (row + 1) * self.num_envs)

    def mark_episode_end(self, mask: np.ndarray) -> None:
        """Mark the newest transition of the environments in mask, (N,), as the last of its episode."""
        self.done[(self.t - 1) % self.rows] |= torch.from_numpy(mask).to(self.done.device)

    def state_dict(self) -> dict:
        images = {"images": self.images.state_dict(len(self))} if self.images else {}
        return {name: getattr(self, name)[: self.t] for name in self.columns} | {"t": self.t} | images

    def load_state_dict(self, state: Mapping) -> None:
        self.t = state["t"]
        for name in self.columns:
            getattr(self, name)[: self.t] = state[name]
        if self.images:
            self.images.load_state_dict(state["images"], self.cells((self.t - 1) % self.rows) if self.t else range(0))

    def sample(self, batch_size: int) -> Batch:
        """B transitions drawn uniformly with replacement, B = batch_size / number of MPI processes, rounded up."""
        return self.transitions(torch.randint(len(self), (-(-batch_size // self.procs),)).to(self.r.device))

    def transitions(self, i: Tensor) -> Batch:
        """The transitions with the flat indices i, (B,), copied."""
        r, last, discount = self.sum_rewards(i)
        o, o2 = self.gather("o", i), self.next_observations(last)
        if self.images:
            o = self.images.join(o, i, following=False)
        return Batch(o, self.gather("a", i), r, o2, self.gather("terminated", last), discount)

    def next_observations(self, i: Tensor) -> Tensor:
        """o2 of the transitions i, (B,), copied: (B, *obs_shape)."""
        o2 = self.gather("o2", i)
        return self.images.join(o2, i, following=True) if self.images else o2

    def gather(self, name: str, i: Tensor) -> Tensor:
        """Rows i, (B,), of a column, copied: (B, ...)."""
        return self.flat[name].index_select(0, i)

    def sum_rewards(self, i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of an n-step return that starts at transitions i, (B,): summed rewards, index of the last
        transition, and discount of the value after it, (B,) each.

        The sum stops early at the end of an episode and at the newest row.
        """
        r, last, discount = self.gather("r", i), i, torch.full_like(i, self.gamma, dtype=torch.float32)
        going = torch.ones_like(i, dtype=torch.bool)
        for _ in range(1, self.n_step):
            newest = last // self.num_envs == (self.t - 1) % self.rows
            going = going & ~newest & ~self.gather("done", last)
            following = (last + self.num_envs) % (self.rows * self.num_envs)
            r = torch.where(going, r + discount * self.gather("r", following), r)  # ddpg-1, td3-2, sac-1: the sum
            last = torch.where(going, following, last)
            discount = torch.where(going, discount * self.gamma, discount)  # ddpg-1, td3-2, sac-1: gamma^m
        return r, last, discount


def torch_dtype(space: spaces.Space) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype


def replay_bytes(observation_space: spaces.Box, action_space: spaces.Space) -> int:
    """Bytes per transition in a ReplayBuffer; with images, the average for long episodes."""
    a = int(np.prod(action_space.shape)) * action_space.dtype.itemsize
    return math.ceil(sum(map(part_bytes, parts_of(observation_space)))) + a + 4 + 4 + 1  # r, terminated, done


def part_bytes(part: Part) -> float:
    """Bytes that a part of the observations takes in o and o2."""
    return frame_bytes(part) if is_image(part.space) else 2 * int(np.prod(part.space.shape)) * 4


def check_rollout_memory(steps: int, observation_space: spaces.Box, action_space: spaces.Space) -> None:
    """Raise UserError if a rollout of that many steps would not fit into memory."""
    each = 2 * math.prod(observation_space.shape) * observation_space.dtype.itemsize
    each += math.prod(action_space.shape) * action_space.dtype.itemsize + 6  # the reward and two flags
    free = accel.free_memory("cpu")
    if free is not None and steps * each > free:
        sizes = f"takes {steps * each / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB of memory are free"
        raise UserError(f"an epoch of {steps:,} steps {sizes}; lower steps_per_epoch")


def check_replay_memory(size: int, each: int, observation_space: spaces.Box, device, procs: int = 1) -> str:
    """A line on the memory that `size` transitions of `each` bytes over `procs` MPI processes take in each of them;
    raises UserError if it isn't available.

    With procs > 1 all of them must call it, since processes on one machine share its memory. On a GPU each process
    checks only its own part, because there a buffer takes its memory at once, whereas on the CPU it does as it fills.
    """
    free, part = accel.free_memory(device), size // procs
    here = mpi.num_procs_here() if procs > 1 and torch.device(device).type == "cpu" else 1
    if free is not None and here * part * each > free:
        among, where = (f" over {procs} processes", " on this machine") if procs > 1 else ("", "")
        raise UserError(
            f"replay_size {size}{among} needs {here * part * each / 2**30:.3g} GiB{where}, and "
            f"{free / 2**30:.3g} GiB are free; {procs * int(0.8 * free / each / here)} transitions would fit"
        )
    images = any(is_image(x.space) for x in parts_of(observation_space))
    more = ", more with episodes shorter than 16 steps" if images else ""
    return f"replay buffer: {part} transitions, {part * each / 2**20:.3g} MiB when full{more}"
