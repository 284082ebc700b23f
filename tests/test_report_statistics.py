"""Tests and intervals against scipy.stats and numbers known by counting; what they promise, by simulation."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from ablation.report.metrics import TEST
from ablation.report.rules import Higher, verdicts
from ablation.report.statistics import (
    RESAMPLES,
    difference_interval,
    effect_size,
    holm,
    mean_interval,
    permutation_p,
    probability_of_improvement,
    welch_p,
)


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


@pytest.mark.parametrize("size", [2, 3, 5, 20])
def test_intervals_and_welchs_test_are_scipys(size: int) -> None:
    first, second = normal(size, size, 8.0), 10 * normal(9, 4)
    found = stats.ttest_1samp(first, 0.0).confidence_interval(0.95)
    assert mean_interval(first) == pytest.approx(tuple(found))
    for one, other in ((first, second), (second, first)):
        expected = stats.ttest_ind(one, other, equal_var=False)
        assert difference_interval(one, other) == pytest.approx(tuple(expected.confidence_interval(0.95)))
        greater = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
        assert welch_p(one, other) == pytest.approx(float(greater.pvalue))


def test_one_value_has_no_interval_and_equal_ones_a_point() -> None:
    one, same = np.array([1.0]), np.array([2.0, 2.0, 2.0])
    assert mean_interval(one) is mean_interval(one[1:]) is difference_interval(one, same) is None
    assert mean_interval(same) == (2.0, 2.0)
    assert difference_interval(same, same + 1) == (-1.0, -1.0)
    assert (welch_p(same + 1, same), welch_p(same, same), welch_p(same, same + 1)) == (0.0, 1.0, 1.0)


def test_effect_sizes_and_corrections_by_hand() -> None:
    first, second = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0, 8.0])
    assert probability_of_improvement(first, second) == pytest.approx((4 + 3.5 + 3) / 12)
    assert probability_of_improvement(second, first) == pytest.approx(1.5 / 12)
    assert effect_size(first, second) == pytest.approx(-3 / np.sqrt((1 + 20 / 3) / 2))
    assert np.isnan(effect_size(np.zeros(3), np.ones(3)))
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# What the rules promise, by simulation


@pytest.mark.parametrize(
    ("sizes", "spreads"), [((3, 0), (1, 0)), ((5, 0), (1, 0)), ((3, 3), (1, 10)), ((5, 3), (1, 3))]
)
def test_intervals_cover_what_they_say(sizes: tuple[int, int], spreads: tuple[float, float]) -> None:
    draws, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        first, second = (draws.normal(7.0, spread, size) for size, spread in zip(sizes, spreads, strict=True))
        low, high = (difference_interval(first, second) if sizes[1] else mean_interval(first)) or (0.0, 0.0)
        covered += low <= (0.0 if sizes[1] else 7.0) <= high
    assert 0.92 <= covered / 2000 <= 0.985  # a percentile bootstrap: 0.76 and 0.84 for the first two


def reproduced(effect: float, seeds: int, spread: Callable[..., np.ndarray], claims: int = 15) -> list[int]:
    """How many of 15 claims that one mean is higher are reproduced, in each of 200 studies."""
    draws, rule, counts = np.random.default_rng(1), Higher(), []
    for _ in range(200):
        arms = [{"a": spread(draws, seeds) + effect, "b": draws.normal(size=seeds)} for _ in range(claims)]
        found = verdicts([rule.judge(arm, TEST) for arm in arms], [seeds] * claims)
        counts.append(sum(verdict == "reproduced" for verdict, _ in found))
    return counts


def skewed(draws: np.random.Generator, seeds: int) -> np.ndarray:
    """Ten times as spread as a standard normal, and skewed upward as errors are, with mean 0."""
    return 10 * (draws.exponential(size=seeds) - 1)


SPREADS = {
    "same": lambda draws, n: draws.normal(size=n),
    "ten": lambda draws, n: draws.normal(0, 10, n),
    "skew": skewed,
}


@pytest.mark.parametrize("spread", SPREADS)
def test_a_study_without_effects_has_a_false_reproduction_in_at_most_one_of_twenty(spread: str) -> None:
    assert np.mean(np.array(reproduced(0.0, 5, SPREADS[spread])) > 0) <= 0.06  # each claim by itself: 0.5 of studies


def test_large_effects_are_found_and_three_seeds_never_suffice() -> None:
    assert np.mean(reproduced(6.0, 5, SPREADS["same"])) > 0.9 * 15
    assert np.mean(reproduced(1.0, 5, SPREADS["same"])) < 0.1 * 15
    assert max(reproduced(20.0, 3, SPREADS["same"])) == 0
