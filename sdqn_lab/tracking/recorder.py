"""The one place where a run's metrics go: metrics.jsonl first, everything else mirrors it."""

import time
from typing import Any, Protocol, runtime_checkable

from sdqn_lab.tracking.metrics import MetricsFile
from sdqn_lab.tracking.mirror import MirroredRun
from sdqn_lab.tracking.progress import RunProgress
from sdqn_lab.training.loop import Counters


@runtime_checkable
class Mirror(Protocol):
    """A second home of the metrics. It must never raise, block or change what it is given."""

    def log(self, record: dict[str, Any]) -> None:
        """Take one record."""

    def finish(self, exit_code: int) -> None:
        """No more records come; 0 says that the run finished."""


class NoMirror:
    """Reflects nothing."""

    def __init__(self, run: MirroredRun) -> None:
        del run

    def log(self, record: dict[str, Any]) -> None:
        """Forget the record."""

    def finish(self, exit_code: int) -> None:
        """Do nothing."""


class RunRecorder:
    """Stamps each record with step, frames and wall clock and hands it on."""

    def __init__(
        self,
        metrics: MetricsFile,
        progress: RunProgress,
        mirrors: list[Mirror],
        *,
        wall_seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        self._metrics, self._progress, self._mirrors = metrics, progress, mirrors
        self._begin = time.monotonic() - wall_seconds
        self._last = (steps, wall_seconds)
        self.checkpoint_seconds = 0.0

    @property
    def wall_seconds(self) -> float:
        """Time spent on this run, over all its attempts."""
        return time.monotonic() - self._begin

    def metrics(self, counters: Counters, frames: int, values: dict[str, Any]) -> None:
        """Write one record and mirror it."""
        steps, wall = counters.steps, self.wall_seconds
        record = {"step": steps, "frames": frames, "wall_seconds": round(wall, 3), **values}
        if steps > self._last[0]:
            rate = (steps - self._last[0]) / (wall - self._last[1])
            record["time/steps_per_second"] = round(rate, 2)
            self._last = (steps, wall)
        if self.checkpoint_seconds:
            record["time/checkpoint_seconds"] = round(self.checkpoint_seconds, 4)
            self.checkpoint_seconds = 0.0
        self._keep(record)
        self._progress.record(steps, values)

    def event(self, counters: Counters, frames: int, line: str) -> None:
        """Record a sentence under ``health/event`` and show it."""
        record: dict[str, Any] = {"step": counters.steps, "frames": frames}
        record |= {"wall_seconds": round(self.wall_seconds, 3), "health/event": line}
        self._keep(record)
        self._progress.say(f"step {counters.steps:,}: {line}")

    def _keep(self, record: dict[str, Any]) -> None:
        self._metrics.write(record)
        for mirror in self._mirrors:
            mirror.log(record)

    def progress(self, counters: Counters, values: dict[str, float]) -> None:
        """Move the bar; ``values`` is what the agent says of itself, e.g. epsilon."""
        self._progress.update(counters.steps, counters.updates, values)
