"""TensorBoard event files as a mirror of ``metrics.jsonl``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdqn_lab.tracking.mirror import BackgroundMirror, MirroredRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PATIENCE_SECONDS = 30.0


class TensorBoard(BackgroundMirror):
    """Scalars over agent steps in ``tensorboard/`` of the run directory; sentences become text.

    A continued run purges what earlier files hold and writes the whole record again: a killed
    process loses what its writer had in memory, also of steps that the checkpoint knows.

    Args:
        run: the run to mirror.
        flush_seconds: how long a record may wait in memory.
    """

    def __init__(self, run: MirroredRun, *, flush_seconds: int = 30) -> None:
        self._flush_seconds = flush_seconds
        super().__init__(run, label="TensorBoard", patience_seconds=PATIENCE_SECONDS)

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer: SummaryWriter = SummaryWriter(
            str(self.run.directory / "tensorboard"),
            purge_step=0 if self.run.attempt > 1 else None,
            flush_secs=self._flush_seconds,
        )

    def _write(self, index: int, record: dict[str, Any]) -> None:
        step = record["step"]
        for key, value in record.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(key, value, step)
            elif isinstance(value, str):
                self._writer.add_text(key, value, step)

    def _close(self, exit_code: int) -> None:
        self._writer.close()
