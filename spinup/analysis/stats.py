"""What a few seeds show: interquartile mean, bootstrap intervals, performance profiles, probability of improvement.

All of it is from Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice",
arXiv:2108.13264. A stratum is what one environment gave: the bootstrap draws each environment's runs from that
environment's runs. Intervals are between percentiles of `RESAMPLES` resamples with a fixed seed: the same picture every
time.

Why it is written down here: the authors' rliable 1.2.0 brings nine packages more (arch, statsmodels, scipy, seaborn,
...), of which arch 7.2 does not import beside pandas 3; it wants as many runs of one environment as of the next, and
takes minutes for the band of a curve of 1000 points. scipy.stats.bootstrap would do for the intervals, but is a new
dependency as well, and leaves runs of unequal length to its caller. Both give the numbers that these functions give.
"""

from functools import lru_cache

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean along the first axis: (n, ...) -> (...), the mean of what a quarter at each end leaves.

    Of m scores the floor(m / 4) lowest and as many highest are dropped. NaN is no score; without any, NaN.
    """
    ranked = np.sort(scores, axis=0)  # NaN last
    m = np.isfinite(ranked).sum(axis=0)
    rank = np.arange(len(ranked)).reshape(-1, *[1] * (ranked.ndim - 1))
    inside = (rank >= m // 4) & (rank < m - m // 4)
    with np.errstate(invalid="ignore"):  # 0 / 0 where m is 0
        return np.where(inside, ranked, 0).sum(axis=0) / inside.sum(axis=0)


def iqm_interval(scores: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the interquartile mean at each point by itself, shapes (k,), from `scores` (n, k), strata (n,).

    Which runs a resample holds, and how often, decides which ranks it averages. Points at which the same strata follow
    each other in rank share their resamples, so that a whole curve is one matrix product. A NaN is no run of its point.
    NaN where a stratum has a single run: that says nothing of the spread.
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
        # Of m drawn and sorted scores, places m//4 to m - m//4 count; rank j fills those from upto[j-1] to upto[j].
        upto = resample(pattern[:m]).cumsum(axis=1)  # (RESAMPLES, m)
        weights = np.diff(upto.clip(m // 4, m - m // 4), axis=1, prepend=m // 4) / (m - 2 * (m // 4))
        points = np.flatnonzero(which == i)
        for block in np.array_split(points, len(points) // 1000 + 1):  # of at most 16 MB
            low[block], high[block] = interval(weights @ ranked[:m, block])
    return low, high


def profile(
    scores: np.ndarray, strata: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run-score distribution: (fraction, low, high), shapes (k,), of runs that score more than each of k thresholds.

    scores, strata (n,). The fraction is a mean over strata of a mean over their runs.
    """
    _, code, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    weights = 1 / (len(sizes) * sizes[code])  # (n,)
    above = scores[:, None] > thresholds  # (n, k)
    return weights @ above, *interval((resample(strata) * weights) @ above)


def improvement(x: np.ndarray, y: np.ndarray, x_strata: np.ndarray, y_strata: np.ndarray) -> tuple[float, float, float]:
    """(P(X > Y), low, high): how often a run of X beats one of Y on the same stratum, mean over strata; a tie is 1/2.

    x, x_strata (n,), y, y_strata (m,), with the same set of strata. X and Y are
    resampled independently of each other.
    """
    strata = np.unique(x_strata)
    if not np.array_equal(strata, np.unique(y_strata)):
        raise ValueError(f"x has the strata {strata}, y {np.unique(y_strata)}")
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
    """How often each run is in each resample of a stratified bootstrap: (RESAMPLES, n) from strata (n,).

    A resample draws as many runs of every stratum as it has, with replacement.
    """
    counts = np.empty((RESAMPLES, len(strata)))
    for i, stratum in enumerate(np.unique(strata)):
        own = strata == stratum
        counts[:, own] = _draws(own.sum(), i, seed)
    return counts


@lru_cache(maxsize=64)  # a curve over several strata asks for the same at each of its points
def _draws(n: int, stratum: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, stratum]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval at `LEVEL` along the first axis: (resamples, ...) -> two of (...)."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
