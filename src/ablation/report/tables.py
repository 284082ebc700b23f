"""The report's tables as pandas frames: one row a cell, and one row a change for the ablations.

Notable: `cell_frame` holds numbers (it becomes table.csv); the others hold text ready to be shown, the same in the
terminal, HTML, Markdown and LaTeX. A network that its neighbours lead one to expect and that has no records is a row
of its own.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ablation.report import paper
from ablation.report.claims import Finding
from ablation.report.statistics import Values, difference_interval, mean_interval
from ablation.report.studies import Cell, Setting, Study, differences

NONE = "–"
ERRORS = {"train": "metrics.train_error", "running": "metrics.running_train_error", "test": "metrics.test_error"}
AXES: dict[str, tuple[str, ...]] = {
    "Shortcut": ("shortcut.",),
    "Optimizer": ("optimizer.",),
    "Augmentation": ("augmentation.",),
    "Schedule": ("schedule.",),
    "Model": ("model.",),
    "Data": ("data.",),
    "Hardware and precision": ("environment.",),
}
"""What an ablation changes, everything else held still; `model.` less depth and residual, which the main table
compares.
"""
BASELINES = {"shortcut.name": "A", "optimizer.name": "sgd", "augmentation.name": "crop_flip", "schedule.name": "paper"}
"""The paper's choice is the baseline where it was run."""


def cell_frame(studies: list[Study]) -> pd.DataFrame:
    """Every cell with its numbers: the content of table.csv."""
    rows = [
        {"study": study.name, "setting": setting.title} | cell_row(cell, setting)
        for study in studies
        for setting in study.settings
        for cell in setting.cells
    ]
    return pd.DataFrame(rows)


def cell_row(cell: Cell, setting: Setting) -> dict[str, Any]:
    """A cell's numbers."""
    row: dict[str, Any] = {
        "network": cell.label,
        "depth": cell.depth,
        "residual": cell.residual,
        "shortcut": cell.shortcut,
        "parameters": average(cell.values("parameters")),
        "n": len(cell.runs),
        "seeds": " ".join(map(str, cell.seeds)),
    }
    for name, column in ERRORS.items():
        row |= {f"{name}_error_{key}": value for key, value in summary(cell.values(column)).items()}
    row["best_test_error_selected_on_test_mean"] = average(cell.values("metrics.best_test_error"))
    quoted = quoted_for(cell, setting)
    row |= {"paper_test_error": quoted.value, "paper_source": quoted.source} if quoted else {}
    if quoted:
        row["difference_to_paper"] = row["test_error_mean"] - quoted.value
    row["wall_seconds"] = average(cell.values("timing.wall_seconds"))
    row["images_per_second"] = average(cell.values("timing.images_per_second"))
    for key in ("device_name", "precision", "torch", "git_commit"):
        column = f"environment.{key}"
        row[key] = " ".join(sorted({str(v) for v in cell.runs[column] if v is not None})) if column in cell.runs else ""
    return row


def summary(values: Values) -> dict[str, float]:
    """Mean, standard deviation, interval of the mean, best and median; nan where there are too few values."""
    if not len(values):
        return dict.fromkeys(("mean", "std", "low", "high", "best", "median"), np.nan)
    low, high = mean_interval(values) or (np.nan, np.nan)
    std = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    center = {"mean": float(values.mean()), "std": std, "low": low, "high": high}
    return center | {"best": float(values.min()), "median": float(np.median(values))}


def average(values: Values) -> float:
    """The mean; nan without values."""
    return float(values.mean()) if len(values) else np.nan


def quoted_for(cell: Cell, setting: Setting) -> paper.Quoted | None:
    """The paper's test error of this very network, if the recipe is the paper's."""
    if not setting.from_paper or not cell.expected_schedule or (cell.residual and cell.shortcut != "A"):
        return None
    return (paper.RESIDUAL_TEST_ERROR if cell.residual else paper.PLAIN_TEST_ERROR).get(cell.depth)


def main_table(setting: Setting) -> pd.DataFrame:
    """The setting's networks, plain before residual and by depth, those without records included."""
    rows = [display_row(cell, setting) for cell in setting.cells] + missing_rows(setting)
    frame = pd.DataFrame([row for _, row in sorted(rows, key=lambda pair: pair[0])])
    # A column without a single entry (the paper's in a setting that is not the paper's) says nothing.
    return frame.loc[:, [column for column in frame if (frame[column] != "").any()]]


def display_row(cell: Cell, setting: Setting) -> tuple[tuple[bool, int, str], dict[str, str]]:
    """A cell as text, with its place in the table."""
    numbers = cell_row(cell, setting)
    quoted = quoted_for(cell, setting)
    row = {
        "Network": cell.label,
        "Parameters": number(numbers["parameters"], ",.0f"),
        "n": str(numbers["n"]),
        "Train error %": spread(numbers["train_error_mean"], numbers["train_error_std"]),
        "running": spread(numbers["running_error_mean"], numbers["running_error_std"]),
        "Test error %": spread(numbers["test_error_mean"], numbers["test_error_std"]),
        "95% interval": interval((numbers["test_error_low"], numbers["test_error_high"])),
        "best": number(numbers["test_error_best"], ".2f"),
        "median": number(numbers["test_error_median"], ".2f"),
        "selected on test": "",
        "Paper": str(quoted) if quoted else (NONE if setting.from_paper else ""),
        "Difference": number(numbers["difference_to_paper"], "+.2f")
        if quoted
        else (NONE if setting.from_paper else ""),
        "Time": duration(numbers["wall_seconds"]),
        "Images/s": number(numbers["images_per_second"], ",.0f"),
    }
    if setting.selected_on_test:
        row["selected on test"] = number(numbers["best_test_error_selected_on_test_mean"], ".2f")
    return (cell.residual, cell.depth, cell.label), row


def missing_rows(setting: Setting) -> list[tuple[tuple[bool, int, str], dict[str, str]]]:
    """Rows for the depths and kinds that others of the setting have and these lack."""
    kinds = {cell.residual for cell in setting.cells}
    depths = {cell.depth for cell in setting.cells}
    present = {(cell.residual, cell.depth) for cell in setting.cells}
    rows = []
    for residual, depth in sorted(set(product(kinds, depths)) - present):
        label = f"{'ResNet' if residual else 'plain'}-{depth}"
        row = {"Network": label, "Parameters": NONE, "n": "0", "Train error %": "missing", "running": NONE}
        row |= {"Test error %": "missing", "95% interval": NONE, "best": NONE, "median": NONE}
        row["selected on test"] = NONE if setting.selected_on_test else ""
        row |= dict.fromkeys(("Paper", "Difference"), NONE if setting.from_paper else "")
        rows.append(((residual, depth, label), row | {"Time": NONE, "Images/s": NONE}))
    return rows


def ablation_tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each axis along which some network was run more than once: baseline plus one change."""
    every = [cell for setting in study.settings for cell in setting.cells]
    for axis, prefixes in AXES.items():
        groups: dict[str, list[Cell]] = {}
        for cell in every:
            # The rest of the keys: what is held still. A plain net has no shortcut to change.
            if cell.residual or axis != "Shortcut":
                groups.setdefault(repr(sorted(held_still(cell, prefixes).items())), []).append(cell)
        rows = [row for group in groups.values() if len(group) > 1 for row in ablation_rows(group, prefixes)]
        if rows:
            yield axis, pd.DataFrame(rows)


def held_still(cell: Cell, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The keys that an ablation of `prefixes` leaves alone."""
    keep = ("model.depth", "model.residual", "data.name")
    return {key: value for key, value in cell.keys.items() if key in keep or not key.startswith(prefixes)}


def ablation_rows(group: list[Cell], prefixes: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The baseline, then every change with its difference from it."""
    baseline = max(group, key=lambda cell: (sum(cell.keys.get(k) == v for k, v in BASELINES.items()), len(cell.runs)))
    network = f"{'ResNet' if baseline.residual else 'plain'}-{baseline.depth}"
    for cell in [baseline, *(cell for cell in group if cell is not baseline)]:
        row = {"Network": network, "Change": change(baseline, cell, prefixes), "n": str(len(cell.runs))}
        for title, key in (("Test", "test"), ("Train", "train")):
            values, reference = cell.values(ERRORS[key]), baseline.values(ERRORS[key])
            found = summary(values)
            row[f"{title} error %"] = spread(found["mean"], found["std"])
            comparable = cell is not baseline and len(values) and len(reference)
            row[f"{title} difference"] = number(values.mean() - reference.mean(), "+.2f") if comparable else NONE
            between = difference_interval(values, reference) if comparable else None
            row[f"95% interval ({key})"] = interval(between, "+") if between else NONE
        yield row | {"Time": duration(average(cell.values("timing.wall_seconds")))}


def change(baseline: Cell, cell: Cell, prefixes: tuple[str, ...]) -> str:
    """What a cell changes: a member's name where the name differs, else the keys."""
    name = f"{prefixes[0]}name"
    if cell is baseline:
        return f"{cell.keys[name]} (baseline)" if name in cell.keys and len(prefixes[0]) > 5 else "baseline"
    apart = [text for text in differences(baseline.keys, cell.keys) if text.startswith(prefixes)]
    if len(prefixes[0]) > 5 and cell.keys.get(name) != baseline.keys.get(name):
        return str(cell.keys.get(name))
    return ", ".join(text.split(".", 1)[1] for text in apart)


def claims_table(found: list[Finding]) -> pd.DataFrame:
    """A row a claim; the terminal shows the first three columns."""
    return pd.DataFrame(
        [
            {
                "Verdict": finding.verdict,
                "Claim": finding.claim.statement,
                "Evidence": finding.evidence,
                "Test": f"{finding.claim.comparison}: {finding.claim.test.rule}",
                "Threshold": finding.claim.test.threshold,
                "Source": finding.claim.source,
            }
            for finding in found
        ]
    )


def number(value: float | None, form: str) -> str:
    """Formatted; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return NONE
    return format(round(value, 2) or 0.0, form)  # never -0.00


def spread(mean: float, std: float) -> str:
    """Mean ± standard deviation."""
    return number(mean, ".2f") + (f" ± {std:.2f}" if np.isfinite(std) else "")


def interval(bounds: tuple[float, float], sign: str = "") -> str:
    """Both ends; a dash where there is none."""
    return f"{bounds[0]:{sign}.2f} to {bounds[1]:{sign}.2f}" if np.isfinite(bounds).all() else NONE


def duration(seconds: float) -> str:
    """Such as 42 s, 3 min 20 s or 1 h 05 min."""
    if not np.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
