"""The report's figures: here Figure 6's curves and error against depth, and how every figure looks and is saved.

Source: He et al. 2015, Figure 6. Notable: orange and blue, distinct for the colour-blind, with shades, markers and line
styles that remain distinct in grey; the same records give the same files, byte for byte.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ablation.report.comparisons import Comparison
from ablation.report.content import Illustration
from ablation.report.evidence import read_history
from ablation.report.paper import WARMUP_DEPTH
from ablation.report.statistics import Values, mean_interval
from ablation.report.studies import Cell, Setting
from ablation.report.tables import quoted_for

STYLE = Path(__file__).with_name("figures.mplstyle")
SHADES = {False: mpl.colormaps["Oranges"], True: mpl.colormaps["Blues"]}
DARKER = ((8, 20, 32, 44, 56, 110, 1202), (0.3, 0.42, 0.55, 0.68, 0.8, 0.92, 1.0))
"""Plain nets are orange and residual ones blue in every figure, and darker the deeper they are: in grey, too."""
MARKERS = {20: "o", 32: "s", 44: "^", 56: "D", 110: "v", 1202: "P"}
OTHER_MARKERS = ("X", "*", "p", "h", "d")
GREY = "#555555"
UNDATED = {"svg": "Date", "png": "Software", "pdf": "CreationDate"}
"""By format, what would make two files of the same records differ."""
MOST_POINTS = 200
"""Of a curve on the page."""
KINDS: dict[bool, dict[str, Any]] = {
    False: {"color": to_hex(SHADES[False](0.7)), "marker": "o", "linestyle": "--", "label": "plain"},
    True: {"color": to_hex(SHADES[True](0.7)), "marker": "s", "linestyle": "-", "label": "residual"},
}
"""How plain and residual nets look where depth is an axis."""

Drawn = tuple[str, Figure] | None
"""Caption and figure; None if the records do not allow one."""


def draw(setting: Setting, stem: str, formats: Sequence[str]) -> list[Illustration]:
    """Every figure that the setting's records allow, as SVG and in `formats`; their names begin with `stem`."""
    from ablation.report.analyses import FIGURES  # here, and not above: they are drawn with what is below
    from ablation.report.layer_figures import gradients, responses

    cells = [cell for cell in setting.cells if cell.standard]
    kinds = {"curves": curves, "depth": error_by_depth, "responses": responses, "gradients": gradients} | FIGURES
    return illustrations(kinds, stem, formats, setting, cells)


def draw_comparison(comparison: Comparison, stem: str, formats: Sequence[str]) -> list[Illustration]:
    """The figures of what a study compares, as those of `draw`."""
    from ablation.report.comparison_figures import error_by_value, overlaid

    return illustrations({"curves": overlaid, "values": error_by_value}, stem, formats, comparison)


def illustrations(
    kinds: dict[str, Callable[..., Drawn]], stem: str, formats: Sequence[str], *subject: Any
) -> list[Illustration]:
    found = []
    with mpl.rc_context(fname=STYLE):
        for kind, make in kinds.items():
            if made := make(*subject):
                caption, figure = made
                chart = {"series": list(series_of(figure))} if kind == "curves" else {}
                found.append(Illustration(kind, f"{stem}-{kind}", caption, **saved(figure, formats), chart=chart))
    return found


def series_of(figure: Figure) -> Iterator[dict[str, Any]]:
    """The lines of a figure of curves, whose labels are the network and what was measured, for the page's script."""
    for line in (line for axis in figure.axes for line in axis.get_lines()):
        network, _, what = str(line.get_label()).rpartition(", ")
        every = np.asarray(line.get_xydata())
        thinned = every[np.linspace(0, len(every) - 1, min(len(every), MOST_POINTS)).round().astype(int)]
        points = [(int(step), float(f"{error:.4g}")) for step, error in thinned if np.isfinite(error)]
        color, dash = to_hex(line.get_color()), line.get_linestyle() == "--"
        yield {"network": network, "what": what, "color": color, "dash": dash, "points": points}


def saved(figure: Figure, formats: Sequence[str]) -> dict[str, bytes]:
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # the layout, once for all
    figure.set_layout_engine("none")
    files = {name: BytesIO() for name in UNDATED if name in ("svg", *formats)}
    for name, file in files.items():
        figure.savefig(file, format=name, metadata={UNDATED[name]: None})
    return {name: file.getvalue() for name, file in files.items()}


def look(cell: Cell) -> dict[str, Any]:
    """The colour and marker of a network."""
    shade = to_hex(SHADES[cell.residual](float(np.interp(np.log(cell.depth), np.log(DARKER[0]), DARKER[1]))))
    other = OTHER_MARKERS[(cell.depth - 2) // 6 % len(OTHER_MARKERS)]
    return {"color": shade, "marker": MARKERS.get(cell.depth, other)}


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """One legend under all panels, where it hides no line, in as many rows as its labels need."""
    widest = 0.5 + 0.065 * max(len(str(handle.get_label())) for handle in handles)  # inches, with the line
    rows = math.ceil(len(handles) / max(1, int(figure.get_figwidth() / widest)))
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.4, columnspacing=1.6)


def seeds_text(cells: Sequence[Cell]) -> str:
    counts = sorted({len(cell.runs) for cell in cells})
    if len(counts) > 1:
        return f"n = {counts[0]} to {counts[-1]} seeds"
    return "one seed each" if counts == [1] else f"n = {counts[0]} seeds each"


def curves(setting: Setting, cells: list[Cell]) -> Drawn:
    """Figure 6: a panel for plain nets and one for residual ones."""
    kinds = sorted({cell.residual for cell in cells})
    panels = [[(cell, cell.label, look(cell)) for cell in cells if cell.residual is kind] for kind in kinds]
    titles = [str(KINDS[kind]["label"]) for kind in kinds]
    made = draw_curves(dict(zip(titles, panels, strict=True)), lambda cell: cell.label)
    return made and (f"Training on {setting.keys['data.name']} (after He et al. 2015, Figure 6). {made[0]}", made[1])


def draw_curves(panels: dict[str, list[tuple[Cell, str, dict[str, Any]]]], name: Callable[[Cell], str]) -> Drawn:
    """A panel a title, with the errors of cells, each with its entry in the legend and its look.

    `name` tells the cells of all panels apart. All steps and errors are shown.
    """
    found, unreadable = [], 0
    for place, entries in enumerate(panels.values()):
        for cell, label, style in entries:
            histories, bad = zip(*map(read_history, cell.runs["folder"]), strict=True)
            unreadable += sum(bad)
            running, test = (band_of(histories, column) for column in ("running_train_error", "test_error"))
            if len(running) or len(test):
                found.append((place, cell, label, style, running, test))
    if not found:
        return None
    bands = pd.concat([band for *_, running, test in found for band in (running, test) if len(band)])
    steps, highest, lowest = float(max(bands.index)), bands["high"].max(), bands["mean"].min()
    ten_thousands = steps >= 20_000
    columns, rows = min(len(panels), 2), -(-len(panels) // 2)  # no wider than a page of a journal
    figure = Figure(figsize=(7.7 if columns > 1 else 4.6, 0.9 + 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for unused in axes[len(panels) :]:
        unused.remove()
    for order, (place, cell, _, style, running, test) in enumerate(found):
        draw_band(axes[place], running, f"{name(cell)}, train", linestyle="--", linewidth=1.0, color=style["color"])
        # About six markers a line, shifted from line to line so that they do not hide each other.
        every = max(1, len(test) // 6)
        marks = (order * every // len(found), every)
        draw_band(axes[place], test, f"{name(cell)}, test", linewidth=1.5, markersize=3.5, markevery=marks, **style)
    for axis, title in zip(axes, panels, strict=False):
        axis.set(title=title, xlabel="iteration ($10^4$)" if ten_thousands else "iteration")
        axis.set_xlim(-0.02 * steps, 1.03 * steps)  # the markers at the ends stay whole
        if ten_thousands:
            axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1e4:g}")
    if highest > 10 * lowest > 0:
        axes[0].set_ylim(0.8 * lowest, 1.2 * highest)
        log_axis(axes[0])
    else:
        axes[0].set_ylim(-0.03 * highest, 1.03 * highest + 1e-9)
    for axis in axes[::columns]:
        axis.set_ylabel("error (%)")
    looks = {label: style for _, _, label, style, *_ in found}
    lines = [Line2D([], [], markersize=3.5, label=label, **style) for label, style in looks.items()]
    lines += [Line2D([], [], color=GREY, linestyle="--", label="train"), Line2D([], [], color=GREY, label="test")]
    legend_below(figure, lines)
    caption = (
        "Dashed: training error, running, on augmented images; solid: test error. Lines: means over seeds, bands: all "
        f"seeds; {seeds_text([cell for _, cell, *_ in found])}."
    )
    return caption + (f" {unreadable} unreadable history rows are left out." if unreadable else ""), figure


def log_axis(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def draw_band(axis: Axes, band: pd.DataFrame, label: str, **style: Any) -> None:
    x = band.index.to_numpy(dtype=float)
    axis.plot(x, band["mean"], label=label, **style)
    axis.fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.15, linewidth=0)


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
    panels = {"training error": "metrics.train_error", "test error": "metrics.test_error"}
    measured = [(cell, cell.values(column)) for cell in cells for column in panels.values()]
    measured = [(cell, values) for cell, values in measured if len(values)]
    depths = sorted({cell.depth for cell, _ in measured})
    if len(depths) < 2:
        return None
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    limit = max(1.08 * highest_usual([(cell.depth, float(values.max())) for cell, values in measured]), 0.5)
    quoted = False
    for axis, (title, column) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        found = [(cell, values) for cell in cells if len(values := cell.values(column))]
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
        axis.set(title=title, xlabel="layers", xlim=(depths[0] / 1.18, depths[-1] * 1.18), ylim=(-0.03 * limit, limit))
    figure.axes[0].set_ylabel("error (%)")
    handles, _ = figure.axes[1].get_legend_handles_labels()  # this panel has the paper's points as well
    legend_below(figure, handles)
    caption = (
        f"Error against depth on {setting.keys['data.name']}, final iterate, training error in evaluation mode on "
        f"clean images: means with 95 % t intervals, dots: seeds; {seeds_text([cell for cell, _ in measured])}."
    )
    return caption + (" Hollow: the paper's numbers (Table 6; plain nets read off Figure 6)." if quoted else ""), figure


def draw_depths(axis: Axes, found: list[tuple[Cell, Values]], style: dict[str, Any], limit: float) -> None:
    if not found:
        return
    shade = style["color"]
    places = [cell.depth * (1.02 if cell.residual else 0.98) for cell, _ in found]
    means = np.array([values.mean() for _, values in found])
    axis.plot(places, np.where(means <= limit, means, np.nan), markersize=4.5, linewidth=1.3, **style)
    for place, mean, (cell, values) in zip(places, means, found, strict=True):
        aside = place * (1.03 if cell.residual else 1 / 1.03)
        if bounds := mean_interval(values):
            reach = [[mean - bounds[0]], [bounds[1] - mean]]
            axis.errorbar([place], [mean], yerr=reach, fmt="none", ecolor=shade, capsize=3, linewidth=1.2)
            dots: dict[str, Any] = {"markeredgewidth": 0, "alpha": 0.6}
            axis.plot(np.full(len(values), aside), values, ".", color=shade, markersize=5, **dots)
        if mean > limit:
            where: dict[str, Any] = {"xytext": (-4, -12), "textcoords": "offset points", "ha": "right"}
            axis.annotate(f"{mean:.1f}", (place, limit), fontsize=8, color=shade, **where)
            axis.plot([place], [limit * 0.985], marker="^", color=shade, markersize=5)
