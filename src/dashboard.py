"""Weights & Biases from what is on the disk: runs brought there later, and the project's workspace as code.

python src/dashboard.py sync [RUN ...]    bring runs to W&B from their own files; as often as one likes, no doubles
python src/dashboard.py push              create the workspace, or bring it up to date
python src/dashboard.py show              print the workspace as JSON; needs neither key nor network
"""

import argparse
import json
import os
import sys
from pathlib import Path

from ablation.config.schema import ROOT, Tracker
from ablation.errors import UserError
from ablation.program import USER_MISTAKE, Parser, make_unbreakable


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command and its options. Raises UserError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="sync|push|show")
    for name, text in (("sync", "runs to W&B"), ("push", "the workspace to W&B"), ("show", "the workspace as JSON")):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        command.add_argument("--project", help="W&B project; default: the run's own, or ablation")
        command.add_argument("--entity", help="W&B user or team; default: the key's own")
        if name == "sync":
            command.add_argument("runs", nargs="*", metavar="RUN", help="folder or name of a run; default: all")
            command.add_argument("--results", type=Path, default=ROOT / "results", help="default: %(default)s")
        if name != "show":
            command.add_argument("--timeout", type=float, default=30.0, help="seconds W&B may take; default: 30")
    return parser.parse_args(arguments)


def sync(options: argparse.Namespace) -> None:
    """Bring the runs to W&B, a line each. Raises UserError."""
    from ablation.tracking.sync import run_folders
    from ablation.tracking.sync import sync as bring

    for folder in run_folders(options.results.resolve(), options.runs):
        print(bring(folder, options.project, options.entity, options.timeout), flush=True)


def push(options: argparse.Namespace) -> None:
    """Create or update the workspace. Raises UserError."""
    from ablation.tracking.dashboards import push as bring

    address, there = bring(options.entity, options.project or Tracker.project, options.timeout)
    print(f"workspace {'updated' if there else 'created'}: {address}")


def show(options: argparse.Namespace) -> None:
    """Print the workspace."""
    from ablation.tracking.dashboards import as_json

    print(json.dumps(as_json(options.entity or "entity", options.project or Tracker.project), indent=1))


def main() -> None:
    """The whole program; exit status 2 for a user's mistake."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    sys.stdin = open(os.devnull)  # noqa: SIM115 - a missing key is an error, not the start of a conversation
    try:
        options = parse(sys.argv[1:])
        {"sync": sync, "push": push, "show": show}[options.command](options)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except ModuleNotFoundError as error:
        print(UserError("module", error.name, 'is not installed: pip install -e ".[dashboards]"'), file=sys.stderr)
        sys.exit(USER_MISTAKE)


if __name__ == "__main__":
    make_unbreakable()
    main()
