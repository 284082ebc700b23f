"""Records into evidence: tables, figures and a verdict on every claim of the paper.

python src/report.py                                   results/reference and results/runs into results/report
python src/report.py DIR ... data=cifar10 seed=0,1     other folders into DIR/report, and only the runs that fit
python src/report.py RUN_A RUN_B                       two runs side by side: what differs, metrics, curves
python src/report.py --runs                            only print one row a run, the best first; --best 5: five of them
python src/report.py --baseline optimizer.lr=0.3       what the others are compared with; the default: conf/
python src/report.py --format terminal                 only print
python src/report.py --check                           exit status 1 if a claim is contradicted
python src/report.py --publish STUDY PATH ...          copy finished runs to results/reference/STUDY, renew the READMEs
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from os.path import exists  # unlike Path.exists it takes what is too long for a name
from pathlib import Path

from ablation.errors import UserError
from ablation.program import Parser, check_output, check_writable, console, make_unbreakable, whole
from ablation.report import terminal
from ablation.report.evidence import MARKERS
from ablation.report.listings import pair_blocks, runs_blocks
from ablation.report.publishing import publish
from ablation.report.reporting import DEFAULT_OUTPUT, DEFAULT_PATHS, FORMATS, gather, write


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", nargs="*", metavar="PATH or key=value", help="where to look, what the runs must have")
    parser.add_argument("--format", default=",".join(FORMATS), help=f"some of {','.join(FORMATS)}; all by default")
    parser.add_argument("--output", type=Path, help="folder of the report: DIR/report, or results/report without a DIR")
    parser.add_argument("--baseline", action="append", default=[], metavar="KEY=VALUE", help="what the baseline has")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--runs", action="store_true", help="only print one row a run, the best first")
    mode.add_argument(
        "--best", type=partial(whole, 1, 10_000), metavar="N", help="only print the best N runs of a study"
    )
    mode.add_argument("--check", action="store_true", help="exit status 1 if a claim is contradicted")
    mode.add_argument("--publish", metavar="STUDY", help="make no report, but publish the runs as this study")
    options = parser.parse_intermixed_args(arguments)
    options.format = set(options.format.split(","))
    options.filters = [text for text in options.what if "=" in text and not exists(text)]
    options.paths = [Path(text) for text in options.what if text not in options.filters]
    runs = [path for path in options.paths if any((path / marker).is_file() for marker in MARKERS)]
    options.pair = runs if len(runs) == len(options.paths) == 2 else []
    if options.runs or options.best or (runs and not options.output):
        options.format &= {"terminal"}  # a run's folder is no place for a report
    options.output = options.output or output_for(options.paths)
    check(options)
    options.paths = options.paths or list(DEFAULT_PATHS)
    return options


def output_for(paths: Sequence[Path]) -> Path:
    """Where a sweep with these results writes its report: beside a folder called runs, else inside."""
    if not paths:
        return DEFAULT_OUTPUT
    first = paths[0] if paths[0].is_dir() else paths[0].parent
    return (first.parent if first.name == "runs" else first) / "report"


def check(options: argparse.Namespace) -> None:
    for name in sorted(options.format - {*FORMATS}):
        raise UserError("--format", name, f"must be some of {', '.join(FORMATS)}, joined by commas")
    for path in options.paths:
        if not exists(path):
            raise UserError("path", path, "no such file or folder; a filter would be key=value")
    for text in options.baseline:
        if "=" not in text:
            raise UserError("--baseline", text, "must be KEY=VALUE, such as optimizer.lr=0.1")
    if exists(options.output) and not options.output.is_dir():
        raise UserError("--output", options.output, "must be a folder, or not exist yet")
    if options.format != {"terminal"}:
        check_writable("--output", options.output)
    if options.publish and not options.paths:
        raise UserError("--publish", options.publish, "needs a PATH with the runs to publish, such as results/runs")


def run(arguments: list[str]) -> bool:
    """Do what is asked for; whether --check found a contradicted claim. Raises UserError."""
    options = parse(arguments)
    if options.publish:
        print(publish(options.publish, options.paths, options.filters))
        return False
    content = gather(options.paths, options.filters, options.baseline)
    blocks = content.blocks()
    if options.pair:
        blocks = pair_blocks(options.pair)
    elif options.runs or options.best:
        blocks = runs_blocks(content, options.best)
    if "terminal" in options.format:
        terminal.show(blocks, console())
        sys.stdout.flush()
    if options.format != {"terminal"}:
        print(*write(content, options.output, options.format), sep="\n")
    check_output()
    contradicted = [pair for pair in content.findings if options.check and pair[1].verdict == "contradicted"]
    for study, finding in contradicted:
        print(f"contradicted: {study.name}: {finding.claim.id}: {finding.claim.statement}: {finding.evidence}")
    return bool(contradicted)


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 if --check found a contradicted claim, 2 for a mistake in the arguments."""
    try:
        return int(run(arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    make_unbreakable()
    sys.exit(main(sys.argv[1:]))
