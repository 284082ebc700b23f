"""The numbers of a run that claims are about, each with its name and unit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ablation.report.statistics import Values, finite
from ablation.report.studies import Cell


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


def gradient_ratio(cell: Cell) -> Values:
    """Gradient norm of the first third of the layers over the last third's; of start and end the smaller ratio."""
    ratios = []
    for layers in cell.runs["layers"]:
        third = max(1, len(layers) // 3)
        both = [[layer[f"gradient_norm_{when}"] for layer in layers] for when in ("start", "end")]
        usable = [norms for norms in both if None not in norms and sum(norms[-third:]) > 0]
        ratios.append(min((sum(norms[:third]) / sum(norms[-third:]) for norms in usable), default=np.nan))
    return finite(ratios)


RUNNING = Metric("running training error", lambda cell: cell.values("metrics.running_train_error"))
TRAIN = Metric("training error", lambda cell: cell.values("metrics.train_error"), beside=RUNNING)
TEST = Metric("test error", lambda cell: cell.values("metrics.test_error"))
BEST_TEST = Metric("test error selected on test", lambda cell: cell.values("metrics.best_test_error"))
RESPONSE = Metric("response std, mean over layers", response, unit="", decimals=3)
GRADIENT = Metric("gradient ratio, first to last third", gradient_ratio, unit="", decimals=3)
