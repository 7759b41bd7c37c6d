"""Forward and backward pass of a whole small network, compiled for the CPU.

A network is a map of the observation, a layer, further fully connected layers, and a bias-free
readout of their mean activity. All parameters lie in one flat array, maps as tables with one row of
weights per input. A sample is worked off from the observation to the values; what the backward pass
needs is kept by sample. Nothing is approximated, but sums have their own order.

Two facts save work. Inputs and spikes are mostly zero: a row is added for each that is not. And
under a constant current a neuron with hard reset fires periodically: its first spike's step k says
all, it fires at step t if and only if k divides t. So the first layer's units are sorted into
classes by k, rows are summed once per class, and the current of step t is the sum of the classes
that divide t. Neurons that are not periodic are in class t for each spike at t, which only step t
takes; activity without time is in class 1, with its size as factor.

Kernels are given four flat arrays and a table of places in them, because each argument costs time
at every call. They allocate nothing.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.np.unsafe.ndarray import to_fixed_tuple

from sdqn_lab.engines.vectors import (
    LANES,
    WIDE,
    add_row,
    copy_row,
    first_spikes,
    product,
    sum_rows,
    sum_wide_rows,
    transpose,
)
from sdqn_lab.spiking.kernels.cpu import (
    LayerConstants,
    charge,
    norm_backward,
    normal_current,
    normal_moments,
    reset,
    step_backward,
    surrogate_slope,
)
from sdqn_lab.spiking.kernels.jit import bare_jit, inline_jit

Array = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int32]
Table = npt.NDArray[np.int64]


class Whole(NamedTuple):
    """What belongs to no layer. The first map is a square convolution of stride 1, or 1x1.

    Attributes:
        channels: of the observation; F of a vector.
        height: of the observation, in pixels.
        width: of the observation, in pixels.
        kernel: pixels a side.
        filters: output channels of the first map; units of a fully connected one.
        spiking: 1 if neurons fire, 0 if they are ReLU, without time.
        head: parameters: where the readout's weights (A, units) begin.
        activity: reals: (B, units) of the last layer, mean over time.
        scratch: reals: four rows of `widest`.
        sums: reals: (T + 1, widest).
        charged: reals: (T, widest).
        packed: reals: (LANES, widest).
        widest: units of the widest layer.
        found: integers: a row of `widest`, or of as many as there are inputs.
        padded: reals: (height + kernel - 1, width + kernel - 1, filters) currents of the first map.
        places: integers: where the current under a kernel's last corner lies in it, by input.
        rows: integers: where the row of weights of a kernel's first place begins, by input.
        length: M, which is T B rounded up to whole pairs of vectors; rows of the backward pass are t B + b.
    """

    channels: int
    height: int
    width: int
    kernel: int
    filters: int
    spiking: int
    head: int
    activity: int
    scratch: int
    sums: int
    charged: int
    packed: int
    widest: int
    found: int
    padded: int
    places: int
    rows: int
    length: int


class Part(NamedTuple):
    """A layer: where its parameters, its room in reals and its room in integers begin.

    Attributes:
        units: of the layer, by pixels and then channels.
        entries: 1 if its current is constant, else T.
        room: how many active units are listed for a sample, at most.
        weight: parameters: a row of `units` (first map: `filters`) weights per input.
        bias: parameters: of the map.
        norm: parameters: weight, then bias, of the norm.
        currents: reals: (B, entries, units) before the norm.
        moments: reals: (B, entries, 2) of the norm, mean and 1 / deviation.
        factors: reals: (B, room) activity of the active units.
        begins: integers: (B, room) where their rows begin in the next map's table.
        classes: integers: (B, T + 2) where class k begins, at k; it ends where k + 1 begins.
        rows: integers: (units) where the row of each unit begins in the next map's table.
        of_currents: reals: (M, units) gradients of the currents.
        columns: reals: (units, M) the same transposed.
        of_spikes: reals: (M, units) gradients of the activity.
        surrogate: as `LayerConstants`, from here on.
        leaky: 0 or 1.
        hard: 0 or 1.
        detach_reset: 0 or 1.
        normalize: 0 or 1.
        periodic: 1 if its neurons fire periodically under a constant current.
    """

    units: int
    entries: int
    room: int
    weight: int
    bias: int
    norm: int
    currents: int
    moments: int
    factors: int
    begins: int
    classes: int
    rows: int
    of_currents: int
    columns: int
    of_spikes: int
    surrogate: int
    leaky: int
    hard: int
    detach_reset: int
    normalize: int
    periodic: int


class Engine(NamedTuple):
    """The arguments that stay the same from call to call.

    Attributes:
        parameters: flat.
        constants: (1 + L, 6): the observation's scale, then the first six of `LayerConstants`.
        table: (1 + L, 21): `Whole`, then the `Part` of each layer.
        reals: room.
        integers: room.
    """

    parameters: Array
    constants: Array
    table: Table
    reals: Array
    integers: Integers


@inline_jit
def _whole(table: Table) -> Whole:
    return Whole(*to_fixed_tuple(table[0], 18))


@inline_jit
def _part(table: Table, index: int) -> Part:
    return Part(*to_fixed_tuple(table[1 + index], 21))


@inline_jit
def _layer(part: Part, constants: Array, index: int) -> LayerConstants:
    c = constants[1 + index]
    flags = (part.leaky != 0, part.hard != 0, part.detach_reset != 0, part.normalize != 0)
    return LayerConstants(c[0], c[1], c[2], c[3], c[4], c[5], part.surrogate, *flags)


@bare_jit
def forward(
    engine: Engine, observations: npt.NDArray[Any], steps: int, keep: bool, out: Array
) -> None:
    """Write values (N, A) of observations (N, inputs); `keep` what the backward pass needs."""
    whole, top = _whole(engine.table), len(engine.table) - 2
    for n in range(len(observations)):
        b = n if keep else 0
        _map_observation(engine, whole, observations[n], b)
        for index in range(top + 1):
            if index > 0:
                _map_events(engine, whole, index, steps, b)
            _activity(engine, whole, index, index == top, steps, b)
        _read_out(engine, whole, _part(engine.table, top).units, b, out[n])


@inline_jit
def _map_observation(engine: Engine, whole: Whole, x: npt.NDArray[Any], b: int) -> None:
    part, reals, filters = _part(engine.table, 0), engine.reals, whole.filters
    side = whole.kernel - 1
    row = (whole.width - side) * filters
    # Beyond the border lie sums that nobody reads.
    for place in range(0, (whole.height + side) * (whole.width + side) * filters, filters):
        for j in range(0, filters, LANES):
            copy_row(reals, whole.padded + place + j, engine.parameters, part.bias + j)
    _spread(engine, whole, x, engine.parameters, True)
    for y in range(whole.height - side):
        inner = whole.padded + ((y + side) * (whole.width + side) + side) * filters
        at = part.currents + b * part.units + y * row
        for j in range(0, row, LANES):
            copy_row(reals, at + j, reals, inner + j)


@inline_jit
def _spread(
    engine: Engine, whole: Whole, x: npt.NDArray[Any], weights: Array, forth: bool
) -> None:
    """For each input that is not zero and each place of the kernel over it: add the row of weights
    to the current, or back the current's gradient to the row.

    The currents are padded, so that every input has as many places.
    """
    filters, size, found = whole.filters, whole.kernel, engine.integers[whole.found :]
    line = (whole.width + size - 1) * filters
    n = np.uint64(0)
    for i in range(len(x)):
        # Written always, kept only for an active input: a branch would be mispredicted.
        found[n] = i
        n += np.uint64(x[i] != 0)
    for each in range(n):
        i = found[each]
        factor = weights.dtype.type(x[i]) / engine.constants[0, 0]
        place, row = engine.integers[whole.places + i], engine.integers[whole.rows + i]
        for a in range(size):
            for c in range(size):
                at, begin = whole.padded + place - a * line - c * filters, row
                for j in range(0, filters, LANES):
                    if forth:
                        add_row(engine.reals, at + j, weights, begin + j, factor)
                    else:
                        add_row(weights, begin + j, engine.reals, at + j, factor)
                row += whole.channels * filters


@inline_jit
def _map_events(engine: Engine, whole: Whole, index: int, steps: int, b: int) -> None:
    """Currents of a fully connected map, from the active units below."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    flat, reals, units = engine.parameters, engine.reals, part.units
    begins = engine.integers[below.begins + b * below.room :][: below.room]
    factors = reals[below.factors + b * below.room :][: below.room]
    classes = engine.integers[below.classes + b * (steps + 2) :][: steps + 2]
    wide = units - units % (WIDE * LANES)
    for k in range(1, steps + 1):
        first, last, at = classes[k], classes[k + 1], whole.sums + k * whole.widest
        if last > first:
            for j in range(0, wide, WIDE * LANES):
                sum_wide_rows(reals, at + j, flat, j, begins, factors, first, last)
            for j in range(wide, units, LANES):
                sum_rows(reals, at + j, flat, j, begins, factors, first, last)
    bias, periodic = flat[part.bias :][:units], _is_periodic(engine, whole, index - 1)
    for t in range(steps):
        current = reals[part.currents + (b * steps + t) * units :][:units]
        for j in range(units):
            current[j] = bias[j]
    for k in range(1, steps + 1):
        if classes[k + 1] > classes[k]:
            total = reals[whole.sums + k * whole.widest :][:units]
            for t in range(k - 1, steps, k if periodic else steps):
                current = reals[part.currents + (b * steps + t) * units :][:units]
                for j in range(units):
                    current[j] += total[j]


@inline_jit
def _is_periodic(engine: Engine, whole: Whole, index: int) -> bool:
    return index == 0 and _part(engine.table, 0).periodic != 0


@inline_jit
def _activity(engine: Engine, whole: Whole, index: int, last: bool, steps: int, b: int) -> None:
    """Norm and neurons of a layer: the list of active units, or the last layer's mean activity."""
    part, reals, integers = _part(engine.table, index), engine.reals, engine.integers
    layer, units = _layer(part, engine.constants, index), part.units
    affine = units if layer.normalize else 0
    weight = engine.parameters[part.norm :][:affine]
    bias = engine.parameters[part.norm + affine :][:affine]
    z, v = reals[whole.scratch :][:units], reals[whole.scratch + whole.widest :][:units]
    h = reals[whole.scratch + 2 * whole.widest :][:units]
    total = reals[whole.activity + b * units :][:units]
    rows = integers[part.rows :][:units]
    begins = integers[part.begins + b * part.room :][: part.room]
    factors = reals[part.factors + b * part.room :][: part.room]
    classes = integers[part.classes + b * (steps + 2) :][: steps + 2]
    for i in range(units):
        v[i] = layer.v_reset
        if last:
            total[i] = 0
    count = 0
    classes[1] = 0
    for t in range(steps):
        if t < part.entries:
            current = reals[part.currents + (b * part.entries + t) * units :][:units]
            moments = reals[part.moments + (b * part.entries + t) * 2 :][:2]
            if layer.normalize:
                normal_moments(current, moments, layer)
            normal_current(current, moments, weight, bias, z, layer)
        if whole.spiking == 0:
            _rectify(z, total, last, rows, begins, factors, classes)
        elif last:
            charge(z, v, h, layer)
            for i in range(units):
                total[i] += z.dtype.type(1) if h[i] - layer.v_threshold > 0 else z.dtype.type(0)
            reset(h, v, layer)
        elif _is_periodic(engine, whole, index):
            leak = z.dtype.type(1) if layer.leaky else z.dtype.type(0)
            for i in range(0, units, LANES):
                constants = layer.v_reset, layer.slope_x, leak, layer.v_threshold
                first_spikes(h, i, z, i, *constants, steps)
            found = integers[whole.found :][:units]
            _sort(h, steps, found, rows, begins, classes)
            return
        else:
            charge(z, v, h, layer)
            count = _list(h, layer, rows, begins, count)
            classes[t + 2] = count
            reset(h, v, layer)
    if last:
        for i in range(units):
            total[i] /= z.dtype.type(steps)


@inline_jit
def _sort(
    first: Array,
    steps: int,
    found: Integers,
    rows: Integers,
    begins: Integers,
    classes: Integers,
) -> None:
    """List the units that fire by the class of their first spike."""
    n, last = np.uint64(0), first.dtype.type(steps)
    for i in range(len(first)):
        # Written always, kept only for a spike: a branch would be mispredicted.
        found[n] = i
        n += np.uint64(first[i] <= last)
    for k in range(steps + 2):
        classes[k] = 0
    for i in range(n):
        classes[np.uint64(first[found[i]]) + np.uint64(1)] += 1
    total = 0
    for k in range(1, steps + 1):
        count = classes[k + 1]
        classes[k + 1] = total
        total += count
    # Where class k begins stands at k + 1 and moves to its end.
    for i in range(n):
        k = np.uint64(first[found[i]]) + np.uint64(1)
        begins[classes[k]] = rows[found[i]]
        classes[k] += 1


@inline_jit
def _list(h: Array, layer: LayerConstants, rows: Integers, begins: Integers, count: int) -> int:
    """Add the units that fire in this step; returns how many there are by now."""
    n = np.uint64(count)
    for i in range(len(h)):
        begins[n] = rows[i]
        n += np.uint64(h[i] - layer.v_threshold > 0)
    return np.int64(n)


@inline_jit
def _rectify(
    z: Array,
    total: Array,
    last: bool,
    rows: Integers,
    begins: Integers,
    factors: Array,
    classes: Integers,
) -> None:
    """ReLU: the activity of the last layer, or the list of active units."""
    # Not max(0, x): NaN must stay NaN.
    n = np.uint64(0)
    for i in range(len(z)):
        size = z.dtype.type(0) if z[i] < 0 else z[i]
        if last:
            total[i] = size
        else:
            begins[n] = rows[i]
            factors[n] = size
            n += np.uint64(size != 0)
    classes[2] = n


@inline_jit
def _read_out(engine: Engine, whole: Whole, units: int, b: int, out: Array) -> None:
    activity = engine.reals[whole.activity + b * units :][:units]
    for a in range(len(out)):
        weights = engine.parameters[whole.head + a * units :][:units]
        total = activity.dtype.type(0)
        for i in range(units):
            total += weights[i] * activity[i]
        out[a] = total


@bare_jit
def backward(
    engine: Engine,
    observations: npt.NDArray[Any],
    steps: int,
    of_values: Array,
    gradient: Array,
) -> None:
    """Add to the flat gradient, from that of the values (B, A) that `forward` kept."""
    whole, top = _whole(engine.table), len(engine.table) - 2
    _read_out_backward(engine, whole, top, of_values, steps, gradient)
    for back in range(top + 1):
        index = top - back
        for b in range(len(observations)):
            _activity_backward(
                engine, whole, index, index == top, steps, len(observations), b, gradient
            )
            if index > 0:
                _map_events_backward(engine, whole, index, steps, len(observations), b, gradient)
            else:
                _map_observation_backward(engine, whole, observations[b], b, gradient)
        if index > 0:
            _inputs_backward(engine, whole, index)


@inline_jit
def _read_out_backward(
    engine: Engine, whole: Whole, top: int, of_values: Array, steps: int, gradient: Array
) -> None:
    """Gradients of the readout's weights, and of the last layer's activity at any one step."""
    part = _part(engine.table, top)
    units, one = part.units, gradient.dtype.type(1)
    for b in range(len(of_values)):
        activity = engine.reals[whole.activity + b * units :][:units]
        of_spikes = engine.reals[part.of_spikes + b * units :][:units]
        for i in range(units):
            of_spikes[i] = 0
        for a in range(of_values.shape[1]):
            error = of_values[b, a]
            # Zeros are left out: a loss may look at one action of many.
            if error != 0:
                weights = engine.parameters[whole.head + a * units :][:units]
                of_weights = gradient[whole.head + a * units :][:units]
                share = error * (one / steps)
                for i in range(units):
                    of_weights[i] += error * activity[i]
                    of_spikes[i] += share * weights[i]


@inline_jit
def _activity_backward(
    engine: Engine,
    whole: Whole,
    index: int,
    last: bool,
    steps: int,
    batch: int,
    b: int,
    gradient: Array,
) -> None:
    """Back through the neurons and the norm of a layer, for a sample."""
    part, reals = _part(engine.table, index), engine.reals
    layer, units, widest = _layer(part, engine.constants, index), part.units, whole.widest
    affine = units if layer.normalize else 0
    weight = engine.parameters[part.norm :][:affine]
    bias = engine.parameters[part.norm + affine :][:affine]
    of_weight = gradient[part.norm :][:affine]
    of_bias = gradient[part.norm + affine :][:affine]
    z, v = reals[whole.scratch :][:units], reals[whole.scratch + widest :][:units]
    slope = reals[whole.scratch + 3 * widest :][:units]
    for i in range(units):
        v[i] = layer.v_reset
    for t in range(steps):
        h = reals[whole.charged + t * widest :][:units]
        if t < part.entries:
            current = reals[part.currents + (b * part.entries + t) * units :][:units]
            moments = reals[part.moments + (b * part.entries + t) * 2 :][:2]
            normal_current(current, moments, weight, bias, z, layer)
        if whole.spiking != 0:
            charge(z, v, h, layer)
            reset(h, v, layer)
        else:
            for i in range(units):
                h[i] = z[i]
    # From here on v and z hold the gradients of membrane and current.
    for i in range(units):
        v[i] = 0
        z[i] = 0
    for t in range(steps - 1, -1, -1):
        h = reals[whole.charged + t * widest :][:units]
        row = t * batch + b
        of_spikes = reals[part.of_spikes + (b if last else row) * units :][:units]
        # A constant current has one entry, which collects the gradient of all steps.
        if t < part.entries - 1:
            for i in range(units):
                z[i] = 0
        if whole.spiking != 0:
            surrogate_slope(h, slope, layer)
            step_backward(of_spikes, h, slope, v, z, layer)
        else:
            for i in range(units):
                z[i] = of_spikes[i] if h[i] > 0 else z.dtype.type(0)
        if t < part.entries:
            current = reals[part.currents + (b * part.entries + t) * units :][:units]
            moments = reals[part.moments + (b * part.entries + t) * 2 :][:2]
            of_current = reals[part.of_currents + row * units :][:units]
            norm_backward(z, current, moments, weight, of_current, of_weight, of_bias, layer)


@inline_jit
def _map_observation_backward(
    engine: Engine, whole: Whole, x: npt.NDArray[Any], b: int, gradient: Array
) -> None:
    part, reals, filters = _part(engine.table, 0), engine.reals, whole.filters
    side = whole.kernel - 1
    row = (whole.width - side) * filters
    padded = reals[whole.padded :][: (whole.height + side) * (whole.width + side) * filters]
    for i in range(len(padded)):
        padded[i] = 0
    for y in range(whole.height - side):
        inner = whole.padded + ((y + side) * (whole.width + side) + side) * filters
        at = part.of_currents + b * part.units + y * row
        for j in range(0, row, LANES):
            copy_row(reals, inner + j, reals, at + j)
    one = gradient.dtype.type(1)
    for place in range(0, part.units, filters):
        at = part.of_currents + b * part.units + place
        for j in range(0, filters, LANES):
            add_row(gradient, part.bias + j, reals, at + j, one)
    _spread(engine, whole, x, gradient, False)


@inline_jit
def _map_events_backward(
    engine: Engine, whole: Whole, index: int, steps: int, batch: int, b: int, gradient: Array
) -> None:
    """Add the gradients of a fully connected map's weights and bias, for a sample."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    reals, units = engine.reals, part.units
    begins = engine.integers[below.begins + b * below.room :][: below.room]
    factors = reals[below.factors + b * below.room :][: below.room]
    classes = engine.integers[below.classes + b * (steps + 2) :][: steps + 2]
    of_bias, periodic = gradient[part.bias :][:units], _is_periodic(engine, whole, index - 1)
    for t in range(steps):
        of_current = reals[part.of_currents + (t * batch + b) * units :][:units]
        for j in range(units):
            of_bias[j] += of_current[j]
    for k in range(1, steps + 1):
        of_class = reals[whole.sums :][:units]
        for j in range(units):
            of_class[j] = 0
        for t in range(k - 1, steps, k if periodic else steps):
            of_current = reals[part.of_currents + (t * batch + b) * units :][:units]
            for j in range(units):
                of_class[j] += of_current[j]
        for n in range(classes[k], classes[k + 1]):
            for j in range(0, units, LANES):
                add_row(gradient, begins[n] + j, reals, whole.sums + j, factors[n])


@inline_jit
def _inputs_backward(engine: Engine, whole: Whole, index: int) -> None:
    """The gradient of the activity below a fully connected map: the one dense product."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    reals, units, inputs, length = engine.reals, part.units, below.units, whole.length
    for m in range(0, length, LANES):
        for j in range(0, units, LANES):
            at, row = part.columns + j * length + m, part.of_currents + m * units + j
            transpose(reals, at, length, reals, row, units)
    # Packed, because rows that lie a power of two apart would push each other out of the cache.
    for i in range(0, inputs, LANES):
        for r in range(LANES):
            row = engine.parameters[engine.integers[below.rows + i + r] :][:units]
            packed = reals[whole.packed + r * units :][:units]
            for j in range(units):
                packed[j] = row[j]
        for m in range(0, length, 2 * LANES):
            out, columns = below.of_spikes + m * inputs + i, part.columns + m
            product(reals, out, inputs, reals, whole.packed, units, reals, columns, length)
