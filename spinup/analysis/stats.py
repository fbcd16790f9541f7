"""Statistics for few seeds: interquartile mean, bootstrap intervals, performance profiles, probability of improvement.

The methods are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice",
arXiv:2108.13264. The runs on one environment form a stratum: the bootstrap resamples them separately. Intervals are
percentiles of `RESAMPLES` resamples with a fixed seed, so that a figure is the same every time.

Why our own code: the authors' rliable 1.2.0 needs nine more packages (arch, statsmodels, scipy, seaborn, ...), of which
arch 7.2 can't be imported together with pandas 3. It also needs equally many runs on every environment, and takes
minutes for the band of a curve with 1000 points. scipy.stats.bootstrap could compute the intervals, but is a new
dependency too, and leaves runs of unequal length to the caller. Both give the same numbers as these functions.
"""

from functools import lru_cache

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean along the first axis, (n, ...) -> (...): the mean of the middle half.

    Of m scores, the floor(m / 4) lowest and as many highest are dropped. NaN is ignored; the mean of no scores is NaN.
    """
    ranked = np.sort(scores, axis=0)  # NaN last
    m = np.isfinite(ranked).sum(axis=0)
    rank = np.arange(len(ranked)).reshape(-1, *[1] * (ranked.ndim - 1))
    inside = (rank >= m // 4) & (rank < m - m // 4)
    with np.errstate(invalid="ignore"):  # 0 / 0 if m is 0
        return np.where(inside, ranked, 0).sum(axis=0) / inside.sum(axis=0)


def iqm_interval(scores: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise interval (low, high) of the interquartile mean, shapes (k,), from scores (n, k) and strata (n,).

    A resample is determined by how often it contains each run, which gives the weight of each rank in its mean. Points
    whose ranked runs have the same sequence of strata share their resamples, so a whole curve is one matrix product.
    NaN scores are ignored. The interval is NaN if a stratum has a single run, which doesn't show the spread.
    """
    order = np.argsort(scores, axis=0)  # NaN last
    ranked = np.take_along_axis(scores, order, axis=0)
    codes = np.unique(strata, return_inverse=True)[1]
    patterns, which = np.unique(np.where(np.isfinite(ranked), codes[order], -1), axis=1, return_inverse=True)
    low, high = np.full((2, scores.shape[1]), np.nan)
    for i, pattern in enumerate(patterns.T):
        m = (pattern >= 0).sum()
        if m == 0 or 1 in np.bincount(pattern[:m]):
            continue
        # Of m drawn and sorted scores, those at positions m//4 to m - m//4 count; rank j is at upto[j-1] to upto[j].
        upto = resample(pattern[:m]).cumsum(axis=1)  # (RESAMPLES, m)
        weights = np.diff(upto.clip(m // 4, m - m // 4), axis=1, prepend=m // 4) / (m - 2 * (m // 4))
        points = np.flatnonzero(which == i)
        for block in np.array_split(points, len(points) // 1000 + 1):  # at most 16 MB each
            low[block], high[block] = interval(weights @ ranked[:m, block])
    return low, high


def profile(
    scores: np.ndarray, strata: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run-score distribution: the fraction of runs above each of k thresholds, as (fraction, low, high), shapes (k,).

    scores, strata: (n,). The fraction is averaged over each stratum's runs, then over the strata.
    """
    _, code, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    weights = 1 / (len(sizes) * sizes[code])  # (n,)
    above = scores[:, None] > thresholds  # (n, k)
    return weights @ above, *interval((resample(strata) * weights) @ above)


def improvement(x: np.ndarray, y: np.ndarray, x_strata: np.ndarray, y_strata: np.ndarray) -> tuple[float, float, float]:
    """(P(X > Y), low, high): how often a run of X beats one of Y in the same stratum, averaged over strata.

    x, x_strata: (n,); y, y_strata: (m,), with the same set of strata. A tie counts 1/2. X and Y are resampled
    independently.
    """
    strata = np.unique(x_strata)
    if not np.array_equal(strata, np.unique(y_strata)):
        raise ValueError(f"x has the strata {strata}, but y has {np.unique(y_strata)}")
    x_counts, y_counts = resample(x_strata), resample(y_strata, seed=1)
    p, samples = 0.0, np.zeros(RESAMPLES)
    for stratum in strata:
        a, b = x_strata == stratum, y_strata == stratum
        wins = (np.sign(x[a][:, None] - y[b]) + 1) / 2  # (runs of x, runs of y): 1, 1/2 or 0
        p += wins.mean() / len(strata)
        samples += ((x_counts[:, a] @ wins) * y_counts[:, b]).sum(axis=1) / wins.size / len(strata)
    low, high = map(float, interval(samples))
    return p, low, high


def resample(strata: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often each resample of a stratified bootstrap contains each run: strata (n,) -> (RESAMPLES, n).

    From each stratum, a resample draws as many runs as the stratum has, with replacement.
    """
    counts = np.empty((RESAMPLES, len(strata)))
    for i, stratum in enumerate(np.unique(strata)):
        own = strata == stratum
        counts[:, own] = _draw_counts(own.sum(), i, seed)
    return counts


@lru_cache(maxsize=64)  # all points of a curve need the same draws
def _draw_counts(n: int, stratum: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, stratum]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval at `LEVEL` along the first axis: (resamples, ...) -> two of (...)."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
