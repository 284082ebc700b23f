"""A claim as it is declared, and where a study can be asked: which cell each arm of its comparison means.

Notable: the arms are compared among cells that are equal in all that defines them, but for the network and for what an
arm names: a shortcut, `keys` and their values, or the best value of a key. An arm without any is the paper's own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ablation.report.metrics import Metric
from ablation.report.rules import Rule
from ablation.report.studies import Cell, Keys, Setting, Study, network_name

VALIDATION = "metrics.val_error"


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
    def named(self) -> set[str]:
        return {key for key, _ in self.keys} | {self.best_of} - {""}

    def label(self, cell: Cell | None = None) -> str:
        """Such as plain-56 (init=dirac) or ResNet-20 (best lr); of its `cell` the name, and the value that was best."""
        remarks = [f"{short(key)}={value}" for key, value in self.keys]
        if self.best_of:
            remarks.append(f"best {short(self.best_of)}" + (f" {cell.keys.get(self.best_of)}" if cell else ""))
        if not cell and self.shortcut:
            remarks = [self.shortcut, *remarks]
        name = cell.label if cell else network_name(self.depth, self.residual)
        return name + (f" ({', '.join(remarks)})" if remarks else "")

    def among(self, cells: list[Cell], others: "tuple[Arm, ...]") -> Cell | None:
        """Its cell among those that differ in what it and the `others` name; None if there is none.

        A key that only others name must not have the value that they name. Of several cells that fit, the one with
        the most runs; `best_of` needs cells with two values at least.
        """
        theirs = {pair for arm in others for pair in arm.keys if pair[0] not in self.named}

        def fits(cell: Cell) -> bool:
            same = (cell.depth, cell.residual) == (self.depth, self.residual) and cell.expected_schedule
            usual = not cell.unusual_shortcut if self.shortcut is None else cell.shortcut == self.shortcut
            named = all(cell.keys.get(key) == value for key, value in self.keys)
            return same and usual and named and all(cell.keys.get(key) != value for key, value in theirs)

        fitting = [cell for cell in cells if fits(cell)]
        if not self.best_of:
            return max(fitting, key=lambda cell: len(cell.runs), default=None)
        measured = [cell for cell in fitting if len(cell.values(VALIDATION))]
        return min(measured, key=validation_error) if len(measured) > 1 else None


def plain(depth: int, key: str = "", value: object = None, best_of: str = "") -> Arm:
    return Arm(False, depth, keys=((key, value),) if key else (), best_of=best_of)


def resnet(depth: int, shortcut: str | None = None, best_of: str = "") -> Arm:
    return Arm(True, depth, shortcut, best_of=best_of)


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
        return f"{self.metric.name} of {' and '.join(arm.label() for arm in self.arms)}"

    @property
    def named(self) -> set[str]:
        """The keys in which its arms may differ, beside the network."""
        return set[str]().union(*(arm.named for arm in self.arms))

    def applies(self, setting: Setting) -> bool:
        if self.scope == "any":  # the paper's nets start with He's weights; a claim about others names what they have
            return bool(self.named) or str(setting.keys.get("model.init", "he")).startswith("he")
        return setting.from_paper if self.scope == "paper" else setting.notebook

    def cells(self, study: Study) -> Iterator[tuple[Setting, dict[Arm, Cell | None]]]:
        """Everywhere in the study where it can be asked: the first arm's setting, and each arm's cell or None."""
        groups: dict[str, list[tuple[Setting, Cell]]] = {}
        for setting in filter(self.applies, study.settings):
            rest = json.dumps(without(setting.keys, self.named), sort_keys=True)
            groups.setdefault(rest, []).extend((setting, cell) for cell in setting.cells + setting.lost)
        for group in groups.values():
            found = {arm: arm.among([cell for _, cell in group], self.arms) for arm in self.arms}
            first = next((cell for cell in found.values() if cell), None)
            yield next((setting for setting, cell in group if cell is first), group[0][0]), found


def without(keys: Keys, named: set[str]) -> Keys:
    """The keys but the named ones; where the name of a group's member is among them, the whole group is."""
    groups = tuple(key.removesuffix("name") for key in named if key.endswith(".name"))
    return {key: value for key, value in keys.items() if key not in named and not key.startswith(groups)}


def short(key: str) -> str:
    return key.removesuffix(".name").rpartition(".")[2]
