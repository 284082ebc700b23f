"""Figures of what src/analyze.py found: errors without a block, slices of the loss, correlation of input gradients.

Source: Veit et al. 2016, Figure 3; Li et al. 2018, Figure 2; Balduzzi et al. 2017, Figure 1.
"""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from ablation.report.figures import (
    GREY,
    KINDS,
    Drawn,
    draw_depths,
    draw_layers,
    layer_caption,
    legend_below,
    look,
    seeds_text,
)
from ablation.report.statistics import Values
from ablation.report.studies import Cell, Setting


def analyzed(cells: list[Cell], name: str) -> list[Cell]:
    """The cells that have runs with this analysis, with these runs alone."""
    found = [replace(cell, runs=cell.runs[[name in made for made in cell.runs["analyses"]]]) for cell in cells]
    return [cell for cell in found if len(cell.runs)]


def means(cells: list[Cell], name: str, key: str) -> list[tuple[Cell, Values]]:
    """Each cell with the mean over its runs of a list of an analysis; nan where a run has None."""
    found = []
    for cell in cells:
        lists = [np.array(made[name][key], dtype=float) for made in cell.runs["analyses"]]
        found.append((cell, np.mean([values for values in lists if len(values) == len(lists[0])], axis=0)))
    return found


def measured_on(setting: Setting, cells: list[Cell], name: str) -> str:
    counts = sorted({made[name]["images"] for cell in cells for made in cell.runs["analyses"]})
    return f"{' or '.join(f'{count:,}' for count in counts)} images of {setting.keys['data.name']}"


def lesions(setting: Setting, cells: list[Cell]) -> Drawn:
    if not (cells := analyzed(cells, "lesions")):
        return None
    trained, refitted = (means(cells, "lesions", key) for key in ("errors", "refitted"))
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, found, title in zip(axes, (trained, refitted), ("as trained", "batch norm refitted"), strict=True):
        draw_layers(axis, [(cell, errors[1:]) for cell, errors in found], title=title, xlabel="deleted block")
        for cell, errors in found:
            axis.axhline(errors[0], color=look(cell.depth)["color"], linestyle=":", linewidth=0.7)
    axes[0].set(ylabel="test error (%)", ylim=(0, 100))
    numbers = "; ".join(
        f"{cell.label} {errors[0]:.1f} % whole, without a block {np.nanmedian(errors[1:]):.1f} % in the median, "
        f"refitted {np.nanmedian(others[1:]):.1f} %"
        for (cell, errors), (_, others) in zip(trained, refitted, strict=True)
    )
    caption = (
        f"Test error of trained nets without one block, on {measured_on(setting, cells, 'lesions')} (after Veit et al. "
        "2016, Figure 3). A residual block leaves its shortcut; a plain block, two layers, is skipped if it keeps the "
        "shape. Right: after batch norm's statistics were measured anew on training images. Dotted: nothing deleted."
    )
    return f"{caption} {numbers}. {layer_caption(figure, trained)}", figure


def loss_slice(setting: Setting, cells: list[Cell]) -> Drawn:
    if not (cells := analyzed(cells, "slice")):
        return None
    kinds = sorted({cell.residual for cell in cells})
    figure = Figure(figsize=(3.7 * len(kinds), 3.4), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    found = list(zip(means(cells, "slice", "alphas"), means(cells, "slice", "losses"), strict=True))
    for axis, residual in zip(axes, kinds, strict=True):
        for (cell, alphas), (_, losses) in found:
            if cell.residual is residual:
                axis.plot(alphas, losses, label=cell.label, markersize=3, **look(cell.depth))
        axis.set(title=KINDS[residual]["label"], xlabel="step along the direction", yscale="log")
        axis.legend()
    axes[0].set_ylabel("training loss")
    caption = (
        f"Loss on {measured_on(setting, cells, 'slice')} along one random, filter-normalised direction (after Li et "
        "al. 2018, Figure 2); a step of 1 is as long as the weights. In evaluation mode; batch norm's weights and "
        f"statistics stay as trained. Means over seeds, {seeds_text(cells)}."
    )
    return caption, figure


def correlation(setting: Setting, cells: list[Cell]) -> Drawn:
    if not (cells := analyzed(cells, "correlation")):
        return None
    found = [(cell, np.array([made["correlation"]["cosine"] for made in cell.runs["analyses"]])) for cell in cells]
    limit = 1.1 * max(float(values.max()) for _, values in found) + 0.01
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axis = figure.subplots()
    for residual, style in KINDS.items():
        draw_depths(axis, [pair for pair in found if pair[0].residual is residual], style, limit)
    axis.axhline(0, color=GREY, linewidth=0.6)
    depths = sorted({cell.depth for cell in cells})
    axis.set(xlabel="layers", ylabel="cosine of input gradients", xticks=depths, ylim=(None, limit))
    legend_below(figure, axis.get_legend_handles_labels()[0], most=2)
    caption = (
        "Mean cosine between a logit's gradients in the pixels of an image and of the same image with noise, a tenth "
        "of the pixels' standard deviation, at initialisation (after Balduzzi et al. 2017). On "
        f"{measured_on(setting, cells, 'correlation')}, whose statistics batch norm has. Means with 95 % intervals, "
        f"dots are seeds; {seeds_text(cells)}."
    )
    return caption, figure


FIGURES = {"lesions": lesions, "slice": loss_slice, "correlation": correlation}
