"""The numbers of a run that claims are about, each with its name and unit."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ablation.report.statistics import Values, finite
from ablation.report.studies import Cell

When = Literal["start", "end"]


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
    return finite([np.mean(found) for run in runs if (found := [value for value in run if value is not None])])


def gradients(cell: Cell, when: When, stage: int | None = None) -> list[Values]:
    """A run's gradient norms layer by layer, of the whole network or one stage; runs without positive ones left out."""
    prefix = f"layer{stage}." if stage else ""
    key = f"gradient_norm_{when}"
    runs = ([layer[key] for layer in run if layer["name"].startswith(prefix)] for run in cell.runs["layers"])
    return [
        np.array(norms, dtype=float) for norms in runs if len(norms) > 2 and all(norm and norm > 0 for norm in norms)
    ]


def growth(cell: Cell, when: When, stage: int) -> Values:
    """By what the gradient norm is multiplied from a layer of the stage to the one before it, least squares of its log.

    The stage's first layer is left out: from stage 2 on it has fewer input channels, and so a smaller gradient.
    """
    logs = [np.log(norms[1:]) for norms in gradients(cell, when, stage)]
    return finite([np.exp(-np.polyfit(np.arange(len(log)), log, 1)[0]) for log in logs if len(log) > 1])


def ratio(cell: Cell, when: When) -> Values:
    """log10 of the first third's gradient norm over the last third's."""
    runs = gradients(cell, when)
    return finite([np.log10(norms[: len(norms) // 3].sum() / norms[-(len(norms) // 3) :].sum()) for norms in runs])


def evened(cell: Cell) -> Values:
    """By how many powers of ten the ratio of a run is smaller at its end than at its start."""
    start, end = ratio(cell, "start"), ratio(cell, "end")
    return start - end if len(start) == len(end) else finite([])


def sampling_std(cell: Cell) -> float:
    """Standard deviation in points of the test error that the test set's own sampling gives: sqrt(p (1 - p) / N).

    nan if no record has N.
    """
    sizes, errors = cell.values("data.test_size"), cell.values("metrics.test_error")
    share = errors.mean() / 100 if len(errors) else np.nan
    return float(100 * np.sqrt(share * (1 - share) / sizes.mean())) if len(sizes) else np.nan


RUNNING = Metric("running training error", lambda cell: cell.values("metrics.running_train_error"))
TRAIN = Metric("training error", lambda cell: cell.values("metrics.train_error"), beside=RUNNING)
TEST = Metric("test error", lambda cell: cell.values("metrics.test_error"))
BEST_TEST = Metric("test error selected on test", lambda cell: cell.values("metrics.best_test_error"))
RESPONSE = Metric("response std, mean over layers", response, unit="", decimals=3)
GROWTH, GROWTH_2, GROWTH_3 = (
    Metric(f"gradient growth a layer at the start, stage {stage}", partial(growth, when="start", stage=stage), "", 3)
    for stage in (1, 2, 3)
)
"""A residual net grows in its first stage as well, where each block adds much to the little before it."""
RATIO: dict[When, Metric] = {
    when: Metric(f"log10 of the gradient ratio, first to last third, at the {when}", partial(ratio, when=when), "")
    for when in ("start", "end")
}
EVENED = Metric("log10 of the gradient ratio at the start over that at the end", evened, "")
