"""Kill a small sweep with SIGKILL again and again; it must end with the files of an undisturbed one, bit for bit.

    python tests/faults.py              the long form: 30 kills, some minutes
    python tests/faults.py --kills 6    the form that CI runs (pytest -m fault)

The killed sweeps are forks of this process, which has imported torch already. Some kills come at a random moment; the
others wait for the files that are there only while a checkpoint, the weights or the record are being written. When a
sweep is done before its share of kills has been dealt out, the next one begins.
"""

import argparse
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
os.environ["OMP_NUM_THREADS"] = "1"

import sklearn.datasets  # noqa: F401 - once, for all the forks
from runs import SMALL, TRAIN, essence

from ablation.runs.record.checkpoints import present

SWEEP = ("model.residual=true,false", "optimizer=sgd,adam", "schedule.steps=30")
MOMENTS = ("any time", "writing", "finishing")
PATIENCE_S = 60.0


def main() -> int:
    """Run the program; it raises AssertionError if a file differs or a sweep cannot be finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="how many kills in all (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--each", type=int, default=10, help="kills a sweep (default: 10)")
    options = parser.parse_args()
    rng, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        reference = Path(folder) / "undisturbed"
        command = [sys.executable, str(TRAIN), *arguments(reference, every=10)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        expected = ends(reference)
        print(f"undisturbed: {len(expected)} runs, {time.monotonic() - began:.0f} s", flush=True)
        struck: Counter[str] = Counter()
        compared = sweeps = 0
        while struck.total() < options.kills:
            results = Path(folder) / f"sweep{sweeps}"
            struck += disturbed(results, min(options.each, options.kills - struck.total()), rng)
            sweeps += 1
            for name, end in ends(results).items():
                assert end == expected[name], f"{results / 'runs' / name} differs from an undisturbed run"
                compared += 1
    writing = sum(count for what, count in struck.items() if what in ("checkpoint", "weights", "record"))
    print(f"{struck.total()} kills in {sweeps} sweeps of {len(expected)} runs, {time.monotonic() - began:.0f} s")
    print(f"{writing} kills fell into writing a checkpoint, weights or a record: {dict(struck.most_common())}")
    print(f"{compared} of {compared} runs bit-identical to undisturbed ones: weights, record, history, files left")
    return 0


def arguments(results: Path, every: int) -> list[str]:
    """The sweep's command line; the interval of checkpoints is no part of a run's identity."""
    return ["-m", *SMALL, *SWEEP, f"results={results}", f"trainer.checkpoint_every={every}"]


def ends(results: Path) -> dict[str, object]:
    return {folder.name: essence(folder) for folder in sorted((results / "runs").iterdir())}


def start(results: Path, every: int) -> tuple[int, Callable[[], None]]:
    """Start the sweep as a fork; its process id, and a function that waits for it and asserts that it succeeded."""
    log = results.with_suffix(".log")
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = [str(TRAIN), *arguments(results, every)]
            runpy.run_path(str(TRAIN), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            os._exit(status)

    def wait() -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status == 0, f"the sweep ended with {status}:\n{log.read_text()[-3000:]}"

    return process, wait


def disturbed(results: Path, kills: int, rng: random.Random) -> Counter[str]:
    """Kill the sweep up to `kills` times, then let it end twice; what the kills fell into."""
    struck: Counter[str] = Counter()
    while struck.total() < kills:
        moment, every = rng.choice(MOMENTS), rng.choice((1, 2, 7))
        before = half_done(results)
        process, wait = start(results, every)
        if not reached(moment, process, results, rng):
            wait()
            break
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        fell = [what for path, what in half_done(results).items() if path not in before]
        what = min(fell, default="between writes", key="record weights checkpoint history config status".find)
        struck[what] += 1
        print(f"  killed, {moment}: {what}", flush=True)
    for _ in range(2):
        start(results, 10)[1]()
    return struck


def reached(moment: str, process: int, results: Path, rng: random.Random) -> bool:
    """Wait for the moment; False if the process ended before it."""
    if moment == "any time":
        time.sleep(rng.uniform(0, 4))
        return not ended(process)
    begun, seen = time.monotonic(), half_done(results)
    passed = rng.randrange(6) if moment == "writing" else 0  # writes that are let pass
    while time.monotonic() - begun < PATIENCE_S:
        if ended(process):
            return False
        fresh = {path: what for path, what in half_done(results).items() if path not in seen}
        if moment == "writing" or {"weights", "record"} & set(fresh.values()):
            if fresh and passed == 0:
                return True
            passed -= bool(fresh)
            seen |= fresh
    raise AssertionError(f"nothing happened for {PATIENCE_S:.0f} s, waiting for the moment: {moment}")


def ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def half_done(results: Path) -> dict[str, str]:
    """What shows that a process is, or was killed, in the middle of a write: path and time -> what is written."""
    found: dict[str, str] = {}
    for folder in (results / "runs").glob("*"):
        for path in folder.glob("*.tmp"):
            try:
                found[f"{path} {path.stat().st_mtime_ns}"] = path.name.split(".")[0]
            except OSError:
                continue
        weights, record = (folder / "weights.pt").exists(), (folder / "record.json").exists()
        if weights and not record:
            found[f"{folder}: no record"] = "record"
        if record and present(folder):
            found[f"{folder}: old files"] = "record"
    return found


if __name__ == "__main__":
    sys.exit(main())
