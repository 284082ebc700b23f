"""A run's folder. The files are the truth; everything that is shown elsewhere is made from them.

results/runs/<name>-<identity>/
    config.yaml      the composed configuration          status.json      how far the run is, or how it ended
    history.jsonl    a row per evaluation                record.json      written once, when the run is finished
    checkpoint*.pt   while it is not finished            weights.pt       the result's state dict
    traceback.txt    if it failed                        analysis.json    if src/analyze.py has looked into it
results/locks/       a lock per run
results/replaced/    what overwrite=true or a damaged record moved aside
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import yaml

from ablation.config.identity import SCHEMA
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.runs.record import checkpoints, record, status
from ablation.runs.record.files import cannot_write, read_json, remove_temporary, write_atomically
from ablation.runs.record.status import Busy, held


class RunFolder:
    """The folder of the run that `config` describes, executed in this `precision`."""

    def __init__(self, config: Config, precision: str) -> None:
        self.identity, self.path = config.identity(precision), config.run_folder(precision)
        self.name, self.steps, self.debug = self.path.name, config.schedule.steps, config.trainer.debug
        self.label = config.trainer.label or self.name  # what it is called on the terminal

    def done(self) -> dict[str, Any] | None:
        """The record if the run is finished, else None; what a process left that was killed after it is cleared away.

        Raises UserError if the folder belongs to another run or to another version of the schema.
        """
        for file in ("status.json", "record.json"):
            made = read_json(self.path / file)
            if isinstance(made, dict) and (made.get("schema"), made.get("id")) != (SCHEMA, self.identity):
                holds = f"holds run {made.get('id')!r} of schema {made.get('schema')!r}"
                raise UserError("results", self.path, f"{holds}, not {self.identity} of {SCHEMA}; move it elsewhere")
        try:
            found = record.read(self.path / "record.json")
        except ValueError:
            return None
        left = [*checkpoints.present(self.path), *self.path.glob("*.tmp")]
        if left or (status.read(self.path) or {}).get("status") != "done":
            with suppress(Busy, UserError), held(self.path):  # its process is finishing, or the folder is read-only
                self.status("done", found["step"])
                checkpoints.remove(self.path)
                remove_temporary(self.path)
        return found

    @contextmanager
    def open(self, config: Config) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
        """Hold the run's lock; give (record, None) of a run that is done, else make the folder ready for training.

        Then it gives (None, checkpoint) to resume from, or (None, None) for a new run. Raises Busy if another process
        trains the run, UserError if it cannot be gone on with or written.
        """
        with held(self.path):
            if not config.overwrite and (found := self.done()) is not None:
                yield found, None
                return
            try:
                checkpoint = self.checkpoint(config.overwrite)
                self.begin(config)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            yield None, checkpoint

    def checkpoint(self, overwrite: bool) -> dict[str, Any] | None:
        """The checkpoint to go on from; a folder that cannot be gone on with is moved to results/replaced/.

        That is one with a damaged record, and with `overwrite` one that an earlier command made: it starts a run anew
        once. Cut off, the same command goes on. Raises UserError if there are only damaged checkpoints.
        """
        has_record = (self.path / "record.json").exists()
        config = self.path / "config.yaml"  # says overwrite: true if the command that this one repeats wrote it
        begun = config.is_file() and "overwrite: true" in config.read_text("utf-8", errors="replace").splitlines()
        if not has_record and (begun or not overwrite):
            try:
                return checkpoints.load(self.path)
            except UserError:
                if not overwrite:
                    raise
        if self.path.is_dir() and any(self.path.iterdir()):
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
            aside = self.path.parent.parent / "replaced" / f"{self.name}.{stamp}"
            aside.parent.mkdir(exist_ok=True)
            self.path.rename(aside)
            reason = "record.json is damaged; " if has_record and not overwrite else ""
            print(f"{self.name}: {reason}what was there is kept at {aside}", flush=True)
        return None

    def status(self, state: str, step: int, message: str = "") -> None:
        status.write(self.path, self.identity, state, step, self.steps, message)

    def begin(self, config: Config) -> None:
        """Make the folder, write down what is run, and clear away what a killed or failed process left."""
        self.path.mkdir(parents=True, exist_ok=True)
        remove_temporary(self.path)
        (self.path / "traceback.txt").unlink(missing_ok=True)
        text = yaml.safe_dump(config.to_dict(), sort_keys=False)
        write_atomically(self.path / "config.yaml", lambda file: file.write(text.encode()))
