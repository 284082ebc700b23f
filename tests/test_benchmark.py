"""The benchmark's program on small networks, and a mistake in its arguments."""

import re
from pathlib import Path

import pytest
from test_speed import small

from ablation.config.schema import Config


def test_the_benchmark_measures_in_turn_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from ablation.benchmark import contenders as measuring
    from ablation.benchmark import measure as benchmarking

    monkeypatch.setattr(measuring, "fusible", lambda *_: False)
    monkeypatch.setattr(benchmarking, "random_pictures", lambda: measuring.random_pictures(64, 8))
    monkeypatch.setattr(benchmarking, "restored", lambda _root: False)
    import benchmark

    output = tmp_path / "there" / "b.json"
    arguments = ["--batch-size", "8", "--rounds", "2", "--steps", "1", "--workers", "0", "--output", str(output)]
    arguments += ["--whole-runs", "20"]
    monkeypatch.setattr(benchmarking, "composed", lambda model, batch, *o: shallow(batch, *o))
    assert benchmark.main([*arguments, "--device", "cpu"]) == 0
    result = json.loads(output.read_text())
    assert set(result["contenders"]) == {"default", "default, not fused", "reference", "usual script"}
    usual = result["contenders"]["usual script"]
    assert usual["ratio_to_usual"] == {"median": 1, "least": 1, "greatest": 1}
    assert len(usual["ms_per_step_rounds"]) == 2
    assert "RANDOM" in result["data"]
    whole = result["whole_runs"]
    assert (whole["steps"], len(whole["seconds"]), len(whole["seconds_of_the_steps_alone"])) == (20, 2, 2)
    assert sum(result["operations_percent"].values()) == pytest.approx(100)


def shallow(batch_size: int, *overrides: str) -> Config:
    return small(f"data.batch_size={batch_size}", "tracker=disabled", *overrides)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rounds", "0"], "--rounds=0: must be a positive whole number"),
        (["--whole-runs", "-1"], "--whole-runs=-1: must be zero or"),
        (["--whole-runs", "1"], "--whole-runs=1: must be zero or a whole number from 2 on"),
        (["--model", "resnet21"], "--model=resnet21: no such choice"),
        (["--gangs", "1,x"], "--gangs=1,x: must be"),
        (["--bla"], "unrecognized arguments: --bla"),
        (["--batch-size", "1"], "--batch-size=1: must be"),
        (["--device", "nope"], "--device=nope: no such device here; allowed: auto, cpu"),
        (["--device", "cuda:x"], "--device=cuda:x: no such device"),
        (["--device", ""], "--device=: no such device"),
        (["--threads", "99999999999999"], "--threads=99999999999999: must be at most 1024"),
        (["--workers", "99999999999999"], "--workers=99999999999999: must be at most 1024"),
        (["--gangs", "1" * 5000], "must be positive whole numbers below 10000"),
        (["--output", f"{__file__}/x.json"], "x.json: cannot be written: Not a directory"),
        (["--output", "/proc/x.json"], "--output=/proc/x.json: cannot be written"),
        (["--output", "/tmp"], "--output=/tmp: must be a file"),
    ],
)
def test_a_mistake_to_the_benchmark_is_one_line(arguments: list[str], told: str) -> None:
    import benchmark
    from ablation.errors import UserError

    with pytest.raises(UserError, match=re.escape(told)):
        benchmark.main(arguments)
