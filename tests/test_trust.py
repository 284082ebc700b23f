"""Nothing that a checkpoint or a record holds is executed, no name leads out of results/, and any text can be shown."""

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from markdown_it import MarkdownIt
from records_factory import record, write

from ablation.config import compose
from ablation.errors import UserError
from ablation.report.reporting import make_report, show_tables
from ablation.runs.record import checkpoints
from ablation.runs.record.checkpoints import sealed
from ablation.tracking.follower import say

MARK = "executed"


class Malicious:
    """Unpickled, it would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place / MARK),)


@pytest.mark.parametrize("seal", [True, False])
def test_malicious_checkpoint(seal: bool, tmp_path: Path) -> None:
    """Also with a checksum that agrees: anybody can compute one."""
    buffer = io.BytesIO()
    torch.save({"schema": 1, "training": Malicious(tmp_path)}, buffer)
    data = buffer.getvalue()
    (tmp_path / checkpoints.NEWEST).write_bytes(sealed(data) if seal else data)
    with pytest.raises(UserError, match="no checkpoint is whole"):
        checkpoints.load(tmp_path)
    assert not (tmp_path / MARK).exists()
    torch.load(io.BytesIO(data), weights_only=False)  # where code is allowed, it does run
    assert (tmp_path / MARK).exists()


@pytest.mark.parametrize(
    ("group", "node"),
    [
        ("optimizer", {"_target_": "os.system", "command": "false"}),
        ("optimizer", {"_target_": "torch.optim.SGD", "lr": 0.1, "foreach": {"_target_": "os.mkdir", "path": MARK}}),
        ("shortcut", {"_target_": "subprocess.run"}),
        ("shortcut", {"_target_": ["os.system"]}),
    ],
)
def test_record_with_a_foreign_target(
    group: str, node: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = runs.small(tmp_path).to_dict() | {group: {"name": "x"} | node}
    with pytest.raises(UserError, match=group):
        compose.from_dict(saved)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".x", "a\\b", "a\n", "a b", "", "x" * 65, "é", "~"])
def test_names_stay_inside(name: str, tmp_path: Path) -> None:
    saved = runs.small(tmp_path).to_dict()
    for group in ("shortcut", "optimizer", "schedule", "augmentation"):
        with pytest.raises(UserError, match=rf"{group}.name=.*part of a folder's name"):
            compose.from_dict(saved | {group: saved[group] | {"name": name}})


HOSTILE = {
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a terminal's escape sequences": "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e",
    "half a character": "\ud800",
    "a formula": "=cmd|' /C calc'!A0",
    "LaTeX": r"\input{x}\write18{x}$\frac{$",
    "Markdown": "[x](javascript:alert(1)) [x](http://x.org) ![x][y] \\](javascript:x)\n\n[y]: javascript:x |",
    "a path": "../../x",
}

LATEX = "begin end usepackage centering caption label resizebox ifdim width linewidth else fi"
LATEX += " toprule midrule bottomrule pm cdot textbackslash textasciitilde"


def test_a_hostile_text_stays_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a name in a record, a study's or a run's name, a message, in every format, the terminal and W&B's lines."""
    results = tmp_path / "a" / "b" / "results"
    for text in HOSTILE.values():
        name = text.replace("/", "|").encode(errors="replace").decode()
        names = dict.fromkeys(("config__optimizer__name", "config__augmentation__name", "environment__torch"), text)
        names |= dict.fromkeys(("environment__device_name", "environment__git_commit", "timing__finished"), text)
        made = record(20, True, **names, shortcut=text, config__schedule__name=text)
        made["data"] = {"name": text, "checksum": text, "classes": [text, text]}
        write(results / "reference" / name, made, points=5)
        for folder, file in (("runs", "status.json"), ("bad", "record.json")):
            (results / folder / name).mkdir(parents=True)
            found = {"status": "failed", "message": text, "updated": text, "schema": text}
            (results / folder / name / file).write_text(json.dumps(found))
    before = {path for path in tmp_path.rglob("*") if path.parent != results}
    out = make_report([results], results / "out").parent
    show_tables([results])
    for text in HOSTILE.values():
        say(text)
        print(UserError(text, text, text))
    shown = {path.name: path.read_text() for path in out.rglob("*") if path.suffix not in ("", ".png", ".svg", ".pdf")}
    shown["terminal"] = capsys.readouterr().out
    assert {path for path in tmp_path.rglob("*") if path.parent != results and out not in path.parents} == before
    for name, content in shown.items():
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", content), name
    assert shown["report.html"].count("&lt;script&gt;alert(1)") > 2
    document = MarkdownIt("commonmark").enable("table").render(shown["report.md"])
    for page in (shown["report.html"], document):
        assert not re.search("<(script>alert|img src=x)", page)
    assert "<a " not in document
    for row in csv.reader(io.StringIO(shown["table.csv"] + shown["runs.csv"])):
        assert not [cell for cell in row if cell.startswith(("=", "@")) or re.match(r"[+-](?![\d.])", cell)]
    assert set(re.findall(r"\\([a-z]+)", shown["table.tex"])) <= {*LATEX.split()}
    assert json.loads(shown["claims.json"])
    for figure in out.rglob("*.svg"):
        assert not [element for element in ET.parse(figure).iter() if "script" in element.tag]
