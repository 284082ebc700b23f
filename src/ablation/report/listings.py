"""Single runs: one row each, the best of them, and two side by side."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablation.report.comparisons import defining, network, shown, varied
from ablation.report.content import Block, Content, Table, Text
from ablation.report.evidence import missing, read_history, short
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
            row = {
                "study": study.name,
                "network": cell.label,
                "seed": run["config.seed"],
                "folder": short(run["folder"]),
            }
            rows.append(row | cell.keys | {k: v for k, v in run.items() if str(k).startswith(NUMBERS)})
    return pd.DataFrame(rows)


def runs_blocks(content: Content, best: int | None = None) -> Iterator[Block]:
    """A table of the runs of each study; with `best`, of so many with the least validation error, else test error."""
    for section in content.sections:
        cells = section.study.cells
        keys, rows = varied([defining(cell) for cell in cells]), []
        for cell in cells:
            own = {key: shown(value) for key, value in defining(cell).items() if key in keys}
            for _, run in cell.runs.iterrows():
                row: dict[str, Any] = {"run": run["folder"].name, "Network": network(cell)} | own
                row |= {"seed": str(run["config.seed"])} | {
                    title: run.get(ERRORS[name]) for name, title in TITLES.items()
                }
                rows.append(row | {"Time": duration(float(run.get("timing.wall_seconds") or np.nan))})
        frame = pd.DataFrame(rows)
        validated = not frame["Val error %"].map(missing).any()
        yield Text("study", section.study.title)
        if best is not None:
            judge = "Val error %" if validated else "Test error %"
            frame = frame.sort_values(judge, kind="stable", na_position="last").head(best)
            note = "" if validated else " Selected on the test set: not every run has a validation error."
            yield Text(
                "plain" if validated else "label", f"The best {len(frame)} by {judge.removesuffix(' %').lower()}.{note}"
            )
        for title in TITLES.values():
            frame[title] = [number(float("nan" if missing(value) else value), ".2f") for value in frame[title]]
        frame = frame.drop(columns=[title for title in TITLES.values() if (frame[title] == NONE).all()])
        yield Table("runs", f"Runs of {section.study.title}", frame.fillna(NONE))


def pair_blocks(folders: list[Path]) -> Iterator[Block]:
    """Two finished runs side by side: what differs, their metrics, their curves. Raises ValueError as `record.read`."""
    names = dict(zip("AB", folders, strict=True))
    values = {name: dict(leaves(record.read(folder / "record.json"))) for name, folder in names.items()}
    yield Text("study", "Two runs")
    yield from (Text("item", f"{name}: {short(folder)}") for name, folder in names.items())
    rows = [(key, [one.get(key) for one in values.values()]) for key in sorted(values["A"] | values["B"])]
    apart = [
        row
        for row in rows
        if row[0].startswith(DEFINING) and row[0] not in NO_MATTER and repr(row[1][0]) != repr(row[1][1])
    ]
    measured = [row for row in rows if row[0].startswith(MEASURED) and row[1] != [None, None]]
    for title, found in (("What differs", apart), ("Metrics", measured)):
        yield Text("setting", title)
        texts = [[re.sub("^(config|metrics|timing)[.]", "", key), *map(text, pair)] for key, pair in found]
        yield Table("runs", title, pd.DataFrame(texts or [["nothing", "", ""]], columns=[title, *names]))
    curves = {name: read_history(folder)[0].set_index("step") for name, folder in names.items()}
    steps = sorted(set(curves["A"].index) | set(curves["B"].index))
    every = max(1, -(-len(steps) // ROWS))
    shown_steps = steps[::-1][::every][::-1]  # the last one is among them
    frame = pd.DataFrame({"step": [f"{step:g}" for step in shown_steps]})
    for (column, title), name in ((pair, name) for pair in CURVES.items() for name in names):
        errors = curves[name][column].reindex(shown_steps)
        frame[f"{title} error % {name}"] = [number(float(error), ".2f") for error in errors]
    yield Text("setting", "Curves")
    yield Table("runs", "Curves", frame)


def text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)
