"""A comparison: which defining keys differ among the cells of a study, and which cell is the baseline.

The baseline has the values of `conf/`, or those that the user names, never whatever comes first. Notable: where a
group's members differ (optimizer=sgd,adamw), their own keys go without saying, unless one member has several values.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ablation.config.identity import is_number
from ablation.config.schema import CONF, Config
from ablation.report.arms import VALIDATION, validation_error
from ablation.report.filters import shown
from ablation.report.studies import Cell, Keys, Setting, Study, network_name, setting_keys, shortcut_of
from ablation.runs.record.record import leaves

NETWORK = ("model.depth", "model.residual")
"""They differ in most studies, and are shown as the network's name."""
OPTIONS = {"A", "B", "C"}
RATES = ("lr", "weight_decay")


@dataclass(frozen=True)
class Comparison:
    """The cells of a study as rows of one table, by network and by what differs; of some every run may have failed."""

    study: Study
    keys: tuple[str, ...]
    """The dotted defining keys that differ among the cells, beside depth and plain or residual."""
    cells: tuple[Cell, ...]
    baseline: Cell

    def values(self, cell: Cell) -> Keys:
        """What the cell has for each of `keys`; without those that it cannot have, such as AdamW's momentum."""
        own = defining(cell)
        known = [key for key in self.keys if key in defaults() and (cell.residual or not key.startswith("shortcut."))]
        own |= {key: default(key, own) for key in known if key not in own}
        return {key: own[key] for key in self.keys if key in own}

    def setting(self, cell: Cell) -> Setting:
        """The setting that the cell belongs to."""
        return next(found for found in self.study.settings if any(one is cell for one in found.cells + found.lost))

    @property
    def networks(self) -> bool:
        """Whether several networks are compared."""
        return len({network(cell) for cell in self.cells}) > 1

    def label(self, cell: Cell) -> str:
        """Only what differs, such as "adamw" or "ResNet-56, lr=0.01"; of many keys, those unlike the baseline's."""
        own, usual = self.values(cell), self.values(self.baseline)
        keys = [key for key in own if len(self.keys) <= 2 or own[key] != usual.get(key)]
        texts = [("" if key.endswith(".name") else f"{key.split('.')[-1]}=") + shown(own[key]) for key in keys]
        return ", ".join([network(cell)] * self.networks + (texts or ["baseline"]))

    def is_baseline(self, cell: Cell) -> bool:
        """Whether it has the baseline's values, as far as it can have them; each network has a baseline of its own."""
        return self.values(cell).items() <= self.values(self.baseline).items()

    def reference(self, cell: Cell) -> Cell | None:
        """What the cell is compared with: the baseline of its own network; None for a baseline, or without one."""
        alike = (one for one in self.cells if network(one) == network(cell) and self.is_baseline(one))
        return None if self.is_baseline(cell) else next(alike, None)

    @property
    def numeric(self) -> str:
        """The one key that was varied if its values are numbers, else empty."""
        numbers = all(is_number(self.values(cell).get(self.keys[0])) for cell in self.cells)
        return self.keys[0] if len(self.keys) == 1 and numbers else ""

    def value(self, cell: Cell) -> float:
        """The cell's value of `numeric`."""
        return float(self.values(cell)[self.numeric])

    @property
    def log(self) -> bool:
        """Whether the values of `numeric` belong on a logarithmic axis: rates, and what spans a factor of ten."""
        values = [self.value(cell) for cell in self.cells]
        return min(values) > 0 and (self.numeric.endswith(RATES) or max(values) >= 10 * min(values))

    @property
    def winner(self) -> Cell | None:
        """The cell with the least mean validation error; None unless every cell with finished runs has one."""
        finished = [cell for cell in self.cells if len(cell.runs)]
        measured = all(len(cell.values(VALIDATION)) for cell in finished)
        return min(finished, key=validation_error) if measured else None

    @property
    def held_still(self) -> Keys:
        """The defining keys that all cells share."""
        first, *others = (defining(cell) for cell in self.cells)
        return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}


def comparison_of(study: Study, baseline: Keys | None = None) -> Comparison | None:
    """What the study compares, with the cell that fits `baseline` (dotted key -> value) and the defaults best.

    None where only depth, plain or residual, and the options A, B and C differ among several networks, as they do in
    the paper's own question: the setting's table reads better for that.
    """
    cells = [cell for setting in study.settings for cell in setting.cells + setting.lost]
    keys = varied([defining(cell) for cell in cells])
    several = len({network(cell) for cell in cells}) > 1
    if not keys or (several and keys == ("shortcut.name",) and {cell.shortcut for cell in cells} <= OPTIONS | {""}):
        return None
    wanted = {key: value for key, value in (baseline or {}).items() if key in (*keys, *NETWORK)}
    chosen = min(cells, key=lambda cell: distance(cell, keys, wanted))
    found = Comparison(study, keys, tuple(cells), chosen)

    def row(cell: Cell) -> list[Any]:
        """By network, then numbers by size and all else by name."""
        own = [found.values(cell).get(key) for key in keys]
        return [cell.residual, cell.depth, *((1, shown(v)) if not is_number(v) else (0, v) for v in own)]

    return replace(found, cells=tuple(sorted(cells, key=row)))


def varied(found: Sequence[Keys]) -> tuple[str, ...]:
    """The keys that differ among cells and are no mere consequence of another one that does."""
    every = sorted({key for keys in found for key in keys} - {*NETWORK})
    differing = [key for key in every if differs(key, found)]

    def consequence(key: str) -> bool:
        causes = ["data.validation", "data.split_seed"] if key == "data.checksum" else [f"{key.split('.')[0]}.name"]
        if key in causes or not {*causes} & {*differing}:
            return False
        alike = [[one for one in found if all(one.get(c) == other.get(c) for c in causes)] for other in found]
        return not any(differs(key, group) for group in alike)

    return tuple(sorted((key for key in differing if not consequence(key)), key=lambda key: not key.endswith(".name")))


def differs(key: str, found: Iterable[Keys]) -> bool:
    """Whether a key has several values; a plain net has no shortcut that could differ."""
    asked = (one for one in found if one["model.residual"] or not key.startswith("shortcut."))
    return len({repr(one.get(key, default(key, one))) for one in asked}) > 1


def defining(cell: Cell) -> Keys:
    """What defines the cell; the paper's warm-up is part of its schedule at the depths that ask for it."""
    network_keys = {key: cell.keys[key] for key in NETWORK}
    return setting_keys(cell.keys) | network_keys | shortcut_of(cell.keys)


def network(cell: Cell) -> str:
    name = network_name(cell.depth, cell.residual)
    return name if cell.expected_schedule else f"{name} ({cell.keys['schedule.name']} schedule)"


def distance(cell: Cell, keys: Sequence[str], wanted: Keys) -> tuple[Any, ...]:
    """How far a cell is from the baseline: what the user named counts first, then the defaults, then few runs."""
    own = defining(cell)
    far = [own.get(key) != default(key, own) for key in keys if key not in wanted]
    pairs: list[Any] = [(own.get(key), default(key, own)) for key in keys]
    numbers = [(value, usual) for value, usual in pairs if is_number(value) and is_number(usual)]
    ratio = sum(abs(math.log(value / usual)) for value, usual in numbers if value > 0 < usual)  # the nearest number
    missed = sum(own.get(key) != value for key, value in wanted.items())
    return missed, sum(far), ratio, -len(cell.runs), not cell.residual, cell.depth, repr(sorted(own.items()))


@cache
def defaults() -> Keys:
    """The values of the schema and conf/config.yaml: dotted key -> value, a group's member as `group.name`."""
    chosen = yaml.safe_load((CONF / "config.yaml").read_text("utf-8"))["defaults"]
    members = {f"{key}.name": name for entry in chosen if isinstance(entry, dict) for key, name in entry.items()}
    return dict(leaves(asdict(Config()))) | members


@cache
def member(group: str, name: str) -> Keys:
    """The keys of conf/<group>/<name>.yaml; none if there is no such file, as for another checkout's own member."""
    path = CONF / group / f"{Path(name).name}.yaml"
    read = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    return {f"{group}.{key}": value for key, value in read.items()}


def default(key: str, own: Keys) -> Any:
    """The default of a dotted key beside the group's member that `own` has; None if there is none."""
    group, _, name = key.partition(".")
    chosen = {} if name == "name" else member(group, str(own.get(f"{group}.name")))
    return chosen.get(key, defaults().get(key))
