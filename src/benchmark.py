"""How fast a network trains here: this project's default, its reference trainer and the usual script, in one process.

python src/benchmark.py --data-root DIR       ResNet-20, batch 128, five rounds, on the CIFAR-10 in DIR
python src/benchmark.py --model resnet56 --rounds 7 --steps 20
python src/benchmark.py --whole-runs 400      what a run's files, progress bar and tracker cost beside its steps
python src/benchmark.py --busy 1 --starts     also beside a busy process, and the time that commands take to start

The contenders take turns; what counts is the ratio of their speeds, round by round. On CUDA there are also the default
without its fused kernels, several networks at once, and the share of the time that moving the bytes alone would take.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from shutil import which

from ablation.config.schema import CONF, ROOT
from ablation.errors import UserError
from ablation.program import Parser, check_writable, fail, make_unbreakable, spin_briefly, whole


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    models = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    parser.add_argument("--model", default="resnet20", choices=models, help="%(default)s")
    parser.add_argument("--batch-size", type=partial(whole, 2, 1000), default=128, help="%(default)s")
    parser.add_argument("--rounds", type=partial(whole, 1, 100), default=5, help="%(default)s")
    parser.add_argument("--steps", type=partial(whole, 1, 1000), help="steps a round: 8, on CUDA 200")
    parser.add_argument("--whole-runs", type=partial(whole, 0, 100_000), help="steps of each: on CUDA 6400, else 0")
    parser.add_argument("--keras", metavar="PYTHON", help="one with TensorFlow 2.15: the notebook's code takes part")
    parser.add_argument("--busy", type=partial(whole, 0, 1024), default=0, help="again beside so many busy processes")
    parser.add_argument("--starts", action="store_true", help="also what commands take from start to end")
    parser.add_argument("--gangs", type=partial(whole, 1, 64), nargs="+", default=[1, 2, 4, 8], help="sizes, on CUDA")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N: %(default)s")
    parser.add_argument("--threads", type=partial(whole, 1, 1024), help="of torch on the CPU; else torch's own choice")
    parser.add_argument("--workers", type=partial(whole, 0, 1024), default=os.cpu_count(), help="of the DataLoader")
    parser.add_argument("--data-root", type=Path, help="folder of CIFAR-10: data/ here, or random images")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmark.json", help="JSON: %(default)s")
    options = parser.parse_args(arguments)
    if options.data_root and not (options.data_root / "cifar-10-batches-py").is_dir():
        raise UserError("--data-root", options.data_root, "must be the folder that holds cifar-10-batches-py")
    if options.keras and not which(options.keras):
        raise UserError("--keras", options.keras, "must be a Python that has what tests/keras_notebook.py needs")
    check_writable("--output", options.output)
    if options.output.exists() and not options.output.is_file():
        raise UserError("--output", options.output, "must be a file")
    return options


if __name__ == "__main__":
    make_unbreakable()
    try:
        options = parse(sys.argv[1:])
        spin_briefly()
        if options.threads:
            os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler writes USDT and GPU lines to stderr
        from ablation.benchmark.measure import measure  # here, and not above: it imports torch

        measure(options)
    except UserError as mistake:
        fail(mistake)
