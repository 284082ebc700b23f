"""Weights & Biases from the runs' own files: runs uploaded later, and the project's workspace as code.

python src/dashboard.py sync [RUN ...]    upload runs, as often as you like: nothing is ever there twice
python src/dashboard.py push              create the workspace, or update it
python src/dashboard.py show              print the workspace as JSON; needs neither key nor network
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import Timeout

from ablation.config.schema import ROOT, Tracker
from ablation.errors import UserError
from ablation.program import Parser, fail, make_unbreakable
from ablation.runs.record.lock import Busy, held


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command and its options. Raises UserError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="sync|push|show")
    for name, text in (("sync", "upload runs"), ("push", "upload the workspace"), ("show", "print the workspace")):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        command.add_argument("--project", help="W&B project; default: the run's own, or ablation")
        command.add_argument("--entity", help="W&B user or team; default: the key's own")
        if name == "sync":
            command.add_argument("runs", nargs="*", metavar="RUN", help="folder or name of a run; default: all")
            command.add_argument("--results", type=Path, default=ROOT / "results", help="default: %(default)s")
        if name != "show":
            command.add_argument("--timeout", type=float, default=30.0, help="seconds W&B may take; default: 30")
    return parser.parse_args(arguments)


def run_folders(results: Path, wanted: Sequence[str]) -> list[Path]:
    """The folders of the runs `wanted`, by path or by name in `results`/runs; without any, all in `results`/runs."""
    if not wanted:
        found = sorted(path.parent for path in (results / "runs").glob("*/config.yaml"))
        if not found:
            raise UserError("results", results, "has no runs; give --results DIR or the folders of runs")
        return found
    return [Path(run).resolve() if Path(run).is_dir() else results / "runs" / run for run in wanted]


def sync(folder: Path, options: argparse.Namespace) -> str:
    """Upload a run. Returns what happened in a line. Raises UserError if it cannot be uploaded."""
    from ablation.tracking.uploads import RunUpload, read_config

    try:
        tracker = read_config(folder).tracker
    except UserError as error:
        if options.runs:
            raise
        return f"{folder.name}: passed over: {error}"
    project, entity = options.project or tracker.project, options.entity or tracker.entity
    tracker = replace(tracker, mode="online", project=project, entity=entity, timeout=options.timeout)
    try:
        with held(folder):
            pass
        with tempfile.TemporaryDirectory() as directory:  # not results/wandb: leet would show the run twice
            upload = RunUpload(folder, tracker, Path(directory))
            upload.update()
            upload.close()
    except (Busy, Timeout) as error:
        return f"{folder.name}: passed over: {error}"
    return f"{folder.name}: {upload.logged} of {len(upload.rows)} rows were new; {upload.run.url}"


def lines(options: argparse.Namespace) -> Iterator[str]:
    """Carry out the command. Yields what it prints."""
    if options.command == "sync":
        yield from (sync(folder, options) for folder in run_folders(options.results.resolve(), options.runs))
        return
    from ablation.tracking import dashboards

    project = options.project or Tracker.project
    if options.command == "show":
        yield json.dumps(dashboards.as_json(options.entity or "entity", project), indent=1)
    else:
        address, there = dashboards.push(options.entity, project, options.timeout)
        yield f"workspace {'updated' if there else 'created'}: {address}"


def main() -> None:
    """The whole program; exit status 2 for a user's mistake."""
    os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB__DISABLE_STATS": "true"}
    sys.stdin = open(os.devnull)  # noqa: SIM115 - a missing key is an error: nobody is asked for one
    try:
        for line in lines(parse(sys.argv[1:])):
            print(line, flush=True)
    except UserError as error:
        fail(error)
    except ModuleNotFoundError as error:
        fail(UserError("module", error.name, 'is not installed: pip install -e ".[dashboards]"'))


if __name__ == "__main__":
    make_unbreakable()
    main()
