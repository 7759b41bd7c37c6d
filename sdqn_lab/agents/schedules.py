"""Quantities that follow a plan over the agent's steps."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt

from sdqn_lab.checks.ranges import Count, check_arguments

Finite = Annotated[float, Gt(-math.inf), Lt(math.inf)]


@dataclass(frozen=True)
class LinearSchedule:
    """Straight line from `begin` at step 0 to `end` at step `decay_steps`, constant afterwards::

        value(step) = begin + (end - begin) * min(step / decay_steps, 1)

    Args:
        begin: value at step 0, finite.
        end: value from step `decay_steps` on, finite.
        decay_steps: agent steps of the decay, >= 1.

    Raises:
        Refused: an argument outside its range.
    """

    begin: Finite
    end: Finite
    decay_steps: Count

    def __post_init__(self) -> None:
        check_arguments(LinearSchedule.__init__, vars(self))

    def __call__(self, step: int) -> float:
        """Value at agent step `step` >= 0."""
        # Not by min(): rounding could leave begin + (end - begin) beside `end`.
        if step >= self.decay_steps:
            return self.end
        return self.begin + (self.end - self.begin) * (step / self.decay_steps)
