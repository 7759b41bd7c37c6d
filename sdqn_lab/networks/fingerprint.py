"""By what a stored network shows that it is still the one that was saved."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch


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
