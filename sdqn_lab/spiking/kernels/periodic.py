"""A layer under a constant current and the map behind it, without the spikes in between.

With a hard reset such a neuron starts anew after each spike, so it fires periodically: its first
spike's step k says all, it fires at step t if and only if k divides t. So the map adds a unit's
rows of weights once, to the sum of its class k, and the result of step t is the sum of the classes
that divide t. In the weights' gradient a unit takes part once, with the gradient of its class: the
sum over the steps that k divides. Tables and images are those of `sparse`.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdqn_lab.spiking.kernels.cpu import (
    CHUNKS,
    ZERO,
    LayerConstants,
    charged,
    layer_backward,
    normal_current,
    normal_moments,
    run_chunks,
    takes,
)
from sdqn_lab.spiking.kernels.jit import inline_jit, jit, parallel_for
from sdqn_lab.spiking.kernels.rows import Array, Rows
from sdqn_lab.spiking.kernels.sparse import (
    LANES,
    SPARSE,
    KernelShape,
    add_rows,
    as_convolution,
    from_table,
    images_gradient,
    rounded,
    table_of,
    threads_for,
)

# Tables of the weights' gradient, each of a part of the batch.
TABLES = 4
# Units whose membranes stay in the innermost cache.
BLOCK = 1024
# Entries of the gradient of spikes that are there at once.
ROOM = 1 << 20
# First steps are kept in a byte.
MAX_STEPS = 255


class Sizes(NamedTuple):
    """Of a batch of images and the sums over them."""

    steps: int
    batch: int
    height: int
    width: int
    channels: int
    high: int
    wide: int


class _Job(NamedTuple):
    """What forward and backward share."""

    first: npt.NDArray[np.uint8]
    statistics: Array
    rows: Rows
    layer: LayerConstants
    sizes: Sizes
    kernel: KernelShape
    dtype: torch.dtype
    threads: int


def periodic_map(
    x: Tensor,
    affine: tuple[Tensor | None, Tensor | None],
    steps: int,
    layer: LayerConstants,
    linear: nn.Module,
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """`linear` of the spikes of all steps, (T, B, ...); None where both have to be called.

    Args:
        x: constant currents (1, B, ...).
        affine: weight and bias of the normalization before the neurons; Nones without one.
        steps: T.
        layer: the neurons' constants.
        linear: the map, as `sparse_linear` takes it; it is not called.
        dtype: that weights, results and gradients are rounded to; sums are float32.
    """
    periodic = len(x) == 1 and 1 < steps <= MAX_STEPS and layer.hard and takes(x)
    if periodic and x.dim() == 5:
        # Rows are pixels with their channels.
        x = x[0].contiguous(memory_format=torch.channels_last)[None]
    seen = as_convolution(linear, x[0]) if periodic else None
    if seen is None:
        return None
    images, weight, kernel = seen
    rows, (channels, height, width) = Rows(x), images.shape[1:]
    sizes = Sizes(steps, len(images), height, width, channels, *kernel.outputs(height, width))
    threads = threads_for(steps * len(images) * sizes.high * sizes.wide, weight)
    if threads == 0:
        return None
    given = rows.parameter(affine[0]), rows.parameter(affine[1])
    first, statistics = find_first_spikes(rows.array(x)[0], *given, steps, layer)
    # A dense map would be done T times, this one once.
    if SPARSE * np.count_nonzero(first) > steps * first.size:
        return None
    job = _Job(first, statistics, rows, layer, sizes, kernel, dtype, threads)
    y: Tensor = PeriodicMap.apply(x, *affine, weight, linear.bias, job)  # type: ignore[no-untyped-call]
    return y.flatten(2) if type(linear) is nn.Linear else y.permute(0, 1, 4, 2, 3)


def find_first_spikes(
    x: Array, weight: Array, bias: Array, steps: int, layer: LayerConstants
) -> tuple[npt.NDArray[np.uint8], Array]:
    """Steps, from 1, of first spikes (B, F) under constant currents, 0 for none; and the
    statistics (1, B, 2) of the norm.
    """
    first = np.empty(x.shape, np.uint8)
    statistics = np.empty((1, len(x), 2), np.float32)
    work = partial(first_kernel, x, weight, bias, first, statistics[0], steps, layer)
    run_chunks(work, len(x), steps * x.size)
    return first, statistics


class PeriodicMap(torch.autograd.Function):
    """Currents (1, B, ...), norm and weights (O, C, KH, KW) to sums (T, B, OH, OW, O)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        job: _Job,
    ) -> Tensor:
        """The sums, rounded to the job's type."""
        sizes = job.sizes
        shape = sizes.steps, sizes.batch, sizes.high, sizes.wide, len(weight)
        y = torch.empty(shape, dtype=torch.float32, device="cpu")
        table = table_of(weight, bias, job.dtype)
        flat = y.numpy().reshape(*shape[:2], -1)
        work = partial(gather_classes_kernel, job.first, *table, flat, sizes, job.kernel)
        parallel_for(work, min(CHUNKS, sizes.batch), job.threads)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, norm_weight, norm_bias, weight)
            ctx.job = job
        return rounded(y, job.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of currents, norm, weight and bias."""
        x, norm_weight, norm_bias, weight = ctx.saved_tensors
        job: _Job = ctx.job
        grad = grad_outputs[0].contiguous().to(job.dtype)
        before, (for_weight, for_bias) = ctx.needs_input_grad[:3], ctx.needs_input_grad[3:5]
        of_x = of_norm_weight = of_norm_bias = of_weight = of_bias = None
        if any(before):
            rows = job.rows
            affine = rows.parameter(norm_weight), rows.parameter(norm_bias)
            of_x, of_affine = _layer_gradient(grad, weight, rows.array(x), affine, job)
            of_norm_weight, of_norm_bias = rows.gradients(norm_weight, of_affine)
        if for_weight:
            tables = np.zeros((min(TABLES, job.sizes.batch), weight.numel()), np.float32)
            flat = grad.float().flatten(2).numpy()
            work = partial(scatter_classes_kernel, job.first, flat, tables, job.sizes, job.kernel)
            parallel_for(work, len(tables), job.threads)
            of_weight = rounded(from_table(tables.sum(0), weight.shape), job.dtype)
        if for_bias:
            of_bias = rounded(grad.float().sum((0, 1, 2, 3)), job.dtype)
        return of_x, of_norm_weight, of_norm_bias, of_weight, of_bias, None


def _layer_gradient(
    grad: Tensor, weight: Tensor, x: Array, affine: tuple[Array, Array], job: _Job
) -> tuple[Tensor, Array]:
    """Gradients of currents and norm; the spikes' is as large as they would be, so part by part."""
    sizes = job.sizes
    shape = torch.Size((0, sizes.channels, sizes.height, sizes.width))
    weight = weight.to(job.dtype)
    of_x = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    of_affine = np.zeros((2, len(affine[0])), np.float32)
    size = max(1, ROOM // (sizes.steps * x.shape[2]))
    for begin in range(0, sizes.batch, size):
        part = slice(begin, begin + size)
        of_images = images_gradient(grad[:, part].flatten(0, 1), weight, shape, job.kernel)
        of_spikes = of_images.permute(0, 2, 3, 1).reshape(sizes.steps, -1, x.shape[2]).numpy()
        saved = x[:, part], *affine, job.statistics[:, part]
        of_x[:, part], of_part = layer_backward(of_spikes, *saved, job.layer)
        of_affine += of_part
    return job.rows.tensor(of_x), of_affine


@jit
def first_kernel(
    x: Array,
    weight: Array,
    bias: Array,
    first: npt.NDArray[np.uint8],
    statistics: Array,
    steps: int,
    layer: LayerConstants,
    begin: int,
    end: int,
) -> None:
    """Write each unit's first step with a spike, and the statistics of the norm."""
    batch, units = x.shape
    chunks = min(CHUNKS, batch)
    z, v, h = np.empty(units, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    found = np.empty(BLOCK, np.float32)
    for sample in range(batch * begin // chunks, batch * end // chunks):
        if layer.normalize:
            normal_moments(x[sample], statistics[sample], layer)
        normal_current(x[sample], statistics[sample], weight, bias, z, layer)
        for low in range(0, units, BLOCK):
            row = z[low : low + BLOCK]
            v[:] = layer.v_reset
            found[:] = ZERO
            for t in range(1, steps + 1):
                for i in range(len(row)):
                    h[i] = charged(row[i], v[i], layer)
                for i in range(len(row)):
                    v[i] = h[i]
                    fires = h[i] - layer.v_threshold > ZERO
                    found[i] = np.float32(t) if fires and found[i] == ZERO else found[i]
            for i in range(len(row)):
                first[sample, low + i] = np.uint8(found[i])


@jit
def gather_classes_kernel(
    first: npt.NDArray[np.uint8],
    table: Array,
    bias: Array,
    y: Array,
    sizes: Sizes,
    kernel: KernelShape,
    begin: int,
    end: int,
) -> None:
    """Write the sums y (T, B, OH OW O) of chunks of the images."""
    size, units = y.shape[2], len(bias)
    chunks = min(CHUNKS, sizes.batch)
    sums = np.empty(sizes.steps * size, np.float32)
    fired = np.empty((2, sizes.channels), np.int64)
    for image in range(sizes.batch * begin // chunks, sizes.batch * end // chunks):
        sums[:] = ZERO
        _add_units(first[image], table, sums, fired, sizes, kernel, True)
        for t in range(1, sizes.steps + 1):
            out = y[t - 1, image]
            for at in range(0, size, units):
                for j in range(units):
                    out[at + j] = bias[j]
            for k in range(1, t + 1):
                if t % k == 0:
                    of_class = sums[(k - 1) * size : k * size]
                    for i in range(size):
                        out[i] += of_class[i]


@jit
def scatter_classes_kernel(
    first: npt.NDArray[np.uint8],
    grad: Array,
    tables: Array,
    sizes: Sizes,
    kernel: KernelShape,
    begin: int,
    end: int,
) -> None:
    """Add to each part's table, from the gradient (T, B, OH OW O) of the sums."""
    size, batch = grad.shape[2], sizes.batch
    sums = np.empty(sizes.steps * size, np.float32)
    fired = np.empty((2, sizes.channels), np.int64)
    for part in range(begin, end):
        for image in range(batch * part // len(tables), batch * (part + 1) // len(tables)):
            for k in range(1, sizes.steps + 1):
                of_class = sums[(k - 1) * size : k * size]
                of_class[:] = ZERO
                for t in range(k, sizes.steps + 1, k):
                    given = grad[t - 1, image]
                    for i in range(size):
                        of_class[i] += given[i]
            _add_units(first[image], tables[part], sums, fired, sizes, kernel, False)


@inline_jit
def _add_units(
    first: npt.NDArray[np.uint8],
    table: Array,
    sums: Array,
    fired: npt.NDArray[np.int64],
    sizes: Sizes,
    kernel: KernelShape,
    forth: bool,
) -> None:
    """For each unit that fires and each place of the kernel over it: add the row of weights to the
    sum of the unit's class (T, OH OW O), or back the sum to the row.
    """
    channels = sizes.channels
    units = len(table) // (kernel.height * kernel.width * channels)
    size = sizes.high * sizes.wide * units
    for y in range(sizes.height):
        top, bottom = _over(y, kernel.height, kernel.stride_y, sizes.high)
        for x in range(sizes.width):
            left, right = _over(x, kernel.width, kernel.stride_x, sizes.wide)
            pixel, count = (y * sizes.width + x) * channels, 0
            for c in range(channels):
                # Written always, kept only for a unit that fires.
                fired[0, count] = c * units
                fired[1, count] = (np.int64(first[pixel + c]) - 1) * size
                count += first[pixel + c] != 0
            for a in range(top, bottom):
                for b in range(left, right):
                    tap = (y - a * kernel.stride_y) * kernel.width + x - b * kernel.stride_x
                    row, at = tap * channels * units, (a * sizes.wide + b) * units
                    for n in range(count):
                        if forth:
                            _add_row(sums, at + fired[1, n], table, row + fired[0, n], units)
                        else:
                            _add_row(table, row + fired[0, n], sums, at + fired[1, n], units)


@inline_jit
def _over(pixel: int, kernel: int, stride: int, outputs: int) -> tuple[int, int]:
    """The sums whose kernel covers a pixel, along one side: the first, and the first behind."""
    return max(0, (pixel - kernel) // stride + 1), min(pixel // stride + 1, outputs)


@inline_jit
def _add_row(out: Array, at: int, rows: Array, begin: int, length: int) -> None:
    whole = length // LANES * LANES
    for j in range(0, whole, LANES):
        add_rows(out, at + j, rows, (begin + j,))
    for j in range(whole, length):
        out[at + j] += rows[begin + j]
