"""Records into evidence: tables, figures and a verdict on every claim of the paper.

python src/report.py                                   results/reference and results/runs into results/report
python src/report.py PATH ... data=cifar10 seed=0,1    other folders, and only the runs that fit
python src/report.py --format terminal                 only print
python src/report.py --check                           exit status 1 if a claim is contradicted
python src/report.py --watch                           again whenever a run leaves something new
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from ablation.errors import UserError
from ablation.program import Parser, check_writable, make_unbreakable
from ablation.report import terminal
from ablation.report.reporting import DEFAULT_OUTPUT, DEFAULT_PATHS, FORMATS, gather, watch, write


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[Path], list[str]]:
    """The options, the paths and the filters. Raises UserError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "what", nargs="*", metavar="PATH or key=value", help="where to look, and what the runs must have"
    )
    parser.add_argument("--format", default=",".join(FORMATS), help=f"some of {','.join(FORMATS)}; all by default")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder of the report: %(default)s")
    parser.add_argument("--watch", action="store_true", help="make it again when something changes")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a claim is contradicted")
    options = parser.parse_intermixed_args(arguments)
    for name in options.format.split(","):
        if name not in FORMATS:
            raise UserError("--format", name, f"must be some of {', '.join(FORMATS)}, joined by commas")
    if is_there(options.output) and not options.output.is_dir():
        raise UserError("--output", options.output, "must be a folder, or not exist yet")
    if options.format != "terminal":
        check_writable("--output", options.output)
    if options.watch and options.check:
        raise UserError("--watch", "--check", "only one of them: --watch does not end by itself")
    filters = [text for text in options.what if "=" in text and not is_there(Path(text))]
    paths = [Path(text) for text in options.what if text not in filters]
    for path in paths:
        if not is_there(path):
            raise UserError("path", path, "no such file or folder; a filter would be key=value")
    return options, paths or list(DEFAULT_PATHS), filters


def is_there(path: Path) -> bool:
    """Path.exists, also for what is too long for a name."""
    with suppress(OSError):
        return path.exists()
    return False


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 if --check found a contradicted claim, 2 for a mistake in the arguments."""
    try:
        options, paths, filters = parse(arguments)
        formats = set(options.format.split(","))
        if options.watch:
            watch(paths, options.output, filters, formats)
        content = gather(paths, filters)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    if "terminal" in formats:
        terminal.show(content, terminal.console())
        sys.stdout.flush()
    if formats != {"terminal"}:
        for path in write(content, options.output, formats):
            print(path)
    if options.check:
        for study, finding in content.contradicted:
            print(f"contradicted: {study.name}: {finding.claim.id}: {finding.claim.statement}: {finding.evidence}")
        return 1 if content.contradicted else 0
    return 0


if __name__ == "__main__":
    make_unbreakable()
    sys.exit(main(sys.argv[1:]))
