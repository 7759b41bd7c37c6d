"""Reads the transaction log of an offline W&B run: LevelDB's log format around protobuf records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 7  # the file's own header
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, size, kind = HEADER.unpack_from(data, position)
        if kind == 0:  # padding to the block's end
            position += left
            continue
        position += HEADER.size + size
        yield kind, data[position - size : position]


def _records(path: Path) -> Iterator[Record]:
    buffer = b""
    for kind, chunk in _chunks(path.read_bytes()):
        buffer = chunk if kind in (FULL, FIRST) else buffer + chunk
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(buffer)
            yield record


class OfflineRun:
    """What one offline segment holds."""

    def __init__(self, folder: Path) -> None:
        (path,) = folder.glob("run-*.wandb")
        self._all = list(_records(path))
        self.run = next(r.run for r in self._all if r.HasField("run"))

    @property
    def config(self) -> dict[str, Any]:
        return {i.key: json.loads(i.value_json) for i in self.run.config.update if i.key}

    @property
    def records(self) -> list[dict[str, Any]]:
        """The history without W&B's own keys."""
        rows = [
            {item.key or item.nested_key[0]: json.loads(item.value_json) for item in r.history.item}
            for r in self._all
            if r.HasField("history")
        ]
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]

    @property
    def exit_code(self) -> int:
        return next(r.exit.exit_code for r in self._all if r.HasField("exit"))

    @property
    def preempting(self) -> bool:
        return any(r.HasField("preempting") for r in self._all)

    @property
    def step_metrics(self) -> dict[str, str]:
        metrics = [r.metric for r in self._all if r.HasField("metric")]
        return {m.name or m.glob_name: m.step_metric for m in metrics}


def offline_runs(directory: Path) -> list[OfflineRun]:
    """The offline segments of a run directory, oldest first."""
    folders = (directory / "wandb").glob("offline-run-*")
    return [OfflineRun(folder) for folder in sorted(folders, key=lambda f: f.stat().st_mtime_ns)]
