"""Figures of what src/analyze.py found: errors without a block, slices of the loss, alikeness of input gradients.

Source: Veit et al. 2016, Figure 3; Li et al. 2018, Figure 2; Balduzzi et al. 2017, Figure 1.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from ablation.report import plotting
from ablation.report.plotting import KINDS, Drawn, draw_layers, panels
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
    return (
        f"{caption} {images} images of {setting.keys['data.name']}; means over seeds, {plotting.seeds_text(cells)}.",
        figure,
    )


def means(cells: list[Cell], name: str, key: str) -> list[tuple[Cell, Values]]:
    """Each cell with the mean over its runs of a list of an analysis; nan where a run has None."""
    found = []
    for cell in cells:
        lists = [np.array(made[name][key], dtype=float) for made in cell.runs["analyses"]]
        found.append((cell, np.mean([values for values in lists if len(values) == len(lists[0])], axis=0)))
    return found


def lesions(cells: list[Cell]) -> tuple[str, Figure]:
    trained, refitted = (means(cells, "lesions", key) for key in ("errors", "refitted"))
    figure, axes = panels(["as trained", "batch norm refitted"], xlabel="deleted block")
    for axis, found in zip(axes, (trained, refitted), strict=True):
        draw_layers(axis, [(cell, errors[1:]) for cell, errors in found])
        for cell, errors in found:
            axis.hlines(errors[0], 1, len(errors) - 1, plotting.look(cell)["color"], ":", linewidth=0.8)
    axes[0].set(ylabel="test error (%)", ylim=(0, 100))
    plotting.layer_caption(figure, trained)
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
    titles = [str(KINDS[kind]["label"]) for kind in kinds]
    figure, axes = panels(titles, xlabel="step", yscale="log", xticks=(-1, -0.5, 0, 0.5, 1))
    pairs = zip(means(cells, "slice", "alphas"), means(cells, "slice", "losses"), strict=True)
    for (cell, alphas), (_, losses) in pairs:
        axes[kinds.index(cell.residual)].plot(alphas, losses, label=cell.label, markersize=3, **plotting.look(cell))
    for axis in axes:
        axis.legend()
    axes[0].set_ylabel("training loss")
    return (
        "Loss along one random, filter-normalised direction (after Li et al. 2018, Figure 2); a step of 1 is as long "
        "as the weights. In evaluation mode; batch norm's weights and statistics stay as trained."
    ), figure


def correlation(cells: list[Cell]) -> tuple[str, Figure]:
    figure, (axis,) = panels([""], xlabel="layers", ylabel="cosine", xticks=sorted({cell.depth for cell in cells}))
    for residual, style in KINDS.items():
        own = [cell for cell in cells if cell.residual is residual]
        found = [
            (cell.depth, np.array([made["correlation"]["cosine"] for made in cell.runs["analyses"]])) for cell in own
        ]
        if found:
            plotting.draw_means(axis, found, **style)
    axis.axhline(0, color=plotting.GREY, linewidth=0.6)
    axis.legend()
    return (
        "Mean cosine between a logit's gradients in the pixels of an image and of the same image with noise, a tenth "
        "of the pixels' standard deviation, at initialisation (after Balduzzi et al. 2017). Batch norm has the "
        "statistics of the images; 95 % intervals, dots are seeds."
    ), figure


MAKERS = {"lesions": lesions, "slice": loss_slice, "correlation": correlation}
ANALYSES = {name: partial(draw, name) for name in MAKERS}
