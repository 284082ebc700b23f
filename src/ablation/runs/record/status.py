"""`status.json`: how far a run is, or how it ended."""

from pathlib import Path
from typing import Any

from ablation.runs.record.files import read_json


def read(folder: Path) -> dict[str, Any] | None:
    """The run's status, or None if there is no status.json or it is damaged."""
    status = read_json(folder / "status.json")
    return status if isinstance(status, dict) else None
