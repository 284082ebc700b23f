"""The project's W&B workspace as code: which panels stand in which section, and how it gets to the server.

A workspace shows all runs of a project, and its panels choose keys, not runs. So runs are grouped by `config.cell`
(all but the seed), and uploads.py logs the errors also by the kind of network (`plain/test_error`), as in Figure 6.
"""

import math
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.workspaces import internal

from ablation.errors import UserError, first_line
from ablation.tracking.uploads import check_server, server, wandb_error

VIEW = "nw-ablationdepth-v"  # by which the server finds the workspace; its address ends in ?nw=ablationdepth
SEEDS = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}  # what a panel shows of a group of runs


def workspace(entity: str, project: str) -> Any:
    """The whole workspace; needs neither key nor network. The ids of its parts are random."""
    pinned = ["summary:final/train_error", "summary:final/test_error", "summary:test_error_min"]
    order = [expr.Ordering(expr.Config("model.depth"), ascending=True)]
    shown = [ws.Section(key, panels, True, layout_settings=layout(len(panels))) for key, panels in sections().items()]
    made = ws.Workspace(
        entity=entity,
        project=project,
        name="Does depth help?",
        sections=shown,
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100, smoothing_type="none"),
        runset_settings=ws.RunsetSettings(groupby=[expr.Config("cell")], order=order, pinned_columns=pinned),
    )
    made._internal_name = VIEW  # the library has no other way to set it
    return made


def layout(panels: int) -> Any:
    """Up to three panels in a row; four make two rows."""
    columns = 2 if panels == 4 else min(3, panels)
    return ws.SectionLayoutSettings(columns=columns, rows=math.ceil(panels / columns))


def sections() -> dict[str, list[Any]]:
    """Section name -> its panels."""
    return {
        "Degradation (He et al. 2015, Sec. 4.2, Figure 6)": [
            curve(f"{kind}/{key}", f"{kind.capitalize()} nets: {error}", "%")
            for key, error in (("train_error", "training error, augmented images"), ("test_error", "test error"))
            for kind in ("plain", "residual")
        ],
        "Depth (Table 6)": [
            wr.ScatterPlot(title=title, x=wr.Config("model.depth"), y=wr.SummaryMetric(key), running_ymean=True)
            for key, title in (
                ("final/train_error", "Training error, clean images, against depth"),
                ("final/test_error", "Test error against depth"),
                ("test_error_min", "Least test error (selected on the test set) against depth"),
            )
        ],
        "Shortcuts, optimizers, augmentations": [
            wr.BarPlot(title=f"{error} by {group}, %", groupby=wr.Config(f"{group}.name"), metrics=[key], **SEEDS)
            for key, error in (("final/test_error", "Test error"), ("final/train_error", "Training error"))
            for group in ("shortcut", "optimizer", "augmentation")
        ],
        "Health": [
            curve("running_train_loss", "Training loss", "nats", log_y=True),
            curve("test_loss", "Test loss", "nats", log_y=True),
            curve("lr", "Learning rate", "", log_y=True),
            curve("layer/gradient_norm_start", "Gradient norms at the start", "L2 norm", log_y=True),
            curve("layer/gradient_norm_end", "Gradient norms at the end", "L2 norm", log_y=True),
            curve("images_per_second", "Training throughput", "images/s"),
        ],
        "Layers (Figure 7) and confusion": [
            curve("layer/response_std", "Standard deviation of the layer responses", ""),
            wr.WeavePanelSummaryTable(table_name="confusion"),
        ],
        "Sweeps": [wr.MediaBrowser(title="Figures of the report", media_keys=["figures/*"], num_columns=2)],
    }


def curve(key: str, title: str, unit: str, log_y: bool = False) -> Any:
    x = "layer/index" if key.startswith("layer/") else "step"
    about = {"title": title, "title_x": x.removesuffix("/index"), "title_y": unit, "max_runs_to_show": 100}
    return wr.LinePlot(x=x, y=[key], log_y=log_y or None, groupby=wr.Config("cell"), **about, **SEEDS)


def push(entity: str | None, project: str, timeout: float) -> str:
    """Create or update the workspace; returns which, and its address. Raises UserError without key, server, project."""
    check_server(timeout)
    try:
        if not (owner := entity or wandb.Api(timeout=math.ceil(timeout)).default_entity):
            raise UserError("--entity", "(none)", "the key has no user or team of its own: name one")
        made = workspace(owner, project)
        try:
            made._internal_id = internal.get_view_dict(made.entity, project, VIEW[3:-2])["id"]
        except ValueError as error:
            if not str(error).startswith(("Workspace", "Project")):  # the server has none yet
                raise UserError("W&B", server(), f"its workspace cannot be read: {first_line(error)}") from None
            made._internal_id = ""
        word = "updated" if made._internal_id else "created"
        made.save()
        return f"{word}: {made.url}"
    except wandb.Error as error:
        raise wandb_error(error) from None
