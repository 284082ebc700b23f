"""The first call on a GPU: kernels, capture, replay and gangs, each with its time and traceback; nothing is hidden.

    PYTHONPATH=src python tests/smoke.py [cuda|cpu] [depth]

prints a line a part, writes smoke.json into $OUT (else the working directory), and ends with the number of parts that
failed. On a CPU, where tests/test_smoke.py runs it, it only shows that this program fits the code.
"""

import collections
import copy
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ablation import data
from ablation.benchmark.measure import noise
from ablation.config import compose
from ablation.networks import fused
from ablation.runs.build import build_training
from ablation.training import devices
from ablation.training.cuda_graph import Replayed, cuda_graph
from ablation.training.step import Training

DEVICE = devices.pick_device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
DEPTH = int(sys.argv[2]) if len(sys.argv) > 2 else 20
GPU = DEVICE.type == "cuda"
SPLITS = noise()
if not GPU:
    SPLITS = data.Splits(SPLITS.train[:64], None, SPLITS.test[:64], SPLITS.classes, "")
Member = tuple[Training, Any]
members: list[Member] = []


def synchronize() -> None:
    if GPU:
        torch.cuda.synchronize()


def member(depth: int = DEPTH, *overrides: str) -> Member:
    """A training loop on a stream of its own, six steps old: captured on a GPU."""
    devices.set_deterministic(False)
    stream = devices.own_stream(DEVICE)
    config = compose.compose([f"model.depth={depth}", *overrides, *([] if GPU else ["data.batch_size=8"])])
    with stream:
        normalization = data.fit_normalization("pixel_mean", SPLITS.train)
        training = build_training(config, SPLITS, normalization, DEVICE, "bfloat16")
        if GPU:
            fused.fuse(training.network)
        for _ in range(6):
            training.take_step()
        assert not GPU or training.replayed.replay is not None, "not captured"
    return training, stream


def milliseconds(some: list[Member], steps: int) -> dict[str, float]:
    """Of a round of steps, one of each: until the device is done, and until the host is."""
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        for training, stream in some:
            with stream:
                training.take_step()
    host = time.perf_counter() - start
    synchronize()
    return {"ms": round(1000 * (time.perf_counter() - start) / steps, 3), "host ms": round(1000 * host / steps, 3)}


def kernels() -> str:
    if not GPU:
        return "none on a CPU"
    with devices.own_stream(DEVICE):
        fused.check_kernels(DEVICE)  # raises, where fusible() prints a line and goes on without
    return "as torch's own"


def capture() -> dict[str, list[float]]:
    """Ten steps of the graph and ten eager ones, from the same weights and momenta, on the same images."""
    training, stream = member()
    found = {}
    with stream:
        state = copy.deepcopy(training.state_dict())
        for name in ("graph", "eager"):
            training.load_state_dict(copy.deepcopy(state))
            training.replayed = Replayed(None)
            if GPU and name == "graph":
                training.replayed.replay = cuda_graph(training.device_step)  # raises with its traceback
            for _ in range(10):
                training.take_step()
            found[name] = [float(training.loss_sum), float(training.network.fc.weight.detach().norm())]
    difference = abs(found["graph"][0] - found["eager"][0])
    assert difference <= 0.02 * abs(found["eager"][0]), found
    return found


def alone() -> dict[str, float]:
    members.append(member())
    return milliseconds(members, 300 if GPU else 2)


def evaluation() -> str:
    training, stream = members[0]
    with stream:
        for _ in range(4):
            training.evaluate(SPLITS.test)
        synchronize()
        start = time.perf_counter()
        training.evaluate(SPLITS.test)
        synchronize()
    return f"{1000 * (time.perf_counter() - start):.1f} ms for {len(SPLITS.test)} images"


def gang() -> dict[int, dict[str, float]]:
    found = {}
    for size in (2, 4, 8) if GPU else (2,):
        members.extend(member() for _ in range(size - len(members)))
        found[size] = milliseconds(members[:size], 200 if GPU else 1)
    return found


def degradation() -> dict[str, float]:
    """The eight networks of sweep=degradation at once."""
    depths, kinds = (20, 32, 44, 56) if GPU else (8,), ("true", "false")
    return milliseconds([member(d, f"model.residual={kind}") for d in depths for kind in kinds], 200 if GPU else 1)


def profile() -> list[tuple[float, float, str]]:
    """The kernels of a replayed step: microseconds a step, launches a step, name."""
    from torch.autograd import DeviceType

    training, stream = members[0]
    with stream, torch.profiler.profile() as seen:
        for _ in range(5):
            training.take_step()
        synchronize()
    times = collections.defaultdict(list)
    for event in seen.events():
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            times[event.name[:90]].append(event.device_time_total)
    rows = sorted(((sum(t) / 5, len(t) / 5, name) for name, t in times.items()), reverse=True)
    for total, count, name in rows[:45]:
        print(f"  {total:8.1f} us  {count:6.1f} x  {name}")
    return rows


def main() -> int:
    result: dict[str, Any] = {"torch": torch.__version__, "device": devices.device_name(DEVICE)}
    parts: list[Callable[[], object]] = [kernels, capture, alone, evaluation, gang, degradation, *([profile] * GPU)]
    for part in parts:
        start = time.perf_counter()
        try:
            result[part.__name__] = part()
        except Exception:
            result[part.__name__] = "FAILED"
            traceback.print_exc()
        print(f"{part.__name__}: {result[part.__name__]}  [{time.perf_counter() - start:.1f} s]"[:300], flush=True)
    Path(os.environ.get("OUT", "."), "smoke.json").write_text(json.dumps(result, indent=1))
    return list(result.values()).count("FAILED")


if __name__ == "__main__":
    sys.exit(main())
