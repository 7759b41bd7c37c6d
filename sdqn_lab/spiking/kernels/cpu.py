"""Normalization and neuron of a layer over all T steps, compiled for the CPU.

A sample's membranes, one row of F numbers, stay in the cache while its T steps are worked off. What
the way back needs are the currents and two statistics a row; it works the membranes out anew, which
costs less than to store and read them. Arrays are float32 and rows lie in memory as they come: the
kernels do not care what their order stands for.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sdqn_lab.spiking.kernels.layer import Layer
from sdqn_lab.spiking.kernels.machine_code import compiled, inlined, run, share
from sdqn_lab.spiking.surrogate import (
    Atan,
    FastSigmoid,
    Gate,
    QuadraticGate,
    Sigmoid,
    Triangle,
)

Array = npt.NDArray[np.float32]

CHUNKS = 16
"""Parts of a batch, whatever the threads: sums over it do not depend on how many there are."""
GRAIN = 1 << 19
"""Units times steps of a thread; with less to do a second one costs more than it saves."""
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
HALF_PI = np.float32(np.pi / 2)
# Literals, not the layer's: see machine_code on what stays on disk.
QUADRATIC_GATE, GATE, SIGMOID, ATAN, FAST_SIGMOID, TRIANGLE = 0, 1, 2, 3, 4, 5
CODES = {
    QuadraticGate: QUADRATIC_GATE,
    Gate: GATE,
    Sigmoid: SIGMOID,
    Atan: ATAN,
    FastSigmoid: FAST_SIGMOID,
    Triangle: TRIANGLE,
}


class _Numbers(NamedTuple):
    """A layer's constants as the kernels take them."""

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


def forward(
    x: Array, weight: Array, bias: Array, spikes: Array, layer: Layer, threads: int
) -> Array:
    """Write the spikes of a layer.

    Args:
        x: currents (T, B, F), or (1, B, F) if constant.
        weight: (F,), of the normalization; empty without one.
        bias: (F,), likewise.
        spikes: room for them, (T, B, F).
        layer: its constants.
        threads: to share the batch out among.

    Returns:
        The statistics (T or 1, B, 2) of the rows: mean, 1 / deviation.
    """
    statistics = np.empty((*x.shape[:2], 2), np.float32)
    numbers = _numbers(layer)
    words = (x, weight, bias, spikes, statistics, numbers)
    share(partial(run, _forward, *words), min(CHUNKS, x.shape[1]), _useful(threads, spikes))
    return statistics


def backward(
    grad: Array,
    x: Array,
    weight: Array,
    bias: Array,
    statistics: Array,
    grad_x: Array,
    layer: Layer,
    threads: int,
) -> tuple[Array, Array]:
    """Write the gradient of the currents, from that of the spikes.

    Args:
        grad: (T, B, F).
        x: as in `forward`, as the rest.
        weight: as there.
        bias: as there.
        statistics: what `forward` gave.
        grad_x: room for the gradient, of the shape of x.
        layer: as there.
        threads: as there.

    Returns:
        The gradients of weight and bias.
    """
    chunks = min(CHUNKS, x.shape[1])
    grad_affine = np.zeros((chunks, 2, len(weight)), np.float32)
    numbers = _numbers(layer)
    words = (grad, x, weight, bias, statistics, grad_x, grad_affine, numbers)
    share(partial(run, _backward, *words), chunks, _useful(threads, grad))
    grad_weight, grad_bias = grad_affine.sum(0)
    return grad_weight, grad_bias


@lru_cache(256)
def _numbers(layer: Layer) -> _Numbers:
    *reals, surrogate, hard, detach_reset, normalize = layer
    flags = (layer.leaky, hard, detach_reset, normalize)
    return _Numbers._make([*map(np.float32, reals), CODES[surrogate], *flags])


def _useful(threads: int, steps: Array) -> int:
    """No more threads than have enough to do to be worth waking."""
    return min(threads, 1 + steps.size // GRAIN)


@compiled
def _forward(
    x: Array,
    weight: Array,
    bias: Array,
    spikes: Array,
    statistics: Array,
    layer: _Numbers,
    first: int,
    last: int,
) -> None:
    batch, units = x.shape[1:]
    chunks = min(CHUNKS, batch)
    charged = np.empty(units, np.float32)  # in place, the charge would not be vectorized
    v = np.empty(units, np.float32)
    z = np.empty(units, np.float32)
    for sample in range(batch * first // chunks, batch * last // chunks):
        v[:] = layer.v_reset
        for t in range(len(spikes)):
            if t < len(x):
                _moments(x[t, sample], statistics[t, sample], layer)
                _current(x[t, sample], statistics[t, sample], weight, bias, z, layer)
            _charge(z, v, charged, layer)
            _fire(charged, spikes[t, sample], layer)
            _reset(charged, v, layer)


@inlined
def _moments(x: Array, statistics: Array, layer: _Numbers) -> None:
    """Mean and 1 / sqrt(variance + eps) of a row."""
    if not layer.normalize:
        return
    total = ZERO
    for i in range(len(x)):
        total += x[i]
    mean = total / np.float32(len(x))
    square = ZERO
    for i in range(len(x)):
        square += (x[i] - mean) * (x[i] - mean)
    statistics[0] = mean
    statistics[1] = ONE / np.sqrt(square / np.float32(len(x)) + layer.eps)


@inlined
def _current(
    x: Array, statistics: Array, weight: Array, bias: Array, z: Array, layer: _Numbers
) -> None:
    """What the neurons get: weight (x - mean) / deviation + bias, or x."""
    if not layer.normalize:
        z[:] = x
        return
    mean, scale = statistics[0], statistics[1]
    for i in range(len(x)):
        z[i] = (x[i] - mean) * scale * weight[i] + bias[i]


@inlined
def _charge(z: Array, v: Array, h: Array, layer: _Numbers) -> None:
    if layer.leaky:
        for i in range(len(z)):
            h[i] = v[i] + layer.slope_x * (z[i] - v[i])
        return
    for i in range(len(z)):
        h[i] = layer.slope_v * v[i] + layer.slope_x * z[i]


@inlined
def _fire(h: Array, spikes: Array, layer: _Numbers) -> None:
    for i in range(len(h)):
        spikes[i] = ONE if h[i] - layer.v_threshold > ZERO else ZERO


@compiled
def _backward(
    grad: Array,
    x: Array,
    weight: Array,
    bias: Array,
    statistics: Array,
    grad_x: Array,
    grad_affine: Array,
    layer: _Numbers,
    first: int,
    last: int,
) -> None:
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
                    _current(x[t, sample], statistics[t, sample], weight, bias, z, layer)
                _charge(z, v, charged[t], layer)
                _reset(charged[t], v, layer)
            v[:] = ZERO  # from here on: gradients of the membrane
            z[:] = ZERO  # and of the current
            for t in range(steps - 1, -1, -1):
                if t < len(x) - 1:
                    z[:] = ZERO
                _back(grad[t, sample], charged[t], slope, v, z, layer)
                if t < len(x):
                    _norm_back(
                        z,
                        x[t, sample],
                        statistics[t, sample],
                        weight,
                        grad_x[t, sample],
                        grad_affine[chunk],
                        layer,
                    )


@inlined
def _reset(h: Array, v: Array, layer: _Numbers) -> None:
    for i in range(len(h)):
        reset = layer.v_reset if layer.hard else h[i] - layer.v_threshold
        v[i] = reset if h[i] - layer.v_threshold > ZERO else h[i]


@inlined
def _back(
    grad: Array, h: Array, slope: Array, grad_v: Array, grad_z: Array, layer: _Numbers
) -> None:
    """One step back through reset, spike and charge; ``grad_z`` is added to."""
    _slope(h, slope, layer)
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


@inlined
def _slope(h: Array, slope: Array, layer: _Numbers) -> None:
    """The surrogate's derivative at h - v_threshold."""
    alpha = layer.alpha
    if layer.surrogate == ATAN:
        for i in range(len(h)):
            y = HALF_PI * alpha * (h[i] - layer.v_threshold)
            slope[i] = HALF * alpha / (ONE + y * y)
    elif layer.surrogate == SIGMOID:
        for i in range(len(h)):
            s = ONE / (ONE + np.exp(-alpha * (h[i] - layer.v_threshold)))
            slope[i] = alpha * s * (ONE - s)
    elif layer.surrogate == QUADRATIC_GATE:
        for i in range(len(h)):
            y = alpha - alpha * alpha * abs(h[i] - layer.v_threshold)
            slope[i] = ZERO if y < ZERO else y  # what is no number stays so
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


@inlined
def _norm_back(
    grad_z: Array,
    x: Array,
    statistics: Array,
    weight: Array,
    grad_x: Array,
    grad_affine: Array,
    layer: _Numbers,
) -> None:
    """Back through the normalization of a row."""
    if not layer.normalize:
        grad_x[:] = grad_z
        return
    mean, scale = statistics[0], statistics[1]
    grad_weight, grad_bias = grad_affine[0], grad_affine[1]
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
