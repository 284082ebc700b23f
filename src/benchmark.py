"""How fast a network trains here: this project's default, its reference trainer and the usual script, in one process.

python src/benchmark.py                                     ResNet-20, batch 128, five rounds
python src/benchmark.py --data-root DIR                     on the real CIFAR-10 in DIR; else on random pictures
python src/benchmark.py --model resnet56 --rounds 7 --steps 20
python src/benchmark.py --whole-runs 400                    what a run's files, bar and tracker cost beside its steps
python src/benchmark.py --output FILE                       where the JSON goes: results/benchmark.json

The contenders take turns; what counts is the ratio of their speeds, round by round. On CUDA there are also gangs of 1,
2, 4 and 8 networks, kernels per step, and the share of the time that moving the bytes alone would take.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from rich.console import Console

from ablation.config.schema import ROOT
from ablation.errors import UserError, no_such
from ablation.program import Parser, check_writable, fail, make_unbreakable, spin_briefly

MOST_WORKERS = 1024
"""Threads, or processes that load pictures: more cores than any machine has that this is for."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Raises UserError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", default="resnet20", help="a name in conf/model: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--steps", type=int, help="steps a round: 8, on CUDA 200")
    text = "steps of runs that are measured with and without all they write; 0: none; on CUDA 6400, else none"
    parser.add_argument("--whole-runs", type=int, metavar="STEPS", help=text)
    parser.add_argument("--gangs", default="1,2,4,8", help="networks at once, on CUDA: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N: %(default)s")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; torch's own choice if not given")
    workers = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=workers, help="of the usual DataLoader: %(default)s")
    parser.add_argument("--data-root", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmark.json", help="JSON: %(default)s")
    options = parser.parse_args(arguments)
    known = [path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")]
    if options.model not in known:
        raise no_such("choice", "--model", options.model, known)
    for name in ("batch_size", "rounds", "steps", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}", getattr(options, name), "must be a positive whole number")
    if options.batch_size < 2 or options.batch_size > 10_000:
        raise UserError("--batch-size", options.batch_size, "must be a whole number from 2 to 10000")
    if options.workers < 0:
        raise UserError("--workers", options.workers, "must be zero or a positive whole number")
    if options.whole_runs is not None and (options.whole_runs < 0 or options.whole_runs == 1):
        raise UserError("--whole-runs", options.whole_runs, "must be zero or a whole number from 2 on")
    for name in ("threads", "workers"):
        if (getattr(options, name) or 0) > MOST_WORKERS:
            raise UserError(f"--{name}", getattr(options, name), f"must be at most {MOST_WORKERS}")
    if not all(re.fullmatch("0*[1-9][0-9]{0,3}", part) for part in options.gangs.split(",")):
        raise UserError("--gangs", options.gangs, "must be positive whole numbers below 10000, joined by commas")
    check_writable("--output", options.output)
    if options.output.is_dir():
        raise UserError("--output", options.output, "must be a file")
    return options


def main(arguments: list[str]) -> int:
    """Measure, print the tables, write the JSON. Exit status 0, or 2 for a mistake in the arguments."""
    options = parse(arguments)
    spin_briefly()
    from ablation.benchmark.measure import measure  # here, and not above: it imports torch, which --help does without

    measure(options, Console())
    return 0


if __name__ == "__main__":
    make_unbreakable()
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as mistake:
        fail(mistake)
