"""From records on disk to the report's files: what src/report.py and the end of a multirun call.

Notable: files are replaced whole, so that a browser or a second report never meets half a page.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from ablation.config.schema import ROOT
from ablation.program import console
from ablation.report import documents, page, terminal
from ablation.report.content import Content, compose
from ablation.report.evidence import read
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
    from ablation.report import figures  # matplotlib takes half a second to import

    for part in (part for section in content.sections for part in section.parts if part.figured):
        part.illustrations = figures.draw(part.subject, part.stem, kinds)
        for illustration, kind in product(part.illustrations, kinds):
            replace_file(folder / f"{illustration.name}.{kind}", getattr(illustration, kind))


def replace_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(data), durable=False)
