"""From records on disk to the report's files: what src/report.py and the end of a multirun call.

Notable: files are replaced whole, so that a browser or a second report never meets half a page.
"""

import re
import sys
import time
from collections.abc import Sequence
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
from ablation.report.studies import Cell, Setting
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


def gather(paths: Sequence[Path], filters: Sequence[str] = (), baseline: Sequence[str] = ()) -> Content:
    """Read, filter and judge. Raises UserError for a filter or a baseline (key=value) that no run fits."""
    evidence = read(paths)
    wanted = {}
    if len(evidence.runs):
        evidence = select(evidence, filters)
        for key, value in (text.split("=", 1) for text in baseline):
            select(evidence, [f"{key}={value}"])
            wanted[column_of(key, evidence.runs).removeprefix("config.")] = parse(value)
    return compose(evidence, wanted)


def show_tables(paths: Sequence[Path]) -> None:
    """Print the tables of everything below `paths`, without verdicts."""
    terminal.show(gather(paths).blocks(), console(), verdicts=False)


def write(content: Content, output: Path, formats: set[str], refresh: int | None = None) -> list[Path]:
    """Write the formats' files below `output`, return their paths. Raises UserError where that is impossible."""
    output.mkdir(parents=True, exist_ok=True)
    if formats & {"html", "md", "figures"}:
        kinds = ("svg", "png", "pdf") if "figures" in formats else ("png",) if "md" in formats else ()
        illustrate(content, output / "figures", kinds)
    makers = (
        ("html", "report.html", lambda: page.html(content, refresh)),
        ("md", "report.md", lambda: documents.markdown(content.blocks())),
        ("csv", "table.csv", lambda: documents.csv(content)),
        ("csv", "runs.csv", lambda: documents.runs_csv(content)),
        ("json", "claims.json", lambda: documents.claims_json(content)),
        ("latex", "table.tex", lambda: documents.latex(content)),
    )
    wanted = {output / file: make for name, file, make in makers if name in formats}
    for path, make in wanted.items():
        replace_file(path, make().encode(errors="replace"))  # a message may hold half a character
    return list(wanted)


def illustrate(content: Content, folder: Path, kinds: Sequence[str]) -> None:
    """Draw the figures of every part that gets some, and write them as files of these kinds (svg, png, pdf)."""
    if kinds:
        folder.mkdir(parents=True, exist_ok=True)
    for section in content.sections:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", section.study.name)
        if comparison := section.comparison:
            state = [comparison.label(comparison.baseline), *states(section.study.cells)]
            section.illustrations[:] = drawn(f"{stem}-comparison", state, "draw_comparison", comparison, kinds)
            save(section.illustrations, folder, kinds)
        for place, part in enumerate(section.parts, start=1):
            if part.figured:
                name = stem if place == 1 else f"{stem}-{place}"
                part.illustrations = drawn(name, states(part.setting.cells), "draw", part.setting, kinds)
                save(part.illustrations, folder, kinds)


def states(cells: Sequence[Cell]) -> list[Any]:
    return [list(changes(list(cell.runs["folder"]))) for cell in cells]


def drawn(
    stem: str, state: list[Any], function: str, subject: Setting | Comparison, kinds: Sequence[str]
) -> list[Illustration]:
    """What this function of `figures` makes of the subject; again only when its files have changed."""
    state = [*state, *kinds]
    if _drawn.get(stem, (None,))[0] != state:
        from ablation.report import figures  # matplotlib takes half a second to import

        _drawn[stem] = state, getattr(figures, function)(subject, stem, kinds)
    return _drawn[stem][1]


def save(illustrations: Sequence[Illustration], folder: Path, kinds: Sequence[str]) -> None:
    for illustration, kind in product(illustrations, kinds):
        replace_file(folder / f"{illustration.name}.{kind}", getattr(illustration, kind))


def replace_file(path: Path, data: bytes) -> None:
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
            content = gather(paths, filters, baseline)
            screen.clear()
            if "terminal" in formats:
                terminal.show(content.blocks(), screen)
            write(content, output, formats, refresh=WATCH_SECONDS)
            screen.print(f"Watching; the page reloads itself: {output / 'report.html'}. Ctrl-C ends it.")
            sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
