"""A run's own files as event files for TensorBoard, in results/tensorboard/<run>: no account, no network.

Written live by follower.py (`tracker=tensorboard`), or later by `src/dashboard.py tensorboard`; each time anew, so that
nothing is there twice. Notable: TensorBoard's own writer, without torch's; times are the training's, also over
interruptions; the configuration goes to the tab HPARAMS.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ablation.config.identity import defining
from ablation.runs.record import history, record, status
from ablation.tracking.uploads import read_run


class EventFiles:
    """One run on its way into an event file."""

    def __init__(self, folder: Path, directory: Path) -> None:
        """Begin. Raises UserError if `folder` is not a run's."""
        config, self.status = read_run(folder)
        self.folder, self.logged, self.began = folder, 0, (folder / "config.yaml").stat().st_mtime
        shutil.rmtree(directory / folder.name, ignore_errors=True)
        self.writer = EventFileWriter(str(directory / folder.name), flush_secs=1)
        settings = record.leaves(defining(config.to_dict(), config.trainer.precision))
        self.write(hparams_pb({key: v for key, v in settings if isinstance(v, str | int | float)}, folder.name))

    def write(self, summary: Any, step: int = 0, seconds: float = 0.0) -> None:
        """Add a summary at a step, `seconds` of training after the start."""
        self.writer.add_event(Event(wall_time=self.began + seconds, step=step, summary=summary))

    def scalars(self, group: str, values: Mapping[str, Any], step: int, seconds: float = 0.0) -> None:
        numbers = {key: v for key, v in values.items() if isinstance(v, int | float) and key != "step"}
        made = [Summary.Value(tag=f"{group}/{key}", simple_value=v) for key, v in numbers.items()]
        self.write(Summary(value=made), step, seconds)

    def update(self, last: bool) -> bool:
        """Write the new rows; finish, and return True, if the run has ended or this is the `last` time."""
        self.status = status.read(self.folder) or self.status  # read first: then the history is complete
        rows, _ = history.read(self.folder / "history.jsonl")
        for row in rows[self.logged :]:
            for group in ("error", "loss"):
                own = {key: row.pop(key) for key in list(row) if key.endswith(group)}
                self.scalars(group, own, row["step"], row.get("wall_seconds") or 0.0)
            self.scalars("run", row, row["step"], row.get("wall_seconds") or 0.0)
        self.logged = len(rows)
        if closed := last or self.status["status"] != "running":
            if self.status["status"] == "done":
                found = record.read(self.folder / "record.json")
                errors = {key: found["metrics"][key] for key in record.ERRORS}
                self.scalars("final", errors, found["step"], found["timing"]["wall_seconds"] or 0.0)
                for number, layer in enumerate(found["layers"], start=1):
                    self.scalars("layer", layer, step=number)
            self.writer.close()
        return closed
