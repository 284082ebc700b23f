"""A run's own files uploaded to Weights & Biases: live by follower.py, or later by `src/dashboard.py sync`.

W&B takes no step at or below the last one that it has of a run, so nothing is there twice. Notable, with 0.31:
- The W&B id is the run's identity; a run trained again with `overwrite=true` gets "-2", "-3", ... behind it, because
  W&B neither replaces a run's rows nor lets the id of a deleted run be used again.
- A resumed run's offline folder replaces the earlier one. It is marked as synced: `wandb sync` would double its rows.
- Summary values are set outright: W&B's own `summary="min"` forgets the earlier part of a resumed run.
- `wandb leet` shows the names of folders, so results/wandb has a link for each run that begins with its network; W&B's
  own folders are in results/wandb/wandb. Tables go to the summary: leet draws a curve of the size of a logged one.
"""

import hashlib
import shutil
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests
import wandb
import yaml
from filelock import FileLock

from ablation.config import compose
from ablation.config.schema import Config, Tracker
from ablation.errors import UserError
from ablation.runs.record import history, record, status
from ablation.runs.record.files import read_json
from ablation.runs.record.status import EXIT_STATUS


class RunUpload:
    """One run on its way from its folder to W&B."""

    def __init__(self, folder: Path, tracker: Tracker, directory: Path) -> None:
        """Begin. Raises filelock.Timeout if another process uploads the run, UserError if there is no run or server."""
        self.folder = folder
        config, self.status = read_run(folder)
        run_id = self.status["id"]
        replaced = len(list((folder.parent.parent / "replaced").glob(f"{folder.name}.*")))
        wandb_id = f"{run_id}-{replaced + 1}" if replaced else run_id
        self.kind = "residual" if config.model.residual else "plain"
        about: dict[str, Any] = {"group": config.tracker.group, "job_type": self.kind, "tags": config.name().split("-")}
        about["config"] = config.to_dict() | {"kind": self.kind, "cell": cell(config, run_id)}
        lock = FileLock(folder.parent.parent / "locks" / f"{folder.name}.wandb.lock", timeout=tracker.timeout)
        with ExitStack() as stack:
            stack.enter_context(lock)  # the follower of a killed program may still be at work
            self.run = begin(tracker, directory, wandb_id, folder.name, **about)
            self.lock = stack.pop_all()  # held until `close`
        self.next_step = self.run.starting_step  # the least that W&B still takes
        self.rows: list[dict[str, Any]] = []  # what the run's files hold: the history, then the layers
        self.logged = 0  # how many of these rows W&B did not have
        self.defined: set[str] = set()

    def update(self, last: bool) -> bool:
        """Log the new rows; close the run, and return True, if it has ended or this is the `last` time."""
        self.status = status.read(self.folder) or self.status  # read first: then the history is complete
        self.rows, _ = history.read(self.folder / "history.jsonl")
        for row in self.rows:
            # panels choose keys, not runs, so the errors are logged under the kind of network too
            twice = {"train_error": row.get("running_train_error"), "test_error": row.get("test_error")}
            values = row | {f"{self.kind}/{key}": value for key, value in twice.items()}
            self.log({key: value for key, value in values.items() if value is not None}, row["step"])
        if closed := last or self.status["status"] != "running":
            self.close()
        return closed

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log a row unless W&B has its step."""
        if step < self.next_step:
            return
        for key in values.keys() - self.defined:  # the axis of its chart; an axis has no chart
            axis = "layer/index" if key.startswith("layer/") else "step"
            self.run.define_metric(key, **{"hidden": True} if key == axis else {"step_metric": axis})
        self.defined |= values.keys()
        self.run.log(values, step=step)
        self.next_step = step + 1
        self.logged += 1

    def close(self) -> None:
        """Write how the run ended. Raises UserError if the server stops answering."""
        with self.lock:
            state = "killed" if self.status["status"] == "running" else self.status["status"]
            for key in ("running_train_error", "test_error", "val_error"):
                if values := [row[key] for row in self.rows if row.get(key) is not None]:
                    self.run.summary[f"{key}_min"] = min(values)
            self.run.summary.update({"status": state, "message": self.status["message"]})
            if state == "done":
                self.log_record(record.read(self.folder / "record.json"))
            if state == "interrupted":
                self.run.mark_preempting()
            finish(self.run, EXIT_STATUS.get(state, 128 + 9))  # type: ignore[arg-type]  # 137: killed

    def log_record(self, found: dict[str, Any]) -> None:
        """The final numbers and the confusion table into the summary; the layers as the rows behind the history."""
        self.run.summary.update({f"final/{key}": v for key, v in found["metrics"].items() if v is not None})
        classes, confusion = found["data"]["classes"] or [], found.get("confusion") or []
        if classes and [len(counts) for counts in confusion] == [len(classes)] * len(classes):
            table: list[Any] = [[name, *counts] for name, counts in zip(classes, confusion, strict=True)]
            self.run.summary["confusion"] = wandb.Table(["true class", *classes], table)
        measured = {key: found.get(key) for key in ("parameters", "environment", "timing", "weights_sha256")}
        self.run.config.update(measured | {"data_set": found["data"]}, allow_val_change=True)
        for index, layer in enumerate(found["layers"], start=1):
            values = {f"layer/{key}": layer[key] for key in record.LAYER if layer[key] is not None}
            self.rows.append({"layer/index": index} | values)
            self.log(self.rows[-1], found["step"] + index)


def upload_sweep(job: dict[str, Any], tracker: Tracker) -> None:
    """A sweep's own W&B run: a table of jobs, the report's page and figures; started again, it adds a step to it."""
    group, page = job["group"], Path(job["page"])
    run_id = f"sweep-{hashlib.sha256(group.encode()).hexdigest()[:12]}"
    run = begin(tracker, Path(job["results"]) / "wandb", run_id, group, group=group, job_type="sweep")
    figures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(page.parent.rglob("*.png"))}
    run.log(figures | {"report": wandb.Html(page.read_text("utf-8"), inject=False)})
    run.summary["jobs"] = wandb.Table(list(job["rows"][0]), [list(row.values()) for row in job["rows"]])
    finish(run, 0)


def begin(tracker: Tracker, directory: Path, run_id: str, name: str, **about: Any) -> Any:
    """The W&B run of an id; its files go to `directory`/wandb. Raises UserError if there is no server or no key."""
    directory.mkdir(parents=True, exist_ok=True)
    if tracker.mode == "online":
        check_server(tracker.timeout)
    else:
        for old in directory.glob(f"wandb/offline-run-*-{run_id}"):
            shutil.rmtree(old, ignore_errors=True)
    limits = {"init_timeout": tracker.timeout, "finish_timeout": tracker.timeout, "finish_timeout_raises": True}
    nothing_else = {"disable_git": True, "disable_code": True, "x_save_requirements": False, "symlink": False}
    about |= {"settings": limits | nothing_else | {"silent": True, "console": "off"}, "dir": str(directory)}
    about |= {"mode": tracker.mode, "project": tracker.project, "entity": tracker.entity, "resume": "allow"}
    try:
        run: Any = wandb.init(id=run_id, name=name, reinit="create_new", **about)  # it follows several runs at once
    except wandb.Error as error:
        raise wandb_error(error) from None
    with suppress(OSError):  # a name that is too long for a link, or Windows without the right to make links
        for old in directory.glob("run-*"):
            if not old.exists():  # its folder was replaced
                old.unlink()
        folder = Path(run.settings.sync_dir)
        part = folder.name.removeprefix("offline-")  # run-TIME-ID, by which leet finds the file
        (directory / f"run-{name.replace('/', '_')}-{part}").symlink_to(folder.relative_to(directory))
    if tracker.mode == "offline":
        Path(run.settings.sync_file).with_suffix(".wandb.synced").touch()
    return run


def check_server(timeout: float) -> None:
    """Raise UserError unless the server answers a question with less than status 500 within `timeout` seconds.

    Asked before wandb.init, because a failed init leaves the id unusable for an offline run of the same process.
    """
    try:
        query = {"query": "query Viewer { viewer { id } }"}
        code = requests.post(f"{server()}/graphql", json=query, timeout=timeout).status_code
    except requests.RequestException:
        raise UserError("W&B", server(), "cannot be reached, or does not answer in time") from None
    if code >= 500:
        raise UserError("W&B", server(), f"answers with status {code}")


def wandb_error(error: wandb.Error) -> UserError:
    """The one line for what W&B raises when it has no key or its server refuses."""
    if isinstance(error, wandb.errors.UsageError):
        return UserError("WANDB_API_KEY", "(none)", "W&B asks for a key: set it, or give it once to `wandb login`")
    return UserError("W&B", server(), str(error) or type(error).__name__)


def server() -> str:
    return str(wandb.setup().settings.base_url)


def finish(run: Any, exit_code: int) -> None:
    """End a W&B run. Raises UserError if its server takes longer than the timeout."""
    try:
        run.finish(exit_code=exit_code)
    except TimeoutError:
        raise UserError("W&B", server(), "stopped answering") from None


def read_run(folder: Path) -> tuple[Config, dict[str, Any]]:
    """A run's configuration and status. Raises UserError if they cannot be read or do not fit the schema."""
    config, found = read_json(folder / "config.yaml", yaml.safe_load), status.read(folder)
    if not (isinstance(config, dict) and found and found["id"] and found["status"]):
        raise UserError("RUN", folder, "is not the folder of a run: no readable config.yaml or status.json")
    return compose.from_dict(config), found


def cell(config: Config, run_id: str) -> str:
    """A label that the seeds of one setting share: its name, and the start of the identity that seed 0 would have."""
    name = config.name().removesuffix(f"-seed{config.seed}")
    with suppress(UserError):  # an image folder that is not on this machine: a cell of its own
        for precision in ("bfloat16", "float32"):
            if config.identity(precision) == run_id:
                return f"{name}-{replace(config, seed=0).identity(precision)[:4]}"
    return run_id
