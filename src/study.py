"""A study in slices: run what is missing of a sweep within some minutes, and pack what must travel.

    python src/study.py degradation --minutes 9 --archive study.tar [key=value ...]
    python src/study.py degradation --publish

For a machine that is lent for minutes and has no network: the archive is unpacked first (if it exists), the sweep goes
on where it was cut off, and everything but finished weights is packed again. `--publish` copies the records and
histories of finished runs to `results/reference/<study>/`, from which `python src/report.py` makes the tables on a
fresh clone, and renews what README.md and results/README.md show of them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from ablation.config import ROOT
from ablation.files import read_json, write_json
from ablation.report.reporting import make_report

REFERENCE = ROOT / "results" / "reference"
PICTURES = ROOT / "docs" / "images" / "reference"
MARKS = ("<!-- made by src/study.py --publish: -->", "<!-- end of what it made -->")

TRAVELS = ("record.json", "history.jsonl", "config.yaml", "status.json", "traceback.txt", "checkpoint.pt")
"""What another machine needs to go on or to report; a finished run has no checkpoint, and its weights stay behind."""


def main() -> int:
    """Unpack, run, pack, publish, as asked; the exit status is the sweep's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))
    parser.add_argument("--minutes", type=float, help="leave in time, with a checkpoint; then 75 is the exit status")
    parser.add_argument("--archive", type=Path, help="tar file to go on from and to pack into")
    parser.add_argument("--publish", action="store_true", help="only copy finished records to results/reference/STUDY")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="handed to src/train.py")
    arguments = parser.parse_args()
    results = ROOT / "results" / "studies" / arguments.study
    if arguments.publish:
        return publish(results / "runs", REFERENCE / arguments.study)
    if arguments.archive and arguments.archive.exists():
        unpack(arguments.archive, results)
    command = [sys.executable, str(ROOT / "src" / "train.py"), f"sweep={arguments.study}", f"results={results}"]
    limit = [] if arguments.minutes is None else [f"trainer.time_limit={arguments.minutes}"]
    status = subprocess.run([*command, *limit, *arguments.overrides], check=False).returncode
    if arguments.archive:
        pack(results, arguments.archive)
    return status


def pack(results: Path, archive: Path) -> None:
    """Write the travelling files of all runs to `archive`, which is replaced only when the new one is whole."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    fresh = archive.with_name(f"{archive.name}.tmp")
    with tarfile.open(fresh, "w") as tar:
        for path in sorted((results / "runs").glob("*/*")):
            if path.name in TRAVELS:
                tar.add(path, path.relative_to(results))
    os.replace(fresh, archive)
    print(f"packed: {archive}, {archive.stat().st_size / 2**20:.1f} MiB")


def unpack(archive: Path, results: Path) -> None:
    """Put the archive's runs under `results`; a run that is finished here already is left as it is."""
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        finished = {path.parent.name for path in (results / "runs").glob("*/record.json")}
        tar.extractall(results, [m for m in members if Path(m.name).parent.name not in finished], filter="data")


def publish(runs: Path, reference: Path) -> int:
    """Copy the records and histories of finished runs, without weights, and say how many."""
    finished = [path for path in sorted(runs.glob("*")) if read_json(path / "record.json")]
    for run in finished:
        target = reference / run.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "history.jsonl", target / "history.jsonl")
        record = read_json(run / "record.json")
        record["config"]["results"] = record["config"]["data"]["root"] = None  # folders of the machine it ran on
        write_json(target / "record.json", record)
    print(f"{len(finished)} finished runs copied to {reference}")
    renew_pages()
    return 0 if finished else 1


def renew_pages() -> None:
    """Make the report of all reference studies, and put its tables and figures into the two README files."""
    report = make_report([REFERENCE], ROOT / "results" / "report", formats=["md", "figures"]).with_name("report.md")
    text = report.read_text()
    pictures = re.findall(r"\(figures/(\S+)\.png\)", text)
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    for picture in pictures:
        shutil.copyfile(report.parent / "figures" / f"{picture}.svg", PICTURES / f"{picture}.svg")
    whole = re.sub(r"!\[.*?\]\(figures/(\S+)\.png\)", r"![\1](../docs/images/reference/\1.svg)", text)
    replace_generated(ROOT / "results" / "README.md", whole.partition("\n")[2])
    replace_generated(ROOT / "README.md", excerpt(text))


def excerpt(page: str) -> str:
    """Of the report's Markdown: what compares depths, CIFAR-10 first; of each its heading, first table and figure."""
    kept = []
    for section in re.split(r"^###? ", page, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        table = re.search(r"^\| Network.*\n(?:\|.*\n)+", section, re.MULTILINE)
        if table and (figure := re.search(r"\(figures/(\S+-depth)\.png\)", section)):
            picture = f"![Error against depth](docs/images/reference/{figure[1]}.svg)"
            kept.append(f"**{heading}**\n\n{table[0]}\n{picture}")
    return "\n\n".join(sorted(kept, key=lambda text: not text.startswith("**cifar10 ")))


def replace_generated(page: Path, text: str) -> None:
    """Put `text` between the page's two marks."""
    head, _, rest = page.read_text().partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    page.write_text(f"{head}{MARKS[0]}\n{text.strip()}\n{MARKS[1]}{tail}")


if __name__ == "__main__":
    sys.exit(main())
