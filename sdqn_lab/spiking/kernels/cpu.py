"""Normalization and neuron of a layer over all T steps, compiled for the CPU.

A sample's membranes, one row of F numbers, stay in the cache while its T steps are worked off. The
backward pass needs the currents and two statistics per row; it computes the membranes again, which
costs less than to store and read them. Arrays are float32, (T, B, F), and rows lie in memory as
they come: the kernels do not care what their order stands for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdqn_lab.spiking.kernels.jit import inline_jit, jit, parallel_for
from sdqn_lab.spiking.kernels.rows import Array, Rows

# Parts of a batch, whatever the threads: sums over it do not depend on how many there are.
CHUNKS = 16
# Units times steps per thread; with less to do a second one costs more than it saves.
GRAIN = 1 << 19
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
QUADRATIC_GATE, GATE, SIGMOID, ATAN, FAST_SIGMOID, TRIANGLE = 0, 1, 2, 3, 4, 5
"""The derivatives that the kernels have, by surrogate."""


class LayerConstants(NamedTuple):
    """A neuron with charge slope_x x + slope_v v, and the norm before it, as kernels take them.

    Attributes:
        slope_x: d charge / d x.
        slope_v: d charge / d v.
        v_threshold: firing threshold.
        v_reset: start of the membrane and target of the hard reset.
        alpha: the surrogate's.
        eps: the normalization's.
        surrogate: ATAN or another of the numbers above.
        leaky: whether the slopes add up to 1; the charge is then computed as v + slope_x (x - v),
            which stays at x once it is there.
        hard: hard reset, else soft.
        detach_reset: no gradient through the reset.
        normalize: PopNorm goes before, with weight and bias.
    """

    slope_x: np.float32
    slope_v: np.float32
    v_threshold: np.float32
    v_reset: np.float32
    alpha: np.float32
    eps: np.float32
    surrogate: int
    leaky: bool
    hard: bool
    detach_reset: bool
    normalize: bool


def takes(x_seq: Tensor) -> bool:
    """Whether there is a kernel for these currents that does the normalization too."""
    return x_seq.is_cpu and x_seq.dtype == torch.float32 and x_seq.dim() > 1


class FusedLayer(torch.autograd.Function):
    """Normalization and neuron, or the neuron alone, as one node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        x_seq: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        steps: int,
        layer: LayerConstants,
    ) -> Tensor:
        """Spikes (T, B, ...).

        Args:
            ctx: what `backward` needs.
            x_seq: float32 currents (T, B, ...), or (1, B, ...) if constant; images may lie channels
                last, and so will the spikes.
            weight: of the normalization, shape of one sample; None without one.
            bias: likewise.
            steps: T.
            layer: the constants.
        """
        rows = Rows(x_seq)
        x = rows.array(x_seq)
        spikes = torch.empty(steps, *x.shape[1:], dtype=torch.float32, device="cpu")
        statistics = np.empty((*x.shape[:2], 2), np.float32)  # mean and 1 / deviation per row
        affine = rows.parameter(weight), rows.parameter(bias)
        work = partial(forward_kernel, x, *affine, spikes.numpy(), statistics, layer)
        run_chunks(work, x.shape[1], spikes.numel())
        if any(ctx.needs_input_grad):
            # Through ctx.save_for_backward autograd notices when someone writes into them.
            ctx.save_for_backward(x_seq, weight, bias, torch.from_numpy(statistics))
            ctx.rows, ctx.layer = rows, layer
        return rows.tensor(spikes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of currents, weight and bias."""
        x_seq, weight, bias, statistics = ctx.saved_tensors
        rows: Rows = ctx.rows
        saved = rows.array(x_seq), rows.parameter(weight), rows.parameter(bias), statistics.numpy()
        grad_x, grad_affine = layer_backward(rows.array(grad_outputs[0]), *saved, ctx.layer)
        of_weight, of_bias = rows.gradients(weight, grad_affine)
        return rows.tensor(grad_x), of_weight, of_bias, None, None


def layer_backward(
    grad: Array, x: Array, weight: Array, bias: Array, statistics: Array, layer: LayerConstants
) -> tuple[Tensor, Array]:
    """Gradients of currents x and of (weight, bias), from that of the spikes."""
    grad_x = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    grad_affine = np.zeros((min(CHUNKS, x.shape[1]), 2, len(weight)), np.float32)
    saved = (x, weight, bias, statistics)
    work = partial(backward_kernel, grad, *saved, grad_x.numpy(), grad_affine, layer)
    run_chunks(work, x.shape[1], grad.size)
    return grad_x, grad_affine.sum(0)


def run_chunks(work: Callable[[int, int], None], batch: int, size: int) -> None:
    """Run a kernel on all chunks, by no more threads than have enough to do."""
    chunks, threads = min(CHUNKS, batch), min(torch.get_num_threads(), 1 + size // GRAIN)
    if threads == 1:
        work(0, chunks)
    else:
        parallel_for(work, chunks, threads)


@jit
def forward_kernel(
    x: Array,
    weight: Array,
    bias: Array,
    spikes: Array,
    statistics: Array,
    layer: LayerConstants,
    first: int,
    last: int,
) -> None:
    """Write the spikes of chunks of a batch, and mean and 1 / sqrt(variance + eps) of its rows."""
    batch, units = x.shape[1:]
    chunks = min(CHUNKS, batch)
    # Not in place of v: the charge would not be vectorized.
    charged = np.empty(units, np.float32)
    v = np.empty(units, np.float32)
    z = np.empty(units, np.float32)
    for sample in range(batch * first // chunks, batch * last // chunks):
        v[:] = layer.v_reset
        for t in range(len(spikes)):
            if t < len(x):
                if layer.normalize:
                    normal_moments(x[t, sample], statistics[t, sample], layer)
                normal_current(x[t, sample], statistics[t, sample], weight, bias, z, layer)
            charge(z, v, charged, layer)
            for i in range(units):
                spikes[t, sample, i] = ONE if charged[i] - layer.v_threshold > ZERO else ZERO
            reset(charged, v, layer)


# Two passes: the mean of squares minus the square of the mean would lose digits.
@inline_jit
def normal_moments(x: Array, statistics: Array, layer: LayerConstants) -> None:
    """Mean and 1 / sqrt(variance + eps) of a row."""
    total = ZERO
    for i in range(len(x)):
        total += x[i]
    mean = total / np.float32(len(x))
    square = ZERO
    for i in range(len(x)):
        square += (x[i] - mean) * (x[i] - mean)
    statistics[0] = mean
    statistics[1] = ONE / np.sqrt(square / np.float32(len(x)) + layer.eps)


@inline_jit
def normal_current(
    x: Array, statistics: Array, weight: Array, bias: Array, z: Array, layer: LayerConstants
) -> None:
    """What the neurons get: weight (x - mean) / deviation + bias, or x."""
    if not layer.normalize:
        for i in range(len(x)):
            z[i] = x[i]
        return
    mean, scale = statistics[0], statistics[1]
    for i in range(len(x)):
        z[i] = (x[i] - mean) * scale * weight[i] + bias[i]


@inline_jit
def charged(z: np.float32, v: np.float32, layer: LayerConstants) -> np.float32:
    """A membrane v after one step of current z, before firing."""
    if layer.leaky:
        return v + layer.slope_x * (z - v)
    return layer.slope_v * v + layer.slope_x * z


@inline_jit
def charge(z: Array, v: Array, h: Array, layer: LayerConstants) -> None:
    """Membranes v after one step of currents z, before firing: h."""
    for i in range(len(z)):
        h[i] = charged(z[i], v[i], layer)


@inline_jit
def reset(h: Array, v: Array, layer: LayerConstants) -> None:
    """Membranes h after firing: v."""
    for i in range(len(h)):
        reset = layer.v_reset if layer.hard else h[i] - layer.v_threshold
        v[i] = reset if h[i] - layer.v_threshold > ZERO else h[i]


@jit
def backward_kernel(
    grad: Array,
    x: Array,
    weight: Array,
    bias: Array,
    statistics: Array,
    grad_x: Array,
    grad_affine: Array,
    layer: LayerConstants,
    first: int,
    last: int,
) -> None:
    """Write the gradient of the currents from that of the spikes; add those of weight and bias."""
    steps, batch, units = grad.shape
    chunks = min(CHUNKS, batch)
    charged = np.empty((steps, units), np.float32)
    v = np.empty(units, np.float32)
    z = np.empty(units, np.float32)
    slope = np.empty(units, np.float32)
    for chunk in range(first, last):
        for sample in range(batch * chunk // chunks, batch * (chunk + 1) // chunks):
            v[:] = layer.v_reset
            for t in range(steps):
                if t < len(x):
                    normal_current(x[t, sample], statistics[t, sample], weight, bias, z, layer)
                charge(z, v, charged[t], layer)
                reset(charged[t], v, layer)
            # From here on v and z hold the gradients of membrane and current.
            v[:] = ZERO
            z[:] = ZERO
            for t in range(steps - 1, -1, -1):
                # A constant current has one entry, which collects the gradient of all steps.
                if t < len(x) - 1:
                    z[:] = ZERO
                surrogate_slope(charged[t], slope, layer)
                step_backward(grad[t, sample], charged[t], slope, v, z, layer)
                if t < len(x):
                    row, moments, grad_row = x[t, sample], statistics[t, sample], grad_x[t, sample]
                    affine = grad_affine[chunk, 0], grad_affine[chunk, 1]
                    norm_backward(z, row, moments, weight, grad_row, *affine, layer)


@inline_jit
def surrogate_slope(h: Array, slope: Array, layer: LayerConstants) -> None:
    """The surrogate's derivative at h - v_threshold."""
    alpha = layer.alpha
    if layer.surrogate == ATAN:
        half_pi = h.dtype.type(np.pi / 2)
        for i in range(len(h)):
            y = half_pi * alpha * (h[i] - layer.v_threshold)
            slope[i] = HALF * alpha / (ONE + y * y)
    elif layer.surrogate == SIGMOID:
        for i in range(len(h)):
            s = ONE / (ONE + np.exp(-alpha * (h[i] - layer.v_threshold)))
            slope[i] = alpha * s * (ONE - s)
    elif layer.surrogate == QUADRATIC_GATE:
        # Not max(ZERO, y): NaN must stay NaN.
        for i in range(len(h)):
            y = alpha - alpha * alpha * abs(h[i] - layer.v_threshold)
            slope[i] = ZERO if y < ZERO else y
    elif layer.surrogate == GATE:
        for i in range(len(h)):
            slope[i] = ONE if abs(h[i] - layer.v_threshold) < ONE / alpha else ZERO
    elif layer.surrogate == FAST_SIGMOID:
        for i in range(len(h)):
            y = ONE + alpha * abs(h[i] - layer.v_threshold)
            slope[i] = ONE / (y * y)
    else:
        for i in range(len(h)):
            y = ONE - alpha * abs(h[i] - layer.v_threshold)
            slope[i] = ZERO if y < ZERO else y


@inline_jit
def step_backward(
    grad: Array, h: Array, slope: Array, grad_v: Array, grad_z: Array, layer: LayerConstants
) -> None:
    """One step back through reset, spike and charge; `grad_z` is added to."""
    for i in range(len(h)):
        kept = ONE
        if layer.hard and h[i] - layer.v_threshold > ZERO:
            kept = ZERO
        if not layer.detach_reset:
            drop = layer.v_reset - h[i] if layer.hard else -layer.v_threshold
            kept += drop * slope[i]
        grad_h = grad[i] * slope[i] + grad_v[i] * kept
        grad_z[i] += grad_h * layer.slope_x
        grad_v[i] = grad_h * layer.slope_v


@inline_jit
def norm_backward(
    grad_z: Array,
    x: Array,
    statistics: Array,
    weight: Array,
    grad_x: Array,
    grad_weight: Array,
    grad_bias: Array,
    layer: LayerConstants,
) -> None:
    """Back through the normalization of a row."""
    if not layer.normalize:
        for i in range(len(x)):
            grad_x[i] = grad_z[i]
        return
    mean, scale = statistics[0], statistics[1]
    total, along = ZERO, ZERO
    for i in range(len(x)):
        normal = (x[i] - mean) * scale
        grad_weight[i] += grad_z[i] * normal
        grad_bias[i] += grad_z[i]
        total += grad_z[i] * weight[i]
        along += grad_z[i] * weight[i] * normal
    total /= np.float32(len(x))
    along /= np.float32(len(x))
    for i in range(len(x)):
        normal = (x[i] - mean) * scale
        grad_x[i] = scale * (grad_z[i] * weight[i] - total - normal * along)
