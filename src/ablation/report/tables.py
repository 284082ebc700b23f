"""The report's tables as pandas frames: one row a cell, and one row a change for the ablations.

Notable: `cell_row` holds numbers (for table.csv); the frames hold text, the same for the terminal, HTML,
Markdown and LaTeX. A network that has no records, while its neighbours have, gets a row too.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ablation.report import paper
from ablation.report.claims import Finding
from ablation.report.evidence import missing
from ablation.report.statistics import Interval, Values, difference_interval, mean_interval
from ablation.report.studies import Cell, Setting, Study, differences, network_name

NONE = "–"
ERRORS = {"train": "metrics.train_error", "running": "metrics.running_train_error", "test": "metrics.test_error"}
AXES = {
    name.capitalize(): f"{name}." for name in ("shortcut", "optimizer", "augmentation", "schedule", "model", "data")
}
AXES["Hardware and precision"] = "environment."
"""What an ablation changes, as the prefix of its keys; everything else is held still."""
HELD_STILL = ("model.depth", "model.residual", "data.name")
"""Keys that no ablation changes: the main table compares networks, and studies of different data are never mixed."""
BASELINES = {"shortcut.name": "A", "optimizer.name": "sgd", "augmentation.name": "crop_flip", "schedule.name": "paper"}
"""The paper's choice is the baseline where it was run."""


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
    """Mean, standard deviation, interval of the mean, best and median; nan where there are too few values."""
    if not len(values):
        return dict.fromkeys(("mean", "std", "low", "high", "best", "median"), np.nan)
    low, high = mean_interval(values) or (np.nan, np.nan)
    std = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    center = {"mean": float(values.mean()), "std": std, "low": low, "high": high}
    return center | {"best": float(values.min()), "median": float(np.median(values))}


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
    for title, name in (("Train error %", "train"), ("running", "running"), ("Test error %", "test")):
        row[title] = spread(numbers[f"{name}_error_mean"], numbers[f"{name}_error_std"])
    row["95% interval"] = interval((numbers["test_error_low"], numbers["test_error_high"]))
    row |= {key: number(numbers[f"test_error_{key}"], ".2f") for key in ("best", "median")}
    if setting.selected_on_test:
        row["selected on test"] = number(numbers["best_test_error_selected_on_test_mean"], ".2f")
    if setting.from_paper:
        row["Paper"] = str(quoted_for(cell, setting) or NONE)
        row["Difference"] = number(numbers.get("difference_to_paper", np.nan), "+.2f")
    speed = number(numbers["images_per_second"], ",.0f")
    return row | {"Time": duration(numbers["wall_seconds"]), "Images/s": speed}


def ablation_tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each axis along which some network was run more than once: baseline plus one change."""
    cells = [cell for setting in study.settings for cell in setting.cells]
    for axis, prefix in AXES.items():
        groups: dict[str, list[Cell]] = {}
        for cell in cells:
            others = {k: v for k, v in cell.keys.items() if k in HELD_STILL or not k.startswith(prefix)}
            if cell.residual or axis != "Shortcut":  # a plain net has no shortcut to change
                groups.setdefault(repr(sorted(others.items())), []).append(cell)
        if rows := [row for group in groups.values() if len(group) > 1 for row in ablation_rows(group, prefix)]:
            yield axis, pd.DataFrame(rows)


def ablation_rows(group: list[Cell], prefix: str) -> Iterator[dict[str, str]]:
    baseline = max(group, key=lambda cell: (sum(cell.keys.get(k) == v for k, v in BASELINES.items()), len(cell.runs)))
    network = network_name(baseline.depth, baseline.residual)
    for cell in [baseline, *(cell for cell in group if cell is not baseline)]:
        row = {"Network": network, "Change": change(baseline, cell, prefix), "n": str(len(cell.runs))}
        for title, key in (("Test", "test"), ("Train", "train")):
            values, reference = cell.values(ERRORS[key]), baseline.values(ERRORS[key])
            found = summary(values)
            difference = found["mean"] - average(reference) if cell is not baseline else np.nan
            between = difference_interval(values, reference) if cell is not baseline else None
            row[f"{title} error %"] = spread(found["mean"], found["std"])
            row[f"{title} difference"] = number(difference, "+.2f")
            row[f"95% interval ({key})"] = interval(between, "+")
        yield row | {"Time": duration(average(cell.values("timing.wall_seconds")))}


def change(baseline: Cell, cell: Cell, prefix: str) -> str:
    """What a cell changes: the name of the group's member where it differs, else key=value."""
    name = f"{prefix}name"
    named = name in cell.keys and name not in HELD_STILL
    if cell is baseline:
        return f"{cell.keys[name]} (baseline)" if named else "baseline"
    if named and cell.keys[name] != baseline.keys.get(name):
        return str(cell.keys[name])
    apart = differences(baseline.keys, cell.keys)
    return ", ".join(text.removeprefix(prefix) for text in apart if text.startswith(prefix))


def claims_table(findings: list[Finding]) -> pd.DataFrame:
    rows = []
    for finding in findings:
        claim, test = finding.claim, finding.claim.test
        tested = f"{claim.comparison}: {test.rule}"
        both = finding.verdict, finding.uncorrected
        rows.append((*both, claim.statement, finding.evidence, tested, test.threshold, claim.source))
    return pd.DataFrame(rows, columns=["Verdict", "Uncorrected", "Claim", "Evidence", "Test", "Threshold", "Source"])


def number(value: float, form: str) -> str:
    return format(round(value, 2) or 0.0, form) if np.isfinite(value) else NONE  # never -0.00


def spread(mean: float, std: float) -> str:
    return number(mean, ".2f") + (f" ± {std:.2f}" if np.isfinite(std) else "")


def interval(bounds: Interval, sign: str = "") -> str:
    return f"{bounds[0]:{sign}.2f} to {bounds[1]:{sign}.2f}" if bounds and np.isfinite(bounds).all() else NONE


def duration(seconds: float) -> str:
    """Such as 42 s, 3 min 20 s or 1 h 05 min."""
    if not np.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
