"""The report's figures: Figure 6's curves, error against depth, Figure 7's layer responses, gradient norm by layer.

Source: He et al. 2015, Figures 6 and 7. Notable: the colours of Okabe and Ito, distinct for the colour-blind, with
markers and line styles that remain distinct in grey; the same records give the same files, byte for byte.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ablation.report.content import Illustration
from ablation.report.evidence import read_history
from ablation.report.paper import GRADIENT_GROWTH, WARMUP_DEPTH
from ablation.report.statistics import Values, mean_interval
from ablation.report.studies import Cell, Setting
from ablation.report.tables import quoted_for

STYLE = Path(__file__).with_name("figures.mplstyle")
LOOKS = {20: ("#E69F00", "o"), 32: ("#56B4E9", "s"), 44: ("#009E73", "^"), 56: ("#D55E00", "D")}
LOOKS |= {110: ("#0072B2", "v"), 1202: ("#000000", "P")}
"""Colour and marker of the paper's depths."""
OTHER_COLOURS = ("#CC79A7", "#7F7F7F", "#882255", "#332288", "#999933", "#44AA99")  # the last four are Tol's
OTHER_MARKERS = ("X", "*", "p", "h", "d")
GREY = "#555555"
KINDS: dict[bool, dict[str, Any]] = {
    False: {"color": "#D55E00", "marker": "o", "linestyle": "--", "label": "plain"},
    True: {"color": "#0072B2", "marker": "s", "linestyle": "-", "label": "residual"},
}
"""How plain and residual nets look where depth is an axis."""
LAYER_LINES = {False: {"linestyle": "--", "linewidth": 1.1}, True: {"linestyle": "-", "linewidth": 1.4}}
LAYER_DEPTHS = (20, 56, 110)
"""The depths of Figure 7: shown alone if at least two are there, since five depths of both kinds hide each other."""

Drawn = tuple[str, Figure] | None
"""Caption and figure; None if the records do not allow one."""


def draw(setting: Setting, stem: str) -> list[Illustration]:
    """Every figure that the setting's records allow; their names begin with `stem`."""
    cells = [cell for cell in setting.cells if cell.standard]
    kinds = {"curves": curves, "depth": error_by_depth, "responses": responses, "gradients": gradients}
    with mpl.rc_context(fname=STYLE):
        drawn = {kind: made for kind, make in kinds.items() if (made := make(setting, cells))}
        return [Illustration(kind, f"{stem}-{kind}", text, *saved(figure)) for kind, (text, figure) in drawn.items()]


def saved(figure: Figure) -> tuple[bytes, bytes]:
    svg, png = BytesIO(), BytesIO()
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # the layout, once for both
    figure.set_layout_engine("none")
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def look(depth: int) -> dict[str, Any]:
    blocks = (depth - 2) // 6
    other = OTHER_COLOURS[blocks % len(OTHER_COLOURS)], OTHER_MARKERS[blocks % len(OTHER_MARKERS)]
    return dict(zip(("color", "marker"), LOOKS.get(depth, other), strict=True))


def legend_below(figure: Figure, handles: Sequence[Any], most: int) -> None:
    """One legend under all panels, where it hides no line; in two rows if there are more than `most` entries."""
    columns = len(handles) if len(handles) <= most else (len(handles) + 1) // 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.4, columnspacing=1.6)


def seeds_text(cells: Sequence[Cell]) -> str:
    counts = sorted({len(cell.runs) for cell in cells})
    if len(counts) > 1:
        return f"n = {counts[0]} to {counts[-1]} seeds"
    return "one seed each" if counts == [1] else f"n = {counts[0]} seeds each"


def curves(setting: Setting, cells: list[Cell]) -> Drawn:
    unreadable = 0
    found: list[tuple[Cell, pd.DataFrame, pd.DataFrame]] = []
    for cell in cells:
        histories, bad = zip(*map(read_history, cell.runs["folder"]), strict=True)
        unreadable += sum(bad)
        found.append((cell, band_of(histories, "running_train_error"), band_of(histories, "test_error")))
    found = [(cell, running, test) for cell, running, test in found if len(running) or len(test)]
    if not found:
        return None
    cells = [cell for cell, *_ in found]
    bands = [(cell.depth, band) for cell, *both in found for band in both if len(band)]
    steps = max(float(band.index.max()) for _, band in bands)
    # The axis ends at a round number above the last third of the curves: at 20 % for the paper's.
    highest = highest_usual([(depth, band["mean"].iloc[-max(1, len(band) // 3) :].max()) for depth, band in bands])
    top = next((limit for limit in (20.0, 30.0, 40.0, 60.0, 80.0) if 1.25 * highest <= limit), 100.0)
    unit, unit_label = (1e4, "iteration ($10^4$)") if steps >= 20_000 else (1.0, "iteration")
    depths, kinds = sorted({cell.depth for cell in cells}), sorted({cell.residual for cell in cells})
    figure = Figure(figsize=(3.7 * len(kinds) + 0.3, 3.1), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axis, residual in zip(axes, kinds, strict=True):
        above = []
        for cell, running, test in found:
            if cell.residual is residual:
                style, every = look(cell.depth), max(1, len(test) // 6)
                draw_band(axis, running, unit, color=style["color"], linestyle="--", linewidth=1.0)
                # About six markers a line, shifted from line to line so that they do not hide each other.
                marks = (depths.index(cell.depth) * every // len(depths), every)
                draw_band(axis, test, unit, linewidth=1.5, markersize=3.5, markevery=marks, **style)
                if all(band["mean"].iloc[-1] > top for band in (running, test) if len(band)):
                    above.append(str(cell.depth))
        note = f" ({', '.join(above)} layers: above the axis)" if above else ""
        axis.set(title=f"{KINDS[residual]['label']}{note}", xlabel=unit_label, xlim=(0, steps / unit), ylim=(0, top))
    axes[0].set_ylabel("error (%)")
    lines = [Line2D([], [], markersize=3.5, label=f"{depth} layers", **look(depth)) for depth in depths]
    lines += [Line2D([], [], color=GREY, linestyle="--", label="train"), Line2D([], [], color=GREY, label="test")]
    legend_below(figure, lines, most=7)
    caption = (
        f"Training on {setting.keys['data.name']} (after He et al. 2015, Figure 6). Dashed: training error, running, "
        f"on augmented images; solid: test error. Lines: means over seeds, bands: all seeds; {seeds_text(cells)}."
    )
    return caption + (f" {unreadable} unreadable history rows are left out." if unreadable else ""), figure


def draw_band(axis: Axes, band: pd.DataFrame, unit: float, **style: Any) -> None:
    x = band.index.to_numpy(dtype=float) / unit
    axis.plot(x, band["mean"], **style)
    axis.fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.18, linewidth=0)


def band_of(histories: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """Mean and extremes over the seeds, up to the end of the shortest: beyond it the mean would jump."""
    series = [history.set_index("step")[column].dropna() for history in histories]
    series = [errors for errors in series if len(errors)]
    if not series:
        return pd.DataFrame(columns=["mean", "low", "high"], dtype=float)
    grid = np.unique(np.concatenate([errors.index.to_numpy() for errors in series]))
    rows = np.array([np.interp(grid, errors.index, errors, left=np.nan, right=np.nan) for errors in series])
    whole = np.isfinite(rows).all(axis=0)
    rows, grid = (rows[:, whole], grid[whole]) if whole.any() else (rows[:1], grid)
    return pd.DataFrame({"mean": rows.mean(0), "low": rows.min(0), "high": rows.max(0)}, index=grid)


def highest_usual(errors: Sequence[tuple[int, float]]) -> float:
    """The highest error; without nets of 110 layers and more that failed, which would flatten all others (Figure 6)."""
    usual = [error for depth, error in errors if depth < WARMUP_DEPTH]
    highest = max((error for _, error in errors), default=1.0)
    return max(usual) if len(usual) > 2 and highest > 3 * max(usual) else highest


def error_by_depth(setting: Setting, cells: list[Cell]) -> Drawn:
    panels = (("metrics.train_error", "training error (%)"), ("metrics.test_error", "test error (%)"))
    cells = [cell for cell in cells if any(len(cell.values(column)) for column, _ in panels)]
    depths = sorted({cell.depth for cell in cells})
    if len(depths) < 2:
        return None
    figure = Figure(figsize=(7.4, 3.3), layout="constrained")
    quoted = False
    for axis, (column, label) in zip(figure.subplots(1, 2), panels, strict=True):
        found = [(cell, values) for cell in cells if len(values := cell.values(column))]
        limit = max(1.08 * highest_usual([(cell.depth, float(values.max())) for cell, values in found]), 0.5)
        for residual, style in KINDS.items():
            draw_depths(axis, [pair for pair in found if pair[0].residual is residual], style, limit)
            points = [(c.depth, q.value) for c in cells if c.residual is residual and (q := quoted_for(c, setting))]
            if points and column == "metrics.test_error":
                quoted = True
                hollow = {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.1}
                name, marker = f"{style['label']}, paper", style["marker"]
                axis.plot(*zip(*points, strict=True), marker, markersize=7, label=name, zorder=1.5, **hollow)
        axis.set_xscale("log")
        axis.set_xticks(depths, map(str, depths))
        axis.set_xticks([], minor=True)
        axis.set(xlabel="layers", ylabel=label, xlim=(depths[0] / 1.18, depths[-1] * 1.18))
        lowest = min((float(values.min()) for _, values in found), default=0.0)
        axis.set_ylim(-0.03 * limit if lowest < 0.1 * limit else lowest - 0.12 * (limit - lowest), limit)
    handles, _ = figure.axes[1].get_legend_handles_labels()  # this panel has the paper's points as well
    legend_below(figure, handles, most=4)
    caption = (
        f"Error against depth on {setting.keys['data.name']}, final iterate, training error in evaluation mode on "
        f"clean images: means with 95 % t intervals, dots are seeds; {seeds_text(cells)}."
    )
    return caption + (" Hollow: the paper's numbers (Table 6; plain nets read off Figure 6)." if quoted else ""), figure


def draw_depths(axis: Axes, found: list[tuple[Cell, Values]], style: dict[str, Any], limit: float) -> None:
    if not found:
        return
    shade = style["color"]
    places = [cell.depth * (1.02 if cell.residual else 0.98) for cell, _ in found]
    means = np.array([values.mean() for _, values in found])
    axis.plot(places, np.where(means <= limit, means, np.nan), markersize=4.5, linewidth=1.3, **style)
    for place, mean, (_, values) in zip(places, means, found, strict=True):
        if bounds := mean_interval(values):
            reach = [[mean - bounds[0]], [bounds[1] - mean]]
            axis.errorbar([place], [mean], yerr=reach, fmt="none", ecolor=shade, capsize=3, linewidth=1.2)
            axis.plot(np.full(len(values), place), values, ".", color=shade, markersize=2.5, alpha=0.5)
        if mean > limit:
            where: dict[str, Any] = {"xytext": (-4, -12), "textcoords": "offset points", "ha": "right"}
            axis.annotate(f"{mean:.1f}", (place, limit), fontsize=8, color=shade, **where)
            axis.plot([place], [limit * 0.985], marker="^", color=shade, markersize=5)


def responses(setting: Setting, cells: list[Cell]) -> Drawn:
    if not (found := layer_means(cells, "response_std")):
        return None
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    first, second = figure.subplots(2, 1)
    by_size = [(cell, np.sort(values)[::-1]) for cell, values in found]
    shared = {"ylabel": "std", "ylim": (0, 1.1 * max(values.max() for _, values in found))}
    draw_layers(first, found, title="in the network's order", xlabel="layer", **shared)
    draw_layers(second, by_size, title="sorted", xlabel="layer, by magnitude", **shared)
    caption = (
        f"Standard deviation of the layer responses on {setting.keys['data.name']}, after batch normalization, before "
        "ReLU and addition (after He et al. 2015, Figure 7)."
    )
    return f"{caption} {layer_caption(figure, found)}", figure


def gradients(setting: Setting, cells: list[Cell]) -> Drawn:
    times = (("at initialisation", "gradient_norm_start"), ("after training", "gradient_norm_end"))
    by_time = [(title, found) for title, key in times if (found := layer_means(cells, key))]
    if not by_time:
        return None
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    for axis, (title, found) in zip(figure.subplots(1, len(by_time), squeeze=False)[0], by_time, strict=True):
        # A norm of exactly zero has no place on a logarithmic axis: a gap in the line.
        positive = [(cell, np.where(values > 0, values, np.nan)) for cell, values in found]
        draw_layers(axis, positive, title=title, xlabel="layer", yscale="log")
    figure.axes[0].set_ylabel("gradient norm")
    caption = f"Norm of the loss' gradient in each 3x3 convolution on one fixed batch of {setting.keys['data.name']}."
    caption = f"{caption} {layer_caption(figure, by_time[0][1])}"
    plain = [(cell, values) for cell, values in by_time[0][1] if not cell.residual and by_time[0][0] == times[0][0]]
    if not plain:
        return caption, figure
    # The theory's slope, beside the first stage of the deepest plain net; it ends where the second stage begins.
    deepest, values = max(plain, key=lambda pair: pair[0].depth)
    stage = np.arange(1, (deepest.depth - 2) // 3 + 2)
    line = 2 * values[0] * GRADIENT_GROWTH.value ** (1.0 - stage)
    figure.axes[0].plot(stage, line, color="black", linestyle=":", linewidth=1.2)
    text = f"theory: {GRADIENT_GROWTH.value:.2f} a layer"
    figure.axes[0].annotate(text, (stage[-1] / 2, line[len(line) // 2]), (4, 4), textcoords="offset points", fontsize=8)
    dotted = f"Dotted: the growth that batch norm causes in a wide plain net at its start ({GRADIENT_GROWTH.source})."
    return f"{caption} {dotted}", figure


def layer_means(cells: list[Cell], key: str) -> list[tuple[Cell, Values]]:
    """The cells that have the measurement, with its mean over the seeds, layer by layer."""
    among = [cell for cell in cells if cell.depth in LAYER_DEPTHS]
    found = []
    for cell in among if len({cell.depth for cell in among}) > 1 else cells:
        runs = [np.array([layer[key] for layer in layers], dtype=float) for layers in cell.runs["layers"]]
        if runs := [run for run in runs if len(run) and np.isfinite(run).all()]:  # None became nan
            found.append((cell, np.mean([run for run in runs if len(run) == len(runs[0])], axis=0)))
    return found


def draw_layers(axis: Axes, found: list[tuple[Cell, Values]], **labels: Any) -> None:
    """The networks over their layers: dashed if plain."""
    for cell, values in found:
        style = look(cell.depth) | LAYER_LINES[cell.residual] | {"label": cell.label, "markersize": 3}
        axis.plot(np.arange(1, len(values) + 1), values, markevery=max(1, len(values) // 10), **style)
    axis.set(**labels)
    axis.set_xlim(0, None)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def layer_caption(figure: Figure, found: list[tuple[Cell, Values]]) -> str:
    """Make the legend, a column a depth with plain above residual, and say what the lines are."""
    handles = {handle.get_label(): handle for axis in figure.axes for handle in axis.get_lines()}
    ordered = sorted(handles.values(), key=lambda handle: int(str(handle.get_label()).split("-")[1]))
    legend_below(figure, ordered, most=4)
    return f"Dashed: plain, solid: residual; means over seeds, {seeds_text([cell for cell, _ in found])}."
