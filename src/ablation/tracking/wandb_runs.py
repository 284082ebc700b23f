"""A run's own files brought to Weights & Biases: live beside the training, or later by `src/dashboard.py sync`.

One way for both: the history's rows are logged under their own step, and W&B takes no step at or below the last one it
has of that run. So whatever was there already (an earlier part of a resumed run, a half-done sync) is passed over and
the rest is added; nothing is ever there twice. Behind the history's last step come the rows of the record: the tables,
then one row per layer. Notable:
- The W&B id is the run's identity. A run trained again with `overwrite=true` gets "-2", "-3", ... behind it, because
  W&B neither replaces a run's rows nor lets the id of a deleted run be used again.
- A resumed run's offline folder replaces the earlier one and holds the whole history; `wandb sync` brings it once.
  Where part of the run may be at W&B already, `wandb sync` is kept from it: it would append those rows again (0.31).
- Summary values are set outright: W&B's own `summary="min"` forgets the earlier part of a resumed run (0.31).
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import requests
import wandb
import yaml
from wandb.errors import UsageError

from ablation.config import compose
from ablation.errors import UserError
from ablation.runs.record.files import read_json
from ablation.runs.record.outcome import EXIT_STATUS

KILLED = 128 + 9
"""Exit code shown for a run that ended without saying how."""

MINIMA = ("running_train_error", "test_error", "val_error")
"""Columns of the history whose least value goes to the summary as `<name>_min`."""


class Unreachable(Exception):
    """The W&B server did not answer as one; the message says what happened."""


class NoKey(Exception):
    """There is no API key."""


@dataclass(frozen=True)
class Settings:
    """How W&B is used: the config's `tracker`, and where its files go."""

    mode: str
    project: str
    entity: str | None
    timeout: float
    directory: Path
    """W&B makes its folder `wandb` in it."""

    def opened(self, identity: str, tracked_pid: int | None = None, **arguments: Any) -> Any:
        """The W&B run of an id. Raises Unreachable or NoKey within about two timeouts, when online."""
        if self.mode == "online":
            check_server(self.timeout)
        settings = wandb.Settings(
            init_timeout=self.timeout,
            finish_timeout=self.timeout,
            finish_timeout_raises=True,
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            disable_code=True,
            x_save_requirements=False,
            x_disable_stats=tracked_pid is None,
            x_stats_pid=tracked_pid or os.getpid(),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            return wandb.init(
                id=identity,
                mode=self.mode,  # type: ignore[arg-type]  # one of config.TRACKER_MODES
                project=self.project,
                entity=self.entity,
                dir=str(self.directory),
                resume="allow",
                reinit="create_new",  # several runs of one process are followed at once
                settings=settings,
                **arguments,
            )
        except UsageError as error:
            raise NoKey(first_line(error)) from error
        except wandb.Error as error:
            raise Unreachable(first_line(error)) from error


def check_server(timeout: float) -> None:
    """Raise Unreachable unless the server answers a question with less than status 500 within `timeout` seconds.

    Asked before wandb.init, because a failed init leaves the id unusable for an offline run of the same process.
    """
    url = str(wandb.setup().settings.base_url)
    try:
        answer = requests.post(f"{url}/graphql", json={"query": "query Viewer { viewer { id } }"}, timeout=timeout)
    except requests.RequestException as error:
        why = "did not answer" if isinstance(error, requests.Timeout) else "cannot be reached"
        raise Unreachable(f"{url} {why}") from error
    if answer.status_code >= 500:
        raise Unreachable(f"{url} answers with status {answer.status_code}")


def no_key() -> UserError:
    """The one line for a missing API key."""
    return UserError("WANDB_API_KEY", "(none)", "W&B asks for a key: set it, or give it once to `wandb login`")


class RunView:
    """One training run, from its folder to W&B."""

    def __init__(self, folder: Path, settings: Settings, tracked_pid: int | None = None) -> None:
        """Open the W&B run. Raises UserError where `folder` holds no run, Unreachable or NoKey as `Settings.opened`."""
        self.folder, self.settings = folder, settings
        config, identity = read_config(folder), (read_status(folder) or {}).get("id")
        if config is None or identity is None:
            raise UserError(
                "RUN", folder, "is not the folder of a run: no config.yaml with a status.json or record.json"
            )
        self.identity = wandb_id(folder, identity)
        self.kind = "residual" if config["model"]["residual"] else "plain"
        about = {
            "name": folder.name,
            "group": config["tracker"]["group"],
            "job_type": self.kind,
            "tags": tags(config),
            "config": config | {"kind": self.kind, "cell": cell(config, identity)},
        }
        fragments = settings.directory / "wandb"
        with ExitStack() as stack:
            stack.enter_context(held_lock(folder, settings.timeout))
            sent_before = remove_superseded(fragments, self.identity) if settings.mode == "offline" else False
            self.wandb = settings.opened(self.identity, tracked_pid, **about)
            if sent_before:
                mark_synced(fragments, self.identity)
            self.held = stack.pop_all()
        self.first = self.wandb.starting_step
        """The least step that W&B still takes."""
        self.brought = self.known = 0
        self.minima: dict[str, float] = {}
        self.tail = tail(folder / "history.jsonl")
        self.defined: set[str] = set()

    def catch_up(self) -> None:
        """Log the history's new rows."""
        for row in next(self.tail):
            values = {key: value for key, value in row.items() if value is not None}
            for name, key in (("train_error", "running_train_error"), ("test_error", "test_error")):
                values[f"{self.kind}/{name}"] = row[key]  # a panel shows keys, not a choice of runs: one key a kind
            self.log(values, row["step"])
            for key in MINIMA:
                if values.get(key, math.inf) < self.minima.get(key, math.inf):
                    self.minima[key] = values[key]

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log a row unless W&B has its step."""
        self.known += 1
        for key in values.keys() - self.defined:
            self.define(key)
        if step >= self.first:
            self.wandb.log(values, step=step)
            self.brought += 1

    def define(self, key: str) -> None:
        """Name the axis that the chart of a key has; an axis has no chart."""
        self.defined.add(key)
        axis = "layer/index" if key.startswith("layer/") else "step"
        self.wandb.define_metric(key, **{"hidden": True} if key == axis else {"step_metric": axis})

    def close(self) -> None:
        """Bring the rest and say how the run ended. Raises Unreachable if that takes longer than the timeout."""
        self.catch_up()
        status, record = read_status(self.folder) or {}, read_json(self.folder / "record.json")
        state = str(status.get("status", "running"))
        self.wandb.summary.update({f"{key}_min": value for key, value in self.minima.items()})
        self.wandb.summary.update({"status": "killed" if state == "running" else state})
        if status.get("message"):
            self.wandb.summary.update({"message": status["message"]})
        if state == "done" and isinstance(record, dict):
            self.log_record(record)
        if state == "interrupted":
            self.wandb.mark_preempting()
        code = EXIT_STATUS.get(state, KILLED)  # type: ignore[call-overload]  # "running" is no state of an outcome
        try:
            self.wandb.finish(exit_code=code)
        except TimeoutError as error:
            raise Unreachable("the server stopped answering") from error
        finally:
            self.held.close()

    def log_record(self, record: dict[str, Any]) -> None:
        """The final numbers into the summary; the tables and the layers as the rows behind the history."""
        metrics = {f"final/{key}": value for key, value in record["metrics"].items() if value is not None}
        self.wandb.summary.update(metrics)
        measured = {key: record[key] for key in ("parameters", "environment", "timing", "weights_sha256")}
        self.wandb.config.update(measured | {"data_set": record["data"]}, allow_val_change=True)
        step, layers = record["step"] + 1, record["layers"]
        self.log({"confusion": confusion_table(record), "layers": layer_table(layers)}, step)
        for index, layer in enumerate(layers, start=1):
            numbers = {f"layer/{key}": layer[key] for key in LAYER_COLUMNS if layer[key] is not None}
            self.log({"layer/index": index} | numbers, step + index)


LAYER_COLUMNS = ("response_std", "gradient_norm_start", "gradient_norm_end")


def layer_table(layers: list[dict[str, Any]]) -> Any:
    """Figure 7's numbers with the layers' names."""
    numbered = enumerate(layers, start=1)
    rows: list[Any] = [[index, layer["name"], *(layer[key] for key in LAYER_COLUMNS)] for index, layer in numbered]
    return wandb.Table(columns=["index", "layer", *LAYER_COLUMNS], data=rows)


def confusion_table(record: dict[str, Any]) -> Any:
    """A row per true class, a column per predicted one."""
    classes = [str(name) for name in record["data"]["classes"]]
    rows: list[Any] = [[name, *counts] for name, counts in zip(classes, record["confusion"], strict=True)]
    return wandb.Table(columns=["true class", *classes], data=rows)


def log_sweep(told: dict[str, Any], settings: Settings) -> None:
    """A sweep's own W&B run: its jobs as a table, its report as a page, the report's figures as pictures.

    Its id is made from the sweep's name: a sweep that is started again adds a step to it. Raises as `Settings.opened`.
    """
    identity = f"sweep-{hashlib.sha256(told['group'].encode()).hexdigest()[:12]}"
    if settings.mode == "offline":
        remove_superseded(settings.directory / "wandb", identity)
    run = settings.opened(identity, name=told["group"], group=told["group"], job_type="sweep")
    page = Path(told["report"])
    figures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(page.parent.rglob("*.png"))}
    columns = list(told["runs"][0])
    jobs = wandb.Table(columns=columns, data=[[job[key] for key in columns] for job in told["runs"]])
    shown = {"report": wandb.Html(page.read_text(), inject=False)} if page.exists() else {}
    run.log(figures | shown | {"jobs": jobs})
    try:
        run.finish(exit_code=0)
    except TimeoutError as error:
        raise Unreachable("the server stopped answering") from error


def read_config(folder: Path) -> dict[str, Any] | None:
    """The run's composed configuration, or None."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def read_status(folder: Path) -> dict[str, Any] | None:
    """How the run is, from its status file or, among the committed reference runs, its record."""
    for name in ("status.json", "record.json"):
        found = read_json(folder / name)
        if isinstance(found, dict):
            return found
    return None


def wandb_id(folder: Path, identity: str) -> str:
    """The run's identity, with a number behind it if it replaced earlier ones (see the module's docstring)."""
    replaced = len(list((folder.parent.parent / "replaced").glob(f"{folder.name}.*")))
    return f"{identity}-{replaced + 1}" if replaced else identity


def tags(config: dict[str, Any]) -> list[str]:
    """What the run chose in each group, to filter by."""
    model = config["model"]
    network = f"{'resnet' if model['residual'] else 'plain'}{model['depth']}"
    shortcut = [f"shortcut-{config['shortcut']['name']}"] if model["residual"] else []
    groups = [config[group]["name"] for group in ("data", "optimizer", "schedule", "augmentation")]
    return [network, *shortcut, *groups, f"seed{config['seed']}"]


def cell(config: dict[str, Any], identity: str) -> str:
    """A label that the seeds of one setting share and nothing else does: name and hash of the run without its seed."""
    try:
        typed = compose.from_dict(config)
        found = [p for p in ("bfloat16", "float32") if typed.identity(p) == identity]
        shared = replace(typed, seed=0).identity(found[0] if found else typed.trainer.precision)
    except (UserError, OSError):  # an older schema, or an image folder that is not here: a cell of its own
        return identity
    return f"{typed.name().removesuffix(f'-seed{typed.seed}')}-{shared[:4]}"


def tail(path: Path) -> Iterator[list[dict[str, Any]]]:
    """At each `next` the whole rows that were added to a JSONL file since the last one."""
    while not path.exists():  # a run that failed before its first step has none
        yield []
    rest = b""
    with open(path, "rb") as file:
        while True:
            *lines, rest = (rest + file.read()).split(b"\n")
            yield [json.loads(line) for line in lines if line.strip()]


def held_lock(folder: Path, patience: float) -> IO[str]:
    """An open file with an exclusive lock on it, so that one process of this machine at a time brings a run to W&B.

    A process that was killed holds nothing. Raises Unreachable if another one holds it for longer than `patience`.
    """
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"ablation-tracker-{os.getuid()}-{key}.lock"  # the folder is the run's alone
    file = open(path, "a")  # noqa: SIM115 - it stays open as long as it is held
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise Unreachable("another process is bringing this run to W&B") from None
            time.sleep(0.1)


def remove_superseded(fragments: Path, identity: str) -> bool:
    """Remove a run's earlier offline folders. Returns whether a part of the run may be at W&B already."""
    sent = any(fragments.glob(f"run-*-{identity}"))
    for old in fragments.glob(f"offline-run-*-{identity}"):
        sent |= any(old.glob("*.wandb.synced"))
        shutil.rmtree(old, ignore_errors=True)
    return sent


def mark_synced(fragments: Path, identity: str) -> None:
    """Keep `wandb sync` from a run's offline folder, with the mark that it makes itself."""
    for old in fragments.glob(f"offline-run-*-{identity}"):
        (old / f"run-{identity}.wandb.synced").touch()


def first_line(error: BaseException) -> str:
    """The start of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
