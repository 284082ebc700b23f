"""From records on disk to the report's files: what src/report.py and the end of a multirun call.

Notable: files are replaced whole, so that a browser or a second report never meets half a page. Drawing takes longer
than everything else together: figures are drawn, and matplotlib is imported, only where records have changed.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from rich.console import Console

from ablation.report import documents, page, terminal
from ablation.report.content import Content, Illustration, Part, Section, compose
from ablation.report.evidence import changes, read
from ablation.report.filters import select

ROOT = Path(__file__).resolve().parents[3]
DEFAULT_PATHS = (ROOT / "results" / "reference", ROOT / "results" / "runs")
DEFAULT_OUTPUT = ROOT / "results" / "report"
FORMATS = ("terminal", "html", "md", "csv", "json", "latex", "figures")
NEEDS_FIGURES = {"html", "md", "figures"}
WATCH_SECONDS = 5
DRAWN = "drawn.json"
"""Beside the figures: what they were drawn from, so that a report of the same records does not draw them again."""


class Drawn(TypedDict):
    """One setting's figures."""

    signature: str
    pictures: dict[str, str]
    """Caption by file name, without the ending."""


def make_report(
    paths: Sequence[Path] = DEFAULT_PATHS,
    output: Path = DEFAULT_OUTPUT,
    filters: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Write the report on everything below `paths` into `output`; the path of report.html.

    `paths` that do not exist count as empty. Works whatever state the runs are in, failed and cut off ones included.
    """
    write(gather(paths, filters), output, {*formats, "html"})
    return output / "report.html"


def gather(paths: Sequence[Path], filters: Sequence[str] = ()) -> Content:
    """Read, filter and judge. Raises UserError for a filter that no run fits."""
    paths = [path for path in paths if path.exists()]
    evidence = read(paths)
    runs = select(evidence.runs, filters) if len(evidence.runs) else evidence.runs
    return compose(type(evidence)(runs, evidence.unfinished, evidence.unreadable, evidence.doubles), list(paths))


def show_main_table(paths: Sequence[Path] = DEFAULT_PATHS, to: Console | None = None) -> None:
    """Print the compact main table of everything below `paths`."""
    terminal.show(gather(paths), to or terminal.console(), verdicts=False)


def write(content: Content, output: Path, formats: set[str], refresh: int | None = None) -> list[Path]:
    """Write the formats' files below `output`, return their paths."""
    output.mkdir(parents=True, exist_ok=True)
    if NEEDS_FIGURES & formats:
        content = illustrate(content, output)
    texts = {
        "html": ("report.html", lambda: page.html(content, refresh)),
        "md": ("report.md", lambda: documents.markdown(content)),
        "csv": ("table.csv", lambda: documents.csv(content)),
        "json": ("claims.json", lambda: documents.claims_json(content)),
        "latex": ("table.tex", lambda: documents.latex(content)),
    }
    written = []
    for name, (file, make) in texts.items():
        if name in formats:
            replace_file(output / file, make().encode())
            written.append(output / file)
    return written


def illustrate(content: Content, output: Path) -> Content:
    """Draw and save the figures; the content with them in."""
    folder = output / "figures"
    folder.mkdir(exist_ok=True)
    known = read_drawn(folder)
    drawn: dict[tuple[str, int], list[Illustration]] = {}
    fresh: dict[str, Drawn] = {}
    for section in content.sections:
        for place, part in enumerate(section.parts):
            if part.figured:
                stem = figure_stem(section, place)
                fresh[stem] = reuse(known.get(stem), part, folder) or draw(part, folder, stem)
                drawn[section.name, place] = [
                    Illustration(f"figures/{file}.png", caption, (folder / f"{file}.svg").read_bytes())
                    for file, caption in fresh[stem]["pictures"].items()
                ]
    replace_file(folder / DRAWN, json.dumps(known | fresh, indent=1).encode())
    return content.with_illustrations(drawn)


def draw(part: Part, folder: Path, stem: str) -> Drawn:
    """Draw and save a setting's figures as `stem`-<name>.svg and .png."""
    from ablation.report import figures  # half a second of import, not needed where nothing has changed

    pictures = {}
    for picture in figures.pictures(part.setting):
        figures.save(picture, str(folder / f"{stem}-{picture.name}"))
        pictures[f"{stem}-{picture.name}"] = picture.caption
    return {"signature": signature(part), "pictures": pictures}


def reuse(known: Drawn | None, part: Part, folder: Path) -> Drawn | None:
    """What was drawn before, if it was drawn from the same files by the same code and is still there."""
    if known is None or known["signature"] != signature(part):
        return None
    whole = all((folder / f"{file}.{kind}").exists() for file in known["pictures"] for kind in ("svg", "png"))
    return known if whole else None


def signature(part: Part) -> str:
    """A digest of the code and of the places, times and sizes of the files that a setting's figures are drawn from."""
    digest = hashlib.sha256(repr(part.setting.deviations).encode())
    for name in ("figures.py", "tables.py", "studies.py", "statistics.py", "paper.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    for cell in part.setting.cells:
        for row in changes(list(cell.runs["folder"])):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def read_drawn(folder: Path) -> dict[str, Drawn]:
    """What the last report left of its figures; nothing if that cannot be read."""
    try:
        known: dict[str, Drawn] = json.loads((folder / DRAWN).read_text())
        return {stem: row for stem, row in known.items() if {"signature", "pictures"} <= set(row)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def figure_stem(section: Section, place: int) -> str:
    """A name for files: the study's, and the setting's place in it if it is not the first."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", section.name)
    return name if place == 0 else f"{name}-{place + 1}"


def replace_file(path: Path, data: bytes) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def watch(paths: Sequence[Path], output: Path, filters: Sequence[str], formats: set[str]) -> None:
    """Make the report anew whenever a run leaves something new, until interrupted."""
    console = terminal.console()
    seen: list[tuple[str, int, int]] | None = None
    while True:
        present = list(changes([path for path in paths if path.exists()]))
        if present != seen:
            seen = present
            content = gather(paths, filters)
            console.clear()
            if "terminal" in formats:
                terminal.show(content, console)
            write(content, output, formats, refresh=WATCH_SECONDS)
            console.print(f"Watching; the page reloads itself: {output / 'report.html'}. Ctrl-C ends it.")
            sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
