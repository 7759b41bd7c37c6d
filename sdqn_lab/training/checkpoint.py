"""Checkpoints that survive a crash at any instant and are read without executing anything.

A checkpoint is a JSON manifest naming its files with size and SHA-256. Files are written first,
under names never used before; renaming the manifest into place makes them the checkpoint; only then
are the files of the one before removed. A manifest is there before the first of its files, so that
files without one are known for what they are: damage. What the folder holds besides is nobody's to
touch. Tensors lie in safetensors files, an agent's rows in zstd-compressed increments: each
checkpoint adds the rows written since the last one.
"""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from sdqn_lab.agents.base import Memory
from sdqn_lab.runs.directory import MANIFEST
from sdqn_lab.runs.files import write_json, write_new

VERSION = 2
FILE = re.compile(r"state-\d+\.safetensors|replay-\d+-\d+\.zst")
TEMPORARY = re.compile(rf"\.{re.escape(MANIFEST)}\.\d+")
HEADER_BYTES = 1 << 16
"""Of a file of arrays, at most: names, types and shapes."""
SEGMENT_ROWS = 4096
"""Rows in one increment at most, so that memory stays small while one is packed."""
EMPTY: dict[str, Any] = {"version": VERSION, "serial": 0, "facts": {"steps": 0}, "segments": []}
"""The manifest before the first checkpoint."""


class CheckpointError(Exception):
    """A checkpoint that cannot be read or written; the message names the file."""


class Checkpoint:
    """The checkpoint folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest = EMPTY

    @property
    def exists(self) -> bool:
        """Whether a manifest is there, which a run that has saved nothing yet may also have."""
        return (self.folder / MANIFEST).exists()

    def save(self, state: dict[str, Any], memory: Memory | None, facts: dict[str, Any]) -> None:
        """Write a new checkpoint, then let go of the old one.

        Args:
            state: tensors, arrays and plain containers.
            memory: only its rows since the last checkpoint are written; None: there are no rows.
            facts: plain values that are wanted before anything is built (threads, metrics offset).

        Raises:
            CheckpointError: it cannot be written; the last one is untouched.
        """
        serial = self._manifest["serial"] + 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.exists:
                write_json(self.folder / MANIFEST, self._manifest)
            manifest = {
                "version": VERSION,
                "serial": serial,
                "facts": facts,
                "state": self._write(f"state-{serial}.safetensors", save_tensors(pack(state))),
                **self._write_memory(memory, serial),
            }
            write_json(self.folder / MANIFEST, manifest)
        except OSError as error:
            self._sweep()
            raise CheckpointError(f"{self.folder}: cannot save a checkpoint: {error}") from error
        # Only now does nothing name the old files any more.
        self._manifest = manifest
        self._sweep()

    def read(self) -> dict[str, Any]:
        """Check every file against the manifest and return the facts; none where none was saved.

        Raises:
            CheckpointError: a file is missing, cut short, changed, a link, or not of a checkpoint.
        """
        path, own = self.folder / MANIFEST, self._own_files()
        if links := [file for file in (path, *own) if file.is_symlink()]:
            raise CheckpointError(f"{links[0]}: a link, and a checkpoint holds its files itself")
        if not path.exists():
            if states := [file.name for file in own if FILE.fullmatch(file.name)]:
                raise CheckpointError(f"{path}: missing, and {min(states)} beside it needs it")
            return {}
        try:
            manifest = json.loads(path.read_text())
            version = manifest["version"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path}: not a checkpoint manifest ({error})") from error
        if version != VERSION:
            raise CheckpointError(f"{path}: version {version}, this program reads {VERSION}")
        try:
            facts = self._checked(manifest)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.folder}: damaged") from error
        self._manifest = manifest
        return facts

    def _checked(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The facts of a manifest whose files are as it says."""
        if manifest["serial"] == 0:
            return {}
        for entry in (manifest["state"], *manifest["segments"]):
            path = self.folder / entry["file"]
            if not FILE.fullmatch(entry["file"]):
                raise CheckpointError(f"{self.folder / MANIFEST}: names {entry['file']}: damaged")
            if not path.is_file():
                raise CheckpointError(f"{path}: missing, and the checkpoint needs it")
            data = path.read_bytes()
            if len(data) != entry["bytes"]:
                sizes = f"{len(data)} bytes instead of {entry['bytes']}"
                raise CheckpointError(f"{path}: {sizes}: cut short")
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise CheckpointError(f"{path}: content differs from the manifest: damaged")
        facts: dict[str, Any] = manifest["facts"]
        for key in ("steps", "offset", "threads"):
            number = facts.get(key, 1)
            if not isinstance(number, int) or number < 0:
                raise CheckpointError(f"{self.folder / MANIFEST}: {key} is {number}: damaged")
        return facts

    def load_memory(self, memory: Memory) -> None:
        """Fill a memory with the rows of the checkpoint that was read.

        Raises:
            CheckpointError: a file holds no rows, or unpacks to more than the memory can hold.
        """
        max_bytes = memory.nbytes + HEADER_BYTES
        for entry in self._manifest["segments"]:
            path = self.folder / entry["file"]
            packed = path.read_bytes()
            try:
                # Its size is known before it is unpacked: a small file may hold gigabytes of zeros.
                size = zstandard.get_frame_parameters(packed).content_size
                if size > max_bytes:
                    fault = f"unpacks to {size:,} bytes, more than the memory can hold"
                    raise CheckpointError(f"{path}: {fault}")
                rows = load_arrays(zstandard.decompress(packed, max_output_size=max_bytes))
            except (zstandard.ZstdError, SafetensorError) as error:
                raise CheckpointError(f"{path}: holds no rows of replay ({error})") from error
            memory.import_rows(entry["first"], rows)
        memory.check_valid()

    def load_state(self) -> dict[str, Any]:
        """The state of the checkpoint that was read."""
        data = (self.folder / self._manifest["state"]["file"]).read_bytes()
        state = unpack(load_tensors(data))
        assert isinstance(state, dict)
        return state

    def drop(self) -> None:
        """Remove the checkpoint, the manifest first: no half of it is ever taken for whole."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self._manifest = EMPTY
        self._sweep()
        with suppress(OSError):  # it is gone, or something else is in it
            self.folder.rmdir()

    def _write_memory(self, memory: Memory | None, serial: int) -> dict[str, Any]:
        """The segments that are still needed and those of new rows."""
        if memory is None:
            return {"segments": [], "rows": 0}
        written, oldest = memory.rows_written, memory.rows_written - memory.capacity_rows
        entries = [entry for entry in self._manifest["segments"] if entry["last"] > oldest]
        # Rows that left the ring before they were ever saved are not needed.
        begin = max(self._manifest.get("rows", 0), oldest)
        for first in range(begin, written, SEGMENT_ROWS):
            last = min(first + SEGMENT_ROWS, written)
            packed = zstandard.compress(save_arrays(memory.export_rows(first, last)), 1)
            entry = self._write(f"replay-{serial}-{first}.zst", packed)
            entries.append({**entry, "first": first, "last": last})
        return {"segments": entries, "rows": written}

    def _write(self, name: str, data: bytes) -> dict[str, Any]:
        write_new(self.folder / name, data)
        return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _sweep(self) -> None:
        """Remove what the manifest does not name: older checkpoints, failed attempts."""
        segments = [entry["file"] for entry in self._manifest["segments"]]
        state = self._manifest.get("state", {}).get("file")
        for path in self._own_files():
            if path.name not in (state, *segments):
                path.unlink(missing_ok=True)

    def _own_files(self) -> list[Path]:
        """What a checkpoint has written here but for its manifest, by name; links among them."""
        if not self.folder.is_dir():
            return []
        return [
            path
            for path in self.folder.iterdir()
            if (FILE.fullmatch(path.name) or TEMPORARY.fullmatch(path.name))
            and (path.is_symlink() or path.is_file())
        ]


def pack(tree: Any) -> dict[str, torch.Tensor]:
    """Containers whose leaves are tensors and arrays -> named tensors, the rest as JSON.

    Raises:
        TypeError: a leaf is neither one of these nor a number, a string or None.
    """
    tensors: dict[str, torch.Tensor] = {}
    # Exact: Python's JSON keeps floats to the last bit and integers of any size, and the states
    # of NumPy's generators have 128 bits.
    skeleton = json.dumps(_strip(tree, tensors)).encode()
    tensors["json"] = torch.frombuffer(bytearray(skeleton), dtype=torch.uint8)
    return tensors


def unpack(tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `pack`."""
    return _join(json.loads(tensors["json"].numpy().tobytes()), tensors)


def _strip(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, torch.Tensor | np.ndarray):
        name = f"tensor{len(tensors)}"
        tensor = torch.from_numpy(node) if isinstance(node, np.ndarray) else node
        # A copy of each: safetensors refuses tensors that share memory.
        tensors[name] = tensor.detach().cpu().contiguous().clone()
        return {"kind": "array" if isinstance(node, np.ndarray) else "tensor", "name": name}
    if isinstance(node, dict):
        # Pairs: an optimizer's state has integers as keys, which JSON would turn into strings.
        items = [[key, _strip(value, tensors)] for key, value in node.items()]
        return {"kind": "dict", "items": items}
    if isinstance(node, list | tuple):
        items = [_strip(value, tensors) for value in node]
        return {"kind": type(node).__name__, "items": items}
    if isinstance(node, np.generic):
        return node.item()
    if not isinstance(node, str | int | float | None):
        kinds = "tensors, arrays, numbers, strings and None in dictionaries, lists and tuples"
        raise TypeError(f"an agent's state holds a {type(node).__name__}; it may hold {kinds}")
    return node


def _join(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    kind = node["kind"]
    if kind in ("tensor", "array"):
        tensor = tensors[node["name"]]
        return tensor.numpy() if kind == "array" else tensor
    if kind == "dict":
        return {key: _join(value, tensors) for key, value in node["items"]}
    items = [_join(value, tensors) for value in node["items"]]
    return tuple(items) if kind == "tuple" else items
