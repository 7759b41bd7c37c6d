"""TensorBoard event files out of `metrics.jsonl`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdqn_lab.checks.extras import TENSORBOARD
from sdqn_lab.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Scalars over agent steps in `tensorboard/` of the run directory; sentences become text.

    A continued run purges what earlier files hold and writes the whole record again: a killed
    process loses what its writer had in memory.

    Args:
        flush_seconds: how long a record may wait in memory.
    """

    extra = TENSORBOARD

    def __init__(self, *, flush_seconds: int = 30) -> None:
        self._flush_seconds = flush_seconds

    def open(self, run: TrackedRun) -> int:
        """Begin a file."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer: SummaryWriter = SummaryWriter(
            str(run.directory / "tensorboard"),
            purge_step=0 if run.attempt > 1 else None,
            flush_secs=self._flush_seconds,
        )
        return 0

    def log(self, index: int, record: dict[str, Any]) -> None:
        """Add a point for every number."""
        del index
        step = record["step"]
        for key, value in record.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(key, value, step)
            elif isinstance(value, str):
                self._writer.add_text(key, value, step)

    def close(self, exit_code: int) -> None:
        """Complete the file."""
        del exit_code
        self._writer.close()
