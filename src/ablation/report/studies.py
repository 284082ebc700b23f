"""Sorts runs into studies, settings and cells, so that only seeds are averaged and only one change is compared.

A *cell* holds the seeds of one network: runs with the same `cell_keys` (`evidence.run_row`). The cells of a *setting*
differ in depth, residual or plain, and shortcut only. A *study* is a folder of results/reference, or all other runs on
one data set. Notable: seeds of a cell that ran at different commits are averaged, with a note; if a commit split them,
no study would outlive one.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.report import paper
from ablation.report.evidence import MACHINE, missing
from ablation.report.statistics import Values, finite
from ablation.runs.record.record import leaves

Keys = dict[str, Any]


def network_name(depth: int, residual: bool) -> str:
    return f"{'ResNet' if residual else 'plain'}-{depth}"


@dataclass(frozen=True)
class Cell:
    """The runs of one network in one setting; nothing else is ever averaged."""

    keys: Keys
    runs: pd.DataFrame
    main: Keys
    """Those of the setting's main shortcut."""
    failed: int
    """How many more runs of it failed or diverged, by their seeds."""

    @property
    def label(self) -> str:
        """Such as plain-56, ResNet-20 (B) or ResNet-110 (paper schedule)."""
        schedule = "" if self.expected_schedule else f"{self.keys['schedule.name']} schedule"
        remarks = ", ".join(filter(None, (self.unusual_shortcut, schedule)))
        return network_name(self.depth, self.residual) + (f" ({remarks})" if remarks else "")

    @property
    def unusual_shortcut(self) -> str:
        """A shortcut's name, or what differs from the main one of the same name; empty for the main one and none."""
        own = shortcut_of(self.keys)
        if own in ({}, self.main):
            return ""
        apart = differences(self.main, own) if self.shortcut == self.main["shortcut.name"] else []
        return ", ".join([self.shortcut, *(text.removeprefix("shortcut.") for text in apart)])

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
    lost: tuple[Cell, ...]
    """Networks of which every run failed or diverged."""

    @property
    def deviations(self) -> tuple[str, ...]:
        """Where the recipe is not the paper's, as key=value; empty if it is."""
        return tuple(deviations_from(paper.RECIPE, paper.OPEN_IN_PAPER, self.keys))

    @property
    def from_paper(self) -> bool:
        return not self.deviations

    @property
    def notebook(self) -> bool:
        return not deviations_from(paper.NOTEBOOK_RECIPE, paper.OPEN_IN_NOTEBOOK, self.keys)

    @property
    def selected_on_test(self) -> bool:
        return self.keys.get("selection") == "best_test"


@dataclass(frozen=True)
class Study:
    """One section: `name` is fit for a file's name, the settings with the most runs come first, notes are sentences."""

    name: str
    title: str
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]
    data: str
    """The data set; that of an image folder has the folder's name."""

    @property
    def cells(self) -> list[Cell]:
        """Those of all settings that have finished runs."""
        return [cell for setting in self.settings for cell in setting.cells]


def studies(runs: pd.DataFrame, failed: Iterable[Keys] = ()) -> list[Study]:
    """All studies, the committed ones last; `failed`: rows of the runs that have no record."""
    if runs.empty:
        return []
    # Runs in no committed study have an empty name, and come first.
    groups = sorted(runs.groupby(["study", data_sets(runs)]), key=lambda pair: pair[0][0] != "")
    folders = Counter(name for (name, _), _ in groups)
    found = []
    for (name, data), group in groups:
        # A folder that mixes data sets gets a section for each.
        label = (name if folders[name] == 1 else f"{name}-{data}") if name else f"runs-{data}"
        title = f"Reference study {label}" if name else f"Your runs on {data}"
        parts = settings(group, [run for run in failed if run["study"] == name])
        found.append(Study(str(label), title, parts, tuple(notes(parts)), str(data)))
    return found


def data_sets(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's data set; an image folder by its name, with a checksum where two folders have the same one."""
    roots = runs["config.data.root"].map(lambda root: "" if missing(root) else Path(str(root)).name)
    folder = runs["config.data.name"] == "image_folder"
    names = runs["config.data.name"].where(~folder, "image_folder " + roots).str.strip()
    split = [runs.get(f"config.data.{key}", names).map(str) for key in ("validation", "split_seed")]
    several = runs["data.checksum"].groupby([names, *split]).transform("nunique") > 1
    return names.where(~(folder & several), names + " " + runs["data.checksum"].map(lambda text: str(text)[:6]))


def settings(runs: pd.DataFrame, failed: list[Keys]) -> tuple[Setting, ...]:
    groups = runs.groupby(runs["cell_keys"].map(lambda keys: json.dumps(setting_keys(keys), sort_keys=True)))
    found: list[Setting] = []
    for text, group in sorted(groups, key=lambda pair: len(pair[1]), reverse=True):
        own = json.loads(str(text))
        title = title_of(own)
        same = next((setting for setting in found if title_of(setting.keys) == title), None)
        # The title does not show every key: where two would be the same, it names those that differ.
        title += f" · only here: {', '.join(differences(same.keys, own))}" if same else ""
        # A failed run does not tell its machine: it counts in the first setting that fits otherwise.
        machine = {key: value for key, value in own.items() if key in MACHINE}
        fitting = [run for run in failed if setting_keys(run["cell_keys"] | machine) == own]
        failed = [run for run in failed if run not in fitting]
        every = cells(group, [(run["cell_keys"] | machine, run["config.seed"]) for run in fitting])
        whole, lost = (tuple(cell for cell in every if bool(len(cell.runs)) is whole) for whole in (True, False))
        found.append(Setting(title, own, whole, lost))
    return tuple(found)


def setting_keys(cell: Keys) -> Keys:
    keys = {k: v for k, v in cell.items() if not k.startswith(("model.depth", "model.residual", "shortcut."))}
    if keys["schedule.name"] in paper.SCHEDULES:
        keys = {k: v for k, v in keys.items() if not k.startswith("schedule.warmup_")} | {"schedule.name": "paper"}
    return keys


def title_of(keys: Keys) -> str:
    """What the keys say of the recipe; those that are missing are left out."""
    rate, batch = keys.get("optimizer.lr"), keys.get("data.batch_size")
    schedule, steps = keys.get("schedule.name"), keys.get("schedule.steps")
    parts = (
        keys.get("data.name", ""),
        " ".join(filter(None, (keys.get("optimizer.name"), f"lr {rate:g}" if rate is not None else ""))),
        ", ".join(filter(None, (schedule and f"{schedule} schedule", steps and f"{steps:,} steps"))),
        "no augmentation" if keys.get("augmentation.name") == "none" else keys.get("augmentation.name", ""),
        f"batch {batch}" if batch else "",
        *(keys.get(key, "") for key in ("environment.precision", "environment.device_name")),
    )
    return " · ".join(filter(None, parts))


def deviations_from(recipe: Keys, left_open: tuple[str, ...], keys: Keys) -> list[str]:
    """Each key in which a setting is not as the recipe says, as key=value; a key that the recipe lacks is one, too."""
    wanted = {key: value if isinstance(value, set) else [value] for key, value in leaves(recipe)}
    every = [*wanted, *(key for key in keys if key not in wanted and not key.startswith(left_open))]
    other = [key for key in every if keys.get(key) not in wanted.get(key, [None])]
    # Another member of a group has other keys: its name says enough, and its length.
    named = [key for key in other if key.endswith((".name", ".steps")) or f"{key.split('.')[0]}.name" not in other]
    return [f"{key}={keys.get(key, 'null')}" for key in named]


def differences(first: Keys, second: Keys) -> list[str]:
    """What `second` has where it is not as `first`, as key=value, in alphabetical order."""
    return [f"{key}={second.get(key, 'null')}" for key in sorted(first | second) if first.get(key) != second.get(key)]


def cells(runs: pd.DataFrame, failed: list[tuple[Keys, int]]) -> list[Cell]:
    """The cells of one setting: plain before residual, then by depth, standard ones first."""
    main = main_shortcut([*runs["cell_keys"], *(keys for keys, _ in failed)])
    groups = {str(text): group.sort_values("config.seed") for text, group in runs.groupby("cell")}
    lost: dict[str, set[int]] = {}
    for keys, seed in failed:
        lost.setdefault(json.dumps(keys, sort_keys=True), set()).add(seed)
    built = []
    for text in groups | lost:
        group = groups.get(text, runs.iloc[:0])
        built.append(Cell(json.loads(text), group, main, len(lost.get(text, set()) - {*group["config.seed"]})))
    return sorted(built, key=lambda cell: (cell.residual, cell.depth, not cell.standard, cell.label))


def shortcut_of(keys: Keys) -> Keys:
    return {key: value for key, value in keys.items() if key.startswith("shortcut.")}


def main_shortcut(every_run: Iterable[Keys]) -> Keys:
    """The paper's A if there is one, as conf/shortcut/A.yaml has it; else the shortcut with the most runs."""
    counts = Counter(json.dumps(shortcut_of(keys), sort_keys=True) for keys in every_run if keys["model.residual"])

    def rank(text: str) -> tuple[bool, bool, int]:
        shortcut = json.loads(text)
        return shortcut["shortcut.name"] == "A", shortcut.get("shortcut.zeros", "end") == "end", counts[text]

    return json.loads(max(counts, key=rank, default="{}"))


def notes(found: tuple[Setting, ...]) -> Iterator[str]:
    """What to know before comparing: mixes within a cell, missing seeds, settings that differ in `MACHINE` only."""
    for setting in found:
        for cell in setting.cells + setting.lost:
            if cell.failed:
                yield f"{cell.label}: {cell.failed} failed or diverged, {len(cell.runs)} finished ({setting.title})."
        for cell in setting.cells:
            yield from mixes(cell)
        repeated = {seed for cell in setting.cells for seed in cell.seeds if len(cell.runs) > 1}
        lacking = ((cell.label, sorted(repeated - {*cell.seeds})) for cell in setting.cells)
        if gaps := "; ".join(f"{label} lacks {', '.join(map(str, seeds))}" for label, seeds in lacking if seeds):
            yield f"Seeds that others have: {gaps} ({setting.title})."
    for other, setting in combinations(found, 2):
        apart = differences(other.keys, setting.keys)
        if all(text.startswith(MACHINE) for text in apart):
            networks = ", ".join(cell.label for cell in setting.cells)
            yield f"{networks} also ran with {', '.join(apart)}: kept apart, never averaged with the others."


def mixes(cell: Cell) -> Iterator[str]:
    """Differences between the seeds of a cell that did not split it."""
    for key, what in {"git_commit": "commits", "torch": "versions of torch", "fused": "modes, fused and not"}.items():
        column = f"environment.{key}"
        values = sorted({str(value)[:10] for value in cell.runs.get(column, []) if not missing(value)})
        if len(values) > 1:
            yield f"The seeds of {cell.label} mix {len(values)} {what}: {', '.join(values)}."
    if any(value is True for value in cell.runs.get("environment.git_dirty", [])):
        yield f"{cell.label} has runs of a changed working tree: their commit does not tell the whole code."
