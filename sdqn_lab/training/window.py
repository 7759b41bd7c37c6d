"""Means of what happened since the last record."""

from collections.abc import Mapping
from typing import Any

import torch


class Window:
    """Sums and counts by key. Tensors stay on their device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, float | torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float | torch.Tensor]) -> None:
        """Add one observation of each quantity; tensors are 0-d and must need no gradient."""
        sums, counts = self._sums, self._counts
        for key, value in values.items():
            total = sums.get(key, 0.0)
            # In double: float32 would lose digits over the thousands of updates of a window.
            if isinstance(value, float):
                sums[key] = total + value
            elif isinstance(total, torch.Tensor):
                total += value  # in place: it is ours
            else:
                number = value.double() if isinstance(value, torch.Tensor) else float(value)
                sums[key] = total + number
            counts[key] = counts.get(key, 0) + 1

    def flush(self) -> dict[str, float]:
        """The mean of every quantity seen, and forget them."""
        means = {key: float(total) / self._counts[key] for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts as plain numbers."""
        sums = {key: float(total) for key, total in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put sums and counts back."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
