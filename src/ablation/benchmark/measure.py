"""What `src/benchmark.py` does: contenders, whole runs, gangs and profile, as tables and as one JSON file."""

import argparse
import io
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from ablation.benchmark.contenders import Project, compared, in_turn, together, usual_script
from ablation.benchmark.profiling import memory_floor, operations
from ablation.config import compose
from ablation.config.schema import Config
from ablation.data import Images, Splits
from ablation.evaluation.confusion import table
from ablation.runs.build import load_data
from ablation.runs.environment import environment
from ablation.runs.record.files import write_json
from ablation.runs.run import run
from ablation.tracking.tracker import finish
from ablation.training import devices

STEPS = {"cuda": 200, "cpu": 8, "mps": 50}  # a round
WHOLE_RUNS = {"cuda": 6400}  # steps of a whole run: a tenth of the paper's, where that is a matter of seconds


def measure(options: argparse.Namespace) -> None:
    """Measure what the options ask for, show it, and write it to `options.output`. Raises UserError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device, batch = devices.pick_device(options.device, "--device"), options.batch_size
    steps, config = options.steps or STEPS[device.type], composed(options)
    real = config.data.name == "cifar10"
    source = "CIFAR-10" if real else "RANDOM images, for want of --data-root: speeds are the same, errors mean nothing"
    print(f"images: {source}")
    splits = load_data(config) if real else noise()
    default = Project(config, splits, device)
    reference = Project(composed(options, "trainer=reference"), splits, device)
    usual = usual_script(config, splits, device, options.workers, steps)
    contenders = {"default": default.take, "reference": reference.take, "usual script": usual}
    if device.type == "cuda":
        contenders["not fused"] = Project(composed(options, "trainer.fused=false"), splits, device).take
    rates = in_turn(contenders, device, options.rounds, steps)
    speeds = compared(rates, pd.Series(batch, rates.columns), batch * rates["usual script"])
    where = environment(device, default.precision, default.fused, False)
    about = f"{options.model}, batch {batch}, {options.rounds} rounds of {steps} steps; {where['device_name']}, "
    about += f"{where['threads']} threads, {where['precision']}, torch {where['torch']}, commit {where['git_commit']}"
    show(about, speeds)
    result: dict[str, Any] = {
        **{key: getattr(options, key) for key in ("model", "batch_size", "rounds")},
        "steps_per_round": steps,
        "data": source,
        "environment": where,
        "contenders": speeds.to_dict("index"),
        "steps_per_second": rates.to_dict("list"),
    }
    if whole := WHOLE_RUNS.get(device.type, 0) if options.whole_runs is None else options.whole_runs:
        times = whole_runs(config, device, options.rounds, whole)
        show(f"Whole runs of {whole} steps on {config.data.name}, seconds", times.agg(["median", "min", "max"]))
        result["whole_runs"] = {"steps": whole, "data": config.data.name, **times.to_dict("list")}
    if device.type == "cuda":
        members = [default, *(Project(config, splits, device) for _ in range(max(options.gangs) - 1))]
        names = {f"{size} at once": size for size in options.gangs}
        gangs = {name: partial(together, members[:size]) for name, size in names.items()}
        gang_rates = in_turn(gangs, device, options.rounds, steps)
        gang_speeds = compared(gang_rates, batch * pd.Series(names), batch * rates["default"])
        show("Networks at once, a stream each; ratio to one", gang_speeds)
        floor = memory_floor(default, splits.train.images[:batch], 1 / rates["default"].median(), device)
        show("A step of the default", pd.DataFrame([floor]))
        result["gpu"] = {"gangs": gang_speeds.to_dict("index"), **floor}
    shares = operations(default, device)  # last: on CUDA a profiler slows what follows it
    show(f"A step of the default, {shares['calls_per_step'].sum():.0f} calls (torch.profiler)", shares.head(10))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, result | {"operations": shares.to_dict("index")})
    print(f"written: {options.output}")


def show(title: str, frame: pd.DataFrame) -> None:
    """Print a table."""
    console = Console() if Console().is_terminal else Console(width=160)
    console.print(table(title, frame.reset_index(names="")))


def composed(options: argparse.Namespace, *overrides: str) -> Config:
    """The model by the paper's recipe, on CIFAR-10 if it is there, else on digits (for whole runs)."""
    name = "cifar10" if (options.data_root / "cifar-10-batches-py").is_dir() else "digits"
    fixed = [f"model={options.model}", f"data={name}", f"data.batch_size={options.batch_size}"]
    config = compose.compose([*fixed, *overrides])
    return replace(config, data=replace(config.data, root=str(options.data_root)))


def noise() -> Splits:
    """Random images in the shape of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=generator)
    train = Images(images, torch.randint(10, (50_000,), generator=generator))
    return Splits(train, None, train[:10_000], tuple("0123456789"), "random")


def whole_runs(config: Config, device: torch.device, rounds: int, steps: int) -> pd.DataFrame:
    """Seconds of runs with all that a run writes and shows, in turn with their steps and evaluations alone.

    A run has a record, history, checkpoints, progress bar, tracker, and gradients and layers for the record; half-way
    and at the end a history row and a checkpoint, many more than in a run of usual length. On a CPU they are seconds of
    this process on the processor, which neighbours disturb less: without the tracker's process or waiting for a disk.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    half = -(-steps // 2)
    trainer = replace(config.trainer, evaluate_every=half, checkpoint_every=half, progress=True)
    config = replace(config, trainer=trainer, schedule=replace(config.schedule, steps=steps))
    seconds = []
    for _ in range(rounds + 1):
        start = clock()
        splits = load_data(config)
        project = Project(config, splits, device)
        with project.stream:
            for step in (half, steps):
                project.take(step - project.training.step)
                project.training.read_sums()
                project.training.evaluate(splits.test)
            project.training.evaluate(splits.train)
        alone, terminal = clock() - start, io.StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]  # for the progress bar
        with TemporaryDirectory() as results, redirect_stdout(io.StringIO()), redirect_stderr(terminal):
            start = clock()
            outcome = run(replace(config, results=results))
            seconds.append({"run": clock() - start, "steps alone": alone})
            finish()  # the tracker's process, before the folder goes
        if outcome.state != "done":
            raise SystemExit(f"a whole run was {outcome.state}: {outcome.message}")
    times = pd.DataFrame(seconds[1:])  # the first round warms up
    return times.assign(longer_percent=100 * (times["run"] / times["steps alone"] - 1))
