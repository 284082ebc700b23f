"""The fault test's bounded form; tests/faults.py says what it does."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.fault
def test_killed_sweeps_end_bit_identical() -> None:
    program = Path(__file__).with_name("faults.py")
    done = subprocess.run([sys.executable, str(program), "--kills", "6", "--each", "6"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical" in done.stdout
