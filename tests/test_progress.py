"""What a run and a sweep show: how many lines, under which names."""

import pytest

from ablation.launching.sweep import labels
from ablation.runs.progress import LINES, Display

ROW = {"running_train_error": 80.625, "val_error": 3.5, "test_error": 81.0, "running_train_loss": 1.0, "lr": 0.1}


def test_an_evaluation_a_step_does_not_print_a_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display("run", 0, 1000, None, alone=False)
    for step in range(1, 1001):
        display.row(ROW | {"step": step, "images_per_second": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert LINES <= len(lines) <= LINES + 1
    assert [line.split()[2] for line in (lines[0], lines[-1])] == ["1/1000", "1000/1000"]
    for error in ("running train error 80.62 %", "val error 3.50 %", "test error 81.00 %"):
        assert error in lines[0]


@pytest.mark.parametrize(
    ("combinations", "expected"),
    [
        ([["optimizer.lr=0.1", "seed=0"], ["optimizer.lr=0.1", "seed=1"]], ["seed=0", "seed=1"]),
        (
            [["model.depth=20", "+optimizer.lr=0.1"], ["model.depth=20", "+optimizer.lr=0.2"]],
            ["lr=0.1", "lr=0.2"],
        ),
        ([["a.lr=1", "b.lr=1"], ["a.lr=2", "b.lr=2"]], ["a.lr=1 b.lr=1", "a.lr=2 b.lr=2"]),
        ([["x=1"], ["x=1", "model.init=glorot"]], ["", "init=glorot"]),
        ([["x=1"]], [""]),
    ],
    ids=["what varies", "short", "two of one name", "an arm of no changes", "one"],
)
def test_a_sweep_names_its_runs_by_what_varies(combinations: list[list[str]], expected: list[str]) -> None:
    assert labels(combinations) == expected
