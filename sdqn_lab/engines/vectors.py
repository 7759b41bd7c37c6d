"""What the engine does with vectors of the processor: rows that are added, products, transposes.

A compiler would look at each call whether the arrays share memory, which takes longer than the sum.
They never do. Offsets and row lengths count elements; LANES elements are worked on at once.
"""

import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
"""Elements in a vector; every layer's width must be a multiple of 16."""
WIDE = 4
"""Vectors of a row that are summed together."""
INDEX = ir.IntType(64)


class _Vectors:
    """The arrays of one call, as places for vectors."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        self._context, self.builder = context, builder
        self._arrays, self._values = signature.args, values
        number = signature.args[0].dtype
        element = ir.FloatType() if number == types.float32 else ir.DoubleType()
        self.type = ir.VectorType(element, LANES)
        self._align = 4 if number == types.float32 else 8
        self.zero = ir.Constant(self.type, [0.0] * LANES)

    def scalar(self, array: int, at: Any) -> Any:
        """Pointer to one element of the array that is the call's argument `array`."""
        kind = self._arrays[array]
        data = self._context.make_array(kind)(self._context, self.builder, self._values[array]).data
        return self.builder.gep(data, [at])

    def load(self, array: int, at: Any) -> Any:
        """The vector that begins at an element."""
        return self.builder.load(self._pointer(array, at), align=self._align)

    def store(self, vector: Any, array: int, at: Any) -> None:
        """Write a vector where an element begins."""
        self.builder.store(vector, self._pointer(array, at), align=self._align)

    def _pointer(self, array: int, at: Any) -> Any:
        return self.builder.bitcast(self.scalar(array, at), self.type.as_pointer())

    def everywhere(self, number: Any) -> Any:
        """A vector of equal numbers."""
        first = self.builder.insert_element(self.zero, number, ir.Constant(ir.IntType(32), 0))
        same = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, self.zero, same)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once."""
        kind = ir.FunctionType(self.type, [self.type] * 3)
        name = "f32" if isinstance(self.type.element, ir.FloatType) else "f64"
        fma = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fma.v{LANES}{name}")
        return self.builder.call(fma, [a, b, c])

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


def _compiled(body: Callable[..., None]) -> Any:
    """A function for kernels: `body` writes its code, given the vectors and the arguments."""

    def typed(context: Any, *given: Any) -> tuple[Any, Callable[..., Any]]:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            body(_Vectors(context, builder, signature, values), *values)
            return context.get_dummy_value()

        whole = [types.intp if isinstance(one, types.Integer) else one for one in given]
        return types.void(*whole), code

    # Numba asks for the names of the arguments.
    typed.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return intrinsic(typed)


def _write_add(v: _Vectors, out: Any, at: Any, rows: Any, begin: Any, factor: Any) -> None:
    """out[at :][: LANES] += factor rows[begin :][: LANES]."""
    added = v.multiply_add(v.everywhere(factor), v.load(2, begin), v.load(0, at))
    v.store(added, 0, at)


def _write_copy(v: _Vectors, out: Any, at: Any, rows: Any, begin: Any) -> None:
    """out[at :][: LANES] = rows[begin :][: LANES]."""
    v.store(v.load(2, begin), 0, at)


def _write_first_spikes(
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
    """The step, from 1, of the first spike under constant currents z, or steps + 1, by unit.

    A step is v <- v + slope (z - leak v), which never falls back below a threshold.
    """
    build = v.builder
    z_row, one = v.load(2, begin), v.everywhere(ir.Constant(v.type.element, 1.0))
    slope, leak, border = v.everywhere(slope), v.everywhere(leak), v.everywhere(v_threshold)
    membrane = cgutils.alloca_once_value(build, v.zero)
    build.store(v.everywhere(v_reset), membrane)
    count = cgutils.alloca_once_value(build, v.zero)
    build.store(one, count)
    with cgutils.for_range(build, steps, intp=INDEX):
        before = build.load(membrane)
        pull = build.fsub(z_row, build.fmul(leak, before))
        charged = v.multiply_add(slope, pull, before)
        build.store(charged, membrane)
        fires = build.fcmp_ordered(">", build.fsub(charged, border), v.zero)
        build.store(build.fadd(build.load(count), build.select(fires, v.zero, one)), count)
    v.store(build.load(count), 0, at)


def _sum(vectors: int) -> Callable[..., None]:
    """out[at :] = sum over n in [first, last) of factors[n] rows[begins[n] + column :]."""

    def write(
        v: _Vectors,
        out: Any,
        at: Any,
        rows: Any,
        column: Any,
        begins: Any,
        factors: Any,
        first: Any,
        last: Any,
    ) -> None:
        build = v.builder
        lanes = [ir.Constant(INDEX, LANES * i) for i in range(vectors)]
        totals = [cgutils.alloca_once_value(build, v.zero) for _ in lanes]
        for total in totals:
            build.store(v.zero, total)
        with cgutils.for_range_slice(build, first, last, ir.Constant(INDEX, 1), intp=INDEX) as (
            n,
            _,
        ):
            begin = build.add(build.sext(build.load(v.scalar(4, n)), INDEX), column)
            factor = v.everywhere(build.load(v.scalar(5, n)))
            for lane, total in zip(lanes, totals, strict=True):
                row = v.load(2, build.add(begin, lane))
                build.store(v.multiply_add(factor, row, build.load(total)), total)
        for lane, total in zip(lanes, totals, strict=True):
            v.store(build.load(total), 0, build.add(at, lane))

    return write


def _write_product(
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
    """A part of a product: out[at + i step + r] = sum over k < length of
    rows[begin + r length + k] g[g_begin + k g_step + i], for all i < 2 LANES, r < LANES.
    """
    build, half = v.builder, LANES // 2
    lane = ir.Constant(INDEX, LANES)
    squares: list[list[Any]] = [[], []]
    # By halves: so many sums stay in registers, and each number that is loaded is used often.
    for rows_begin in (0, half):
        totals = [[cgutils.alloca_once_value(build, v.zero) for _ in range(half)] for _ in range(2)]
        for total in totals[0] + totals[1]:
            build.store(v.zero, total)
        first = build.add(begin, build.mul(length, ir.Constant(INDEX, rows_begin)))
        with cgutils.for_range(build, length, intp=INDEX) as loop:
            column = build.add(g_begin, build.mul(loop.index, g_step))
            columns = [v.load(6, column), v.load(6, build.add(column, lane))]
            place = build.add(first, loop.index)
            for r in range(half):
                factor = v.everywhere(build.load(v.scalar(3, place)))
                for total, numbers in zip(totals, columns, strict=True):
                    added = v.multiply_add(factor, numbers, build.load(total[r]))
                    build.store(added, total[r])
                place = build.add(place, length)
        for square, total in zip(squares, totals, strict=True):
            square += [build.load(one) for one in total]
    for square in squares:
        for numbers in v.transposed(square):
            v.store(numbers, 0, at)
            at = build.add(at, step)


def _write_transposed(
    v: _Vectors, out: Any, at: Any, step: Any, x: Any, begin: Any, x_step: Any
) -> None:
    """out[at + i step + r] = x[begin + r x_step + i], for all i, r < LANES."""
    build, rows = v.builder, []
    for _ in range(LANES):
        rows.append(v.load(3, begin))
        begin = build.add(begin, x_step)
    for column in v.transposed(rows):
        v.store(column, 0, at)
        at = build.add(at, step)


add_row = _compiled(_write_add)
copy_row = _compiled(_write_copy)
first_spikes = _compiled(_write_first_spikes)
sum_rows = _compiled(_sum(1))
sum_wide_rows = _compiled(_sum(WIDE))
product = _compiled(_write_product)
transpose = _compiled(_write_transposed)
