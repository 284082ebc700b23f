"""A W&B server on the loopback, for tests: it answers what wandb 0.31 asks, keeps what arrives, and fails on request.

Notable: like W&B it keeps a run's history by line number (`offset` of a file_stream request), answers a resume with the
last line, and takes the same artifact twice for one. It has no users: any key is right.
"""

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from ablation.tracking import tracker

KEY = "0123456789" * 4

USER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}

CONSTANT: dict[str, Any] = {
    "Viewer": {"viewer": USER},
    "GetDefaultEntity": {"viewer": USER},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": {"entity": {"organization": None}},
    "ArtifactType": {"project": {"artifact": None}},
    "CreateAgent": {"createAgent": {"agent": {"id": "agent"}}},
}
"""GraphQL operation -> its data, where that is always the same."""


@dataclass
class Run:
    """What has arrived of one run."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    complete: bool = False
    preempting: bool = False
    sessions: int = 0

    def file(self, name: str) -> list[Any]:
        """The lines of a stream, by line number."""
        return [json.loads(text) for _, text in sorted(self.lines.get(name, {}).items())]

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.file("wandb-history.jsonl")

    @property
    def summary(self) -> dict[str, Any]:
        return self.file("wandb-summary.json")[-1]

    @property
    def config(self) -> dict[str, Any]:
        whole = json.loads(self.fields["config"])
        return {key: value["value"] for key, value in whole.items() if key != "_wandb"}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What define_metric declared, in W&B's numbered fields: 1 name, 2 glob, 5 the step metric's place (from 1)."""
        return json.loads(self.fields["config"])["_wandb"]["value"]["m"]

    @property
    def state(self) -> str:
        if not self.complete:
            return "running"
        return "finished" if self.exit_code == 0 else "preempted" if self.preempting else "failed"


class WandbServer(ThreadingHTTPServer):
    """`fault` is None, "error" (status 500) or "hang" (no answer)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.guard = threading.Lock()
        self.runs: dict[str, Run] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, str] = {}
        self.operations: list[str] = []
        self.sweep = ""  # the YAML of the sweep that there is
        self.unknown: list[str] = []
        self.fault: str | None = None
        self.released = threading.Event()

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def wait_until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something that another process does."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for(self, operation: str, seconds: float = 60) -> None:
        """Wait until a GraphQL operation has been asked for."""
        self.wait_until(lambda: operation in self.operations, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that leaves in mid-request is no fault here."""

    def answer(self, operation: str, given: dict[str, Any]) -> Any:
        """The data of a GraphQL operation."""
        self.operations.append(operation)
        if operation in CONSTANT:
            return CONSTANT[operation]
        method = getattr(self, f"on_{operation}", None)
        if method is None:
            self.unknown.append(operation)
            return None
        return method(given)

    def on_RunResumeStatus(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        model = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
        if run is None:
            return {"model": model | {"bucket": None}}
        history, events = run.lines.get("wandb-history.jsonl", {}), run.lines.get("wandb-events.jsonl", {})
        last = [history[max(history)]] if history else []
        bucket = {
            "id": f"id-{run.name}",
            "name": run.name,
            "summaryMetrics": json.dumps(run.summary) if run.lines.get("wandb-summary.json") else "{}",
            "displayName": run.fields.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "config": run.fields["config"],
            "tags": run.fields.get("tags") or [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": model | {"bucket": bucket}}

    def on_UpsertBucket(self, given: dict[str, Any]) -> Any:
        name = given["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name))
        run.fields |= {key: value for key, value in given.items() if value is not None}
        if given.get("program") or given.get("displayName"):  # sent when a session begins, not when it updates
            run.sessions += 1
            run.complete, run.preempting = False, False
        project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
        bucket = {"id": f"id-{name}", "name": name, "displayName": run.fields.get("displayName"), "project": project}
        bucket |= {"description": "", "config": run.fields["config"], "sweepName": None}
        bucket["historyLineCount"] = len(run.lines.get("wandb-history.jsonl", {}))
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": f"id-{given['run']}", "uploadHeaders": [], "files": files}}

    def on_CreateArtifact(self, given: dict[str, Any]) -> Any:
        given = given.get("input") or given
        name = given.get("artifactCollectionName") or given.get("artifactCollectionNames", ["?"])[0]
        self.artifacts[f"{name}:{given['digest']}"] = name
        artifact = {"id": name, "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def on_UpsertSweep(self, given: dict[str, Any]) -> Any:
        self.sweep = given["config"]
        project = {"id": "p", "name": given["projectName"], "entity": {"id": "e", "name": "me"}}
        return {"upsertSweep": {"sweep": {"name": "sweep", "project": project}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, given: dict[str, Any]) -> Any:
        return {"project": {"sweep": {"config": self.sweep, "runs": {"edges": []}}}}

    def on_Heartbeat(self, given: dict[str, Any]) -> Any:
        """The first one is told to start the run "trial", with the greatest value of each parameter."""
        config = yaml.safe_load(self.sweep)
        values = {key: {"value": values["max"]} for key, values in config["parameters"].items()}
        command = {"type": "run", "run_id": "trial", "program": config["program"], "args": values}
        commands = [] if self.operations.count("Heartbeat") > 1 else [command]
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}

    def on_View(self, given: dict[str, Any]) -> Any:
        found = [view for view in self.views.values() if view["name"] == given["viewName"]]
        edges = [{"node": {key: view[key] for key in ("id", "displayName", "spec")}} for view in found]
        return {"project": {"allViews": {"edges": edges}}}

    def on_UpsertView2(self, given: dict[str, Any]) -> Any:
        identity = given.get("id") or f"view{len(self.views)}"
        inserted = identity not in self.views
        self.views[identity] = given | {"id": identity}
        return {"upsertView": {"view": {"id": identity, "name": given["name"]}, "inserted": inserted}}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """A file_stream request: lines by number, and how the run ended."""
        run = self.runs[name]
        for file, chunk in (sent.get("files") or {}).items():
            lines = run.lines.setdefault(file, {})
            for number, text in enumerate(chunk["content"], start=chunk["offset"]):
                lines[number] = text
        run.preempting |= bool(sent.get("preempting"))
        if sent.get("complete"):
            run.complete, run.exit_code = True, sent.get("exitcode")


def serving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """For a fixture: a server, and an environment in which wandb finds no other server and no other key."""
    with WandbServer() as made:
        environment = {"WANDB_BASE_URL": made.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}
        for name, value in (environment | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}).items():
            monkeypatch.setenv(name, value)
        yield made
        tracker.finish()
        assert not made.unknown, "wandb asked for something that the server does not have"


class Handler(BaseHTTPRequestHandler):
    """Routes a request to the server's methods."""

    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        content = self.content()
        if self.healthy():
            run, _, name = unquote(self.path.removeprefix("/upload/")).partition("/")
            with self.server.guard:
                self.server.runs[run].uploads[name] = content
            self.reply({})

    def do_POST(self) -> None:
        content = self.content()
        if not self.healthy():
            return
        if self.path.endswith("/graphql"):
            sent = json.loads(content)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
            assert operation is not None
            with self.server.guard:
                data = self.server.answer(operation[1], sent.get("variables") or {})
            self.reply({"data": data})
        elif self.path.endswith("/file_stream"):
            with self.server.guard:
                self.server.stream(self.path.split("/")[-2], json.loads(content))
            self.reply({"limits": {}})
        else:
            self.reply({})

    def content(self) -> bytes:
        """The request's body."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def healthy(self) -> bool:
        """Whether to answer; the asked-for fault is done here."""
        if self.server.fault == "hang":
            self.server.released.wait()
            self.close_connection = True
        elif self.server.fault == "error":
            self.reply({"error": "asked for"}, 500)
        return self.server.fault is None

    def reply(self, value: Any, status: int = 200) -> None:
        """Answer with JSON."""
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""
