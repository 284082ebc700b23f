"""Windows and macOS, as far as Linux can show them: a sweep without what only POSIX has, without links and UTF-8."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# What Python runs at its start, in every process. The standard library tells systems apart by sys.platform, so those of
# its modules that use what is taken away are imported first.
AS_ON_WINDOWS = """
import asyncio, enum, getpass, multiprocessing.connection, os, select, shutil, signal, subprocess, sys, tempfile

for module in "fcntl grp pty pwd resource syslog termios tty".split():
    sys.modules[module] = None
for name in '''O_DIRECTORY chown fchmod fork forkpty getloadavg getpgid getpgrp getpriority killpg mkfifo nice
               posix_fadvise sched_getaffinity setpgid setpgrp setpriority setsid sysconf'''.split():
    delattr(os, name)
gone = [one for one in signal.Signals if one.name not in "SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM".split()]
signal.Signals = enum.IntEnum("Signals", {one.name: one.value for one in signal.Signals if one not in gone})
for one in gone:
    delattr(signal, one.name)

def refused(*arguments, **options):
    raise OSError("not on Windows")

def open_file(path, *arguments, _open=os.open, **options):
    return refused() if os.path.isdir(path) else _open(path, *arguments, **options)

def replace(source, target, _replace=os.replace):
    held = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return refused() if {os.path.realpath(source), os.path.realpath(target)} & {*held} else _replace(source, target)

shutil._use_fd_functions = False
os.open, os.replace, select.select, os.symlink = open_file, replace, refused, refused
os.kill = lambda pid, number, _kill=os.kill: _kill(pid, 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["gang", "processes"])
def test_a_sweep_as_on_windows(launcher: str, tmp_path: Path) -> None:
    for folder in ("src", "conf", "sweeps"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, symlinks=True)
    (tmp_path / "conf" / "sweep").unlink()
    (tmp_path / "conf" / "sweep").write_text("../sweeps")
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(AS_ON_WINDOWS)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "start"), "OMP_NUM_THREADS": "1", "LC_ALL": "C"}
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # text files are ASCII where no encoding is given
    environment |= {"PYTHONIOENCODING": "cp1252", "PYTHONWARNDEFAULTENCODING": "1"}
    small = ["schedule.steps=12", "model.depth=8", "model.width=4", "data.batch_size=256", f"hydra/launcher={launcher}"]
    command = [sys.executable, str(tmp_path / "src" / "train.py"), "sweep=quickstart", *small]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, encoding="cp1252", timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 done" in ran.stdout
    assert "tracker: " not in ran.stdout
    assert "Error in sitecustomize" not in ran.stderr
    ours = [line for line in ran.stderr.splitlines() if line.startswith(f"{tmp_path}") and "EncodingWarning" in line]
    assert not ours
    results = tmp_path / "results"
    assert len([*results.glob("runs/*/record.json")]) == 2
    assert len([*results.glob("wandb/wandb/offline-run-*/*.wandb")]) == 3  # two runs and the sweep
    assert (results / "report" / "report.html").stat().st_size > 10_000
