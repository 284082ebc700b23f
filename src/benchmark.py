"""How fast a network trains here: this project's default, its reference trainer and the usual script, in one process.

python src/benchmark.py --data-root DIR       ResNet-20, batch 128, five rounds, on the CIFAR-10 in DIR
python src/benchmark.py --model resnet56 --rounds 7 --steps 20
python src/benchmark.py --whole-runs 400      what a run's files, progress bar and tracker cost beside its steps

The contenders take turns; what counts is the ratio of their speeds, round by round. On CUDA there are also the default
without its fused kernels, several networks at once, and the share of the time that moving the bytes alone would take.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ablation.config.schema import ROOT
from ablation.errors import UserError
from ablation.program import Parser, check_writable, fail, make_unbreakable, spin_briefly


def whole(least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from `least` to `most`."""

    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Raises UserError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    models = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
    parser.add_argument("--model", default="resnet20", choices=models, help="%(default)s")
    parser.add_argument("--batch-size", type=whole(2, 1000), default=128, help="%(default)s")
    parser.add_argument("--rounds", type=whole(1, 1000), default=5, help="%(default)s")
    parser.add_argument("--steps", type=whole(1, 100_000), help="steps a round: 8, on CUDA 200")
    text = "steps of runs that are measured with and without all they write; 0: none; on CUDA 6400, else none"
    parser.add_argument("--whole-runs", type=whole(0, 100_000), metavar="STEPS", help=text)
    parser.add_argument("--gangs", type=whole(1, 64), nargs="+", default=[1, 2, 4, 8], help="networks at once, on CUDA")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N: %(default)s")
    parser.add_argument("--threads", type=whole(1, 1024), help="of torch on the CPU; else torch's own choice")
    text = "of the usual script's DataLoader: %(default)s"
    parser.add_argument("--workers", type=whole(0, 1024), default=os.cpu_count() or 1, help=text)
    text = "folder of CIFAR-10; images are random without it: %(default)s"
    parser.add_argument("--data-root", type=Path, default=ROOT / "data", help=text)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmark.json", help="JSON: %(default)s")
    options = parser.parse_args(arguments)
    given = options.data_root != parser.get_default("data_root")
    if given and not (options.data_root / "cifar-10-batches-py").is_dir():
        raise UserError("--data-root", options.data_root, "must be the folder that holds cifar-10-batches-py")
    check_writable("--output", options.output)
    if options.output.exists() and not options.output.is_file():
        raise UserError("--output", options.output, "must be a file")
    return options


if __name__ == "__main__":
    make_unbreakable()
    try:
        options = parse(sys.argv[1:])
        spin_briefly()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler writes USDT and GPU lines to stderr
        from ablation.benchmark.measure import measure  # here, and not above: it imports torch

        measure(options)
    except UserError as mistake:
        fail(mistake)
