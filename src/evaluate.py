r"""Evaluate a trained network on the test set: error, loss, and which classes it takes for which.

python src/evaluate.py results/runs/NAME    a run: its result, or its newest checkpoint if the run is not finished
python src/evaluate.py results/weights/NAME.safetensors    a finished run's weights, with its record in the file
python src/evaluate.py FILE model=resnet56  a state dict: a run's weights.pt, or another project's file

A run is evaluated as it was trained: only data.root, trainer.device and trainer.precision may differ. For a file, name
network and data as for src/train.py; it is evaluated in float32 unless trainer.precision says otherwise:

python src/evaluate.py resnet20.th model=resnet20 shortcut=A shortcut.zeros=split \
    --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225
"""

import argparse
import os
import sys
from pathlib import Path

from ablation.config.command_line import hydra_command
from ablation.errors import UserError
from ablation.program import Parser, check_writable


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("path", type=Path, help="folder of a run, or file of weights")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for src/train.py")
    text = "%s of each channel, for pixels from 0 to 1, in place of data.normalization (for a file)"
    parser.add_argument("--mean", nargs=3, type=float, metavar=("R", "G", "B"), help=text % "mean")
    parser.add_argument("--std", nargs=3, type=float, metavar=("R", "G", "B"), help=text % "standard deviation")
    parser.add_argument("--matrix", action="store_true", help="print the whole confusion matrix")
    text = "write the result: .json everything, .csv the confusion matrix; .safetensors: a run's weights and its record"
    parser.add_argument("--output", type=Path, help=text)
    options = parser.parse_intermixed_args(arguments)
    mean, std = options.mean, options.std
    if (mean is None) != (std is None):
        raise UserError("--mean", mean, "--mean and --std go together")
    if mean and not (all(0 <= m <= 1 for m in mean) and all(0 < s <= 1 for s in std)):
        allowed = "must be from 0 to 1, and --std above 0: pixels run from 0 to 1 here (divide by 255)"
        raise UserError("--mean and --std", f"{mean}, {std}", allowed)
    if options.output:
        if options.output.suffix not in (".json", ".csv", ".safetensors") or os.path.isdir(options.output):
            raise UserError("--output", options.output, "must be a file that ends with .json, .csv or .safetensors")
        check_writable("--output", options.output)
    return options


def main() -> None:
    options = parse(sys.argv[1:])
    from ablation.evaluation.evaluate import evaluate_and_show  # here, and not above: it imports torch

    evaluate_and_show(options)


if __name__ == "__main__":
    hydra_command(main)
