"""Forward and backward pass of a whole small network, compiled for the CPU.

A network is a map of the observation, a layer, further fully connected layers, and a bias-free
readout of their mean activity. All parameters lie in one flat array, maps as tables with one row of
weights per input. What the backward pass needs is kept by sample. Nothing is approximated, but sums
have their own order.

Two facts save work. Inputs and spikes are mostly zero: a row is added for each that is not. And
under a constant current a neuron with hard reset fires periodically: its first spike's step k says
all, it fires at step t if and only if k divides t. So the first layer's units are sorted into
classes by k, rows are summed once per class, and the current of step t is the sum of the classes
that divide t. Neurons that are not periodic are in class t for each spike at t, which only step t
takes. Activity without time (ReLU) is too dense for this: there whole batches are multiplied.

Kernels are given four flat arrays and a table of places in them, because each argument costs time
at every call. They allocate nothing.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.np.unsafe.ndarray import to_fixed_tuple

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
from sdqn_lab.spiking.kernels.vectors import (
    LANES,
    TILE,
    WIDE,
    add_row,
    copy_row,
    find,
    first_spikes,
    product,
    sum_rows,
    sum_wide_rows,
    transpose,
    turned_product,
)

Array = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int32]
Table = npt.NDArray[np.int64]
Inputs = npt.NDArray[Any]


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
        scratch: reals: four rows of `widest`.
        charged: reals: (T, widest).
        widest: units of the widest layer.
        found: integers: as many as there are inputs or units in a layer.
        padded: reals: (height + kernel - 1, width + kernel - 1, filters) currents of the first map.
        places: integers: where the current under a kernel's first place lies in it, by input.
        rows: integers: where the row of weights of a kernel's first place begins, by input.
        taps: integers: (2, kernel kernel) how much further both are for each place.
        of_classes: reals: (B, T, widest) gradients of the sums by class.
        starts: integers: where the entries of each unit begin.
        entries: integers: the sums by class in which a unit takes part, by unit.
        length: M, T B rounded up to whole tiles; rows of the backward pass are t B + b.
    """

    channels: int
    height: int
    width: int
    kernel: int
    filters: int
    spiking: int
    head: int
    scratch: int
    charged: int
    widest: int
    found: int
    padded: int
    places: int
    rows: int
    taps: int
    of_classes: int
    starts: int
    entries: int
    length: int


class Part(NamedTuple):
    """A layer: where its parameters, its room in reals and its room in integers begin.

    Attributes:
        units: of the layer; those of a convolution by channels and then pixels.
        entries: 1 if its current is constant, else T.
        room: how many spikes are listed for a sample, at most.
        weight: parameters: a row of `units` (first map: `filters`) weights per input.
        bias: parameters: of the map.
        norm: parameters: weight, then bias, of the norm.
        currents: reals: (B, entries, units) before the norm.
        moments: reals: (B, entries, 2) of the norm, mean and 1 / deviation.
        activity: reals: (B, units) of a ReLU, or of the last layer, mean over time.
        spikes: integers: (B, room) the units that fire, by class.
        classes: integers: (B, T + 2) where class k begins, at k; it ends where k + 1 begins.
        of_currents: reals: (M, units) gradients of the currents.
        columns: reals: (units, M), something transposed.
        of_activity: reals: (M, units) gradients of the activity.
        surrogate: as `LayerConstants`, from here on.
        leaky: 0 or 1.
        hard: 0 or 1.
        detach_reset: 0 or 1.
        normalize: 0 or 1.
        periodic: 1 if its neurons fire periodically.
    """

    units: int
    entries: int
    room: int
    weight: int
    bias: int
    norm: int
    currents: int
    moments: int
    activity: int
    spikes: int
    classes: int
    of_currents: int
    columns: int
    of_activity: int
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
        table: (1 + L, 20): `Whole`, then the `Part` of each layer.
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
    return Whole(*to_fixed_tuple(table[0], 19))  # type: ignore[call-arg]


@inline_jit
def _part(table: Table, index: int) -> Part:
    return Part(*to_fixed_tuple(table[1 + index], 20))  # type: ignore[call-arg]


@inline_jit
def _layer(part: Part, constants: Array, index: int) -> LayerConstants:
    c = constants[1 + index]
    flags = (part.leaky != 0, part.hard != 0, part.detach_reset != 0, part.normalize != 0)
    return LayerConstants(c[0], c[1], c[2], c[3], c[4], c[5], part.surrogate, *flags)


@bare_jit
def forward(engine: Engine, observations: Inputs, steps: int, keep: bool, out: Array) -> None:
    """Write values (N, A) of observations (N, inputs); `keep` what the backward pass needs."""
    whole, top, batch = _whole(engine.table), len(engine.table) - 2, len(observations)
    if whole.spiking != 0:
        for n in range(batch):
            b = n if keep else 0
            _map_observation(engine, whole, observations[n], b)
            for index in range(top + 1):
                if index > 0:
                    _map_spikes(engine, whole, index, steps, b)
                _fire(engine, whole, index, index == top, steps, b)
            _read_out(engine, whole, top, b, out[n])
        return
    for b in range(batch):
        _map_observation(engine, whole, observations[b], b)
    for index in range(top + 1):
        if index > 0:
            _map_activity(engine, index, batch)
        for b in range(batch):
            _rectify(engine, whole, index, b)
    for b in range(batch):
        _read_out(engine, whole, top, b, out[b])


@inline_jit
def _map_observation(engine: Engine, whole: Whole, x: Inputs, b: int) -> None:
    part, reals, filters = _part(engine.table, 0), engine.reals, whole.filters
    side = whole.kernel - 1
    high, wide = whole.height - side, whole.width - side
    # Beyond the border lie sums that nobody reads.
    for place in range(0, (whole.height + side) * (whole.width + side) * filters, filters):
        for j in range(0, filters, LANES):
            copy_row(reals, whole.padded + place + j, engine.parameters, part.bias + j)
    _spread(engine, whole, x, engine.parameters, True)
    # By pixels and then channels, to be turned.
    pixels, target = whole.scratch, part.currents + b * part.units
    if high * wide == 1:
        pixels = target
    for y in range(high):
        inner = whole.padded + ((y + side) * (whole.width + side) + side) * filters
        for j in range(0, wide * filters, LANES):
            copy_row(reals, pixels + y * wide * filters + j, reals, inner + j)
    if high * wide > 1:
        _turn(reals, target, pixels, high * wide, filters)


@inline_jit
def _turn(reals: Array, out: int, x: int, rows: int, columns: int) -> None:
    """Transpose (rows, columns)."""
    high, wide = rows - rows % LANES, columns - columns % LANES
    for r in range(0, high, LANES):
        for c in range(0, wide, LANES):
            transpose(reals, out + c * rows + r, rows, reals, x + r * columns + c, columns)
    for r in range(rows):
        for c in range(wide if r < high else 0, columns):
            reals[out + c * rows + r] = reals[x + r * columns + c]


@inline_jit
def _spread(engine: Engine, whole: Whole, x: Inputs, weights: Array, forth: bool) -> None:
    """For each input that is not zero and each place of the kernel over it: add the row of weights
    to the current, or back the current's gradient to the row.

    The currents are padded, so that every input has as many places.
    """
    filters, found = whole.filters, engine.integers[whole.found :]
    taps = whole.kernel * whole.kernel
    places, rows = engine.integers[whole.taps :][:taps], engine.integers[whole.taps + taps :][:taps]
    n = 0
    for i in range(0, len(x) - len(x) % LANES, LANES):
        n += find(x, i, found, n)
    for i in range(len(x) - len(x) % LANES, len(x)):
        found[n] = i
        n += 1 if x[i] != 0 else 0
    for each in range(n):
        i = found[each]
        factor = weights.dtype.type(x[i]) / engine.constants[0, 0]
        place, row = engine.integers[whole.places + i], engine.integers[whole.rows + i]
        for j in range(0, filters, LANES):
            for tap in range(taps):
                at, begin = place + places[tap] + j, row + rows[tap] + j
                if forth:
                    add_row(engine.reals, at, weights, begin, factor)
                else:
                    add_row(weights, begin, engine.reals, at, factor)


@inline_jit
def _map_spikes(engine: Engine, whole: Whole, index: int, steps: int, b: int) -> None:
    """Currents of a fully connected map, from the spikes of the layer below."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    flat, reals, units = engine.parameters, engine.reals, part.units
    spikes = engine.integers[below.spikes + b * below.room :][: below.room]
    classes = engine.integers[below.classes + b * (steps + 2) :][: steps + 2]
    bias, wide = flat[part.bias :][:units], units - units % (WIDE * LANES)
    for t in range(steps):
        current = reals[part.currents + (b * steps + t) * units :][:units]
        for j in range(units):
            current[j] = bias[j]
    for k in range(1, steps + 1):
        first, last = classes[k], classes[k + 1]
        if last == first:
            continue
        for j in range(0, wide, WIDE * LANES):
            given = part.weight + j
            sum_wide_rows(reals, whole.scratch + j, flat, given, units, spikes, first, last)
        for j in range(wide, units, LANES):
            given = part.weight + j
            sum_rows(reals, whole.scratch + j, flat, given, units, spikes, first, last)
        total = reals[whole.scratch :][:units]
        for t in range(k - 1, steps, k if below.periodic != 0 else steps):
            current = reals[part.currents + (b * steps + t) * units :][:units]
            for j in range(units):
                current[j] += total[j]


@inline_jit
def _fire(engine: Engine, whole: Whole, index: int, last: bool, steps: int, b: int) -> None:
    """Norm and neurons of a layer: the list of its spikes, or the last layer's mean activity."""
    part, reals, integers = _part(engine.table, index), engine.reals, engine.integers
    layer, units = _layer(part, engine.constants, index), part.units
    affine = units if layer.normalize else 0
    weight = engine.parameters[part.norm :][:affine]
    bias = engine.parameters[part.norm + affine :][:affine]
    z, v = reals[whole.scratch :][:units], reals[whole.scratch + whole.widest :][:units]
    h = reals[whole.scratch + 2 * whole.widest :][:units]
    spikes = integers[part.spikes + b * part.room :][: part.room]
    classes = integers[part.classes + b * (steps + 2) :][: steps + 2]
    activity = reals[part.activity + b * units :][: units if last else 0]
    for i in range(len(activity)):
        activity[i] = 0
    for i in range(units):
        v[i] = layer.v_reset
    classes[1] = 0
    for t in range(steps):
        if t < part.entries:
            current = reals[part.currents + (b * part.entries + t) * units :][:units]
            moments = reals[part.moments + (b * part.entries + t) * 2 :][:2]
            if layer.normalize:
                normal_moments(current, moments, layer)
            normal_current(current, moments, weight, bias, z, layer)
        if part.periodic != 0 and not last:
            _fire_periodically(z, h, layer, steps, integers[whole.found :], spikes, classes)
            return
        charge(z, v, h, layer)
        reset(h, v, layer)
        for i in range(units):
            h[i] = z.dtype.type(1) if h[i] - layer.v_threshold > 0 else z.dtype.type(0)
        if last:
            for i in range(units):
                activity[i] += h[i]
        else:
            n = classes[t + 1]
            for i in range(0, units, LANES):
                n += find(h, i, spikes, n)
            classes[t + 2] = n
    for i in range(len(activity)):
        activity[i] /= z.dtype.type(steps)


@inline_jit
def _fire_periodically(
    z: Array,
    first: Array,
    layer: LayerConstants,
    steps: int,
    found: Integers,
    spikes: Integers,
    classes: Integers,
) -> None:
    """List the units that fire under constant currents by the class of their first spike."""
    leak = z.dtype.type(1) if layer.leaky else z.dtype.type(0)
    n = 0
    for i in range(0, len(z), LANES):
        constants = layer.v_reset, layer.slope_x, leak, layer.v_threshold
        first_spikes(first, i, z, i, *constants, steps)
        n += find(first, i, found, n)
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
        own = np.uint64(first[found[i]]) + np.uint64(1)
        spikes[classes[own]] = found[i]
        classes[own] += 1


@inline_jit
def _map_activity(engine: Engine, index: int, batch: int) -> None:
    """Currents of a fully connected map of ReLUs, for a whole batch."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    flat, reals, units, inputs = engine.parameters, engine.reals, part.units, below.units
    for b in range(batch):
        for j in range(0, units, LANES):
            copy_row(reals, part.currents + b * units + j, flat, part.bias + j)
    for b in range(0, batch, LANES // 2):
        for j in range(0, units, TILE):
            out, rows = part.currents + b * units + j, below.activity + b * inputs
            product(reals, out, units, reals, rows, inputs, flat, part.weight + j, units)


@inline_jit
def _rectify(engine: Engine, whole: Whole, index: int, b: int) -> None:
    part, reals = _part(engine.table, index), engine.reals
    layer, units = _layer(part, engine.constants, index), part.units
    affine = units if layer.normalize else 0
    weight = engine.parameters[part.norm :][:affine]
    bias = engine.parameters[part.norm + affine :][:affine]
    current = reals[part.currents + b * units :][:units]
    moments = reals[part.moments + b * 2 :][:2]
    activity = reals[part.activity + b * units :][:units]
    if layer.normalize:
        normal_moments(current, moments, layer)
    normal_current(current, moments, weight, bias, activity, layer)
    # Not max(0, x): NaN must stay NaN.
    for i in range(units):
        activity[i] = reals.dtype.type(0) if activity[i] < 0 else activity[i]


@inline_jit
def _read_out(engine: Engine, whole: Whole, top: int, b: int, out: Array) -> None:
    part = _part(engine.table, top)
    activity = engine.reals[part.activity + b * part.units :][: part.units]
    for a in range(len(out)):
        weights = engine.parameters[whole.head + a * part.units :][: part.units]
        total = activity.dtype.type(0)
        for i in range(part.units):
            total += weights[i] * activity[i]
        out[a] = total


@bare_jit
def backward(
    engine: Engine, observations: Inputs, steps: int, of_values: Array, gradient: Array
) -> None:
    """Add to the flat gradient, from that of the values (B, A) that `forward` kept."""
    whole, top, batch = _whole(engine.table), len(engine.table) - 2, len(observations)
    _read_out_backward(engine, whole, top, of_values, steps, gradient)
    for back in range(top + 1):
        index = top - back
        for b in range(batch):
            if whole.spiking != 0:
                _fire_backward(engine, whole, index, index == top, steps, batch, b, gradient)
            else:
                _rectify_backward(engine, whole, index, b, gradient)
            if index == 0:
                _map_observation_backward(engine, whole, observations[b], b, gradient)
        if index > 0:
            if whole.spiking != 0:
                _map_spikes_backward(engine, whole, index, steps, batch, gradient)
            else:
                _map_activity_backward(engine, whole, index, batch, gradient)
            _below_backward(engine, whole, index)


@inline_jit
def _read_out_backward(
    engine: Engine, whole: Whole, top: int, of_values: Array, steps: int, gradient: Array
) -> None:
    """Gradients of the readout's weights, and of the last layer's activity at any one step."""
    part = _part(engine.table, top)
    units, one = part.units, gradient.dtype.type(1)
    for b in range(len(of_values)):
        activity = engine.reals[part.activity + b * units :][:units]
        of_activity = engine.reals[part.of_activity + b * units :][:units]
        for i in range(units):
            of_activity[i] = 0
        for a in range(of_values.shape[1]):
            error = of_values[b, a]
            # Zeros are left out: a loss may look at one action of many.
            if error != 0:
                weights = engine.parameters[whole.head + a * units :][:units]
                of_weights = gradient[whole.head + a * units :][:units]
                share = error * (one / steps)
                for i in range(units):
                    of_weights[i] += error * activity[i]
                    of_activity[i] += share * weights[i]


@inline_jit
def _fire_backward(
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
    of_weight, of_bias = gradient[part.norm :][:affine], gradient[part.norm + affine :][:affine]
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
        charge(z, v, h, layer)
        reset(h, v, layer)
    # From here on v and z hold the gradients of membrane and current.
    for i in range(units):
        v[i] = 0
        z[i] = 0
    for t in range(steps - 1, -1, -1):
        h = reals[whole.charged + t * widest :][:units]
        row = t * batch + b
        of_spikes = reals[part.of_activity + (b if last else row) * units :][:units]
        # A constant current has one entry, which collects the gradient of all steps.
        if t < part.entries - 1:
            for i in range(units):
                z[i] = 0
        surrogate_slope(h, slope, layer)
        step_backward(of_spikes, h, slope, v, z, layer)
        if t < part.entries:
            current = reals[part.currents + (b * part.entries + t) * units :][:units]
            moments = reals[part.moments + (b * part.entries + t) * 2 :][:2]
            of_current = reals[part.of_currents + row * units :][:units]
            norm_backward(z, current, moments, weight, of_current, of_weight, of_bias, layer)


@inline_jit
def _rectify_backward(engine: Engine, whole: Whole, index: int, b: int, gradient: Array) -> None:
    """Back through the ReLUs and the norm of a layer, for a sample."""
    part, reals = _part(engine.table, index), engine.reals
    layer, units = _layer(part, engine.constants, index), part.units
    affine = units if layer.normalize else 0
    weight = engine.parameters[part.norm :][:affine]
    of_weight, of_bias = gradient[part.norm :][:affine], gradient[part.norm + affine :][:affine]
    z = reals[whole.scratch :][:units]
    activity = reals[part.activity + b * units :][:units]
    of_activity = reals[part.of_activity + b * units :][:units]
    for i in range(units):
        z[i] = of_activity[i] if activity[i] > 0 else reals.dtype.type(0)
    current = reals[part.currents + b * units :][:units]
    moments = reals[part.moments + b * 2 :][:2]
    of_current = reals[part.of_currents + b * units :][:units]
    norm_backward(z, current, moments, weight, of_current, of_weight, of_bias, layer)


@inline_jit
def _map_observation_backward(
    engine: Engine, whole: Whole, x: Inputs, b: int, gradient: Array
) -> None:
    part, reals, filters = _part(engine.table, 0), engine.reals, whole.filters
    side = whole.kernel - 1
    high, wide = whole.height - side, whole.width - side
    pixels, given = whole.scratch, part.of_currents + b * part.units
    if high * wide == 1:
        pixels = given
    else:
        _turn(reals, pixels, given, filters, high * wide)
    one = gradient.dtype.type(1)
    for at in range(0, high * wide * filters, filters):
        for j in range(0, filters, LANES):
            add_row(gradient, part.bias + j, reals, pixels + at + j, one)
    padded = reals[whole.padded :][: (whole.height + side) * (whole.width + side) * filters]
    for i in range(len(padded)):
        padded[i] = 0
    for y in range(high):
        inner = whole.padded + ((y + side) * (whole.width + side) + side) * filters
        for j in range(0, wide * filters, LANES):
            copy_row(reals, inner + j, reals, pixels + y * wide * filters + j)
    _spread(engine, whole, x, gradient, False)


@inline_jit
def _map_spikes_backward(
    engine: Engine, whole: Whole, index: int, steps: int, batch: int, gradient: Array
) -> None:
    """Add the gradients of a fully connected map's weights and bias, for the whole batch.

    By units below, so that each of their rows is loaded and stored once.
    """
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    reals, units = engine.reals, part.units
    starts, entries = engine.integers[whole.starts :], engine.integers[whole.entries :]
    for b in range(batch):
        _sums_by_class(engine, whole, index, steps, batch, b, gradient)
    _entries_by_unit(engine, whole, below, steps, batch)
    wide, one = units - units % (WIDE * LANES), gradient.dtype.type(1)
    for i in range(below.units):
        first, last = starts[i], starts[i + 1]
        if first == last:
            continue
        for j in range(0, wide, WIDE * LANES):
            given = whole.of_classes + j
            sum_wide_rows(reals, whole.scratch + j, reals, given, units, entries, first, last)
        for j in range(wide, units, LANES):
            given = whole.of_classes + j
            sum_rows(reals, whole.scratch + j, reals, given, units, entries, first, last)
        for j in range(0, units, LANES):
            add_row(gradient, part.weight + i * units + j, reals, whole.scratch + j, one)


@inline_jit
def _sums_by_class(
    engine: Engine,
    whole: Whole,
    index: int,
    steps: int,
    batch: int,
    b: int,
    gradient: Array,
) -> None:
    """The gradient of each class's sum, over the steps that take it; add that of the bias."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    reals, units = engine.reals, part.units
    of_bias = gradient[part.bias :][:units]
    for k in range(1, steps + 1):
        of_class = reals[whole.of_classes + (b * steps + k - 1) * units :][:units]
        for j in range(units):
            of_class[j] = 0
        for t in range(k - 1, steps, k if below.periodic != 0 else steps):
            of_current = reals[part.of_currents + (t * batch + b) * units :][:units]
            for j in range(units):
                of_class[j] += of_current[j]
    for t in range(steps):
        of_current = reals[part.of_currents + (t * batch + b) * units :][:units]
        for j in range(units):
            of_bias[j] += of_current[j]


@inline_jit
def _entries_by_unit(engine: Engine, whole: Whole, below: Part, steps: int, batch: int) -> None:
    """List for each unit the sums by class in which it takes part, over the batch."""
    starts, entries = engine.integers[whole.starts :], engine.integers[whole.entries :]
    for i in range(below.units + 2):
        starts[i] = 0
    for b in range(batch):
        classes = engine.integers[below.classes + b * (steps + 2) :][: steps + 2]
        spikes = engine.integers[below.spikes + b * below.room :][: below.room]
        for n in range(classes[steps + 1]):
            starts[spikes[n] + 2] += 1
    for i in range(below.units):
        starts[i + 2] += starts[i + 1]
    # Where unit i's entries begin stands at i + 1 and moves to their end.
    for b in range(batch):
        classes = engine.integers[below.classes + b * (steps + 2) :][: steps + 2]
        spikes = engine.integers[below.spikes + b * below.room :][: below.room]
        for k in range(1, steps + 1):
            for n in range(classes[k], classes[k + 1]):
                entries[starts[spikes[n] + 1]] = b * steps + k - 1
                starts[spikes[n] + 1] += 1


@inline_jit
def _map_activity_backward(
    engine: Engine, whole: Whole, index: int, batch: int, gradient: Array
) -> None:
    """Add the gradients of a fully connected map of ReLUs, for the whole batch."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    reals, units, inputs, length = engine.reals, part.units, below.units, whole.length
    one = gradient.dtype.type(1)
    # Left by a larger batch; they take part in the product, and 0 times NaN is NaN.
    rest = reals[part.of_currents + batch * units :][: (length - batch) * units]
    for i in range(len(rest)):
        rest[i] = 0
    rest = reals[below.activity + batch * inputs :][: (length - batch) * inputs]
    for i in range(len(rest)):
        rest[i] = 0
    for b in range(batch):
        for j in range(0, units, LANES):
            add_row(gradient, part.bias + j, reals, part.of_currents + b * units + j, one)
    for b in range(0, length, LANES):
        for i in range(0, inputs, LANES):
            at, begin = below.columns + i * length + b, below.activity + b * inputs + i
            transpose(reals, at, length, reals, begin, inputs)
    for i in range(0, inputs, LANES // 2):
        for j in range(0, units, TILE):
            out, rows = part.weight + i * units + j, below.columns + i * length
            given = part.of_currents + j
            product(gradient, out, units, reals, rows, length, reals, given, units)


@inline_jit
def _below_backward(engine: Engine, whole: Whole, index: int) -> None:
    """The gradient of the activity below a fully connected map: a dense product."""
    part, below = _part(engine.table, index), _part(engine.table, index - 1)
    reals, units, inputs, length = engine.reals, part.units, below.units, whole.length
    for m in range(0, length, LANES):
        for j in range(0, units, LANES):
            # Tile by tile, lest the rows of one push each other out of the cache.
            tile = part.columns + m // TILE * TILE * units
            at, begin = tile + j * TILE + m % TILE, part.of_currents + m * units + j
            transpose(reals, at, TILE, reals, begin, units)
    for i in range(0, inputs, LANES):
        for m in range(0, length, TILE):
            out, rows = below.of_activity + m * inputs + i, part.weight + i * units
            flat, columns = engine.parameters, part.columns + m * units
            turned_product(reals, out, inputs, flat, rows, units, reals, columns, TILE)
