"""`src/benchmark.py` from its options to its tables and its JSON file; `contenders` does the measuring."""

import argparse
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ablation import data
from ablation.benchmark.contenders import (
    Contender,
    Gang,
    Measured,
    Ours,
    UsualScript,
    bytes_per_step,
    composed,
    copy_bandwidth,
    in_turn,
    kernels_per_step,
    operations,
    random_pictures,
    restored,
)
from ablation.benchmark.costs import costs_of_a_run, whole_runs
from ablation.config.schema import ROOT, Config
from ablation.data import Splits
from ablation.errors import UserError
from ablation.runs.build import build_network
from ablation.runs.environment import environment
from ablation.runs.record.files import write_json
from ablation.training import devices

STEPS = {"cuda": 200, "cpu": 8, "mps": 50}
"""Steps a round, by the type of the device."""

WHOLE_RUNS = {"cuda": 6400, "cpu": 0, "mps": 0}
"""Steps of the runs that are measured as a whole: a tenth of the paper's, where that is a matter of seconds."""

SHOWN_OPERATIONS = 10

DEFAULT, NOT_FUSED, REFERENCE, USUAL = "default", "default, not fused", "reference", "usual script"


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Everything the options ask for: printed, written to `options.output`, and returned. Raises UserError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = devices.pick_device(options.device, "--device")
    config = composed(options.model, options.batch_size)
    splits, source = pictures(options)
    console.print(source)
    if options.batch_size > len(splits.train):
        raise UserError("--batch-size", options.batch_size, f"must be at most {len(splits.train)} here")
    steps = options.steps or STEPS[device.type]
    builders = contenders(options, config, splits, device)
    counts = dict.fromkeys(builders, options.batch_size)
    measured, built = in_turn(builders, device, counts, options.rounds, steps, console.print)
    default = built[DEFAULT]
    assert isinstance(default, Ours)
    result: dict[str, Any] = {
        "model": options.model,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "steps_per_round": steps,
        "data": source,
        "environment": environment(device, default.precision, default.compiled, deterministic=False),
        "contenders": {name: described(m, measured[USUAL]) for name, m in measured.items()},
    }
    console.print(speed_table(options, result["environment"], measured))
    result["costs_percent"] = costs_of_a_run(config, splits, device, measured[DEFAULT].seconds)
    console.print(costs_table(result["costs_percent"]))
    if whole := options.whole_runs if options.whole_runs is not None else WHOLE_RUNS[device.type]:
        result["whole_runs"] = end_to_end(config, splits, device, options.rounds, whole)
        console.print(end_to_end_line(result["whole_runs"]))
    if device.type == "cuda":
        result["gpu"] = gpu(options, config, splits, device, default, measured[DEFAULT], console)
    result["operations_percent"] = operations(default, device)  # last: on CUDA a profiler slows what follows it
    console.print(operations_table(result["operations_percent"]))
    result["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, result)
    console.print(f"written: {options.output}")
    return result


RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in what getrusage counts memory in."""


def pictures(options: argparse.Namespace) -> tuple[Splits, str]:
    """The real CIFAR-10, or noise in its shape, and a line that says which. Raises UserError for an unfit folder."""
    root = options.data_root or ROOT / "data"
    if options.data_root and not restored(root):
        raise UserError("--data-root", root, "must be the folder that holds cifar-10-batches-py")
    if restored(root):
        return data.load("cifar10", root, 0, 0), "pictures: CIFAR-10"
    return random_pictures(), "pictures: RANDOM ones, for want of --data-root; speeds are the same, errors mean nothing"


def contenders(
    options: argparse.Namespace, config: Config, splits: Splits, device: torch.device
) -> dict[str, Callable[[], Contender]]:
    """Name -> what builds the contender; the default without its fused batch norm as well."""
    reference = composed(options.model, options.batch_size, "trainer=reference")
    not_fused = composed(options.model, options.batch_size, "trainer.fused=false")

    def usual() -> Contender:
        network = build_network(config, len(splits.classes), torch.device("cpu"))
        network = network.to(memory_format=torch.contiguous_format)
        return UsualScript(network, splits.train, device, options.batch_size, options.workers)

    return {
        DEFAULT: partial(Ours, config, splits, device),
        NOT_FUSED: partial(Ours, not_fused, splits, device),
        REFERENCE: partial(Ours, reference, splits, device),
        USUAL: usual,
    }


def described(measured: Measured, baseline: Measured) -> dict[str, Any]:
    """A contender's numbers for the JSON file."""
    median, least, greatest = measured.ratio(baseline)
    return {
        "images_per_second": measured.images_per_second,
        "ms_per_step": 1000 * measured.seconds,
        "ms_per_step_rounds": [1000 * seconds for seconds in measured.seconds_per_step],
        "ratio_to_usual": {"median": median, "least": least, "greatest": greatest},
        "warm_up_seconds": measured.warm_up_seconds,
        "held_bytes": measured.held_bytes,
        "step_bytes": measured.step_bytes,
    }


def speed_table(options: argparse.Namespace, where: dict[str, Any], measured: dict[str, Measured]) -> Table:
    """The contenders side by side."""
    title = (
        f"{options.model}, batch {options.batch_size}: medians of {options.rounds} rounds; {where['device_name']}, "
        f"{where['threads']} threads, torch {where['torch']}, {where['precision']}, "
        f"commit {(where['git_commit'] or 'unknown')[:8]}{' and changes' if where['git_dirty'] else ''}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("trainer")
    for column in ("images/s", "ms/step", "times the usual", "warm-up s", "peak GiB"):
        table.add_column(column, justify="right")
    for name, one in measured.items():
        median, least, greatest = one.ratio(measured[USUAL])
        memory = one.held_bytes + one.step_bytes
        peak = f"{memory / 2**30:.2f}" if memory else ""
        ratio = f"{median:.2f} ({least:.2f} to {greatest:.2f})"
        speed, ms = f"{one.images_per_second:,.0f}", f"{1000 * one.seconds:.2f}"
        table.add_row(name, speed, ms, ratio, f"{one.warm_up_seconds:.1f}", peak)
    return table


def operations_table(shares: dict[str, float]) -> Table:
    """Where a step of the default trainer spends its time."""
    table = Table(title="A step of the default trainer (torch.profiler)", title_justify="left")
    table.add_column("operation")
    table.add_column("% of its time", justify="right")
    for name, share in list(shares.items())[:SHOWN_OPERATIONS]:
        table.add_row(name[:70], f"{share:.1f}")
    rest = list(shares.values())[SHOWN_OPERATIONS:]
    table.add_row(f"{len(rest)} others", f"{sum(rest):.1f}")
    return table


def costs_table(costs: dict[str, float]) -> Table:
    """What a run adds to its steps."""
    table = Table(title="What a whole run adds to its steps (evaluations apart)", title_justify="left")
    table.add_column("what")
    table.add_column("% of the steps' time", justify="right")
    for name, share in costs.items():
        table.add_row(name, f"{share:.3f}")
    table.add_row("together", f"{sum(costs.values()):.3f}")
    return table


def end_to_end(config: Config, splits: Splits, device: torch.device, rounds: int, steps: int) -> dict[str, Any]:
    """Whole runs of `steps` beside the same steps and evaluations alone: seconds of each, and what is added."""
    whole, bare = whole_runs(config, splits, device, rounds, steps)
    longer = sorted(100 * (a.training / b.training - 1) for a, b in zip(whole, bare, strict=True))
    once = [a.start + a.end - b.start - b.end for a, b in zip(whole, bare, strict=True)]
    return {
        "steps": steps,
        "rounds": rounds,
        "seconds": [asdict(one) for one in whole],
        "seconds_of_the_steps_alone": [asdict(one) for one in bare],
        "longer_percent": {"median": statistics.median(longer), "least": longer[0], "greatest": longer[-1]},
        "once_seconds": statistics.median(once),
    }


def end_to_end_line(measured: dict[str, Any]) -> str:
    """The same in a line."""
    longer = measured["longer_percent"]
    return (
        f"a whole run of {measured['steps']} steps, beside its steps and evaluations alone: {longer['median']:+.1f} % "
        f"({longer['least']:+.1f} to {longer['greatest']:+.1f} in {measured['rounds']} rounds) while it trains, and "
        f"{measured['once_seconds']:.1f} s once"
    )


def gpu(
    options: argparse.Namespace,
    config: Config,
    splits: Splits,
    device: torch.device,
    default: Ours,
    alone: Measured,
    console: Console,
) -> dict[str, Any]:
    """Gangs, kernels a step, and the share of the bandwidth floor."""
    sizes = list(dict.fromkeys(int(size) for size in options.gangs.split(",")))
    members = [default, *(Ours(config, splits, device) for _ in range(max(sizes) - 1))]
    builders: dict[str, Callable[[], Contender]] = {f"{size} at once": partial(Gang, members[:size]) for size in sizes}
    counts = {f"{size} at once": size * options.batch_size for size in sizes}
    steps = options.steps or STEPS[device.type]
    gangs, _ = in_turn(builders, device, counts, options.rounds, steps, console.print)
    table = Table(title="Networks at once, a CUDA stream each", title_justify="left")
    for column in ("gang", "images/s in all", "times one", "ms a step of all", "peak GiB"):
        table.add_column(column, justify="right")
    for size, (name, one) in zip(sizes, gangs.items(), strict=True):
        ratio, peak = one.images_per_second / alone.images_per_second, size * alone.held_bytes / 2**30
        table.add_row(name, f"{one.images_per_second:,.0f}", f"{ratio:.2f}", f"{1000 * one.seconds:.3f}", f"{peak:.2f}")
    console.print(table)

    itemsize = 2 if default.precision == "bfloat16" else 4
    examples = default.training.normalization(splits.train.images[: options.batch_size].to(device))
    moved = bytes_per_step(default.training.network, examples, itemsize)
    bandwidth = copy_bandwidth(device)
    floor = moved / bandwidth
    kernels = kernels_per_step(default, device)
    console.print(
        f"{kernels} kernels a step; {moved / 1e6:,.0f} MB to move at {bandwidth / 1e12:.2f} TB/s measured: "
        f"{1000 * floor:.3f} ms, {100 * floor / alone.seconds:.0f} % of the step's {1000 * alone.seconds:.3f} ms"
    )
    return {
        "gangs": {name: described(one, alone) for name, one in gangs.items()},
        "kernels_per_step": kernels,
        "bytes_per_step": moved,
        "copy_bytes_per_second": bandwidth,
        "floor_share_percent": 100 * floor / alone.seconds,
    }
