"""A claim and its arms: which cell of a study each arm of a comparison means.

Notable: arms that name only a network are compared within one setting. Where an arm has `keys` or `best_of`, the arms
are looked for across the settings of a study, and everything that none of them names has to be equal.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ablation.report.metrics import Metric
from ablation.report.rules import Rule
from ablation.report.studies import Cell, Setting, Study, network_name, setting_keys


@dataclass(frozen=True)
class Arm:
    """One network of a comparison. `shortcut` None: the main one of the setting."""

    residual: bool
    depth: int
    shortcut: str | None = None
    keys: tuple[tuple[str, object], ...] = ()
    """Defining keys and their values that it has besides, such as ("model.init", "dirac")."""
    best_of: str = ""
    """A key such as "optimizer.lr": of the cells that differ in it alone, the one with the least validation error."""

    @property
    def name(self) -> str:
        return network_name(self.depth, self.residual) + (f" ({self.remarks})" if self.remarks else "")

    @property
    def remarks(self) -> str:
        """What it has besides the network, such as init=dirac."""
        keys = (f"{short(key)}={value}" for key, value in self.keys)
        best = f"best {short(self.best_of)}" if self.best_of else ""
        return ", ".join(filter(None, (self.shortcut, *keys, best)))

    def label(self, cell: Cell) -> str:
        """The cell's, with what else the arm names and the value that was best."""
        keys = [f"{short(key)}={value}" for key, value in self.keys if not key.startswith("shortcut.")]
        best = [f"best {short(self.best_of)} {cell.keys.get(self.best_of)}"] if self.best_of else []
        return cell.label + (f" ({', '.join(keys + best)})" if keys or best else "")

    @property
    def named(self) -> set[str]:
        return {key for key, _ in self.keys} | ({self.best_of} if self.best_of else set())

    def among(self, cells: list[Cell], others: "tuple[Arm, ...]") -> Cell | None:
        """Its cell among those that differ in what it and the `others` name; None if there is none.

        A key that only others name must not have the value that they name. Of several cells that fit, the one with
        the most runs; `best_of` needs cells with two values at least.
        """
        own, free = dict(self.keys), set[str]().union(*(arm.named for arm in others))
        theirs = {pair for arm in others for pair in arm.keys if pair[0] not in self.named}

        def fits(cell: Cell) -> bool:
            usual = cell.expected_schedule or any(key.startswith("schedule.") for key in free)
            if self.shortcut is not None:
                usual &= cell.shortcut == self.shortcut
            elif not any(key.startswith("shortcut.") for key in self.named):
                usual &= not cell.unusual_shortcut
            same = (cell.depth, cell.residual) == (self.depth, self.residual)
            apart = not any(cell.keys.get(key) == value for key, value in theirs)
            return usual and same and apart and all(cell.keys.get(key) == value for key, value in own.items())

        fitting = [cell for cell in cells if fits(cell)]
        most = max(fitting, key=lambda cell: len(cell.runs), default=None)
        if not self.best_of or most is None:
            return most
        rest = without(most.keys, {self.best_of})
        measured = [c for c in fitting if without(c.keys, {self.best_of}) == rest and len(c.values(VALIDATION))]
        return min(measured, key=validation_error) if len(measured) > 1 else None


VALIDATION = "metrics.val_error"


def validation_error(cell: Cell) -> float:
    """Mean in percent; a run that failed or diverged counts as 100 %."""
    values = cell.values(VALIDATION)
    return float(values.sum() + 100 * cell.failed) / (len(values) + cell.failed)


@dataclass(frozen=True)
class Claim:
    """A statement, where it stands, and what decides it."""

    id: str
    statement: str
    source: str
    arms: tuple[Arm, ...]
    metric: Metric
    test: Rule
    scope: Literal["any", "paper", "notebook"] = "any"
    """Which recipe it is asked of: a number of the paper only of the paper's own."""
    every_run: bool = False
    """Whether it says that a net trains at all: a run that failed or diverged then counts against it."""

    @property
    def comparison(self) -> str:
        return f"{self.metric.name} of {' and '.join(arm.name for arm in self.arms)}"

    @property
    def across_settings(self) -> bool:
        return any(arm.named for arm in self.arms)

    def applies(self, setting: Setting) -> bool:
        if self.scope == "any":  # the paper's nets start with He's weights; a claim about others names what they have
            return self.across_settings or str(setting.keys.get("model.init", "he")).startswith("he")
        return setting.from_paper if self.scope == "paper" else setting.notebook

    def cells(self, study: Study) -> Iterator[tuple[Setting, dict[Arm, Cell | None]]]:
        """Everywhere in the study where it can be asked: the setting, and each arm's cell or None."""
        if not self.across_settings:
            for setting in filter(self.applies, study.settings):
                yield setting, {arm: setting.cell(arm.depth, arm.residual, arm.shortcut) for arm in self.arms}
            return
        free = set[str]().union(*(arm.named for arm in self.arms))
        groups: dict[str, list[tuple[Setting, Cell]]] = {}
        for setting in filter(self.applies, study.settings):
            for cell in setting.cells + setting.lost:
                rest = json.dumps(without(setting_keys(cell.keys), free), sort_keys=True)
                groups.setdefault(rest, []).append((setting, cell))
        for group in groups.values():
            found = {arm: arm.among([cell for _, cell in group], self.arms) for arm in self.arms}
            first = next((cell for cell in found.values() if cell), None)
            yield next((setting for setting, cell in group if cell is first), group[0][0]), found


def without(keys: dict[str, object], free: set[str]) -> dict[str, object]:
    """The keys but the free ones; where the name of a group's member is free, the whole group is."""
    groups = tuple(key.removesuffix("name") for key in free if key.endswith(".name"))
    return {key: value for key, value in keys.items() if key not in free and not key.startswith(groups)}


def short(key: str) -> str:
    return key.removesuffix(".name").rpartition(".")[2]
