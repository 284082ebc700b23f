"""The permutation test and the bootstrap against scipy.stats and against numbers known by counting."""

import numpy as np
import pytest
from scipy import stats

from ablation.report.statistics import RESAMPLES, difference_interval, mean_interval, permutation_p


def normal(seed: int, size: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, size)


def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return a.mean(axis=axis) - b.mean(axis=axis)


def scipy_p(a: np.ndarray, b: np.ndarray) -> float:
    found = stats.permutation_test((a, b), difference, alternative="greater", n_resamples=np.inf, vectorized=True)
    return float(found.pvalue)


@pytest.mark.parametrize(
    ("first", "second"),
    [(normal(1, 5, 1.0), normal(2, 5)), (normal(3, 3), normal(4, 5)), (normal(5, 2), normal(6, 7, 0.5))],
)
def test_exact_permutation_test_is_scipys(first: np.ndarray, second: np.ndarray) -> None:
    assert permutation_p(first, second) == pytest.approx(scipy_p(first, second), abs=1e-12)


@pytest.mark.parametrize(("size", "least"), [(1, 1 / 2), (2, 1 / 6), (3, 1 / 20), (5, 1 / 252)])
def test_the_least_p_counts_the_regroupings(size: int, least: float) -> None:
    assert permutation_p(np.arange(size) + 100.0, np.arange(size) + 0.0) == pytest.approx(least)
    assert permutation_p(np.arange(size) + 0.0, np.arange(size) + 100.0) == 1.0


def test_ties_count_as_extreme() -> None:
    # Sums that differ by rounding only are ties; with tenths instead of whole numbers SciPy misses some of them.
    first, second = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
    assert scipy_p(first, second) == pytest.approx(14 / 20)
    assert permutation_p(first, second) == permutation_p(first / 10, second / 10) == 14 / 20
    assert permutation_p(np.zeros(5), np.zeros(5)) == 1.0


def test_many_seeds_are_regrouped_at_random_and_still_agree() -> None:
    first, second = normal(7, 12, 0.6), normal(8, 12)
    exact = stats.permutation_test(
        (first, second), difference, alternative="greater", n_resamples=50_000, vectorized=True, rng=0
    ).pvalue
    assert permutation_p(first, second) == pytest.approx(float(exact), abs=4 * np.sqrt(exact / RESAMPLES))
    assert permutation_p(first, second) == permutation_p(first, second)


@pytest.mark.parametrize("size", [3, 5, 20])
def test_mean_interval_is_scipys(size: int) -> None:
    values = normal(size, size, 8.0)
    found = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    low, high = mean_interval(values) or (np.nan, np.nan)
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.03 * (found.high - found.low))


def test_difference_interval_is_scipys() -> None:
    first, second = normal(9, 5, 3.0), normal(10, 6)
    found = stats.bootstrap((first, second), difference, n_resamples=20_000, method="percentile", rng=1)
    expected = (found.confidence_interval.low, found.confidence_interval.high)
    bounds = difference_interval(first, second) or (np.nan, np.nan)
    assert bounds == pytest.approx(expected, abs=0.03 * (expected[1] - expected[0]))


def test_both_sides_of_a_difference_are_drawn_apart() -> None:
    # With the same draws on both sides the difference of a sample to itself would have no spread.
    values = normal(11, 5)
    low, high = difference_interval(values, values) or (0.0, 0.0)
    assert low < -0.3 < 0.3 < high


def test_one_value_has_no_interval() -> None:
    assert mean_interval(np.array([1.0])) is None
    assert difference_interval(np.array([1.0]), np.array([1.0, 2.0])) is None
