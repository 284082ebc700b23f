"""Single runs: one row each, the best of them, and two side by side."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
    """A table of the runs of each study; with `best`, of so many with the least validation error, else test error."""
    every = every_run(content)
    for section in content.sections:
        runs = every[every["study"] == section.study.name]
        yield Text("study", section.study.title)
        if best is not None:
            on = "test" if runs[ERRORS["val"]].map(missing).any() else "val"
            runs = runs.sort_values(ERRORS[on], kind="stable").head(best)
            note = ", selected on the test set: not every run has a validation error" if on == "test" else ""
            yield Text("label" if note else "plain", f"The best {len(runs)} by {on} error{note}.")
        columns = {"run": runs["folder"].map(lambda folder: Path(folder).name), "Network": runs["network"]}
        columns |= {key: runs[key] for key in varied([defining(cell) for cell in section.study.cells])}
        columns |= {"seed": runs["seed"]} | {title: runs[ERRORS[name]].map(error) for name, title in TITLES.items()}
        columns["Time"] = runs["timing.wall_seconds"].map(lambda seconds: duration(float(seconds or np.nan)))
        frame = pd.DataFrame(columns).map(lambda value: NONE if missing(value) else shown(value))
        yield Table("runs", f"Runs of {section.study.title}", frame.loc[:, (frame != NONE).any()])


def pair_blocks(folders: list[Path]) -> Iterator[Block]:
    """Two finished runs side by side: what differs, their metrics, their curves. Raises ValueError as `record.read`."""
    names = dict(zip("AB", folders, strict=True))
    both = [dict(leaves(record.read(folder / "record.json"))) for folder in folders]
    yield Text("study", "Two runs")
    rows = [(key, both[0].get(key), both[1].get(key)) for key in sorted(both[0] | both[1]) if key not in NO_MATTER]
    apart = [row for row in rows if row[0].startswith(DEFINING) and repr(row[1]) != repr(row[2])]
    measured = [row for row in rows if row[0].startswith(MEASURED) and row[1:] != (None, None)]
    for title, found in (("What differs", apart), ("Metrics", measured)):
        texts = [[re.sub("^(config|metrics|timing)[.]", "", key), shown(a), shown(b)] for key, a, b in found]
        yield Text("setting", title)
        yield Table("runs", title, pd.DataFrame(texts or [["nothing", "", ""]], columns=[title, *names]))
    curves = {name: read_history(folder)[0].set_index("step") for name, folder in names.items()}
    steps = sorted(set(curves["A"].index) | set(curves["B"].index))
    steps = steps[:: -max(1, -(-len(steps) // ROWS))][::-1]  # at most ROWS, the last one among them
    frame = pd.DataFrame({"step": list(map(shown, steps))})
    for (column, title), name in ((pair, name) for pair in CURVES.items() for name in names):
        frame[f"{title} error % {name}"] = list(map(error, curves[name][column].reindex(steps)))
    yield Text("setting", "Curves")
    yield Table("runs", "Curves", frame)


def error(value: Any) -> str:
    return number(np.nan if missing(value) else value, ".2f")
