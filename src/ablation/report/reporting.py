"""From records on disk to the report's files: what src/report.py and the end of a multirun call.

Notable: files are replaced whole, so that a browser or a second report never meets half a page.
"""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ablation.config.schema import ROOT
from ablation.report import documents, page, terminal
from ablation.report.content import Content, Illustration, compose
from ablation.report.evidence import changes, read
from ablation.report.filters import select
from ablation.runs.record.files import write_atomically

DEFAULT_PATHS = (ROOT / "results" / "reference", ROOT / "results" / "runs")
DEFAULT_OUTPUT = ROOT / "results" / "report"
FORMATS = ("terminal", "html", "md", "csv", "json", "latex", "figures")
WATCH_SECONDS = 5

_drawn: dict[str, tuple[Any, list[Illustration]]] = {}
"""Figures by their names' stem, with the state of the files that they show: --watch draws only what has changed."""


def make_report(paths: Sequence[Path], output: Path) -> Path:
    """Write the report on everything below `paths` into `output`; returns the path of report.html.

    `paths` that do not exist count as empty. Works whatever state the runs are in, failed and cut off ones included.
    """
    write(gather(paths), output, set(FORMATS))
    return output / "report.html"


def gather(paths: Sequence[Path], filters: Sequence[str] = ()) -> Content:
    """Read, filter and judge. Raises UserError for a filter that no run fits."""
    evidence = read(paths)
    if len(evidence.runs):
        evidence = replace(evidence, runs=select(evidence.runs, filters))
    return compose(evidence)


def show_main_table(paths: Sequence[Path]) -> None:
    """Print the compact main table of everything below `paths`."""
    terminal.show(gather(paths), terminal.console(), verdicts=False)


def write(content: Content, output: Path, formats: set[str], refresh: int | None = None) -> list[Path]:
    """Write the formats' files below `output`, return their paths. Raises UserError where that is impossible."""
    output.mkdir(parents=True, exist_ok=True)
    if formats & {"html", "md", "figures"}:
        kinds = ("svg", "png") if formats & {"md", "figures"} else ()
        illustrate(content, output / "figures", kinds)
    makers = {
        "html": ("report.html", lambda: page.html(content, refresh)),
        "md": ("report.md", lambda: documents.markdown(content.blocks())),
        "csv": ("table.csv", lambda: documents.csv(content)),
        "json": ("claims.json", lambda: documents.claims_json(content)),
        "latex": ("table.tex", lambda: documents.latex(content)),
    }
    wanted = {output / file: make for name, (file, make) in makers.items() if name in formats}
    for path, make in wanted.items():
        replace_file(path, make().encode(errors="replace"))  # a message may hold half a character
    return list(wanted)


def illustrate(content: Content, folder: Path, kinds: Sequence[str]) -> None:
    """Draw the figures of every part that gets some, and write them as files of these kinds (svg, png)."""
    if kinds:
        folder.mkdir(parents=True, exist_ok=True)
    for section in content.sections:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", section.study.name)
        for place, part in enumerate(section.parts, start=1):
            if part.figured:
                stem = name if place == 1 else f"{name}-{place}"
                state = [list(changes(list(cell.runs["folder"]))) for cell in part.setting.cells]
                if _drawn.get(stem, (None,))[0] != state:
                    from ablation.report import figures  # matplotlib takes half a second to import

                    _drawn[stem] = state, figures.draw(part.setting, stem)
                part.illustrations = _drawn[stem][1]
                for illustration, kind in product(part.illustrations, kinds):
                    replace_file(folder / f"{illustration.name}.{kind}", getattr(illustration, kind))


def replace_file(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data), durable=False)


def watch(paths: Sequence[Path], output: Path, filters: Sequence[str], formats: set[str]) -> None:
    """Make the report again whenever a run leaves something new, until interrupted."""
    console = terminal.console()
    seen = None
    while True:
        if (present := list(changes(paths))) != seen:
            seen = present
            content = gather(paths, filters)
            console.clear()
            if "terminal" in formats:
                terminal.show(content, console)
            write(content, output, formats, refresh=WATCH_SECONDS)
            console.print(f"Watching; the page reloads itself: {output / 'report.html'}. Ctrl-C ends it.")
            sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
