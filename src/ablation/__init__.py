"""Why do deeper plain networks train worse, and what do shortcuts change? docs/python.md shows what this offers.

Importing it costs nothing: torch and Hydra come with the first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablation import networks
    from ablation.api import compose, history, load, records, run
    from ablation.errors import UserError

__all__ = ["UserError", "compose", "history", "load", "networks", "records", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = importlib.import_module("ablation.networks" if name == "networks" else "ablation.api")
    return api if name == "networks" else getattr(api, name)
