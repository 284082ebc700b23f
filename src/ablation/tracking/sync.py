"""`src/dashboard.py sync`: runs to W&B from their own files, as often as one likes, without doubles (wandb_runs.py)."""

import fcntl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ablation.errors import UserError
from ablation.runs.record.files import read_json
from ablation.tracking.wandb_runs import NoKey, RunView, Settings, Unreachable, mark_synced, no_key, read_config


@dataclass(frozen=True)
class Synced:
    """What happened to one run."""

    name: str
    brought: int
    """Rows that W&B did not have: of the history, the tables and the layers."""
    known: int
    """Rows that the run's files hold."""
    url: str
    busy: bool = False
    """It is being trained; its own tracker or a later sync brings it."""

    def __str__(self) -> str:
        if self.busy:
            return f"{self.name}: is being trained; passed over"
        return f"{self.name}: {self.brought} of {self.known} rows were new; {self.url}"


def run_folders(results: Path, wanted: Sequence[str]) -> list[Path]:
    """The folders of the runs that were asked for, by path or by name below `results`/runs; without any, all there are.

    Raises UserError for one that is not there.
    """
    if not wanted:
        found = sorted(path.parent for path in (results / "runs").glob("*/config.yaml"))
        if not found:
            raise UserError("results", results, "has no runs; give --results DIR or the folders of runs")
        return found
    folders = [Path(run) if Path(run).is_dir() else results / "runs" / run for run in wanted]
    for folder in folders:
        if not (folder / "config.yaml").exists():
            raise UserError("RUN", folder, "is not the folder of a run: it has no config.yaml")
    return [folder.resolve() for folder in folders]


def sync(folder: Path, project: str | None, entity: str | None, timeout: float) -> Synced:
    """Bring one run to W&B. Raises UserError without a key, a server or a run in `folder`."""
    if in_training(folder):
        return Synced(folder.name, 0, 0, "", busy=True)
    config = read_config(folder)
    if config is None:
        raise UserError("RUN", folder, "is not the folder of a run: its config.yaml cannot be read")
    chosen = config.get("tracker", {})
    with tempfile.TemporaryDirectory() as directory:  # what is shown by `wandb leet` is not to show it twice
        settings = Settings(
            "online",
            project or chosen.get("project", "ablation"),
            entity or chosen.get("entity"),
            timeout,
            Path(directory),
        )
        try:
            view = RunView(folder, settings)
            view.close()
        except NoKey:
            raise no_key() from None
        except Unreachable as error:
            raise UserError("W&B", error, "nothing is lost: run the same command again later") from None
    mark_synced(folder.parent.parent / "wandb", view.identity)
    return Synced(folder.name, view.brought, view.known, str(view.wandb.url))


def in_training(folder: Path) -> bool:
    """Whether a process holds the run's lock. It is asked only of a run that says it is running."""
    status = read_json(folder / "status.json")
    if not isinstance(status, dict) or status.get("status") != "running":
        return False
    try:
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
