"""What kernels do with vectors of the processor: rows that are added, products, transposes.

A compiler would look at each call whether the arrays share memory, which takes longer than the sum.
They never do. Offsets and row lengths count elements; LANES elements are worked on at once.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

COMPRESSES = bool(llvm.get_host_cpu_features().get("avx512f"))
LANES = 16 if COMPRESSES else 8
"""Elements in a vector."""
TILE = 2 * LANES
"""Columns of a product that are worked off together."""
WIDE = 4
"""Vectors of a row that are summed together."""
INDEX = ir.IntType(64)


ELEMENTS: dict[Any, tuple[ir.Type, int]] = {
    types.float32: (ir.FloatType(), 4),
    types.float64: (ir.DoubleType(), 8),
    types.int32: (ir.IntType(32), 4),
    types.uint32: (ir.IntType(32), 4),
    types.uint8: (ir.IntType(8), 1),
}
"""By type of an array, that of its elements and their bytes."""


class _Vectors:
    """The arrays of one call, as places for vectors; by default of the first array's type."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        self._context, self.builder = context, builder
        self._arrays, self._values = signature.args, values
        self.is_real = signature.args[0].dtype in (types.float32, types.float64)
        self.type = ir.VectorType(ELEMENTS[signature.args[0].dtype][0], LANES)
        self.zero = ir.Constant(self.type, [0.0 if self.is_real else 0] * LANES)

    def variable(self, vector: Any) -> Any:
        """Where a vector is kept that changes in a loop."""
        place = cgutils.alloca_once(self.builder, self.type)  # type: ignore[no-untyped-call]
        self.builder.store(vector, place)
        return place

    def scalar(self, array: int, at: Any) -> Any:
        """Pointer to one element of the array that is the call's argument `array`."""
        kind = self._arrays[array]
        data = self._context.make_array(kind)(self._context, self.builder, self._values[array]).data
        return self.builder.gep(data, [at])

    def load(self, array: int, at: Any) -> Any:
        """The vector that begins at an element."""
        pointer, align = self._pointer(array, at)
        return self.builder.load(pointer, align=align)

    def store(self, vector: Any, array: int, at: Any) -> None:
        """Write a vector where an element begins."""
        pointer, align = self._pointer(array, at)
        self.builder.store(vector, pointer, align=align)

    def _pointer(self, array: int, at: Any) -> tuple[Any, int]:
        element, size = ELEMENTS[self._arrays[array].dtype]
        vector = ir.VectorType(element, LANES).as_pointer()
        return self.builder.bitcast(self.scalar(array, at), vector), size

    def everywhere(self, number: Any) -> Any:
        """A vector of equal numbers."""
        first = self.builder.insert_element(self.zero, number, ir.Constant(ir.IntType(32), 0))
        same = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, self.zero, same)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once."""
        kind = ir.FunctionType(self.type, [self.type] * 3)
        name = "f32" if isinstance(self.type.element, ir.FloatType) else "f64"
        return self.builder.call(self.intrinsic(f"llvm.fma.v{LANES}{name}", kind), [a, b, c])

    def intrinsic(self, name: str, kind: ir.FunctionType) -> Any:
        """One of LLVM's own functions."""
        find: Any = cgutils.get_or_insert_function
        return find(self.builder.module, kind, name)

    def transposed(self, rows: list[Any]) -> list[Any]:
        """LANES vectors as the rows of a square; its columns."""
        width = 1
        while width < LANES:
            swapped = list(rows)
            low = [i if not i & width else LANES + i - width for i in range(LANES)]
            high = [i + width if not i & width else LANES + i for i in range(LANES)]
            for row in (r for r in range(LANES) if not r & width):
                pair = rows[row], rows[row + width]
                swapped[row] = self._shuffled(*pair, low)
                swapped[row + width] = self._shuffled(*pair, high)
            rows, width = swapped, 2 * width
        return rows

    def _shuffled(self, first: Any, second: Any, order: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
        return self.builder.shuffle_vector(first, second, mask)


def _compiled(body: Callable[..., Any], returns: Any = types.void) -> Any:
    """A function for kernels: `body` writes its code, given the vectors and the arguments.

    It is called with the arguments alone.
    """

    def typed(context: Any, *given: Any) -> tuple[Any, Callable[..., Any]]:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result = body(_Vectors(context, builder, signature, values), *values)
            return context.get_dummy_value() if returns is types.void else result

        whole = [types.intp if isinstance(one, types.Integer) else one for one in given]
        return returns(*whole), code

    # Numba asks for the names of the arguments.
    typed.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return intrinsic(typed)


@_compiled
def copy_row(v: _Vectors, out: Any, at: Any, rows: Any, begin: Any) -> None:
    """out[at :][: LANES] = rows[begin :][: LANES]."""
    v.store(v.load(2, begin), 0, at)


@_compiled
def add_row(v: _Vectors, out: Any, at: Any, rows: Any, begin: Any, factor: Any) -> None:
    """out[at :][: LANES] += factor rows[begin :][: LANES]."""
    v.store(v.multiply_add(v.everywhere(factor), v.load(2, begin), v.load(0, at)), 0, at)


@_compiled
def transpose(v: _Vectors, out: Any, at: Any, step: Any, x: Any, begin: Any, x_step: Any) -> None:
    """out[at + i step + r] = x[begin + r x_step + i], for all i, r < LANES."""
    build, rows = v.builder, []
    for _ in range(LANES):
        rows.append(v.load(3, begin))
        begin = build.add(begin, x_step)
    for column in v.transposed(rows):
        v.store(column, 0, at)
        at = build.add(at, step)


@partial(_compiled, returns=types.intp)
def find(v: _Vectors, x: Any, begin: Any, found: Any, at: Any) -> Any:
    """found[at :] = the i in [begin, begin + LANES) where x[i] is not 0; returns how many.

    What lies behind them, up to LANES, is written over.
    """
    build, number = v.builder, v.load(0, begin)
    zero = ir.Constant(v.type, [0] * LANES)
    compare = build.fcmp_unordered if v.is_real else build.icmp_unsigned
    active = compare("!=", number, zero)
    word = ir.IntType(32)
    places = ir.VectorType(word, LANES)
    first = build.insert_element(
        ir.Constant(places, [0] * LANES), build.trunc(begin, word), word(0)
    )
    first = build.shuffle_vector(first, first, ir.Constant(places, [0] * LANES))
    indices = build.add(first, ir.Constant(places, list(range(LANES))))
    if COMPRESSES:
        kind = ir.FunctionType(places, [places, places, active.type])
        name = f"llvm.x86.avx512.mask.compress.v{LANES}i32"
        v.store(build.call(v.intrinsic(name, kind), [indices, indices, active]), 2, at)
        bits = build.bitcast(active, ir.IntType(LANES))
        return build.zext(build.ctpop(bits), INDEX)
    count = INDEX(0)
    for lane in range(LANES):
        target = v.scalar(2, build.add(at, count))
        build.store(build.extract_element(indices, word(lane)), target)
        count = build.add(count, build.zext(build.extract_element(active, word(lane)), INDEX))
    return count


@_compiled
def first_spikes(
    v: _Vectors,
    first: Any,
    at: Any,
    z: Any,
    begin: Any,
    v_reset: Any,
    slope: Any,
    leak: Any,
    v_threshold: Any,
    steps: Any,
) -> None:
    """The step, from 1, of the first spike under constant currents z, or 0 if none, by unit.

    A step is v <- v + slope (z - leak v), which never falls back below a threshold.
    """
    build = v.builder
    z_row, one = v.load(2, begin), v.everywhere(v.type.element(1.0))
    slope, leak, border = v.everywhere(slope), v.everywhere(leak), v.everywhere(v_threshold)
    membrane = v.variable(v.everywhere(v_reset))
    waits = v.variable(one)
    last = v.variable(v.zero)
    with cgutils.for_range(build, steps, intp=INDEX):
        before = build.load(membrane)
        pull = build.fsub(z_row, build.fmul(leak, before))
        charged = v.multiply_add(slope, pull, before)
        build.store(charged, membrane)
        fires = build.fcmp_ordered(">", build.fsub(charged, border), v.zero)
        build.store(build.select(fires, one, v.zero), last)
        build.store(build.fadd(build.load(waits), build.select(fires, v.zero, one)), waits)
    # Who fires once fires at the last step too.
    v.store(build.fmul(build.load(waits), build.load(last)), 0, at)


def _sum(vectors: int) -> Callable[..., None]:
    """out[at :] = sum over n in [first, last) of rows[listed[n] step + column :]."""

    def write(
        v: _Vectors,
        out: Any,
        at: Any,
        rows: Any,
        column: Any,
        step: Any,
        listed: Any,
        first: Any,
        last: Any,
    ) -> None:
        build = v.builder
        lanes = [INDEX(LANES * i) for i in range(vectors)]
        totals = [v.variable(v.zero) for _ in lanes]
        with cgutils.for_range_slice(build, first, last, INDEX(1), intp=INDEX) as (n, _):
            number = build.sext(build.load(v.scalar(5, n)), INDEX)
            begin = build.add(build.mul(number, step), column)
            for lane, total in zip(lanes, totals, strict=True):
                row = v.load(2, build.add(begin, lane))
                build.store(build.fadd(build.load(total), row), total)
        for lane, total in zip(lanes, totals, strict=True):
            v.store(build.load(total), 0, build.add(at, lane))

    return write


sum_rows = _compiled(_sum(1))
sum_wide_rows = _compiled(_sum(WIDE))


def _add_product(
    v: _Vectors, totals: list[list[Any]], begin: Any, length: Any, g_begin: Any, g_step: Any
) -> None:
    """totals[c][r] += sum over k < length of the number at begin + r length + k of argument 3 and
    the vector at g_begin + k g_step + c LANES of argument 6.

    So few sums stay in registers, and each number that is loaded is used often.
    """
    build = v.builder
    with cgutils.for_range(build, length, intp=INDEX) as loop:
        column = build.add(g_begin, build.mul(loop.index, g_step))
        columns = [v.load(6, build.add(column, INDEX(LANES * c))) for c in range(len(totals))]
        place = build.add(begin, loop.index)
        for r in range(len(totals[0])):
            factor = v.everywhere(build.load(v.scalar(3, place)))
            for total, numbers in zip(totals, columns, strict=True):
                build.store(v.multiply_add(factor, numbers, build.load(total[r])), total[r])
            place = build.add(place, length)


@_compiled
def product(
    v: _Vectors,
    out: Any,
    at: Any,
    step: Any,
    rows: Any,
    begin: Any,
    length: Any,
    g: Any,
    g_begin: Any,
    g_step: Any,
) -> None:
    """A part of a product: out[at + r step + i] += sum over k < length of
    rows[begin + r length + k] g[g_begin + k g_step + i], for all r < LANES / 2, i < 2 LANES.
    """
    build = v.builder
    places = [[build.add(at, INDEX(LANES * c))] for c in range(2)]
    for column in places:
        for _ in range(1, LANES // 2):
            column.append(build.add(column[-1], step))
    totals = [[v.variable(v.load(0, place)) for place in column] for column in places]
    _add_product(v, totals, begin, length, g_begin, g_step)
    for column, total in zip(places, totals, strict=True):
        for place, one in zip(column, total, strict=True):
            v.store(build.load(one), 0, place)


@_compiled
def turned_product(
    v: _Vectors,
    out: Any,
    at: Any,
    step: Any,
    rows: Any,
    begin: Any,
    length: Any,
    g: Any,
    g_begin: Any,
    g_step: Any,
) -> None:
    """The same transposed and in place of what was there: out[at + i step + r] = the sum, for all
    r < LANES, i < 2 LANES.
    """
    build, half = v.builder, LANES // 2
    squares: list[list[Any]] = [[], []]
    for first in (0, half):
        totals = [[v.variable(v.zero) for _ in range(half)] for _ in range(2)]
        place = build.add(begin, build.mul(length, INDEX(first)))
        _add_product(v, totals, place, length, g_begin, g_step)
        for square, total in zip(squares, totals, strict=True):
            square += [build.load(one) for one in total]
    for square in squares:
        for numbers in v.transposed(square):
            v.store(numbers, 0, at)
            at = build.add(at, step)
