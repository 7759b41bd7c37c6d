"""What a mirror of the metrics is told, and the thread that keeps it out of training's way."""

import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sdqn_lab.tracking.metrics import read_metrics
from sdqn_lab.tracking.run_directory import RunDirectory

LAST_WORDS_SECONDS = 2.0
"""What a thread gets to clean up after what it hung on was ended."""
SWEEP_FILES = ("ledger.json", "multirun.yaml")
"""What the launchers leave in a sweep's folder before a cell begins: ours, and Hydra's own."""


@dataclass(frozen=True)
class MirroredRun:
    """The run that a mirror reflects."""

    directory: Path
    id: str
    """The same at every attempt, another one for every other run."""
    name: str
    group: str | None
    """The sweep's name; None for a single run."""
    attempt: int
    """1 when the run begins, one more at each continuation."""
    config: dict[str, Any]
    """The resolved config with its choices."""
    kept: list[dict[str, Any]]
    """Records of earlier attempts that stay; new ones follow them in ``metrics.jsonl``."""
    say: Callable[[str], None]
    """Shows a person one line."""


def mirrored_run(
    directory: RunDirectory, config: dict[str, Any], say: Callable[[str], None]
) -> MirroredRun:
    """Describe the run in ``directory``; its attempt has begun, its ``metrics.jsonl`` is cut."""
    path = directory.path.absolute()
    attempts = directory.status().get("attempts", [])
    in_sweep = any((path.parent / file).exists() for file in SWEEP_FILES)
    return MirroredRun(
        directory=path,
        id=f"{_slug(path.name)}-{_digest(path, attempts)}",
        name=path.name,
        group=path.parent.name if in_sweep else None,
        attempt=max(1, len(attempts)),
        config=config,
        kept=read_metrics(directory.metrics),
        say=say,
    )


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in text)[:100]


def _digest(path: Path, attempts: list[dict[str, Any]]) -> str:
    """The path tells copies of a directory apart, the first attempt runs that took turns in one."""
    first = [attempts[0].get(key) for key in ("host", "pid", "process_start")] if attempts else []
    return hashlib.sha256(json.dumps([str(path), *first]).encode()).hexdigest()[:10]


class BackgroundMirror(ABC):
    """A mirror whose slow and fragile work happens in a thread of its own.

    ``log`` only puts a record in a queue. Whatever goes wrong in the thread is said once, and
    training goes on; ``finish`` waits a limited time. A subclass sets its fields, then calls this
    constructor.
    """

    def __init__(self, run: MirroredRun, *, label: str, patience_seconds: float) -> None:
        self.run = run
        self._label, self._patience_seconds = label, patience_seconds
        self._queue: SimpleQueue[dict[str, Any] | int] = SimpleQueue()
        self._failed = self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"mirror {label}", daemon=True)
        self._thread.start()

    @abstractmethod
    def _open(self) -> None:
        """Get ready; may block and raise."""

    @abstractmethod
    def _write(self, index: int, record: dict[str, Any]) -> None:
        """Take line ``index`` of ``metrics.jsonl``, kept ones included; may raise."""

    @abstractmethod
    def _close(self, exit_code: int) -> None:
        """Complete what was written; may block and raise."""

    def _drop(self) -> None:  # noqa: B027  (most writers have nothing to let go of)
        """Called in the thread after something went wrong; may block and raise."""

    def _abandon(self) -> None:  # noqa: B027
        """Called from outside the thread when it takes too long, so that the process can end."""

    def log(self, record: dict[str, Any]) -> None:
        """Take one record; returns at once."""
        if not self._failed:
            self._queue.put(dict(record))

    def finish(self, exit_code: int) -> None:
        """No more records come. Waits for the thread, but never longer than its patience."""
        self._queue.put(exit_code)
        self._thread.join(self._patience_seconds)
        if self._thread.is_alive():
            self._warn(f"no end after {self._patience_seconds:.0f} s, given up")
            self._abandon()
            self._thread.join(LAST_WORDS_SECONDS)

    def _work(self) -> None:
        try:
            self._open()
            for index, record in enumerate(self.run.kept):
                self._write(index, record)
            self._mirror_to_the_end()
        except Exception as error:  # a mirror may break in any way, and training must go on
            self._failed = True
            self._warn(f"{type(error).__name__}: {one_line(error)}")
            with suppress(Exception):
                self._drop()

    def _mirror_to_the_end(self) -> None:
        index = len(self.run.kept)
        while not isinstance(item := self._queue.get(), int):
            self._write(index, item)
            index += 1
        self._close(item)

    def _warn(self, reason: str) -> None:
        """Say what went wrong, the first time only."""
        if self._warned:
            return
        self._warned = True
        line = f"WARNING {self._label}: {reason}; {self.run.directory.name} goes on"
        self.run.say(f"{line}, metrics.jsonl is complete")


def one_line(error: Exception) -> str:
    """An error's message without line breaks, of bearable length."""
    return " ".join(str(error).split())[:300]
