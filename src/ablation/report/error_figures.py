"""Curves as in Figure 6, of a setting's networks or of what was varied; and error against depth or a varied number.

Source: He et al. 2015, Figure 6.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

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
CURVES = {"train": "running_train_error", "test": "test_error"}
MOST_TICKS = 7
MOST_PANELS = 4


Line = tuple[dict[str, Any], list[tuple[float, Cell]], list[tuple[float, float]]]
"""The look of a line, its cells with their places on the x axis, and the paper's test errors."""
Entry = tuple[str, Cell, str, dict[str, Any]]
"""A panel's title, a cell in it, its label in the legend and its look."""


def curves(setting: Setting, cells: list[Cell]) -> Drawn:
    """Figure 6: a panel for plain nets and one for residual ones."""
    title = f"Training on {setting.keys['data.name']} (after He et al. 2015, Figure 6)."
    return draw_curves(title, [(KINDS[cell.residual]["label"], cell, cell.label, look(cell)) for cell in cells])


def compared_curves(comparison: Comparison) -> Drawn:
    """A panel a network, a colour a value; each value looks the same in all panels."""
    cells = sorted((cell for cell in comparison.cells if len(cell.runs)), key=comparison.is_baseline, reverse=True)
    values = [comparison.label(cell).removeprefix(f"{network(cell)}, ") for cell in cells]
    # A colour that comes again has another marker.
    looks = {
        value: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]}
        for i, value in enumerate(dict.fromkeys(values))
    }
    entries = [(network(cell), cell, value, looks[value]) for cell, value in zip(cells, values, strict=True)]
    return draw_curves(f"{', '.join(comparison.keys)} compared on {comparison.study.data}.", entries)


def draw_curves(title: str, entries: Sequence[Entry]) -> Drawn:
    """All steps and errors of the first MOST_PANELS panels."""
    titles = list(dict.fromkeys(panel for panel, *_ in entries))
    found, unreadable = [], 0
    for panel, cell, label, style in (entry for entry in entries if entry[0] in titles[:MOST_PANELS]):
        histories, bad = zip(*map(read_history, cell.runs["folder"]), strict=True)
        unreadable += sum(bad)
        bands = [(what, band_of(histories, column)) for what, column in CURVES.items()]
        if any(len(band) for _, band in bands):
            found.append((panel, cell, label, style, bands))
    if not found:
        return None
    every = pd.concat([band for *_, bands in found for _, band in bands if len(band)])
    steps, highest, lowest = float(max(every.index)), every["high"].max(), every["mean"].min()
    limits = (-0.02 * steps, 1.03 * steps)  # the markers at the ends stay whole
    figure, axes = panels(titles[:MOST_PANELS], xlabel="iteration", xlim=limits)
    labels = Counter(label for _, _, label, *_ in found)
    for order, (panel, _, label, style, bands) in enumerate(found):
        axis, name = axes[titles.index(panel)], label if labels[label] == 1 else f"{panel}, {label}"
        for what, band in bands:
            # About six markers a line, shifted from line to line so that they do not hide each other.
            gap = max(1, len(band) // 6)
            marks = {"marker": style["marker"], "markersize": 3.5, "markevery": (order * gap // len(found), gap)}
            extra = marks | {"linewidth": 1.5} if what == "test" else {"linestyle": "--", "linewidth": 1.0}
            x = band.index.to_numpy(dtype=float)
            axis.plot(x, band["mean"], label=f"{name}, {what}", color=style["color"], **extra)
            axis.fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.15, linewidth=0)
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
    caption += f" Not drawn: {', '.join(titles[MOST_PANELS:])}." if titles[MOST_PANELS:] else ""
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
        quoted = [(float(cell.depth), number.value) for cell in own if (number := quoted_for(cell, setting))]
        lines.append((style, [(cell.depth * shift, cell) for cell in own], quoted))
    ticks = {float(cell.depth) for cell in cells}
    return draw_errors(lines, "depth (layers)", str(setting.keys["data.name"]), ticks, log=True)


def error_by_value(comparison: Comparison) -> Drawn:
    """A line a network; None unless one number was varied."""
    if not comparison.numeric:
        return None
    lines: dict[str, Line] = {}
    cells = [cell for cell in comparison.cells if len(cell.runs)]
    for name, cell in ((network(cell), cell) for cell in cells):
        line = lines.setdefault(name, (KINDS[cell.residual] | look(cell) | {"label": name}, [], []))
        line[1].append((comparison.value(cell), cell))
    ticks = set(map(comparison.value, cells))
    return draw_errors(list(lines.values()), comparison.numeric, comparison.study.data, ticks, comparison.log)


def draw_errors(lines: list[Line], xlabel: str, data: str, ticks: set[float], log: bool) -> Drawn:
    """A panel an error; None without an error, or with a single place on the x axis."""
    cells = [cell for _, placed, _ in lines for _, cell in placed]
    columns = [name for name in PANELS if any(len(cell.values(ERRORS[name])) for cell in cells)]
    if not columns or len(ticks) < 2:
        return None
    every = [(cell.depth, max(cell.values(ERRORS[name]), default=0.0)) for cell in cells for name in columns]
    limit = max(1.08 * highest_usual(every), 0.5)
    figure, axes = panels([PANELS[name] for name in columns], len(columns), xlabel=xlabel, ylim=(-0.03 * limit, limit))
    for axis, name in zip(axes, columns, strict=True):
        for style, placed, quoted in lines:
            if found := [(x, values) for x, cell in placed if len(values := cell.values(ERRORS[name]))]:
                draw_means(axis, found, limit, **style)
            if quoted and name == "test":
                hollow = {"color": style["color"], "markerfacecolor": "white", "zorder": 1.5}
                label = f"{style['label']}, paper"
                axis.plot(*zip(*quoted, strict=True), style["marker"], markersize=7, label=label, **hollow)
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
    return caption + (
        " Hollow: the paper's numbers (Table 6; plain nets read off Figure 6)." if any(q for *_, q in lines) else ""
    ), figure


def highest_usual(errors: Sequence[tuple[int, float]]) -> float:
    """The highest error; without nets of 110 layers and more that failed, which would flatten all others (Figure 6)."""
    usual = [error for depth, error in errors if depth < WARMUP_DEPTH]
    highest = max((error for _, error in errors), default=1.0)
    return max(usual) if len(usual) > 2 and highest > 3 * max(usual) else highest
