"""Replay of images: bit for bit the same samples as from a buffer that stores every step's o and o2 in full."""

import copy
import csv
import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import spinup
from spinup import buffers
from spinup.buffers import ReplayBuffer, check_replay_memory, replay_bytes
from spinup.envs import make_envs
from spinup.observations import flattened_space, network_space
from spinup.runs.checkpoint import pack, unpack

ACTIONS = spaces.Discrete(1000)


def image_box(shape, dtype=np.uint8):
    return spaces.Box(0, 255, shape, dtype)


MIXED = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=image_box((2, 9, 9)), c=spaces.Discrete(3))
SPACES = {
    "raw": image_box((6, 5)),
    "color": image_box((8, 8, 3)),
    "planes first": image_box((3, 8, 9)),
    "planes last": image_box((8, 9, 3)),
    "stack of color": image_box((3, 6, 7, 3)),
    "floats": spaces.Box(0, 1, (3, 8, 8), np.float32),
    "mixed": network_space(flattened_space(MIXED)),
}


def plain(*args, **kwargs) -> ReplayBuffer:
    """A buffer that stores images in columns, like everything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "is_image", lambda space: False)
        return ReplayBuffer(*args, **kwargs)


def everything(buffer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda high, size: torch.arange(high))
        return buffer.sample(len(buffer))


def assert_same(ours, theirs):
    for x, y in zip(ours, theirs, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.is_contiguous()
        assert torch.equal(x, y)


class Stacks:
    """N environments whose observations are the last planes of a film, with one new plane per step.

    kinds: number of different pictures in the film; pad: what fills a stack at the start of an episode
    """

    def __init__(self, space, num_envs, seed, kinds, pad):
        self.space, self.kinds, self.pad, self.rng = space, kinds, pad, np.random.default_rng(seed)
        self.last = len(space.shape) == 3 and space.shape[-1] == 3
        self.count = 1 if len(space.shape) < 3 else space.shape[-1] if self.last else space.shape[0]
        shape = space.shape if len(space.shape) < 3 else space.shape[:-1] if self.last else space.shape[1:]
        self.film = self.rng.integers(0, 256, (kinds, *shape)).astype(space.dtype)
        self.now = [self.begin() for _ in range(num_envs)]

    def new(self):
        return self.film[self.rng.integers(self.kinds)] + 0

    def begin(self):
        first = self.new()
        fill = {"first": first, "zeros": np.zeros_like(first)}.get(self.pad)
        return [*(self.new() if fill is None else fill for _ in range(self.count - 1)), first]

    def observe(self):
        if len(self.space.shape) < 3:
            return np.stack([planes[-1] for planes in self.now])
        return np.stack([np.stack(planes, -1 if self.last else 0) for planes in self.now])

    def step(self, done, store):
        """One step of all environments; those in done, (N,), end their episode."""
        o = self.observe()
        self.now = [[*planes[1:], self.new()] for planes in self.now]
        store(o, self.observe())
        self.now = [self.begin() if ended else planes for planes, ended in zip(self.now, done, strict=True)]


def save_and_load(buffer, make):
    """A copy by way of a file, as a checkpoint makes it."""
    file, other = io.BytesIO(), make()
    torch.save(pack(buffer.state_dict()), file)
    file.seek(0)
    other.load_state_dict(unpack(torch.load(file, weights_only=True)))
    return other


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(SPACES)),
    num_envs=st.integers(1, 3),
    size=st.integers(1, 40),
    n_step=st.integers(1, 4),
    seed=st.integers(0, 999),
    kinds=st.sampled_from([1, 2, 5, 10_000]),
    pad=st.sampled_from(["first", "zeros", "others"]),
    ends=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    actions=st.lists(st.sampled_from(["continue", "save", "copy", "cut"]), min_size=1, max_size=4),
)
def test_samples_equal_those_of_the_plain_buffer(name, num_envs, size, n_step, seed, kinds, pad, ends, actions):
    """For any episode ends, wrap-around and recurring images, also after saving, copying, or a resume's cut."""
    space = SPACES[name]
    arguments = dict(num_envs=num_envs, observation_space=space, action_space=ACTIONS, n_step=n_step)
    ours, theirs = ReplayBuffer(size, **arguments), plain(size, **arguments)
    assert ours.images
    assert theirs.images is None
    seen = Stacks(space if name != "mixed" else image_box((2, 9, 9)), num_envs, seed, min(kinds, 300), pad)
    rng = np.random.default_rng(seed)

    def store(o, o2):
        if name == "mixed":
            o, o2 = (np.concatenate([rng.normal(size=(num_envs, 2)), x.reshape(num_envs, -1), np.eye(3)[:num_envs]], 1)
                     .astype(np.float32) for x in (o, o2))  # fmt: skip
        values = o, rng.integers(9, size=num_envs), rng.normal(size=num_envs), o2, flags[0], flags[1]
        ours.store(*values), theirs.store(*values)

    for action in actions:
        for _ in range(rng.integers(1, 30)):
            flags = rng.random((2, num_envs)) < ends / 2
            seen.step(flags.any(0), store)
        assert_same(everything(ours), everything(theirs))
        if action == "save":
            ours = save_and_load(ours, lambda: ReplayBuffer(size, **arguments))
        elif action == "copy":
            ours = copy.deepcopy(ours)
        elif action == "cut":
            ours.mark_episode_end(flags[0]), theirs.mark_episode_end(flags[0])
            seen.now = [seen.begin() for _ in range(num_envs)]
        assert_same(everything(ours), everything(theirs))
    torch.manual_seed(seed)
    ours_drawn = ours.sample(7)
    torch.manual_seed(seed)
    assert_same(ours_drawn, theirs.sample(7))
    for images in filter(None, ours.images.stores):  # every id is either in use or free, and only once
        assert sorted({*range(images.num_ids)} - {*images.free_ids}) == sorted(
            set(images.planes[: len(ours)].flatten().tolist())
        )
        assert len(images.free_ids) == len(set(images.free_ids))


@pytest.mark.parametrize("name", ["raw", "planes first", "planes last", "stack of color", "floats"])
def test_each_frame_is_stored_once(name):
    """A film of 60 steps in 3 episodes: one new plane per step, and one more at the start of each episode."""
    space = SPACES[name]
    buffer = ReplayBuffer(1000, 2, space, ACTIONS)
    seen = Stacks(space, 2, 0, 10_000 if name != "stack of color" else 3000, "first")

    def store(o, o2):
        buffer.store(o, np.zeros(2), np.zeros(2), o2, np.zeros(2, bool), done)

    for t in range(60):
        done = np.full(2, t % 20 == 19)
        seen.step(done, store)
    assert buffer.images.stores[0].num_ids == 2 * (60 + 3)


def test_new_frames_reuse_the_memory_of_the_oldest():
    """Ten times as many steps as fit need no more planes than one filling, plus those at episode ends."""
    space = SPACES["planes first"]
    buffer = ReplayBuffer(200, 2, space, ACTIONS)
    seen = Stacks(space, 2, 0, 10_000, "first")
    done = np.zeros(2, bool)
    for _ in range(1000):
        seen.step(done, lambda o, o2: buffer.store(o, np.zeros(2), np.zeros(2), o2, done, done))
    assert buffer.images.stores[0].num_ids <= 200 + 2 * 2 * 3 + 2
    assert len(buffer.images.stores[0].chunks) == 1


class Film(gym.Env):
    """Random pictures."""

    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, shape=(16, 16)):
        self.observation_space = image_box(shape)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.integers(0, 256, self.observation_space.shape, np.uint8), {}

    def step(self, action):
        self.t += 1
        o = self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)
        return o, float(self.np_random.normal()), self.np_random.random() < 0.05, self.t == 17, {}


def stacked_film():
    return gym.wrappers.FrameStackObservation(Film(), 4)


OFF_POLICY = dict(steps_per_epoch=60, epochs=2, start_steps=20, update_after=30, batch_size=8, replay_size=50, n_step=2)
OFF_POLICY |= dict(num_envs=2, num_test_episodes=1, ac_kwargs=dict(hidden_sizes=[16]), replay_ratio=0.2, capture=False)


def train(folder, **kwargs):
    spinup.sac(stacked_film, logger_kwargs=dict(output_dir=str(folder), quiet=True), **OFF_POLICY | kwargs)
    return table(folder)


def table(folder):
    with open(folder / "progress.txt") as file:
        return [{key: x for key, x in row.items() if "Time" not in key} for row in csv.DictReader(file, delimiter="\t")]


def test_runs_equal_those_of_the_plain_buffer_and_checkpoints_are_smaller(tmp_path, monkeypatch):
    ours = train(tmp_path / "ours")
    monkeypatch.setattr(buffers, "is_image", lambda space: False)
    assert train(tmp_path / "plain") == ours
    sizes = [next((tmp_path / name).glob("checkpoint/*/rank0.pt")).stat().st_size for name in ("ours", "plain")]
    ours, plain = 50 * 256 * (1 + 1 / 8), 50 * 256 * 4 * 2  # bytes of images
    assert sizes[1] - sizes[0] > 0.9 * (plain - ours)


def test_a_run_with_images_resumes_exactly(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", epochs=3)
    store = ReplayBuffer.store

    def store_and_end(self, *args):
        store(self, *args)
        if self.t == 47:  # in the second epoch, after the buffer has wrapped around
            raise KeyboardInterrupt

    monkeypatch.setattr(ReplayBuffer, "store", store_and_end)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "half", epochs=3, checkpoint_freq=1)
    monkeypatch.undo()
    assert len(table(tmp_path / "half")) == 1
    logger_kwargs = dict(output_dir=str(tmp_path / "half"), quiet=True, resume=True)
    spinup.sac(stacked_film, logger_kwargs=logger_kwargs, **OFF_POLICY | dict(epochs=3, checkpoint_freq=1))
    assert table(tmp_path / "half") == whole


@pytest.mark.parametrize(
    ("make", "planes", "new", "size"),
    [
        (Film, 1, 1, 256),
        (lambda: Film((16, 16, 3)), 3, 3, 256),
        (stacked_film, 4, 1, 256),
        (lambda: gym.wrappers.FrameStackObservation(Film((16, 16, 3)), 3), 3, 1, 3 * 256),
        (lambda: gym.wrappers.TimeLimit(stacked_film(), 9), 4, 1, 256),
    ],
)
def test_the_message_accounts_for_stacks(make, planes, new, size):
    """planes: in an image; new: those of them that each step adds"""
    envs = make_envs(make)
    stored = replay_bytes(envs.observation_space, Film.action_space)
    text = check_replay_memory(2**20, stored, envs.observation_space, "cpu")
    envs.close()
    each = new * (size + 4) * 17 / 16 + 2 * 4 * planes + 4 + 9
    assert float(text.split(" transitions, ")[1].split(" MiB")[0]) == pytest.approx(each, rel=0.01)
    assert text.endswith(" MiB when full, more with episodes shorter than 16 steps")
