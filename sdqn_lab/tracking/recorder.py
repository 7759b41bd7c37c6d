"""The one place where a run's metrics go: metrics.jsonl, which everything else reads."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sdqn_lab.runs.metrics import MetricsFile
from sdqn_lab.tracking.progress import RunProgress


@dataclass
class Counters:
    """How far a run is.

    `iteration` counts the finished ones; `trained` says that the running one only lacks its
    evaluation.
    """

    steps: int = 0
    updates: int = 0
    episodes: int = 0
    iteration: int = 0
    trained: bool = False
    logged_steps: int = 0
    best_return: float | None = None
    best_steps: int | None = None


class Recorder(Protocol):
    """The trainer's output interface."""

    def metrics(self, counters: Counters, frames: int, values: dict[str, Any]) -> None:
        """Take one record of metrics."""

    def event(self, counters: Counters, frames: int, line: str) -> None:
        """Take a line that a person should read when it happens."""

    def progress(self, counters: Counters, values: dict[str, float]) -> None:
        """Take where the run is, after every vector step."""


class RunRecorder:
    """Stamps each record with step, frames and wall clock and writes it.

    Args:
        metrics: where it goes.
        progress: shows it.
        wall_seconds: spent by earlier attempts.
        steps: made by earlier attempts.
    """

    def __init__(
        self,
        metrics: MetricsFile,
        progress: RunProgress,
        *,
        wall_seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        self._metrics, self._progress = metrics, progress
        self._begin = time.monotonic() - wall_seconds
        self._last = (steps, wall_seconds)
        self.checkpoint_seconds = 0.0
        self.recorded: Callable[[], None] = lambda: None
        """Called after each record."""

    @property
    def wall_seconds(self) -> float:
        """Time spent on this run, over all its attempts."""
        return time.monotonic() - self._begin

    def metrics(self, counters: Counters, frames: int, values: dict[str, Any]) -> None:
        """Write one record."""
        steps, wall = counters.steps, self.wall_seconds
        record = {"step": steps, "frames": frames, "wall_seconds": round(wall, 3), **values}
        # An evaluation may end at the steps of the last record: its time is then the next rate's.
        if steps > self._last[0]:
            rate = (steps - self._last[0]) / (wall - self._last[1])
            record["time/steps_per_second"] = round(rate, 2)
            self._last = (steps, wall)
        if self.checkpoint_seconds:
            record["time/checkpoint_seconds"] = round(self.checkpoint_seconds, 4)
            self.checkpoint_seconds = 0.0
        self._metrics.write(record)
        self._progress.record(steps, values)
        self.recorded()

    def event(self, counters: Counters, frames: int, line: str) -> None:
        """Record a sentence under `health/event` and show it."""
        record: dict[str, Any] = {"step": counters.steps, "frames": frames}
        record |= {"wall_seconds": round(self.wall_seconds, 3), "health/event": line}
        self._metrics.write(record)
        self._progress.say(f"step {counters.steps:,}: {line}")
        self.recorded()

    def progress(self, counters: Counters, values: dict[str, float]) -> None:
        """Move the bar; `values` is what the agent says of itself, e.g. epsilon."""
        self._progress.update(counters.steps, counters.updates, values)
