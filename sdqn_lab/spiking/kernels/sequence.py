"""All T steps of a neuron as one node of the autograd graph.

The reference builds a graph of some ten small operations a step and walks it back. Here the forward
pass runs without a graph and keeps only the charged membranes; the backward pass evaluates the
surrogate's derivative once for all steps and then walks down T with three operations a step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Dynamics(NamedTuple):
    """What the kernel needs to know of a neuron whose charge is linear with constant slopes.

    Attributes:
        charge: (x, v) to the charged membrane.
        derivative: the surrogate's, of v - v_threshold.
        slope_x: d charge / d x.
        slope_v: d charge / d v.
        v_threshold: firing threshold.
        v_reset: start of the membrane and target of the hard reset.
        hard: hard reset, else soft.
        detach_reset: no gradient through the reset.
    """

    charge: Callable[[Tensor, Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    slope_x: float
    slope_v: float
    v_threshold: float
    v_reset: float
    hard: bool
    detach_reset: bool


def run_sequence(x_seq: Tensor, dynamics: Dynamics) -> Tensor:
    """Currents (T, B, ...) to spikes (T, B, ...), as the neuron's own steps would give them."""
    spikes: Tensor = _Sequence.apply(x_seq, dynamics)  # type: ignore[no-untyped-call]
    return spikes


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_seq: Tensor, dynamics: Dynamics) -> Tensor:
        charged = torch.empty(x_seq.shape, dtype=x_seq.dtype, device=x_seq.device)
        spikes = torch.empty_like(charged)
        v = torch.full_like(charged[0], dynamics.v_reset)
        for x, h, s in zip(x_seq.unbind(0), charged.unbind(0), spikes.unbind(0), strict=True):
            h.copy_(dynamics.charge(x, v))
            fires = h - dynamics.v_threshold > 0
            s.copy_(fires)
            v = (
                h.masked_fill(fires, dynamics.v_reset)
                if dynamics.hard
                else h - dynamics.v_threshold * s
            )
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(charged, spikes)
            ctx.dynamics = dynamics
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        charged, spikes = ctx.saved_tensors
        dynamics: Dynamics = ctx.dynamics
        slope = dynamics.derivative(charged - dynamics.v_threshold)
        direct = grad_outputs[0] * slope
        through = _through_reset(charged, spikes, slope, dynamics)
        grad_x = torch.empty_like(charged)
        grad_v = torch.zeros_like(charged[0])
        for t in range(len(charged) - 1, -1, -1):
            grad_h = direct[t] + grad_v * through[t] if through is not None else direct[t] + grad_v
            torch.mul(grad_h, dynamics.slope_x, out=grad_x[t])
            grad_v = grad_h * dynamics.slope_v
        return grad_x, None


def _through_reset(
    charged: Tensor, spikes: Tensor, slope: Tensor, dynamics: Dynamics
) -> Tensor | None:
    """d (membrane after reset) / d (charged membrane) at every step; None stands for 1."""
    if dynamics.hard:
        kept = 1 - spikes
        if dynamics.detach_reset:
            return kept
        return kept + (dynamics.v_reset - charged) * slope
    if dynamics.detach_reset:
        return None
    return 1 - dynamics.v_threshold * slope
