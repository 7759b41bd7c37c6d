"""A stored network, and by what it shows that it is still the one that was saved."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

ENDS = ({"observation_shape", "num_actions"}, {"observation_shape", "box"})
"""What a network's file holds besides weights and checksum: one of these."""


class Stored(NamedTuple):
    """A network's file: tensors by name, on the CPU; what goes in and comes out; SHA-256 of all."""

    tensors: dict[str, torch.Tensor]
    ends: dict[str, Any]
    sha256: str


def stored(file: Path) -> Stored:
    """Read a network's file as data.

    Raises:
        Exception: of whatever kind a damaged or foreign file causes.
    """
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    ends = json.loads(metadata["ends"])
    # Earlier versions saved no checksum.
    checksum, found = ends.pop("sha256", None), fingerprint(tensors, ends)
    if ends.keys() not in ENDS or checksum not in (None, found):
        raise ValueError("its content differs from its checksum")
    return Stored(tensors, ends, found)


def fingerprint(tensors: Mapping[str, torch.Tensor], ends: Mapping[str, Any]) -> str:
    """SHA-256 over a network's ends and over names, types, shapes and bytes of its tensors.

    Args:
        tensors: on the CPU.
        ends: what goes in and comes out; plain values.
    """
    found = hashlib.sha256(json.dumps(ends, sort_keys=True).encode())
    # Name, type and shape too: the same bytes can mean other tensors.
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Flat bytes: NumPy has no bfloat16, and torch cannot view a 0-d tensor as bytes.
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
