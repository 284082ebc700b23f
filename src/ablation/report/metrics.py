"""The numbers of a run that claims are about, each with its name and unit."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from ablation.report.statistics import Values, finite
from ablation.report.studies import Cell

When = Literal["start", "end"]
Layers = list[dict[str, Any]]
"""What a run measured in its convolutions, in the network's order."""


@dataclass(frozen=True)
class Metric:
    """A number of a run, and how it is written."""

    name: str
    measure: str | Callable[[Layers], float]
    """The record's key, or what makes the number of its layers; nan if they do not allow one."""
    unit: str = " %"
    decimals: int = 2
    beside: "Metric | None" = None
    """Shown with it, never tested."""

    def of(self, cell: Cell) -> Values:
        """The finite numbers of a cell's runs."""
        if isinstance(self.measure, str):
            return cell.values(self.measure)
        return finite([self.measure(layers) for layers in cell.runs["layers"]])

    def text(self, values: Values) -> str:
        """Mean and standard deviation, such as 8.75 ± 0.13 %."""
        spread = f" ± {values.std(ddof=1):.{self.decimals}f}" if len(values) > 1 else ""
        return f"{values.mean():.{self.decimals}f}{spread}{self.unit}"


def response(layers: Layers) -> float:
    """Mean over the layers of the responses' standard deviation."""
    found = [layer["response_std"] for layer in layers if layer["response_std"] is not None]
    return float(np.mean(found)) if found else np.nan


def gradients(layers: Layers, when: When, stage: int | None = None) -> Values:
    """The gradient's norm layer by layer, of the whole network or one stage; [] unless all of them are positive."""
    prefix = f"layer{stage}." if stage else ""
    norms = [layer[f"gradient_norm_{when}"] for layer in layers if layer["name"].startswith(prefix)]
    return np.array(norms if all(norm and norm > 0 for norm in norms) else [], dtype=float)


def growth(layers: Layers, when: When, stage: int) -> float:
    """By what the gradient norm is multiplied from a layer of the stage to the one before it, least squares of its log.

    The stage's first layer is left out: from stage 2 on it has fewer input channels, and so a smaller gradient.
    """
    logs = np.log(gradients(layers, when, stage)[1:])
    return float(np.exp(-np.polyfit(np.arange(len(logs)), logs, 1)[0])) if len(logs) > 1 else np.nan


def ratio(layers: Layers, when: When) -> float:
    """log10 of the first third's gradient norm over the last third's."""
    norms = gradients(layers, when)
    third = len(norms) // 3
    return float(np.log10(norms[:third].sum() / norms[-third:].sum())) if third else np.nan


def evened(layers: Layers) -> float:
    """By how many powers of ten the ratio is smaller at the end than at the start."""
    return ratio(layers, "start") - ratio(layers, "end")


def sampling_std(cell: Cell) -> float:
    """Standard deviation in points of the test error that the test set's own sampling gives: sqrt(p (1 - p) / N).

    nan if no record has N.
    """
    sizes, errors = cell.values("data.test_size"), cell.values("metrics.test_error")
    share = errors.mean() / 100 if len(errors) else np.nan
    return float(100 * np.sqrt(share * (1 - share) / sizes.mean())) if len(sizes) else np.nan


RUNNING = Metric("running training error", "metrics.running_train_error")
TRAIN = Metric("training error", "metrics.train_error", beside=RUNNING)
TEST = Metric("test error", "metrics.test_error")
BEST_TEST = Metric("test error selected on test", "metrics.best_test_error")
RESPONSE = Metric("response std, mean over layers", response, unit="", decimals=3)
AT_START = "gradient growth a layer at the start, stage"
GROWTH = {n: Metric(f"{AT_START} {n}", partial(growth, when="start", stage=n), "", 3) for n in (1, 2, 3)}
"""By stage. A residual net grows in its first stage as well, where each block adds much to the little before it."""
RATIO: dict[When, Metric] = {
    when: Metric(f"log10 of the gradient ratio, first to last third, at the {when}", partial(ratio, when=when), "")
    for when in ("start", "end")
}
EVENED = Metric("log10 of the gradient ratio at the start over that at the end", evened, "")
