"""The rules that decide claims; their constants are fixed, and they see numbers only.

A difference in a stated direction takes Welch's test and the exact permutation test. A mean or a difference within
bounds takes a t interval inside them; an interval outside contradicts. Notable: what a rule finds in one claim is the
*uncorrected* verdict. `verdicts` corrects for all the claims that are tested in a study (Holm's method): "reproduced"
and "contradicted" pass the correction and have ENOUGH_SEEDS; what only passes without them is "suggestive".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

from ablation.report import paper, statistics
from ablation.report.metrics import Metric
from ablation.report.statistics import CONFIDENCE, Estimate, Interval, Values, permutation_p, welch_p

Verdict = Literal["reproduced", "suggestive", "contradicted", "inconclusive", "untested"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "suggestive", "contradicted", "inconclusive", "untested")
Samples = Mapping[str, Values]
"""A metric's values, one a run, by the label of the network's cell."""

ALPHA = 0.05
MIN_SEEDS = 3  # with fewer runs on a side the numbers are shown, and the claim is inconclusive
ENOUGH_SEEDS = 5  # for "reproduced" and "contradicted": the least permutation p is 1/252, and with 3 seeds 1/20


class Judgement(NamedTuple):
    """What a rule finds in one claim, before any correction."""

    text: str
    """The numbers that decide, in words."""
    numbers: dict[str, Any]
    p: float
    """Of the claim: how easily chance alone would have reproduced it."""
    p_contradicted: float

    @property
    def verdict(self) -> Verdict:
        return decided(self.p, self.p_contradicted)


def decided(p: float, p_contradicted: float) -> Verdict:
    return "reproduced" if p <= ALPHA else "contradicted" if p_contradicted <= ALPHA else "inconclusive"


class Corrected(NamedTuple):
    """A claim's verdict among all the tested claims of its study."""

    verdict: Verdict
    p: float
    p_contradicted: float


def verdicts(judged: Sequence[Judgement], seeds: Sequence[int]) -> list[Corrected]:
    """The corrected verdicts of all the claims that are tested in a study; `seeds` has the fewest runs of each."""
    corrected = zip(
        statistics.holm([one.p for one in judged]), statistics.holm([one.p_contradicted for one in judged]), strict=True
    )
    found = []
    for one, n, (p, p_contradicted) in zip(judged, seeds, corrected, strict=True):
        verdict = decided(p, p_contradicted) if n >= ENOUGH_SEEDS else "inconclusive"
        suggestive = verdict == "inconclusive" and one.verdict == "reproduced"
        found.append(Corrected("suggestive" if suggestive else verdict, p, p_contradicted))
    return found


@dataclass(frozen=True)
class Higher:
    """The first mean lies above the second, by more than `least`."""

    least: float = 0.0
    """The minimum effect: a smaller one would not be worth the claim, however certain it is."""
    rule = "one-sided Welch test of the difference of means, beside it the exact permutation test"

    @property
    def threshold(self) -> str:
        what = f"a difference above {self.least:.3g}" if self.least else "the difference"
        return f"{what} has p <= {ALPHA:g} in both; contradicted by one below zero"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        first, second = samples.values()
        _, text, numbers = compare(samples, metric, *samples)
        welch, permuted = welch_p(first - self.least, second), permutation_p(first - self.least, second)
        numbers |= {"p_welch": welch, "p_permutation": permuted, "minimum": self.least}
        opposite = gated(welch_p(second, first), permutation_p(second, first))
        return Judgement(
            f"{text}, p = {welch:.2g} (permuted {permuted:.2g})", numbers, gated(welch, permuted), opposite
        )


def gated(welch: float, permuted: float) -> float:
    """Welch's p value where the permutation test agrees with it: the one that counts has no least value of 1/252."""
    return welch if permuted <= ALPHA else max(welch, permuted)


@dataclass(frozen=True)
class Within:
    """A number lies between two bounds: its interval inside reproduces it, outside contradicts it."""

    low: float = -math.inf
    high: float = math.inf
    quoted: paper.Quoted | None = None
    """The published number in the middle, where there is one."""

    @property
    def threshold(self) -> str:
        bounds = ((self.low, f"above {self.low:.3g}"), (self.high, f"below {self.high:.3g}"))
        where = " and ".join(text for bound, text in bounds if math.isfinite(bound))
        return f"the {CONFIDENCE:.0%} interval lies {where}; contradicted where it lies outside"

    def p_values(self, estimate: Estimate) -> tuple[float, float]:
        """How wide an interval may be (as 1 - its confidence) to lie inside of the bounds, and outside."""
        above, below = statistics.p_above, statistics.p_below
        inside = max(above(estimate, self.low), below(estimate, self.high))
        outside = min(below(estimate, self.low), above(estimate, self.high))
        return min(1.0, 2 * inside), min(1.0, 2 * outside)


class MeanWithin(Within):
    """The only mean lies within the bounds."""

    rule = "t interval of the mean"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        (values,) = samples.values()
        estimate, form = statistics.mean(values), f".{metric.decimals}f"
        between = statistics.interval(estimate)
        numbers: dict[str, Any] = {"mean": estimate.value, "interval": between}
        text = f"mean {estimate.value:{form}}{metric.unit}{interval_text(between, form)}"
        if self.quoted:
            numbers |= {"quoted": self.quoted.value, "difference": estimate.value - self.quoted.value}
            text += f"; quoted {self.quoted}, difference {estimate.value - self.quoted.value:+.2f}"
        return Judgement(text, numbers, *self.p_values(estimate))


class DifferencesWithin(Within):
    """The difference of every two means, the first less the second, lies within the bounds."""

    rule = "Welch's t interval of each difference of means"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        found = [compare(samples, metric, *pair) for pair in combinations(samples, 2)]
        p, p_contradicted = zip(*(self.p_values(estimate) for estimate, _, _ in found), strict=True)
        only = found[0][2] if len(found) == 1 else {}
        numbers = only | {"pairs": [pair for _, _, pair in found], "margin": self.high}
        # All pairs have to lie within; one of them outside contradicts, corrected for their number.
        return Judgement(
            "; ".join(text for _, text, _ in found), numbers, max(p), min(1.0, min(p_contradicted) * len(found))
        )


Rule = Higher | MeanWithin | DifferencesWithin
"""`rule` and `threshold` say in words what is tested and what decides; `judge` takes one sample for each network."""


def compare(samples: Samples, metric: Metric, first: str, second: str) -> tuple[Estimate, str, dict[str, Any]]:
    """The difference of two samples' means, in words with its interval and effect size, and as plain values."""
    estimate, form = statistics.difference(samples[first], samples[second]), f"+.{metric.decimals}f"
    between, size = statistics.interval(estimate), statistics.effect_size(samples[first], samples[second])
    shown = format(round(estimate.value, metric.decimals) or 0.0, form)  # never -0.00
    text = f"{first} minus {second}: {shown}{interval_text(between, form)}"
    numbers = {"pair": [first, second], "difference": estimate.value, "interval": between, "effect_size": size}
    return estimate, text + (f", d = {size:.1f}" if math.isfinite(size) else ""), numbers


def interval_text(bounds: Interval, form: str) -> str:
    return f" [{bounds[0]:{form}}, {bounds[1]:{form}}]" if bounds else ""
