"""Linear maps of spikes as nodes of the autograd graph, on the CPU."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv_transpose2d

from sdqn_lab.spiking.kernels import events
from sdqn_lab.spiking.kernels.compiled import is_channels_last, is_hooked
from sdqn_lab.spiking.kernels.events import Events, Window

LEAST_WORK = 1 << 22
"""Multiply-adds of a dense product; a smaller one is done before the spikes are found."""
FEWEST_ROWS = 128
"""Sums a column of weights; for fewer, to lay the weights out as a table takes too long."""
GRAIN = 1 << 26
"""Multiply-adds of a dense product that are worth a thread of their own."""


class _Job(NamedTuple):
    """What forward and backward share."""

    found: Events
    window: Window
    dtype: torch.dtype
    threads: int


def mapped(linear: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """`linear(x)` to rounding, without the zeros of x; None where it has to be called.

    That is done on the CPU in float32, where x holds nothing but zeros and few ones and nobody
    hooks the map. What does not fire adds nothing, even if its weight is infinite or NaN.

    Args:
        linear: fully connected layers, and convolutions without padding, dilation and groups.
        x: (N, ...), as `linear` takes it; for a fully connected layer also images not yet flat.
        dtype: that weights, results and gradients are rounded to; sums are float32.
    """
    if not x.is_cpu or x.dtype != torch.float32 or is_hooked(linear):
        return None
    if type(linear) is nn.Linear and x[:1].numel() == linear.in_features:
        images = x if x.dim() == 4 and is_channels_last(x) else x.flatten(1)[:, :, None, None]
        weight = linear.weight.view(-1, *images.shape[1:])
        window = Window(images.shape[2], images.shape[3], 1, 1)
    elif type(linear) is nn.Conv2d and _is_plain(linear, x):
        images, weight = x, linear.weight
        window = Window(weight.shape[2], weight.shape[3], linear.stride[0], linear.stride[1])
    else:
        return None
    size = _size(images, window)
    rows = len(x) * math.prod(size)
    work = rows * weight.numel()
    if min(size) < 1 or rows < FEWEST_ROWS or work < LEAST_WORK or weight.dtype != x.dtype:
        return None
    threads = min(torch.get_num_threads(), 1 + work // GRAIN)
    pixels = images.detach().permute(0, 2, 3, 1).contiguous()
    found = events.find(pixels.numpy(), threads)
    if found is None:
        return None
    job = _Job(found, window, dtype, threads)
    y: Tensor = _Map.apply(images, weight, linear.bias, job)  # type: ignore[no-untyped-call]
    return y.flatten(1) if type(linear) is nn.Linear else y.permute(0, 3, 1, 2)


class _Map(torch.autograd.Function):
    """Images (N, C, H, W) and weights (O, C, KH, KW) to sums (N, OH, OW, O)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Tensor:
        units = len(weight)
        table = _table(_rounded(weight, job.dtype))
        start = torch.zeros(units, dtype=torch.float32, device="cpu")
        if bias is not None:
            start.copy_(_rounded(bias, job.dtype))
        shape = (len(images), *_size(images, job.window), units)
        y = torch.empty(shape, dtype=torch.float32, device="cpu")
        events.gather(job.found, table.numpy(), start.numpy(), y.numpy(), job.window, job.threads)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(weight if ctx.needs_input_grad[0] else None)
            ctx.shapes, ctx.job = (images.shape, weight.shape), job
        return _rounded(y, job.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        of_images, of_weight = ctx.shapes
        job: _Job = ctx.job
        grad = grad_outputs[0].contiguous().to(job.dtype)
        for_images, for_weight, for_bias, _ = ctx.needs_input_grad
        return (
            _of_images(grad, weight, of_images, job) if for_images else None,
            _of_weight(grad, of_weight, job) if for_weight else None,
            _rounded(grad.float().sum((0, 1, 2)), job.dtype) if for_bias else None,
            None,
        )


def _table(weight: Tensor) -> Tensor:
    """Weights (O, C, KH, KW) as a table (KH KW C, O), in two steps that torch is quick at."""
    units, channels, *pixels = weight.shape
    rows = weight.flatten(1).t().contiguous().view(channels, math.prod(pixels), units)
    return rows.transpose(0, 1).flatten(0, 1)


def _of_images(grad: Tensor, weight: Tensor, shape: torch.Size, job: _Job) -> Tensor:
    """The gradient (N, C, H, W), channels last; it is as dense as that of the sums."""
    weight, window = weight.to(job.dtype), job.window
    if weight.shape[2:] == shape[2:]:
        flat = grad.flatten(1) @ weight.permute(0, 2, 3, 1).flatten(1)
        return flat.float().view(len(flat), *shape[2:], shape[1]).permute(0, 3, 1, 2)
    strides = (window.stride_y, window.stride_x)
    left = [(pixels - k) % s for pixels, k, s in zip(shape[2:], window[:2], strides, strict=True)]
    images = grad.permute(0, 3, 1, 2)
    return conv_transpose2d(images, weight, None, strides, output_padding=left).float()


def _of_weight(grad: Tensor, shape: torch.Size, job: _Job) -> Tensor:
    """The gradient (O, C, KH, KW): the way back of the table's."""
    units, channels, height, width = shape
    table = torch.from_numpy(
        events.scatter(job.found, grad.float().numpy(), job.window, job.threads)
    )
    rows = table.view(height * width, channels, units).transpose(0, 1).flatten(0, 1)
    return _rounded(rows.t().contiguous(), job.dtype).view(shape)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype).float()


def _size(images: Tensor, window: Window) -> tuple[int, int]:
    """Height and width of the sums."""
    height, width = images.shape[2:]
    return (
        (height - window.height) // window.stride_y + 1,
        (width - window.width) // window.stride_x + 1,
    )


def _is_plain(convolution: nn.Conv2d, x: Tensor) -> bool:
    extras = (convolution.padding, convolution.dilation, convolution.groups)
    fits = x.dim() == 4 and x.shape[1] == convolution.in_channels
    return fits and extras == ((0, 0), (1, 1), 1)
