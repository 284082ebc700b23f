"""The workspace as code: what it shows is what the tracker logs, two builds are equal, and it reaches a server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
from wandb_server import WandbServer, serving

pytest.importorskip("wandb_workspaces", reason="pip install -e '.[dashboards]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb-workspaces, on its own import

SCRIPT = Path(__file__).resolve().parent.parent / "src" / "dashboard.py"

LOGGED = {
    *("step", "lr", "running_train_loss", "test_loss", "images_per_second"),
    *(f"{kind}/{key}" for kind in ("plain", "residual") for key in ("train_error", "test_error")),
    *(f"layer/{key}" for key in ("index", "response_std", "gradient_norm_start", "gradient_norm_end")),
}
"""Keys of the history; tests/test_tracker.py compares what arrives under them."""

SUMMARY = {"final/train_error", "final/test_error", "test_error_min"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    yield from serving(monkeypatch, tmp_path)


def dashboard(*arguments: str) -> tuple[int, str, str]:
    """`python src/dashboard.py ARGUMENTS`: exit status, standard output and standard error."""
    ran = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def panels(view: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Section name -> its panels."""
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"].split(" (")[0]: section["panels"] for section in sections}


def without_ids(value: Any) -> Any:
    """A JSON value without the random ids of its parts."""
    if isinstance(value, dict):
        return {key: without_ids(inner) for key, inner in value.items() if key not in ("__id__", "id")}
    return [without_ids(inner) for inner in value] if isinstance(value, list) else value


def test_show_needs_neither_key_nor_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    status, out, err = dashboard("show")
    assert (status, err) == (0, "")
    names = ["Degradation", "Depth", "Shortcuts, optimizers, augmentations", "Health", "Layers", "Sweeps"]
    assert list(panels(json.loads(out))) == names


def test_panels_show_what_is_logged() -> None:
    view = json.loads(dashboard("show")[1])
    config = runs.small(Path()).to_dict()
    for panel in [panel for group in panels(view).values() for panel in group]:
        settings = panel["config"]
        kind = panel["viewType"]
        if kind == "Run History Line Plot":
            assert {settings["xAxis"], *settings["metrics"]} <= LOGGED
            assert settings["groupBy"] == "cell.value"
            assert (settings["groupAgg"], settings["groupArea"]) == ("mean", "minmax")
        elif kind == "Scatter Plot":
            assert settings["xAxis"] == "config:model.value.depth"
            assert settings["yAxis"].removeprefix("summary:") in SUMMARY
        elif kind == "Bar Chart":
            assert set(settings["metrics"]) <= SUMMARY
            group, _, key = settings["groupBy"].split(".")
            assert key in config[group]
    sides = [panel["config"]["metrics"][0] for panel in panels(view)["Degradation"]]
    assert sides == ["plain/train_error", "residual/train_error", "plain/test_error", "residual/test_error"]


def test_push_creates_and_then_updates_one_workspace(server: WandbServer) -> None:
    status, out, err = dashboard("push", "--project", "mine")
    assert (status, err) == (0, "")
    assert out == f"workspace created: {server.url}/me/mine?nw=ablationdepth\n"
    assert dashboard("push", "--project", "mine")[1] == out.replace("created", "updated")
    (view,) = server.views.values()
    assert (view["entityName"], view["projectName"]) == ("me", "mine")
    assert (view["name"], view["displayName"]) == ("nw-ablationdepth-v", "Does depth help?")
    shown = json.loads(dashboard("show", "--entity", "me", "--project", "mine")[1])
    assert without_ids(json.loads(view["spec"])) == without_ids(shown["spec"])


@pytest.mark.parametrize("command", ["push", "sync"])
def test_without_a_server_one_line_and_exit_status_2(
    command: str, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "run-0123"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps(runs.small(tmp_path).to_dict()))
    (run / "status.json").write_text(json.dumps({"id": "0123", "status": "done"}))
    arguments = [command, "--timeout", "1", *(["--results", str(tmp_path)] if command == "sync" else [])]
    server.fault = "error"
    status, out, err = dashboard(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"W&B={server.url}: answers with status 500")
    server.fault = None
    monkeypatch.delenv("WANDB_API_KEY")
    status, out, err = dashboard(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("WANDB_API_KEY=(none): ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sink"], "arguments=sink: "),
        (["sync", "--results", "/nowhere"], "results=/nowhere: has no runs"),
        (["sync", "a" * 300], "RUN=/"),
        (["sync", "--results", "a" * 300], "results=/"),
        (["sync", "nothing", "--results", "/nowhere"], "RUN=/nowhere/runs/nothing: is not the folder of a run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments: list[str], said: str) -> None:
    status, out, err = dashboard(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(said)
