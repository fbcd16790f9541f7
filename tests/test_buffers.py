"""Buffers and advantages: hand-computed values first, then explicit sums, then properties."""

import copy
import math
import pickle
import re
from collections import deque

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from spinup.buffers import (
    Batch,
    ReplayBuffer,
    Rollout,
    RolloutBuffer,
    check_replay_memory,
    check_rollout_memory,
    discount_cumsum,
    gae,
    minibatches,
    normalize,
    replay_bytes,
)
from spinup.compute import accel, mpi
from spinup.errors import UserError
from spinup.observations import ObservationBox, Part

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)


def column(*values):
    """T values of one environment, (T, 1)."""
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def flags(*values):
    return torch.tensor(values, dtype=torch.bool).unsqueeze(1)


def close(x, y, tol=1e-12):
    torch.testing.assert_close(x, y, rtol=tol, atol=tol, check_dtype=False)


# ---- discount_cumsum


def test_discount_cumsum_by_hand():
    # y3 = 4, y2 = 3 + 0.5 * 4 = 5, y1 = 2 + 0 * 5 = 2, y0 = 1 + 2 * 2 = 5; the last c multiplies nothing
    close(discount_cumsum(column(1, 2, 3, 4), column(2, 0, 0.5, 9)), column(5, 2, 5, 4))


@pytest.mark.parametrize("steps", [*range(1, 18), 100])
def test_discount_cumsum_is_the_recursion(steps):
    rng = torch.Generator().manual_seed(steps)
    x = torch.randn(steps, 3, 2, generator=rng, dtype=torch.float64)
    c = torch.rand(steps, 3, 2, generator=rng, dtype=torch.float64)
    c *= torch.rand(steps, 3, 2, generator=rng) > 0.2  # some exact zeros, as at the ends of episodes
    expected, y = torch.empty_like(x), torch.zeros(3, 2, dtype=torch.float64)
    for t in reversed(range(steps)):
        y = expected[t] = x[t] + c[t] * y
    x_before, c_before = x.clone(), c.clone()
    close(discount_cumsum(x, c), expected)
    assert torch.equal(x, x_before), "discount_cumsum changed its first argument"
    assert torch.equal(c, c_before), "discount_cumsum changed its second argument"


# ---- gae by hand: gamma = 0.5 and lam = 0.5, so gamma * lam = 0.25


R, V, V2 = column(1, 2, 3), column(10, 20, 40), column(20, 40, 80)
NO, YES = flags(0, 0, 0), flags(0, 0, 1)


def test_gae_cut_at_the_epochs_end_by_hand():
    # delta = 1 + 10 - 10, 2 + 20 - 20, 3 + 40 - 40 = 1, 2, 3; the last row bootstraps from v2 = 80
    # adv2 = 3, adv1 = 2 + 3 / 4, adv0 = 1 + 2.75 / 4
    adv, ret = gae(R, V, V2, NO, NO, 0.5, 0.5)
    close(adv, column(1.6875, 2.75, 3))
    close(ret, column(11.6875, 22.75, 43))


def test_gae_terminated_by_hand():
    # the last state is worth nothing: delta2 = 3 - 40 = -37, adv1 = 2 - 37 / 4 = -7.25, adv0 = 1 - 7.25 / 4
    adv, ret = gae(R, V, V2, YES, YES, 0.5, 0.5)
    close(adv, column(-0.8125, -7.25, -37))
    close(ret, column(9.1875, 12.75, 3))


def test_gae_truncated_and_terminated_inside_by_hand():
    # two environments: one is truncated after its first step, the other reaches a terminal state there
    r, v, v2 = (x.repeat(1, 2) for x in (R, V, column(8, 40, 80)))
    done = flags(1, 0, 0).repeat(1, 2)
    terminated = done & torch.tensor([False, True])
    adv, ret = gae(r, v, v2, terminated, done, 0.5, 0.5)
    # truncated: delta0 = 1 + 0.5 * 8 - 10 = -5; terminated: delta0 = 1 - 10 = -9; later steps don't contribute
    close(adv, torch.tensor([[-5, -9], [2.75, 2.75], [3, 3]]))
    close(ret, torch.tensor([[5, 1], [22.75, 22.75], [43, 43]]))


def test_gae_of_one_step_by_hand():
    r, v, v2 = column(1), column(10), column(20)
    for terminated, done, expected in [(0, 0, 1.0), (0, 1, 1.0), (1, 1, -9.0)]:
        adv, ret = gae(r, v, v2, flags(terminated), flags(done), 0.5, 0.9)
        close(adv, column(expected))
        close(ret, column(expected + 10))


# ---- gae against explicit sums


def random_rollout(seed, steps, num_envs, p_terminated=0.15, p_truncated=0.15):
    rng = torch.Generator().manual_seed(seed)
    r, v, v2 = torch.randn(3, steps, num_envs, generator=rng, dtype=torch.float64)
    terminated = torch.rand(steps, num_envs, generator=rng) < p_terminated
    done = terminated | (torch.rand(steps, num_envs, generator=rng) < p_truncated)
    return r, v, v2, terminated, done


def explicit_gae(r, v, v2, terminated, done, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, to the end of the episode or of the rollout; O(T^2)."""
    steps, num_envs = r.shape
    adv = torch.zeros_like(r)
    for n in range(num_envs):
        for t in range(steps):
            for k in range(t, steps):
                target = r[k, n] if terminated[k, n] else r[k, n] + gamma * v2[k, n]
                adv[t, n] += (gamma * lam) ** (k - t) * (target - v[k, n])
                if done[k, n]:
                    break
    return adv


def explicit_rewards_to_go(r, v2, terminated, done, gamma):
    """Discounted rewards to the end of the episode or rollout, plus V(next) there unless it is terminal."""
    steps, num_envs = r.shape
    ret = torch.zeros_like(r)
    for n in range(num_envs):
        for t in range(steps):
            for k in range(t, steps):
                ret[t, n] += gamma ** (k - t) * r[k, n]
                if done[k, n] or k == steps - 1:
                    if not terminated[k, n]:
                        ret[t, n] += gamma ** (k - t + 1) * v2[k, n]
                    break
    return ret


def chain(v, v2, done):
    """v2 with v[t + 1] inside episodes, as when one network computes both."""
    return torch.where(done, v2, torch.cat([v[1:], v2[-1:]]))


SHAPES = [(1, 1), (1, 4), (2, 3), (7, 1), (16, 3), (33, 2)]


@pytest.mark.parametrize(("steps", "num_envs"), SHAPES)
@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.5), (1.0, 1.0), (0.0, 0.7), (0.99, 0.0)])
def test_gae_is_the_explicit_sum(steps, num_envs, gamma, lam):
    rollout = random_rollout(100 * steps + num_envs, steps, num_envs)
    adv, ret = gae(*rollout, gamma, lam)
    expected = explicit_gae(*rollout, gamma, lam)
    close(adv, expected)
    close(ret, expected + rollout[1])


@pytest.mark.parametrize(("p_terminated", "p_truncated"), [(0, 0), (1, 0), (0, 1), (0.5, 0), (0, 0.5)])
def test_gae_with_episodes_of_one_kind(p_terminated, p_truncated):
    rollout = random_rollout(5, 12, 2, p_terminated, p_truncated)
    close(gae(*rollout, 0.97, 0.9)[0], explicit_gae(*rollout, 0.97, 0.9))


@pytest.mark.parametrize(("steps", "num_envs"), SHAPES)
def test_lam_1_gives_rewards_to_go_and_lam_0_one_step_targets(steps, num_envs):
    r, v, v2, terminated, done = random_rollout(7 + steps, steps, num_envs)
    v2 = chain(v, v2, done)
    close(gae(r, v, v2, terminated, done, 0.9, 1.0)[1], explicit_rewards_to_go(r, v2, terminated, done, 0.9))
    close(gae(r, v, v2, terminated, done, 0.9, 0.0)[1], torch.where(terminated, r, r + 0.9 * v2))


def test_gae_of_the_true_values_is_zero():
    """If V is the discounted rewards-to-go, every delta is 0 for any lam."""
    r, _, v2, terminated, done = random_rollout(3, 20, 3)
    v = explicit_rewards_to_go(r, v2, terminated, done, 0.95)
    close(gae(r, v, chain(v, v2, done), terminated, done, 0.95, 0.8)[0], torch.zeros(20, 3))


def test_gae_ignores_the_value_of_a_terminal_state_and_nothing_crosses_a_done():
    r, v, v2, terminated, done = random_rollout(11, 30, 2)
    before = gae(r, v, v2, terminated, done, 0.99, 0.95)[0]
    close(gae(r, v, torch.where(terminated, 1e6, v2), terminated, done, 0.99, 0.95)[0], before)
    last = int(done[:-1, 0].nonzero().max())  # the last step that ends an episode before the rollout's end
    r[last + 1 :, 0] += 100
    after = gae(r, v, v2, terminated, done, 0.99, 0.95)[0]
    assert torch.equal(after[: last + 1], before[: last + 1])
    assert (after[last + 1 :, 0] > before[last + 1 :, 0] + 50).all()


def test_gae_keeps_float32():
    rollout = [x.float() if x.dtype == torch.float64 else x for x in random_rollout(1, 50, 3)]
    adv, ret = gae(*rollout, 0.99, 0.95)
    assert adv.dtype == ret.dtype == torch.float32
    close(adv, gae(*random_rollout(1, 50, 3), 0.99, 0.95)[0], 1e-5)


# ---- normalize


def test_normalize_by_hand():
    # mean 5, and the mean square deviation of (-3, -1, 1, 3) is 5
    x = torch.tensor([[2.0, 4.0], [6.0, 8.0]])
    close(normalize(x), torch.tensor([[-3.0, -1.0], [1.0, 3.0]]) / 5**0.5, 1e-6)


def test_normalize_has_mean_0_and_standard_deviation_1():
    x = normalize(1000 + 3 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    assert x.shape == (50, 8)
    assert x.dtype == torch.float32
    assert abs(x.mean()) < 1e-4
    assert abs(x.std(correction=0) - 1) < 1e-4


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e-30, 123456.7, 1e10])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2048, 1), (256, 8)])
def test_normalize_of_equal_numbers_is_zero(value, shape):
    x = normalize(torch.full(shape, value))
    assert torch.equal(x, torch.zeros(shape))


# ---- minibatches


def rows(n):
    return torch.arange(n), torch.arange(n).float().unsqueeze(1) * torch.tensor([1.0, -1.0])


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(10, 3, [3, 3, 3, 1]), (9, 3, [3, 3, 3]), (10, 9, [9, 1]), (3, 1, [1, 1, 1]), (10, 10, [10]), (10, 64, [10])],
)
def test_minibatches_cover_each_row_once_and_keep_rows_together(n, size, sizes):
    batches = list(minibatches(size, *rows(n)))
    assert [len(i) for i, _ in batches] == sizes
    seen = torch.cat([i for i, _ in batches])
    assert seen.sort().values.tolist() == list(range(n))
    for i, x in batches:
        assert torch.equal(x, i.float().unsqueeze(1) * torch.tensor([1.0, -1.0]))


def test_minibatches_of_none_are_everything_at_once():
    (batch,) = minibatches(None, *rows(10))
    for x, expected in zip(batch, rows(10), strict=True):
        assert torch.equal(x, expected)


def test_minibatches_are_in_a_new_seeded_order_each_time():
    torch.manual_seed(3)
    first, second = (torch.cat([i for i, _ in minibatches(7, *rows(50))]).tolist() for _ in range(2))
    torch.manual_seed(3)
    again = torch.cat([i for i, _ in minibatches(7, *rows(50))]).tolist()
    assert first == again
    assert first != second
    assert list(range(50)) not in (first, second)


def test_minibatches_give_every_row_every_place():
    """Over many shuffles each of 4 rows comes first equally often: 4000 draws, 5 standard deviations."""
    torch.manual_seed(0)
    first = [int(next(minibatches(1, torch.arange(4)))[0]) for _ in range(4000)]
    counts = np.bincount(first, minlength=4)
    assert (abs(counts - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5).all()


# ---- RolloutBuffer


def fill(buffer, rng, episode_end=0.3, steps=None):
    """Store `steps` random rows and return them, one array (T, N, ...) for each field."""
    written = []
    for _ in range(steps or len(buffer.r)):
        n = buffer.r.shape[1]
        o, o2 = (rng.normal(size=(n, *buffer.o.shape[2:])).astype(buffer.o.dtype) for _ in range(2))
        a = rng.integers(0, 5, size=buffer.a.shape[1:]).astype(buffer.a.dtype)
        ends = rng.random((2, n)) < episode_end
        written.append((o, a, rng.normal(size=n), o2, ends[0], ends[1]))
        buffer.store(*written[-1])
    return [np.stack(x) for x in zip(*written, strict=True)]


def test_buffer_by_hand():
    buffer = RolloutBuffer(2, 1, BOX, spaces.Discrete(3))
    # the first step truncates an episode at [5, 5], and the second starts at the reset's [0, 1]
    buffer.store(np.array([[1, 2]]), np.array([2]), np.array([0.5]), np.array([[5, 5]]), *np.array([[False], [True]]))
    buffer.store(np.array([[0, 1]]), np.array([1]), np.array([1.5]), np.array([[3, 4]]), *np.array([[True], [False]]))
    rollout = buffer.get()
    assert rollout.o.tolist() == [[[1, 2]], [[0, 1]]]
    assert rollout.a.tolist() == [[2], [1]]
    assert rollout.r.tolist() == [[0.5], [1.5]]
    assert rollout.o2.tolist() == [[[5, 5]], [[3, 4]]]
    assert rollout.terminated.tolist() == [[False], [True]]
    assert rollout.done.tolist() == [[True], [True]]
    assert [x.dtype for x in rollout] == [torch.float32, torch.int64, *[torch.float32] * 2, torch.bool, torch.bool]


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    ("observation_space", "action_space", "o_dtype", "a_dtype"),
    [
        (BOX, spaces.Box(-1, 1, (3,)), torch.float32, torch.float32),
        (BOX, spaces.Discrete(5), torch.float32, torch.int64),
        (BOX, spaces.MultiDiscrete([5, 5]), torch.float32, torch.int64),
        (spaces.Box(0, 255, (4, 5, 3), np.uint8), spaces.Discrete(5), torch.uint8, torch.int64),
    ],
)
def test_buffer_returns_what_was_stored_in_each_filling(observation_space, action_space, o_dtype, a_dtype, num_envs):
    rng = np.random.default_rng(0)
    buffer = RolloutBuffer(6, num_envs, observation_space, action_space)
    for _ in range(3):
        o, a, r, o2, terminated, truncated = fill(buffer, rng)
        rollout = buffer.get()
        assert isinstance(rollout, Rollout)
        assert (rollout.o.dtype, rollout.o2.dtype, rollout.a.dtype) == (o_dtype, o_dtype, a_dtype)
        stored = (o, a, r.astype(np.float32), o2, terminated, terminated | truncated)
        for name, x, y in zip(Rollout._fields, rollout, stored, strict=True):
            assert x.shape[:2] == (6, num_envs), name
            np.testing.assert_array_equal(x.numpy(), y, err_msg=name)


@pytest.mark.parametrize("steps", [1, 5])
def test_buffer_cant_be_read_half_full_or_overfilled(steps):
    buffer = RolloutBuffer(6, 2, BOX, spaces.Discrete(5))
    rng = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="0 of 6"):
        buffer.get()
    fill(buffer, rng, steps=steps)
    with pytest.raises(AssertionError, match=f"{steps} of 6"):
        buffer.get()
    fill(buffer, rng, steps=6 - steps)
    with pytest.raises(IndexError):
        fill(buffer, rng, steps=1)
    buffer.get()
    with pytest.raises(AssertionError):
        buffer.get()


def test_discounted_returns_by_hand():
    buffer = RolloutBuffer(3, 1, BOX, spaces.Discrete(2))
    o, a, no, yes = np.zeros((1, 2)), np.zeros(1), np.array([False]), np.array([True])
    for reward, truncated in [(1, no), (2, yes), (4, no)]:
        buffer.store(o, a, np.array([reward]), o, no, truncated)
    buffer.get()
    close(buffer.discounted_returns(0.5), column(1, 2.5, 4))  # 2 + 0.5 * 1, then a new episode
    for reward, terminated in [(8, no), (0, no), (2, yes)]:
        buffer.store(o, a, np.array([reward]), o, terminated, no)
    buffer.get()
    close(buffer.discounted_returns(0.5), column(10, 5, 4.5))  # 8 + 0.5 * 4: the episode continued
    for reward in (1, 1, 1):
        buffer.store(o, a, np.array([reward]), o, no, no)
    buffer.get()
    close(buffer.discounted_returns(0.5), column(1, 1.5, 1.75))  # the last filling ended with an episode


@pytest.mark.parametrize("stored", [0, 1])
def test_an_episode_marked_as_ended_does_not_carry_over(stored):
    buffer = RolloutBuffer(2, 2, BOX, spaces.Discrete(2))
    o, a, no = np.zeros((2, 2)), np.zeros(2), np.zeros(2, bool)

    def store(steps):
        for _ in range(steps):
            buffer.store(o, a, np.ones(2), o, no, no)

    store(2)
    buffer.get()
    buffer.discounted_returns(0.5)  # up to 1.5 in both
    store(stored)
    buffer.mark_episode_end(np.array([False, True]))
    store(2 - stored)
    buffer.get()
    expected = [[1.75, 1.0], [1.875, 1.5]] if stored == 0 else [[1.75, 1.75], [1.875, 1.0]]
    close(buffer.discounted_returns(0.5), torch.tensor(expected))


@pytest.mark.parametrize(("steps", "num_envs"), [(1, 1), (1, 3), (5, 1), (8, 3), (33, 2)])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_discounted_returns_are_the_running_sums(steps, num_envs, gamma):
    rng = np.random.default_rng(steps)
    buffer = RolloutBuffer(steps, num_envs, BOX, spaces.Discrete(5))
    running = np.zeros(num_envs)
    for _ in range(6):
        _, _, r, _, terminated, truncated = fill(buffer, rng, episode_end=0.15)
        expected = np.zeros((steps, num_envs))
        for t in range(steps):
            for n in range(num_envs):
                running[n] = expected[t, n] = r[t, n] + gamma * running[n]
                if terminated[t, n] or truncated[t, n]:
                    running[n] = 0
        buffer.get()
        np.testing.assert_allclose(buffer.discounted_returns(gamma).numpy(), expected, rtol=1e-4, atol=1e-5)


# ---- ReplayBuffer


def everything(buffer) -> Batch:
    """Each transition once, as `sample` returns it, in the order of the buffer's rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda high, size: torch.arange(high))
        return buffer.sample(len(buffer))


def store(buffer, t, r, terminated, truncated):
    """Store one row at time t: environment n goes from o = (t, n) to o2 = (t + 1/2, n) by the action 10 t + n."""
    n = np.arange(buffer.num_envs)
    o, o2 = (np.stack([np.full(len(n), time), n], 1).astype(np.float32) for time in (t, t + 0.5))
    flags = (np.asarray(x, bool) for x in (terminated, truncated))
    buffer.store(o, 10 * t + n, np.asarray(r, float), o2, *flags)


def as_dict(batch):
    """(t, n): (a, r, time of o2, environment of o2, terminated, discount)."""
    assert all(x.shape[0] == len(batch.r) for x in batch)
    keys = [tuple(map(int, o)) for o in batch.o.tolist()]
    assert len(set(keys)) == len(keys)
    rest = zip(batch.a, batch.r, batch.o2[:, 0], batch.o2[:, 1], batch.terminated, batch.discount, strict=True)
    return dict(zip(keys, ([float(x) for x in values] for values in rest), strict=True))


def test_replay_by_hand():
    """gamma = 1/2, 3-step returns, one environment that terminates after its third step, and room for four steps."""
    buffer = ReplayBuffer(4, 1, BOX, spaces.Discrete(99), n_step=3, gamma=0.5)
    for t, (r, terminated) in enumerate([(1, 0), (2, 0), (4, 1), (8, 0), (16, 0)]):
        store(buffer, t, [r], [terminated], [0])
        if t == 0:  # the newest row has no successor yet
            assert as_dict(everything(buffer)) == {(0, 0): [0, 1, 0.5, 0, 0, 0.5]}
    assert as_dict(everything(buffer)) == {
        (1, 0): [10, 4, 2.5, 0, 1, 0.25],  # 2 + 4 / 2, terminal after two steps; t = 0 is overwritten
        (2, 0): [20, 4, 2.5, 0, 1, 0.5],
        (3, 0): [30, 16, 4.5, 0, 0, 0.25],  # 8 + 16 / 2, up to the newest row
        (4, 0): [40, 16, 4.5, 0, 0, 0.5],
    }


def test_replay_truncation_keeps_the_true_next_observation_and_is_not_terminal():
    buffer = ReplayBuffer(10, 2, BOX, spaces.Discrete(99), n_step=2, gamma=0.5)
    store(buffer, 0, [1, 10], [0, 1], [1, 0])  # the first environment is truncated, the second terminates
    store(buffer, 1, [2, 20], [0, 1], [0, 1])  # the second does both at once
    assert as_dict(everything(buffer)) == {
        (0, 0): [0, 1, 0.5, 0, 0, 0.5],
        (0, 1): [1, 10, 0.5, 1, 1, 0.5],
        (1, 0): [10, 2, 1.5, 0, 0, 0.5],
        (1, 1): [11, 20, 1.5, 1, 1, 0.5],
    }


def explicit_replay(rows, n_step, gamma):
    """The transitions of `rows`, (t, r, terminated, truncated) each, from the oldest to the newest."""
    found = {}
    for i, (t, *_) in enumerate(rows):
        for n in range(len(rows[0][1])):
            total, steps = 0.0, 0
            for time, r, terminated, truncated in list(rows)[i : i + n_step]:
                total, steps, last = total + gamma**steps * r[n], steps + 1, time
                if terminated[n] or truncated[n]:
                    break
            found[t, n] = [10 * t + n, total, last + 0.5, n, float(terminated[n]), gamma**steps]
    return found


@st.composite
def histories(draw):
    num_envs = draw(st.integers(1, 3))
    flags = st.lists(st.sampled_from([0, 0, 1]), min_size=num_envs, max_size=num_envs)
    rewards = st.lists(st.integers(-9, 9), min_size=num_envs, max_size=num_envs)
    rows = draw(st.lists(st.tuples(rewards, flags, flags), min_size=1, max_size=25))
    return num_envs, draw(st.integers(1, 30)), draw(st.integers(1, 6)), [(t, *row) for t, row in enumerate(rows)]


@settings(deadline=None, max_examples=150)
@given(histories())
def test_replay_is_a_deque_of_rows(history):
    """For any episode ends, any wrap-around of the rows, and any number of environments."""
    num_envs, size, n_step, rows = history
    buffer = ReplayBuffer(size, num_envs, BOX, spaces.Discrete(999), n_step=n_step, gamma=0.5)
    kept = deque(maxlen=max(1, size // num_envs))
    for row in rows:
        store(buffer, *row)
        kept.append(row)
        assert len(buffer) == len(kept) * num_envs
    assert as_dict(everything(buffer)) == explicit_replay(kept, n_step, 0.5)  # exact in float32


@pytest.mark.parametrize("n_step", [1, 2, 3, 5, 50])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_replay_n_step_returns_over_long_histories(n_step, num_envs):
    rng = np.random.default_rng(n_step)
    buffer = ReplayBuffer(20 * num_envs, num_envs, BOX, spaces.Discrete(9999), n_step=n_step, gamma=0.97)
    kept = deque(maxlen=20)
    for t in range(130):
        row = t, rng.normal(size=num_envs), rng.random(num_envs) < 0.08, rng.random(num_envs) < 0.08
        store(buffer, *row)
        kept.append(row)
        if t % 9 == 0 or t > 120:
            ours, theirs = as_dict(everything(buffer)), explicit_replay(kept, n_step, 0.97)
            assert ours.keys() == theirs.keys()
            for key, values in theirs.items():
                assert ours[key] == pytest.approx(values, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("size", "num_envs", "transitions"), [(1, 1, 1), (7, 3, 6), (8, 3, 6), (9, 3, 9), (2, 3, 3), (1, 4, 4)]
)
def test_replay_holds_whole_rows_and_at_least_one(size, num_envs, transitions):
    buffer = ReplayBuffer(size, num_envs, BOX, spaces.Discrete(999), n_step=3)
    assert len(buffer) == 0
    for t in range(12):
        store(buffer, t, np.ones(num_envs), np.zeros(num_envs), np.zeros(num_envs))
    assert len(buffer) == transitions
    times = {t for t, _ in as_dict(everything(buffer))}
    assert times == set(range(12 - transitions // num_envs, 12))


KINDS = [
    (BOX, spaces.Box(-1, 1, (3,)), torch.float32, torch.float32),
    (BOX, spaces.Discrete(5), torch.float32, torch.int64),
    (spaces.Box(0, 255, (4, 5, 3), np.uint8), spaces.Discrete(5), torch.uint8, torch.int64),
    (spaces.Box(0, 255, (6, 6), np.uint8), spaces.Box(-1, 1, (1,)), torch.uint8, torch.float32),
]


@pytest.mark.parametrize(("observation_space", "action_space", "o_dtype", "a_dtype"), KINDS)
@pytest.mark.parametrize("n_step", [1, 3])
def test_replay_dtypes_and_shapes(observation_space, action_space, o_dtype, a_dtype, n_step):
    buffer = ReplayBuffer(12, 3, observation_space, action_space, n_step=n_step)
    rng = np.random.default_rng(0)
    stored = []
    for _ in range(3):
        o, o2 = (rng.integers(0, 256, (3, *observation_space.shape)).astype(observation_space.dtype) for _ in range(2))
        a = rng.integers(0, 5, (3, *action_space.shape)).astype(action_space.dtype)
        stored.append((o, a, rng.normal(size=3), o2, np.ones(3, bool), np.zeros(3, bool)))  # r: float64, as VecEnv's
        buffer.store(*stored[-1])
    batch = everything(buffer)
    assert [x.dtype for x in batch] == [o_dtype, a_dtype, torch.float32, o_dtype, torch.float32, torch.float32]
    o, a, r, o2, terminated, _ = (np.concatenate(x) for x in zip(*stored, strict=True))
    for x, y in zip(batch, (o, a, r.astype(np.float32), o2, terminated), strict=False):
        np.testing.assert_array_equal(x.numpy(), y)
    assert buffer.sample(7).o.shape == (7, *observation_space.shape)
    assert buffer.sample(7).a.shape == (7, *action_space.shape)


def test_replay_is_on_the_device():
    buffer = ReplayBuffer(10, 2, BOX, spaces.Discrete(5), device="meta")  # the one device besides cpu on every machine
    columns = [x for x in vars(buffer).values() if isinstance(x, torch.Tensor)]
    assert len(columns) == 6
    assert {x.device.type for x in columns} == {"meta"}


@pytest.mark.parametrize("rows", [4, 9])  # of 6: partly filled, and wrapped around
def test_replay_draws_uniformly(rows):
    buffer = ReplayBuffer(12, 2, BOX, spaces.Discrete(999))
    for t in range(rows):
        store(buffer, t, [0, 0], [0, 0], [0, 0])
    torch.manual_seed(0)
    draws = 40_000
    o = buffer.sample(draws).o.long()
    first = max(rows - 6, 0)
    counts = torch.bincount(2 * (o[:, 0] - first) + o[:, 1], minlength=2 * min(rows, 6))
    assert len(counts) == 2 * min(rows, 6)
    expected = draws / len(counts)
    # the 99.9% quantiles of chi-squared with 7 and 11 degrees of freedom
    assert float(((counts - expected) ** 2 / expected).sum()) < {8: 24.3, 12: 31.3}[len(counts)]


def test_replay_draws_are_seeded_and_new_each_time():
    buffer = ReplayBuffer(1000, 1, BOX, spaces.Discrete(99999))
    for t in range(1000):
        store(buffer, t, [0], [0], [0])
    torch.manual_seed(1)
    first, second = buffer.sample(100).a, buffer.sample(100).a
    torch.manual_seed(1)
    assert torch.equal(buffer.sample(100).a, first)
    assert not torch.equal(first, second)
    assert 80 < len(first.unique()) < 100  # with replacement: 1000 (1 - 0.999^100) = 95 on average


@pytest.mark.parametrize("n_step", [1, 3])
def test_replay_shares_no_memory(n_step):
    buffer = ReplayBuffer(4, 2, BOX, spaces.Box(-1, 1, (2,)), n_step=n_step)
    rng = np.random.default_rng(0)

    def arrays():
        o, a, o2 = rng.normal(size=(3, 2, 2)).astype(np.float32)
        return [o, a, rng.normal(size=2), o2, np.zeros(2, bool), np.zeros(2, bool)]

    passed = arrays()
    buffer.store(*passed)
    batch = everything(buffer)
    copies = [x.clone() for x in batch]
    for x in passed:  # the caller's arrays, which environments may overwrite
        x[:] = 1
    for x, y in zip(everything(buffer), copies, strict=True):
        assert torch.equal(x, y)
    for _ in range(5):
        buffer.store(*arrays())
    for x, y in zip(batch, copies, strict=True):  # an earlier batch
        assert torch.equal(x, y)
    batch.o.fill_(7), batch.r.fill_(7), batch.a.fill_(7)
    assert not (everything(buffer).o == 7).any()


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copied", "pickled"])
def test_a_copied_replay_buffer_has_its_own_transitions(copy_of):
    buffer = ReplayBuffer(3, 1, BOX, spaces.Discrete(99))
    store(buffer, 0, [1.0], [False], [False])
    other = copy_of(buffer)
    store(other, 1, [2.0], [True], [False])
    assert everything(buffer).r.tolist() == [1.0]
    assert everything(other).r.tolist() == [1.0, 2.0]
    assert everything(other).terminated.tolist() == [0.0, 1.0]


# ---- memory of a ReplayBuffer


def test_replay_bytes_by_hand():
    assert replay_bytes(BOX, spaces.Discrete(4)) == 2 * 8 + 8 + 9  # o, o2: two float32; a: int64; r, terminated, done
    # Four planes of 84 x 84, each with a reference count, 1/16 spare room, and 2 x 4 plane ids.
    image = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    assert replay_bytes(image, spaces.Box(-1, 1, (3,))) == 4 * (7056 + 4) * 17 / 16 + 2 * 4 * 4 + 12 + 9
    # A stack of four: one new plane per step.
    stack = ObservationBox(image.low, image.high, np.uint8, (Part(image, frames=4),))
    assert replay_bytes(stack, spaces.Box(-1, 1, (3,))) == math.ceil((7056 + 4) * 17 / 16 + 2 * 4 * 4) + 12 + 9


@pytest.mark.parametrize(("observation_space", "action_space", "o_dtype", "a_dtype"), KINDS)
def test_replay_bytes_are_those_of_the_tensors(observation_space, action_space, o_dtype, a_dtype):
    buffer = ReplayBuffer(160, 4, observation_space, action_space, n_step=3)
    parts = [buffer, *(buffer.images.stores if buffer.images else ())]
    tensors = [x for part in parts for x in vars(part).values() if isinstance(x, torch.Tensor | np.ndarray)]
    tensors += [chunk for part in parts[1:] for chunk in part.chunks]
    real = sum(x.nbytes for x in tensors) / 160
    assert replay_bytes(observation_space, action_space) == math.ceil(real)


@pytest.mark.parametrize("size", [1, 1000, 12_345_678])
def test_a_buffer_that_is_too_large_says_how_large_one_would_fit(monkeypatch, size):
    each = replay_bytes(BOX, spaces.Discrete(4))
    monkeypatch.setattr(accel, "free_memory", lambda device: size * each)
    assert check_replay_memory(size, each, BOX, "cpu").startswith(f"replay buffer: {size} transitions, ")
    monkeypatch.setattr(accel, "free_memory", lambda device: size * each - 1)
    with pytest.raises(UserError, match=f"^replay_size {size} needs ") as error:
        ReplayBuffer(size, 1, BOX, spaces.Discrete(4))
    assert "\n" not in str(error.value)
    needs, free, fits = re.findall(r"([\d.e-]+) (?:GiB|transitions)", str(error.value))
    assert float(needs) == pytest.approx(size * each / 2**30, rel=5e-3)
    assert float(free) == pytest.approx((size * each - 1) / 2**30, rel=5e-2)
    assert 0 <= int(fits) < size
    assert int(fits) == pytest.approx(0.8 * size, abs=1)  # leaves room for everything else
    if int(fits):
        check_replay_memory(int(fits), each, BOX, "cpu")


def test_a_rollout_that_would_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(accel, "free_memory", lambda device: 2**30)
    each = 2 * 4 * BOX.shape[0] + 8 + 4 + 2  # two observations, an action of int64, a reward and two flags
    RolloutBuffer(10, 2, BOX, spaces.Discrete(4))
    with pytest.raises(UserError, match=r"an epoch of 200,000,000 steps takes .* GiB, and 1 GiB of memory"):
        RolloutBuffer(10**8, 2, BOX, spaces.Discrete(4))
    check_rollout_memory(2**30 // each, BOX, spaces.Discrete(4))
    with pytest.raises(UserError):
        check_rollout_memory(2**30 // each + 1, BOX, spaces.Discrete(4))


def test_processes_on_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(mpi, "num_procs_here", lambda: 3)
    each, most = replay_bytes(BOX, spaces.Discrete(4)), 6 * 2**24
    monkeypatch.setattr(accel, "free_memory", lambda device: 3 * 2**24 * each)
    text = check_replay_memory(most, each, BOX, "cpu", procs=6)
    assert text.startswith("replay buffer: 16777216 transitions")
    with pytest.raises(UserError) as error:
        check_replay_memory(2 * most, each, BOX, "cpu", procs=6)
    needs, free = (n * 3 * 2**24 * each / 2**30 for n in (2, 1))
    assert str(error.value) == (
        f"replay_size {2 * most} over 6 processes needs {needs:.3g} GiB on this machine, and {free:.3g} GiB are free; "
        f"{6 * int(0.8 * 2**24)} transitions would fit"
    )
    check_replay_memory(2 * most, each, BOX, "meta", procs=6)  # as on a GPU: each checks its own part


def test_a_single_process_does_not_wait_for_others(monkeypatch):
    monkeypatch.setattr(mpi, "num_procs_here", lambda: pytest.fail("this is collective: all processes would call it"))
    ReplayBuffer(10, 1, BOX, spaces.Discrete(4))


def test_every_size_is_accepted_if_free_memory_is_unknown(monkeypatch):
    monkeypatch.setattr(accel, "free_memory", lambda device: None)
    text = check_replay_memory(2**20, 33, BOX, "cpu")
    assert text == "replay buffer: 1048576 transitions, 33 MiB when full"


def test_free_memory_is_that_of_the_buffers_device(monkeypatch):
    asked = []
    monkeypatch.setattr(accel, "free_memory", asked.append)
    ReplayBuffer(10, 1, BOX, spaces.Discrete(4), device="meta")
    assert asked == ["meta"]


@pytest.mark.parametrize("overwritten", [False, True])
def test_n_step_sums_stop_where_an_episode_is_marked_as_ended(overwritten):
    """Rewards 1, 2, 4, 8, marked after the second: from the first, 1 + 2 / 2; from the second, 2; then 4 + 8 / 2."""
    buffer = ReplayBuffer(8, 2, BOX, spaces.Discrete(2), n_step=3, gamma=0.5)
    o, a, no = np.zeros((2, 2), np.float32), np.zeros(2, int), np.zeros(2, bool)
    if overwritten:
        buffer.store(o, a, np.full(2, 100.0), o, no, no)
    start = buffer.t
    for reward in (1, 2, 4, 8):
        buffer.store(o, a, np.full(2, reward), o, no, no)
        if reward == 2:
            buffer.mark_episode_end(np.array([False, True]))
    rows = (torch.arange(start, start + 4) % buffer.rows) * 2
    unmarked, marked = (buffer.transitions(rows + n) for n in (0, 1))
    assert unmarked.r.tolist() == [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8]
    assert marked.r.tolist() == [1 + 1, 2, 4 + 4, 8]
    assert marked.discount.tolist() == [0.25, 0.5, 0.25, 0.5]
