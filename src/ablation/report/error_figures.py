"""Curves as in Figure 6, of a setting's networks or of what was varied; and error against depth or a varied number.

Source: He et al. 2015, Figure 6.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from ablation.report.comparisons import Comparison, network
from ablation.report.evidence import read_history
from ablation.report.paper import WARMUP_DEPTH
from ablation.report.plotting import GREY, KINDS, Drawn, draw_means, legend_below, log_axis, look, panels, seeds_text
from ablation.report.studies import Cell, Setting
from ablation.report.tables import ERRORS, quoted_for

COLOURS = ("#000000", "#009E73", "#CC79A7", "#999933", "#882255", "#44AA99", "#7F7F7F", "#332288")
"""Of Okabe and Ito, and of Tol, without the orange and the blue of plain and residual; the baseline is black."""
MARKERS = "osD^vPX*"
PANELS = {"val": "validation error", "train": "training error", "test": "test error"}
MOST_TICKS = 7
MOST_PANELS = 4


class Line(NamedTuple):
    """Cells with their place on the x axis."""

    style: dict[str, Any]
    cells: list[tuple[float, Cell]]
    aside: float
    """As in `draw_means`."""
    quoted: Sequence[tuple[float, float]] = ()
    """The paper's test errors."""


def curves(setting: Setting, cells: list[Cell]) -> Drawn:
    """Figure 6: a panel for plain nets and one for residual ones."""
    shown = {
        str(KINDS[kind]["label"]): [(cell, cell.label, look(cell)) for cell in cells if cell.residual is kind]
        for kind in sorted({cell.residual for cell in cells})
    }
    return draw_curves(f"Training on {setting.keys['data.name']} (after He et al. 2015, Figure 6).", shown)


def compared_curves(comparison: Comparison) -> Drawn:
    """A panel a network, a colour a value; each value looks the same in all panels."""
    finished = [cell for cell in comparison.cells if len(cell.runs)]
    values = {id(cell): comparison.label(cell).removeprefix(f"{network(cell)}, ") for cell in finished}
    ordered = dict.fromkeys(values[id(cell)] for cell in sorted(finished, key=comparison.is_baseline, reverse=True))
    # A colour that comes again has another marker.
    looks = {
        value: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]}
        for i, value in enumerate(ordered)
    }
    every: dict[str, list[tuple[Cell, str, dict[str, Any]]]] = {}
    for cell in finished:
        every.setdefault(network(cell), []).append((cell, values[id(cell)], looks[values[id(cell)]]))
    shown = sorted(every, key=lambda title: -len(every[title]))[:MOST_PANELS]
    rest = ", ".join(title for title in every if title not in shown)
    title = f"{', '.join(comparison.keys)} compared on {comparison.study.data}."
    title += f" Not drawn: {rest}." if rest else ""
    return draw_curves(title, {one: every[one] for one in every if one in shown}, comparison.label)


def draw_curves(
    title: str,
    shown: dict[str, list[tuple[Cell, str, dict[str, Any]]]],
    name: Callable[[Cell], str] = lambda cell: cell.label,
) -> Drawn:
    """A panel a key of `shown`, with the errors of cells, each with its entry in the legend and its look.

    `name` tells the cells of all panels apart. All steps and errors are shown.
    """
    found, unreadable = [], 0
    for place, entries in enumerate(shown.values()):
        for cell, label, style in entries:
            histories, bad = zip(*map(read_history, cell.runs["folder"]), strict=True)
            unreadable += sum(bad)
            bands = [
                (what, band_of(histories, column))
                for what, column in (("train", "running_train_error"), ("test", "test_error"))
            ]
            if any(len(band) for _, band in bands):
                found.append((place, cell, label, style, bands))
    if not found:
        return None
    every = pd.concat([band for *_, bands in found for _, band in bands if len(band)])
    steps, highest, lowest = float(max(every.index)), every["high"].max(), every["mean"].min()
    figure, axes = panels(list(shown), xlabel="iteration", xlim=(-0.02 * steps, 1.03 * steps))  # the markers stay whole
    for order, (place, cell, _, style, bands) in enumerate(found):
        for what, band in bands:
            # About six markers a line, shifted from line to line so that they do not hide each other.
            gap = max(1, len(band) // 6)
            marks = {"marker": style["marker"], "markersize": 3.5, "markevery": (order * gap // len(found), gap)}
            extra = marks | {"linewidth": 1.5} if what == "test" else {"linestyle": "--", "linewidth": 1.0}
            label, x = f"{name(cell)}, {what}", band.index.to_numpy(dtype=float)
            axes[place].plot(x, band["mean"], label=label, color=style["color"], **extra)
            axes[place].fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.15, linewidth=0)
    for axis in axes:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if highest > 10 * lowest > 0:
        axes[0].set_ylim(0.8 * lowest, 1.2 * highest)
        log_axis(axes[0])
    else:
        axes[0].set_ylim(-0.03 * highest, 1.03 * highest + 1e-9)
    for axis in axes[::2]:
        axis.set_ylabel("error (%)")
    looks = {label: style for _, _, label, style, _ in found}
    lines = [Line2D([], [], markersize=3.5, label=label, **style) for label, style in looks.items()]
    lines += [Line2D([], [], color=GREY, linestyle="--", label="train"), Line2D([], [], color=GREY, label="test")]
    legend_below(figure, lines)
    caption = (
        f"{title} Dashed: training error, running, on augmented images; solid: test error. Lines: means over seeds, "
        f"bands: all seeds; {seeds_text([cell for _, cell, *_ in found])}."
    )
    return caption + (f" {unreadable} unreadable history rows are left out." if unreadable else ""), figure


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


def error_by_depth(setting: Setting, cells: list[Cell]) -> Drawn:
    lines = []
    for residual, style in KINDS.items():
        shift = 1.02 if residual else 0.98  # beside each other
        own = [cell for cell in cells if cell.residual is residual]
        quoted = [(float(cell.depth), q.value) for cell in own if (q := quoted_for(cell, setting))]
        lines.append(Line(style, [(cell.depth * shift, cell) for cell in own], shift**1.5, quoted))
    return draw_errors(lines, "layers", str(setting.keys["data.name"]), {cell.depth for cell in cells}, log=True)


def error_by_value(comparison: Comparison) -> Drawn:
    """A line a network; None unless one number was varied."""
    if not comparison.numeric:
        return None
    lines: dict[str, Line] = {}
    for cell in (cell for cell in comparison.cells if len(cell.runs)):
        name = network(cell)
        line = Line(KINDS[cell.residual] | look(cell) | {"label": name}, [], 1.06 if comparison.log else 1.0)
        lines.setdefault(name, line).cells.append((comparison.value(cell), cell))
    ticks = {x for line in lines.values() for x, _ in line.cells}
    return draw_errors(list(lines.values()), comparison.numeric, comparison.study.data, ticks, comparison.log)


def draw_errors(lines: list[Line], xlabel: str, data: str, ticks: set[float], log: bool) -> Drawn:
    """A panel an error; None without an error, or with a single place on the x axis."""
    cells = [cell for line in lines for _, cell in line.cells]
    columns = [name for name in PANELS if any(len(cell.values(ERRORS[name])) for cell in cells)]
    if not columns or len(ticks) < 2:
        return None
    every = [(cell.depth, max(cell.values(ERRORS[name]), default=0.0)) for cell in cells for name in columns]
    limit = max(1.08 * highest_usual(every), 0.5)
    figure, axes = panels([PANELS[name] for name in columns], len(columns), xlabel=xlabel)
    for axis, name in zip(axes, columns, strict=True):
        for line in lines:
            found = [(x, values) for x, cell in line.cells if len(values := cell.values(ERRORS[name]))]
            if found:
                draw_means(axis, found, line.aside, limit, **line.style)
            if line.quoted and name == "test":
                hollow = {"color": line.style["color"], "markerfacecolor": "white", "zorder": 1.5}
                label, marker = f"{line.style['label']}, paper", line.style["marker"]
                axis.plot(*zip(*line.quoted, strict=True), marker, markersize=7, label=label, **hollow)
        axis.set_ylim(-0.03 * limit, limit)
        if log:
            axis.set_xscale("log")
        if len(ticks) <= MOST_TICKS:
            axis.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
            axis.set_xticks([], minor=True)
    axes[0].set_ylabel("error (%)")
    legend_below(figure, axes[-1].get_legend_handles_labels()[0])  # the last panel has the paper's points as well
    caption = (
        f"Error against {xlabel} on {data}, final iterate, training error in evaluation mode on clean images: means "
        f"with 95 % t intervals, dots: seeds; {seeds_text(cells)}."
    )
    quoted = any(line.quoted for line in lines)
    return caption + (" Hollow: the paper's numbers (Table 6; plain nets read off Figure 6)." if quoted else ""), figure


def highest_usual(errors: Sequence[tuple[int, float]]) -> float:
    """The highest error; without nets of 110 layers and more that failed, which would flatten all others (Figure 6)."""
    usual = [error for depth, error in errors if depth < WARMUP_DEPTH]
    highest = max((error for _, error in errors), default=1.0)
    return max(usual) if len(usual) > 2 and highest > 3 * max(usual) else highest
