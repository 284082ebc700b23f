"""Intervals and tests for a handful of seeds: Student's and Welch's t, the exact permutation test, Holm's correction.

Sources: Welch 1947; Fisher's permutation test of a difference of means; Holm 1979. Notable: a t interval of normal
values covers what it says at every n, where a percentile bootstrap of a mean covers 76 % at n = 3 and 84 % at n = 5.
The permutation test is exact for samples that differ in place only: where their spreads differ (1:10 at n = 3) it errs
in 10 % of cases where it says 5 %. Welch's test allows for unequal spread, but takes the values to be near normal, so
`rules` asks for both. Neither allows for skew: an arm skewed downward, ten times as spread as the other, is found
higher by both in 16 % of cases (n = 5; in 2 % if it is skewed upward, as errors are, at equal spread). scipy's
permutation test misses ties of sums that differ by rounding; ours does not.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes ten times as long to import

Values = NDArray[np.float64]
Interval = tuple[float, float] | None
"""Lower and upper end; None where there are too few values for one."""

CONFIDENCE = 0.95
RESAMPLES = 10_000
EXACT_LIMIT = 20_000
"""Up to this many regroupings all are counted (8 against 8 seeds: 12,870); above it, RESAMPLES random ones."""


class Estimate(NamedTuple):
    """A mean, or a difference of two, with its standard error and the degrees of freedom of its t distribution."""

    value: float
    error: float
    freedom: float

    @property
    def interval(self) -> Interval:
        """The central CONFIDENCE of its t distribution; None if the error is unknown."""
        reach = self.error * float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2))
        return None if math.isinf(reach) else (self.value - reach, self.value + reach)

    def p_above(self, bound: float) -> float:
        """One-sided p value against the true value being at most `bound`."""
        above = self.value - bound
        if math.isinf(bound) or self.error == 0:
            return 0.0 if above > 0 else 1.0
        return float(stdtr(self.freedom, -above / self.error))

    def p_below(self, bound: float) -> float:
        """One-sided p value against the true value being at least `bound`."""
        return self._replace(value=-self.value).p_above(-bound)


def finite(values: ArrayLike) -> Values:
    """The finite numbers among `values`; None is not one."""
    numbers = np.asarray(values, dtype=float)
    return numbers[np.isfinite(numbers)]


def mean(values: Values) -> Estimate:
    """The mean of at least one value; of one alone the error is unknown, and infinite."""
    error = math.sqrt(values.var(ddof=1) / len(values)) if len(values) > 1 else math.inf
    return Estimate(float(values.mean()), error, max(1, len(values) - 1))


def difference(first: Values, second: Values) -> Estimate:
    """mean(first) - mean(second), with Welch's degrees of freedom."""
    one, other = mean(first), mean(second)
    error = math.hypot(one.error, other.error)
    parts = [(estimate.error / error) ** 4 / estimate.freedom for estimate in (one, other) if 0 < error < math.inf]
    return Estimate(one.value - other.value, error, 1 / sum(parts) if parts else 1.0)


def mean_interval(values: Values) -> Interval:
    """Student's t interval of the mean; None for fewer than two values."""
    return mean(values).interval if len(values) else None


def difference_interval(first: Values, second: Values) -> Interval:
    """Welch's t interval of mean(first) - mean(second)."""
    return difference(first, second).interval


def welch_p(higher: Values, lower: Values) -> float:
    """One-sided p value of mean(higher) - mean(lower), whatever the two spreads. Takes at least two values a side."""
    return difference(higher, lower).p_above(0.0)


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


@lru_cache(maxsize=64)
def regroupings(total: int, size: int) -> NDArray[np.intp]:
    """Every way to choose `size` of `total` indices, shape (ways, size), or RESAMPLES random ones of too many."""
    if math.comb(total, size) <= EXACT_LIMIT:
        return np.array(list(combinations(range(total), size)), dtype=np.intp)
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(total), (RESAMPLES, 1)), axis=1)
    return shuffled[:, :size]


def probability_of_improvement(first: Values, second: Values) -> float:
    """The chance that a value of `first` is lower than one of `second`, ties counted half (Agarwal et al. 2021)."""
    return float((np.sign(second[None, :] - first[:, None]) + 1).mean() / 2)


def effect_size(first: Values, second: Values) -> float:
    """Cohen's d: the difference of means in units of the spread of a side (root mean square of both)."""
    spread = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2) if min(len(first), len(second)) > 1 else 0.0
    return float(first.mean() - second.mean()) / spread if spread else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number: at most 5 % of families have a false one at 0.05 (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected.tolist()
