"""The set-up: pins for every dependency, and what `make` does on a machine with and without a fitting Python."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# Stands in for a Python: makes a virtual environment of a copy of itself, and writes down what it was asked to do.
PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;; esac
"""


def dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in (*project["dependencies"], *(line for extra in extras for line in extra))]


def test_every_dependency_is_pinned_within_its_range() -> None:
    text = (ROOT / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)$", text, flags=re.MULTILINE))
    for dependency in dependencies():
        assert dependency.specifier.contains(pins[canonicalize_name(dependency.name)]), dependency
    assert "://" not in text, "an index or a link belongs to the machine, not to the project"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make` looks at, and a stand-in for Python."""
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run make; its result, and what the stand-in for Python was asked to do."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("EXTRAS", "MAKEFLAGS")}
    environment |= {"LOG": str(log), "PYTHON": f"{folder}/python"}
    result = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=environment)
    return result, log.read_text() if log.exists() else ""


def test_make_installs_once(checkout: Path) -> None:
    result, log = make(checkout, "test")
    assert result.returncode == 0, result.stderr
    assert "-m venv --clear .venv" in log
    assert "--constraint requirements.txt --editable .[test]" in log
    assert log.splitlines()[-1].startswith("-m pytest")
    (log,) = make(checkout, "test")[1].splitlines()
    assert log.startswith("-m pytest"), "set up again"
    assert make(checkout, "quickstart")[1].strip() == "src/train.py sweep=quickstart"
    first = [line.split()[0] for line in make(checkout, "gpu")[1].splitlines()]
    assert first == [*("tests/smoke.py", "-m", "src/benchmark.py"), *["src/train.py"] * 2, "src/report.py"]
    later = (checkout / ".venv/.installed-test").stat().st_mtime + 5
    os.utime(checkout / "requirements.txt", (later, later))
    log = make(checkout, "test")[1]
    assert "pip install" in log
    assert "-m venv" not in log, "the environment is good, only the pins are new"


def test_make_without_a_fitting_python_says_so(checkout: Path) -> None:
    (checkout / "python").write_text("#!/bin/sh\nexit 1\n")
    result, _ = make(checkout, "test")
    assert result.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 with venv is needed" in result.stderr
    assert not (checkout / ".venv").exists()


def test_ci_is_valid_bash() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
