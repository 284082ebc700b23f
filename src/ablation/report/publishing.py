"""Publishing: records and histories of finished runs into results/reference, and the pages made from them.

results/DETAILS.md is the whole report; README.md and results/README.md hold the essential between two marks. A study
that compares nothing and tests no claim is in none of them.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from ablation.config.schema import ROOT
from ablation.errors import UserError, no_such
from ablation.report.content import Block, Content, Table, Text, origin
from ablation.report.documents import markdown
from ablation.report.evidence import read
from ablation.report.filters import select
from ablation.report.reporting import gather, illustrate, replace_file
from ablation.report.studies import Setting
from ablation.report.tables import NONE
from ablation.runs.record import analysis
from ablation.runs.record.files import cannot_write, read_json, write_json
from ablation.runs.record.record import published

IMAGES = "docs/images/reference/{}.svg"
"""From the project's root."""
HEAD = "Made by src/report.py --publish from the records in results/reference; the short form is results/README.md."
MARKS = ("<!-- made by src/report.py --publish: -->", "<!-- end of what it made -->")


def publish(study: str, paths: Sequence[Path], filters: Sequence[str], root: Path = ROOT) -> str:
    """Copy the finished runs below `paths` that fit to results/reference/`study`, and renew the README files.

    Returns what was done, in words. Raises UserError before anything is written: no such study, nothing to publish, or
    a record that cannot be used.
    """
    reference = root / "results" / "reference"
    names = {path.stem for path in (root / "sweeps").glob("*.yaml")} | {path.name for path in reference.glob("*")}
    if study not in names:
        raise no_such("choice", "--publish", study, names)
    folders = finished(paths, filters)
    for run in folders:
        target = reference / study / run.name
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name in ("history.jsonl", *(path.name for path in run.glob(analysis.FILE))):
                shutil.copyfile(run / name, target / name)
        except OSError as error:  # no permission, or the runs are those that are published
            raise cannot_write(target, error) from None
        write_json(target / "record.json", published(read_json(run / "record.json")))
    renew_pages(root)
    return f"{len(folders)} finished runs copied to {reference / study}; README.md and results/ renewed"


def finished(paths: Sequence[Path], filters: Sequence[str]) -> list[Path]:
    """The folders of the finished runs to publish, each run once. Raises UserError."""
    evidence = read(paths)
    for file, reason in evidence.unreadable.itertuples(index=False):
        raise UserError("record", file, f"{reason}; move it elsewhere or run it again")
    if evidence.runs.empty:
        raise UserError("--publish", " ".join(map(str, paths)), "no finished runs there")
    folders = list(select(evidence, filters).runs["folder"])
    for run in folders:
        if not (run / "history.jsonl").is_file():
            raise UserError("record", run / "record.json", "has no history.jsonl beside it; run it again")
    if len({run.name for run in folders}) < len(folders):
        raise UserError("--publish", " ".join(map(str, paths)), "two runs have the same name; publish one machine's")
    return folders


def renew_pages(root: Path) -> None:
    """Draw the figures of the published studies, and write what the report says: DETAILS.md, and two pages' parts."""
    content = gather([root / "results" / "reference"])
    content.sections[:] = [one for one in content.sections if one.comparison or any(part.tested for part in one.parts)]
    folder = (root / IMAGES).parent
    shutil.rmtree(folder, ignore_errors=True)
    illustrate(content, folder, ["svg"])
    _, *blocks = content.blocks()  # without the title
    details = [Text("title", "The evidence in full"), Text("plain", HEAD), *blocks]
    replace_file(root / "results" / "DETAILS.md", markdown(details, f"../{IMAGES}").encode())
    replace_generated(root / "results" / "README.md", markdown(overview(content)))
    replace_generated(root / "README.md", markdown(excerpt(content), IMAGES))


def overview(content: Content) -> Iterator[Block]:
    """A row a study, with what the project is about, and every claim's verdict."""
    rows = []
    for section in content.sections:
        tested = [finding for part in section.parts for finding in part.tested]
        first = [one for one in tested if one.claim.id == "degradation-train"]
        texts = [f"{one.verdict}: {one.headline}, n = {min(one.numbers['n'].values())}" for one in first]
        runs, made = sum(len(cell.runs) for cell in section.study.cells), origin(section.study.cells)
        counts = section.counts if tested else NONE
        rows.append((section.study.name, str(runs), texts[0] if texts else NONE, counts, made))
    columns = ["Study", "Runs", "Degradation in training error, plain-56", "Claims", "Made"]
    yield Text("soft", content.summary)
    yield Table("verdicts", "Studies", pd.DataFrame(rows, columns=columns))
    yield from content.verdicts()


def excerpt(content: Content) -> Iterator[Block]:
    """What compares depths alone, on CIFAR-10 if possible: title, the table's first columns, error against depth."""
    parts = [(part, part.subject) for section in content.sections for part in section.parts]
    found = [(part, setting) for part, setting in parts if isinstance(setting, Setting)]
    for part, setting in sorted(found, key=lambda pair: (pair[1].keys["data.name"] != "cifar10", pair[0].compared)):
        for figure in (figure for figure in part.illustrations if figure.kind == "depth"):
            yield Text("plain", f"{setting.title} ({origin(setting.cells)}):")
            yield Table("networks", "", part.table.frame[["Network", "n", "Train error %", "Test error %"]])
            yield figure
            return


def replace_generated(page: Path, text: str) -> None:
    """Put `text` between the page's two marks."""
    head, _, rest = page.read_text("utf-8").partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    replace_file(page, f"{head}{MARKS[0]}\n{text.strip()}\n{MARKS[1]}{tail}".encode())
