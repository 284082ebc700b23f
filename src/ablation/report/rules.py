"""The rules that decide claims; their constants are fixed, and they see numbers only.

A difference in a stated direction takes an exact one-sided permutation test and a bootstrap interval that excludes
zero. A mean or a difference within bounds takes an interval inside them; an interval outside contradicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from ablation.report import paper
from ablation.report.metrics import Metric
from ablation.report.statistics import CONFIDENCE, Interval, Values, difference_interval, mean_interval, permutation_p

Verdict = Literal["reproduced", "contradicted", "inconclusive", "untested"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "inconclusive", "untested")
Samples = Mapping[str, Values]
"""A metric's values, one a run, by the label of the network's cell."""
Judgement = tuple[Verdict, str, dict[str, Any]]
"""Verdict, the numbers that decide in words, and as plain values."""

ALPHA = 0.05  # 3 against 3 seeds, fully apart, just reach it (1/20); 5 against 5 reach 1/252
MIN_SEEDS = 3  # with fewer runs on a side the numbers are shown, and the claim is inconclusive


@dataclass(frozen=True)
class Higher:
    """The first mean lies above the second."""

    rule = "one-sided permutation test of the difference of means, and its bootstrap interval"
    threshold = f"p <= {ALPHA:g} and the {CONFIDENCE:.0%} interval excludes zero"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        first, second = samples.values()
        difference, interval, text = compare(samples, metric, *samples)
        p = permutation_p(first, second)
        verdict: Verdict = "inconclusive"
        if interval and p <= ALPHA and interval[0] > 0:
            verdict = "reproduced"
        elif interval and permutation_p(second, first) <= ALPHA and interval[1] < 0:
            verdict = "contradicted"
        return verdict, f"{text}, p = {p:.2g}", {"difference": difference, "interval": interval, "p": p}


@dataclass(frozen=True)
class Within:
    """A number lies between two bounds: its interval inside reproduces it, outside contradicts it."""

    low: float = -np.inf
    high: float = np.inf
    quoted: paper.Quoted | None = None
    """The published number in the middle, where there is one."""

    @property
    def threshold(self) -> str:
        bounds = ((self.low, f"above {self.low:g}"), (self.high, f"below {self.high:g}"))
        where = " and ".join(text for bound, text in bounds if np.isfinite(bound))
        return f"the {CONFIDENCE:.0%} interval lies {where}; contradicted where it lies outside"

    def verdict(self, interval: Interval) -> Verdict:
        if interval and self.low < interval[0] and interval[1] < self.high:
            return "reproduced"
        return "contradicted" if interval and (interval[0] > self.high or interval[1] < self.low) else "inconclusive"


class MeanWithin(Within):
    """The only mean lies within the bounds."""

    rule = "bootstrap interval of the mean"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        (values,) = samples.values()
        mean, interval, form = float(values.mean()), mean_interval(values), f".{metric.decimals}f"
        numbers: dict[str, Any] = {"mean": mean, "interval": interval}
        text = f"mean {mean:{form}}{metric.unit}{interval_text(interval, form)}"
        if self.quoted:
            numbers |= {"quoted": self.quoted.value, "difference": mean - self.quoted.value}
            text += f"; quoted {self.quoted}, difference {mean - self.quoted.value:+.2f}"
        return self.verdict(interval), text, numbers


class DifferencesWithin(Within):
    """The difference of every two means, the first less the second, lies within the bounds."""

    rule = "bootstrap interval of each difference of means"

    def judge(self, samples: Samples, metric: Metric) -> Judgement:
        pairs, texts, verdicts = [], [], []
        for first, second in combinations(samples, 2):
            difference, interval, text = compare(samples, metric, first, second)
            pairs.append({"pair": [first, second], "difference": difference, "interval": interval})
            texts.append(text)
            verdicts.append(self.verdict(interval))
        worst = next(verdict for verdict in ("contradicted", "inconclusive", "reproduced") if verdict in verdicts)
        only = pairs[0] if len(pairs) == 1 else {}
        return worst, "; ".join(texts), only | {"pairs": pairs, "margin": self.high}


Rule = Higher | MeanWithin | DifferencesWithin
"""`rule` and `threshold` say in words what is tested and what decides; `judge` takes one sample for each network."""


def compare(samples: Samples, metric: Metric, first: str, second: str) -> tuple[float, Interval, str]:
    """The difference of two samples' means, its interval, and both in words."""
    difference = float(samples[first].mean()) - float(samples[second].mean())
    interval, form = difference_interval(samples[first], samples[second]), f"+.{metric.decimals}f"
    shown = format(round(difference, metric.decimals) or 0.0, form)  # never -0.00
    return difference, interval, f"{first} minus {second}: {shown}{interval_text(interval, form)}"


def interval_text(interval: Interval, form: str) -> str:
    return f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""
