"""10,000 runs: the report reads, groups and judges them in bounded time and memory, without figures.

Their making and reading takes a minute or two of one core, so the test is a slow one.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import records_factory

pytestmark = pytest.mark.slow

DECAYS = [1e-5 * (k + 1) for k in range(20)]
SEEDS = 50
DEPTHS = (20, 32, 44, 56, 110)
COUNT = len(DECAYS) * SEEDS * len(DEPTHS) * 2
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


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as two machines leave them: `a` with all runs but one, `b` with the missing one and a copy of another."""
    folder = tmp_path_factory.mktemp("many")
    for decay in DECAYS:
        for depth in DEPTHS:
            for residual in (True, False):
                for seed in range(SEEDS):
                    made = records_factory.record(depth, residual, seed, config__optimizer__weight_decay=decay)
                    records_factory.write(folder / "a", made, points=2)
    first, second, *_ = sorted((folder / "a").iterdir())
    (folder / "b").mkdir()
    first.rename(folder / "b" / first.name)
    (folder / "b" / second.name).mkdir()
    (folder / "b" / second.name / "record.json").write_text((second / "record.json").read_text())
    return folder


def test_ten_thousand_runs_are_reported_in_bounded_time_and_memory(many: Path, tmp_path: Path) -> None:
    assert COUNT == 10_000
    command = [sys.executable, "-c", REPORT, str(many), str(tmp_path)]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=SECONDS)
    megabytes, seconds = done.stdout.split()
    print(f"{COUNT} records: {float(seconds):.0f} s of processor time, {megabytes} MB")
    assert int(megabytes) < MEGABYTES
    table = (tmp_path / "table.csv").read_text().splitlines()
    assert len(table) == 1 + len(DECAYS) * len(DEPTHS) * 2  # a row a cell: no run makes a cell of its own
    assert json.loads((tmp_path / "claims.json").read_text())


def test_each_run_is_counted_once(many: Path) -> None:
    from ablation.report.evidence import read

    evidence = read([many / "a" / path.name for path in sorted((many / "a").iterdir())[:20]] + [many / "b"])
    assert len(evidence.runs) == 21
    assert list(evidence.doubles["numbers"]) == ["identical"]
