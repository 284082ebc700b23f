"""The page in a browser: whole, one column on a telephone, its curves answer, and nothing from a record runs."""

import base64
import json
import re
import shutil
import subprocess
from hashlib import sha256
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from records_factory import digits_quickstart, paper_study, record, write_all

from ablation.report.reporting import gather, illustrate, make_report


def browse(page: Path, script: str, width: int = 1200) -> Any:
    """What `script` returns when the page is loaded; it is let through the page's own policy. No console message."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here: the page was not opened")
    script = (
        f'addEventListener("load", () => {{ document.body.dataset.seen = JSON.stringify((() => {{{script}}})()); }})'
    )
    allowed = f"script-src 'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"
    text = page.read_text().replace("script-src", allowed).replace("</body>", f"<script>{script}</script></body>")
    page.with_name("seen.html").write_text(text)
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--window-size={width},900",
    ]
    options += [f"--window-size={width},900", "--virtual-time-budget=4000", "--dump-dom"]
    command = [browser, *options, f"--user-data-dir={page.parent}/browser"]
    address = page.with_name("seen.html").as_uri()
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    return json.loads(unescape(re.findall('data-seen="([^"]*)"', done.stdout)[0]))


@pytest.mark.chromium
@pytest.mark.parametrize("width", [500, 1400])
def test_the_page_is_whole_and_as_wide_as_the_window(width: int, tmp_path: Path) -> None:
    write_all(tmp_path / "runs", [*digits_quickstart(), *paper_study(seeds=2, depths=[20, 56])])
    page = make_report([tmp_path / "runs"], tmp_path / "out")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page.read_text()), "the page must need nothing but itself"
    script = """const images = [...document.images].filter(image => image.complete && image.naturalWidth > 100);
      const missing = [...document.querySelectorAll("nav a")].filter(link => !document.querySelector(link.hash));
      const root = document.documentElement;
      return [images.length, missing.length, root.scrollWidth - root.clientWidth];"""
    assert browse(page, script, width) == [8, 0, 0]


ANSWERS = """const chart = document.querySelector(".chart"), seen = {};
  const count = () => chart.querySelectorAll("polyline").length;
  const press = name => [...chart.querySelectorAll("button")].find(button => button.textContent === name).click();
  seen.all = count();
  press("plain-20"); seen.without = count();
  press("plain-20"); press("train"); seen.test = count();
  press("ResNet-20"); press("log axis");
  const box = chart.querySelector("svg").getBoundingClientRect();
  const at = { clientX: box.right - 14, clientY: box.top + box.height / 2 };
  chart.querySelector("svg").dispatchEvent(new PointerEvent("pointermove", at));
  seen.said = chart.querySelector("output").value;
  return seen;"""


@pytest.mark.chromium
def test_a_series_can_be_switched_off_and_a_curve_tells_its_values(tmp_path: Path) -> None:
    runs = [record(20, residual, seed) for residual in (True, False) for seed in (0, 1)]
    write_all(tmp_path / "runs", runs)
    seen = browse(make_report([tmp_path / "runs"], tmp_path / "out"), ANSWERS)
    assert [seen[key] for key in ("all", "without", "test")] == [4, 2, 2]
    name, step, error = re.fullmatch(r"(\S+): step ([\d,]+), test error ([\d.]+) %", seen["said"]).groups()  # type: ignore[union-attr]
    assert (name, step) == ("plain-20", "64,000")
    mean = sum(made["metrics"]["test_error"] for made in runs[2:]) / 2
    assert float(error) == pytest.approx(mean, abs=0.01)


@pytest.mark.chromium
def test_nothing_from_a_record_runs(tmp_path: Path) -> None:
    hostile = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    made = [
        record(20, True, config__optimizer__name=name, name=f"run{place}")
        for place, name in enumerate((hostile, "sgd"))
    ]
    write_all(tmp_path / "runs", made)
    page = make_report([tmp_path / "runs"], tmp_path / "out")
    script = "return [document.title, document.scripts.length, document.querySelector('.chart').textContent];"
    title, scripts, label = browse(page, script)
    assert "compared" in title
    assert scripts == 3
    assert "<script>" in label


def test_a_comparison_gets_curves_of_every_value_and_the_error_against_it(tmp_path: Path) -> None:
    made = [record(20, True, config__optimizer__lr=rate, test_error=error) for rate, error in ((0.1, 8.0), (1.0, 40.0))]
    write_all(tmp_path / "runs", made)
    content = gather([tmp_path / "runs"])
    illustrate(content, tmp_path, [])
    curves, values = content.sections[0].parts[0].illustrations
    ends = {(one["network"], one["what"]): one["points"][-1] for one in curves.chart["series"]}
    assert ends["lr=0.1", "test"] == (64_000, pytest.approx(8.0, abs=0.01))
    assert ends["lr=1", "test"] == (64_000, pytest.approx(40.0, abs=0.01))
    assert len(ends) == 4
    assert values.kind == "values"


def test_no_figure_is_wider_than_a_page_however_much_is_compared(tmp_path: Path) -> None:
    networks = [(20, True), (56, True), (20, False), (56, False)]
    write_all(tmp_path / "runs", [record(*one, config__optimizer__lr=rate) for one in networks for rate in (0.1, 1.0)])
    content = gather([tmp_path / "runs"])
    illustrate(content, tmp_path, ["png"])
    for figure in content.sections[0].parts[0].illustrations:
        with Image.open(BytesIO(figure.png)) as image:
            assert image.width / image.info["dpi"][0] < 8, figure.name  # inches
