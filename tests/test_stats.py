"""Statistics over runs: by hand first, then against plain reference versions and all possible resamples."""

import itertools
import math
import time

import numpy as np
import pytest

from spinup.analysis import stats
from spinup.analysis.stats import improvement, interval, iqm, iqm_interval, profile, resample

nan = math.nan
ONE = np.array(["a"] * 4)  # one stratum


# ---- interquartile mean


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7], 7),
        ([1, 2, 9], 4),  # a quarter of three is less than one run: nothing is dropped
        ([1, 2, 4, 100], 3),
        ([5, -100, 4, 100, 3], 4),
        ([8, 7, 6, 5, 4, 3, 2, 1], 4.5),
        ([1, nan, 2, 9], 4),
        ([100, 2, nan, 1, 4], 3),
        ([nan, nan], nan),
        ([], nan),
    ],
)
def test_iqm_by_hand(scores, expected):
    np.testing.assert_equal(iqm(np.array(scores, dtype=float)), expected)


def plain_iqm(values):
    """As scipy.stats.trim_mean(values, 0.25) does."""
    values = sorted(value for value in values if not math.isnan(value))
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    return sum(kept) / len(kept) if kept else nan


def test_iqm_against_a_plain_version():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(11, 30)).round(1)  # with ties
    scores[rng.random(scores.shape) < 0.3] = nan
    scores[:, 3] = nan
    np.testing.assert_allclose(iqm(scores), [plain_iqm(column) for column in scores.T])
    np.testing.assert_allclose(iqm(scores.reshape(11, 5, 6)), iqm(scores).reshape(5, 6))


# ---- the bootstrap


def test_a_resample_keeps_the_size_of_each_stratum():
    strata = np.array(["b", "a", "b", "b", "a", "c"])
    counts = resample(strata)
    assert counts.shape == (stats.RESAMPLES, 6)
    for stratum, size in {"a": 2, "b": 3, "c": 1}.items():
        assert (counts[:, strata == stratum].sum(axis=1) == size).all()
    assert (counts[:, 5] == 1).all()
    # Drawn uniformly: P(a given one of three runs is never drawn) is (2/3)^3 and so on.
    for runs in ([0, 2, 3], [1, 4]):
        for k in range(len(runs) + 1):
            n = len(runs)
            p = math.comb(n, k) * (1 / n) ** k * (1 - 1 / n) ** (n - k)
            np.testing.assert_allclose((counts[:, runs] == k).mean(axis=0), p, atol=0.04)
    # Strata are independent of each other.
    assert abs(np.corrcoef(counts[:, 0], counts[:, 1])[0, 1]) < 0.07


def test_strata_of_equal_size_are_resampled_independently():
    """One stream of random numbers for both would resample them alike: b would win exactly as often as a loses."""
    a, b = (0, 1), (1, 0)
    y, low, high = profile(np.array([*a, *b]), np.array([*"aabb"]), np.array([0.5]))
    assert (y, low, high) == (0.5, 0, 1)  # by the binomial distribution of 4 draws, P(0) = P(1) = 1/16
    counts = resample(np.array([*"aaabbb"]))
    for i, j in itertools.product(range(3), range(3, 6)):
        assert abs(np.corrcoef(counts[:, i], counts[:, j])[0, 1]) < 0.07


def test_resamples_are_reproducible():
    strata = np.array(["a", "a", "a", "b", "b"])
    first, other = resample(strata), resample(strata, seed=1)
    stats._draw_counts.cache_clear()
    np.testing.assert_array_equal(resample(strata), first)
    assert (first != other).any()


def test_interval_by_hand():
    low, high = interval(np.stack([np.arange(1001), np.arange(1001) / 10], axis=1))
    np.testing.assert_allclose(low, [25, 2.5])
    np.testing.assert_allclose(high, [975, 97.5])


def test_iqm_interval_by_hand():
    # Two runs: both low 1/4, one each 1/2, both high 1/4. The 2.5% and 97.5% percentiles are the ends.
    low, high = iqm_interval(np.array([[1.0, 5], [3, 5]]), ONE[:2])
    assert (low.tolist(), high.tolist()) == ([1, 5], [3, 5])
    # A stratum with a single run, or none, doesn't show the spread.
    low, high = iqm_interval(np.array([[1.0, 1, nan], [3, nan, nan]]), ONE[:2])
    np.testing.assert_array_equal([low, high], [[1, nan, nan], [3, nan, nan]])
    low, high = iqm_interval(np.array([[1.0], [3], [5]]), np.array(["a", "a", "b"]))
    np.testing.assert_array_equal([low, high], [[nan], [nan]])


def test_iqm_interval_against_all_resamples():
    """Of 6 runs there are 6^6 equally likely resamples; of strata of 4 and 2 runs 4^4 * 2^2."""
    scores = np.array([3.0, 1, 4, 1, 5, 92])
    for strata in (np.zeros(6), np.array([0, 1, 0, 0, 1, 0])):
        own = [scores[strata == stratum] for stratum in np.unique(strata)]
        draws = itertools.product(*(itertools.product(runs, repeat=len(runs)) for runs in own))
        every = np.sort(np.array([sum(draw, ()) for draw in draws]), axis=1)
        low, high = iqm_interval(scores[:, None], strata)
        every = every[:, 1:5].mean(axis=1)
        for end, part in ((low[0], 0.025), (high[0], 0.975)):
            assert (every < end).mean() <= part + 0.01
            assert (every <= end).mean() >= part - 0.01


@pytest.mark.parametrize("strata", [np.zeros(7, int), np.array([0, 1, 0, 1, 2, 2, 0])])
def test_iqm_interval_against_a_plain_version(strata):
    """The reference writes out each resample, point by point, from the same draws of the ranks in each stratum."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(7, 12))
    scores[0, 3] = scores[6, 4:6] = nan
    low, high = iqm_interval(scores, strata)
    for point, column in enumerate(scores.T):
        order = [i for i in np.argsort(column, kind="stable") if not math.isnan(column[i])]
        counts = resample(strata[order]).astype(int)
        samples = [plain_iqm(np.repeat(column[order], row)) for row in counts]
        np.testing.assert_allclose([low[point], high[point]], np.percentile(samples, [2.5, 97.5]))


def test_iqm_interval_covers_the_true_value():
    """About 95% of the intervals contain the true value; with 20 runs, percentile intervals are slightly too narrow."""
    scores = np.random.default_rng(2).normal(loc=3, size=(20, 2000))
    low, high = iqm_interval(scores, np.zeros(20))
    assert 0.89 < ((low < 3) & (high > 3)).mean() < 0.96


def test_iqm_interval_is_fast():
    rng = np.random.default_rng(0)
    start = time.process_time()
    iqm_interval(rng.normal(size=(100, 1000)), np.zeros(100))
    assert time.process_time() - start < 3
    iqm_interval(rng.normal(size=(30, 1000)), np.arange(30) % 3)  # the strata have 1000 different orders
    assert time.process_time() - start < 10


# ---- performance profile


def test_profile_by_hand():
    y, low, high = profile(np.array([1.0, 2, 3, 4]), ONE, np.array([0.5, 1, 2.5, 4]))
    np.testing.assert_allclose(y, [1, 0.75, 0.5, 0])  # strictly above
    np.testing.assert_allclose(low, [1, 0.25, 0, 0])
    np.testing.assert_allclose(high, [1, 1, 1, 0])


def test_profile_weights_environments_equally():
    y, _, _ = profile(np.array([1.0, 1, 1, 5]), np.array(["a", "a", "a", "b"]), np.array([2.0]))
    np.testing.assert_allclose(y, [0.5])


def test_profile_against_a_plain_version():
    rng = np.random.default_rng(3)
    strata, scores, thresholds = np.array([0, 1, 0, 1, 1]), rng.normal(size=5), np.linspace(-2, 2, 9)
    counts = resample(strata).astype(int)
    y, low, high = profile(scores, strata, thresholds)
    for k, threshold in enumerate(thresholds):

        def fraction(weights, threshold=threshold):
            own = [np.repeat(scores[strata == s], weights[strata == s]) for s in (0, 1)]
            return np.mean([np.mean(runs > threshold) for runs in own])

        samples = [fraction(row) for row in counts]
        np.testing.assert_allclose(y[k], fraction(np.ones(5, int)))
        np.testing.assert_allclose([low[k], high[k]], np.percentile(samples, [2.5, 97.5]))


# ---- probability of improvement


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([2, 3], [0, 1], (1, 1, 1)),
        ([0, 1], [2, 3], (0, 0, 0)),
        ([1, 1], [1, 1], (0.5, 0.5, 0.5)),
        ([0, 2], [1, 1, 1], (0.5, 0, 1)),
        ([1, 2], [1, 3], (0.375, 0, 1)),  # a tie is half a win: (1/2 + 0 + 1 + 0) / 4
    ],
)
def test_improvement_by_hand(x, y, expected):
    found = improvement(np.array(x), np.array(y), np.zeros(len(x)), np.zeros(len(y)))
    np.testing.assert_allclose(found, expected)


def test_improvement_compares_within_each_environment():
    # On a, x wins always; on b, never. Across them, 3 would beat 2.
    p, low, high = improvement(np.array([1, 1, 3, 3]), np.array([4, 4, 0, 0]), np.array([*"aabb"]), np.array([*"bbaa"]))
    assert (p, low, high) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="strata"):
        improvement(np.ones(2), np.ones(2), np.array([*"aa"]), np.array([*"ab"]))


def test_improvement_against_a_plain_version():
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 5, 7), rng.integers(0, 4, 5)
    x_strata, y_strata = np.array([0, 1, 0, 1, 0, 1, 1]), np.array([1, 0, 0, 1, 1])

    def plain(x_counts, y_counts):
        of_strata = []
        for s in (0, 1):
            a = np.repeat(x[x_strata == s], x_counts[x_strata == s])
            b = np.repeat(y[y_strata == s], y_counts[y_strata == s])
            of_strata.append(np.mean([(i > j) + (i == j) / 2 for i in a for j in b]))
        return np.mean(of_strata)

    p, low, high = improvement(x, y, x_strata, y_strata)
    counts = zip(resample(x_strata).astype(int), resample(y_strata, seed=1).astype(int), strict=True)
    np.testing.assert_allclose(p, plain(np.ones(7, int), np.ones(5, int)))
    np.testing.assert_allclose([low, high], np.percentile([plain(*pair) for pair in counts], [2.5, 97.5]))
    np.testing.assert_allclose(p + improvement(y, x, y_strata, x_strata)[0], 1)
