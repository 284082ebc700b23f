"""A study in slices: run what is missing of a sweep within some minutes, and pack what must travel.

    python src/study.py degradation --minutes 9 --archive study.tar [key=value ...]
    python src/study.py degradation --publish

For a machine that is lent for minutes and has no network: the archive is unpacked first (if it exists), the sweep goes
on where it was cut off, and everything but finished weights is packed again, however the sweep ended: it hears SIGTERM,
SIGUSR1, SIGUSR2, SIGHUP and Ctrl-C as ever, leaves with a checkpoint, and 75 is the exit status. `--publish` copies the
records and histories of finished runs to `results/reference/<study>/`, from which `python src/report.py` makes the
tables on a fresh clone, and renews what README.md and results/README.md show of them.
"""

import argparse
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ablation.config.schema import ROOT
from ablation.errors import UserError, no_such
from ablation.interrupts import asked_for
from ablation.program import Parser, check_writable, make_unbreakable
from ablation.report.reporting import make_report
from ablation.runs.record.files import read_json, write_atomically, write_json
from ablation.runs.record.record import read as read_record

REFERENCE = ROOT / "results" / "reference"
PICTURES = ROOT / "docs" / "images" / "reference"
MARKS = ("<!-- made by src/study.py --publish: -->", "<!-- end of what it made -->")

TRAVELS = ("config.yaml", "traceback.txt", "history.jsonl", "checkpoint.pt", "status.json", "record.json")
"""What another machine needs to go on or to report; a finished run has no checkpoint, and its weights stay behind.

In the order of unpacking: what tells how far the run is comes after what it tells of.
"""

FOLDER = re.compile(r"[^/]+-[0-9a-f]{8}")
"""A run's folder."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, with `results` among them. Raises UserError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("study", nargs="?", default="", help="a name in sweeps/")
    parser.add_argument("--minutes", type=minutes, help="leave in time, with a checkpoint; then 75 is the exit status")
    parser.add_argument("--archive", type=Path, help="tar file to go on from and to pack into")
    parser.add_argument("--publish", action="store_true", help="only copy finished records to results/reference/STUDY")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="handed to src/train.py")
    options = parser.parse_intermixed_args(arguments)
    known = [path.stem for path in (ROOT / "sweeps").glob("*.yaml")]
    if options.study not in known:
        raise no_such("choice", "study", options.study, known)
    elsewhere = [text.partition("=")[2] for text in options.overrides if text.startswith("results=")]
    options.overrides = [text for text in options.overrides if not text.startswith("results=")]
    options.results = Path(elsewhere[-1]).resolve() if elsewhere else ROOT / "results" / "studies" / options.study
    return options


def minutes(text: str) -> float:
    """A time limit. Raises UserError."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise UserError("--minutes", text, "must be a positive number")


def main(arguments: list[str]) -> int:
    """Unpack, run, pack, publish, as asked; the exit status is the sweep's. Raises UserError."""
    options = parse(arguments)
    if options.publish:
        count = publish(options.results / "runs", REFERENCE / options.study)
        renew_pages()
        return 0 if count else 1
    if options.archive:
        if options.archive.is_dir():
            raise UserError("--archive", options.archive, "is a folder; must be a tar file, or not exist yet")
        check_writable("--archive", options.archive)  # better now than when there is something to pack
        options.archive.parent.mkdir(parents=True, exist_ok=True)
        if options.archive.exists():
            unpack(options.archive, options.results)
    command = [sys.executable, str(ROOT / "src" / "train.py"), f"sweep={options.study}", f"results={options.results}"]
    limit = [] if options.minutes is None else [f"trainer.time_limit={options.minutes}"]
    with started([*command, *limit, *options.overrides]) as process:
        status = process.wait()
        if options.archive:
            pack(options.results, options.archive)
    return status if status >= 0 else 128 - status  # as a shell says that a signal ended it


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `command`, which is to be waited for; in here, signals that ask to leave are its to obey.

    SIGINT is not handed on: a terminal sends it to both, and twice it would end the process without a checkpoint.
    """
    processes: list[subprocess.Popen[bytes]] = []
    heard: list[int] = []

    def hear(number: int, _frame: object) -> None:
        heard.append(number)
        for process in processes:
            process.send_signal(number)

    def pass_over(_number: int, _frame: object) -> None:
        """In place of SIG_IGN, which the process would inherit."""

    old: dict[signal.Signals, Any]
    old = {number: signal.signal(number, pass_over if number == signal.SIGINT else hear) for number in asked_for()}
    try:
        processes.append(subprocess.Popen(command))
        for number in heard:  # heard before there was somebody to hand it to
            processes[0].send_signal(number)
        yield processes[0]
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def pack(results: Path, archive: Path) -> None:
    """Write the travelling files of all runs to `archive`, which is replaced only when the new one is whole."""

    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for path in sorted((results / "runs").glob("*/*")):
                if path.name in TRAVELS:
                    with suppress(FileNotFoundError), open(path, "rb") as source:  # another process may be at work
                        tar.addfile(tar.gettarinfo(arcname=str(path.relative_to(results)), fileobj=source), source)

    try:
        write_atomically(archive, write)
    except UserError as error:
        raise UserError("--archive", archive, error.allowed) from error
    print(f"packed: {archive}, {archive.stat().st_size / 2**20:.1f} MiB")


def unpack(archive: Path, results: Path) -> None:
    """Put under `results` those of the archive's runs that are further than what is there. Raises UserError.

    That another process trains one of them is an error, too: packed later, its state could replace a later one.
    """
    from ablation.runs.record import checkpoints  # here, and not above: these import torch, which --help does without
    from ablation.runs.record.folder import Busy, RunFolder

    try:
        with tarfile.open(archive, "r:") as tar:
            for name, files in packed_runs(tar, archive).items():
                folder = RunFolder(results, *name.rpartition("-")[::2])
                with folder.held():
                    status, record = (read_json(folder.path / file) for file in ("status.json", "record.json"))
                    here = progress(status, record, bool(checkpoints.present(folder.path)))
                    status, record = (content(tar, files.get(file)) for file in ("status.json", "record.json"))
                    if here >= max(0, progress(status, record, "checkpoint.pt" in files)):
                        continue
                    checkpoints.remove(folder.path)  # all: one that was left half renamed would count as the newest
                    for file in sorted(files, key=TRAVELS.index):
                        write_atomically(folder.path / file, partial(copy, tar, files[file]))
    except Busy as busy:
        raise UserError("--archive", archive, f"cannot be unpacked: {name}: {busy}; wait for its end") from busy
    except (OSError, tarfile.TarError) as error:
        raise UserError("--archive", archive, f"cannot be read as a tar packed by this program: {error}") from error


def packed_runs(tar: tarfile.TarFile, archive: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Run -> file -> member, of the whole archive: a damaged or foreign one is met before anything is written."""
    runs: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar.getmembers():
        match PurePosixPath(member.name).parts:
            case ("runs", name, file) if FOLDER.fullmatch(name) and file in TRAVELS and member.isfile():
                runs.setdefault(name, {})[file] = member
            case _:
                allowed = f"holds {member.name}; allowed are a run's {', '.join(TRAVELS)}, as this program packs them"
                raise UserError("--archive", archive, allowed)
    return runs


def progress(status: Any, record: Any, begun: bool) -> float:
    """How far a run is, by its two files and whether it has a checkpoint: its step; -1 if not begun."""
    if isinstance(record, dict):
        return math.inf
    step = status.get("step") if isinstance(status, dict) else None
    return -1 if not begun else step if isinstance(step, int) else 0


def content(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> Any:
    """The value of a JSON member, or None if it is missing or broken."""
    file = tar.extractfile(member) if member else None
    try:
        return json.load(file) if file else None
    except (ValueError, RecursionError):
        return None


def copy(tar: tarfile.TarFile, member: tarfile.TarInfo, to: IO[bytes]) -> None:
    """Write the member's bytes into a file."""
    source = tar.extractfile(member)
    assert source is not None
    shutil.copyfileobj(source, to)


def publish(runs: Path, reference: Path) -> int:
    """Copy the records and histories of finished runs, without weights, and say how many. Raises UserError."""
    finished = sorted(path.parent for path in runs.glob("*/record.json"))
    for run in finished:  # all of them before the first is copied
        try:
            read_record(run / "record.json")
        except ValueError as error:
            raise UserError("record", run / "record.json", f"{error}; move it elsewhere or run it again") from error
        if not (run / "history.jsonl").is_file():
            raise UserError("record", run / "record.json", "has no history.jsonl beside it; run it again")
    for run in finished:
        target = reference / run.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "history.jsonl", target / "history.jsonl")
        record = read_json(run / "record.json")
        record["config"]["results"] = record["config"]["data"]["root"] = None  # folders of the machine it ran on
        write_json(target / "record.json", record)
    print(f"{len(finished)} finished runs copied to {reference}")
    return len(finished)


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
    make_unbreakable()
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before the sweep began: its end is waited for
        sys.exit(128 + signal.SIGINT)
