"""Look into the networks of finished runs; writes analysis.json into each run's folder, for src/report.py.

python src/analyze.py results/runs/NAME ...          all three; some minutes a run on a CPU
python src/analyze.py --only correlation RUN ...     published records too: it needs no weights

lesions      test error without one block (residual), or without one pair of layers that keeps the shape (plain)
slice        training loss along one random, filter-normalised direction
correlation  how alike the input gradients at neighbouring images are, at initialisation

data.root=FOLDER and trainer.device=DEVICE may differ from the run's.
"""

import argparse
import sys
from functools import partial
from os.path import isdir  # unlike Path.is_dir it takes what is too long for a name
from pathlib import Path

from ablation.config.command_line import hydra_command
from ablation.errors import UserError
from ablation.program import Parser, check_writable, whole
from ablation.runs.record.analysis import FILE, TYPES


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", nargs="+", metavar="RUN or KEY=VALUE", help="folder of a finished run")
    parser.add_argument("--only", default=",".join(TYPES), help="some of %(default)s; all by default")
    text = "use the first training and test images, so many: %(default)s"
    parser.add_argument("--images", type=partial(whole, 1, 1_000_000), default=1000, help=text)
    options = parser.parse_intermixed_args(arguments)
    options.only = options.only.split(",")
    for name in sorted({*options.only} - {*TYPES}):
        raise UserError("--only", name, f"must be some of {', '.join(TYPES)}, joined by commas")
    options.overrides = [text for text in options.what if "=" in text and not isdir(text)]
    options.runs = [Path(text) for text in options.what if text not in options.overrides]
    if not options.runs:
        raise UserError("run", " ".join(options.what), "needs the folder of a finished run")
    for run in options.runs:
        check_writable("run", run / FILE)
    return options


def main() -> None:
    options = parse(sys.argv[1:])
    from ablation.evaluation.analyze import analyze  # here, and not above: it imports torch

    analyze(options)


if __name__ == "__main__":
    hydra_command(main)
