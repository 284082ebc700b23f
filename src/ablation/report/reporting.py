"""From records on disk to the report's files: what src/report.py and the end of a multirun call.

Notable: files are replaced whole, so that a browser or a second report never meets half a page.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ablation.config.schema import ROOT
from ablation.program import console
from ablation.report import documents, page, terminal
from ablation.report.comparisons import Comparison
from ablation.report.content import Content, Illustration, compose
from ablation.report.evidence import changes, read
from ablation.report.filters import column_of, parse, select
from ablation.runs.record.files import write_atomically

DEFAULT_PATHS = (ROOT / "results" / "reference", ROOT / "results" / "runs")
DEFAULT_OUTPUT = ROOT / "results" / "report"
FORMATS = ("terminal", "html", "md", "csv", "json", "latex", "figures")
FILES = {
    "report.html": ("html", page.html),
    "report.md": ("md", lambda content: documents.markdown(content.blocks())),
    "table.csv": ("csv", documents.csv),
    "runs.csv": ("csv", documents.runs_csv),
    "claims.json": ("json", documents.claims_json),
    "table.tex": ("latex", documents.latex),
}
WATCH_SECONDS = 5

_drawn: dict[str, tuple[Any, list[Illustration]]] = {}
"""Figures by their names' stem, with the state of the files that they show: --watch draws only what has changed."""


def make_report(paths: Sequence[Path], output: Path) -> Path:
    """Write the report on everything below `paths` into `output`; returns the path of report.html.

    `paths` that do not exist count as empty. Works whatever state the runs are in, failed and cut off ones included.
    """
    write(gather(paths), output, set(FORMATS))
    return output / "report.html"


def gather(paths: Sequence[Path], filters: Sequence[str] = (), baseline: Sequence[str] = ()) -> Content:
    """Read, filter and judge. Raises UserError for a filter or a baseline (key=value) that no run fits."""
    evidence = read(paths)
    wanted = {}
    if len(evidence.runs):
        evidence = replace(evidence, runs=select(evidence.runs, filters))
        for key, value in (text.split("=", 1) for text in baseline):
            select(evidence.runs, [f"{key}={value}"])
            wanted[column_of(key, evidence.runs).removeprefix("config.")] = parse(value)
    return compose(evidence, wanted)


def show_tables(paths: Sequence[Path]) -> None:
    """Print the tables of everything below `paths`, without verdicts."""
    terminal.show(gather(paths).blocks(), console(), verdicts=False)


def write(content: Content, output: Path, formats: set[str]) -> list[Path]:
    """Write the formats' files below `output`, return their paths. Raises UserError where that is impossible."""
    output.mkdir(parents=True, exist_ok=True)
    if formats & {"html", "md", "figures"}:
        kinds = ("svg", "png", "pdf") if "figures" in formats else ("png",) if "md" in formats else ()
        illustrate(content, output / "figures", kinds)
    written = []
    for name, (kind, make) in FILES.items():
        if kind in formats:
            replace_file(output / name, make(content).encode(errors="replace"))  # a message may hold half a character
            written.append(output / name)
    return written


def illustrate(content: Content, folder: Path, kinds: Sequence[str]) -> None:
    """Draw the figures of every part that gets some, and write them as files of these kinds (svg, png, pdf)."""
    for part in (part for section in content.sections for part in section.parts if part.figured):
        subject = part.subject
        files = [path for cell in subject.cells for path in changes(list(cell.runs["folder"]))]
        baseline = subject.label(subject.baseline) if isinstance(subject, Comparison) else ""
        state = [baseline, *kinds, *files]
        if _drawn.get(part.stem, (None,))[0] != state:
            from ablation.report import figures  # matplotlib takes half a second to import

            _drawn[part.stem] = state, figures.draw(subject, part.stem, kinds)
        part.illustrations = _drawn[part.stem][1]
        for illustration, kind in product(part.illustrations, kinds):
            replace_file(folder / f"{illustration.name}.{kind}", getattr(illustration, kind))


def replace_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(data), durable=False)


def watch(
    paths: Sequence[Path], output: Path, filters: Sequence[str], formats: set[str], baseline: Sequence[str]
) -> None:
    """Make the report again whenever a run leaves something new, until interrupted."""
    screen = console()
    seen = None
    while True:
        if (present := list(changes(paths))) != seen:
            seen = present
            content = replace(gather(paths, filters, baseline), refresh=WATCH_SECONDS)
            screen.clear()
            if "terminal" in formats:
                terminal.show(content.blocks(), screen)
            write(content, output, formats)
            screen.print(f"Watching; the page reloads itself: {output / 'report.html'}. Ctrl-C ends it.")
            sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
