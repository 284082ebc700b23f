"""W&B and TensorBoard from the runs' own files: runs uploaded later, and the project's W&B workspace as code.

python src/dashboard.py sync [RUN ...]    upload runs, as often as you like: nothing is ever there twice
python src/dashboard.py tensorboard [RUN ...]   write event files; then tensorboard --logdir results/tensorboard
python src/dashboard.py push              create the workspace, or update it
python src/dashboard.py show              print the workspace as JSON; needs neither key nor network
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from filelock import Timeout

from ablation.config.schema import ROOT, Tracker
from ablation.errors import UserError, printable
from ablation.program import Parser, fail, make_unbreakable
from ablation.runs.record.status import Busy, held


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("command", choices=("sync", "tensorboard", "push", "show"))
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="sync, tensorboard: a run's folder or name; default: all"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of runs/; default: %(default)s")
    parser.add_argument("--project", help="W&B project; default: the run's own, or ablation")
    parser.add_argument("--entity", help="W&B user or team; default: the key's own")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds W&B may take; default: 30")
    options = parser.parse_intermixed_args()
    if options.runs and options.command in ("push", "show"):
        parser.error(f"{options.command} takes no RUN")
    return options


def run_folders(results: Path, wanted: list[str]) -> list[Path]:
    """The folders of the runs `wanted`, by path or by name in `results`/runs; without any, all in `results`/runs."""
    if wanted:
        return [Path(run).resolve() if os.path.isdir(run) else results / "runs" / run for run in wanted]
    if os.path.isdir(results) and (found := sorted(path.parent for path in results.glob("runs/*/config.yaml"))):
        return found
    raise UserError("results", results, "has no runs; give --results DIR or the folders of runs")


def sync(folder: Path, options: argparse.Namespace) -> str:
    """Upload a run. Returns what happened in a line. Raises UserError if it cannot be uploaded."""
    from ablation.tracking.uploads import RunUpload, read_run

    try:
        tracker = read_run(folder)[0].tracker
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
            upload.update(last=True)
    except (Busy, Timeout, ValueError) as error:  # ValueError: its record is damaged
        return f"{folder.name}: passed over: {error}"
    return f"{folder.name}: {upload.logged} of {len(upload.rows)} rows were new; {upload.run.url}"


def write_event_files(results: Path, runs: list[str]) -> None:
    """Write the event files of the runs. Raises UserError for one that is asked for and cannot be read."""
    from ablation.tracking.event_files import EventFiles

    for folder in run_folders(results, runs):
        try:
            EventFiles(folder, results / "tensorboard").update(last=True)
        except (UserError, ValueError) as error:  # ValueError: its record is damaged
            if runs:
                raise UserError("RUN", folder, str(error)) from None
            print(printable(f"{folder.name}: passed over: {error}"))
    print(f"tensorboard --logdir {results / 'tensorboard'}")


def main() -> None:
    """The whole program; exit status 2 for a user's mistake."""
    os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB__DISABLE_STATS": "true"}
    with open(os.devnull, "rb") as nobody:
        os.dup2(nobody.fileno(), 0)  # a missing key is an error: nobody is asked for one
    try:
        options = parse()
        if options.command == "sync":
            for folder in run_folders(options.results.resolve(), options.runs):
                print(printable(sync(folder, options)), flush=True)
            return
        if options.command == "tensorboard":
            write_event_files(options.results.resolve(), options.runs)
            return
        from ablation.tracking import dashboards

        project = options.project or Tracker.project
        if options.command == "push":
            print(f"workspace {dashboards.push(options.entity, project, options.timeout)}")
        else:
            view = dashboards.workspace(options.entity or "entity", project)._to_model()
            print(view.model_dump_json(by_alias=True, exclude_none=True, indent=1))
    except UserError as error:
        fail(error)
    except ModuleNotFoundError as error:
        fail(UserError("module", error.name, 'is not installed: pip install -e ".[dashboards,tensorboard]"'))


if __name__ == "__main__":
    make_unbreakable()
    main()
