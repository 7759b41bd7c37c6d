"""`metrics.jsonl`: one JSON object per line, the record that everything else reads."""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sdqn_lab.runs.files import read

CLOCK = re.compile(r"^time/|wall_|seconds|per_second")
"""Keys of a record whose values depend on the clock."""


class MetricsFile:
    """Append-only lines; after a resume, what lies beyond the checkpoint is written again."""

    def __init__(self, path: Path, offset: int = 0, sha256: str | None = None) -> None:
        """Open, and forget everything from byte `offset` on; see `check_kept`."""
        # First, because truncating a file that is shorter than this would fill it up with zeros.
        self._hash = check_kept(path, offset, sha256)
        self._file = path.open("ab")
        self._file.truncate(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def sha256(self) -> str:
        """Of all bytes so far."""
        return self._hash.hexdigest()

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it reaches the operating system before this returns.

        Raises:
            ValueError: a number is not finite: training has diverged, or a reward was none.
        """
        for key, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                where = f"at step {record['step']:,}"
                raise ValueError(f"{key} is {value} {where}: not a finite number")
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        self._hash.update(line)

    def sync(self) -> None:
        """Force the lines to disk, so that a checkpoint never knows more than the file holds."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def check_kept(path: Path, offset: int, sha256: str | None) -> "hashlib._Hash":
    """Hold the part of a metrics file that a checkpoint knows against what it knows of it.

    Args:
        path: the file.
        offset: how many bytes the checkpoint knows.
        sha256: of these; None where the checkpoint has none.

    Returns:
        The hash of that part, to go on with.

    Raises:
        ValueError: part of the record is lost or changed; a line that is no record is named.
    """
    kept = read(path)[:offset] if offset and path.exists() else b""
    if len(kept) < offset:
        raise ValueError(
            f"{path}: {len(kept)} bytes, the checkpoint knows {offset}: lines are lost"
        )
    found = hashlib.sha256(kept)
    if found.hexdigest() == sha256:
        return found
    for number, line in enumerate(kept.splitlines(keepends=True), start=1):
        try:
            damaged = not (line.endswith(b"\n") and isinstance(json.loads(line), dict))
        except (ValueError, RecursionError):
            damaged = True
        if damaged:
            raise ValueError(f"{path}, line {number}: not a record, though the checkpoint knows it")
    if sha256 is not None:
        raise ValueError(f"{path}: other lines than those that the checkpoint knows")
    return found


def reproducible(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what depends on the clock: equal in two runs of one config and seed."""
    return {key: value for key, value in record.items() if not CLOCK.search(key)}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete records; a line torn by a crash at the very end is left out."""
    if not path.exists():
        return []
    lines = read(path).splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]
