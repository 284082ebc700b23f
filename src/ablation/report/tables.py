"""The report's tables as pandas frames of text, the same for the terminal, the page, Markdown and LaTeX.

Notable: `cell_row` and `difference` hold numbers, for table.csv. A network that has no records, while its neighbours
have, gets a row too.
"""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ablation.report import paper
from ablation.report.comparisons import Comparison
from ablation.report.evidence import missing
from ablation.report.findings import Finding
from ablation.report.statistics import (
    Values,
    difference_interval,
    finite,
    mean_interval,
    probability_of_improvement,
    welch_p,
)
from ablation.report.studies import Cell, Setting, network_name

NONE = "–"
PICKING = (
    "a value that is picked by its test error is selected on the test set; data.validation=N holds images out for it."
)
ERRORS = {"val": "val_error", "train": "train_error", "running": "running_train_error", "test": "test_error"}
ERRORS = {name: f"metrics.{key}" for name, key in ERRORS.items()}
TITLES = {"val": "Val error %", "train": "Train error %", "running": "running", "test": "Test error %"}


def cell_row(cell: Cell, setting: Setting) -> dict[str, Any]:
    """A cell's numbers: errors in percent, time in seconds; nan where there is none."""
    row: dict[str, Any] = {"network": cell.label, "depth": cell.depth, "residual": cell.residual}
    row |= {"shortcut": cell.shortcut, "parameters": average(cell.values("parameters"))}
    row |= {"n": len(cell.runs), "seeds": " ".join(map(str, cell.seeds))}
    for name, column in ERRORS.items():
        row |= {f"{name}_error_{key}": value for key, value in summary(cell.values(column)).items()}
    row["best_test_error_selected_on_test_mean"] = average(cell.values("metrics.best_test_error"))
    if quoted := quoted_for(cell, setting):
        row |= {"paper_test_error": quoted.value, "paper_source": quoted.source}
        row["difference_to_paper"] = row["test_error_mean"] - quoted.value
    row |= {key: average(cell.values(f"timing.{key}")) for key in ("wall_seconds", "images_per_second")}
    environment = ("device_name", "precision", "torch", "git_commit")
    return row | {key: " ".join(recorded(cell, f"environment.{key}")) for key in environment}


def recorded(cell: Cell, column: str) -> list[str]:
    return sorted({str(value) for value in cell.runs.get(column, []) if not missing(value)})


def summary(values: Values) -> dict[str, float]:
    """Mean, standard deviation and interval of the mean; nan where there are too few values."""
    low, high = mean_interval(values) or (np.nan, np.nan)
    std = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    return {"mean": average(values), "std": std, "low": low, "high": high}


def average(values: Values) -> float:
    return float(values.mean()) if len(values) else np.nan


def quoted_for(cell: Cell, setting: Setting) -> paper.Quoted | None:
    """The paper's test error of this very network, if the recipe is the paper's."""
    if not setting.from_paper or not cell.expected_schedule or (cell.residual and cell.shortcut != "A"):
        return None
    return (paper.RESIDUAL_TEST_ERROR if cell.residual else paper.PLAIN_TEST_ERROR).get(cell.depth)


def main_table(setting: Setting) -> pd.DataFrame:
    """The setting's networks, plain before residual and by depth, those without records included."""
    rows = {(cell.residual, cell.depth, cell.label): display_row(cell, setting) for cell in setting.cells}
    columns = list(next(iter(rows.values())))
    present = {key[:2] for key in rows}
    for residual, depth in set(product(*map(set, zip(*present, strict=True)))) - present:
        name = network_name(depth, residual)
        row = {"Network": name, "n": "0", "Train error %": "missing", "Test error %": "missing"}
        rows[residual, depth, name] = row
    return pd.DataFrame([rows[key] for key in sorted(rows)], columns=columns).fillna(NONE)


def display_row(cell: Cell, setting: Setting) -> dict[str, str]:
    """A cell as text; the paper's numbers only if the recipe is the paper's."""
    numbers = cell_row(cell, setting)
    row = {"Network": cell.label, "Parameters": number(numbers["parameters"], ",.0f"), "n": str(numbers["n"])}
    for name, title in TITLES.items():
        if name != "val" or setting.keys.get("data.validation"):
            std = numbers[f"{name}_error_std"]
            row[title] = number(numbers[f"{name}_error_mean"]) + (f" ± {std:.2f}" if np.isfinite(std) else "")
    low, high = numbers["test_error_low"], numbers["test_error_high"]
    row["95% interval"] = f"{low:.2f} to {high:.2f}" if np.isfinite(low) else NONE
    if setting.selected_on_test:
        row["selected on test"] = number(numbers["best_test_error_selected_on_test_mean"])
    if setting.from_paper:
        row["Paper"] = str(quoted_for(cell, setting) or NONE)
        row["Difference"] = number(numbers.get("difference_to_paper", np.nan), "+.2f")
    speed = number(numbers["images_per_second"], ",.0f")
    return row | {"Time": duration(numbers["wall_seconds"]), "Images/s": speed}


def comparison_table(comparison: Comparison) -> pd.DataFrame:
    """A row a cell: what differs, its numbers, and its difference to the baseline."""
    title = comparison.keys[0] if len(comparison.keys) == 1 else "compared"
    rows = []
    for cell in comparison.cells:
        row = {title: comparison.label(cell)} | display_row(cell, comparison.setting(cell))
        numbers = difference(comparison, cell)
        low, high, apart = numbers["difference_low"], numbers["difference_high"], number(numbers["difference"], "+.2f")
        bounds = f" [{low:+.2f}, {high:+.2f}]" if np.isfinite(low) else ""
        row["Difference to baseline"] = "baseline" if comparison.is_baseline(cell) else apart + bounds
        row |= {"p": shortened(numbers["p"]), "P(better)": shortened(numbers["probability_of_improvement"])}
        rows.append(row | {"failed": str(cell.failed)})
    frame = pd.DataFrame(rows).fillna(NONE)
    columns = [title, "n", "failed", *TITLES.values(), "95% interval", "Paper"]
    columns += ["Difference to baseline", "p", "P(better)", "Time"]
    return frame[[name for name in columns if name in frame and (name != "failed" or (frame[name] != "0").any())]]


def difference(comparison: Comparison, cell: Cell) -> dict[str, float]:
    """Of the test error to the baseline's: mean, interval, two-sided p, and how often a run is better (ties half)."""
    keys = ("difference", "difference_low", "difference_high", "p", "probability_of_improvement")
    reference = comparison.reference(cell)
    own, other = (finite([]) if one is None else one.values(ERRORS["test"]) for one in (cell, reference))
    if not len(own) or not len(other):
        return dict.fromkeys(keys, np.nan)
    low, high = difference_interval(own, other) or (np.nan, np.nan)
    p = min(1.0, 2 * min(welch_p(own, other), welch_p(other, own))) if np.isfinite(low) else np.nan
    numbers = (own.mean() - other.mean(), low, high, p, probability_of_improvement(own, other))
    return dict(zip(keys, numbers, strict=True))


def verdict_on(comparison: Comparison) -> str:
    """Which value wins on validation, with its test error; or why none is to be picked."""
    winner = comparison.winner
    if winner is None:
        return f"No validation set: {PICKING}"
    val, test = (number(average(winner.values(ERRORS[name]))) for name in ("val", "test"))
    chosen = f"{comparison.label(winner)}, {val} % (n = {len(winner.runs)})"
    return f"Least validation error: {chosen}; its test error is {test} %."


def claims_table(findings: list[Finding]) -> pd.DataFrame:
    rows = []
    for finding in findings:
        claim = finding.claim
        alone = "" if finding.uncorrected == finding.verdict else f" (uncorrected: {finding.uncorrected})"
        test = f"{claim.comparison}: {claim.test.rule}; reproduced if {claim.test.threshold}"
        row = {"Verdict": finding.verdict + alone, "Claim": claim.statement, "Evidence": finding.headline}
        rows.append(row | {"Networks": finding.details, "Test": test, "Source": claim.source})
    return pd.DataFrame(rows)


def number(value: float, form: str = ".2f") -> str:
    return format(round(value, 2) or 0.0, form) if np.isfinite(value) else NONE  # never -0.00


def shortened(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else NONE


def duration(seconds: float) -> str:
    """Such as 42 s, 3 min 20 s or 1 h 05 min."""
    if not np.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
