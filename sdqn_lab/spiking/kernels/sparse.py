"""Linear maps of spikes without the zeros: where an input fires, rows of weights are added.

Where one input in ten fires, a tenth of a product's additions are left. Images lie channels last,
(N, H, W, C), without padding; a fully connected layer is a convolution whose kernel covers the
image. The rows of its weights are a table (KH KW C, O): what a unit at (y, x, c) adds to the output
at (a, b) is the row of (y - a SH, x - b SW, c).

Every output is summed in an order that depends on its own inputs alone, whatever the threads.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv_transpose2d

from sdqn_lab.spiking.kernels.jit import jit, parallel_for
from sdqn_lab.spiking.kernels.rows import Array, is_channels_last
from sdqn_lab.spiking.kernels.vectors import LANES as VECTOR
from sdqn_lab.spiking.kernels.vectors import find, transpose

# Multiply-adds of a dense product; a smaller one is done before the spikes are found.
MIN_WORK = 1 << 22
# Sums per column of weights; for fewer, to lay the weights out as a table takes too long.
MIN_ROWS = 128
# Multiply-adds of a dense product that are worth a thread of their own.
GRAIN = 1 << 26
# One in so many inputs may fire; where more do, the dense product is quicker.
SPARSE = 5
# The same for each image on its own: room is made for so many.
CROWDED = 2
# Parts that threads share, at most.
CHUNKS = 64
# Floats that are added at once.
LANES = 32
# 1.0 in float32.
ONE_BITS = np.uint32(0x3F800000)


class Spikes(NamedTuple):
    """Where units fire.

    Attributes:
        places: (N, room), x C + c of each spike, by rows and columns of the image.
        starts: (N, H, W + 1), the place's index at which the pixel begins, and where its row ends.
        channels: C.
    """

    places: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    channels: int


class KernelShape(NamedTuple):
    """Size and stride of a convolution's kernel, in pixels."""

    height: int
    width: int
    stride_y: int
    stride_x: int

    def outputs(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the sums over an image."""
        return (height - self.height) // self.stride_y + 1, (
            width - self.width
        ) // self.stride_x + 1


class _Job(NamedTuple):
    """What forward and backward share."""

    spikes: Spikes
    kernel: KernelShape
    dtype: torch.dtype
    threads: int


def sparse_linear(
    linear: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor | None:
    """`linear(x)` to rounding, without the zeros of x; None where it has to be called.

    That is done on the CPU in float32, where x holds nothing but zeros and few ones. What does not
    fire adds nothing, even if its weight is infinite or NaN. Hooks of the map are not called.

    Args:
        linear: fully connected layers, and convolutions without padding, dilation and groups.
        x: (N, ...), as `linear` takes it; for a fully connected layer also images not yet flat.
        dtype: that weights, results and gradients are rounded to; sums are float32.
    """
    seen = as_convolution(linear, x)
    if seen is None:
        return None
    images, weight, kernel = seen
    size = kernel.outputs(*images.shape[2:])
    rows = len(x) * math.prod(size)
    threads = threads_for(rows, weight)
    if threads == 0:
        return None
    spikes = find_spikes(images.detach().permute(0, 2, 3, 1).contiguous().numpy(), threads)
    if spikes is None:
        return None
    job = _Job(spikes, kernel, dtype, threads)
    y: Tensor = SparseMap.apply(images, weight, linear.bias, job)  # type: ignore[no-untyped-call]
    return y.flatten(1) if type(linear) is nn.Linear else y.permute(0, 3, 1, 2)


def as_convolution(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, KernelShape] | None:
    """Images (N, C, H, W), weights (O, C, KH, KW) and kernel of `linear(x)`; None if it is another
    map, or not one of float32 on the CPU.
    """
    if not x.is_cpu or x.dtype != torch.float32:
        return None
    if type(linear) is nn.Linear and x[:1].numel() == linear.in_features:
        images = x if x.dim() == 4 and is_channels_last(x) else x.flatten(1)[:, :, None, None]
        weight = linear.weight.reshape(-1, *images.shape[1:])
        kernel = KernelShape(images.shape[2], images.shape[3], 1, 1)
    elif type(linear) is nn.Conv2d and x.dim() == 4 and x.shape[1] == linear.in_channels:
        if (linear.padding, linear.dilation, linear.groups) != ((0, 0), (1, 1), 1):
            return None
        images, weight = x, linear.weight
        kernel = KernelShape(weight.shape[2], weight.shape[3], linear.stride[0], linear.stride[1])
    else:
        return None
    fits = min(kernel.outputs(*images.shape[2:])) >= 1 and weight.dtype == x.dtype
    return (images, weight, kernel) if fits else None


def threads_for(rows: int, weight: Tensor) -> int:
    """Threads for so many sums per column of weights; 0 where a dense product is quicker."""
    work = rows * weight.numel()
    if rows < MIN_ROWS or work < MIN_WORK:
        return 0
    return min(torch.get_num_threads(), 1 + work // GRAIN)


class SparseMap(torch.autograd.Function):
    """Images (N, C, H, W) and weights (O, C, KH, KW) to sums (N, OH, OW, O)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Tensor:
        """The sums, rounded to the job's type."""
        shape = (len(images), *job.kernel.outputs(*images.shape[2:]), len(weight))
        y = torch.empty(shape, dtype=torch.float32, device="cpu")
        flat = *table_of(weight, bias, job.dtype), y.numpy().reshape(-1)
        work = partial(gather_kernel, *job.spikes, *flat, shape, job.kernel)
        parallel_for(work, min(CHUNKS, len(y)), job.threads)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(weight if ctx.needs_input_grad[0] else None)
            ctx.shapes, ctx.job = (images.shape, weight.shape), job
        return rounded(y, job.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of images, weight and bias."""
        (weight,) = ctx.saved_tensors
        of_images, of_weight = ctx.shapes
        job: _Job = ctx.job
        grad = grad_outputs[0].contiguous().to(job.dtype)
        for_images, for_weight, for_bias, _ = ctx.needs_input_grad
        grad_images = grad_weight = grad_bias = None
        if for_images:
            grad_images = images_gradient(grad, weight.to(job.dtype), of_images, job.kernel)
        if for_weight:
            table = np.zeros(math.prod(of_weight), np.float32)
            flat, shape = grad.float().numpy().reshape(-1), tuple(grad.shape)
            work = partial(scatter_kernel, *job.spikes, flat, shape, table, job.kernel)
            parallel_for(work, job.kernel.height * -(-of_weight[0] // LANES), job.threads)
            grad_weight = rounded(from_table(table, of_weight), job.dtype)
        if for_bias:
            grad_bias = rounded(grad.float().sum((0, 1, 2)), job.dtype)
        return grad_images, grad_weight, grad_bias, None


def table_of(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Array, Array]:
    """The table (KH KW C, O) of weights (O, C, KH, KW), flat, and the bias; both rounded."""
    table = np.empty(weight.numel(), np.float32)
    weights = rounded(weight, dtype).flatten().numpy()
    lay_out_kernel(weights, table, len(weight), weight[0, 0].numel(), False)
    start = torch.zeros(len(weight), dtype=torch.float32, device="cpu")
    if bias is not None:
        start.copy_(rounded(bias, dtype))
    return table, start.numpy()


def from_table(table: Array, shape: torch.Size) -> Tensor:
    """Weights (O, C, KH, KW) of a flat table."""
    weights = torch.empty(shape, dtype=torch.float32, device="cpu")
    lay_out_kernel(weights.view(-1).numpy(), table, len(weights), weights[0, 0].numel(), True)
    return weights


def images_gradient(grad: Tensor, weight: Tensor, shape: torch.Size, kernel: KernelShape) -> Tensor:
    """The gradient (N, C, H, W), channels last; it is as dense as that of the sums."""
    if weight.shape[2:] == shape[2:]:
        flat = grad.flatten(1) @ weight.permute(0, 2, 3, 1).flatten(1)
        return flat.float().view(len(flat), *shape[2:], shape[1]).permute(0, 3, 1, 2)
    strides = (kernel.stride_y, kernel.stride_x)
    left = [(pixels - k) % s for pixels, k, s in zip(shape[2:], kernel[:2], strides, strict=True)]
    images = grad.permute(0, 3, 1, 2)
    return conv_transpose2d(images, weight, None, strides, output_padding=left).float()


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers as another type holds them, in float32."""
    return x.detach().to(dtype).float()


def find_spikes(x: Array, threads: int) -> Spikes | None:
    """The spikes of images (N, H, W, C), contiguous.

    Returns:
        None if an entry is neither 0 nor 1, or too many are 1.
    """
    images, height, width, channels = x.shape
    room = height * width * channels // CROWDED + width * channels + VECTOR
    places = np.empty((images, room), np.int32)
    starts = np.empty((images, height, width + 1), np.int32)
    bits = x.view(np.uint32).reshape(images, height, -1)
    work = partial(find_kernel, bits, channels, places, starts)
    parallel_for(work, min(CHUNKS, images), threads)
    if starts[:, 0, 0].any() or SPARSE * int(starts[:, -1, -1].sum()) > x.size:
        return None
    return Spikes(places, starts, channels)


@jit
def lay_out_kernel(weights: Array, table: Array, units: int, pixels: int, back: bool) -> None:
    """Write weights (O, C KH KW) as a table (KH KW C, O), or back; both flat."""
    length = len(weights) // units
    if pixels == 1:
        pixels = length
    channels = length // pixels
    step = channels * units
    wide, high = pixels - pixels % VECTOR, units - units % VECTOR
    for c in range(channels):
        for pixel in range(0, wide, VECTOR):
            for o in range(0, high, VECTOR):
                at, row = o * length + c * pixels + pixel, (pixel * channels + c) * units + o
                if back:
                    transpose(weights, at, length, table, row, step)
                else:
                    transpose(table, row, step, weights, at, length)
        for pixel in range(pixels):
            for o in range(high if pixel < wide else 0, units):
                at, row = o * length + c * pixels + pixel, (pixel * channels + c) * units + o
                if back:
                    weights[at] = table[row]
                else:
                    table[row] = weights[at]


@jit
def find_kernel(
    bits: npt.NDArray[np.uint32],
    channels: int,
    places: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    """Write places and starts; the very first start of an image that is refused is -1."""
    images, height, length = bits.shape
    chunks = min(CHUNKS, images)
    for image in range(images * first // chunks, images * last // chunks):
        count, own = 0, places[image]
        for y in range(height):
            row = bits[image, y]
            # Counted first, so that a crowded row cannot write beyond its room.
            ones = 0
            for i in range(length):
                ones += row[i] == ONE_BITS
            if count + ones + length + VECTOR > len(own):
                starts[image, 0, 0] = -1
                return
            starts[image, y, 0] = count
            for x in range(length // channels):
                begin, end = x * channels, (x + 1) * channels
                whole = end - channels % VECTOR
                for i in range(begin, whole, VECTOR):
                    count += find(row, i, own, count)
                for i in range(whole, end):
                    # Written always, kept only for a spike: a branch would be mispredicted.
                    own[count] = i
                    count += row[i] != 0
                starts[image, y, x + 1] = count
            if count - starts[image, y, 0] != ones:
                starts[image, 0, 0] = -1
                return


@jit
def gather_kernel(
    places: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int32],
    channels: int,
    table: Array,
    bias: Array,
    y: Array,
    shape: tuple[int, ...],
    kernel: KernelShape,
    first: int,
    last: int,
) -> None:
    """Write the sums `y`, (N, OH, OW, O), of chunks of the images."""
    images, height, width, units = shape
    chunks = min(CHUNKS, images)
    reach = kernel.width * channels
    whole = units // LANES * LANES
    for image in range(images * first // chunks, images * last // chunks):
        for a in range(height):
            for b in range(width):
                out = ((image * height + a) * width + b) * units
                y[out : out + units] = bias
                left = b * kernel.stride_x
                for line in range(kernel.height):
                    begin = starts[image, a * kernel.stride_y + line, left]
                    end = starts[image, a * kernel.stride_y + line, left + kernel.width]
                    base = line * reach - left * channels
                    # Four rows per pass: the sum y is then loaded and stored a quarter as often.
                    fours = end - (end - begin) % 4
                    for k in range(begin, fours, 4):
                        r0 = (base + places[image, k]) * units
                        r1 = (base + places[image, k + 1]) * units
                        r2 = (base + places[image, k + 2]) * units
                        r3 = (base + places[image, k + 3]) * units
                        for j in range(0, whole, LANES):
                            add_rows(y, out + j, table, (r0 + j, r1 + j, r2 + j, r3 + j))
                        for j in range(whole, units):
                            y[out + j] += (table[r0 + j] + table[r1 + j]) + (
                                table[r2 + j] + table[r3 + j]
                            )
                    for k in range(fours, end):
                        row = (base + places[image, k]) * units
                        for j in range(0, whole, LANES):
                            add_rows(y, out + j, table, (row + j,))
                        for j in range(whole, units):
                            y[out + j] += table[row + j]


@jit
def scatter_kernel(
    places: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int32],
    channels: int,
    grad: Array,
    shape: tuple[int, ...],
    table: Array,
    kernel: KernelShape,
    first: int,
    last: int,
) -> None:
    """A part is LANES columns of one line of the kernel."""
    images, height, width, units = shape
    groups = -(-units // LANES)
    reach = kernel.width * channels
    # Threads share the table, not the images: so no two of them add to the same row.
    lines = range(first // groups, -(-last // groups))
    for image in range(images):
        for a in range(height):
            for b in range(width):
                given = ((image * height + a) * width + b) * units
                left = b * kernel.stride_x
                for line in lines:
                    begin = max(first - line * groups, 0) * LANES
                    end = min((last - line * groups) * LANES, units)
                    whole = end - (end - begin) % LANES
                    at = a * kernel.stride_y + line
                    base = line * reach - left * channels
                    for k in range(starts[image, at, left], starts[image, at, left + kernel.width]):
                        row = (base + places[image, k]) * units
                        for j in range(begin, whole, LANES):
                            add_rows(table, row + j, grad, (given + j,))
                        for j in range(whole, end):
                            table[row + j] += grad[given + j]


def _addition(context: Any, out: Any, at: Any, rows: Any, begins: Any) -> Any:
    """out[at : at + LANES] += the sum of rows[begin : begin + LANES] over one begin or four.

    The arrays share no memory. A loop would look at each call whether they do, which takes longer
    than the sum.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), LANES).as_pointer()

        def pointer(array: int, begin: Any) -> Any:
            data = context.make_array(signature.args[array])(context, builder, values[array]).data
            return builder.bitcast(builder.gep(data, [begin]), vector)

        offsets = [builder.extract_value(values[3], i) for i in range(len(begins))]
        terms = [builder.load(pointer(2, each), align=4) for each in offsets]
        while len(terms) > 1:
            terms = [builder.fadd(*pair) for pair in zip(terms[::2], terms[1::2], strict=True)]
        target = pointer(0, values[1])
        total = builder.fadd(builder.load(target, align=4), terms[0])
        builder.store(total, target, align=4)
        return context.get_dummy_value()

    return types.void(out, at, rows, begins), code


add_rows: Any = intrinsic(_addition)
