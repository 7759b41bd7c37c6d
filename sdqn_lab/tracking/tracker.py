"""What a tracker is: a second home of a run's metrics, fed from the record."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sdqn_lab.checks.extras import Extra
from sdqn_lab.checks.refused import one_line
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.files import read_yaml

# What the launchers leave in a sweep's folder before a cell begins: ours, and Hydra's own.
SWEEP_FILES = ("ledger.json", "multirun.yaml")


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows of its run."""

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
    tracker: str
    """The tracker's class."""
    settings: dict[str, Any]
    """Its arguments in the run's config."""
    delivered: int
    """Lines of `metrics.jsonl` that this tracker was given before."""
    warn: Callable[[str], None]
    """Shows a person the reason why something is missing; of several, the first."""

    @classmethod
    def of(
        cls, directory: RunDirectory, warn: Callable[[str], None], tracker: str | None = None
    ) -> "TrackedRun":
        """Describe the run in `directory`, whose attempt has begun.

        Args:
            directory: the run's.
            warn: shows a person one line.
            tracker: the class that reads it; None: the one that its config names.

        Raises:
            ValueError: a file is not what a run writes.
        """
        path = directory.path.absolute()
        attempts = directory.status().get("attempts", [])
        config = read_yaml(directory.config)
        if not isinstance(config, dict):
            raise ValueError(f"{directory.config}: not the config of a run; put the file back")
        own = {"_target_": "", **(config.get("tracker") or {})}
        target = tracker or own["_target_"]
        in_sweep = any((path.parent / file).exists() for file in SWEEP_FILES)
        # Copies differ in the path, runs that took turns in one directory in the first attempt.
        first = [attempts[0].get(k) for k in ("host", "pid", "process_start")] if attempts else []
        digest = hashlib.sha256(json.dumps([str(path), *first]).encode()).hexdigest()[:10]
        slug = re.sub(r"[^\w-]", "-", path.name)[:100]
        settings = own if target == own["_target_"] else {}
        return cls(
            directory=path,
            id=f"{slug}-{digest}",
            name=path.name,
            group=path.parent.name if in_sweep else None,
            attempt=len(attempts),
            config=config,
            tracker=target,
            settings={key: value for key, value in settings.items() if key != "_target_"},
            delivered=directory.delivered().get(target, {}).get("lines", 0),
            warn=warn,
        )


class Tracker(ABC):
    """A second home of the metrics.

    A process of its own makes one from the `tracker` node of `config.yaml` and gives it every line
    of `metrics.jsonl`. There it may be slow, hang, raise or die: training does not notice. The
    constructor only keeps its arguments.
    """

    extra: ClassVar[Extra | None] = None
    """What it needs that can be absent; a command asks for it before anything is made."""

    @abstractmethod
    def open(self, run: TrackedRun) -> int:
        """Get ready; returns the number of the first line that is wanted.

        A continued run writes the lines after its checkpoint again, equal but for the clock's keys.
        `run.delivered` goes on behind what was given before, 0 asks for everything again.
        """

    @abstractmethod
    def log(self, index: int, record: dict[str, Any]) -> None:
        """Take line `index` of `metrics.jsonl`."""

    @abstractmethod
    def close(self, exit_code: int) -> None:
        """No more lines come; returns when everything is where it belongs.

        Args:
            exit_code: 0 finished, 1 failed, 143 neither: the run may go on later.
        """


class NoTracker(Tracker):
    """Takes nothing; no process is started for it."""

    def open(self, run: TrackedRun) -> int:
        """Do nothing."""
        del run
        return 0

    def log(self, index: int, record: dict[str, Any]) -> None:
        """Forget the record."""

    def close(self, exit_code: int) -> None:
        """Do nothing."""


def later(directory: Path) -> str:
    """What a person writes to bring a run to W&B from its record."""
    return f"metrics.jsonl is complete; python -m sdqn_lab.sweep sync {directory} uploads it to W&B"


def brief(error: Exception) -> str:
    """An error in one line of bearable length: a server may answer with a page."""
    return one_line(error)[:300]
