"""spinup.envs, on tiny environments in which every number is known and on Gymnasium's own."""

import copy
import functools
import importlib
import os
import subprocess
import sys
import textwrap
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from spinup.envs import (
    as_wrappers,
    evaluate,
    find_wrapper,
    make_env,
    make_envs,
    modules_with_environments,
    play_test_episodes,
    saved_wrappers,
)
from spinup.errors import Fault, UserError, install
from spinup.nets import ActorCritic

# AsyncVectorEnv forks, and Python warns because torch has started threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Count(gym.Env):
    """Observation (episode, step) and reward 10 * episode + step, so that every number identifies its step.

    An episode ends, by termination or truncation, after `length` steps (`lengths[i]` in the environment with seed i),
    or after a random 1 to `length` steps with `random_length`. `log` records the calls of reset and step.
    """

    def __init__(
        self, length=3, ending="terminated", random_length=False, lengths=None, action_space=None, dtype=np.float64
    ):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype)
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.length, self.ending, self.random_length, self.lengths = length, ending, random_length, lengths
        self.o = np.zeros(2, dtype)
        self.log = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.log.append(("reset", seed))
        if self.lengths and seed in range(len(self.lengths)):
            self.length = self.lengths[seed]
        self.o += [1, 0]
        self.o[1] = 0
        self.end = int(self.np_random.integers(1, self.length + 1)) if self.random_length else self.length
        return self.o, {}

    def step(self, action):
        self.log.append(("step", action))
        self.o[1] += 1  # in place and returned without a copy, as in careless environments
        ended = self.o[1] >= self.end
        reward = float(10 * self.o[0] + self.o[1])
        return (
            self.o,
            reward,
            bool(ended and self.ending == "terminated"),
            bool(ended and self.ending == "truncated"),
            {},
        )


class Noise(gym.Env):
    """Random observations from any space, determined by the seed."""

    def __init__(self, observation_space, action_space=None, length=4):
        self.observation_space = copy.deepcopy(observation_space)  # each space has its own random stream
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.t == self.length, False, {}


def inner(envs):
    """The unwrapped environments inside a VecEnv."""
    return [env.unwrapped for env in envs.envs.envs]


def noop(envs):
    return np.zeros((envs.num_envs, *envs.action_space.shape), envs.action_space.dtype)


# ---- terminated, truncated, and the true next observation


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_terminated_and_truncated_differ_and_the_next_observation_is_the_true_one(ending):
    envs = make_envs(lambda: Count(3, ending), num_envs=2)
    assert envs.reset().tolist() == [[1, 0]] * 2
    for episode in (1, 2, 3):
        for t in (1, 2, 3):
            o2, r, terminated, truncated = envs.step(noop(envs))
            assert o2.tolist() == [[episode, t]] * 2
            assert r.tolist() == [10 * episode + t] * 2
            assert terminated.tolist() == [t == 3 and ending == "terminated"] * 2
            assert truncated.tolist() == [t == 3 and ending == "truncated"] * 2
            o = envs.reset_done()
            assert o.tolist() == ([[episode + 1, 0]] * 2 if t == 3 else [[episode, t]] * 2)


def test_only_environments_whose_episode_ended_are_reset():
    envs = make_envs(lambda: Count(lengths=(2, 3, 4)), num_envs=3)
    o, expected = envs.reset(), [[1, 0], [1, 0], [1, 0]]
    for _ in range(12):
        assert o.tolist() == expected
        o2, _, terminated, _ = envs.step(noop(envs))
        after = [[episode, t + 1] for episode, t in expected]
        assert o2.tolist() == after
        ends = [t == length for (_, t), length in zip(after, (2, 3, 4), strict=True)]
        assert terminated.tolist() == ends
        expected = [[episode + 1, 0] if end else [episode, t] for (episode, t), end in zip(after, ends, strict=True)]
        o = envs.reset_done()
    assert [sum(call[0] == "reset" for call in env.log) for env in inner(envs)] == [7, 5, 4]


def test_reset_done_does_nothing_before_an_episode_ends():
    envs = make_envs(lambda: Count(2), num_envs=2)
    assert envs.reset().tolist() == envs.reset_done().tolist()
    envs.step(noop(envs))
    envs.reset_done()
    assert envs.pop_episodes() == {"EpRet": [], "EpLen": []}
    assert [sum(call[0] == "reset" for call in env.log) for env in inner(envs)] == [1, 1]


def test_reset_done_a_second_time_does_nothing():
    envs = make_envs(lambda: Count(2), num_envs=2)
    envs.reset()
    for _ in range(2):
        envs.step(noop(envs))
    first, second = envs.reset_done(), envs.reset_done()
    assert first.tolist() == second.tolist()
    assert envs.pop_episodes()["EpLen"] == [2, 2]


def test_max_ep_len_truncates():
    envs = make_envs(lambda: Count(100), num_envs=2, max_ep_len=3)
    envs.reset()
    for t in range(1, 8):
        o2, _, terminated, truncated = envs.step(noop(envs))
        assert o2[0, 1] == (t - 1) % 3 + 1
        assert not terminated.any()
        assert truncated.tolist() == [t % 3 == 0] * 2
        envs.reset_done()
    assert envs.pop_episodes() == {"EpRet": [36, 36, 66, 66], "EpLen": [3, 3, 3, 3]}


@pytest.mark.parametrize("max_ep_len", [3, 4])
def test_a_terminal_state_at_max_ep_len_stays_terminal(max_ep_len):
    envs = make_envs(lambda: Count(3), max_ep_len=max_ep_len)
    envs.reset()
    for _ in range(2):
        envs.step(noop(envs))
        envs.reset_done()
    assert envs.step(noop(envs))[2].tolist() == [True]
    envs.reset_done()
    assert envs.pop_episodes()["EpLen"] == [3]


def test_a_time_limit_below_max_ep_len_is_a_truncation():
    envs = make_envs("Pendulum-v1", env_kwargs={"max_episode_steps": 5})
    envs.reset()
    ends = []
    for _ in range(10):
        _, _, terminated, truncated = envs.step(noop(envs))
        ends.append((bool(terminated[0]), bool(truncated[0])))
        envs.reset_done()
    assert ends == ([(False, False)] * 4 + [(False, True)]) * 2


# ---- statistics of episodes


def test_episode_statistics_by_hand():
    envs = make_envs(lambda: Count(lengths=(2, 3)), num_envs=2)
    envs.reset()
    seen = []
    for _ in range(6):
        envs.step(noop(envs))
        envs.reset_done()
        seen.append(envs.pop_episodes())
    # rewards are 11, 12 | 21, 22 | 31, 32 in the first, 11, 12, 13 | 21, 22, 23 in the second
    none = {"EpRet": [], "EpLen": []}
    assert seen == [
        none,
        {"EpRet": [23.0], "EpLen": [2]},
        {"EpRet": [36.0], "EpLen": [3]},
        {"EpRet": [43.0], "EpLen": [2]},
        none,
        {"EpRet": [63.0, 66.0], "EpLen": [2, 3]},
    ]


@pytest.mark.parametrize("max_ep_len", [1000, 3])
def test_episode_statistics_are_sums_of_the_returned_rewards(max_ep_len):
    envs = make_envs(lambda: Count(6, random_length=True), num_envs=3, seed=1, max_ep_len=max_ep_len)
    envs.reset()
    running, expected, popped = [(0.0, 0)] * 3, [], []
    for t in range(60):
        _, r, terminated, truncated = envs.step(noop(envs))
        for n in range(3):
            running[n] = (running[n][0] + r[n], running[n][1] + 1)
            if terminated[n] or truncated[n]:
                expected.append(running[n])
                running[n] = (0.0, 0)
        envs.reset_done()
        if t % 7 == 6:  # as at the end of an epoch, which running episodes extend across
            episodes = envs.pop_episodes()
            popped += zip(episodes["EpRet"], episodes["EpLen"], strict=True)
    episodes = envs.pop_episodes()
    assert popped + list(zip(episodes["EpRet"], episodes["EpLen"], strict=True)) == expected
    assert max(length for _, length in expected) <= max_ep_len
    assert len({length for _, length in expected}) > 1


def test_reset_restarts_the_statistics_and_the_random_stream():
    envs = make_envs(lambda: Noise(spaces.Box(-1, 1, (2,)), length=5), num_envs=2, seed=4)
    first = envs.reset().copy()
    envs.step(noop(envs))
    np.testing.assert_array_equal(envs.reset(), first)
    for _ in range(5):
        envs.step(noop(envs))
    envs.reset_done()
    assert envs.pop_episodes()["EpLen"] == [5, 5]


# ---- seeds


def stream(envs, steps=12):
    """Everything an agent sees of `envs`, with fixed actions."""
    rng = np.random.default_rng(0)
    seen = [envs.reset()]
    for _ in range(steps):
        space = envs.action_space
        shape = (envs.num_envs, *space.shape)
        if isinstance(space, spaces.Box):
            a = rng.normal(size=shape).astype(np.float32)
        else:
            a = rng.integers(0, space.n if isinstance(space, spaces.Discrete) else space.nvec, size=shape)
        seen += [*envs.step(a), envs.reset_done()]
    envs.close()
    return seen


def same(x, y):
    return all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_same_seed_gives_the_same_stream(env):
    first = stream(make_envs(env, 3, seed=5, max_ep_len=6))
    assert same(first, stream(make_envs(env, 3, seed=5, max_ep_len=6)))
    assert not same(first, stream(make_envs(env, 3, seed=6, max_ep_len=6)))


def test_numpys_integers_are_seeds():
    np.testing.assert_array_equal(*(make_envs("CartPole-v1", 2, seed).reset() for seed in (3, np.int64(3))))


def test_each_environment_has_its_own_random_stream():
    envs = make_envs("CartPole-v1", 4, seed=0, max_ep_len=3)
    first = envs.reset()
    assert len({row.tobytes() for row in first}) == 4
    for _ in range(3):
        envs.step(noop(envs))
        again = envs.reset_done()
    assert len({row.tobytes() for row in np.concatenate([first, again])}) == 8  # later episodes differ too
    np.testing.assert_array_equal(make_envs("CartPole-v1", 1, seed=2).reset()[0], first[2])


def test_every_episode_has_its_own_seed():
    def seeds(seed):
        envs = make_envs(lambda: Count(1), 2, seed)
        envs.reset()
        for _ in range(3):
            envs.step(noop(envs))
            envs.reset_done()
        return [[seed for what, seed in env.log if what == "reset"] for env in inner(envs)]

    first, second = seeds(7)
    assert (first[0], second[0]) == (7, 8)
    assert len({*first, *second}) == 8
    assert seeds(7) == [first, second]
    assert not set(first[1:] + second[1:]) & {*seeds(8)[0], *seeds(8)[1]}  # other seeds are other runs
    assert second[2] == np.random.SeedSequence((7, 1, 2)).generate_state(1)[0] % 2**31


@pytest.mark.parametrize("num_envs", [1, 2])
def test_async_gives_the_stream_of_sync(num_envs):
    make = [make_envs("CartPole-v1", num_envs, 3, 6, vectorization=kind) for kind in ("sync", "async")]
    assert same(*(stream(envs, 30) for envs in make))
    a, b = (envs.pop_episodes() for envs in make)
    assert a == b
    assert len(a["EpRet"]) >= 5 * num_envs


def test_async_with_dict_observations():
    space = spaces.Dict(x=spaces.Box(-1, 1, (2,)), y=spaces.Discrete(3))
    assert same(*(stream(make_envs(lambda: Noise(space), 2, 3, vectorization=kind), 9) for kind in ("sync", "async")))


# ---- actions


def acted(action_space, actions):
    """The actions that one environment receives for the policy's `actions`."""
    envs = make_envs(lambda: Count(100, action_space=action_space))
    envs.reset()
    for a in actions:
        envs.step(np.asarray(a)[None])
    return envs, [call[1] for call in inner(envs)[0].log if call[0] == "step"]


def test_actions_are_clipped_per_dimension():
    low, high = np.array([-1, 0, -np.inf, 2], np.float32), np.array([1, 10, np.inf, np.inf], np.float32)
    envs, seen = acted(spaces.Box(low, high), np.array([[-9, -9, -9, -9], [9, 9, 9, 9], [0.5, 20, 0, 3]], np.float32))
    assert [a.tolist() for a in seen] == [[-1, 0, -9, 2], [1, 9, 9, 9], [0.5, 10, 0, 3]]
    assert envs.action_space == spaces.Box(low, high)
    assert all(envs.raw_action_space.contains(a) for a in seen)


def test_actions_given_are_not_changed():
    envs = make_envs(lambda: Count(100, action_space=spaces.Box(-1, 1, (2,))), 2)
    envs.reset()
    a = np.array([[5.0, -5.0], [0.5, 0.5]], np.float32)
    envs.step(a)
    assert a.tolist() == [[5, -5], [0.5, 0.5]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_actions_of_several_dimensions(dtype):
    space = spaces.Box(np.arange(-6, 0).reshape(2, 3).astype(dtype), np.full((2, 3), 1, dtype), dtype=dtype)
    envs, seen = acted(space, np.array([[-9, -8, -7, 0.25, 8, 9], [0.5] * 6], np.float32))
    assert envs.action_space.shape == (6,)
    assert envs.action_space.low.tolist() == [-6, -5, -4, -3, -2, -1]
    assert envs.action_space.dtype == np.float32
    assert seen[0].tolist() == [[-6, -5, -4], [0.25, 1, 1]]
    assert seen[0].dtype == dtype
    assert space.contains(seen[0])


def test_a_zero_dimensional_box_action():
    envs, seen = acted(spaces.Box(-2, 3, ()), [[-5.0], [1.5]])
    assert envs.action_space.shape == (1,)
    assert [float(a) for a in seen] == [-2, 1.5]
    assert np.shape(seen[0]) == ()


def test_discrete_actions_start_where_the_environments_do():
    envs, seen = acted(spaces.Discrete(4, start=3), np.arange(4))
    assert envs.action_space == spaces.Discrete(4)
    assert [int(a) for a in seen] == [3, 4, 5, 6]
    assert all(envs.raw_action_space.contains(a) for a in seen)
    assert [int(a) for a in acted(spaces.Discrete(3, start=-1), np.arange(3))[1]] == [-1, 0, 1]


def test_multidiscrete_actions():
    space = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 10], [0, -1]])
    envs, seen = acted(space, [[1, 2, 3, 4], [0, 0, 0, 0]])
    assert envs.action_space.nvec.tolist() == [2, 3, 4, 5]
    assert envs.action_space.start.tolist() == [0, 0, 0, 0]
    assert [a.tolist() for a in seen] == [[[1, 12], [3, 3]], [[0, 10], [0, -1]]]
    assert all(space.contains(a) for a in seen)


@pytest.mark.parametrize(("n", "shape"), [(3, (3,)), ((2, 2), (2, 2))])
def test_multibinary_actions(n, shape):
    space = spaces.MultiBinary(n)
    size = int(np.prod(shape))
    actions = [[1, 0, 1, 1][:size], [0] * size]
    envs, seen = acted(space, actions)
    assert envs.action_space.nvec.tolist() == [2] * size
    assert [a.flatten().tolist() for a in seen] == actions
    assert all(a.shape == shape for a in seen)
    assert all(space.contains(a) for a in seen)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32)),
        spaces.Discrete(3, start=5),
        spaces.MultiDiscrete([2, 4]),
        spaces.MultiBinary((2, 2)),
    ],
    ids=lambda space: type(space).__name__,
)
def test_the_policys_actions_are_the_environments(space):
    torch.manual_seed(0)
    envs = make_envs(lambda: Count(50, action_space=space), 3)
    wide = {"log_std_init": 1.0} if isinstance(space, spaces.Box) else {}
    ac = ActorCritic(envs.observation_space, envs.action_space, **wide)
    o = envs.reset()
    for _ in range(20):
        envs.step(ac.act(o))
        o = envs.reset_done()
    seen = [call[1] for env in inner(envs) for call in env.log if call[0] == "step"]
    assert len(seen) == 60
    assert all(space.contains(a) for a in seen)
    assert len({np.asarray(a).tobytes() for a in seen}) > 1


def test_actions_for_a_box_of_integers_are_rounded():
    envs = make_envs(lambda: Count(50, action_space=spaces.Box(-3, 3, (5,), np.int32)))
    envs.reset()
    envs.step(np.array([[-0.9, -0.4, 0.9, 2.6, 9.0]], np.float32))
    assert [call[1].tolist() for call in inner(envs)[0].log if call[0] == "step"] == [[-1, 0, 1, 3, 3]]


# ---- observations


OBSERVATIONS = {
    "box": (spaces.Box(-1, 1, (3,)), (3,)),
    "box64": (spaces.Box(-1, 1, (3,), np.float64), (3,)),
    "matrix": (spaces.Box(-1, 1, (2, 3)), (6,)),
    "scalar": (spaces.Box(-1, 1, ()), (1,)),
    "integers": (spaces.Box(-5, 5, (3,), np.int32), (3,)),
    "bytes": (spaces.Box(0, 255, (3,), np.uint8), (3,)),
    "discrete": (spaces.Discrete(4, start=2), (4,)),
    "multidiscrete": (spaces.MultiDiscrete([2, 3]), (5,)),
    "multibinary": (spaces.MultiBinary(4), (4,)),
    "tuple": (spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2, 2))]), (6,)),
    "dict": (spaces.Dict(b=spaces.Discrete(3), a=spaces.Dict(c=spaces.Box(-1, 1, (2,)))), (5,)),
}


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_observations_become_flat_float32(kind):
    space, shape = OBSERVATIONS[kind]
    envs = make_envs(lambda: Noise(space), 2, seed=3)
    o = envs.reset()
    assert envs.observation_space.shape == shape
    assert envs.observation_space.dtype == np.float32
    for _ in range(2):
        assert o.shape == (2, *shape)
        assert o.dtype == np.float32
        o = envs.step(noop(envs))[0]
    envs.reset()
    for n in range(2):  # compare with Gymnasium's flattening of the same samples
        twin = Noise(space)
        raw, _ = twin.reset(seed=3 + n)
        np.testing.assert_allclose(envs.o[n], spaces.flatten(space, raw).astype(np.float32), rtol=0)
        raw = twin.step(0)[0]
    np.testing.assert_allclose(envs.step(noop(envs))[0][1], spaces.flatten(space, raw).astype(np.float32), rtol=0)


def test_discrete_and_dict_observations_by_hand():
    class Fixed(Noise):
        def reset(self, *, seed=None, options=None):
            return {"b": 1, "a": np.array([0.25, 0.5], np.float32)}, {}

    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3))
    assert make_envs(lambda: Fixed(space)).reset().tolist() == [[0.25, 0.5, 0, 1, 0]]


@pytest.mark.parametrize("shape", [(3, 8, 9), (8, 9, 3), (8, 9)])
def test_images_stay_bytes(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    envs = make_envs(lambda: Noise(space), 2, seed=3)
    o = envs.reset()
    assert envs.observation_space == space
    assert o.shape == (2, *shape)
    assert o.dtype == np.uint8
    twin = Noise(space)
    np.testing.assert_array_equal(o[1], twin.reset(seed=4)[0])
    assert ActorCritic(envs.observation_space, envs.action_space).act(o).shape == (2,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_returned_arrays_do_not_change_later(dtype, vectorization):
    envs = make_envs(lambda: Count(3, dtype=dtype), 2, vectorization=vectorization)
    kept = [(x := envs.reset(), x.copy())]
    for _ in range(7):
        kept += [(x, x.copy()) for x in envs.step(noop(envs))]
        kept += [(x := envs.reset_done(), x.copy())]
    envs.close()
    assert all(np.array_equal(x, y) for x, y in kept)


def test_returned_images_do_not_change_later():
    envs = make_envs(lambda: Noise(spaces.Box(0, 255, (3, 8, 9), np.uint8)), 2)
    first = envs.reset()
    copy = first.copy()
    envs.step(noop(envs))
    assert np.array_equal(first, copy)


class Careful(Noise):
    """Noise that passes Gymnasium's checker: all randomness comes from the seed."""

    metadata = {"render_modes": []}  # noqa: RUF012
    render_mode = None

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.t = 0
        return self.observation(), {}

    def observation(self):
        x = self.np_random.uniform(-1, 1, size=2).astype(np.float32)
        return {"a": x, "b": self.np_random.integers(3)}

    def step(self, action):
        self.t += 1
        return self.observation(), 0.0, self.t == self.length, False, {}


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # it is, on purpose
def test_gymnasiums_checker_accepts_the_flattened_environment():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3))
    env = make_env(lambda: Careful(space))
    assert isinstance(env.observation_space, spaces.Box)
    assert env.observation_space.shape == (5,)
    check_env(env, skip_render_check=True)


# ---- evaluate


class Sign:
    """Stands in for an actor-critic: acts 1 if the observation's first number is positive. Records its calls."""

    def __init__(self, action=None):
        self.calls, self.action = [], action

    def act(self, o, deterministic=False):
        self.calls.append((o.copy(), deterministic))
        return (o[:, 0] > 0).astype(int) if self.action is None else np.full(len(o), self.action)


def test_evaluate_plays_one_episode_in_each_environment():
    episodes = evaluate(Sign(), lambda: Count(lengths=(1, 5, 2)), episodes=3, seed=0)
    # the environment with 1-step episodes could play five in that time, but only its first counts
    assert episodes == {"EpRet": [11.0, 11.0 + 12 + 13 + 14 + 15, 23.0], "EpLen": [1, 5, 2]}


def test_evaluate_is_seeded_and_ordered_by_seed():
    def single(seed):
        env, ac = make_env("CartPole-v1"), Sign()
        o, _ = env.reset(seed=seed)
        ret, done = 0.0, False
        while not done:
            o, r, terminated, truncated, _ = env.step(int(ac.act(o[None].astype(np.float32))[0]))
            ret, done = ret + r, terminated or truncated
        return ret

    expected = [single(20 + i) for i in range(6)]
    assert len(set(expected)) > 2
    for _ in range(2):
        assert evaluate(Sign(), "CartPole-v1", 6, seed=20) == {"EpRet": expected, "EpLen": [int(x) for x in expected]}
    assert evaluate(Sign(), "CartPole-v1", 2, seed=24)["EpRet"] == expected[4:]
    assert evaluate(Sign(), "CartPole-v1", 6, seed=21)["EpRet"] != expected


def test_evaluate_uses_its_own_seeds_by_default():
    ac = Sign()
    evaluate(ac, "CartPole-v1", 3, max_ep_len=1)
    first = ac.calls[0][0]
    assert not any(np.array_equal(first, make_envs("CartPole-v1", 3, seed).reset()) for seed in range(10))
    evaluate(ac, "CartPole-v1", 3, max_ep_len=1)
    np.testing.assert_array_equal(ac.calls[1][0], first)


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluate_passes_deterministic_on(deterministic):
    ac = Sign(action=0)
    evaluate(ac, lambda: Count(2), 2, deterministic=deterministic)
    assert [flag for _, flag in ac.calls] == [deterministic] * 2


def test_evaluate_deterministically_leaves_torchs_stream_and_the_policy_alone():
    envs = make_envs("CartPole-v1", 2)
    ac = ActorCritic(envs.observation_space, envs.action_space, normalize_obs=True)
    ac.obs_norm.update(torch.randn(10, 4))
    before = {k: v.clone() for k, v in ac.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = evaluate(ac, "CartPole-v1", 3)
    assert first == evaluate(ac, "CartPole-v1", 3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(torch.equal(v, before[k]) for k, v in ac.state_dict().items())


def test_evaluate_plays_in_evaluation_mode_and_restores_each_modules_mode():
    envs = make_envs("Pendulum-v1", 2)
    ac = ActorCritic(envs.observation_space, envs.action_space, hidden_sizes=(4,))
    ac.act = lambda o, deterministic: modes.append([m.training for m in ac.modules()]) or np.zeros((len(o), 1), "f4")
    ac.critic.eval()
    modes, before = [], [m.training for m in ac.modules()]
    evaluate(ac, "Pendulum-v1", 2, max_ep_len=3)
    assert len(modes) == 3
    assert not any(training for mode in modes for training in mode)
    assert [m.training for m in ac.modules()] == before
    assert True in before
    assert False in before


def test_evaluate_applies_max_ep_len_and_env_kwargs():
    assert evaluate(Sign(), lambda: Count(100), 2, max_ep_len=4)["EpLen"] == [4, 4]
    assert evaluate(Sign(), Count, 2, env_kwargs={"length": 6})["EpLen"] == [6, 6]
    assert evaluate(Sign(), Count, 2, env_kwargs={"length": 6}, max_ep_len=6)["EpRet"] == [81, 81]


# ---- user errors


def error_of(fn, *args, **kwargs):
    with pytest.raises(UserError) as error:
        fn(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "env_id", ["MiniGrid-Empty-5x5-v0", "highway-v0", "PointMaze_UMaze-v3", "FetchReach-v4", "Ab-Cd/Ef-v0"]
)
def test_an_environment_of_a_package_that_is_not_imported(monkeypatch, env_id):
    known = {"minigrid": ["minigrid"], "ab_cd": ["ab-cd"], "scipy": ["scipy"], "gymnasium_robotics": ["robots"]}
    requires = {"minigrid": ["numpy", "gymnasium>=1.0"], "ab-cd": ["gymnasium"], "scipy": None}
    requires["robots"] = ["gymnasium[mujoco]"]
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: known)
    monkeypatch.setattr("importlib.metadata.requires", requires.get)
    not_cached = modules_with_environments.__wrapped__
    monkeypatch.setattr("spinup.envs.constructors.modules_with_environments", not_cached)
    module = {"M": "minigrid", "A": "ab_cd", "P": "gymnasium_robotics", "F": "gymnasium_robotics"}.get(env_id[0])
    packages = "ab_cd, gymnasium_robotics, minigrid"
    expected = f"my_module:{env_id}; installed packages that may register it: {packages}"
    expected = f"; did you mean '{module}:{env_id}'?" if module else expected
    assert expected in error_of(make_env, env_id)


@pytest.mark.parametrize(
    ("env_id", "closest"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("CartPole", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("CartPole-v99", "CartPole-v1"),
        ("Pendulm-v1", "Pendulum-v1"),
        ("gymnasium:CartPol-v1", "CartPole-v1"),
    ],
)
def test_an_unknown_environment_is_named_with_the_closest_match(env_id, closest):
    for fn in (make_env, make_envs):
        assert error_of(fn, env_id) == f"there is no environment '{env_id}'; did you mean '{closest}'?"


@pytest.mark.parametrize(
    "env_id", ["", "no such thing", "a/b/c", "Quite-Unlike-Anything-v0", ":CartPole-v1", ".a:X-v0"]
)
def test_an_unknown_environment_without_a_close_match(env_id):
    assert f"environment '{env_id}'" in error_of(make_env, env_id)


MODULE = """
import gymnasium as gym
from gymnasium import spaces


class Mine(gym.Env):
    def __init__(self, size=2):
        self.observation_space, self.action_space = spaces.Box(-1, 1, (size,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, True, False, {}


gym.register("Mine-v3", entry_point=Mine, max_episode_steps=5)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A package my_envs with a module that registers Mine-v3 and a module that can't be imported."""
    package = tmp_path / "my_envs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text(textwrap.dedent(MODULE))
    (package / "bad.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_envs"
    gym.registry.pop("Mine-v3", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "my_envs"]:
        del sys.modules[name]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_of_a_module(module, vectorization):
    envs = make_envs("my_envs.good:Mine-v3", 2, env_kwargs={"size": 4}, vectorization=vectorization)
    assert envs.reset().shape == (2, 4)
    assert envs.step(noop(envs))[2].all()
    envs.close()


def test_a_module_that_registers_by_a_function(module, tmp_path):
    text = MODULE.replace("gym.register(", "def register_envs():\n    gym.register(")
    (tmp_path / "my_envs" / "late.py").write_text(text)
    assert make_env("my_envs.late:Mine-v3").observation_space.shape == (2,)


def test_mistakes_in_the_environment_of_a_module(module):
    assert error_of(make_env, "my_envs.good:Mine-v4").startswith("there is no environment 'my_envs.good:Mine-v4'")
    assert "did you mean 'Mine-v3'?" in error_of(make_env, "my_envs.good:Min-v3")
    assert "no module 'my_envs.better'" in error_of(make_env, "my_envs.better:Mine-v3")
    assert "no module 'other_envs'" in error_of(make_env, "other_envs:Mine-v3")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        make_env("my_envs.bad:Mine-v3")  # a bug in the module, not in the command: its author needs the traceback


def test_wrong_env_kwargs_are_named():
    message = error_of(make_envs, "CartPole-v1", env_kwargs={"gravity": 1})
    assert "'CartPole-v1'" in message
    assert "'gravity'" in message
    assert "env_kwargs" in message


def test_wrong_env_kwargs_for_a_function_are_named():
    message = error_of(make_envs, Count, env_kwargs={"gravity": 1})
    assert "'gravity'" in message
    assert "env_kwargs" in message


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "named"),
    [
        ("FrozenLake-v1", {"map_name": "9x9"}, "KeyError: '9x9'"),
        ("CartPole-v1", {"max_episode_steps": 0}, "max_episode_steps"),
        ("CartPole-v1", {"id": "Foo"}, "multiple values"),
    ],
)
def test_values_that_an_environment_does_not_take_are_named(env_id, env_kwargs, named):
    message = error_of(make_envs, env_id, env_kwargs=env_kwargs)
    assert message.startswith(f"environment '{env_id}' does not take these env_kwargs: ")
    assert named in message


@pytest.mark.parametrize("made", [None, 3, gym.Env()])
def test_a_function_that_returns_something_else_is_named(made):
    assert "it must return a gymnasium.Env with observation_space and action_space" in error_of(make_envs, lambda: made)


def test_env_kwargs_for_a_class_that_takes_none_are_named():
    class Bare(gym.Env):
        observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    assert "does not take these env_kwargs: Bare() takes no arguments" in error_of(make_envs, Bare, env_kwargs={"g": 1})


def test_env_kwargs_and_render_mode_reach_the_environment():
    env = make_env("CartPole-v1", {"sutton_barto_reward": True}, render_mode="rgb_array")
    assert env.unwrapped.render_mode == "rgb_array"
    assert env.unwrapped._sutton_barto_reward is True
    assert make_env(Count, {"length": 8}).length == 8


def test_a_bug_inside_an_environment_keeps_its_traceback():
    def broken():
        raise TypeError("the author's own mistake")

    with pytest.raises(TypeError, match="the author's own mistake"):
        make_env(broken)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Gymnasium's, for an outdated environment
@pytest.mark.parametrize("env_id", ["HalfCheetah-v2", "Hopper-v3"])
def test_the_mujoco_environments_of_the_original_are_a_user_error_that_names_the_new_ones(env_id):
    assert f"{env_id[:-1]}5" in error_of(make_env, env_id)


@pytest.mark.parametrize(
    ("env_id", "module", "extra"), [("ALE/Pong-v5", "ale_py", "atari"), ("LunarLander-v3", "Box2D", "box2d")]
)
def test_a_missing_extra_gives_the_pip_command(env_id, module, extra, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    assert f"needs: {install(extra)}" in error_of(make_env, env_id)


UNSUPPORTED = {
    "graph": spaces.Graph(spaces.Box(-1, 1, (2,)), None),
    "sequence": spaces.Sequence(spaces.Discrete(2)),
    "text": spaces.Text(4),
    "oneof": spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
    "dict of a sequence": spaces.Dict(a=spaces.Discrete(2), b=spaces.Sequence(spaces.Discrete(2))),
    "tuple of a text": spaces.Tuple([spaces.Discrete(2), spaces.Text(4)]),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_observations_are_named(kind):
    space = UNSUPPORTED[kind]
    message = error_of(make_envs, lambda: Noise(space))
    assert f"observation space {space}" in message
    assert "Box, Discrete" in message


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, (2, 0))])
def test_a_space_without_actions_is_named(space):
    message = error_of(make_envs, lambda: Noise(spaces.Discrete(2), space))
    assert message == f"action space {space} has no actions; no dimension may be 0"


def test_an_outdated_environment_warns_once():
    code = "from spinup.envs import make_envs; [make_envs('CartPole-v0', 3) for _ in range(2)]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("is out of date") == 1


@pytest.mark.parametrize("kind", [*UNSUPPORTED, "dict", "tuple"])
def test_unsupported_actions_are_named(kind):
    space = UNSUPPORTED[kind] if kind in UNSUPPORTED else OBSERVATIONS[kind][0]
    message = error_of(make_envs, lambda: Noise(spaces.Discrete(2), space))
    assert f"action space {space} is not supported" in message
    assert "Box, Discrete" in message


@pytest.mark.parametrize(("name", "value"), [("num_envs", 0), ("num_envs", -1), ("max_ep_len", 0)])
def test_counts_below_one_are_named(name, value):
    message = error_of(make_envs, "CartPole-v1", **{name: value})
    assert name in message
    assert f"is {value}" in message or f"{name} {value}" in message


def test_no_episodes_to_evaluate_is_an_error_about_episodes():
    assert "episodes" in error_of(evaluate, Sign(), "CartPole-v1", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(episodes=1.5), "episodes is 1.5; it must be a whole number at least 1"),
        (dict(episodes=None), "episodes is None; it must be a whole number at least 1"),
        (dict(num_envs="2"), "num_envs is '2'; it must be a whole number at least 1 or None"),
        (dict(max_ep_len=2.5), "max_ep_len is 2.5; it must be a whole number at least 1 or None"),
        (dict(seed=-1), "seed is -1; it must be a whole number at least 0"),
        (dict(env_kwargs=3), "env_kwargs is 3; it must be a dict"),
    ],
)
def test_wrong_arguments_of_evaluate(arguments, message):
    assert error_of(evaluate, Sign(), "CartPole-v1", **arguments) == message


def test_a_wrong_vectorization_is_named():
    assert error_of(make_envs, "CartPole-v1", vectorization="asinc") == (
        "vectorization is 'asinc'; it must be 'sync' or 'async'"
    )


def test_a_vector_environment_is_refused():
    message = error_of(make_envs, lambda: gym.make_vec("CartPole-v1", num_envs=2))
    assert "vector environment" in message
    assert "num_envs" in message


def test_an_environment_in_place_of_a_function_is_refused():
    assert "env_fn" in error_of(make_envs, Count())


def test_a_mistake_is_reported_at_once_and_not_by_a_worker():
    message = error_of(make_envs, lambda: Noise(UNSUPPORTED["text"], UNSUPPORTED["graph"]), 2, vectorization="async")
    assert "space" in message


# ---- environments as others write them


class WithInfos(Count):
    """Count whose resets and steps return the infos of a list in turn; `calls` records reset's arguments."""

    def __init__(self, infos=({},), calls=None, **kwargs):
        super().__init__(**kwargs)
        self.infos, self.turn, self.calls = list(infos), 0, [] if calls is None else calls

    def info(self):
        self.turn += 1
        return self.infos[(self.turn - 1) % len(self.infos)]

    def reset(self, *, seed=None, options=None):
        self.calls.append((seed, options))
        return super().reset(seed=seed)[0], self.info()

    def step(self, action):
        return (*super().step(action)[:4], self.info())


def play(envs, steps):
    envs.reset()
    for _ in range(steps):
        envs.step(noop(envs))
        envs.reset_done()


BASE = Count(3)


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("env_fn", [lambda: BASE, lambda: gym.wrappers.TimeLimit(BASE, 2)])
def test_one_environment_for_all_copies_is_refused(env_fn, vectorization, num_envs):
    message = error_of(make_envs, env_fn, num_envs, vectorization=vectorization)
    assert message.startswith("env_fn returned the same environment twice; it must make a new one")


def test_two_environments_in_turn_are_refused():
    both = [Count(3), Count(3)] * 2
    assert "returned the same environment twice" in error_of(make_envs, lambda: both.pop(), 2)


def test_options_stay_none_by_default():
    calls = []
    play(make_envs(lambda: WithInfos(calls=calls, length=2), 2), 7)
    assert len(calls) == 8
    assert {options for _, options in calls} == {None}


@pytest.mark.filterwarnings("ignore:.*Box.*")
def test_options_stay_none_by_default_in_workers():
    class Strict(Count):
        def reset(self, *, seed=None, options=None):
            assert options is None
            return super().reset(seed=seed)

    envs = make_envs(lambda: Strict(1), 2, vectorization="async")
    play(envs, 3)
    envs.close()


INFOS = {
    "arrays of several lengths": ({"x": np.zeros(2)}, {"x": np.zeros(3)}),
    "a number and none": ({"x": 1}, {"x": None}),
    "a word and a number": ({"x": 1}, {"x": "one"}),
    "a dict and a number": ({"x": {"y": 1}}, {"x": 2}),
    "a number and a dict": ({"x": 2}, {"x": {"y": 1}}),
    "none at all": (None,),
    "a list": ([],),
    "keys other than strings": ({1: 2, (3, 4): 5},),
    "values that can't be compared": ({"x": torch.zeros(2)}, {"x": [[1], 2]}),
}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("log_info", [None, "x,x.y"])
@pytest.mark.parametrize("kind", INFOS)
def test_infos_that_differ_between_copies(kind, log_info, vectorization):
    def make(start=[0]):  # noqa: B006  the default is shared, so that each copy begins at another info
        start[0] += 1
        return WithInfos(INFOS[kind][start[0] % len(INFOS[kind]) :] + INFOS[kind], length=2)

    envs = make_envs(make, 3, vectorization=vectorization, log_info=log_info)
    play(envs, 5)
    assert len(envs.pop_episodes()["EpRet"]) == 6
    envs.close()


@pytest.mark.parametrize("seed", [7, 2**31 - 1, 2**32 - 1])
def test_seeds_are_below_31_bits(seed):
    calls = []
    play(make_envs(lambda: WithInfos(calls=calls, length=1), 2, seed), 40)
    seeds = [seed for seed, _ in calls]
    assert len(seeds) == len(set(seeds)) == 82
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds[:2] == [seed % 2**31, (seed + 1) % 2**31]
    drawn = [np.random.SeedSequence((seed, i, n)).generate_state(1).item() for n in range(1, 41) for i in (0, 1)]
    assert [s for s, d in zip(seeds[2:], drawn, strict=True) if d < 2**31] == [d for d in drawn if d < 2**31]


def test_reseed_false_seeds_the_first_reset_alone():
    calls = []
    envs = make_envs(lambda: WithInfos(calls=calls, length=2), 2, 5, reseed=False)
    play(envs, 5)
    assert [seed for seed, _ in calls] == [5, 6, None, None, None, None]
    envs.reset()
    assert [seed for seed, _ in calls][6:] == [None, None]


class World(Count):
    """Count with a world that is rebuilt only when reset gets a seed; observations start with its number."""

    def reset(self, *, seed=None, options=None):
        o = super().reset(seed=seed)[0]
        if seed is not None:
            self.world = seed
        o[0] = self.world
        return o, {}


def test_reseed_false_resumes_in_the_same_world_with_new_episodes():
    first, second = (make_envs(lambda: World(lengths=(9, 2)), 2, reseed=False) for _ in range(2))
    play(first, 5)
    failed = second.load_state_dict(first.state_dict())
    assert failed.tolist() == [False, True]  # the first copy is in its first episode, which can be replayed
    assert second.o.tolist() == [[0, 5], [1, 0]]
    assert second.ep_len.tolist() == [5, 0]
    second.step(noop(second))
    assert second.o.tolist() == [[0, 6], [1, 1]]


# ---- evaluation in fewer environments


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("num_envs", [1, 2, 5, 9, None])
def test_evaluate_in_any_number_of_environments_gives_the_same(num_envs, vectorization):
    def run(**how):
        return evaluate(Sign(0), lambda: Count(9, random_length=True, lengths=()), 5, seed=3, **how)

    expected = run()
    assert len(set(expected["EpLen"])) > 2
    # Count's rewards depend on the episode's number in its environment, so only the lengths can be compared
    assert run(num_envs=num_envs, vectorization=vectorization)["EpLen"] == expected["EpLen"]


def test_evaluate_makes_no_more_than_num_envs_environments():
    made = []

    def make():
        made.append(0)
        return Count(2)

    assert evaluate(Sign(0), make, 7, num_envs=2)["EpLen"] == [2] * 7
    assert len(made) == 3  # one is made and closed first, to check it
    assert "num_envs is 0" in error_of(evaluate, Sign(0), make, 7, num_envs=0)


class Where(Count):
    """Its reward is the id of its process."""

    def step(self, action):
        o, _, *rest = super().step(action)
        return o, float(os.getpid()), *rest


@pytest.mark.parametrize(("vectorization", "num_envs", "processes"), [("sync", 3, 1), ("async", 3, 3), ("async", 1, 1)])
def test_evaluation_is_vectorized_like_training(vectorization, num_envs, processes):
    envs = make_envs(lambda: Where(1), num_envs, vectorization=vectorization)
    test = play_test_episodes(Sign(0), envs, 6)
    envs.close()
    assert len(set(test["TestEpRet"])) == processes
    assert (os.getpid() in test["TestEpRet"]) == (vectorization == "sync")


def test_evaluation_uses_the_arguments_of_make_envs():
    kwargs = dict(env_kwargs={"length": 8}, wrappers=functools.partial(gym.wrappers.TimeLimit, max_episode_steps=4))
    assert play_test_episodes(Sign(0), make_envs(Count, max_ep_len=9, **kwargs), 2)["TestEpLen"] == [4, 4]
    assert play_test_episodes(Sign(0), make_envs(Count, max_ep_len=3, **kwargs), 2)["TestEpLen"] == [3, 3]


def test_evaluate_without_reseed_stays_in_one_world():
    class Returns(World):
        def step(self, action):
            o, _, *rest = super().step(action)
            return o, float(self.world), *rest

    assert evaluate(Sign(0), lambda: Returns(1), 3, seed=5, num_envs=1)["EpRet"] == [5, 6, 7]
    assert evaluate(Sign(0), lambda: Returns(1), 3, seed=5, num_envs=1, reseed=False)["EpRet"] == [5, 5, 5]


# ---- close


class Unclosable(Count):
    def __init__(self, error):
        super().__init__(2)
        self.error = error

    def close(self):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("not open"), SystemExit(3)])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_close_that_raises_is_a_warning(vectorization, error, capfd):
    envs = make_envs(lambda: Unclosable(error), 3, vectorization=vectorization)
    play(envs, 3)
    envs.close()
    stderr = capfd.readouterr().err
    assert f"warning: <lambda>: environment raised {type(error).__name__}" in stderr
    assert "Traceback" not in stderr
    if vectorization == "sync":
        assert stderr.count("warning") == 1


def test_a_dead_worker_at_close_is_a_warning(capfd):
    envs = make_envs(lambda: Count(2), 2, vectorization="async")
    play(envs, 3)
    envs.envs.processes[0].kill()
    envs.envs.processes[0].join()
    envs.close()
    assert "in close (shown once)" in capfd.readouterr().err
    assert not any(process.is_alive() for process in envs.envs.processes)


# ---- errors in a constructor


class Mistaken(Count):
    def __init__(self, size=3):
        super().__init__(length=size)
        np.zeros(size, fill=1)


def test_an_error_in_a_constructor_keeps_its_traceback():
    for kwargs in ({}, {"env_kwargs": {"size": 4}}):
        with pytest.raises(TypeError, match="'fill'"):
            make_env(Mistaken, **kwargs)


def test_an_error_in_the_constructor_of_an_id_keeps_its_traceback(monkeypatch):
    def bug(size=2):
        return {}["missing"] if size else None

    for name, maker in (("Mistaken-v0", Mistaken), ("Bug-v0", bug)):
        gym.register(name, entry_point=maker)
    try:
        for kwargs in ({}, {"env_kwargs": {"size": 4}}):
            with pytest.raises(TypeError, match="'fill'"):
                make_env("Mistaken-v0", **kwargs)
            with pytest.raises(KeyError, match="missing"):
                make_env("Bug-v0", **kwargs)
    finally:
        for name in ("Mistaken-v0", "Bug-v0"):
            gym.registry.pop(name)


def test_missing_constructor_arguments_are_named():
    class Needs(Count):
        def __init__(self, size):
            super().__init__(length=size)

    assert "needs other env_kwargs: " in error_of(make_env, Needs)
    assert "'size'" in error_of(make_env, Needs)


def test_an_environment_that_cant_be_rendered_is_named():
    assert error_of(make_env, Count, {"render_mode": "rgb_array"}) == (
        "environment 'Count' can't be rendered: its env_fn takes no render_mode"
    )


# ---- observations and rewards of other kinds


class Gives(Count):
    """Count that returns the given observation, from step `at` on, and reward."""

    def __init__(self, o=None, r=0.0, at=1, space=None):
        super().__init__(100)
        self.given, self.r, self.at = o, r, at
        self.observation_space = self.observation_space if space is None else space

    def step(self, action):
        o = super().step(action)[0].astype(self.observation_space.dtype)
        return (o if self.given is None or o[1] < self.at else self.given), self.r, False, False, {}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0].astype(self.observation_space.dtype), {}


@pytest.mark.parametrize("o", [torch.tensor([3.0, 4.0]), [3, 4], (3.0, np.float32(4))])
def test_anything_numpy_converts_to_an_array_is_an_observation(o):
    envs = make_envs(lambda: Gives(o), 2)
    envs.reset()
    assert envs.step(noop(envs))[0].tolist() == [[3, 4]] * 2


@pytest.mark.parametrize("o", [torch.zeros(2, requires_grad=True), [[1], [2, 3]], {"a": 1}, "x", torch.zeros(3)])
def test_an_invalid_observation_is_reported_with_environment_and_step(o):
    envs = make_envs(lambda: Gives(o, at=2))
    envs.reset()
    envs.step(noop(envs))
    with pytest.raises(Fault, match=r"environment 0 returned an observation .* at step 2 of its episode"):
        envs.step(noop(envs))


class Ends(Count):
    """Count that returns the given terminated and truncated."""

    def __init__(self, terminated, truncated):
        super().__init__(100)
        self.ends = terminated, truncated

    def step(self, action):
        return (*super().step(action)[:2], *self.ends, {})


@pytest.mark.parametrize("end", [1, np.int64(1), torch.tensor(True), np.array([True]), 1.0])
def test_ends_of_any_kind(end):
    envs = make_envs(lambda: Ends(end, end), 2)
    envs.reset()
    assert [x.tolist() for x in envs.step(noop(envs))[2:]] == [[True, True]] * 2


@pytest.mark.parametrize(("what", "ends"), [("terminated", (None, False)), ("truncated", (False, "no"))])
def test_ends_that_are_neither_true_nor_false_are_named(what, ends):
    envs = make_envs(lambda: Ends(*ends))
    envs.reset()
    with pytest.raises(Fault, match=f"environment 0 returned .* for {what} at step 1; it must be True or False"):
        envs.step(noop(envs))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (0,)),
        spaces.Box(0, 255, (0, 8, 3), np.uint8),
        spaces.Dict(),
        spaces.Tuple(()),
        spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Dict()),
        spaces.Dict(action_mask=spaces.MultiBinary(2)),
    ],
)
def test_an_empty_observation_space_is_named(space):
    assert error_of(make_envs, lambda: Gives(space=space)) == (
        f"observation space {space} is empty; without observations, return a constant"
    )


@pytest.mark.parametrize("r", [1e39, -1e39, 2e19, 10**40])
def test_a_reward_too_large_for_float32_is_named(r):
    envs = make_envs(lambda: Gives(r=r), 2)
    envs.reset()
    with pytest.raises(
        Fault, match=r"environment 0 returned the reward .* at step 1 .* the square of which is too large .* scale it"
    ):
        envs.step(noop(envs))


def test_an_observation_too_large_for_float32_is_named():
    envs = make_envs(lambda: Gives(np.array([0.0, 1e39]), at=2))
    envs.reset()
    envs.step(noop(envs))
    with pytest.raises(Fault, match=r"returned the observation \[.*1\.e\+39\] at step 2 of its episode, too large"):
        envs.step(noop(envs))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_an_observation_that_float32_rounds_warns_once(dtype, capfd):
    space = spaces.Box(-np.inf if dtype != np.int64 else 0, np.inf if dtype != np.int64 else 2**40, (2,), dtype)
    envs = make_envs(lambda: Gives(np.array([0, 1_700_000_000], dtype), space=space))
    envs.reset()
    for _ in range(3):
        envs.step(noop(envs))
    stderr = capfd.readouterr().err
    assert stderr.count("warning") == 1
    assert "at index (1,), where float32 has steps of 128: subtract a constant" in stderr


# ---- wrappers


class Doubled(gym.RewardWrapper):
    """factor * reward + sum(plus)."""

    def __init__(self, env, factor=2, plus=(0,)):
        super().__init__(env)
        self.factor, self.plus = factor, plus

    def reward(self, reward):
        return self.factor * reward + sum(self.plus)


def returns(wrappers, **kwargs):
    return evaluate(Sign(0), lambda: Count(1), 1, wrappers=wrappers, **kwargs)["EpRet"][0]


def test_wrappers_are_applied_in_order():
    plain = returns(None)
    assert plain == returns([]) == 11
    assert returns(Doubled) == returns([Doubled]) == 22
    three = functools.partial(Doubled, factor=1, plus=[3])
    assert returns([Doubled, three]) == 2 * 11 + 3
    assert returns([three, Doubled]) == 2 * (11 + 3)


def test_wrappers_as_strings():
    here = f"{__name__}:Doubled"
    assert returns(here) == 22
    assert returns([f"{here}(3)", f"{here}(1, plus=[1, 2])"]) == 36
    assert returns(f"[{here}(3),{here}(1, plus=(1,2))]") == 36
    assert returns(f"{here}(factor=10)", vectorization="async") == 110
    env = make_env("CartPole-v1", wrappers="gymnasium.wrappers:TimeLimit(max_episode_steps=7)")
    assert env._max_episode_steps == 7


def test_wrappers_come_before_observations_are_flattened():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3))
    keep = "gymnasium.wrappers:FilterObservation(filter_keys=[a])"
    assert make_envs(lambda: Noise(space), wrappers=[keep]).observation_space.shape == (2,)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a:B", ["a:B"]),
        ("[a:B, c.d:E(1, x=[2,3]),f:G]", ["a:B", "c.d:E(1, x=[2,3])", "f:G"]),
        ("a:B(x='c:d, e:f')", ["a:B(x='c:d, e:f')"]),
        ("a:B({'x': 1, 'y': 2}),c:D", ["a:B({'x': 1, 'y': 2})", "c:D"]),
        ("a:B({1:2, 3:4, 5:6}), c:D", ["a:B({1:2, 3:4, 5:6})", "c:D"]),
    ],
)
def test_wrappers_in_one_string(text, parts):
    assert as_wrappers(text) == parts


def test_a_wrappers_arguments_are_literals():
    _, args, kwargs = find_wrapper("gymnasium.wrappers:TimeLimit(1, 'a b', [2.5, None], x={'k': -1}, word=uint8)")
    assert args == [1, "a b", [2.5, None]]
    assert kwargs == {"x": {"k": -1}, "word": "uint8"}


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        ("TimeLimit", "names no module"),
        (3, "names no module"),
        ("gymnasium.wrappers:TimeLimt", "did you mean 'gymnasium.wrappers:TimeLimit'?"),
        ("not_there:A", "there is no module 'not_there'"),
        (".a:B", "'.a' is not a valid module name"),
        ("a..b:C", "'a..b' is not a valid module name"),
        ("gymnasium.wrappers:TimeLimit(1), f(2)", "its arguments must be literals"),
        ("gymnasium.wrappers:TimeLimit(", "names no module"),
        ("gymnasium.wrappers:TimeLimit(1 2)", "its arguments must be literals"),
        ("gymnasium.wrappers:TimeLimit(open('x'))", "its arguments must be literals"),
        ("gymnasium.wrappers:TimeLimit(x.y)", "its arguments must be literals"),
        ("gymnasium.wrappers:TimeLimit(**{'a': 1})", "does not fit"),
        ("gymnasium.wrappers:TimeLimit(" + "(" * 5000 + ")" * 5000 + ")", "its arguments must be literals"),
        ("gymnasium.wrappers:TimeLimit", "does not fit"),
        ("gymnasium.wrappers:TimeLimit(steps=3)", "does not fit"),
        ("gymnasium.wrappers:FilterObservation([a])", "does not fit"),
        ("gymnasium.wrappers:TimeLimit(5)(50)", "its arguments must be literals"),
        ("gymnasium.wrappers:TimeLimit(a)", "does not fit"),
        ("gymnasium.wrappers:DtypeObservation(foo)", "does not fit"),
        ("gymnasium.wrappers.vector:NormalizeObservation", "does not fit"),
        ("os:getcwd", "does not fit"),
        ("builtins:id", "returned"),
    ],
)
def test_invalid_wrappers_are_a_user_error(wrapper, expected):
    message = error_of(make_envs, lambda: Count(1), wrappers=[wrapper])
    assert expected in message
    assert len(message) < 1000


def test_a_wrapper_that_cannot_be_imported_is_a_user_error(monkeypatch):
    module = types.ModuleType("lazy_wrappers")
    module.__getattr__ = lambda name: importlib.import_module("array_library")
    monkeypatch.setitem(sys.modules, "lazy_wrappers", module)
    message = error_of(make_envs, lambda: Count(1), wrappers=["lazy_wrappers:ToArray"])
    assert message == "wrapper 'lazy_wrappers:ToArray': ModuleNotFoundError: No module named 'array_library'"


def test_an_import_that_fails_in_a_wrappers_module_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "my_wrappers.py").write_text("import array_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="array_library"):
        make_env(lambda: Count(1), wrappers=["my_wrappers:ToArray"])


def test_a_bug_inside_a_wrapper_keeps_its_traceback():
    class Broken(Doubled):
        def __init__(self, env):
            super().__init__(env)
            self.x = [][1]

    sys.modules[__name__].Broken = Broken
    with pytest.raises(IndexError):
        make_env(lambda: Count(1), wrappers=[f"{__name__}:Broken"])


def test_a_known_package_that_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    message = error_of(make_env, "gymnasium_robotics:Nothing-v7")
    assert "there is no module 'gymnasium_robotics'; it needs: pip install " in message
    assert "[robotics]" in message


def test_a_runs_folder_may_only_name_gymnasiums_wrappers(tmp_path):
    own = ["gymnasium.wrappers:TimeLimit(5)", "gymnasium.wrappers:FlattenObservation"]
    assert saved_wrappers(tmp_path, {"wrappers": own}) == own
    assert saved_wrappers(tmp_path, {}) == []
    config = {"wrappers": [own[0], "os:getcwd"]}
    message = error_of(saved_wrappers, tmp_path, config)
    assert f"--wrapper '{own[0]}' --wrapper os:getcwd" in message
    assert saved_wrappers(tmp_path, config, ["a:B"]) == ["a:B"]
    assert "in Python: wrappers=[...]" in error_of(saved_wrappers, tmp_path, {"wrappers": ["__main__.Mine"]})


# ---- numbers from infos


def test_the_last_number_of_an_episode_is_logged():
    infos = [{}, {"is_success": False, "n": 4}, {"is_success": True}]  # reset, step, step
    envs = make_envs(lambda: WithInfos(infos, length=2), 2, log_info=["is_success", "n"])
    play(envs, 4)
    assert envs.pop_episodes() == {"EpRet": [23, 23, 43, 43], "EpLen": [2] * 4, "is_success": [1] * 4, "n": [4] * 4}
    assert envs.pop_episodes() == {"EpRet": [], "EpLen": [], "is_success": [], "n": []}


def test_an_episode_without_the_number_is_left_out():
    infos = [{}, {"a": {"b": np.float32(0.5)}}, {}, {}]  # reset, step, reset, step
    envs = make_envs(lambda: WithInfos(infos, length=1), log_info="a.b")
    play(envs, 5)
    assert envs.pop_episodes()["a.b"] == [0.5] * 3
    assert len(play_test_episodes(Sign(0), envs, 4, 1)["Test_a.b"]) == 2
    played = evaluate(Sign(0), lambda: WithInfos(infos, length=1), 4, num_envs=1, log_info="a.b")["a.b"]
    np.testing.assert_array_equal(played, [0.5, np.nan, 0.5, np.nan])


@pytest.mark.parametrize("value", [True, 1, 1.0, np.bool_(True), np.int64(1), np.array([1.0]), torch.ones(())])
def test_numbers_of_any_kind_are_logged(value):
    envs = make_envs(lambda: WithInfos([{"x": value}], length=1), log_info="x")
    play(envs, 1)
    assert envs.pop_episodes()["x"] == [1.0]


@pytest.mark.parametrize("value", [None, "1", [1, 2], {"y": 1}, np.zeros(2), object(), 1j])
def test_values_that_arent_numbers_are_not_logged(value, capfd):
    envs = make_envs(lambda: WithInfos([{"x": value, "other": 3}], length=1), 2, log_info="x")
    play(envs, 3)
    assert envs.pop_episodes()["x"] == []
    warning = "an episode ended without a number 'x' in its info, which has x, other (shown once)"
    assert capfd.readouterr().err.count(warning) == 1


def test_logged_numbers_continue_after_a_checkpoint():
    class Same(WithInfos):
        def reset(self, *, seed=None, options=None):
            self.o[0] = 0
            return super().reset(seed=seed)

    first, second = (make_envs(lambda: Same([{"x": 7}, {}, {}], length=3), log_info="x") for _ in range(2))
    play(first, 2)
    assert not second.load_state_dict(first.state_dict()).any()
    for envs in (first, second):
        envs.step(noop(envs))
        envs.reset_done()
    assert first.pop_episodes() == second.pop_episodes() == {"EpRet": [36.0], "EpLen": [3], "x": [7.0]}


@pytest.mark.parametrize("log_info", ["EpRet", "", [3], ["a\tb"], [None]])
def test_invalid_column_names_are_reported(log_info):
    if log_info == "":
        assert make_envs(Count, log_info=[]).log_info == ()
        return
    assert "log_info has" in error_of(make_envs, Count, log_info=log_info)
