"""Spike functions: a step forward, a smooth derivative backward.

Every surrogate maps x = v - v_threshold to spikes: 1 where x > 0 strictly, else 0. The step has no
useful derivative, so the backward pass uses `derivative(x)`, the slope of the smooth `primitive(x)`
that stands in for the step. `alpha` (> 0, dimensionless) sets how sharp it is.

Source of the idea: Neftci, Mostafa, Zenke 2019, "Surrogate Gradient Learning in Spiking Neural
Networks".
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdqn_lab.checks.refused import Refused


class _Spike(torch.autograd.Function):
    """Step forward, the surrogate's derivative backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: "Surrogate") -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.derivative(x), None


@dataclass(frozen=True, kw_only=True)
class Surrogate(ABC):
    """A stateless spike function; one object may serve every layer of a network.

    A new surrogate is a subclass with `primitive` and `derivative`.

    Args:
        alpha: slope, dimensionless, > 0 and finite.

    Raises:
        Refused: alpha is not a positive finite number.
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise Refused("alpha", self.alpha, "must be > 0 and finite")

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes 1[x > 0] of x = v - v_threshold; any shape, shape and dtype are kept."""
        spikes: Tensor = _Spike.apply(x, self)  # type: ignore[no-untyped-call]
        return spikes

    @abstractmethod
    def primitive(self, x: Tensor) -> Tensor:
        """The smooth function that replaces the step for differentiation, elementwise."""

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """The slope of `primitive`, elementwise: what the backward pass multiplies with."""


class QuadraticGate(Surrogate):
    """Piecewise quadratic step, derivative max(0, alpha - alpha^2 |x|): a triangle of area 1.

    Outside |x| < 1/alpha no gradient flows at all.

    Source: Brain-Cog's `QGateGrad`; Neftci, Mostafa, Zenke 2019.
    """

    def primitive(self, x: Tensor) -> Tensor:
        """1/2 + z - z |z| / 2 with z = alpha x, clamped to [-1, 1]."""
        z = (self.alpha * x).clamp(-1, 1)
        return 0.5 + z - 0.5 * z * z.abs()

    def derivative(self, x: Tensor) -> Tensor:
        """max(0, alpha - alpha^2 |x|)."""
        return (self.alpha - self.alpha**2 * x.abs()).clamp(min=0)


class Gate(Surrogate):
    """Rectangle of height 1: derivative 1 where |x| < 1/alpha, else 0.

    Source: Brain-Cog's `GateGrad`; Wu, Deng, Li, Zhu, Shi 2018 (STBP, there called h1).
    """

    def primitive(self, x: Tensor) -> Tensor:
        """A ramp of slope 1 from 0 at x = -1/alpha to 2/alpha at x = 1/alpha."""
        return x.clamp(-1 / self.alpha, 1 / self.alpha) + 1 / self.alpha

    def derivative(self, x: Tensor) -> Tensor:
        """1[|x| < 1/alpha]."""
        return (x.abs() < 1 / self.alpha).to(x.dtype)


class Sigmoid(Surrogate):
    """Logistic function: with s = sigmoid(alpha x), derivative alpha s (1 - s).

    Source: Brain-Cog's `SigmoidGrad`, which fires at equality; this one does not.
    """

    def primitive(self, x: Tensor) -> Tensor:
        """1 / (1 + exp(-alpha x))."""
        return torch.sigmoid(self.alpha * x)

    def derivative(self, x: Tensor) -> Tensor:
        """alpha s (1 - s)."""
        s = torch.sigmoid(self.alpha * x)
        return self.alpha * s * (1 - s)


class Atan(Surrogate):
    """Arc tangent, derivative (alpha / 2) / (1 + (pi alpha x / 2)^2): never zero, so nothing dies.

    Source: Brain-Cog's `AtanGrad` (the published PL-SDQN); Fang et al. 2021.
    """

    def primitive(self, x: Tensor) -> Tensor:
        """atan(pi alpha x / 2) / pi + 1/2."""
        return torch.atan(math.pi / 2 * self.alpha * x) / math.pi + 0.5

    def derivative(self, x: Tensor) -> Tensor:
        """(alpha / 2) / (1 + (pi alpha x / 2)^2)."""
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * x).square())


class FastSigmoid(Surrogate):
    """Sigmoid without exponentials, derivative 1 / (1 + alpha |x|)^2: height 1, heavy tails.

    Source: Zenke, Ganguli 2018 (SuperSpike).
    """

    def primitive(self, x: Tensor) -> Tensor:
        """x / (1 + alpha |x|)."""
        return x / (1 + self.alpha * x.abs())

    def derivative(self, x: Tensor) -> Tensor:
        """1 / (1 + alpha |x|)^2."""
        return (1 + self.alpha * x.abs()).reciprocal().square()


@dataclass(frozen=True, kw_only=True)
class Triangle(Surrogate):
    """Triangle of height 1, derivative max(0, 1 - alpha |x|).

    The quadratic gate has the same support, but height alpha. alpha = 1 (the default here) is the
    form of the papers: the base reaches from the membrane at rest to twice a threshold of 1.

    Source: Esser et al. 2016; Bellec et al. 2018.
    """

    alpha: float = 1.0

    def primitive(self, x: Tensor) -> Tensor:
        """x - alpha x |x| / 2 within |x| <= 1/alpha, constant outside."""
        z = x.clamp(-1 / self.alpha, 1 / self.alpha)
        return z - self.alpha / 2 * z * z.abs()

    def derivative(self, x: Tensor) -> Tensor:
        """max(0, 1 - alpha |x|)."""
        return (1 - self.alpha * x.abs()).clamp(min=0)
