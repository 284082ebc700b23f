"""The report's figures: Figure 6's curves, error against depth, Figure 7's layer responses, gradient norm by layer.

Source: He et al. 2015, Figures 6 and 7. Notable: colours of Okabe and Ito, told apart by every kind of colour vision,
with markers and line styles that tell them apart in grey; the files are the same, byte for byte, when the records
are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from ablation.report.evidence import read_history
from ablation.report.paper import WARMUP_DEPTH
from ablation.report.statistics import Values, mean_interval
from ablation.report.studies import Cell, Setting
from ablation.report.tables import quoted_for

STYLE: dict[Any, Any] = {
    "font.family": "serif",
    "font.serif": ["DejaVu Serif"],
    "mathtext.fontset": "dejavuserif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "ablation",  # else the ids in an SVG are new every time
    "svg.fonttype": "path",
}
DEPTH_COLOURS = {20: "#E69F00", 32: "#56B4E9", 44: "#009E73", 56: "#D55E00", 110: "#0072B2", 1202: "#000000"}
OTHER_COLOURS = ("#CC79A7", "#7F7F7F", "#882255", "#332288", "#999933", "#44AA99")  # the last four are Tol's
DEPTH_MARKERS = {20: "o", 32: "s", 44: "^", 56: "D", 110: "v", 1202: "P"}
OTHER_MARKERS = ("X", "*", "p", "h", "d")
PLAIN, RESIDUAL = "#D55E00", "#0072B2"
GREY = "#555555"
LAYER_DEPTHS = (20, 56, 110)
"""The depths of Figure 7: shown alone where at least two are there, for five depths of both kinds hide each other."""


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go below it."""

    name: str
    """End of the file's name."""
    caption: str
    figure: Figure


def pictures(setting: Setting) -> list[Picture]:
    """Every figure that the setting's records allow."""
    cells = [cell for cell in setting.cells if cell.standard]
    with mpl.rc_context(STYLE):
        made = [draw(setting, cells) for draw in (curves, error_by_depth, responses, gradients)]
    return [picture for picture in made if picture is not None]


def save(picture: Picture, stem: str) -> None:
    """Write `stem`.svg and `stem`.png."""
    with mpl.rc_context(STYLE):
        FigureCanvasAgg(picture.figure)
        picture.figure.draw_without_rendering()  # the layout, once for both files
        picture.figure.set_layout_engine("none")
        picture.figure.savefig(f"{stem}.svg", metadata={"Date": None})
        picture.figure.savefig(f"{stem}.png", metadata={"Software": None})


def look(depth: int) -> dict[str, Any]:
    """Colour and marker of a depth: the same in every figure."""
    blocks = (depth - 2) // 6
    return {
        "color": DEPTH_COLOURS.get(depth, OTHER_COLOURS[blocks % len(OTHER_COLOURS)]),
        "marker": DEPTH_MARKERS.get(depth, OTHER_MARKERS[blocks % len(OTHER_MARKERS)]),
    }


def legend_below(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """One legend under all panels, where it hides no line."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.4, columnspacing=1.6)


def seeds_text(cells: Sequence[Cell]) -> str:
    """How many seeds the cells have."""
    counts = sorted({len(cell.runs) for cell in cells})
    if counts == [1]:
        return "one seed each"
    return f"n = {counts[0]} seeds each" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} seeds"


def panels(cells: Sequence[Cell], height: float) -> tuple[Figure, list[tuple[Axes, list[Cell]]]]:
    """One panel for plain and one for residual nets, of those that there are."""
    groups = [[cell for cell in cells if cell.residual is residual] for residual in (False, True)]
    groups = [group for group in groups if group]
    figure = Figure(figsize=(3.7 * len(groups) + 0.3, height), layout="constrained")
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        axis.set_title("residual" if group[0].residual else "plain")
    return figure, list(zip(axes, groups, strict=True))


# Figure 6

CURVES = ("running_train_error", "test_error")


def curves(setting: Setting, cells: list[Cell]) -> Picture | None:
    """Training and test error over the iterations."""
    histories = {cell.label: [read_history(folder) for folder in cell.runs["folder"]] for cell in cells}
    unreadable = sum(bad for rows in histories.values() for _, bad in rows)
    found = {
        label: {column: band_of([history for history, _ in rows], column) for column in CURVES}
        for label, rows in histories.items()
    }
    cells = [cell for cell in cells if any(len(band) for band in found[cell.label].values())]
    if not cells:
        return None
    depths = [cell.depth for cell in cells]
    figure, drawn = panels(cells, 3.1)
    steps = max(float(band.index.max()) for cell in cells for band in found[cell.label].values() if len(band))
    unit, unit_label = (1e4, "iteration ($10^4$)") if steps >= 20_000 else (1.0, "iteration")
    top = upper_limit([(cell, band) for cell in cells for band in found[cell.label].values() if len(band)])
    for axis, group in drawn:
        above = []
        for cell in group:
            style = look(cell.depth)
            running, test = (found[cell.label][column] for column in CURVES)
            draw_band(axis, running, unit, color=style["color"], linestyle="--", linewidth=1.0)
            draw_band(
                axis, test, unit, linewidth=1.5, markersize=3.5, markevery=marks(len(test), depths, cell.depth), **style
            )
            if all(band["mean"].iloc[-1] > top for band in (running, test) if len(band)):
                above.append(f"{cell.depth}")
        axis.set(xlabel=unit_label, xlim=(0, steps / unit), ylim=(0, top))
        if above:
            axis.set_title(f"{axis.get_title()} ({', '.join(above)} layers: above the axis)")
    drawn[0][0].set_ylabel("error (%)")
    lines = [Line2D([], [], markersize=3.5, label=f"{d} layers", **look(d)) for d in sorted(set(depths))]
    lines += [Line2D([], [], color=GREY, linestyle="--", label="train"), Line2D([], [], color=GREY, label="test")]
    legend_below(figure, lines, len(lines) if len(lines) <= 7 else (len(lines) + 1) // 2)
    caption = (
        f"Training on {setting.keys['data.name']} (after He et al. 2015, Figure 6). Dashed: training error, running, "
        f"on augmented images; solid: test error. Lines: means over seeds, bands: all seeds; {seeds_text(cells)}."
    )
    caption += f" {unreadable} unreadable history rows are left out." if unreadable else ""
    return Picture("curves", caption, figure)


def draw_band(axis: Axes, band: pd.DataFrame, unit: float, **style: Any) -> None:
    """The mean as a line and the seeds' range as a band."""
    x = band.index.to_numpy(dtype=float) / unit
    axis.plot(x, band["mean"], **style)
    axis.fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.18, linewidth=0)


def marks(count: int, depths: Sequence[int], depth: int) -> tuple[int, int]:
    """About six markers a line, shifted from line to line so that they do not hide each other."""
    every = max(1, count // 6)
    place = sorted(set(depths)).index(depth)
    return (place * every // max(1, len(set(depths))), every)


def band_of(histories: list[pd.DataFrame], column: str) -> pd.DataFrame:
    """Mean and extremes over the seeds, on all steps of any of them; a seed counts between its first and last step."""
    series = [h.dropna(subset=[column]).set_index("step")[column] for h in histories if column in h]
    series = [s for s in series if len(s)]
    if not series:
        return pd.DataFrame(columns=["mean", "low", "high"], dtype=float)
    grid = np.unique(np.concatenate([s.index.to_numpy() for s in series]))
    rows = np.array([np.interp(grid, s.index, s, left=np.nan, right=np.nan) for s in series])
    # Where a seed that was cut off ends, the mean would jump: the band ends with the shortest seed.
    whole = np.isfinite(rows).all(axis=0)
    rows, grid = (rows[:, whole], grid[whole]) if whole.any() else (rows[:1], grid)
    return pd.DataFrame({"mean": rows.mean(0), "low": rows.min(0), "high": rows.max(0)}, index=grid)


def upper_limit(found: Sequence[tuple[Cell, pd.DataFrame]]) -> float:
    """A round number above the last third of the curves; 20 % for the paper's."""
    ends = [(cell.depth, float(band["mean"].iloc[-max(1, len(band) // 3) :].max())) for cell, band in found]
    highest = highest_usual(ends)
    return next((float(limit) for limit in (20, 30, 40, 60, 80) if 1.25 * highest <= limit), 100.0)


def highest_usual(errors: Sequence[tuple[int, float]]) -> float:
    """The highest error; without nets of 110 layers and more that failed, which would flatten all others (Figure 6)."""
    usual = [error for depth, error in errors if depth < WARMUP_DEPTH]
    highest = max((error for _, error in errors), default=1.0)
    return max(usual) if len(usual) > 2 and highest > 3 * max(usual) else highest


# Error against depth


def error_by_depth(setting: Setting, cells: list[Cell]) -> Picture | None:
    """Training and test error of plain and residual nets against the number of layers, where there are several."""
    columns = (("metrics.train_error", "training error (%)"), ("metrics.test_error", "test error (%)"))
    cells = [cell for cell in cells if any(len(cell.values(column)) for column, _ in columns)]
    if len({cell.depth for cell in cells}) < 2:
        return None
    figure = Figure(figsize=(7.4, 3.3), layout="constrained")
    depths = sorted({cell.depth for cell in cells})
    for axis, (column, label) in zip(figure.subplots(1, 2), columns, strict=True):
        measured = [cell for cell in cells if len(cell.values(column))]
        limit = max(1.08 * highest_usual([(cell.depth, float(cell.values(column).max())) for cell in measured]), 0.5)
        for residual in (False, True):
            kind = [cell for cell in cells if cell.residual is residual]
            draw_depths(axis, kind, column, residual, limit)
            if column == "metrics.test_error":
                draw_quoted(axis, kind, setting, residual)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(depths))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FixedFormatter([str(depth) for depth in depths]))
        axis.set(xlabel="layers", ylabel=label, xlim=(depths[0] / 1.18, depths[-1] * 1.18))
        lowest = min((float(cell.values(column).min()) for cell in measured), default=0.0)
        axis.set_ylim(-0.03 * limit if lowest < 0.1 * limit else lowest - 0.12 * (limit - lowest), limit)
    # The panel of the test error has the paper's points as well.
    handles, _ = figure.axes[1].get_legend_handles_labels()
    legend_below(figure, handles, len(handles))
    quoted = len(handles) > 2
    caption = (
        f"Error against depth on {setting.keys['data.name']}, final iterate, training error in evaluation mode on "
        f"clean images: means with 95 % bootstrap intervals, dots are seeds; {seeds_text(cells)}."
        + (" Hollow: the paper's numbers (Table 6; plain nets read off Figure 6)." if quoted else "")
    )
    return Picture("depth", caption, figure)


def draw_depths(axis: Axes, cells: list[Cell], column: str, residual: bool, limit: float) -> None:
    """Means with intervals, joined; seeds as dots; plain and residual moved aside so that they do not cover each
    other.
    """
    points = [(cell.depth * (1.02 if residual else 0.98), cell.values(column)) for cell in cells]
    points = [(x, values) for x, values in points if len(values)]
    if not points:
        return
    shade = RESIDUAL if residual else PLAIN
    style: dict[str, Any] = {"color": shade, "marker": "s" if residual else "o", "linestyle": "-" if residual else "--"}
    label = "residual" if residual else "plain"
    means = np.array([values.mean() for _, values in points])
    shown = np.where(means <= limit, means, np.nan)
    axis.plot([place for place, _ in points], shown, markersize=4.5, linewidth=1.3, label=label, **style)
    for (place, values), mean in zip(points, means, strict=True):
        bounds = mean_interval(values)
        if bounds:
            reach = [[mean - bounds[0]], [bounds[1] - mean]]
            axis.errorbar([place], [mean], yerr=reach, fmt="none", ecolor=shade, capsize=3, linewidth=1.2)
            axis.plot(np.full(len(values), place), values, ".", color=shade, markersize=2.5, alpha=0.5)
        if mean > limit:
            axis.annotate(
                f"{mean:.1f}",
                (place, limit),
                xytext=(-4, -12),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=shade,
            )
            axis.plot([place], [limit * 0.985], marker="^", color=shade, markersize=5)


def draw_quoted(axis: Axes, cells: list[Cell], setting: Setting, residual: bool) -> None:
    """The paper's points of the same networks, if the recipe is the paper's."""
    points = [(cell.depth, quoted.value) for cell in cells if (quoted := quoted_for(cell, setting))]
    if points:
        shade = RESIDUAL if residual else PLAIN
        label = f"{'residual' if residual else 'plain'}, paper"
        x, y = zip(*points, strict=True)
        style: dict[str, Any] = {
            "markerfacecolor": "white",
            "markeredgecolor": shade,
            "markeredgewidth": 1.1,
            "zorder": 1.5,
        }
        axis.plot(x, y, "s" if residual else "o", markersize=7, label=label, **style)


# Figure 7 and the gradients


def responses(setting: Setting, cells: list[Cell]) -> Picture | None:
    """Standard deviation of each layer's response, in order and by size."""
    found = layer_means(cells, "response_std")
    if not found:
        return None
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    for axis, by_size in zip(figure.subplots(2, 1), (False, True), strict=True):
        for cell, values in found:
            draw_layers(axis, cell, np.sort(values)[::-1] if by_size else values)
        axis.set(ylabel="std", ylim=(0, 1.1 * max(values.max() for _, values in found)), xlim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    first, second = figure.axes
    first.set(title="in the network's order", xlabel="layer")
    second.set(title="sorted", xlabel="layer, by magnitude")
    layer_legend(figure)
    shown = [cell for cell, _ in found]
    caption = (
        f"Standard deviation of the layer responses on {setting.keys['data.name']}, after batch normalization, before "
        f"ReLU and addition (after He et al. 2015, Figure 7). Dashed: plain, solid: residual; means over seeds, "
        f"{seeds_text(shown)}."
    )
    return Picture("responses", caption, figure)


def gradients(setting: Setting, cells: list[Cell]) -> Picture | None:
    """Gradient norm of each layer's weights at the start and at the end."""
    times = (("gradient_norm_start", "at initialisation"), ("gradient_norm_end", "after training"))
    by_time = [(title, layer_means(cells, key)) for key, title in times]
    by_time = [(title, found) for title, found in by_time if found]
    if not by_time:
        return None
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    for axis, (title, found) in zip(figure.subplots(1, len(by_time), squeeze=False)[0], by_time, strict=True):
        for cell, values in found:
            # A norm of exactly zero has no place on a logarithmic axis: a gap in the line.
            draw_layers(axis, cell, np.where(values > 0, values, np.nan))
        axis.set(title=title, xlabel="layer", yscale="log", xlim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set_ylabel("gradient norm")
    layer_legend(figure)
    shown = [cell for cell, _ in by_time[0][1]]
    caption = (
        f"Norm of the loss' gradient in each 3x3 convolution on one fixed batch of {setting.keys['data.name']}. "
        f"Dashed: plain, solid: residual; means over seeds, {seeds_text(shown)}."
    )
    return Picture("gradients", caption, figure)


def layer_legend(figure: Figure) -> None:
    """A column a depth: plain above residual."""
    handles = {handle.get_label(): handle for axis in figure.axes for handle in axis.get_lines()}
    ordered = sorted(handles.values(), key=lambda handle: int(str(handle.get_label()).split("-")[1]))
    legend_below(figure, ordered, max(1, (len(ordered) + 1) // 2) if len(ordered) > 4 else len(ordered))


def layer_means(cells: list[Cell], key: str) -> list[tuple[Cell, Values]]:
    """The cells that have the measurement, with its mean over the seeds, layer by layer."""
    among = [cell for cell in cells if cell.depth in LAYER_DEPTHS]
    found = []
    for cell in among if len({cell.depth for cell in among}) > 1 else cells:
        runs = [[layer[key] for layer in layers] for layers in cell.runs["layers"]]
        runs = [run for run in runs if run and np.isfinite(np.array(run, dtype=float)).all()]  # None becomes nan
        runs = [run for run in runs if len(run) == len(runs[0])]
        if runs:
            found.append((cell, np.array(runs, dtype=float).mean(axis=0)))
    return found


def draw_layers(axis: Axes, cell: Cell, values: Values) -> None:
    """One network: dashed if plain."""
    kind: dict[str, Any] = (
        {"linestyle": "-", "linewidth": 1.4} if cell.residual else {"linestyle": "--", "linewidth": 1.1}
    )
    style = look(cell.depth) | kind
    axis.plot(
        np.arange(1, len(values) + 1),
        values,
        label=cell.label,
        markersize=3,
        markevery=max(1, len(values) // 10),
        **style,
    )
