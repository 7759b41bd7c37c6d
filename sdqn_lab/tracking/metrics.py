"""``metrics.jsonl``: one JSON object a line, the record that everything else reads or mirrors."""

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class MetricsFile:
    """Append-only lines; after a resume, what lies beyond the checkpoint is written again."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Open, and forget everything from byte ``offset`` on.

        Raises:
            ValueError: the file is shorter than that: part of the record is lost.
        """
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise ValueError(f"{path}: {size} bytes, the checkpoint knows {offset}: lines are lost")
        self._file = path.open("ab")
        self._file.truncate(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file.fileno()).st_size

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it reaches the operating system before this returns.

        Raises:
            ValueError: a number is not finite: training has diverged, or a reward was none.
        """
        for key, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{key} is {value} at step {record['step']:,}: not a finite number"
                )
        self._file.write((json.dumps(record, allow_nan=False) + "\n").encode())
        self._file.flush()

    def sync(self) -> None:
        """Force the lines to disk, so that a checkpoint never knows more than the file holds."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete records; a line torn by a crash at the very end is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
