"""`analysis.json`, beside a run's record: what src/analyze.py measured. This module reads it, without torch."""

import reprlib
from pathlib import Path
from typing import Any

from ablation.runs.record.files import read_json
from ablation.runs.record.record import fits

FILE = "analysis.json"
TYPES: dict[str, dict[str, Any]] = {
    "lesions": {"images": int, "deleted": list[str], "errors": list[float | None], "refitted": list[float | None]},
    "slice": {"images": int, "seed": int, "alphas": list[float], "losses": list[float | None]},
    "correlation": {"images": int, "noise": float, "cosine": float},
}
"""Analysis -> key -> type; the lists of an analysis have one length. `environment` is beside them."""


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The analyses of the run in `folder` by name; {} without the file. Raises ValueError if it cannot be used."""
    if not (folder / FILE).exists():
        return {}
    found = read_json(folder / FILE)
    if not isinstance(found, dict):
        raise ValueError("not complete JSON (cut off or damaged): analyze the run again")
    analyses = {name: found[name] for name in TYPES if name in found}
    for name, values in analyses.items():
        if not (isinstance(values, dict) and all(fits(values.get(key), kind) for key, kind in TYPES[name].items())):
            raise ValueError(f"not a valid analysis: {name} is {reprlib.repr(values)}")
        lengths = {len(values[key]) for key in TYPES[name] if isinstance(values[key], list)}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(f"not a valid analysis: the lists of {name} have different lengths, or no values")
    return analyses
