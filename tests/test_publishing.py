"""Publishing: what is copied into results/reference, what README.md and results/README.md show, and what is refused."""

import json
import re
from pathlib import Path

import pytest
from records_factory import digits_quickstart, paper_study, record, write

from ablation.config.schema import ROOT
from ablation.errors import UserError
from ablation.report.publishing import MARKS, publish

PAGES = ("README.md", "results/README.md")
DETAILED = ["digits-depth.svg", "digits-correlation.svg", "earlier-depth.svg"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one study to publish and the runs for it, four finished and one not."""
    root = tmp_path / "project"
    for folder in ("sweeps", "results/reference", "results/runs/unfinished"):
        (root / folder).mkdir(parents=True)
    (root / "sweeps" / "digits.yaml").touch()
    for page in PAGES:
        (root / page).write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    (root / "results/runs/unfinished/status.json").write_text('{"status": "running"}')
    for made in digits_quickstart():
        made["config"]["results"] = made["config"]["data"]["root"] = "/home/me"
        folder = write(root / "results/runs", made | {"layers": []}, points=0)
    (folder / "analysis.json").write_text('{"correlation": {"images": 9, "noise": 0.1, "cosine": 0.3}}')
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_finished_runs_are_copied_and_the_pages_renewed(project: Path) -> None:
    for made in paper_study(seeds=1, depths=[20, 56]):
        write(project / "results/reference/earlier", made | {"layers": []}, points=0)
    alone = record(20, True, config__data__name="digits") | {"layers": []}  # it compares nothing
    write(project / "results/reference/lonely", alone, points=0)
    said = publish("digits", [project / "results/runs"], [], project)
    assert said.startswith("4 finished runs copied")
    copies = sorted((project / "results/reference/digits").iterdir())
    assert len(copies) == 4
    for copy in copies:
        original = project / "results/runs" / copy.name
        for name in ("history.jsonl", *(path.name for path in original.glob("analysis.json"))):
            assert (copy / name).read_bytes() == (original / name).read_bytes()
        assert {path.name for path in copy.iterdir()} == {path.name for path in original.iterdir()} - {"status.json"}
        made = json.loads((original / "record.json").read_text())
        made["config"]["results"] = made["config"]["data"]["root"] = None
        assert json.loads((copy / "record.json").read_text()) == made
    for page in (*PAGES, "results/DETAILS.md"):
        text = (project / page).read_text()
        if page in PAGES:
            assert text.startswith(f"before\n{MARKS[0]}\n")
            assert text.endswith(f"\n{MARKS[1]}\nafter\n")
        images = re.findall(r"\]\((.+?\.svg)\)", text)
        wanted = {"README.md": ["earlier-depth.svg"], "results/README.md": []}  # CIFAR-10 comes first
        assert [Path(image).name for image in images] == wanted.get(page, DETAILED)
        assert all(((project / page).parent / image).is_file() for image in images)
        assert "lonely" not in text
        assert ("| plain-56 | " in text) == (page != "results/README.md")
    assert re.search(r"\| digits \| 4 \| ", (project / "results/README.md").read_text())
    text = (project / "README.md").read_text()
    assert re.findall("^. Network .*$", text, re.MULTILINE) == ["| Network | n | Train error % | Test error % |"]
    assert "reproduced" not in text


def test_only_what_fits_the_filters_is_published(project: Path) -> None:
    publish("digits", [project / "results/runs"], ["model.depth=56"], project)
    names = {path.name.split("-")[0] for path in (project / "results/reference/digits").iterdir()}
    assert names == {"plain56", "resnet56"}


MISTAKES = {
    "no such study": ("digit", "", "did you mean digits?"),
    "nothing there": ("digits", "empty", "no finished runs there"),
    "nothing finished": ("digits", "unfinished", "no finished runs there"),
    "nothing fits": ("digits", "model.depth=20 seed=7", "no run has it"),
    "half a record": ("digits", "", "not complete JSON"),
    "no history": ("digits", "", "has no history.jsonl"),
    "its own runs": ("digits", "", "are the same file"),
    "one name twice": ("digits", "", "two runs have the same name"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_said_and_nothing_is_written(case: str, project: Path) -> None:
    study, given, says = MISTAKES[case]
    runs = project / "results" / "runs"
    (runs / "empty").mkdir()
    last = max(runs.glob("*/record.json"))
    if case == "half a record":
        last.write_text(last.read_text()[:300])
    if case == "no history":
        (last.parent / "history.jsonl").unlink()
    if case == "its own runs":
        (runs.parent / "reference" / "digits").symlink_to(runs)
    if case == "one name twice":
        other = digits_quickstart()[0] | {"layers": []}
        name, other["environment"]["device_name"] = write(runs, other, points=0).name, "another CPU"
        write(runs / "elsewhere", other, points=0)
        assert (runs / "elsewhere" / name).is_dir()
    before = contents(project)
    filters = [text for text in given.split() if "=" in text]
    with pytest.raises(UserError, match=re.escape(says)):
        publish(study, [runs if filters else runs / given], filters, project)
    assert contents(project) == before


def test_the_committed_pages_have_the_marks() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert [text.count(mark) for mark in MARKS] == [1, 1]
