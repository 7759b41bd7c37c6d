"""A run's directory: what is in it and in which state the run is.

`config.yaml` (resolved), `status.json`, `metrics.jsonl`, `probe.json`, `tracker.json`,
`checkpoint/`, networks. It is data: nothing in it is executed by reading it. And it ends at itself:
none of its files is a link, through which a run would write somewhere else, or a pipe, which would
keep a reader waiting. Its own path may hold links.
"""

import fcntl
import json
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from sdqn_lab.runs.files import read, write_json

PROBE_VERSION = 1
"""Of `probe.json`; readers must check it."""
MANIFEST = "manifest.json"
"""Of a checkpoint: what is in it."""
TRACKER_LOCK = ".tracker.lock"
"""Held by the one process that feeds the run's tracker."""
# Files that are written in place; all others are replaced as a whole.
APPENDED = ("metrics.jsonl", "log.txt", "tracker.log")
# What a run writes, or a process that works on it.
OWN = (
    *("config.yaml", "status.json", "probe.json", "health.json", "code.diff", *APPENDED),
    *("network_last.safetensors", "network_best.safetensors", ".lock", TRACKER_LOCK),
    *("tracker.json", "checkpoint", f"checkpoint/{MANIFEST}"),
    *("wandb", "wandb/run.json", "tensorboard"),
)
STATES = ("pending", "running", "preempted", "finished", "failed")


class BusyError(Exception):
    """Two processes want one directory."""


class RunDirectory:
    """Paths and status of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.status_file = self.path / "status.json"
        self.metrics = self.path / "metrics.jsonl"
        self.probe = self.path / "probe.json"
        self.checkpoint = self.path / "checkpoint"
        self.tracker_file = self.path / "tracker.json"
        self.tracker_log = self.path / "tracker.log"

    @contextmanager
    def lock(self, name: str = ".lock", *, wait: bool = False) -> Iterator[None]:
        """Own the run for as long as this lasts; the system lets go of it when a process dies.

        Args:
            name: `TRACKER_LOCK` to own what its tracker gets instead.
            wait: until it is free.

        Raises:
            BusyError: another process owns it, and `wait` is false.
            ValueError: a file of it is a link, or no file.
        """
        # Before anything is opened: opening to append would make the file that a link points to.
        self.check_links()
        for file in map(self.path.joinpath, APPENDED):
            # A copy made of hard links (cp -al) would change with this run.
            if file.exists() and file.stat().st_nlink > 1:
                raise ValueError(f"{file}: a hard link; put a copy in its place (cp, then mv)")
        with (self.path / name).open("ab") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(f"{self.path}: another process works on it") from error
            yield

    def is_held(self) -> bool:
        """Whether a process, on whichever machine, works on the run; asking does not own it."""
        try:
            # Shared and read-only: two that ask are not in each other's way, and no file is made.
            with (self.path / ".lock").open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError) as error:
            return isinstance(error, BlockingIOError)
        return False

    def check_links(self) -> None:
        """Refuse what lies in place of the run's files; asking for the status asks this too.

        Raises:
            ValueError: a file of the run is a link, or neither a file nor a folder.
        """
        for file in map(self.path.joinpath, OWN):
            try:
                mode = file.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISLNK(mode):
                raise ValueError(
                    f"{file}: a link, and a run writes only into its own directory; "
                    "put there what it points to, or remove it"
                )
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ValueError(f"{file}: neither a file nor a folder; remove it")

    def status(self) -> dict[str, Any]:
        """The content of `status.json`; empty where there is none.

        Raises:
            ValueError: the file is not what a run writes, or one of the run's is a link or no file.
        """
        self.check_links()
        if not self.status_file.exists():
            return {}
        try:
            status = json.loads(read(self.status_file))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.status_file}: not valid JSON ({error})") from error
        if not isinstance(status, dict) or status.get("state") not in STATES:
            raise ValueError(f"{self.status_file}: no state of {', '.join(STATES)}")
        attempts = status.get("attempts", [])
        if not isinstance(attempts, list) or not all(isinstance(one, dict) for one in attempts):
            raise ValueError(f"{self.status_file}: attempts are no list of objects")
        return status

    @property
    def state(self) -> str | None:
        """One of `STATES`, or None where no run has begun."""
        state: str | None = self.status().get("state")
        return state

    @property
    def saved_steps(self) -> int:
        """Agent steps that the checkpoint stands at; 0 where there is none that can be read."""
        try:
            steps = json.loads(read(self.checkpoint / MANIFEST))["facts"]["steps"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return 0
        return steps if isinstance(steps, int) else 0

    def update(self, **changes: Any) -> None:
        """Change fields of `status.json`, atomically."""
        write_json(self.status_file, {**self.status(), **changes})

    def begin_attempt(self, **facts: Any) -> None:
        """Note that this process works on the run now."""
        process = psutil.Process()
        who = {"host": socket.gethostname(), "pid": process.pid}
        # A process's number is given away again later; with its start it names this one alone.
        when = {"process_start": process.create_time(), "started": timestamp()}
        attempts = [*self.status().get("attempts", []), {**who, **when, **facts}]
        self.update(state="running", attempts=attempts, error=None)

    def end_attempt(self, state: str, error: str | None = None, **facts: Any) -> None:
        """Note how this process left the run."""
        attempts = self.status().get("attempts", [])
        if attempts and "ended" not in attempts[-1]:
            attempts[-1] |= {"ended": timestamp(), "state": state}
        self.update(state=state, attempts=attempts, error=error, **facts)

    def delivered(self) -> dict[str, dict[str, Any]]:
        """What each tracker was given: attempt, lines, bytes and exit code by its class.

        Raises:
            ValueError: the file is not what a run writes.
        """
        if not self.tracker_file.exists():
            return {}
        try:
            found: dict[str, dict[str, Any]] = json.loads(read(self.tracker_file))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.tracker_file}: not valid JSON ({error})") from error
        return found


def timestamp() -> str:
    """Now, in UTC, readable."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
