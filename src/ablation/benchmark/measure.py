"""What `src/benchmark.py` does: contenders, whole runs, gangs and profile, as tables and as one JSON file."""

import argparse
import io
import os
import shlex
import subprocess
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory, mkdtemp

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.nn.modules.module import register_module_forward_hook
from torch.profiler import ProfilerActivity, profile

from ablation.benchmark.contenders import Contender, Project, compared, in_turn, keras_notebook, take, usual_script
from ablation.config import compose
from ablation.config.schema import ROOT, Config
from ablation.data import Images, Splits
from ablation.evaluation.confusion import show
from ablation.runs.build import load_data
from ablation.runs.environment import environment
from ablation.runs.record.files import write_json
from ablation.runs.run import run
from ablation.tracking.tracker import finish
from ablation.training import devices

STEPS = {"cuda": 200, "cpu": 8, "mps": 50}  # a round
WHOLE_RUN = {"cuda": 6400, "cpu": 0, "mps": 0}  # steps: a tenth of the paper's, where that is a matter of seconds

COMMANDS = {
    "import torch": "-c 'import torch'",
    "train.py --help": "src/train.py --help",
    "train.py --cfg job": "src/train.py --cfg job",
    "train.py data=digits": "src/train.py data=digits schedule.steps=1 tracker=disabled overwrite=true results={}",
    "report.py results/reference": "src/report.py results/reference --format terminal",
}
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"

PASSES = 16
"""How often a step must read or write the output of a convolution, once each unless said otherwise.

forward: convolution in, out; batch norm's moments in; normalization in, out. backward: batch norm's sums in (3: input,
output, gradient), its gradient in (3), out; the convolution's gradient in the input in, out, in the weights in (2).
"""


def measure(options: argparse.Namespace) -> None:
    """Measure what the options ask for, show it, and write it to `options.output`. Raises UserError."""
    device, batch = devices.pick_device(options.device, "--device"), options.batch_size
    steps, config = options.steps or STEPS[device.type], composed(options)
    real = config.data.name == "cifar10"
    source = "CIFAR-10" if real else "RANDOM images, for want of --data-root: speeds are the same, errors mean nothing"
    print(f"images: {source}")
    splits = load_data(config) if real else noise()
    default = Project(config, splits, device)
    reference = Project(composed(options, "trainer=reference"), splits, device)
    timed = {"default": partial(take, [default], steps), "reference": partial(take, [reference], steps)}
    contenders = timed | {"usual script": usual_script(config, splits, device, options.workers, steps)}
    if device.type == "cuda":
        not_fused = Project(composed(options, "trainer.fused=false"), splits, device)
        contenders["not fused"] = partial(take, [not_fused], steps)
    beside: dict[str, Contender] = {"default": timed["default"]}
    if device.type == "cpu" and torch.get_num_threads() > 1:
        beside["default, one thread"] = partial(take, [default], steps, threads=1)
    if options.keras:
        beside["Keras notebook"] = keras_notebook(options.keras, batch, steps)
    contenders |= beside
    rates = in_turn(contenders, device, options.rounds, steps)
    speeds = compared(rates, batch, batch * rates["usual script"])
    where = environment(device, default.training.precision, default.fused, False)
    about = f"{options.model}, batch {batch}, {options.rounds} rounds of {steps} steps; {where['device_name']}, "
    about += f"{where['threads']} threads, {where['precision']}, torch {where['torch']}, commit {where['git_commit']}"
    show(about, speeds, "trainer")
    result = {"model": options.model, "data": source, "batch_size": batch, "rounds": options.rounds, "steps": steps}
    result |= {"environment": where, "contenders": speeds.to_dict("index"), "steps_per_second": rates.to_dict("list")}
    if options.busy:
        with ExitStack() as processes:
            for _ in range(options.busy):  # in sessions of their own, as other users' are
                process = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
                processes.callback(processes.enter_context(process).kill)
            busy_rates = in_turn(beside, device, options.rounds, steps)
        busy = compared(busy_rates, batch, batch * rates["default"])
        show(f"Beside {options.busy} busy processes; ratio to the default without them", busy, "trainer")
        result["beside_busy_processes"] = {"processes": options.busy, **busy.to_dict("index")}
    if options.starts:
        starting = starts(options.rounds)
        show("Commands from start to end; ratio of their processor time to that of `import torch`", starting, "command")
        result["starts"] = starting.to_dict("index")
    if whole := WHOLE_RUN[device.type] if options.whole_runs is None else options.whole_runs:
        runs = whole_runs(config, device, options.rounds, whole)
        show(f"{whole} steps on {config.data.name}", runs, "")
        result["whole_runs"] = {"steps": whole, "data": config.data.name, **runs.to_dict("index")}
    if device.type == "cuda":
        sizes = sorted({1, *options.gangs})
        members = [default, *(Project(config, splits, device) for _ in range(sizes[-1] - 1))]
        gangs = {f"{size} at once": partial(take, members[:size], steps) for size in sizes}
        gang_rates = in_turn(gangs, device, options.rounds, steps)
        gang_speeds = compared(gang_rates, batch * pd.Series(sizes, list(gangs)), batch * gang_rates["1 at once"])
        show("Networks at once, a stream each; ratio to one", gang_speeds, "gang")
        floor = memory_floor(default, splits.train.images[:batch], 1 / rates["default"].median(), device)
        show("A step of the default", pd.DataFrame([floor]), "")
        result["gpu"] = {"gangs": gang_speeds.to_dict("index"), **floor}
    shares = operations(default, device)  # last: on CUDA a profiler slows what follows it
    show("A step of the default by torch.profiler", shares.head(10), "operation")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, result | {"operations": shares.to_dict("index")})
    print(f"written: {options.output}")


def composed(options: argparse.Namespace, *overrides: str) -> Config:
    """The model by the paper's recipe, on CIFAR-10 if it is there, else on digits (for whole runs)."""
    root = options.data_root or ROOT / "data"
    name = "cifar10" if (root / "cifar-10-batches-py").is_dir() else "digits"
    fixed = [f"model={options.model}", f"data={name}", f"data.batch_size={options.batch_size}"]
    config = compose.compose([*fixed, "schedule.steps=1000000", "trainer.strict=true", *overrides])
    return replace(config, data=replace(config.data, root=str(root)))


def noise() -> Splits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=generator)
    train = Images(images, torch.randint(10, (50_000,), generator=generator))
    return Splits(train, None, train[:10_000], tuple("0123456789"), "random")


def whole_runs(config: Config, device: torch.device, rounds: int, steps: int) -> pd.DataFrame:
    """Runs of `steps` with all they write, show and upload, two checkpoints; and their steps and evaluations alone."""
    half = -(-steps // 2)
    trainer = replace(config.trainer, evaluate_every=half, checkpoint_every=half, progress=True)
    config = replace(config, trainer=trainer, schedule=replace(config.schedule, steps=steps))

    def whole() -> None:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            outcome = run(replace(config, results=mkdtemp(dir=results)))
        assert outcome.state == "done", outcome.message

    def alone() -> None:
        splits = load_data(config)
        project, test = Project(config, splits, device), splits.test
        for step, images in ((half, test), (steps, test), (steps, test), (steps, splits.train)):
            take([project], step - project.training.step)
            with project.stream:
                project.training.read_sums()
                project.training.evaluate(images)

    with TemporaryDirectory() as results:
        rates = in_turn({"run": whole, "its steps alone": alone}, device, rounds, steps)
        finish()  # the tracker's process, before the folder goes
    batch = config.data.batch_size
    return compared(rates, batch, batch * rates["its steps alone"])


def starts(rounds: int) -> pd.DataFrame:
    """Each command's processor seconds from start to end, beside those of `import torch`; the commands take turns."""
    seconds = pd.DataFrame(columns=list(COMMANDS), dtype=float)
    with TemporaryDirectory() as results:
        for number in range(rounds + 1):
            for name, arguments in COMMANDS.items():
                command, before = [sys.executable, *shlex.split(arguments.format(results))], os.times()
                subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
                seconds.loc[number, name] = sum(os.times()[2:4]) - sum(before[2:4])  # of children that have ended
    seconds = seconds[1:]  # in the first round, files come from the disk
    ratios = seconds.div(seconds["import torch"], axis=0)
    ratios = pd.DataFrame({"ratio": ratios.median(), "least": ratios.min(), "greatest": ratios.max()})
    return ratios.assign(processor_seconds=seconds.median())


def operations(project: Project, device: torch.device, steps: int = 3) -> pd.DataFrame:
    """Percent of the time and calls a step of each operation: on a GPU of each kernel, on a CPU without callees."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        take([project], steps)
        with project.stream:
            project.training.read_sums()  # waits for the device
    events = profiled.key_averages()
    if on_gpu:  # kernels, not what launched them
        events = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(event.key[:70], getattr(event, spent), event.count / steps) for event in events]
    shares = pd.DataFrame(rows, columns=["operation", "percent", "calls_per_step"]).groupby("operation").sum()
    shares["percent"] *= 100 / shares["percent"].sum()
    return shares.sort_values("percent", ascending=False)


def memory_floor(project: Project, images: Tensor, seconds: float, device: torch.device) -> dict[str, float]:
    """The share of a step of `seconds` that moving its bytes alone takes; `images`: a batch, uint8."""
    from torch.utils.benchmark import Timer  # here, and not above: without a GPU it warns

    normalized = project.training.normalization(images.to(device))
    moved = bytes_per_step(project.training.network, normalized, 2 if project.training.precision == "bfloat16" else 4)
    source = torch.empty(1 << 32, dtype=torch.uint8, device=device)
    copy = Timer("target.copy_(source)", globals={"source": source, "target": torch.empty_like(source)})
    bandwidth = 2 * len(source) / copy.timeit(10).mean
    share = 100 * moved / bandwidth / seconds
    return {"bytes_per_step": moved, "copy_bytes_per_second": bandwidth, "floor_share_percent": share}


def bytes_per_step(network: nn.Module, images: Tensor, itemsize: int) -> int:
    """The bytes that a step must move if nothing stays in a cache; images count for little and are left out."""
    sizes: dict[nn.Module, int] = {}
    with torch.no_grad(), register_module_forward_hook(lambda module, _, y: sizes.update({module: y.numel()})):
        network.eval()(images)
    network.train()
    outputs = sum(size for module, size in sizes.items() if isinstance(module, nn.BatchNorm2d))
    weights = sum(p.numel() for p in network.parameters())
    return PASSES * outputs * itemsize + 6 * 4 * weights  # weight, momentum and gradient, in and out
