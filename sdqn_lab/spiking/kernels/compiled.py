"""A layer's compiled kernels as one node of the autograd graph."""

import math
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdqn_lab.spiking.kernels import cpu
from sdqn_lab.spiking.kernels.layer import Layer


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody wants a module to be called, or calls something else in its place."""
    before = (module._forward_pre_hooks, module._backward_pre_hooks)
    after = (module._forward_hooks, module._backward_hooks)
    return any(before) or any(after) or "forward" in vars(module)


def takes_norm(x_seq: Tensor) -> bool:
    """Whether there is a kernel that does normalization and neuron at once."""
    return x_seq.is_cpu and x_seq.dtype == torch.float32 and x_seq.dim() > 1


def takes_neuron(x_seq: Tensor) -> bool:
    """Whether there is a kernel that does the neuron."""
    return takes_norm(x_seq) or (x_seq.is_cuda and x_seq.dtype == torch.float32 and _has_triton())


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def run_neuron(x_seq: Tensor, steps: int, layer: Layer) -> Tensor:
    """Spikes (T, B, ...) of currents (T, B, ...), or (1, B, ...) if constant, on any device."""
    if x_seq.is_cpu:
        return run_layer(x_seq, None, None, steps, layer._replace(normalize=False))
    from sdqn_lab.spiking.kernels import gpu

    return gpu.run_neuron(x_seq, steps, layer)


def run_layer(
    x_seq: Tensor, weight: Tensor | None, bias: Tensor | None, steps: int, layer: Layer
) -> Tensor:
    """Spikes (T, B, ...) of currents (T, B, ...), or (1, B, ...) if constant.

    Args:
        x_seq: float32 on the CPU; images may lie channels last, and so will the spikes.
        weight: of the normalization, shape of one sample; None without one.
        bias: likewise.
        steps: T.
        layer: the constants.
    """
    spikes: Tensor = _Layer.apply(x_seq, weight, bias, steps, layer)  # type: ignore[no-untyped-call]
    return spikes


def is_channels_last(images: Tensor) -> bool:
    """Whether (N, C, H, W) lies in memory as (N, H, W, C), and not in both orders at once."""
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_seq: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        steps: int,
        layer: Layer,
    ) -> Tensor:
        rows = _Rows(x_seq)
        x = rows.array(x_seq)
        affine = rows.parameter(weight), rows.parameter(bias)
        spikes = torch.empty(steps, *x.shape[1:], dtype=torch.float32, device="cpu")
        threads = torch.get_num_threads()
        statistics = cpu.forward(x, *affine, spikes.numpy(), layer, threads)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x_seq, weight, bias, torch.from_numpy(statistics))
            ctx.rows, ctx.layer = rows, layer
        return rows.tensor(spikes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_seq, weight, bias, statistics = ctx.saved_tensors
        rows: _Rows = ctx.rows
        x = rows.array(x_seq)
        grad_x = torch.empty(x.shape, dtype=torch.float32, device="cpu")
        grad_weight, grad_bias = cpu.backward(
            rows.array(grad_outputs[0]),
            x,
            rows.parameter(weight),
            rows.parameter(bias),
            statistics.numpy(),
            grad_x.numpy(),
            ctx.layer,
            torch.get_num_threads(),
        )
        if weight is None:
            return rows.tensor(grad_x), None, None, None, None
        shaped = rows.reshaped(grad_weight), rows.reshaped(grad_bias)
        return rows.tensor(grad_x), *shaped, None, None


class _Rows:
    """Samples as rows of numbers, in the order in which they lie in memory."""

    def __init__(self, x_seq: Tensor) -> None:
        self.shape = x_seq.shape[2:]
        self.units = math.prod(self.shape)
        self.channels_last = x_seq.dim() == 5 and is_channels_last(x_seq.flatten(0, 1))

    def array(self, x_seq: Tensor) -> cpu.Array:
        """(T, B, F), without a copy where the tensor lies in this order."""
        ordered = x_seq.permute(0, 1, 3, 4, 2) if self.channels_last else x_seq
        return ordered.detach().contiguous().view(*x_seq.shape[:2], self.units).numpy()

    def tensor(self, x_seq: Tensor) -> Tensor:
        """The way back of a tensor (T, B, F), without a copy."""
        if not self.channels_last:
            return x_seq.view(*x_seq.shape[:2], *self.shape)
        channels, height, width = self.shape
        images = x_seq.view(*x_seq.shape[:2], height, width, channels)
        return images.permute(0, 1, 4, 2, 3)

    def parameter(self, parameter: Tensor | None) -> cpu.Array:
        """(F,), in the order of a row."""
        if parameter is None:
            return np.empty(0, np.float32)
        ordered = parameter.permute(1, 2, 0) if self.channels_last else parameter
        return ordered.detach().contiguous().flatten().numpy()

    def reshaped(self, array: cpu.Array) -> Tensor:
        """The way back."""
        return self.tensor(torch.from_numpy(array)[None, None])[0, 0].contiguous()
