"""Sorts runs into studies, settings and cells, so that only equals are averaged and only one thing at a time is
compared.

A *cell* holds the seeds of one network under one setting: equal in the whole config but the seed and what only steers
the execution (device, tracker, paths, progress), and in hardware, precision and data. A *setting* holds the cells
that differ in nothing but depth, residual or plain, and shortcut. A *study* is a folder of results/reference, or all
other runs on one data set. Notable: seeds of one cell that ran at different commits are averaged, and the mix is
noted; splitting by commit would leave no study that outlives a commit. Everything else that differs keeps its own
cell.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablation.report import paper
from ablation.report.statistics import Values

EXECUTION_ONLY = ("seed", "overwrite", "results", "data.root", "trainer.", "tracker.")
"""Config keys that do not define a result (a dot at the end: the whole group); precision is taken from the
environment.
"""
ALSO_DEFINING = ("environment.device_name", "environment.precision", "data.checksum")
PAPER_SCHEDULES = ("paper", "paper_warmup")
"""One setting: the paper trains its nets of 110 layers and more with a warm-up and the others without (Section 4.2)."""

Keys = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """The runs of one network in one setting; nothing else is ever averaged."""

    label: str
    depth: int
    residual: bool
    shortcut: str
    """Empty for a plain net."""
    standard: bool
    """The setting's main shortcut and the schedule that the depth asks for: the cell that a figure shows."""
    expected_schedule: bool
    keys: Keys
    runs: pd.DataFrame

    @property
    def seeds(self) -> list[int]:
        """In ascending order."""
        return sorted(int(seed) for seed in self.runs["config.seed"])

    def values(self, column: str) -> Values:
        """The finite numbers of a column, one a run."""
        if column not in self.runs:
            return np.array([])
        numbers = pd.to_numeric(self.runs[column], errors="coerce").to_numpy(dtype=float)
        return numbers[np.isfinite(numbers)]


@dataclass(frozen=True)
class Setting:
    """Cells that differ in network and shortcut only."""

    title: str
    keys: Keys
    cells: tuple[Cell, ...]
    deviations: tuple[str, ...]
    """Where the recipe is not the paper's; empty if it is."""
    notebook: bool
    """Whether the recipe is the notebook's."""

    @property
    def from_paper(self) -> bool:
        """Whether the recipe is the paper's."""
        return not self.deviations

    @property
    def selected_on_test(self) -> bool:
        """Whether the run's own result was chosen by its test error."""
        return self.keys.get("selection") == "best_test"

    def cell(self, depth: int, residual: bool, shortcut: str | None = None) -> Cell | None:
        """The cell of a network, of several (a variant of a shortcut) the one with the most runs; None if there is
        none.
        """
        fitting = [cell for cell in self.cells if (cell.depth, cell.residual) == (depth, residual)]
        if shortcut is None or not residual:
            fitting = [cell for cell in fitting if cell.standard]
        else:
            fitting = [cell for cell in fitting if cell.shortcut == shortcut and cell.expected_schedule]
        return max(fitting, key=lambda cell: len(cell.runs), default=None)


@dataclass(frozen=True)
class Study:
    """What is shown as one section."""

    name: str
    """Short, fit for a file's name."""
    title: str
    settings: tuple[Setting, ...]
    """The one with the most runs first."""
    notes: tuple[str, ...]
    """Mixes and gaps, a sentence each."""


def studies(runs: pd.DataFrame) -> list[Study]:
    """All studies, the committed ones first."""
    if runs.empty:
        return []
    runs = with_keys(runs)
    groups = [(str(name), str(data), group) for (name, data), group in runs.groupby(["study", "config.data.name"])]
    named = [name for name, _, _ in groups]
    built = []
    for name, data, group in groups:
        # A folder that mixes data sets still gets a section for each.
        label = (name if named.count(name) == 1 else f"{name}-{data}") if name else f"runs-{data}"
        title = f"Reference study {label}" if name else f"Your runs on {data}"
        found = settings(group)
        built.append(Study(label, title, found, tuple(notes(found))))
    return sorted(built, key=lambda study: (study.name.startswith("runs-"), study.name))


def with_keys(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with what defines their cell and setting (columns `cell_keys`, `cell`, `setting_keys`, `setting`)."""
    columns = [column for column in map(str, runs.columns) if column in ALSO_DEFINING or defining(column)]
    cells = [defining_keys(dict(zip(columns, row, strict=True))) for row in runs[columns].itertuples(index=False)]
    keys = [setting_keys(cell) for cell in cells]
    return runs.assign(
        cell_keys=pd.Series(cells, index=runs.index, dtype=object),
        cell=[json.dumps(cell, sort_keys=True) for cell in cells],
        setting_keys=pd.Series(keys, index=runs.index, dtype=object),
        setting=[json.dumps(key, sort_keys=True) for key in keys],
    )


def defining(column: str) -> bool:
    """Whether a column is a config key that defines a result."""
    key = column.removeprefix("config.")
    return column.startswith("config.") and not any(
        key == e or (e[-1] == "." and key.startswith(e)) for e in EXECUTION_ONLY
    )


def defining_keys(record: Mapping[str, Any]) -> Keys:
    """A record's keys that define its result; null and absent are one, and so are a plain net's shortcuts."""
    plain = record["config.model.residual"] is False
    return {
        key.removeprefix("config."): value
        for key, value in record.items()
        if not missing(value) and not (plain and key.startswith("config.shortcut."))
    }


def setting_keys(cell: Keys) -> Keys:
    """What all cells of a setting share."""
    keys = {
        k: v for k, v in cell.items() if k not in ("model.depth", "model.residual") and not k.startswith("shortcut.")
    }
    if keys["schedule.name"] in PAPER_SCHEDULES:
        keys = {k: v for k, v in keys.items() if not k.startswith("schedule.warmup_")} | {"schedule.name": "paper"}
    return keys


def missing(value: Any) -> bool:
    """Null, absent or not a number."""
    return value is None or (isinstance(value, float) and value != value)


def settings(runs: pd.DataFrame) -> tuple[Setting, ...]:
    """The settings of a study, the one with the most runs first."""
    groups = sorted((group for _, group in runs.groupby("setting")), key=len, reverse=True)
    found: list[Setting] = []
    for group in groups:
        keys = group["setting_keys"].iloc[0]
        twins = [s for s in found if s.title.split(" · only here: ")[0] == title_of(keys)]
        # Two settings with one title differ in some key that the title does not show: then it must.
        extra = f" · only here: {', '.join(differences(twins[0].keys, keys))}" if twins else ""
        deviations = tuple(deviations_from(paper.RECIPE, keys))
        notebook = not list(deviations_from(paper.NOTEBOOK_RECIPE, keys))
        found.append(Setting(title_of(keys) + extra, keys, tuple(cells(group)), deviations, notebook))
    return tuple(found)


def title_of(keys: Keys) -> str:
    """One line that tells settings apart in nearly all cases."""
    rate = f" lr {keys['optimizer.lr']:g}" if isinstance(keys.get("optimizer.lr"), int | float) else ""
    parts = [
        keys["data.name"],
        f"{keys['optimizer.name']}{rate}",
        f"{keys['schedule.name']} schedule, {keys['schedule.steps']:,} steps",
        keys["augmentation.name"],
    ]
    if "data.batch_size" in keys:
        parts.append(f"batch {keys['data.batch_size']}")
    parts += [str(keys[key]) for key in ("environment.precision", "environment.device_name") if key in keys]
    return " · ".join(parts)


def deviations_from(recipe: Mapping[str, tuple[Any, ...]], keys: Keys) -> Iterator[str]:
    """Each key in which a setting is not as the recipe says."""
    other = [key for key, allowed in recipe.items() if keys.get(key) not in allowed]
    for key in other:
        # Another member of a group has other keys: its name says enough, and its length.
        if key.endswith((".name", ".steps")) or f"{key.split('.')[0]}.name" not in other:
            yield f"{key}={keys.get(key, 'null')}"
    if recipe is paper.RECIPE and "early_stopping" in keys:
        yield f"early_stopping={keys['early_stopping']}"


def differences(first: Keys, second: Keys) -> list[str]:
    """The keys of `second` that are not as in `first`."""
    keys = [key for key in sorted(first | second) if first.get(key) != second.get(key)]
    return [f"{key}={second.get(key, 'null')}" for key in keys]


def cells(runs: pd.DataFrame) -> Iterable[Cell]:
    """The cells of one setting: plain before residual, then by depth, standard ones first."""
    main = main_shortcut(runs)
    built = []
    for _, group in runs.groupby("cell"):
        keys = group["cell_keys"].iloc[0]
        depth, residual = keys["model.depth"], keys["model.residual"]
        expected = schedule_fits(keys)
        usual = not residual or shortcut_of(keys) == main
        shortcut = str(keys.get("shortcut.name", "")) if residual else ""
        remarks = [] if usual else [shortcut_label(keys, main)]
        remarks += [] if expected else [f"{keys['schedule.name']} schedule"]
        label = f"{'ResNet' if residual else 'plain'}-{depth}" + (f" ({', '.join(remarks)})" if remarks else "")
        group = group.sort_values("config.seed")
        built.append(Cell(label, depth, residual, shortcut, usual and expected, expected, keys, group))
    return sorted(built, key=lambda cell: (cell.residual, cell.depth, not cell.standard, cell.label))


def schedule_fits(keys: Keys) -> bool:
    """Whether a net under the paper's schedule warms up if and only if it is as deep as the paper asks."""
    if keys["schedule.name"] not in PAPER_SCHEDULES:
        return True
    return ("schedule.warmup_lr" in keys) == (keys["model.depth"] >= paper.WARMUP_DEPTH)


def shortcut_of(keys: Keys) -> Keys:
    """The keys of the shortcut."""
    return {key: value for key, value in keys.items() if key.startswith("shortcut.")}


def main_shortcut(runs: pd.DataFrame) -> Keys:
    """The paper's A if there is one, as conf/shortcut/A.yaml has it; else the shortcut with the most runs."""
    found = [shortcut_of(keys) for keys in runs["cell_keys"] if keys["model.residual"]]
    order = [json.dumps(shortcut, sort_keys=True) for shortcut in found]

    def rank(i: int) -> tuple[bool, bool, int]:
        return (
            found[i].get("shortcut.name") == "A",
            found[i].get("shortcut.zeros", "end") == "end",
            order.count(order[i]),
        )

    best = max(range(len(found)), key=rank, default=None)
    return {} if best is None else found[best]


def shortcut_label(keys: Keys, main: Keys) -> str:
    """A shortcut's name, with what differs where the main one has the same name."""
    own = shortcut_of(keys)
    name = str(own.get("shortcut.name", "?"))
    if name != main.get("shortcut.name"):
        return name
    return f"{name}, {', '.join(text.removeprefix('shortcut.') for text in differences(main, own))}"


def notes(found: tuple[Setting, ...]) -> Iterator[str]:
    """What a reader must know before comparing: mixes within a cell, gaps, settings apart only in hardware or
    precision.
    """
    for setting in found:
        every_seed = sorted({seed for cell in setting.cells for seed in cell.seeds if len(cell.runs) > 1})
        gaps = []
        for cell in setting.cells:
            yield from mixes(cell)
            lacking = [str(seed) for seed in every_seed if seed not in cell.seeds]
            gaps += [f"{cell.label} lacks {', '.join(lacking)}"] if lacking else []
        if gaps:
            yield f"Seeds that others have: {'; '.join(gaps)} ({setting.title})."
    for place, setting in enumerate(found):
        for other in found[:place]:
            apart = differences(other.keys, setting.keys)
            if all(text.startswith(ALSO_DEFINING) for text in apart):
                yield (
                    f"{', '.join(c.label for c in setting.cells)} also ran with {', '.join(apart)}: "
                    "kept apart, never averaged with the others."
                )


def mixes(cell: Cell) -> Iterator[str]:
    """Differences between the seeds of a cell that did not split it."""
    for column, what in (
        ("environment.git_commit", "commits"),
        ("environment.torch", "versions of torch"),
        ("environment.compiled", "modes, fused and not"),
    ):
        if column in cell.runs:
            values = sorted({str(value)[:10] for value in cell.runs[column] if not missing(value)})
            if len(values) > 1:
                yield f"The seeds of {cell.label} mix {len(values)} {what}: {', '.join(values)}."
    if "environment.git_dirty" in cell.runs and any(value is True for value in cell.runs["environment.git_dirty"]):
        yield f"{cell.label} has runs of a changed working tree: their commit does not tell the whole code."
