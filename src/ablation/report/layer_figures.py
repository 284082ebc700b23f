"""The figures over a network's layers: Figure 7's responses, and the gradients' norm at start and end.

Source: He et al. 2015, Figure 7; Yang et al. 2019.
"""

import numpy as np

from ablation.report.paper import GRADIENT_GROWTH
from ablation.report.plotting import Drawn, draw_layers, layer_caption, log_axis, panels
from ablation.report.statistics import Values
from ablation.report.studies import Cell, Setting

DEPTHS = (20, 56, 110)
"""The depths of Figure 7: shown alone if at least two are there, since five depths of both kinds hide each other."""


def responses(setting: Setting, cells: list[Cell]) -> Drawn:
    if not (found := layer_means(cells, "response_std")):
        return None
    figure, (first, second) = panels(["in the network's order", "sorted"])
    draw_layers(first, found, xlabel="layer", ylabel="standard deviation of responses")
    draw_layers(second, [(cell, np.sort(values)[::-1]) for cell, values in found], xlabel="layers, the largest first")
    highest, lowest = (choose(choose(values) for _, values in found) for choose in (max, min))
    if highest > 5 * lowest > 0:
        log_axis(first)
    else:
        first.set_ylim(0, 1.1 * highest)
    caption = (
        f"Standard deviation of the layer responses on {setting.keys['data.name']}, after batch normalization, before "
        "ReLU and addition (after He et al. 2015, Figure 7)."
    )
    return f"{caption} {layer_caption(figure, found)}", figure


def gradients(setting: Setting, cells: list[Cell]) -> Drawn:
    times = {"at initialisation": "gradient_norm_start", "after training": "gradient_norm_end"}
    by_time = {title: found for title, key in times.items() if (found := layer_means(cells, key))}
    if not by_time:
        return None
    figure, axes = panels(list(by_time), xlabel="layer", yscale="log")
    for axis, found in zip(axes, by_time.values(), strict=True):
        # A norm of exactly zero has no place on a logarithmic axis: a gap in the line.
        draw_layers(axis, [(cell, np.where(values > 0, values, np.nan)) for cell, values in found])
    axes[0].set_ylabel("norm of the loss' gradient")
    caption = f"Norm of the loss' gradient in each 3x3 convolution on one fixed batch of {setting.keys['data.name']}."
    caption = f"{caption} {layer_caption(figure, next(iter(by_time.values())))}"
    plain = [pair for pair in by_time.get("at initialisation", []) if not pair[0].residual]
    if not plain:
        return caption, figure
    # The theory's slope, beside the first stage of the deepest plain net; it ends where the second stage begins.
    deepest, values = max(plain, key=lambda pair: pair[0].depth)
    stage = np.arange(1, (deepest.depth - 2) // 3 + 2)
    line = 2 * values[0] * GRADIENT_GROWTH.value ** (1.0 - stage)
    axes[0].plot(stage, line, color="black", linestyle=":", linewidth=1.2)
    text = f"theory: {GRADIENT_GROWTH.value:.2f} a layer"
    axes[0].annotate(text, (stage[-1] / 2, line[len(line) // 2]), (4, 4), textcoords="offset points", fontsize=8)
    dotted = f"Dotted: the growth that batch norm causes in a wide plain net at its start ({GRADIENT_GROWTH.source})."
    return f"{caption} {dotted}", figure


def layer_means(cells: list[Cell], key: str) -> list[tuple[Cell, Values]]:
    """The cells that have the measurement, with its mean over the seeds, layer by layer."""
    among = [cell for cell in cells if cell.depth in DEPTHS]
    found = []
    for cell in among if len({cell.depth for cell in among}) > 1 else cells:
        runs = [np.array([layer[key] for layer in layers], dtype=float) for layers in cell.runs["layers"]]
        if runs := [run for run in runs if len(run) and np.isfinite(run).all()]:  # None became nan
            found.append((cell, np.mean([run for run in runs if len(run) == len(runs[0])], axis=0)))
    return found
