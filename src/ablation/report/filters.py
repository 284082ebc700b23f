"""key=value filters of the report's command line, such as data=cifar10 or model.depth=20,56."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from ablation.errors import UserError
from ablation.report.evidence import Evidence, missing

GROUPS = ("model", "shortcut", "optimizer", "schedule", "augmentation", "data", "trainer", "tracker")


def select(evidence: Evidence, filters: Iterable[str]) -> Evidence:
    """Only the runs whose record has key=value for each filter, such as data=cifar10, seed=0 or model.depth=20,56.

    A group's name stands for its member (data=cifar10), model for the network (model=plain20), study for the folder;
    other keys are the config's or the record's. Of a failed run, which has no record, its config counts.
    Raises UserError for a key or value that no finished run has.
    """
    runs, failed = evidence.runs, evidence.failed
    for key, text in (given.split("=", 1) for given in filters):
        column = column_of(key, runs)
        wanted = [parse(part) for part in text.split(",")]
        matches = [fits(value, wanted) for value in runs[column]]
        if not any(matches):
            present = sorted({shown(value) for value in runs[column]})
            more = f" and {len(present) - 12} more" if len(present) > 12 else ""
            raise UserError(key, text, f"no run has it; there are {', '.join(present[:12])}{more}")
        runs = runs[matches]
        failed = [run for run in failed if column not in run or fits(run[column], wanted)]
    return replace(evidence, runs=runs, failed=failed)


def column_of(key: str, runs: pd.DataFrame) -> str:
    names = {group: f"config.{group}.name" for group in GROUPS} | {"model": "network"}
    for column in (names.get(key, ""), f"config.{key}", key):
        if column in runs and not isinstance(runs[column].iloc[0], list | dict):
            return column
    keys = sorted(name.removeprefix("config.") for name in map(str, runs.columns) if name.startswith("config."))
    raise UserError("filter", key, f"no such key; use study, {', '.join(GROUPS)} or one of {', '.join(keys)}")


def fits(value: Any, wanted: list[Any]) -> bool:
    """Whether it is one of them; in Python true is 1, in a filter it is not."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)


def parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def shown(value: Any) -> str:
    """A value as one would type it."""
    text = "null" if missing(value) else f"{value:g}" if isinstance(value, float) else str(value)
    return text.lower() if isinstance(value, bool) else text
