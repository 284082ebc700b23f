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
    """What a rule finds in one claim."""

    text: str
    """The numbers that decide, in words."""
    numbers: dict[str, Any]
    p: float
    """Of the claim: how easily chance alone would have reproduced it."""
    p_contradicted: float

    @property
    def verdict(self) -> Verdict:
        return "reproduced" if self.p <= ALPHA else "contradicted" if self.p_contradicted <= ALPHA else "inconclusive"


def verdicts(judged: Sequence[Judgement], seeds: Sequence[int]) -> list[tuple[Verdict, Judgement]]:
    """The verdict of each claim among all that are tested in a study, and its judgement with corrected p values.

    `seeds` has the fewest runs of each.
    """
    p_values = (statistics.holm(one) for one in ([j.p for j in judged], [j.p_contradicted for j in judged]))
    found: list[tuple[Verdict, Judgement]] = []
    for one, n, p, p_contradicted in zip(judged, seeds, *p_values, strict=True):
        corrected = one._replace(p=p, p_contradicted=p_contradicted)
        verdict: Verdict = corrected.verdict if n >= ENOUGH_SEEDS else "inconclusive"
        if verdict == "inconclusive" and one.verdict == "reproduced":
            verdict = "suggestive"
        found.append((verdict, corrected))
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
        welch, permuted, p = gated(first - self.least, second)
        numbers |= {"p_welch": welch, "p_permutation": permuted, "minimum": self.least}
        return Judgement(f"{text}, p = {welch:.2g} (permuted {permuted:.2g})", numbers, p, gated(second, first)[2])


def gated(higher: Values, lower: Values) -> tuple[float, float, float]:
    """The p values of Welch's and the permutation test, and the one that counts.

    It is Welch's where the permutation test agrees with it: it has no least value such as 1/252.
    """
    welch, permuted = welch_p(higher, lower), permutation_p(higher, lower)
    return welch, permuted, welch if permuted <= ALPHA else max(welch, permuted)


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
        inside = max(estimate.p_above(self.low), estimate.p_below(self.high))
        outside = min(estimate.p_below(self.low), estimate.p_above(self.high))
        return min(1.0, 2 * inside), min(1.0, 2 * outside)


class MeanWithin(Within):
    """The only mean lies within the bounds."""

    rule = "t interval of the mean"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        (values,) = samples.values()
        estimate, form = statistics.mean(values), f".{metric.decimals}f"
        numbers: dict[str, Any] = {"mean": estimate.value, "interval": estimate.interval}
        text = f"mean {estimate.value:{form}}{metric.unit}{interval_text(estimate.interval, form)}"
        if self.quoted:
            numbers |= {"quoted": self.quoted.value, "difference": estimate.value - self.quoted.value}
            text += f"; quoted {self.quoted}, difference {estimate.value - self.quoted.value:+.2f}"
        return Judgement(text, numbers, *self.p_values(estimate))


class DifferencesWithin(Within):
    """The difference of every two means, the first less the second, lies within the bounds."""

    rule = "Welch's t interval of each difference of means"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        estimates, texts, pairs = zip(
            *(compare(samples, metric, *two) for two in combinations(samples, 2)), strict=True
        )
        p, p_contradicted = zip(*map(self.p_values, estimates), strict=True)
        numbers = (pairs[0] if len(pairs) == 1 else {}) | {"pairs": list(pairs), "margin": self.high}
        # All pairs have to lie within; one of them outside contradicts, corrected for their number.
        return Judgement("; ".join(texts), numbers, max(p), min(1.0, min(p_contradicted) * len(pairs)))


Rule = Higher | MeanWithin | DifferencesWithin
"""`rule` and `threshold` say in words what is tested and what decides; `judge` takes one sample for each network."""


def compare(samples: Samples, metric: Metric, first: str, second: str) -> tuple[Estimate, str, dict[str, Any]]:
    """The difference of two samples' means, in words with its interval and effect size, and as plain values."""
    estimate, form = statistics.difference(samples[first], samples[second]), f"+.{metric.decimals}f"
    size = statistics.effect_size(samples[first], samples[second])
    shown = format(round(estimate.value, metric.decimals) or 0.0, form)  # never -0.00
    text = f"{first} minus {second}: {shown}{interval_text(estimate.interval, form)}"
    numbers = {"pair": [first, second], "difference": estimate.value, "interval": estimate.interval}
    return estimate, text + (f", d = {size:.1f}" if math.isfinite(size) else ""), numbers | {"effect_size": size}


def interval_text(bounds: Interval, form: str) -> str:
    return f" [{bounds[0]:{form}}, {bounds[1]:{form}}]" if bounds else ""
