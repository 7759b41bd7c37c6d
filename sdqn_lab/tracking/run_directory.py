"""A run's directory: what is in it and in which state the run is.

``config.yaml`` (resolved), ``status.json``, ``metrics.jsonl``, ``checkpoint/``, networks. It is
data: nothing in it is executed by reading it.
"""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from sdqn_lab.tracking.atomic import write_json

STATES = ("pending", "running", "preempted", "finished", "failed")


class RunDirectory:
    """Paths and status of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.status_file = self.path / "status.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint"

    def status(self) -> dict[str, Any]:
        """The content of ``status.json``; empty where there is none.

        Raises:
            ValueError: the file is not what a run writes.
        """
        if not self.status_file.exists():
            return {}
        try:
            status = json.loads(self.status_file.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.status_file}: not valid JSON ({error})") from error
        if not isinstance(status, dict) or status.get("state") not in STATES:
            raise ValueError(f"{self.status_file}: no state of {', '.join(STATES)}")
        return status

    @property
    def state(self) -> str | None:
        """One of ``STATES``, or None where no run has begun."""
        state: str | None = self.status().get("state")
        return state

    def update(self, **changes: Any) -> None:
        """Change fields of ``status.json``, atomically."""
        write_json(self.status_file, {**self.status(), **changes})

    def begin_attempt(self, **facts: Any) -> None:
        """Note that this process works on the run now."""
        attempt = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": psutil.Process().create_time(),
            "started": timestamp(),
            **facts,
        }
        attempts = [*self.status().get("attempts", []), attempt]
        self.update(state="running", attempts=attempts, error=None)

    def end_attempt(self, state: str, error: str | None = None, **facts: Any) -> None:
        """Note how this process left the run."""
        attempts = self.status().get("attempts", [])
        if attempts:
            attempts[-1] |= {"ended": timestamp(), "state": state}
        self.update(state=state, attempts=attempts, error=error, **facts)

    def owner_alive(self) -> bool:
        """Whether the process that last began an attempt still lives, on this host."""
        attempts = self.status().get("attempts") or []
        if not attempts or self.state != "running":
            return False
        last = attempts[-1]
        if last["host"] != socket.gethostname():
            return False
        try:
            return bool(psutil.Process(last["pid"]).create_time() == last["process_start"])
        except psutil.NoSuchProcess:
            return False


def timestamp() -> str:
    """Now, in UTC, readable."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
