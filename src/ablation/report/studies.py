"""Sorts runs into studies, settings and cells, so that only seeds are averaged and only one change is compared.

A *cell* holds the seeds of one network: runs with the same `evidence.cell_keys`. A *setting* holds the cells that
differ in nothing but depth, residual or plain, and shortcut. A *study* is a folder of results/reference, or all other
runs on one data set. Notable: seeds of one cell that ran at different commits are averaged, with a note; if a commit
split them, no study would outlive one.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from ablation.report import paper
from ablation.report.evidence import missing
from ablation.report.statistics import Values, finite

Keys = dict[str, Any]

MACHINE = ("environment.device_name", "environment.precision", "data.checksum")
"""Keys that keep runs apart and stand in no configuration."""


def network_name(depth: int, residual: bool) -> str:
    """Such as plain-56 or ResNet-20."""
    return f"{'ResNet' if residual else 'plain'}-{depth}"


@dataclass(frozen=True)
class Cell:
    """The runs of one network in one setting; nothing else is ever averaged."""

    keys: Keys
    runs: pd.DataFrame
    unusual_shortcut: str = ""
    """What to call its shortcut if it is not the setting's main one."""

    @property
    def label(self) -> str:
        """Such as plain-56, ResNet-20 (B) or ResNet-110 (paper schedule)."""
        schedule = "" if self.expected_schedule else f"{self.keys['schedule.name']} schedule"
        remarks = ", ".join(filter(None, (self.unusual_shortcut, schedule)))
        return network_name(self.depth, self.residual) + (f" ({remarks})" if remarks else "")

    @property
    def standard(self) -> bool:
        """Whether it has the setting's main shortcut and the schedule for its depth: such cells are in the figures."""
        return self.expected_schedule and not self.unusual_shortcut

    @property
    def depth(self) -> int:
        return int(self.keys["model.depth"])

    @property
    def residual(self) -> bool:
        return bool(self.keys["model.residual"])

    @property
    def shortcut(self) -> str:
        """Empty for a plain net."""
        return str(self.keys.get("shortcut.name", ""))

    @property
    def expected_schedule(self) -> bool:
        """Whether it warms up if and only if it is as deep as the paper asks; true for every other schedule."""
        warms_up, is_deep = "schedule.warmup_lr" in self.keys, self.depth >= paper.WARMUP_DEPTH
        return warms_up == is_deep or self.keys["schedule.name"] not in paper.SCHEDULES

    @property
    def seeds(self) -> list[int]:
        return sorted(int(seed) for seed in self.runs["config.seed"])

    def values(self, column: str) -> Values:
        """The finite numbers of a column, one a run."""
        return finite(self.runs.get(column, []))


@dataclass(frozen=True)
class Setting:
    """Cells that differ in network and shortcut only."""

    title: str
    keys: Keys
    cells: tuple[Cell, ...]

    @property
    def deviations(self) -> tuple[str, ...]:
        """Where the recipe is not the paper's, as key=value; empty if it is."""
        return tuple(deviations_from(paper.RECIPE, self.keys))

    @property
    def from_paper(self) -> bool:
        return not self.deviations

    @property
    def notebook(self) -> bool:
        return not deviations_from(paper.NOTEBOOK_RECIPE, self.keys)

    @property
    def selected_on_test(self) -> bool:
        return self.keys.get("selection") == "best_test"

    def cell(self, depth: int, residual: bool, shortcut: str | None = None) -> Cell | None:
        """The cell of a network, with the main shortcut unless one is named; None if there is none.

        Of several variants of the named shortcut the one with the most runs.
        """
        fitting = [
            cell
            for cell in self.cells
            if (cell.depth, cell.residual) == (depth, residual)
            and (cell.standard if shortcut is None else cell.shortcut == shortcut and cell.expected_schedule)
        ]
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
    # Runs in no committed study have an empty name, and come last.
    groups = sorted(runs.groupby(["study", "config.data.name"]), key=lambda pair: pair[0][0] == "")
    folders = Counter(name for (name, _), _ in groups)
    found = []
    for (name, data), group in groups:
        # A folder that mixes data sets gets a section for each.
        label = (name if folders[name] == 1 else f"{name}-{data}") if name else f"runs-{data}"
        title = f"Reference study {label}" if name else f"Your runs on {data}"
        parts = settings(group)
        found.append(Study(str(label), title, parts, tuple(notes(parts))))
    return found


def settings(runs: pd.DataFrame) -> tuple[Setting, ...]:
    """The settings of a study, the one with the most runs first."""
    keys = [setting_keys(cell) for cell in runs["cell_keys"]]
    groups = runs.groupby([json.dumps(one, sort_keys=True) for one in keys])
    found: list[Setting] = []
    for _, group in sorted(groups, key=lambda pair: len(pair[1]), reverse=True):
        own = setting_keys(group["cell_keys"].iloc[0])
        title = title_of(own)
        same = next((setting for setting in found if title_of(setting.keys) == title), None)
        # The title does not show every key: where two would be the same, it names those that differ.
        extra = f" · only here: {', '.join(differences(same.keys, own))}" if same else ""
        found.append(Setting(title + extra, own, tuple(cells(group))))
    return tuple(found)


def setting_keys(cell: Keys) -> Keys:
    """What all cells of a setting share."""
    keys = {k: v for k, v in cell.items() if not k.startswith(("model.depth", "model.residual", "shortcut."))}
    if keys["schedule.name"] in paper.SCHEDULES:
        keys = {k: v for k, v in keys.items() if not k.startswith("schedule.warmup_")} | {"schedule.name": "paper"}
    return keys


def title_of(keys: Keys) -> str:
    """One line that names what usually differs between settings."""
    rate, batch = keys.get("optimizer.lr"), keys.get("data.batch_size")
    parts = (
        keys["data.name"],
        f"{keys['optimizer.name']} lr {rate:g}" if rate is not None else keys["optimizer.name"],
        f"{keys['schedule.name']} schedule, {keys['schedule.steps']:,} steps",
        keys["augmentation.name"],
        f"batch {batch}" if batch else "",
        *(keys.get(key, "") for key in ("environment.precision", "environment.device_name")),
    )
    return " · ".join(filter(None, parts))


def deviations_from(recipe: Mapping[str, tuple[Any, ...]], keys: Keys) -> list[str]:
    """Each key in which a setting is not as the recipe says, as key=value."""
    other = [key for key, allowed in recipe.items() if keys.get(key) not in allowed]
    # Another member of a group has other keys: its name says enough, and its length.
    named = [key for key in other if key.endswith((".name", ".steps")) or f"{key.split('.')[0]}.name" not in other]
    return [f"{key}={keys.get(key, 'null')}" for key in named]


def differing(first: Keys, second: Keys) -> list[str]:
    """The keys in which two sets of keys differ, in alphabetical order."""
    return [key for key in sorted(first | second) if first.get(key) != second.get(key)]


def differences(first: Keys, second: Keys) -> list[str]:
    """What `second` has where it is not as `first`, as key=value."""
    return [f"{key}={second.get(key, 'null')}" for key in differing(first, second)]


def cells(runs: pd.DataFrame) -> list[Cell]:
    """The cells of one setting: plain before residual, then by depth, standard ones first."""
    main = main_shortcut(runs["cell_keys"])
    built = []
    for _, group in runs.groupby("cell"):
        keys = group["cell_keys"].iloc[0]
        built.append(Cell(keys, group.sort_values("config.seed"), unusual_shortcut(keys, main)))
    return sorted(built, key=lambda cell: (cell.residual, cell.depth, not cell.standard, cell.label))


def shortcut_of(keys: Keys) -> Keys:
    """The keys of the shortcut."""
    return {key: value for key, value in keys.items() if key.startswith("shortcut.")}


def main_shortcut(every_run: Iterable[Keys]) -> Keys:
    """The paper's A if there is one, as conf/shortcut/A.yaml has it; else the shortcut with the most runs."""
    texts = [json.dumps(shortcut_of(keys), sort_keys=True) for keys in every_run if keys["model.residual"]]
    found = [(json.loads(text), count) for text, count in Counter(texts).items()]

    def rank(pair: tuple[Keys, int]) -> tuple[bool, bool, int]:
        shortcut, count = pair
        return shortcut.get("shortcut.name") == "A", shortcut.get("shortcut.zeros", "end") == "end", count

    return max(found, key=rank, default=({}, 0))[0]


def unusual_shortcut(keys: Keys, main: Keys) -> str:
    """A shortcut's name, or what differs from the main one of the same name; empty for the main one and plain nets."""
    own = shortcut_of(keys)
    if not keys["model.residual"] or own == main:
        return ""
    name = own.get("shortcut.name", "?")
    apart = differences(main, own) if name == main.get("shortcut.name") else []
    return ", ".join([name, *(text.removeprefix("shortcut.") for text in apart)])


def notes(found: tuple[Setting, ...]) -> Iterator[str]:
    """What to know before comparing: mixes within a cell, missing seeds, settings that differ in `MACHINE` only."""
    for setting in found:
        repeated = {seed for cell in setting.cells for seed in cell.seeds if len(cell.runs) > 1}
        gaps = []
        for cell in setting.cells:
            yield from mixes(cell)
            lacking = sorted(repeated - set(cell.seeds))
            gaps += [f"{cell.label} lacks {', '.join(map(str, lacking))}"] if lacking else []
        if gaps:
            yield f"Seeds that others have: {'; '.join(gaps)} ({setting.title})."
    for other, setting in combinations(found, 2):
        if set(differing(other.keys, setting.keys)) <= set(MACHINE):
            networks = ", ".join(cell.label for cell in setting.cells)
            apart = ", ".join(differences(other.keys, setting.keys))
            yield f"{networks} also ran with {apart}: kept apart, never averaged with the others."


def mixes(cell: Cell) -> Iterator[str]:
    """Differences between the seeds of a cell that did not split it."""
    for column, what in (
        ("environment.git_commit", "commits"),
        ("environment.torch", "versions of torch"),
        ("environment.fused", "modes, fused and not"),
    ):
        values = sorted({str(value)[:10] for value in cell.runs.get(column, []) if not missing(value)})
        if len(values) > 1:
            yield f"The seeds of {cell.label} mix {len(values)} {what}: {', '.join(values)}."
    if any(value is True for value in cell.runs.get("environment.git_dirty", [])):
        yield f"{cell.label} has runs of a changed working tree: their commit does not tell the whole code."
