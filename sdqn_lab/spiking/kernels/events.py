"""Convolutions of spikes without the zeros: where an input fires, rows of weights are added.

Where one input in ten fires, a tenth of a product's additions are left. Images lie channels last,
(N, H, W, C), without padding; a fully connected layer is a convolution whose kernel covers the
image. The rows of its weights are a table (KH KW C, O): what a unit at (y, x, c) adds to the output
at (a, b) is the row of (y - a SH, x - b SW, c).

Every output is summed in an order that depends on its own inputs alone, whatever the threads.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sdqn_lab.spiking.kernels.machine_code import compiled, run, share

Array = npt.NDArray[np.float32]

SPARSE = 5
"""One in so many inputs may fire; where more do, the dense product is quicker."""
CROWDED = 2
"""The same for each image on its own: room is made for so many."""
CHUNKS = 64
"""Parts that threads share, at most."""
LANES = 32
"""Floats that are added at once."""
LARGEST_ROW = 1 << 16
"""Inputs W C in a row of an image must be fewer: their places are kept in 16 bits."""
ONE_BITS = np.uint32(0x3F800000)
"""1.0 in float32."""
NONE, NEXT = np.uint32(0), np.uint32(1)


class Events(NamedTuple):
    """Where units fire.

    Attributes:
        places: (N, room), x C + c of each spike, by rows and columns of the image.
        starts: (N, H, W + 1), the place's index at which the pixel begins, and where its row ends.
        channels: C.
    """

    places: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int32]
    channels: int


class Window(NamedTuple):
    """Kernel and stride of a convolution, in pixels."""

    height: int
    width: int
    stride_y: int
    stride_x: int


def find(x: Array, threads: int) -> Events | None:
    """The spikes of images (N, H, W, C), contiguous.

    Returns:
        None if an entry is neither 0 nor 1, too many are 1, or a row is too long.
    """
    images, height, width, channels = x.shape
    if width * channels >= LARGEST_ROW:
        return None
    room = height * width * channels // CROWDED + width * channels
    places = np.empty((images, room), np.uint16)
    starts = np.empty((images, height, width + 1), np.int32)
    words = (x.view(np.uint32).reshape(images, height, -1), channels, places, starts)
    share(partial(run, _find, *words), min(CHUNKS, images), threads)
    if starts[:, 0, 0].any() or SPARSE * int(starts[:, -1, -1].sum()) > x.size:
        return None
    return Events(places, starts, channels)


def gather(
    events: Events, table: Array, bias: Array, y: Array, window: Window, threads: int
) -> None:
    """Write the convolution of spikes.

    Args:
        events: of the images.
        table: (KH KW C, O), the weights.
        bias: (O,).
        y: room for the outputs, (N, OH, OW, O).
        window: of the convolution.
        threads: to share the images out among.
    """
    words = (*events, table.reshape(-1), bias, y.reshape(-1), y.shape, window)
    share(partial(run, _gather, *words), min(CHUNKS, len(y)), threads)


def scatter(events: Events, grad: Array, window: Window, threads: int) -> Array:
    """The gradient of the table, from that of the outputs.

    Args:
        events: of the images.
        grad: (N, OH, OW, O).
        window: of the convolution.
        threads: to share the table out among.
    """
    units = grad.shape[-1]
    rows = window.height * window.width * events.channels
    table = np.zeros((rows, units), np.float32)
    words = (*events, grad.reshape(-1), grad.shape, table.reshape(-1), window)
    share(partial(run, _scatter, *words), window.height * -(-units // LANES), threads)
    return table


@compiled
def _find(
    bits: npt.NDArray[np.uint32],
    channels: int,
    places: npt.NDArray[np.uint16],
    starts: npt.NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    """Places and starts; the very first start of an image that is refused is -1."""
    images, height, length = bits.shape
    chunks = min(CHUNKS, images)
    for image in range(images * first // chunks, images * last // chunks):
        count = 0
        for y in range(height):
            row = bits[image, y]
            ones = 0
            for i in range(length):
                ones += row[i] == ONE_BITS
            if count + ones + length > places.shape[1]:
                starts[image, 0, 0] = -1
                return
            starts[image, y, 0] = count
            at = NONE  # without a sign, which an index would be looked at for
            for x in range(length // channels):
                for _ in range(channels):
                    places[image, count] = at  # no branch, which would be guessed wrong
                    count += row[at] != 0
                    at += NEXT
                starts[image, y, x + 1] = count
            if count - starts[image, y, 0] != ones:
                starts[image, 0, 0] = -1
                return


@compiled
def _gather(
    places: npt.NDArray[np.uint16],
    starts: npt.NDArray[np.int32],
    channels: int,
    table: Array,
    bias: Array,
    y: Array,
    shape: tuple[int, int, int, int],
    window: Window,
    first: int,
    last: int,
) -> None:
    images, height, width, units = shape
    chunks = min(CHUNKS, images)
    reach = window.width * channels
    whole = units // LANES * LANES
    for image in range(images * first // chunks, images * last // chunks):
        for a in range(height):
            for b in range(width):
                out = ((image * height + a) * width + b) * units
                y[out : out + units] = bias
                left = b * window.stride_x
                for line in range(window.height):
                    begin = starts[image, a * window.stride_y + line, left]
                    end = starts[image, a * window.stride_y + line, left + window.width]
                    base = line * reach - left * channels
                    fours = end - (end - begin) % 4
                    for k in range(begin, fours, 4):
                        r0 = (base + places[image, k]) * units
                        r1 = (base + places[image, k + 1]) * units
                        r2 = (base + places[image, k + 2]) * units
                        r3 = (base + places[image, k + 3]) * units
                        for j in range(0, whole, LANES):
                            _add(y, out + j, table, (r0 + j, r1 + j, r2 + j, r3 + j))
                        for j in range(whole, units):
                            y[out + j] += (table[r0 + j] + table[r1 + j]) + (
                                table[r2 + j] + table[r3 + j]
                            )
                    for k in range(fours, end):
                        row = (base + places[image, k]) * units
                        for j in range(0, whole, LANES):
                            _add(y, out + j, table, (row + j,))
                        for j in range(whole, units):
                            y[out + j] += table[row + j]


@compiled
def _scatter(
    places: npt.NDArray[np.uint16],
    starts: npt.NDArray[np.int32],
    channels: int,
    grad: Array,
    shape: tuple[int, int, int, int],
    table: Array,
    window: Window,
    first: int,
    last: int,
) -> None:
    """A part is LANES columns of one line of the window."""
    images, height, width, units = shape
    groups = -(-units // LANES)
    reach = window.width * channels
    lines = range(first // groups, -(-last // groups))
    for image in range(images):
        for a in range(height):
            for b in range(width):
                given = ((image * height + a) * width + b) * units
                left = b * window.stride_x
                for line in lines:
                    begin = max(first - line * groups, 0) * LANES
                    end = min((last - line * groups) * LANES, units)
                    whole = end - (end - begin) % LANES
                    at = a * window.stride_y + line
                    base = line * reach - left * channels
                    for k in range(starts[image, at, left], starts[image, at, left + window.width]):
                        row = (base + places[image, k]) * units
                        for j in range(begin, whole, LANES):
                            _add(table, row + j, grad, (given + j,))
                        for j in range(whole, end):
                            table[row + j] += grad[given + j]


def _addition(context: Any, out: Any, at: Any, rows: Any, begins: Any) -> Any:
    """out[at : at + LANES] += the sum of rows[begin : begin + LANES] over one begin or four.

    The arrays share no memory. A loop would look at each call whether they do, which takes longer
    than the sum.
    """

    def code(context: Any, builder: Any, signature: Any, words: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), LANES).as_pointer()

        def pointer(array: int, begin: Any) -> Any:
            data = context.make_array(signature.args[array])(context, builder, words[array]).data
            return builder.bitcast(builder.gep(data, [begin]), vector)

        offsets = [builder.extract_value(words[3], i) for i in range(len(begins))]
        terms = [builder.load(pointer(2, each), align=4) for each in offsets]
        while len(terms) > 1:
            terms = [builder.fadd(*pair) for pair in zip(terms[::2], terms[1::2], strict=True)]
        target = pointer(0, words[1])
        total = builder.fadd(builder.load(target, align=4), terms[0])
        builder.store(total, target, align=4)
        return context.get_dummy_value()

    return types.void(out, at, rows, begins), code


_add: Any = intrinsic(_addition)
