"""Neurons: modules mapping currents (T, B, ...) to spikes (T, B, ...).

The membrane is created, threaded through the T steps and dropped inside `forward`; nothing needs a
reset between two calls. Time is counted in simulation steps, potentials in units of `v_threshold`'s
scale, and nothing but the membrane time constant is called tau.
"""

import math
from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.checks.ranges import NonNegative, check_arguments
from sdqn_lab.checks.refused import Refused
from sdqn_lab.spiking.kernels import cpu
from sdqn_lab.spiking.kernels.cpu import FusedLayer, LayerConstants, takes
from sdqn_lab.spiking.surrogate import (
    Atan,
    FastSigmoid,
    Gate,
    QuadraticGate,
    Sigmoid,
    Surrogate,
    Triangle,
)

if TYPE_CHECKING:
    from sdqn_lab.spiking.tape import SpikeTape

HAS_TRITON = find_spec("triton") is not None
_ATAN = Atan()
CODES: dict[type[Surrogate], int] = {
    QuadraticGate: cpu.QUADRATIC_GATE,
    Gate: cpu.GATE,
    Sigmoid: cpu.SIGMOID,
    Atan: cpu.ATAN,
    FastSigmoid: cpu.FAST_SIGMOID,
    Triangle: cpu.TRIANGLE,
}
"""Surrogates whose derivative the kernels have."""
Backend = Literal["auto", "compiled", "fused", "reference"]
"""auto: the fastest there is; compiled: whole updates, refused where there are none; fused: kernels
of the neurons in torch's updates, refused likewise; reference: always the plain steps."""


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
        """Whether kernels may take all steps at once."""
        return self.kernel_constants() is not None

    def kernel_constants(self, real: type[np.floating] = np.float32) -> LayerConstants | None:
        """What kernels must know to take all steps at once; None: only `forward` knows how.

        Args:
            real: type of the constants.
        """
        return None

    @abstractmethod
    def forward(self, x_seq: Tensor) -> Tensor:
        """Currents (T, B, ...) to activity (T, B, ...); the input may be an expanded view."""


class Layer(nn.Module):
    """A module that answers with the activity of its neuron, e.g. a block.

    It may take the neuron's kernel instead of calling the neuron; so look at
    layers, and not at neurons, to see the activity of a network.
    """

    neuron: Neuron


def run_neuron(x_seq: Tensor, steps: int, layer: LayerConstants) -> Tensor | None:
    """A neuron by its kernel, on any device.

    Args:
        x_seq: currents (T, B, ...), or (1, B, ...) if constant.
        steps: T.
        layer: the constants.

    Returns:
        Spikes (T, B, ...); None where there is no kernel for these currents.
    """
    if takes(x_seq):
        spikes: Tensor = FusedLayer.apply(x_seq, None, None, steps, layer)  # type: ignore[no-untyped-call]
        return spikes
    if x_seq.is_cuda and x_seq.dtype == torch.float32 and HAS_TRITON:
        # Not everybody has Triton.
        from sdqn_lab.spiking.kernels import gpu

        return gpu.run_neuron(x_seq, steps, layer)
    return None


class ReLU(Neuron):
    """The activation of the ANN baseline: max(0, x), without time, threshold or surrogate.

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

    A new neuron is a subclass with its own `charge`. If that is slope_x x + slope_v v, `slopes` in
    the same class give it the kernels too; inherited slopes do not count, because `charge`, `step`
    or `forward` may be another one. One step, x the current and v the membrane:

        v <- charge(x, v)
        s  = 1[v > v_threshold]                         strictly above
        v <- v (1 - s) + v_reset s      (reset = hard)
        v <- v - v_threshold s          (reset = soft)

    The membrane starts at v_reset. A threshold that is learned is v_reset + exp(w), which stays
    above v_reset whatever the optimizer does; it begins at `v_threshold`, to which norms and
    histograms are scaled. A surrogate keeps its width in absolute units.

    Args:
        v_threshold: firing threshold, > 0 and > v_reset.
        v_reset: start of the membrane and target of the hard reset; 0 with a soft reset.
        surrogate: spike function; its derivative is used in the backward pass.
        detach_reset: whether s counts as a constant in the reset (no gradient through it).
        reset: "hard" or "soft".
        learn_threshold: False, "layer" (one w) or "channel" (one w per channel, or per unit of a
            fully connected layer; a single one until `spread` says how many there are).

    Raises:
        Refused: an argument is outside its range, or reset is soft and v_reset is not 0.
    """

    temporal = True
    log_threshold: nn.Parameter | None

    def __init__(
        self,
        *,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate = _ATAN,
        detach_reset: bool = True,
        reset: str = "hard",
        learn_threshold: bool | str = False,
    ) -> None:
        super().__init__()
        if not 0 < v_threshold < math.inf:
            raise Refused("v_threshold", v_threshold, "must be > 0 and finite")
        if not -math.inf < v_reset < v_threshold:
            rule = f"must be finite and < v_threshold ({v_threshold})"
            raise Refused("v_reset", v_reset, rule)
        if reset not in ("hard", "soft"):
            raise Refused("reset", reset, "must be hard or soft")
        if reset == "soft" and v_reset != 0:
            raise Refused("v_reset", v_reset, "must be 0 with reset=soft")
        if learn_threshold not in (False, "layer", "channel"):
            raise Refused("learn_threshold", learn_threshold, "must be false, layer or channel")
        start = torch.tensor(math.log(v_threshold - v_reset)) if learn_threshold else None
        self.register_parameter("log_threshold", None if start is None else nn.Parameter(start))
        self.learn_threshold = learn_threshold
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

    def kernel_constants(self, real: type[np.floating] = np.float32) -> LayerConstants | None:
        """See `Neuron`; None also where the kernels lack the surrogate, and for the reference."""
        slopes = self.slopes if "slopes" in vars(type(self)) else None
        code = CODES.get(type(self.surrogate))
        if slopes is None or code is None or self.backend == "reference":
            return None
        # What is learned would get no gradient from a kernel.
        constant = all(isinstance(slope, float | int) for slope in slopes)
        if not constant or self.log_threshold is not None:
            return None
        reals = (*slopes, self.v_threshold, self.v_reset, self.surrogate.alpha, 0.0)
        leaky = slopes[1] == 1 - slopes[0]
        flags = (leaky, self.reset == "hard", self.detach_reset, False)
        return LayerConstants._make([*map(real, reals), code, *flags])

    def spread(self, channels: int) -> None:
        """Give each of so many channels a threshold, if that is how they are learned."""
        if self.learn_threshold == "channel" and self.log_threshold is not None:
            each = self.log_threshold.detach().flatten()[:1].repeat(channels)
            self.log_threshold = nn.Parameter(each)

    def threshold(self, v: Tensor) -> Tensor | float:
        """What membranes (B, C, ...) are compared with: a number; learned, (1 or C, 1, ...)."""
        if self.log_threshold is None:
            return self.v_threshold
        learned = self.v_reset + self.log_threshold.exp()
        return learned.view(-1, *[1] * (v.dim() - 2))

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the class's equation: current and membrane (B, ...) to (spike, membrane)."""
        v = self.charge(x, v)
        return self.fire(v, self.threshold(v))

    def fire(self, v: Tensor, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
        """The spike of a charged membrane (B, ...) under a threshold, and the membrane after it."""
        spike = self.surrogate(v - threshold)
        return spike, self.after(v, spike, threshold)

    def after(self, v: Tensor, spike: Tensor, threshold: Tensor | float) -> Tensor:
        """Charged membranes (B, ...) after the reset."""
        s = spike.detach() if self.detach_reset else spike
        if self.reset == "soft":
            return v - threshold * s
        return v * (1 - s) + self.v_reset * s

    def forward(self, x_seq: Tensor) -> Tensor:
        """Currents (T, B, ...) to spikes (T, B, ...), the membrane starting at v_reset."""
        layer = self.kernel_constants()
        if layer is not None:
            # A stride of 0 is one entry, seen T times.
            entries = x_seq[:1] if x_seq.stride(0) == 0 else x_seq
            spikes = run_neuron(entries, len(x_seq), layer)
            if spikes is not None:
                return spikes
        return self.reference(x_seq)

    def reference(self, x_seq: Tensor) -> Tensor:
        """`forward` as the loop over `step` that defines it."""
        v = torch.full_like(x_seq[0], self.v_reset)
        spikes = []
        for x in x_seq.unbind(0):
            spike, v = self.step(x, v)
            spikes.append(spike)
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        """The settings that all spiking neurons share."""
        learned = f", learn_threshold={self.learn_threshold}" if self.learn_threshold else ""
        return (
            f"v_threshold={self.v_threshold}, v_reset={self.v_reset}, surrogate={self.surrogate}, "
            f"detach_reset={self.detach_reset}, reset={self.reset}{learned}"
        )


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

    Raises:
        Refused: an argument is outside its range.

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
        learn_threshold: bool | str = False,
    ) -> None:
        super().__init__(
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            reset=reset,
            learn_threshold=learn_threshold,
        )
        if not 1 <= tau < math.inf:
            raise Refused("tau", tau, "must be >= 1 and finite")
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

    Raises:
        Refused: an argument is outside its range.

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
        learn_threshold: bool | str = False,
    ) -> None:
        super().__init__(
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            reset=reset,
            learn_threshold=learn_threshold,
        )
        if not 1 < tau < math.inf:
            raise Refused("tau", tau, "must be > 1 and finite")
        # The inverse of sigmoid at 1 / tau.
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1)))

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """v + (x - v) sigmoid(w)."""
        return v + (x - v) * self.w.sigmoid()


class ALIF(LIF):
    """LIF whose threshold rises with every spike and falls back, so that it fires less often::

        v <- v + (x - v) / tau
        a <- a (1 - 1 / tau_adapt)                                  from a = 0
        s  = 1[v > v_threshold + a],  then the reset of `SpikingNeuron` by that threshold
        a <- a + beta s

    Adaptation is as short as a decision: it begins anew with each, so with tau_adapt far above T it
    only grows. The gradient goes through a, whatever detach_reset says. `step` is the first of a
    decision's steps, where a is 0.

    Args:
        tau: membrane time constant in steps, >= 1.
        beta: by how much a spike raises the threshold, >= 0, in units of the membrane.
        tau_adapt: time constant of adaptation in steps, >= 1; 1: a spike counts for nothing.
        v_threshold: see `SpikingNeuron`, as all other arguments.

    Raises:
        Refused: an argument is outside its range.

    Source: Bellec et al. 2018 (LSNN), in the order of steps of Norse 1.1.0.
    """

    def __init__(
        self,
        *,
        tau: float = 2.0,
        beta: NonNegative = 0.5,
        tau_adapt: float = 8.0,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate = _ATAN,
        detach_reset: bool = True,
        reset: str = "hard",
        learn_threshold: bool | str = False,
    ) -> None:
        check_arguments(ALIF.__init__, locals())
        super().__init__(
            tau=tau,
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            reset=reset,
            learn_threshold=learn_threshold,
        )
        if not 1 <= tau_adapt < math.inf:
            raise Refused("tau_adapt", tau_adapt, "must be >= 1 and finite")
        self.beta, self.tau_adapt = beta, tau_adapt

    def reference(self, x_seq: Tensor) -> Tensor:
        """Currents (T, B, ...) to spikes (T, B, ...), by the loop of the class's equation."""
        v = torch.full_like(x_seq[0], self.v_reset)
        raised = torch.zeros_like(v)
        spikes = []
        for x in x_seq.unbind(0):
            v, raised = self.charge(x, v), raised * (1 - 1 / self.tau_adapt)
            spike, v = self.fire(v, self.threshold(v) + raised)
            raised = raised + self.beta * spike
            spikes.append(spike)
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        """The adaptation, then the settings of a LIF."""
        return f"beta={self.beta}, tau_adapt={self.tau_adapt}, {super().extra_repr()}"


class Bernoulli(LIF):
    """LIF with escape noise: it fires by chance, the more likely the higher its membrane::

        v <- v + (x - v) / tau
        p  = sigmoid((v - v_threshold) / delta_u)
        s  = 1 with probability p, else 0
        v <- v (1 - s) + v_reset s      (reset = hard)
        v <- v - v_threshold s          (reset = soft)

    In the backward pass the derivative of the surrogate at v - v_threshold stands for ds/dv; with
    surrogate=sigmoid and surrogate.alpha = 1 / delta_u it is dp/dv. `probabilities` gives the other
    gradient, that of the log-likelihood of spikes that were drawn. There are only plain steps.

    Args:
        tau: membrane time constant in steps, >= 1; 1 means no memory.
        delta_u: width of the noise, > 0, in units of the membrane; towards 0 it is a `LIF`.
        v_threshold: where p is 1/2; otherwise see `SpikingNeuron`, as all other arguments.

    Attributes:
        generator: where spikes are drawn from, on the currents' device; None: torch's global one.
            `SpikingNetwork` hands over its own for the time of a call.
        tape: keeps the spikes of a call, or repeats those of an earlier one; lent for its time too.

    Raises:
        Refused: an argument is outside its range.

    Source: Gerstner, Kistler 2002, "Spiking Neuron Models", escape noise.
    """

    generator: torch.Generator | None = None
    tape: "SpikeTape | None" = None

    def __init__(
        self,
        *,
        tau: float = 2.0,
        delta_u: float = 0.25,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate = _ATAN,
        detach_reset: bool = True,
        reset: str = "hard",
    ) -> None:
        super().__init__(
            tau=tau,
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            reset=reset,
        )
        if not 0 < delta_u < math.inf:
            raise Refused("delta_u", delta_u, "must be > 0 and finite")
        self.delta_u = delta_u

    @property
    def backend(self) -> Backend:
        """Always the reference: kernels and CUDA graphs know nothing of drawing."""
        return "reference"

    @backend.setter
    def backend(self, asked: Backend) -> None:
        pass

    def forward(self, x_seq: Tensor) -> Tensor:
        """Currents (T, B, ...) to spikes (T, B, ...), drawn or, from a tape, repeated."""
        return self.reference(x_seq) if self.tape is None else self.tape.spikes(self, x_seq)

    def fire(self, v: Tensor, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
        """Spikes drawn for charged membranes (B, ...), with the surrogate's gradient; see above."""
        p = self.probability(v.detach())
        draws = torch.rand(p.shape, generator=self.generator, device=p.device, dtype=p.dtype)
        spike = (draws < p).to(p.dtype)
        if v.requires_grad:
            x = v - threshold
            # The second term is 0; its gradient is the surrogate's derivative.
            spike = spike + self.surrogate.derivative(x.detach()) * (x - x.detach())
        return spike, self.after(v, spike, threshold)

    def probability(self, v: Tensor) -> Tensor:
        """Probability of a spike at charged membranes v, elementwise."""
        return self._excess(v).sigmoid()

    def probabilities(self, x_seq: Tensor, spikes: Tensor) -> Tensor:
        """Probability of a spike at each step, given those that were drawn before it.

        Spikes are data, and no gradient goes through them.

        Args:
            x_seq: currents (T, B, ...).
            spikes: (T, B, ...), 0 or 1.

        Returns:
            (T, B, ...), in (0, 1).
        """
        return self._excess(self._charged(x_seq, spikes)).sigmoid()

    def log_likelihood(self, x_seq: Tensor, spikes: Tensor) -> Tensor:
        """Of spikes that were drawn: sum over t and neurons of s log p + (1 - s) log(1 - p).

        Its gradient is the score of Williams 1992. Arguments as for `probabilities`.

        Returns:
            (B,), at most 0.
        """
        # log(1 - p) is that of p at the negative: no probability is rounded to 0 or 1 on the way.
        signed = (2 * spikes.detach() - 1) * self._excess(self._charged(x_seq, spikes))
        return nn.functional.logsigmoid(signed).transpose(0, 1).flatten(1).sum(1)

    def _excess(self, v: Tensor) -> Tensor:
        """Charged membranes v above threshold, in widths of the noise."""
        return (v - self.v_threshold) / self.delta_u

    def _charged(self, x_seq: Tensor, spikes: Tensor) -> Tensor:
        """The membrane before each of the spikes (T, B, ...) was drawn."""
        v, found = torch.full_like(x_seq[0], self.v_reset), []
        for x, spike in zip(x_seq.unbind(0), spikes.detach().unbind(0), strict=True):
            v = self.charge(x, v)
            found.append(v)
            v = self.after(v, spike, self.v_threshold)
        return torch.stack(found)

    def extra_repr(self) -> str:
        """The width of the noise, then what a `LIF` has."""
        return f"delta_u={self.delta_u}, {super().extra_repr()}"
