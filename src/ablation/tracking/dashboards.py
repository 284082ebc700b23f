"""The project's W&B workspace as code: which panels stand in which section, and its way to the server.

A workspace shows all runs of a project; its panels choose keys, not runs. Hence two habits: runs are grouped by
`config.cell` (equal in everything but the seed: mean and range over the seeds), and the tracker logs the errors a
second time under the kind of network (`plain/test_error`), so that plain and residual nets can stand side by side as in
Figure 6 of He et al. 2015. Notable: wandb-workspaces gives panels and sections random ids; `deterministic`
replaces them by their place, so that two builds are equal.
"""

import json
import math
import re
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.workspaces import internal

from ablation.errors import UserError
from ablation.tracking.wandb_runs import Unreachable, check_server, no_key

NAME = "Does depth help?"
VIEW = "nw-ablationdepth-v"
"""The name by which the server knows the workspace; made of it, the address says ?nw=ablationdepth."""

CELL = wr.Config("cell")
RANDOM_ID = re.compile(r"^[a-z0-9]{9,15}$")


def workspace(entity: str, project: str) -> ws.Workspace:
    """The whole workspace; nothing is asked of a server."""
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            section("Degradation (He et al. 2015, Sec. 4.2, Figure 6)", degradation(), columns=2),
            section("Depth (Table 6)", depth(), columns=3),
            section("Shortcuts, optimizers, augmentations", variations(), columns=3),
            section("Health", health(), columns=3),
            section("Layers (Figure 7) and confusion", layers(), columns=2),
            section("Sweeps", sweeps(), columns=1),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100, smoothing_type="none"),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Config("cell")],
            order=[expr.Ordering(expr.Config("model.depth"), ascending=True)],
            pinned_columns=["summary:final/train_error", "summary:final/test_error", "summary:test_error_min"],
        ),
    )
    made._internal_name = VIEW  # the library offers no other way to a name that stays the same
    return made


def section(name: str, panels: list[Any], columns: int) -> ws.Section:
    """An open section whose panels stand in rows."""
    rows = max(1, -(-len(panels) // columns))
    layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
    return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)


def curve(key: str, title: str, unit: str, x: str = "step", **settings: Any) -> wr.LinePlot:
    """A key against the step: a line per cell, its mean over the seeds with the range from least to most."""
    return wr.LinePlot(
        title=title,
        x=x,
        y=[key],
        title_x=x.replace("layer/index", "layer"),
        title_y=unit,
        groupby=CELL,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=100,
        **settings,
    )


def degradation() -> list[Any]:
    """Figure 6: training and test error, plain nets on the left, residual ones on the right."""
    kinds = (("plain", "Plain nets"), ("residual", "Residual nets"))
    errors = (("train_error", "training error, augmented pictures"), ("test_error", "test error"))
    return [curve(f"{kind}/{key}", f"{title}: {error}", "%") for key, error in errors for kind, title in kinds]


def depth() -> list[Any]:
    """The final iterate's errors against the depth: each run a point, and their running mean."""
    keys = (
        ("final/train_error", "Training error, clean pictures, against depth"),
        ("final/test_error", "Test error against depth"),
        ("test_error_min", "Least test error (selected on the test set) against depth"),
    )
    x = wr.Config("model.depth")
    return [wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(key), running_ymean=True) for key, title in keys]


def variations() -> list[Any]:
    """The final test and training error by what was chosen in a group."""
    groups = ("shortcut", "optimizer", "augmentation")
    keys = (("final/test_error", "Test error"), ("final/train_error", "Training error"))
    return [
        wr.BarPlot(
            title=f"{title} by {group}, %",
            metrics=[key],
            groupby=wr.Config(f"{group}.name"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for key, title in keys
        for group in groups
    ]


def health() -> list[Any]:
    """What tells a sick run from a slow one."""
    return [
        curve("running_train_loss", "Training loss", "nats", log_y=True),
        curve("test_loss", "Test loss", "nats", log_y=True),
        curve("lr", "Learning rate", "", log_y=True),
        curve("layer/gradient_norm_start", "Gradient norms at the start", "L2 norm", "layer/index", log_y=True),
        curve("layer/gradient_norm_end", "Gradient norms at the end", "L2 norm", "layer/index", log_y=True),
        curve("images_per_second", "Training throughput", "images/s"),
    ]


def layers() -> list[Any]:
    """Figure 7, and which classes are taken for which."""
    return [
        curve("layer/response_std", "Standard deviation of the layer responses", "", "layer/index"),
        wr.WeavePanelSummaryTable(table_name="confusion"),
        wr.WeavePanelSummaryTable(table_name="layers"),
    ]


def sweeps() -> list[Any]:
    """The report's figures, which the last job of a sweep leaves in a run of their own."""
    return [wr.MediaBrowser(title="Figures of the report", media_keys=["figures/*"], num_columns=2)]


def deterministic(view: dict[str, Any]) -> dict[str, Any]:
    """The view with every random id replaced by its place in it."""
    seen: dict[str, str] = {}

    def masked(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: masked(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [masked(inner, key) for inner in value]
        if key in ("__id__", "id") and isinstance(value, str) and RANDOM_ID.match(value):
            return seen.setdefault(value, f"id{len(seen)}")
        return value

    made: dict[str, Any] = masked(view)
    return made


def as_json(entity: str, project: str) -> dict[str, Any]:
    """The workspace as W&B keeps it, with deterministic ids; needs neither key nor network."""
    view = workspace(entity, project)._to_model()
    return deterministic(json.loads(view.model_dump_json(by_alias=True, exclude_none=True)))


def push(entity: str | None, project: str, timeout: float) -> tuple[str, bool]:
    """Create the workspace or bring it up to date. Returns its address and whether it was there.

    `entity` None is the key's own. Raises UserError without a key, a server or a project to put it in.
    """
    try:
        check_server(timeout)
        owner = entity or str(wandb.Api(timeout=math.ceil(timeout)).default_entity)
        made = workspace(owner, project)
        made._internal_id = known_id(owner, project)
        there = bool(made._internal_id)
        made.save()
        return str(made.url), there
    except wandb.errors.UsageError:
        raise no_key() from None
    except (Unreachable, wandb.Error) as error:
        raise UserError("W&B", error, "the workspace was not pushed; the same command does it later") from None


def known_id(entity: str, project: str) -> str:
    """The server's id of the workspace; empty if it has none."""
    try:
        found = internal.get_view_dict(entity, project, VIEW.removeprefix("nw-").removesuffix("-v"))
    except ValueError:  # how the library says that there is none
        return ""
    return str(found["id"])
