"""The house: imports follow the way of the data, the report never imports torch, no file outgrows 300 lines."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

ORDER = (
    "errors",
    "program",
    "interrupts",
    "config",
    "data",
    "networks",
    "training",
    "analysis",
    "runs.record",
    "report",
    "tracking",
    "runs",
    "launching",
    "evaluation",
    "benchmark",
    "api",
    "__main__",
)
"""Each package may import itself and those before it."""


def package_of(module: str) -> str:
    """The entry of ORDER that a module of `ablation` belongs to."""
    below = module.removeprefix("ablation.")
    return max((name for name in ORDER if below == name or below.startswith(f"{name}.")), key=len)


def imports(path: Path) -> set[str]:
    """The modules of `ablation` that a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("ablation.") and package_exists(name)}


def package_exists(name: str) -> bool:
    path = SOURCE / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("path", sorted((SOURCE / "ablation").rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_way_of_the_data(path: Path) -> None:
    module = str(path.relative_to(SOURCE).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    if module == "ablation":  # for type checkers alone: the last test
        return
    own = ORDER.index(package_of(module))
    upward = [name for name in imports(path) if ORDER.index(package_of(name)) > own]
    assert not upward, f"{module} imports upward: {upward}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_over_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("module", ["report.reporting", "config.compose", "launching.sweep", "api"])
def test_no_torch_where_none_is_needed(module: str) -> None:
    code = f"import sys, ablation; lazy = 'hydra' not in sys.modules; import ablation.{module}; assert lazy"
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin"})
