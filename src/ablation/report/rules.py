"""What is measured of a cell, and the rules that decide a claim from it.

A difference in a stated direction takes an exact one-sided permutation test and a bootstrap interval that excludes
zero. A value or difference within bounds takes an interval inside them; one that lies outside contradicts. Notable:
the rules see samples only, neither records nor claims, and their constants are fixed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

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
Judgement = tuple[Verdict, str, dict[str, Any]]
"""Verdict, the numbers that decide in words, and as plain values."""

ALPHA = 0.05  # 3 against 3 seeds, fully apart, just reach it (1/20); 5 against 5 reach 1/252
MIN_SEEDS = 3  # with fewer runs on a side the numbers are shown, and the claim is inconclusive


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


@dataclass(frozen=True)
class Higher:
    """The first mean lies above the second."""

    rule = "one-sided permutation test of the difference of means, and its bootstrap interval"
    threshold = f"p <= {ALPHA:g} and the {CONFIDENCE:.0%} interval excludes zero"

    def judge(self, samples: Sequence[Sample], metric: Metric) -> Judgement:
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
        return verdict, f"{difference_text(first, second, interval, metric)}, p = {p:.2g}", numbers


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

    def judge(self, samples: Sequence[Sample], metric: Metric) -> Judgement:
        (only,) = samples
        interval = mean_interval(only.values)
        numbers: dict[str, Any] = {"mean": only.mean, "interval": interval}
        text = f"mean {only.mean:.{metric.decimals}f}{metric.unit}{interval_text(interval, f'.{metric.decimals}f')}"
        if self.quoted:
            numbers |= {"quoted": self.quoted.value, "difference": only.mean - self.quoted.value}
            text += f"; quoted {self.quoted}, difference {only.mean - self.quoted.value:+.2f}"
        return self.verdict(interval), text, numbers


class DifferencesWithin(Within):
    """The difference of every two means, the first less the second, lies within the bounds."""

    rule = "bootstrap interval of each difference of means"

    def judge(self, samples: Sequence[Sample], metric: Metric) -> Judgement:
        pairs: list[dict[str, Any]] = []
        texts = []
        for first, second in combinations(samples, 2):
            interval = difference_interval(first.values, second.values)
            names = [first.name, second.name]
            pairs.append({"pair": names, "difference": first.mean - second.mean, "interval": interval})
            texts.append(difference_text(first, second, interval, metric))
        verdicts = [self.verdict(pair["interval"]) for pair in pairs]
        worst = next(verdict for verdict in ("contradicted", "inconclusive", "reproduced") if verdict in verdicts)
        numbers = (pairs[0] if len(pairs) == 1 else {}) | {"pairs": pairs, "margin": self.high}
        return worst, "; ".join(texts), numbers


Rule = Higher | MeanWithin | DifferencesWithin
"""`rule` and `threshold` say in words what is tested and what decides; `judge` takes one sample for each network."""


def difference_text(first: Sample, second: Sample, interval: Interval, metric: Metric) -> str:
    """The difference of means with its interval."""
    form = f"+.{metric.decimals}f"
    shown = format(round(first.mean - second.mean, metric.decimals) or 0.0, form)  # never -0.00
    return f"{first.name} minus {second.name}: {shown}{interval_text(interval, form)}"


def interval_text(interval: Interval, form: str) -> str:
    """The interval in brackets; nothing if there is none."""
    return f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""
