"""Exact permutation test and bootstrap intervals for a handful of seeds, in NumPy.

Sources: Fisher's permutation test of a difference of means; Efron's percentile bootstrap. Notable: the random numbers
come from a fixed seed, so a result depends on its data only. scipy.stats has both, but takes a second to import, and
its test misses ties of sums that differ by rounding. With few seeds a percentile interval is too narrow (five normal
values: it covers the mean 84 times in 100, not 95), so a difference must pass the permutation test too.
"""

import math
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
Interval = tuple[float, float] | None
"""Lower and upper end; None where there are too few values for one."""

CONFIDENCE = 0.95
RESAMPLES = 10_000
EXACT_LIMIT = 20_000
"""Up to this many regroupings all are counted (8 against 8 seeds: 12,870); above it, RESAMPLES random ones."""


def finite(values: ArrayLike) -> Values:
    """The finite numbers among `values`; None is not one."""
    numbers = np.asarray(values, dtype=float)
    return numbers[np.isfinite(numbers)]


def permutation_p(higher: Values, lower: Values) -> float:
    """One-sided p value of mean(higher) - mean(lower), had the labels been dealt at random.

    Exact where feasible: 5 against 5 values give at least 1/252. Random regroupings count the observed one too.
    """
    pooled = np.concatenate([higher, lower])
    groups = regroupings(len(pooled), len(higher))
    sums = pooled[groups].sum(axis=1)
    # Regroupings as extreme as the observed one count, rounding forgiven.
    extreme = int((sums >= higher.sum() - 1e-9 * max(1.0, np.abs(pooled).sum())).sum())
    observed = 0 if math.comb(len(pooled), len(higher)) <= EXACT_LIMIT else 1
    return (extreme + observed) / (len(groups) + observed)


def mean_interval(values: Values) -> Interval:
    """Percentile bootstrap interval of the mean."""
    return bootstrap(values)


def difference_interval(first: Values, second: Values) -> Interval:
    """Percentile bootstrap interval of mean(first) - mean(second), each side drawn on its own."""
    return bootstrap(first, second)


@lru_cache(maxsize=64)
def regroupings(total: int, size: int) -> NDArray[np.intp]:
    """Every way to choose `size` of `total` indices, shape (ways, size), or RESAMPLES random ones of too many."""
    if math.comb(total, size) <= EXACT_LIMIT:
        return np.array(list(combinations(range(total), size)), dtype=np.intp)
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(total), (RESAMPLES, 1)), axis=1)
    return shuffled[:, :size]


@lru_cache(maxsize=64)
def draws(count: int, stream: int) -> NDArray[np.intp]:
    """RESAMPLES draws of `count` indices with replacement, shape (RESAMPLES, count)."""
    return np.random.default_rng([0, stream]).integers(count, size=(RESAMPLES, count))


def bootstrap(*samples: Values) -> Interval:
    """What holds CONFIDENCE of the resampled means: of the one sample, or of the first less the second."""
    if min(map(len, samples)) < 2:
        return None
    means = [values[draws(len(values), stream)].mean(axis=1) for stream, values in enumerate(samples)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.subtract.reduce(means), [tail, 100 - tail])
    return float(low), float(high)


def probability_of_improvement(first: Values, second: Values) -> float:
    """How often a value of `first` is lower than one of `second`, ties half (Bouthillier et al. 2021)."""
    return float(((first[:, None] < second) + (first[:, None] == second) / 2).mean())


def welch_p(higher: Values, lower: Values) -> float:
    return permutation_p(higher, lower)
