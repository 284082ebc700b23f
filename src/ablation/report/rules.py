"""What is measured of a cell, and the rules that decide a claim from it.

A difference in a stated direction takes an exact one-sided permutation test and a bootstrap interval that excludes
zero. A value or difference within bounds takes an interval inside them; one that lies outside contradicts. Notable:
the rules see samples only, neither records nor claims, and their constants are fixed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from ablation.report import paper
from ablation.report.statistics import (
    CONFIDENCE,
    Interval,
    Values,
    difference_interval,
    finite,
    mean_interval,
    permutation_p,
)
from ablation.report.studies import Cell

Verdict = Literal["reproduced", "contradicted", "inconclusive", "untested"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "inconclusive", "untested")

ALPHA = 0.05
"""Level of the one-sided permutation test: 3 against 3 seeds, fully apart, just reach it (1/20); 5 against 5 reach
1/252.
"""
MIN_SEEDS = 3
"""With fewer runs on a side the numbers are shown, and the claim is inconclusive."""


@dataclass(frozen=True)
class Metric:
    """A number of a run, and how it is written."""

    name: str
    of: Callable[[Cell], Values]
    unit: str = " %"
    decimals: int = 2
    beside: "Metric | None" = None
    """Shown with it, never tested."""


def response(cell: Cell) -> Values:
    """Mean over the layers of the responses' standard deviation, one number a run."""
    runs = [[layer["response_std"] for layer in layers] for layers in cell.runs["layers"]]
    runs = [[value for value in run if value is not None] for run in runs]
    return finite([float(np.mean(run)) for run in runs if run])


def gradient_ratio(cell: Cell) -> Values:
    """Mean gradient norm of the first third of the layers over that of the last third, one number a run: the smaller
    of the ratios before and after training.
    """
    ratios = []
    for layers in cell.runs["layers"]:
        third = max(1, len(layers) // 3)
        both = []
        for key in ("gradient_norm_start", "gradient_norm_end"):
            norms = [layer[key] for layer in layers]
            if norms and None not in norms and sum(norms[-third:]) > 0:
                both.append(sum(norms[:third]) / sum(norms[-third:]))
        ratios += [min(both)] if both else []
    return finite(ratios)


RUNNING = Metric("running training error", lambda cell: cell.values("metrics.running_train_error"))
TRAIN = Metric("training error", lambda cell: cell.values("metrics.train_error"), beside=RUNNING)
TEST = Metric("test error", lambda cell: cell.values("metrics.test_error"))
BEST_TEST = Metric("test error selected on test", lambda cell: cell.values("metrics.best_test_error"))
RESPONSE = Metric("response std, mean over layers", response, unit="", decimals=3)
GRADIENT = Metric("gradient ratio, first to last third", gradient_ratio, unit="", decimals=3)


@dataclass(frozen=True)
class Sample:
    """A metric's values of one cell, one a run."""

    name: str
    values: Values

    @property
    def mean(self) -> float:
        return float(self.values.mean())


class Judgement(NamedTuple):
    """What a rule makes of its samples."""

    verdict: Verdict
    text: str
    numbers: dict[str, Any]


class Rule(Protocol):
    """A decision rule with its constants."""

    @property
    def rule(self) -> str:
        """The statistic and its test, in words."""

    @property
    def threshold(self) -> str:
        """What decides, in words."""

    def judge(self, samples: Sequence[Sample], metric: Metric) -> Judgement:
        """The verdict on one sample for each cell of a claim, in the claim's order."""


@dataclass(frozen=True)
class Higher:
    """The first mean lies above the second."""

    rule = "one-sided permutation test of the difference of means, and its bootstrap interval"
    threshold = f"p <= {ALPHA:g} and the {CONFIDENCE:.0%} interval excludes zero"

    def judge(self, samples: Sequence[Sample], metric: Metric) -> Judgement:
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
        numbers = {"difference": first.mean - second.mean, "interval": interval, "p": p}
        return Judgement(verdict, f"{difference_text(first, second, interval, metric)}, p = {p:.2g}", numbers)


@dataclass(frozen=True)
class DifferencesWithin:
    """Every two means, the first less the second, differ by a number between two bounds."""

    low: float
    high: float
    rule = "bootstrap interval of each difference of means"

    @property
    def threshold(self) -> str:
        """See Rule."""
        return threshold_text(self.low, self.high)

    def judge(self, samples: Sequence[Sample], metric: Metric) -> Judgement:
        """See Rule."""
        pairs, texts, verdicts = [], [], []
        for first, second in combinations(samples, 2):
            interval = difference_interval(first.values, second.values)
            pair = {"pair": [first.name, second.name], "difference": first.mean - second.mean, "interval": interval}
            pairs.append(pair)
            texts.append(difference_text(first, second, interval, metric))
            verdicts.append(place(interval, self.low, self.high))
        # The least favourable decides.
        verdict = next(v for v in ("contradicted", "inconclusive", "reproduced") if v in verdicts)
        return Judgement(verdict, "; ".join(texts), {"pairs": pairs, "margin": self.high})


@dataclass(frozen=True)
class MeanWithin:
    """One mean lies between two bounds."""

    low: float
    high: float
    quoted: paper.Quoted | None = None
    """The published number in the middle, where there is one."""
    rule = "bootstrap interval of the mean"

    @property
    def threshold(self) -> str:
        """See Rule."""
        return threshold_text(self.low, self.high)

    def judge(self, samples: Sequence[Sample], metric: Metric) -> Judgement:
        """See Rule."""
        (only,) = samples
        interval = mean_interval(only.values)
        numbers: dict[str, Any] = {"mean": only.mean, "interval": interval}
        text = f"mean {only.mean:.{metric.decimals}f}{metric.unit}{interval_text(interval, f'.{metric.decimals}f')}"
        if self.quoted:
            numbers |= {"quoted": self.quoted.value, "difference": only.mean - self.quoted.value}
            text += f"; quoted {self.quoted}, difference {only.mean - self.quoted.value:+.2f}"
        return Judgement(place(interval, self.low, self.high), text, numbers)


def place(interval: Interval, low: float, high: float) -> Verdict:
    """Where an interval lies: inside the bounds, outside them, or across one."""
    if interval is None:
        return "inconclusive"
    if low < interval[0] and interval[1] < high:
        return "reproduced"
    return "contradicted" if interval[0] > high or interval[1] < low else "inconclusive"


def threshold_text(low: float, high: float) -> str:
    """What decides where an interval must lie between two bounds, in words."""
    if np.isfinite(low) and np.isfinite(high):
        where = f"between {low:g} and {high:g}"
    else:
        where = f"below {high:g}" if np.isfinite(high) else f"above {low:g}"
    return f"the {CONFIDENCE:.0%} interval lies {where}; contradicted where it lies outside"


def difference_text(first: Sample, second: Sample, interval: Interval, metric: Metric) -> str:
    """The difference of means with its interval."""
    form = f"+.{metric.decimals}f"
    shown = format(round(first.mean - second.mean, metric.decimals) or 0.0, form)  # never -0.00
    return f"{first.name} minus {second.name}: {shown}{interval_text(interval, form)}"


def interval_text(interval: Interval, form: str) -> str:
    """The interval in brackets; nothing if there is none."""
    return f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""
