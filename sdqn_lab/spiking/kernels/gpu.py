"""A neuron over all T steps as Triton kernels, one program for a block of units.

The membrane stays in registers while the steps go by; the charged membranes are kept for the
backward pass, and the spikes follow from them. Normalization is left to torch, whose own kernels
are good. With TRITON_INTERPRET=1 in the environment the kernels run on the CPU, slowly, for tests.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

# Products and sums may be rounded as one, whatever a version of Triton takes for its default.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdqn_lab.spiking.kernels import cpu
from sdqn_lab.spiking.kernels.cpu import LayerConstants

# Units of a program.
BLOCK = 256
QUADRATIC_GATE, GATE = tl.constexpr(cpu.QUADRATIC_GATE), tl.constexpr(cpu.GATE)
SIGMOID, ATAN = tl.constexpr(cpu.SIGMOID), tl.constexpr(cpu.ATAN)
FAST_SIGMOID = tl.constexpr(cpu.FAST_SIGMOID)
HALF_PI = tl.constexpr(torch.pi / 2)


def run_neuron(x_seq: Tensor, steps: int, layer: LayerConstants) -> Tensor:
    """Spikes (T, B, ...) of currents (T, B, ...), or (1, B, ...) if constant.

    Args:
        x_seq: float32.
        steps: T.
        layer: the constants; those of the normalization are not looked at.
    """
    spikes: Tensor = _Neuron.apply(x_seq, steps, layer)  # type: ignore[no-untyped-call]
    return spikes


class _Neuron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_seq: Tensor, steps: int, layer: LayerConstants) -> Tensor:
        x, one = x_seq, x_seq[0]
        # The kernels want no gaps between steps; channels may stay last.
        images = one.dim() == 4 and one.is_contiguous(memory_format=torch.channels_last)
        if not images or (len(x) > 1 and x.stride(0) != one.numel()):
            x = x_seq.contiguous()
        spikes = _like(x, steps)
        keep = ctx.needs_input_grad[0]
        charged = torch.empty_like(spikes) if keep else spikes
        units = one.numel()
        with _device_of(x):
            forward_kernel[(triton.cdiv(units, BLOCK),)](
                *(x, spikes, charged, units, steps, len(x) == 1, keep, layer.leaky, layer.hard),
                *map(float, (layer.slope_x, layer.slope_v, layer.v_threshold, layer.v_reset)),
                BLOCK=BLOCK,
            )
        if keep:
            ctx.save_for_backward(charged)
            ctx.steps_in, ctx.layer = len(x), layer
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (charged,) = ctx.saved_tensors
        layer: LayerConstants = ctx.layer
        grad = grad_outputs[0]
        # The kernel takes one offset for both.
        if grad.stride() != charged.stride():
            grad = torch.empty_like(charged).copy_(grad)
        grad_x = _like(charged, ctx.steps_in)
        units = charged[0].numel()
        with _device_of(grad):
            backward_kernel[(triton.cdiv(units, BLOCK),)](
                *(grad, charged, grad_x, units, len(charged), ctx.steps_in == 1),
                *map(float, layer[:5]),
                *(layer.surrogate, layer.hard, layer.detach_reset),
                BLOCK=BLOCK,
            )
        return grad_x, None, None


def _like(x_seq: Tensor, steps: int) -> Tensor:
    """Room for T steps that lie as those of x_seq do."""
    strides = (x_seq[0].numel(), *x_seq.stride()[1:])
    return torch.empty_strided((steps, *x_seq.shape[1:]), strides, device=x_seq.device)


def _device_of(x: Tensor) -> AbstractContextManager[None]:
    """Triton takes the current device, whatever device its arguments are on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@triton.jit
def forward_kernel(  # type: ignore[no-untyped-def]
    x,
    spikes,
    charged,
    units,
    steps: tl.constexpr,
    constant: tl.constexpr,
    keep: tl.constexpr,
    leaky: tl.constexpr,
    hard: tl.constexpr,
    slope_x,
    slope_v,
    v_threshold,
    v_reset,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Write the spikes of BLOCK units, and their charged membranes if these are to be kept."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < units
    v = tl.zeros([BLOCK], tl.float32) + v_reset
    current = tl.load(x + at, mask=here, other=0.0)
    for t in range(steps):
        row = t * tl.cast(units, tl.int64) + at
        if not constant:
            current = tl.load(x + row, mask=here, other=0.0)
        h = v + slope_x * (current - v) if leaky else slope_v * v + slope_x * current
        fires = h - v_threshold > 0
        if keep:
            tl.store(charged + row, h, mask=here)
        tl.store(spikes + row, tl.where(fires, 1.0, 0.0), mask=here)
        v = tl.where(fires, v_reset if hard else h - v_threshold, h)


@triton.jit
def backward_kernel(  # type: ignore[no-untyped-def]
    grad,
    charged,
    grad_x,
    units,
    steps: tl.constexpr,
    constant: tl.constexpr,
    slope_x,
    slope_v,
    v_threshold,
    v_reset,
    alpha,
    surrogate: tl.constexpr,
    hard: tl.constexpr,
    detach_reset: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Write the gradient of the currents of BLOCK units from that of their spikes."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < units
    grad_v = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(steps):
        row = (steps - 1 - i) * tl.cast(units, tl.int64) + at
        h = tl.load(charged + row, mask=here, other=0.0)
        slope = surrogate_slope(h - v_threshold, alpha, surrogate)
        kept = tl.where(h - v_threshold > 0, 0.0, 1.0) if hard else 1.0
        if not detach_reset:
            kept += (v_reset - h if hard else -v_threshold) * slope
        grad_h = tl.load(grad + row, mask=here, other=0.0) * slope + grad_v * kept
        grad_v = grad_h * slope_v
        if constant:
            total += grad_h * slope_x
        else:
            tl.store(grad_x + row, grad_h * slope_x, mask=here)
    if constant:
        tl.store(grad_x + at, total, mask=here)


@triton.jit
def surrogate_slope(x, alpha, surrogate: tl.constexpr):  # type: ignore[no-untyped-def]
    """The surrogate's derivative at x = h - v_threshold."""
    # A constexpr: each surrogate has a kernel of its own, without branches.
    if surrogate == ATAN:
        y = HALF_PI * alpha * x
        slope = 0.5 * alpha / (1.0 + y * y)
    elif surrogate == SIGMOID:
        s = 1.0 / (1.0 + tl.exp(-alpha * x))
        slope = alpha * s * (1.0 - s)
    elif surrogate == QUADRATIC_GATE:
        y = alpha - alpha * alpha * tl.abs(x)
        # Not a maximum: NaN must stay NaN.
        slope = tl.where(y < 0, 0.0, y)
    elif surrogate == GATE:
        slope = tl.where(tl.abs(x) < 1.0 / alpha, 1.0, 0.0)
    elif surrogate == FAST_SIGMOID:
        y = 1.0 + alpha * tl.abs(x)
        slope = 1.0 / (y * y)
    else:
        y = 1.0 - alpha * tl.abs(x)
        slope = tl.where(y < 0, 0.0, y)
    return slope
