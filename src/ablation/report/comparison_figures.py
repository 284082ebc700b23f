"""The figures of a comparison: the curves of what was varied, overlaid, and error against a value that is a number."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ablation.report.comparisons import Comparison, network
from ablation.report.figures import KINDS, Drawn, draw_curves, legend_below, look, seeds_text
from ablation.report.statistics import mean_interval
from ablation.report.studies import Cell
from ablation.report.tables import ERRORS

COLOURS = ("#000000", "#009E73", "#CC79A7", "#999933", "#882255", "#44AA99", "#7F7F7F", "#332288")
"""Of Okabe and Ito, and of Tol, without the orange and the blue of plain and residual; the baseline is black."""
MARKERS = "osD^vPX*"
PANELS = {"val": "validation error", "train": "training error", "test": "test error"}
MOST_TICKS = 6
MOST_PANELS = 4


def overlaid(comparison: Comparison) -> Drawn:
    """A panel a network, a colour a value; each value looks the same in all panels."""
    finished = [cell for cell in comparison.cells if len(cell.runs)]
    baseline = [cell for cell in finished if comparison.is_baseline(cell)]
    names = list(dict.fromkeys(value_name(comparison, cell) for cell in [*baseline, *finished]))
    panels: dict[str, list[tuple[Cell, str, dict[str, Any]]]] = {}
    for cell in finished:
        name = value_name(comparison, cell)
        place = names.index(name)
        turn = place // len(COLOURS)  # a colour that comes again has another marker
        style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[(place + turn) % len(MARKERS)]}
        panels.setdefault(network(cell), []).append((cell, name, style))
    shown = sorted(panels, key=lambda title: -len(panels[title]))[:MOST_PANELS]
    made = draw_curves({title: panels[title] for title in panels if title in shown}, comparison.label)
    if made is None:
        return None
    rest = [title for title in panels if title not in shown]
    caption = f"{', '.join(comparison.keys)} compared on {comparison.study.data}. {made[0]}"
    return caption + (f" Not drawn: {', '.join(rest)}." if rest else ""), made[1]


def value_name(comparison: Comparison, cell: Cell) -> str:
    """The cell's label without its network, which the panel's title names."""
    return comparison.label(cell).removeprefix(f"{network(cell)}, ")


def error_by_value(comparison: Comparison) -> Drawn:
    """A panel an error, a line a network; None unless one number was varied."""
    cells = [cell for cell in comparison.cells if len(cell.runs)]
    names = [name for name in PANELS if any(len(cell.values(ERRORS[name])) for cell in cells)]
    if not comparison.numeric or len({comparison.value(cell) for cell in cells}) < 2 or not names:
        return None
    figure = Figure(figsize=(min(7.4, 3.7 * len(names)), 3.4), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        for title in dict.fromkeys(map(network, cells)):
            found = [(cell, cell.values(ERRORS[name])) for cell in cells if network(cell) == title]
            found = [(cell, values) for cell, values in found if len(values)]
            places, means = [comparison.value(cell) for cell, _ in found], [values.mean() for _, values in found]
            bounds = [mean_interval(values) or (np.nan, np.nan) for _, values in found]
            reach = np.abs(np.subtract(bounds, np.reshape(means, (-1, 1)))).T
            style = KINDS[found[0][0].residual] | look(found[0][0]) | {"label": title}
            axis.errorbar(places, means, yerr=reach, capsize=3, markersize=4.5, linewidth=1.3, **style)
            # Beside the interval, which would hide them.
            aside = [place * 1.06 if comparison.log else place for place in places]
            dots = [(place, value) for place, (_, values) in zip(aside, found, strict=True) for value in values]
            axis.plot(*zip(*dots, strict=True), ".", color=style["color"], markersize=5, markeredgewidth=0, alpha=0.6)
        values = sorted({comparison.value(cell) for cell in cells})
        axis.set(title=PANELS[name], xlabel=comparison.numeric)
        if comparison.log:
            axis.set_xscale("log")
        if len(values) <= MOST_TICKS:
            axis.set_xticks(values, [f"{value:g}" for value in values])
            axis.set_xticks([], minor=True)
    figure.axes[0].set_ylabel("error (%)")
    if comparison.networks:
        legend_below(figure, figure.axes[0].get_legend_handles_labels()[0])
    caption = f"Error against {comparison.numeric} on {comparison.study.data}, final iterate"
    return f"{caption}: means with 95 % t intervals, dots are seeds; {seeds_text(cells)}.", figure
