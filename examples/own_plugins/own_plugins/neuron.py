"""A neuron: one class; `conf/neuron/quadratic.yaml` is its option."""

from torch import Tensor

from sdqn_lab.checks.ranges import Positive, check_arguments
from sdqn_lab.spiking.neuron import SpikingNeuron
from sdqn_lab.spiking.surrogate import Atan, Surrogate


class Quadratic(SpikingNeuron):
    """Quadratic integrate and fire: v <- v + (x + a v (v - v_critical)) / tau.

    Between 0 and v_critical the membrane leaks back to 0, above it rises by itself until it fires.
    The reset is hard: a soft one could leave more than v_critical, whose square grows without end.

    Args:
        tau: membrane time constant in steps, > 0.
        a: strength of leak and rise, > 0.
        v_critical: where leaking turns to rising, > 0.
        v_threshold: see `SpikingNeuron`, as all other arguments.

    Raises:
        Refused: an argument is outside its range.

    Source: Latham et al. 2000.
    """

    def __init__(
        self,
        *,
        tau: Positive = 2.0,
        a: Positive = 1.0,
        v_critical: Positive = 0.8,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate | None = None,
        detach_reset: bool = True,
    ) -> None:
        check_arguments(Quadratic.__init__, locals())
        super().__init__(
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate or Atan(),
            detach_reset=detach_reset,
        )
        self.tau, self.a, self.v_critical = tau, a, v_critical

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """v + (x + a v (v - v_critical)) / tau."""
        return v + (x + self.a * v * (v - self.v_critical)) / self.tau
