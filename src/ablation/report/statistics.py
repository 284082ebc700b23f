"""Exact permutation test and bootstrap intervals for a handful of seeds, in NumPy.

Sources: Fisher's permutation test of a difference of means; Efron's percentile bootstrap. Notable: every call makes
its own generator from one fixed seed, so a result depends on its data only, never on what was computed before it.
With few seeds a percentile interval is narrower than its name (for five normal values a 95 % interval covers the mean
about 85 times in a hundred), so verdicts on differences also ask for the permutation test, which is exact at any
number of seeds.
"""

import math
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
EXACT_LIMIT = 20_000
"""Up to this many regroupings all are counted (8 against 8 seeds: 12,870); above it, RESAMPLES random ones."""


def permutation_p(higher: Values, lower: Values) -> float:
    """One-sided p value of mean(higher) - mean(lower), had the labels been dealt at random.

    Exact where feasible: 5 against 5 values give at least 1/252. Random regroupings count the observed one too.
    """
    pooled = np.concatenate([higher, lower])
    groups = _regroupings(len(pooled), len(higher))
    sums = pooled[groups].sum(axis=1)
    # Regroupings as extreme as the observed one count, rounding forgiven.
    extreme = int((sums >= higher.sum() - 1e-9 * max(1.0, np.abs(pooled).sum())).sum())
    if math.comb(len(pooled), len(higher)) > EXACT_LIMIT:
        return (extreme + 1) / (len(groups) + 1)
    return extreme / len(groups)


def mean_interval(values: Values) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean; None for a single value, which has no spread."""
    return None if len(values) < 2 else _percentiles(_means(values, stream=0))


def difference_interval(first: Values, second: Values) -> tuple[float, float] | None:
    """Percentile bootstrap interval of mean(first) - mean(second), each side drawn on its own."""
    if min(len(first), len(second)) < 2:
        return None
    return _percentiles(_means(first, stream=0) - _means(second, stream=1))


@lru_cache(maxsize=64)
def _regroupings(total: int, size: int) -> NDArray[np.intp]:
    """Index rows (groups, size): every way to choose `size` of `total`, or RESAMPLES random ways when there are
    too many.
    """
    if math.comb(total, size) <= EXACT_LIMIT:
        return np.array(list(combinations(range(total), size)), dtype=np.intp)
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(total), (RESAMPLES, 1)), axis=1)
    return shuffled[:, :size]


@lru_cache(maxsize=64)
def _draws(count: int, stream: int) -> NDArray[np.intp]:
    return np.random.default_rng([0, stream]).integers(count, size=(RESAMPLES, count))


def _means(values: Values, stream: int) -> Values:
    """RESAMPLES means of values drawn with replacement."""
    means: Values = values[_draws(len(values), stream)].mean(axis=1)
    return means


def _percentiles(means: Values) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
