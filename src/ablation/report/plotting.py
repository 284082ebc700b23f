"""How every figure of the report looks and is saved, and what several of them draw: panels, legend, means, layers.

Notable: orange and blue, distinct for the colour-blind, with shades, markers and line styles that remain distinct in
grey; the same records give the same files, byte for byte.
"""

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ablation.report.statistics import Values, mean_interval
from ablation.report.studies import Cell

SHADES = {False: mpl.colormaps["Oranges"], True: mpl.colormaps["Blues"]}
DARKER = ((8, 20, 32, 44, 56, 110, 1202), (0.3, 0.42, 0.55, 0.68, 0.8, 0.92, 1.0))
"""Plain nets are orange and residual ones blue in every figure, and darker the deeper they are: in grey, too."""
MARKERS = {20: "o", 32: "s", 44: "^", 56: "D", 110: "v", 1202: "P"}
OTHER_MARKERS = ("X", "*", "p", "h", "d")
GREY = "#555555"
CANVASES = {
    "svg": (FigureCanvasSVG, "Date"),
    "png": (FigureCanvasAgg, "Software"),
    "pdf": (FigureCanvasPdf, "CreationDate"),
}
"""What writes a format, and which of its stamps would make two files of the same records differ."""
MOST_POINTS = 200
"""Of a curve on the page."""
KINDS: dict[bool, dict[str, Any]] = {
    False: {"color": to_hex(SHADES[False](0.7)), "marker": "o", "linestyle": "--", "label": "plain"},
    True: {"color": to_hex(SHADES[True](0.7)), "marker": "s", "linestyle": "-", "label": "residual"},
}
"""How plain and residual nets look where depth is an axis."""

Drawn = tuple[str, Figure] | None
"""Caption and figure; None if the records do not allow one."""


def look(cell: Cell) -> dict[str, Any]:
    """The colour and marker of a network."""
    shade = to_hex(SHADES[cell.residual](float(np.interp(np.log(cell.depth), np.log(DARKER[0]), DARKER[1]))))
    other = OTHER_MARKERS[(cell.depth - 2) // 6 % len(OTHER_MARKERS)]
    return {"color": shade, "marker": MARKERS.get(cell.depth, other)}


def panels(titles: Sequence[str], columns: int = 2, **labels: Any) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a title, no wider than a page of a journal; `labels` are given to each panel's `set`."""
    columns = min(len(titles), columns)
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(7.6 if columns > 1 else 4.6, 0.9 + 2.5 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for unused in axes[len(titles) :]:
        unused.remove()
    for axis, title in zip(axes, titles, strict=False):
        axis.set(title=title, **labels)
    return figure, axes[: len(titles)]


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


def log_axis(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def draw_means(axis: Axes, found: Sequence[tuple[float, Values]], limit: float = math.inf, **style: Any) -> None:
    """A line through the means of the values at each x, with 95 % t intervals and the values as dots beside.

    A mean above `limit` is an arrow with its number.
    """
    means = np.array([values.mean() for _, values in found])
    bounds = np.array([mean_interval(values) or (np.nan, np.nan) for _, values in found])
    reach = np.abs(bounds - means[:, None]).T
    shown = np.where(means <= limit, means, np.nan)
    axis.errorbar([x for x, _ in found], shown, reach, capsize=3, markersize=4.5, linewidth=1.3, **style)
    for (x, values), mean in zip(found, means, strict=True):
        if len(values) > 1:
            dots: dict[str, Any] = {"markersize": 5, "markeredgewidth": 0, "alpha": 0.6}
            axis.plot(np.full(len(values), x * 1.02), values, ".", color=style["color"], **dots)
        if mean > limit:
            where: dict[str, Any] = {"xytext": (-4, -12), "textcoords": "offset points", "ha": "right"}
            axis.annotate(f"{mean:.1f}", (x, limit), fontsize=8, color=style["color"], **where)
            axis.plot([x], [limit * 0.985], marker="^", color=style["color"], markersize=5)


def draw_layers(axis: Axes, found: Sequence[tuple[Cell, Values]], **labels: Any) -> None:
    """The networks over their layers: dashed if plain."""
    for cell, values in found:
        style = look(cell) | {"linestyle": KINDS[cell.residual]["linestyle"], "label": cell.label}
        every = max(1, len(values) // 10)
        axis.plot(np.arange(1, len(values) + 1), values, markevery=every, markersize=3, linewidth=1.3, **style)
    axis.set(**labels)
    axis.set_xlim(0, None)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def layer_caption(figure: Figure, found: Sequence[tuple[Cell, Values]]) -> str:
    """Make the legend, a column a depth with plain above residual, and say what the lines are."""
    handles = {handle.get_label(): handle for axis in figure.axes for handle in axis.get_lines()}
    ordered = sorted(handles.values(), key=lambda handle: int(str(handle.get_label()).split("-")[1]))
    legend_below(figure, ordered)
    return f"Dashed: plain, solid: residual; means over seeds, {seeds_text([cell for cell, _ in found])}."


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
    """The figure as SVG and in `formats`. `savefig` would compute the layout, and draw everything, twice for each."""
    FigureCanvasAgg(figure)
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")
    files = {}
    for name, (canvas, stamp) in CANVASES.items():
        if name in ("svg", *formats):
            getattr(canvas(figure), f"print_{name}")(file := BytesIO(), metadata={stamp: None})
            files[name] = file.getvalue()
    return files
