"""`record.json`: written once, when a run is finished, and read back."""

from pathlib import Path
from typing import Any

from ablation.runs.record.files import read_json


def is_record(value: Any) -> bool:
    """Whether it has what is read from the record of a finished run: a hand may have been at it."""
    try:
        metrics = value["metrics"]
        errors = [metrics[name] for name in ("train_error", "test_error", "selected_test_error")]
        steps = [value["step"], metrics["selected_step"], value["config"]["schedule"]["steps"]]
        texts = [value["id"], value["data"]["checksum"], metrics["selected_on"] or ""]
    except (KeyError, TypeError, IndexError):
        return False
    kinds = ((errors, int | float), (steps, int), (texts, str))
    return all(isinstance(one, kind) for those, kind in kinds for one in those)


def read(path: Path) -> dict[str, Any]:
    """The record. Raises ValueError if it cannot be used."""
    found = read_json(path)
    if not is_record(found):
        raise ValueError("not a record")
    return dict(found)
