"""Files that are either wholly there or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, force to disk, rename over: a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_new(beside, data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there, force it to disk; what lies in its place is removed.

    Never through a link: one of that name goes, and what it points to stays.
    """
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """``write_atomic`` of readable JSON."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())
