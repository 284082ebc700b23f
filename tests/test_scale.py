"""10,000 runs: the report reads, groups and judges them in bounded time and memory, without figures (a minute)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from records_factory import record, write

DECAYS = [1e-5 * (k + 1) for k in range(20)]
SEEDS = 50
DEPTHS = (20, 32, 44, 56, 110)
SECONDS = 600
MEGABYTES = 1500

REPORT = """
import resource, sys
from pathlib import Path
from ablation.report.reporting import gather, write
write(gather([Path(sys.argv[1])]), Path(sys.argv[2]), {"csv", "json"})
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_maxrss // 1024, usage.ru_utime + usage.ru_stime)
"""


@pytest.mark.slow
def test_ten_thousand_runs_are_reported_in_bounded_time_and_memory(tmp_path: Path) -> None:
    cells = [(decay, depth, residual) for decay in DECAYS for depth in DEPTHS for residual in (True, False)]
    for decay, depth, residual in cells:
        for seed in range(SEEDS):
            write(tmp_path / "runs", record(depth, residual, seed, config__optimizer__weight_decay=decay), points=2)
    # One run found twice, as after merging the folders of two machines.
    write(tmp_path / "runs" / "other", record(20, True, 0, config__optimizer__weight_decay=DECAYS[0]))
    command = [sys.executable, "-c", REPORT, str(tmp_path / "runs"), str(tmp_path / "out")]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=SECONDS)
    megabytes, seconds = done.stdout.split()
    print(f"{len(cells) * SEEDS} records: {float(seconds):.0f} s of processor time, {megabytes} MB")
    assert int(megabytes) < MEGABYTES
    table = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert len(table) == 1 + len(cells)  # a row a cell: no run makes a cell of its own
    assert all(f",{SEEDS}," in row for row in table[1:])
    assert json.loads((tmp_path / "out" / "claims.json").read_text())
