"""Publishing: records and histories of finished runs into results/reference, and the two README files made from them.

`python src/report.py` shows what is published on a fresh clone; README.md and results/README.md hold its tables and
figures between two marks.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ablation.config.schema import ROOT
from ablation.errors import UserError, no_such
from ablation.report.content import Block, Content, Table, Text
from ablation.report.documents import markdown
from ablation.report.evidence import read
from ablation.report.filters import select
from ablation.report.reporting import gather, illustrate, replace_file
from ablation.runs.record import analysis
from ablation.runs.record.files import cannot_write, read_json, write_json

IMAGES = "docs/images/reference/{}.svg"
"""From the project's root."""
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
        record = read_json(run / "record.json")
        record["config"]["results"] = record["config"]["data"]["root"] = None  # folders of the machine it ran on
        write_json(target / "record.json", record)
    renew_pages(root)
    return f"{len(folders)} finished runs copied to {reference / study}; README.md and results/README.md renewed"


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
    """Draw the figures of all published studies, and put what the report says into the two README files."""
    content = gather([root / "results" / "reference"])
    folder = (root / IMAGES).parent
    shutil.rmtree(folder, ignore_errors=True)
    illustrate(content, folder, ["svg"])
    _, *blocks = content.blocks()  # results/README.md has a title of its own
    replace_generated(root / "results" / "README.md", markdown(blocks, f"../{IMAGES}"))
    replace_generated(root / "README.md", markdown(excerpt(content), IMAGES))


def excerpt(content: Content) -> Iterator[Block]:
    """What compares depths, of CIFAR-10 if there is any: title, the table's first columns and error against depth."""
    parts = [part for section in content.sections for part in section.parts]
    for part in sorted(parts, key=lambda part: part.setting.keys["data.name"] != "cifar10"):
        for figure in (figure for figure in part.illustrations if figure.kind == "depth"):
            frame = part.table.frame[["Network", "n", "Train error %", "Test error %"]]
            yield from (Text("plain", f"{part.setting.title}:"), Table("networks", part.setting.title, frame), figure)
            return


def replace_generated(page: Path, text: str) -> None:
    """Put `text` between the page's two marks."""
    head, _, rest = page.read_text().partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    replace_file(page, f"{head}{MARKS[0]}\n{text.strip()}\n{MARKS[1]}{tail}".encode())
