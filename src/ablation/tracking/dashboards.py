"""The project's W&B workspace as code: which panels stand in which section, and how it gets to the server.

A workspace shows all runs of a project; its panels choose keys, not runs. Hence two habits: runs are grouped by
`config.cell` (equal in everything but the seed: mean and range over the seeds), and uploads.py logs the errors a second
time under the kind of network (`plain/test_error`), so that plain and residual nets can stand side by side as in
Figure 6 of He et al. 2015.
"""

import json
import math
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.workspaces import internal

from ablation.tracking.uploads import check_server, wandb_error

NAME = "Does depth help?"
VIEW = "nw-ablationdepth-v"
"""The name by which the server finds the workspace; its address ends in ?nw=ablationdepth."""


def workspace(entity: str, project: str) -> ws.Workspace:
    """The whole workspace; asks no server."""
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[section(name, panels) for name, panels in sections().items()],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100, smoothing_type="none"),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Config("cell")],
            order=[expr.Ordering(expr.Config("model.depth"), ascending=True)],
            pinned_columns=["summary:final/train_error", "summary:final/test_error", "summary:test_error_min"],
        ),
    )
    made._internal_name = VIEW  # the library has no other way to set it
    return made


def section(name: str, panels: list[Any]) -> ws.Section:
    """An open section with up to three panels in a row; four make two rows."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    layout = ws.SectionLayoutSettings(columns=columns, rows=math.ceil(len(panels) / columns))
    return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)


def sections() -> dict[str, list[Any]]:
    """Section name -> its panels."""
    return {
        "Degradation (He et al. 2015, Sec. 4.2, Figure 6)": [
            curve("plain/train_error", "Plain nets: training error, augmented images", "%"),
            curve("residual/train_error", "Residual nets: training error, augmented images", "%"),
            curve("plain/test_error", "Plain nets: test error", "%"),
            curve("residual/test_error", "Residual nets: test error", "%"),
        ],
        "Depth (Table 6)": [
            against_depth("final/train_error", "Training error, clean images, against depth"),
            against_depth("final/test_error", "Test error against depth"),
            against_depth("test_error_min", "Least test error (selected on the test set) against depth"),
        ],
        "Shortcuts, optimizers, augmentations": [
            by_group(wr.BarPlot, f"{title} by {group}, %", wr.Config(f"{group}.name"), metrics=[key])
            for key, title in (("final/test_error", "Test error"), ("final/train_error", "Training error"))
            for group in ("shortcut", "optimizer", "augmentation")
        ],
        "Health": [
            curve("running_train_loss", "Training loss", "nats", log_y=True),
            curve("test_loss", "Test loss", "nats", log_y=True),
            curve("lr", "Learning rate", "", log_y=True),
            curve("layer/gradient_norm_start", "Gradient norms at the start", "L2 norm", "layer/index", log_y=True),
            curve("layer/gradient_norm_end", "Gradient norms at the end", "L2 norm", "layer/index", log_y=True),
            curve("images_per_second", "Training throughput", "images/s"),
        ],
        "Layers (Figure 7) and confusion": [
            curve("layer/response_std", "Standard deviation of the layer responses", "", "layer/index"),
            wr.WeavePanelSummaryTable(table_name="confusion"),
            wr.WeavePanelSummaryTable(table_name="layers"),
        ],
        "Sweeps": [wr.MediaBrowser(title="Figures of the report", media_keys=["figures/*"], num_columns=2)],
    }


def by_group(panel: type[Any], title: str, groupby: Any, **settings: Any) -> Any:
    """A panel that shows the mean of each group of runs, and its range from least to most."""
    return panel(title=title, groupby=groupby, groupby_aggfunc="mean", groupby_rangefunc="minmax", **settings)


def curve(key: str, title: str, unit: str, x: str = "step", **settings: Any) -> Any:
    """A key against the step or the layer, a line for each cell."""
    titles = {"title_x": x.removesuffix("/index"), "title_y": unit}
    return by_group(wr.LinePlot, title, wr.Config("cell"), x=x, y=[key], max_runs_to_show=100, **titles, **settings)


def against_depth(key: str, title: str) -> Any:
    """A value of the summary against the depth: each run a point, and their running mean."""
    return wr.ScatterPlot(title=title, x=wr.Config("model.depth"), y=wr.SummaryMetric(key), running_ymean=True)


def as_json(entity: str, project: str) -> Any:
    """The workspace as W&B keeps it; needs neither key nor network. Its ids are random."""
    return json.loads(workspace(entity, project)._to_model().model_dump_json(by_alias=True, exclude_none=True))


def push(entity: str | None, project: str, timeout: float) -> tuple[str, bool]:
    """Create or update the workspace. Returns its address and whether it was there before.

    `entity` None is the key's own. Raises UserError if there is no key, no server or no such project.
    """
    check_server(timeout)
    try:
        owner = entity or str(wandb.Api(timeout=math.ceil(timeout)).default_entity)
        made = workspace(owner, project)
        try:
            made._internal_id = internal.get_view_dict(owner, project, VIEW[3:-2])["id"]
        except ValueError:  # the server has none yet
            made._internal_id = ""
        there = bool(made._internal_id)
        made.save()
        return str(made.url), there
    except wandb.Error as error:
        raise wandb_error(error) from None
