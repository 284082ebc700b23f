"""Single runs: one row each, the best of them, and two side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablation.errors import UserError
from ablation.report.comparisons import defining, varied
from ablation.report.content import Block, Content, Table, Text
from ablation.report.evidence import missing, read_history, short
from ablation.report.filters import shown
from ablation.report.tables import ERRORS, NONE, TITLES, duration, number
from ablation.runs.record import record
from ablation.runs.record.record import leaves

DEFINING = ("config.", "environment.", "data.")
NO_MATTER = ("config.trainer.label", "config.tracker.group", "config.results")
MEASURED = ("parameters", "step", "metrics.", "timing.")
NUMBERS = (*MEASURED, "environment.")
CURVES = {"running_train_error": "running train", "test_error": "test"}
ROWS = 12
"""Steps at which the curves of two runs are printed."""


def every_run(content: Content) -> pd.DataFrame:
    """A row a run with what defines it, its numbers and its environment."""
    rows = []
    for study, cell in ((section.study, cell) for section in content.sections for cell in section.study.cells):
        for run in cell.runs.to_dict("records"):
            row = {"study": study.name, "network": cell.label, "seed": run["config.seed"]} | cell.keys
            numbers = {key: value for key, value in run.items() if str(key).startswith(NUMBERS)}
            rows.append(row | numbers | {"folder": short(run["folder"])})
    return pd.DataFrame(rows)


def runs_blocks(content: Content, best: int | None = None) -> Iterator[Block]:
    """A table of each study's `best` runs, or all: by validation error if every run has one, else by test error."""
    every = every_run(content)
    for section in content.sections:
        runs = every[every["study"] == section.study.name]
        on = "test" if runs[ERRORS["val"]].map(missing).any() else "val"
        runs = runs.sort_values(ERRORS[on], kind="stable").head(best or len(runs))
        columns = {"run": runs["folder"].map(lambda folder: Path(folder).name), "Network": runs["network"]}
        columns |= {key: runs[key] for key in varied([defining(cell) for cell in section.study.cells])}
        columns |= {"seed": runs["seed"]} | {title: runs[ERRORS[name]].map(percent) for name, title in TITLES.items()}
        columns["Time"] = runs["timing.wall_seconds"].map(lambda seconds: duration(float(seconds or np.nan)))
        frame = pd.DataFrame(columns).map(lambda value: NONE if missing(value) else shown(value))
        yield Text("study", section.study.title)
        if on == "test":
            yield Text("label", "The first is selected on test: not every run has a validation error.")
        yield Table("runs", "Runs", frame.loc[:, (frame != NONE).any()])


def pair_blocks(folders: list[Path]) -> Iterator[Block]:
    """Two finished runs side by side: what differs, their metrics, their curves. Raises UserError."""
    runs = dict(zip("AB", folders, strict=True))
    try:
        found = {name: dict(leaves(record.read(folder / "record.json"))) for name, folder in runs.items()}
    except ValueError as error:
        raise UserError("path", " ".join(map(str, folders)), f"two finished runs are compared; {error}") from None
    yield Text("study", "Two runs")
    both = pd.DataFrame(found, dtype=object).drop(index=NO_MATTER, errors="ignore").sort_index()
    apart = both[[repr(a) != repr(b) and key.startswith(DEFINING) for key, a, b in both.itertuples()]]
    measured = both[both.index.str.startswith(MEASURED)].dropna(how="all")
    curves = {
        f"{title} error % {name}": read_history(folder)[0].set_index("step")[column]
        for column, title in CURVES.items()
        for name, folder in runs.items()
    }
    steps = pd.DataFrame(curves).rename_axis("step")
    steps = steps.iloc[:: -max(1, -(-len(steps) // ROWS))][::-1]  # at most ROWS, the last one among them
    tables = {"What differs": apart.map(shown), "Metrics": measured.map(shown), "Curves": steps.map(percent)}
    for title, frame in tables.items():
        names = frame.index.map(shown).str.replace("^(config|metrics|timing)[.]", "", regex=True)
        yield Text("setting", title)
        yield Table("runs", title, frame.set_axis(names).reset_index(names=str(frame.index.name or title)))


def percent(value: Any) -> str:
    return number(np.nan if missing(value) else value)
