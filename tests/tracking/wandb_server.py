"""A stand-in for the W&B server: loopback only, in memory.

It holds just what the client needs for a run, and what it needs for a report.
"""

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY = "wandb-history.jsonl"


@dataclass
class ServedRun:
    """What the server knows of a run; history lines are stored at the offset the client names."""

    id: str
    name: str = ""
    group: str | None = None
    project: str | None = None
    entity: str | None = None
    sweep: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)
    received: int = 0
    """Lines that came, those that came again included."""
    files: set[str] = field(default_factory=set)
    exit_code: int | None = None
    preempting: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[offset]) for offset in sorted(self.lines)]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The history without W&B's own keys."""
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in self.history]


@dataclass
class ServedView:
    """A report as it was saved."""

    entity: str
    project: str
    title: str
    description: str
    type: str
    """`runs`, or `runs/draft`."""
    spec: dict[str, Any]


class WandbServer:
    """Context manager; `url` is what `WANDB_BASE_URL` takes."""

    def __init__(self) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.views: list[ServedView] = []
        self.projects: set[tuple[str, str]] = set()
        """Entity and name of projects that exist beside those of the runs."""
        self.refuse_all_with: int | None = None
        self.refuse_records_with: int | None = None
        self.die_at_first_record = False
        self.mute_after_records: int | None = None
        self.mute = False
        self.hangs = False
        """It takes requests and never answers; where it is mute, it hangs up."""
        self.asked = 0
        """Requests so far."""
        handler = partial(_Handler, self)
        self._http = _Http(("127.0.0.1", 0), handler)
        self.dead = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Stop listening, and cut connections that are still open at their next request."""
        if self.dead:
            return
        self.dead = True
        self._http.shutdown()
        self._http.server_close()

    def run(self) -> ServedRun:
        """The only run there is."""
        (run,) = self.runs.values()
        return run

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Store what a client sends, or its first `mute_after_records` lines and answer no more."""
        run = self.runs[run_id]
        history = body.get("files", {}).get(HISTORY)
        if history:
            taken = history["content"]
            if self.mute_after_records is not None:
                taken = taken[: self.mute_after_records]
                self.mute = True
            run.received += len(taken)
            for index, line in enumerate(taken):
                run.lines[history["offset"] + index] = line
        if self.mute:
            return
        run.preempting |= bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_code = body["exitcode"]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "RunResumeStatus" in query:
            return {"model": {**_project(variables), "bucket": self._bucket(variables)}}
        if "upsertBucket" in query:
            return {"upsertBucket": self._upsert(variables)}
        if "createRunFiles" in query:
            return {"createRunFiles": self._files(variables)}
        if re.search(r"\bviewer\b", query):
            viewer = {"id": "1", "entity": "me", "username": "me", "flags": "{}"}
            return {"viewer": {**viewer, "teams": {"edges": []}}, "serverInfo": _SERVER_INFO}
        if "serverInfo" in query:
            return {"serverInfo": _SERVER_INFO}
        return self._answer_a_report(query, variables)

    def _answer_a_report(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            return {"upsertView": self._save(variables)}
        if "query GetProjects(" in query:
            return {"models": self._models(variables["entity"])}
        if "query ProjectInternalId(" in query:
            wanted = (variables["entityName"], variables["projectName"])
            return {"project": {"id": "1", "internalId": "1"} if wanted in self._known() else None}
        return {}

    def _bucket(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        run = self.runs.get(variables["name"])
        if run is None:
            return None
        tail = run.lines[max(run.lines)] if run.lines else "{}"
        return {
            "id": run.id,
            "name": run.id,
            "displayName": run.name,
            "summaryMetrics": tail,
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyLineCount": len(run.lines),
            "historyTail": json.dumps([tail] if run.lines else []),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": [],
            "wandbConfig": '{"t": 1}',
            "stopped": False,
        }

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables["name"]
        inserted = run_id not in self.runs
        run = self.runs.setdefault(run_id, ServedRun(run_id))
        run.name = variables.get("displayName") or run.name
        run.group = variables.get("groupName") or run.group
        run.project = variables.get("project") or run.project
        run.entity = variables.get("entity") or run.entity
        run.sweep = variables.get("sweep") or run.sweep
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        bucket = {
            "id": run.id,
            "name": run.id,
            "displayName": run.name,
            "config": json.dumps(run.config),
            "historyLineCount": len(run.lines),
            "project": {"id": "1", **_project(variables)},
        }
        return {"bucket": bucket, "inserted": inserted}

    def _known(self) -> set[tuple[str, str]]:
        """Projects there are, by entity and name."""
        used = {(run.entity or "me", run.project or "uncategorized") for run in self.runs.values()}
        return self.projects | used

    def _models(self, entity: str) -> dict[str, Any]:
        """The projects of an entity, all on one page."""
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        names = sorted(name for owner, name in self._known() if owner == entity)
        edges = [{"node": {**_PROJECT, "name": name, "entityName": entity}} for name in names]
        return {"pageInfo": page, "edges": edges}

    def _save(self, variables: dict[str, Any]) -> dict[str, Any]:
        entity, project = variables["entityName"], variables["projectName"]
        self.views.append(
            ServedView(
                entity=entity,
                project=project,
                title=variables["displayName"],
                description=variables["description"],
                type=variables["type"],
                spec=json.loads(variables["spec"]),
            )
        )
        view = {
            "id": f"view{len(self.views)}",
            "type": variables["type"],
            "name": variables["name"],
            "displayName": variables["displayName"],
            "description": variables["description"],
            "project": {"id": "1", "name": project, "entityName": entity},
            "spec": variables["spec"],
            "updatedAt": "2026-01-01T00:00:00",
        }
        return {"view": view, "inserted": True}

    def _files(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.runs[variables["run"]].files |= set(variables["files"])
        files = [{"name": f, "uploadUrl": f"{self.url}/up/{f}"} for f in variables["files"]]
        return {"runID": "1", "uploadHeaders": [], "files": files}


def _project(variables: dict[str, Any]) -> dict[str, Any]:
    """As asked for; an entity that is not named is the key's own."""
    entity = {"id": "1", "name": variables.get("entity") or "me"}
    return {"name": variables.get("project") or "uncategorized", "entity": entity}


_PROJECT = {
    "__typename": "Project",
    "id": "1",
    "createdAt": "2026-01-01T00:00:00",
    "isBenchmark": False,
    "user": None,
}

_SERVER_INFO = {
    "cliVersionInfo": {"max_cli_version": "99.0.0", "min_cli_version": "0.0.0"},
    "latestLocalVersionInfo": None,
    "features": [],
}


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: WandbServer, *args: Any) -> None:
        self._wandb = server
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        self._wandb.asked += 1
        if self._wandb.hangs:
            threading.Event().wait()
        if self._wandb.die_at_first_record and self.path.startswith("/files/"):
            self._wandb.die()
        if self._wandb.dead or self._wandb.mute:
            self.close_connection = True
            return
        status = self._wandb.refuse_all_with
        if self.path.startswith("/files/"):
            status = status or self._wandb.refuse_records_with
        if status:
            self._reply({"error": "refused"}, status)
        elif self.path.startswith("/files/"):
            self._wandb.stream(self.path.split("/")[4], json.loads(body))
            if self._wandb.mute:
                self.close_connection = True
                return
            self._reply({"limits": {}})
        elif self.path == "/graphql":
            asked = json.loads(body)
            self._reply({"data": self._wandb.answer(asked["query"], asked.get("variables") or {})})
        else:
            self._reply({})

    def _body(self) -> bytes:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

    def _reply(self, answer: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
