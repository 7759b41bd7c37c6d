"""Neurons: modules mapping currents (T, B, ...) to spikes (T, B, ...).

The membrane is created, threaded through the T steps and dropped inside `forward`; nothing needs a
reset between two calls. Time is counted in simulation steps, potentials in units of `v_threshold`'s
scale, and nothing but the membrane time constant is called tau.
"""

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sdqn_lab.spiking.kernels.compiled import (
    is_hooked,
    run_layer,
    run_neuron,
    takes_neuron,
    takes_norm,
)
from sdqn_lab.spiking.kernels.layer import SLOPES, Layer
from sdqn_lab.spiking.kernels.sequence import Dynamics, run_sequence
from sdqn_lab.spiking.norm import NoNorm, PopNorm
from sdqn_lab.spiking.surrogate import Atan, Surrogate

_ATAN = Atan()
DYNAMICS = ("charge", "step", "reference", "forward")
"""What a neuron must not change after it named its slopes."""
Backend = Literal["auto", "fused", "reference"]
"""auto: the fastest form that a layer has; fused: one that takes all steps at once, and neurons
without are refused when a network is built; reference: always the plain steps."""


class Neuron(nn.Module, ABC):
    """What a layer needs to know about its activation.

    Attributes:
        temporal: whether the answer depends on time; if not, networks run it with T = 1.
        v_threshold: firing threshold; normalizations scale their output to it.
        v_reset: resting value of the membrane; normalizations centre their output on it.
        backend: which form of the same numbers runs, where there is more than one.
    """

    temporal: ClassVar[bool]
    backend: Backend = "auto"
    v_threshold: float
    v_reset: float

    @property
    def fusible(self) -> bool:
        """Whether there is a form that takes all steps at once."""
        return False

    @abstractmethod
    def forward(self, x_seq: Tensor) -> Tensor:
        """Currents (T, B, ...) to activity (T, B, ...); the input may be an expanded view."""


class ReLU(Neuron):
    """The artificial twin: max(0, x), without time, threshold or surrogate.

    For normalizations its v_threshold counts as 1 and its v_reset as 0.
    """

    temporal = False
    v_threshold = 1.0
    v_reset = 0.0

    def forward(self, x_seq: Tensor) -> Tensor:
        """max(0, x), elementwise; (T, B, ...) to (T, B, ...)."""
        return torch.relu(x_seq)


class SpikingNeuron(Neuron):
    """Charge, fire, reset: the step that all spiking neurons share.

    A new neuron is a subclass with its own `charge`; if that is slope_x x + slope_v v, naming the
    two in `slopes` gives it the fused paths too. One step, x the current and v the membrane:

        v <- charge(x, v)
        s  = 1[v > v_threshold]                         strictly above
        v <- v (1 - s) + v_reset s      (reset = hard)
        v <- v - v_threshold s          (reset = soft)

    The membrane starts at v_reset.

    Args:
        v_threshold: firing threshold, > 0 and > v_reset.
        v_reset: start of the membrane and target of the hard reset; 0 with a soft reset.
        surrogate: spike function; its derivative is used on the backward pass.
        detach_reset: whether s counts as a constant in the reset (no gradient through it).
        reset: "hard" or "soft".

    Raises:
        ValueError: an argument is outside its range, or reset is soft and v_reset is not 0.
    """

    temporal = True

    def __init__(
        self,
        *,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate = _ATAN,
        detach_reset: bool = True,
        reset: str = "hard",
    ) -> None:
        super().__init__()
        if not 0 < v_threshold < math.inf:
            raise ValueError(f"v_threshold must be > 0 and finite, got {v_threshold}")
        if not -math.inf < v_reset < v_threshold:
            raise ValueError(
                f"v_reset must be finite and < v_threshold ({v_threshold}), got {v_reset}"
            )
        if reset not in ("hard", "soft"):
            raise ValueError(f"reset must be hard or soft, got {reset}")
        if reset == "soft" and v_reset != 0:
            raise ValueError(f"v_reset must be 0 with reset=soft, got {v_reset}")
        self.v_threshold = v_threshold
        self.v_reset = v_reset
        self.surrogate = surrogate
        self.detach_reset = detach_reset
        self.reset = reset

    @abstractmethod
    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """The membrane after one step of current x on membrane v, both (B, ...), before firing."""

    @property
    def slopes(self) -> tuple[float, float] | None:
        """(d charge / d x, d charge / d v) where both are constants, else None."""
        return None

    @property
    def fusible(self) -> bool:
        """Whether the slopes are numbers, and nobody changed the dynamics after naming them."""
        numbers = all(isinstance(slope, float | int) for slope in self.slopes or (None,))
        return numbers and _slopes_hold(type(self)) and vars(self).keys().isdisjoint(DYNAMICS)

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the class's equation: current and membrane (B, ...) to (spike, membrane)."""
        v = self.charge(x, v)
        spike = self.surrogate(v - self.v_threshold)
        s = spike.detach() if self.detach_reset else spike
        if self.reset == "soft":
            return spike, v - self.v_threshold * s
        return spike, v * (1 - s) + self.v_reset * s

    def forward(
        self, x_seq: Tensor, norm: nn.Module | None = None, time_window: int | None = None
    ) -> Tensor:
        """Currents to spikes (T, B, ...), the membrane starting at v_reset.

        Args:
            x_seq: currents (T, B, ...), or (1, B, ...) if constant.
            norm: normalization that comes first, with the signature of `Norm`; None: none.
            time_window: T; None: as many as the entries of x_seq.

        Raises:
            ValueError: x_seq has neither T entries nor one.
        """
        steps = time_window or len(x_seq)
        if len(x_seq) not in (1, steps):
            raise ValueError(f"x_seq must have {steps} entries (T), or one, got {len(x_seq)}")
        if x_seq.stride(0) == 0:  # one entry, seen T times
            x_seq = x_seq[:1]
        layer = None if self.backend == "reference" else self._layer(norm)
        if layer is not None and takes_norm(x_seq) and _is_fusible(norm, x_seq):
            weight, bias = (norm.weight, norm.bias) if isinstance(norm, PopNorm) else (None, None)
            return run_layer(x_seq, weight, bias, steps, layer)
        if norm is not None:
            x_seq = norm(x_seq, repeats=steps // len(x_seq))
        if layer is not None and takes_neuron(x_seq):
            return run_neuron(x_seq, steps, layer)
        x_seq = x_seq.expand(steps, *x_seq.shape[1:])
        if self.backend != "reference" and self.fusible and self.slopes is not None:
            return run_sequence(x_seq, self._dynamics(*self.slopes))
        return self.reference(x_seq)

    def reference(self, x_seq: Tensor) -> Tensor:
        """`forward` as the loop over `step` that defines it."""
        v = torch.full_like(x_seq[0], self.v_reset)
        spikes = []
        for x in x_seq.unbind(0):
            spike, v = self.step(x, v)
            spikes.append(spike)
        return torch.stack(spikes)

    def _layer(self, norm: nn.Module | None) -> Layer | None:
        """What a compiled kernel must know; None where there is none."""
        if self.slopes is None or not self.fusible or type(self.surrogate) not in SLOPES:
            return None
        return Layer(
            *self.slopes,
            v_threshold=self.v_threshold,
            v_reset=self.v_reset,
            alpha=self.surrogate.alpha,
            eps=norm.eps if isinstance(norm, PopNorm) else 0.0,
            surrogate=type(self.surrogate),
            hard=self.reset == "hard",
            detach_reset=self.detach_reset,
            normalize=isinstance(norm, PopNorm),
        )

    def _dynamics(self, slope_x: float, slope_v: float) -> Dynamics:
        return Dynamics(
            charge=self.charge,
            derivative=self.surrogate.derivative,
            slope_x=slope_x,
            slope_v=slope_v,
            v_threshold=self.v_threshold,
            v_reset=self.v_reset,
            hard=self.reset == "hard",
            detach_reset=self.detach_reset,
        )

    def extra_repr(self) -> str:
        """The settings that all spiking neurons share."""
        return (
            f"v_threshold={self.v_threshold}, v_reset={self.v_reset}, surrogate={self.surrogate}, "
            f"detach_reset={self.detach_reset}, reset={self.reset}"
        )


@cache
def _slopes_hold(cls: type[SpikingNeuron]) -> bool:
    """Whether no class that comes before the one with the slopes changes the dynamics."""
    line = [vars(each).keys() for each in cls.__mro__]
    named = next(i for i, names in enumerate(line) if "slopes" in names)
    return all(names.isdisjoint(DYNAMICS) for names in line[:named])


def _is_fusible(norm: nn.Module | None, x_seq: Tensor) -> bool:
    """Whether the kernel on the CPU does this norm itself; hooks on a norm want it to be called."""
    if type(norm) in (type(None), NoNorm):
        return True
    if type(norm) is not PopNorm or is_hooked(norm):
        return False
    return norm.weight.shape == x_seq.shape[2:] and norm.weight.dtype == x_seq.dtype


class IF(SpikingNeuron):
    """Integrate and fire, without leak: v <- v + x.

    Args:
        v_threshold: see `SpikingNeuron`, as all other arguments.
    """

    @property
    def slopes(self) -> tuple[float, float]:
        """(1, 1)."""
        return 1.0, 1.0

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """v + x."""
        return v + x


class LIF(SpikingNeuron):
    """Leaky integrate and fire: v <- v + (x - v) / tau, the leak being towards 0.

    A constant current fires only if it is above v_threshold; in a single step only if it is above
    tau * v_threshold.

    Args:
        tau: membrane time constant in steps, >= 1; 1 means no memory.
        v_threshold: see `SpikingNeuron`, as all other arguments.
        v_reset: as there.
        surrogate: as there.
        detach_reset: as there.
        reset: as there.

    Raises:
        ValueError: an argument is outside its range.

    Source: Brain-Cog's `LIFNode`, as used by Sun, Zeng, Li 2022 (PL-SDQN).
    """

    def __init__(
        self,
        *,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate = _ATAN,
        detach_reset: bool = True,
        reset: str = "hard",
    ) -> None:
        super().__init__(
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            reset=reset,
        )
        if not 1 <= tau < math.inf:
            raise ValueError(f"tau must be >= 1 and finite, got {tau}")
        self.tau = tau

    @property
    def slopes(self) -> tuple[float, float]:
        """(1 / tau, 1 - 1 / tau)."""
        return 1 / self.tau, 1 - 1 / self.tau

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """v + (x - v) / tau."""
        return v + (x - v) / self.tau

    def extra_repr(self) -> str:
        """The time constant, then the shared settings."""
        return f"tau={self.tau}, {super().extra_repr()}"


class PLIF(SpikingNeuron):
    """LIF with a learnable time constant: v <- v + (x - v) sigmoid(w), one scalar w per layer.

    1 / tau = sigmoid(w), so tau = 1 + exp(-w) stays above 1 whatever the optimizer does.

    Args:
        tau: membrane time constant in steps before learning, > 1.
        v_threshold: see `SpikingNeuron`, as all other arguments.
        v_reset: as there.
        surrogate: as there.
        detach_reset: as there.
        reset: as there.

    Raises:
        ValueError: an argument is outside its range.

    Source: Fang et al. 2021, "Incorporating Learnable Membrane Time Constant to Enhance Learning of
    Spiking Neural Networks".
    """

    def __init__(
        self,
        *,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate = _ATAN,
        detach_reset: bool = True,
        reset: str = "hard",
    ) -> None:
        super().__init__(
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            reset=reset,
        )
        if not 1 < tau < math.inf:
            raise ValueError(f"tau must be > 1 and finite, got {tau}")
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1)))

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """v + (x - v) sigmoid(w)."""
        return v + (x - v) * self.w.sigmoid()
