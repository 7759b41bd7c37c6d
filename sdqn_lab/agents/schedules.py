"""Quantities that follow a plan over the agent's steps."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LinearSchedule:
    """Straight line from `begin` at step 0 to `end` at step `decay_steps`, constant afterwards::

        value(step) = begin + (end - begin) * min(step / decay_steps, 1)

    Args:
        begin: value at step 0, finite.
        end: value from step `decay_steps` on, finite.
        decay_steps: agent steps of the decay, >= 1.

    Raises:
        ValueError: an argument outside its range.
    """

    begin: float
    end: float
    decay_steps: int

    def __post_init__(self) -> None:
        for name in ("begin", "end"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        if self.decay_steps < 1:
            raise ValueError(f"decay_steps must be >= 1, got {self.decay_steps}")

    def __call__(self, step: int) -> float:
        """Value at agent step `step` >= 0."""
        if step >= self.decay_steps:
            return self.end
        return self.begin + (self.end - self.begin) * (step / self.decay_steps)
