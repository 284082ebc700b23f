"""Every figure that a setting's or a comparison's records allow."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from ablation.report.analyses import ANALYSES
from ablation.report.comparisons import Comparison
from ablation.report.content import Illustration
from ablation.report.error_figures import compared_curves, curves, error_by_depth, error_by_value
from ablation.report.layer_figures import gradients, responses
from ablation.report.plotting import Drawn, saved, series_of
from ablation.report.studies import Setting

STYLE = Path(__file__).with_name("figures.mplstyle")
OF_COMPARISON: dict[str, Callable[..., Drawn]] = {"curves": compared_curves, "values": error_by_value}
OF_SETTING: dict[str, Callable[..., Drawn]] = {"curves": curves, "depth": error_by_depth}
OF_SETTING |= {"responses": responses, "gradients": gradients} | ANALYSES


def draw(subject: Setting | Comparison, stem: str, formats: Sequence[str]) -> list[Illustration]:
    """The figures as SVG and in `formats`; their names begin with `stem`."""
    given: tuple[Any, ...] = (subject,)
    kinds = OF_COMPARISON
    if isinstance(subject, Setting):
        kinds, given = OF_SETTING, (subject, [cell for cell in subject.cells if cell.standard])
    found = []
    with mpl.rc_context(fname=STYLE):
        for kind, make in kinds.items():
            if made := make(*given):
                caption, figure = made
                chart = {"series": list(series_of(figure))} if kind == "curves" else {}
                found.append(Illustration(kind, f"{stem}-{kind}", caption, **saved(figure, formats), chart=chart))
    return found
