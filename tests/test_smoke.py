"""tests/smoke.py, the first call on a GPU, fits the code: each of its parts runs on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_first_call_on_a_gpu(tmp_path: Path) -> None:
    program = Path(__file__).with_name("smoke.py")
    environment = os.environ | {"PYTHONPATH": str(program.parents[1] / "src"), "OUT": str(tmp_path)}
    done = subprocess.run([sys.executable, program, "cpu", "8"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "smoke.json").read_text())
    assert set(parts) >= {"kernels", "capture", "alone", "evaluation", "gang", "degradation"}
    assert parts["capture"]["graph"] == parts["capture"]["eager"], "the same steps twice, on a CPU"
