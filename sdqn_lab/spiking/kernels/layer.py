"""What a kernel must know of a layer, in plain numbers."""

from typing import NamedTuple

from sdqn_lab.spiking.surrogate import (
    Atan,
    FastSigmoid,
    Gate,
    QuadraticGate,
    Sigmoid,
    Surrogate,
    Triangle,
)

SLOPES: tuple[type[Surrogate], ...] = (QuadraticGate, Gate, Sigmoid, Atan, FastSigmoid, Triangle)
"""Surrogates whose derivative the kernels have."""


class Layer(NamedTuple):
    """The constants of a neuron with charge slope_x x + slope_v v, and of its norm.

    Where the slopes add up to 1 the charge is computed as v + slope_x (x - v), which stays at x
    once it is there.

    Attributes:
        slope_x: d charge / d x.
        slope_v: d charge / d v.
        v_threshold: firing threshold.
        v_reset: start of the membrane and target of the hard reset.
        alpha: the surrogate's.
        eps: the normalization's.
        surrogate: one of `SLOPES`.
        hard: hard reset, else soft.
        detach_reset: no gradient through the reset.
        normalize: PopNorm goes before, with weight and bias.
    """

    slope_x: float
    slope_v: float
    v_threshold: float
    v_reset: float
    alpha: float
    eps: float
    surrogate: type[Surrogate]
    hard: bool
    detach_reset: bool
    normalize: bool

    @property
    def leaky(self) -> bool:
        """Whether the slopes add up to 1."""
        return self.slope_v == 1 - self.slope_x
