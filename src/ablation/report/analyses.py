"""Figures of what src/analyze.py found: errors without a block, slices of the loss, alikeness of input gradients.

Source: Veit et al. 2016, Figure 3; Li et al. 2018, Figure 2; Balduzzi et al. 2017, Figure 1.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from ablation.report.figures import GREY, KINDS, Drawn, draw_depths, look, seeds_text
from ablation.report.layer_figures import draw_layers, layer_caption
from ablation.report.statistics import Values
from ablation.report.studies import Cell, Setting


def draw(name: str, setting: Setting, cells: list[Cell]) -> Drawn:
    """The figure of one analysis, made of the runs that have it."""
    cells = [replace(cell, runs=cell.runs[[name in made for made in cell.runs["analyses"]]]) for cell in cells]
    if not (cells := [cell for cell in cells if len(cell.runs)]):
        return None
    counts = sorted({made[name]["images"] for cell in cells for made in cell.runs["analyses"]})
    images = " or ".join(f"{count:,}" for count in counts)
    caption, figure = MAKERS[name](cells)
    return f"{caption} {images} images of {setting.keys['data.name']}; means over seeds, {seeds_text(cells)}.", figure


def means(cells: list[Cell], name: str, key: str) -> list[tuple[Cell, Values]]:
    """Each cell with the mean over its runs of a list of an analysis; nan where a run has None."""
    found = []
    for cell in cells:
        lists = [np.array(made[name][key], dtype=float) for made in cell.runs["analyses"]]
        found.append((cell, np.mean([values for values in lists if len(values) == len(lists[0])], axis=0)))
    return found


def lesions(cells: list[Cell]) -> tuple[str, Figure]:
    trained, refitted = (means(cells, "lesions", key) for key in ("errors", "refitted"))
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, found, title in zip(axes, (trained, refitted), ("as trained", "batch norm refitted"), strict=True):
        draw_layers(axis, [(cell, errors[1:]) for cell, errors in found], title=title, xlabel="deleted block")
        for cell, errors in found:
            axis.hlines(errors[0], 1, len(errors) - 1, look(cell)["color"], ":", linewidth=0.8)
    axes[0].set(ylabel="test error (%)", ylim=(0, 100))
    layer_caption(figure, trained)
    numbers = "; ".join(
        f"{cell.label} {errors[0]:.1f} % whole, without a block {np.nanmedian(errors[1:]):.1f} % in the median, "
        f"refitted {np.nanmedian(others[1:]):.1f} %"
        for (cell, errors), (_, others) in zip(trained, refitted, strict=True)
    )
    return (
        "Test error of trained nets without one block (after Veit et al. 2016, Figure 3). A residual block (solid) "
        "leaves its shortcut; a plain one (dashed) is skipped where it keeps the shape. Dotted: nothing deleted. "
        f"Right: with batch norm's statistics measured anew on training images. {numbers}."
    ), figure


def loss_slice(cells: list[Cell]) -> tuple[str, Figure]:
    kinds = sorted({cell.residual for cell in cells})
    figure = Figure(figsize=(3.7 * len(kinds), 3.2), layout="constrained")
    axes = dict(zip(kinds, figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], strict=True))
    for (cell, alphas), (_, losses) in zip(
        means(cells, "slice", "alphas"), means(cells, "slice", "losses"), strict=True
    ):
        axes[cell.residual].plot(alphas, losses, label=cell.label, markersize=3, **look(cell))
    for residual, axis in axes.items():
        axis.set(title=KINDS[residual]["label"], xlabel="step", yscale="log", xticks=(-1, -0.5, 0, 0.5, 1))
        axis.legend()
    axes[kinds[0]].set_ylabel("training loss")
    return (
        "Loss along one random, filter-normalised direction (after Li et al. 2018, Figure 2); a step of 1 is as long "
        "as the weights. In evaluation mode; batch norm's weights and statistics stay as trained."
    ), figure


def correlation(cells: list[Cell]) -> tuple[str, Figure]:
    found = [(cell, np.array([made["correlation"]["cosine"] for made in cell.runs["analyses"]])) for cell in cells]
    limit = 1.1 * max(float(values.max()) for _, values in found) + 0.01
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axis = figure.subplots()
    for residual, style in KINDS.items():
        draw_depths(axis, [pair for pair in found if pair[0].residual is residual], style, limit)
    axis.axhline(0, color=GREY, linewidth=0.6)
    depths = sorted({cell.depth for cell in cells})
    axis.set(xlabel="layers", ylabel="cosine", xticks=depths, xlim=(depths[0] - 3, depths[-1] + 3), ylim=(None, limit))
    axis.legend()
    return (
        "Mean cosine between a logit's gradients in the pixels of an image and of the same image with noise, a tenth "
        "of the pixels' standard deviation, at initialisation (after Balduzzi et al. 2017). Batch norm has the "
        "statistics of the images; 95 % intervals, dots are seeds."
    ), figure


MAKERS = {"lesions": lesions, "slice": loss_slice, "correlation": correlation}
FIGURES = {name: partial(draw, name) for name in MAKERS}
