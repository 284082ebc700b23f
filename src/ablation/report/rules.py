"""The decision rules behind the claims, and the numbers of a run that they decide on.

A difference in a stated direction takes an exact one-sided permutation test and a bootstrap interval that excludes
zero; closeness takes an interval that lies inside the margin, and is contradicted by one that lies outside. Notable:
the rules know samples only, neither records nor claims, and their constants are fixed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, Protocol

import numpy as np

from ablation.report import paper
from ablation.report.statistics import CONFIDENCE, Values, difference_interval, mean_interval, permutation_p
from ablation.report.studies import Cell

Verdict = Literal["reproduced", "contradicted", "inconclusive", "untested"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "inconclusive", "untested")

ALPHA = 0.05
"""Level of the one-sided permutation test: 3 against 3 seeds, fully apart, just reach it (1/20); 5 against 5 reach
1/252.
"""
MIN_SEEDS = 3
"""Fewer runs on a side are shown and never decide."""


@dataclass(frozen=True)
class Metric:
    """A number of a run, and how it is written."""

    name: str
    of: Callable[[Cell], Values]
    unit: str = " %"
    decimals: int = 2
    beside: "Metric | None" = None
    """Shown with it, never tested."""

    def format(self, value: float) -> str:
        """With decimals and unit."""
        return f"{value:.{self.decimals}f}{self.unit}"


def response(cell: Cell) -> Values:
    """Mean over the layers of the responses' standard deviation, one number a run."""
    runs = [
        [layer["response_std"] for layer in layers if layer["response_std"] is not None] for layers in layers_of(cell)
    ]
    return finite([float(np.mean(values)) for values in runs if values])


def gradient_ratio(cell: Cell) -> Values:
    """Mean gradient norm of the first third of the layers over that of the last third, at the start or the end:
    the lower.
    """
    ratios = []
    for layers in layers_of(cell):
        third = max(1, len(layers) // 3)
        both = []
        for key in ("gradient_norm_start", "gradient_norm_end"):
            norms = [layer[key] for layer in layers]
            if norms and None not in norms and sum(norms[-third:]) > 0:
                both.append(sum(norms[:third]) / sum(norms[-third:]))
        if both:
            ratios.append(min(both))
    return finite(ratios)


def layers_of(cell: Cell) -> list[list[dict[str, Any]]]:
    """The layers' measurements, a list a run."""
    return list(cell.runs["layers"])


def finite(values: list[float]) -> Values:
    """The numbers among them, as an array."""
    numbers = np.array(values, dtype=float)
    return numbers[np.isfinite(numbers)]


RUNNING = Metric("running training error", lambda cell: cell.values("metrics.running_train_error"))
TRAIN = Metric("training error", lambda cell: cell.values("metrics.train_error"), beside=RUNNING)
TEST = Metric("test error", lambda cell: cell.values("metrics.test_error"))
BEST_TEST = Metric("test error selected on test", lambda cell: cell.values("metrics.best_test_error"))
RESPONSE = Metric("response std, mean over layers", response, unit="", decimals=3)
GRADIENT = Metric("gradient ratio, first to last third", gradient_ratio, unit="", decimals=3)


@dataclass(frozen=True)
class Sample:
    """The runs of one arm."""

    name: str
    values: Values

    @property
    def mean(self) -> float:
        """Of all its runs."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Judgement:
    """What a test makes of its samples."""

    verdict: Verdict
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


class Rule(Protocol):
    """A decision rule with its constants."""

    @property
    def rule(self) -> str:
        """The statistic and its test, in words."""

    @property
    def threshold(self) -> str:
        """What decides, in words."""

    def judge(self, samples: list[Sample], metric: Metric) -> Judgement:
        """The verdict on one sample an arm, in the claim's order."""


@dataclass(frozen=True)
class Higher:
    """The first arm's mean lies above the second's."""

    rule = "one-sided permutation test of the difference of means, and its bootstrap interval"
    threshold = f"p <= {ALPHA:g} and the {CONFIDENCE:.0%} interval excludes zero"

    def judge(self, samples: list[Sample], metric: Metric) -> Judgement:
        """See Rule."""
        first, second = samples
        interval = difference_interval(first.values, second.values)
        p = permutation_p(first.values, second.values)
        against = permutation_p(second.values, first.values)
        verdict: Verdict = "inconclusive"
        if interval and p <= ALPHA and interval[0] > 0:
            verdict = "reproduced"
        elif interval and against <= ALPHA and interval[1] < 0:
            verdict = "contradicted"
        text = f"{difference_text(first, second, interval, metric)}, p = {p:.2g}"
        return Judgement(verdict, text, {"difference": first.mean - second.mean, "interval": interval, "p": p})


@dataclass(frozen=True)
class NotHigher:
    """The first arm's mean lies above the second's by less than a margin, if at all."""

    margin: float
    rule = "bootstrap interval of the difference of means"

    @property
    def threshold(self) -> str:
        """See Rule."""
        return f"the {CONFIDENCE:.0%} interval lies below {self.margin:+g}; contradicted where it lies above"

    def judge(self, samples: list[Sample], metric: Metric) -> Judgement:
        """See Rule."""
        first, second = samples
        interval = difference_interval(first.values, second.values)
        text = difference_text(first, second, interval, metric)
        numbers = {"difference": first.mean - second.mean, "interval": interval, "margin": self.margin}
        return Judgement(side(interval, -np.inf, self.margin), text, numbers)


@dataclass(frozen=True)
class Close:
    """Every two arms' means lie within a margin of each other."""

    margin: float
    rule = "bootstrap interval of each difference of means"

    @property
    def threshold(self) -> str:
        """See Rule."""
        return f"every {CONFIDENCE:.0%} interval lies within ±{self.margin:g}; contradicted where one lies outside"

    def judge(self, samples: list[Sample], metric: Metric) -> Judgement:
        """See Rule."""
        verdicts, texts, pairs = [], [], []
        for first, second in combinations(samples, 2):
            interval = difference_interval(first.values, second.values)
            verdicts.append(side(interval, -self.margin, self.margin))
            texts.append(difference_text(first, second, interval, metric))
            pairs.append(
                {"pair": [first.name, second.name], "difference": first.mean - second.mean, "interval": interval}
            )
        verdict: Verdict = "contradicted" if "contradicted" in verdicts else "reproduced"
        if verdict == "reproduced" and "inconclusive" in verdicts:
            verdict = "inconclusive"
        return Judgement(verdict, "; ".join(texts), {"pairs": pairs, "margin": self.margin})


@dataclass(frozen=True)
class Between:
    """One arm's mean lies between two bounds."""

    low: float
    high: float
    quoted: paper.Quoted | None = None
    """The number in the middle, where there is one."""
    rule = "bootstrap interval of the mean"

    @property
    def threshold(self) -> str:
        """See Rule."""
        if self.quoted:
            where = f"within {self.quoted.value:g} ± {self.high - self.quoted.value:g}"
        else:
            where = f"below {self.high:g}" if np.isinf(self.low) else f"above {self.low:g}"
        return f"the {CONFIDENCE:.0%} interval lies {where}; contradicted where it lies outside"

    def judge(self, samples: list[Sample], metric: Metric) -> Judgement:
        """See Rule."""
        (only,) = samples
        interval = mean_interval(only.values)
        numbers: dict[str, Any] = {"mean": only.mean, "interval": interval}
        text = f"mean {metric.format(only.mean)}{interval_text(interval, metric, sign='')}"
        if self.quoted:
            numbers |= {"quoted": self.quoted.value, "difference": only.mean - self.quoted.value}
            text += f"; quoted {self.quoted}, difference {only.mean - self.quoted.value:+.2f}"
        return Judgement(side(interval, self.low, self.high), text, numbers)


def side(interval: tuple[float, float] | None, low: float, high: float) -> Verdict:
    """Where an interval lies: inside the bounds, outside them, or across one."""
    if interval is None:
        return "inconclusive"
    if low < interval[0] and interval[1] < high:
        return "reproduced"
    return "contradicted" if interval[0] > high or interval[1] < low else "inconclusive"


def difference_text(first: Sample, second: Sample, interval: tuple[float, float] | None, metric: Metric) -> str:
    """The difference of means with its interval."""
    shown = format(round(first.mean - second.mean, metric.decimals) or 0.0, f"+.{metric.decimals}f")  # never -0.00
    return f"{first.name} minus {second.name}: {shown}{interval_text(interval, metric, sign='+')}"


def interval_text(interval: tuple[float, float] | None, metric: Metric, sign: str) -> str:
    """The interval in brackets; nothing if there is none."""
    if interval is None:
        return ""
    low, high = (format(bound, f"{sign}.{metric.decimals}f") for bound in interval)
    return f" [{low}, {high}]"
