"""Principal components of many small matrices at once, in main memory: vector code with a matrix in each lane.

A symmetric matrix is made tridiagonal by reflections, and diagonal by the QL method with shifts (Wilkinson and Reinsch,
1971). All lanes take the same steps; where one is done, its rotations turn nothing. Rotations are kept: applied backwards
to unit vectors, and then the reflections, they give those few vectors that are wanted.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.margin_code import build_turn
from shiftsearch.backends.cpu.memory import aligned

_BLOCK = 4  # vectors that are rotated at once
_EXACT = 2e-7  # of the trace: smaller elements are rounding
_SWEEPS = 100  # for a value: some two are enough, unless rounding keeps an element from its tolerance
_ROTATIONS = 3  # that are kept, for each element of a matrix: one is enough, unless rounding disturbs
_TINY = 1e-30  # avoids divisions by 0
_KEPT = threading.local()


def largest(matrices: np.ndarray, least: float, exact: float) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues (q, k) of symmetric matrices (q, m, m), the largest first, and their vectors (q, m, k).

    One matrix has k values of `least` or more, the others fewer. Values need be no more exact than `exact`.
    """
    count, m, _ = matrices.shape
    lanes = simd.lanes("float32")
    room = _room(m, lanes)
    parts = [room.decomposed(matrices[first : first + lanes], least, exact) for first in range(0, count, lanes)]
    most = max(values.shape[1] for values, _ in parts)
    values, vectors = np.zeros((count, most), np.float32), np.zeros((count, m, most), np.float32)
    for number, (some, theirs) in enumerate(parts):
        those = slice(number * lanes, (number + 1) * lanes)
        values[those, : some.shape[1]], vectors[those, :, : some.shape[1]] = some, theirs
    return values, vectors


def _room(m: int, lanes: int) -> _Room:
    """Return memory of this thread, which is kept for the next groups."""
    rooms: dict[Any, _Room] = vars(_KEPT)
    if (m, lanes) not in rooms:
        rooms[m, lanes] = _Room(m, lanes)
    return rooms[m, lanes]


class _Room:
    """Memory for one matrix in each lane."""

    def __init__(self, m: int, lanes: int):
        self._m, self._lanes, self._most = m, lanes, int(_ROTATIONS * m * m)
        sizes = {"matrix": (m, m), "values": (m,), "beside": (m,), "scales": (m,), "product": (m,), "tolerance": ()}
        self._arrays = {name: self._new(*size) for name, size in sizes.items()}
        self._kept = self._new(self._most, 2), np.empty(_SWEEPS * m + 3, np.int32)  # rotations, and where sweeps end

    def _new(self, *size: int) -> np.ndarray:
        return aligned(math.prod(size) * self._lanes, np.float32, np.empty).reshape(*size, self._lanes)

    def decomposed(self, matrices: np.ndarray, least: float, exact: float) -> tuple[np.ndarray, np.ndarray]:
        """Return what `largest` does, of no more matrices than there are lanes."""
        arrays, count = self._arrays, len(matrices)
        trace = np.maximum(matrices.diagonal(axis1=1, axis2=2).sum(1), _TINY)
        arrays["matrix"][..., count:], arrays["tolerance"][count:] = 0, 1
        scaled = np.multiply(matrices, (1 / trace)[:, None, None], order="C")
        _turn()(scaled.ctypes.data, arrays["matrix"].ctypes.data, count, self._m**2, self._m**2, self._lanes)
        arrays["tolerance"][:count] = np.maximum(exact / trace, _EXACT)
        memory = *arrays.values(), *self._kept
        if not _decompose()(*(array.ctypes.data for array in memory), self._m, self._most):
            values, vectors = np.linalg.eigh(matrices)
            order = -np.arange(1, 1 + _many(values.T, least))
            return values[:, order], vectors[:, :, order]
        values = arrays["values"][:, :count] * trace
        order = np.argsort(-values, 0)[: _many(values, least)]
        return np.take_along_axis(values, order, 0).T, self._vectors(order)

    def _vectors(self, order: np.ndarray) -> np.ndarray:
        """Return the vectors (count, m, k) of these values (k, count) of each matrix."""
        many, count = order.shape
        vectors = self._new(-(-many // _BLOCK) * _BLOCK, self._m)
        vectors[...] = 0
        np.put_along_axis(vectors[:many, :, :count], order[:, None], 1, 1)
        memory = vectors, self._arrays["matrix"], self._arrays["scales"], *self._kept
        _vectors_of()(*(array.ctypes.data for array in memory), self._m, len(vectors))
        return vectors[:many, :, :count].transpose(2, 1, 0)


def _many(values: np.ndarray, least: float) -> int:
    """Return how many of the values (m, count) of some matrix are `least` or more, and at least one."""
    return max(1, int((values >= least).sum(0).max()))


@functools.cache
def _turn() -> Callable[..., int]:
    return _function(build_turn("float32"), 2, 4)


@functools.cache
def _decompose() -> Callable[..., int]:
    return _function(_build(), 8, 2)


@functools.cache
def _vectors_of() -> Callable[..., int]:
    return _function(_build_vectors(), 5, 2)


def _function(address: int, arrays: int, numbers: int) -> Callable[..., int]:
    kinds = [ctypes.c_void_p] * arrays + [ctypes.c_int64] * numbers
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(address)


# --- vector code --------------------------------------------------------------------------------------
class _Code(simd.Function):
    """A function whose vectors hold one number of each matrix."""

    def at(self, memory: Any, *place: Any) -> Any:
        return self.load(memory, self._place(place))

    def to(self, value: Any, memory: Any, *place: Any) -> None:
        self.store(value, memory, self._place(place))

    def _place(self, place: tuple[Any, ...]) -> Any:
        """Return where a number lies: its place, or its row, column and how many columns there are."""
        number = place[0] if len(place) == 1 else self.add(self.mul(place[0], place[2]), place[1])
        return self.mul(number, self.lanes)

    def down(self, first: Any, last: Any, carried: list[Any], body: Callable[..., Any]) -> list[Any]:
        """Return the last `carried` of a loop from `first` down to `last`."""
        count = self.add(self.b.sub(self.int(first), self.int(last)), 1)
        return self.loop(count, carried, lambda i, *rest: body(self.b.sub(self.int(first), i), *rest))

    def repeat(self, wanted: Callable[[], Any], body: Callable[[], None], most: int) -> None:
        """Repeat `body()` while `wanted()`, `most` times at most."""
        b, before = self.b, self.b.block
        head, inside, after = (b.append_basic_block(name) for name in ("while", "do", "done"))
        b.branch(head)
        b.position_at_end(head)
        done = b.phi(self.int(0).type)
        done.add_incoming(self.int(0), before)
        b.cbranch(b.and_(wanted(), b.icmp_signed("<", done, self.int(most))), inside, after)
        b.position_at_end(inside)
        body()
        done.add_incoming(self.add(done, 1), b.block)
        b.branch(head)
        b.position_at_end(after)

    def times(self, x: Any, y: Any) -> Any:
        return self.b.fmul(x, y)

    def over(self, x: Any, y: Any) -> Any:
        return self.b.fdiv(x, y)

    def less(self, x: Any, y: Any) -> Any:
        return self.b.fcmp_ordered("<", x, y)

    def chosen(self, mask: Any, x: Any, y: Any) -> Any:
        return self.b.select(mask, x, y)

    def any(self, mask: Any) -> Any:
        whole = ir.IntType(mask.type.count)
        return self.b.icmp_signed("!=", self.b.bitcast(mask, whole), whole(0))

    def root(self, x: Any) -> Any:
        return self._of_one("sqrt", x)

    def size(self, x: Any) -> Any:
        return self._of_one("fabs", x)

    def negative(self, x: Any) -> Any:
        return self.minus(self.zeros(), x)

    def _of_one(self, name: str, x: Any) -> Any:
        return self.b.call(self._declare(f"llvm.{name}.v{x.type.count}f32", x.type, [x.type]), [x])


def _build() -> int:
    """Compile (matrix, values, beside, scales, product, tolerance, rotations, sweeps, m, most rotations) to 1, or 0 if there
    are more.

    The first three of `sweeps` are how many there are, how many rotations these have, and the result; then come the rows
    where each ended.
    """
    f = _Code("decompose", "float32", "pppppppill")
    matrix, values, _, _, _, tolerance, _, sweeps, m, _ = f.arguments
    f.down(f.add(m, -1), 1, [], functools.partial(_reflect, f))
    f.loop(m, [], lambda n: f.to(f.at(matrix, n, n, m), values, n))
    for n, start in enumerate((0, 0, 1)):
        f.b.store(simd.INT32(start), f.b.gep(sweeps, [f.int(n)]))
    f.loop(f.add(m, -1), [], functools.partial(_diagonal, f, f.load(tolerance, 0)))
    return f.compile(_number(f, sweeps, 2))


def _number(f: _Code, memory: Any, n: Any) -> Any:
    return f.b.sext(f.scalar(memory, n), simd.INT)


def _count(f: _Code, value: Any, memory: Any, n: Any) -> None:
    f.b.store(f.b.trunc(value, simd.INT32), f.b.gep(memory, [f.int(n)]))


def _reflect(f: _Code, i: Any) -> None:
    """Make row i tridiagonal: reflect the rows and columns before it along a vector, which is left in the row."""
    matrix, _, beside, scales, product, *_, m, _ = f.arguments
    (square,) = f.loop(i, [f.zeros()], lambda k, s: [f.fma(f.at(matrix, i, k, m), f.at(matrix, i, k, m), s)])
    before = f.add(i, -1)
    last, root = f.at(matrix, i, before, m), f.root(square)
    new = f.chosen(f.less(f.zeros(), last), f.negative(root), root)
    f.to(new, beside, before)
    f.to(f.minus(last, new), matrix, i, before, m)
    half = f.minus(square, f.times(last, new))  # of the square of the vector
    scale = f.chosen(f.less(f.full(_TINY), half), f.over(f.full(1.0), half), f.zeros())
    f.to(scale, scales, i)
    f.loop(i, [], lambda j: f.to(f.zeros(), product, j))
    f.loop(i, [], functools.partial(_multiply_row, f, i, product))

    def scaled(j: Any, total: Any) -> list[Any]:
        own = f.times(f.at(product, j), scale)
        f.to(own, product, j)
        return [f.fma(own, f.at(matrix, i, j, m), total)]

    (total,) = f.loop(i, [f.zeros()], scaled)
    along = f.times(f.times(total, scale), f.full(-0.5))
    f.loop(i, [], lambda j: f.to(f.fma(along, f.at(matrix, i, j, m), f.at(product, j)), product, j))
    f.loop(i, [], functools.partial(_update_row, f, i, product))


def _multiply_row(f: _Code, i: Any, product: Any, j: Any) -> None:
    """Add what row j of the lower half, and the column like it, give to the product with the vector of row i."""
    matrix, m = f.arguments[0], f.arguments[8]
    own = f.at(matrix, i, j, m)

    def each(k: Any, total: Any) -> list[Any]:
        value = f.at(matrix, j, k, m)
        f.to(f.fma(value, own, f.at(product, k)), product, k)
        return [f.fma(value, f.at(matrix, i, k, m), total)]

    (total,) = f.loop(j, [f.at(product, j)], each)
    f.to(f.fma(f.at(matrix, j, j, m), own, total), product, j)


def _update_row(f: _Code, i: Any, product: Any, j: Any) -> None:
    matrix, m = f.arguments[0], f.arguments[8]
    own, its = f.negative(f.at(matrix, i, j, m)), f.negative(f.at(product, j))

    def each(k: Any) -> None:
        value = f.fma(own, f.at(product, k), f.at(matrix, j, k, m))
        f.to(f.fma(its, f.at(matrix, i, k, m), value), matrix, j, k, m)

    f.loop(f.add(j, 1), [], each)


def _diagonal(f: _Code, tolerance: Any, first: Any) -> None:
    """Turn until the element beside `first` is 0 in all matrices, or there is no more room for rotations."""
    _, _, beside, *_, sweeps, m, most = f.arguments

    def wanted() -> Any:
        return f.any(f.less(tolerance, f.size(f.at(beside, first))))

    def fits() -> Any:
        return f.b.icmp_signed("<=", f.add(_number(f, sweeps, 1), m), most)

    f.repeat(lambda: f.b.and_(wanted(), fits()), lambda: _sweep(f, tolerance, first), _SWEEPS)
    done = f.b.or_(f.b.not_(wanted()), fits())
    _count(f, f.b.and_(_number(f, sweeps, 2), f.b.zext(done, simd.INT)), sweeps, 2)


def _sweep(f: _Code, tolerance: Any, first: Any) -> None:
    """Turn all pairs of neighbours from the last to `first`; where elements beside the diagonal are 0, begin anew."""
    _, values, beside, _, _, _, rotations, sweeps, m, _ = f.arguments
    number, used = _number(f, sweeps, 0), _number(f, sweeps, 1)
    last, end = f.add(m, -1), f.add(first, 1)
    e, d = f.at(beside, first), f.at(values, first)
    ready = f.less(f.size(e), tolerance)
    twice = f.chosen(ready, f.full(1.0), f.plus(e, e))
    g = f.over(f.minus(f.at(values, end), d), twice)
    root = f.root(f.fma(g, g, f.full(1.0)))
    shift = f.minus(d, f.over(e, f.plus(g, f.chosen(f.less(g, f.zeros()), f.negative(root), root))))
    one, zero = f.full(1.0), f.zeros()

    def turn(i: Any, g: Any, s: Any, c: Any, p: Any, fresh: Any) -> list[Any]:
        e, below = f.at(beside, i), f.add(i, 1)
        apart = f.b.fcmp_ordered("<=", f.size(e), tolerance)
        new, b = f.times(s, e), f.times(c, e)
        r = f.root(f.fma(new, new, f.times(g, g)))
        f.to(f.chosen(fresh, zero, f.chosen(apart, g, r)), beside, below)
        safe = f.less(f.full(_TINY), r)
        inverse = f.over(one, f.chosen(safe, r, one))
        s, c = f.chosen(safe, f.times(new, inverse), zero), f.chosen(safe, f.times(g, inverse), one)
        rest, here = f.minus(f.at(values, below), p), f.at(values, i)
        r = f.fma(f.minus(here, rest), s, f.times(f.plus(c, c), b))
        p = f.times(s, r)
        f.to(f.chosen(apart, rest, f.plus(rest, p)), values, below)
        place = f.add(used, f.b.sub(i, first))
        f.to(f.chosen(apart, one, c), rotations, place, 0, 2)
        f.to(f.chosen(apart, zero, s), rotations, place, 1, 2)
        g = f.chosen(apart, f.minus(here, shift), f.minus(f.times(c, r), b))
        return [g, f.chosen(apart, one, s), f.chosen(apart, one, c), f.chosen(apart, zero, p), apart]

    start = [f.minus(f.at(values, last), shift), one, one, zero, f.less(zero, one)]
    g, _, _, p, fresh = f.down(f.add(last, -1), first, start, turn)
    f.to(f.minus(f.at(values, first), p), values, first)
    f.to(f.chosen(fresh, zero, g), beside, first)
    _count(f, first, sweeps, f.add(number, 3))
    _count(f, f.add(number, 1), sweeps, 0)
    _count(f, f.add(used, f.b.sub(last, first)), sweeps, 1)


def _build_vectors() -> int:
    """Compile (vectors, matrix, scales, rotations, sweeps, m, k): turn k unit vectors of m numbers to those of the matrix."""
    f = _Code("vectors", "float32", "ppppill")
    m, count = f.arguments[5:]

    def block(n: Any) -> None:
        vectors = [f.b.gep(f.arguments[0], [f.mul(f.mul(f.add(n, i), m), f.lanes)]) for i in range(_BLOCK)]
        _turn_back(f, vectors)
        f.loop(m, [], lambda i: _reflect_back(f, vectors, i), start=1)

    f.loop(count, [], block, step=_BLOCK)
    return f.compile()


def _turn_back(f: _Code, vectors: list[Any]) -> None:
    """Undo all rotations, the last one first."""
    _, _, _, rotations, sweeps, m, _ = f.arguments
    last = f.add(m, -1)

    def sweep(n: Any, used: Any) -> list[Any]:
        first = _number(f, sweeps, f.add(f.b.sub(_number(f, sweeps, 0), n), 2))
        used = f.b.sub(used, f.b.sub(last, first))

        def turn(i: Any, *here: Any) -> list[Any]:
            place, below = f.add(used, f.b.sub(i, first)), f.add(i, 1)
            c, s = (f.at(rotations, place, j, 2) for j in range(2))
            there = [f.at(vector, below) for vector in vectors]
            for vector, x, y in zip(vectors, here, there, strict=True):
                f.to(f.fma(s, y, f.times(c, x)), vector, i)
            return [f.minus(f.times(c, y), f.times(s, x)) for x, y in zip(here, there, strict=True)]

        ends = f.loop(last, [f.at(vector, first) for vector in vectors], turn, start=first)
        for vector, end in zip(vectors, ends, strict=True):
            f.to(end, vector, last)
        return [used]

    f.loop(_number(f, sweeps, 0), [_number(f, sweeps, 1)], sweep)


def _reflect_back(f: _Code, vectors: list[Any], i: Any) -> None:
    """Reflect vectors along that which is left in row i."""
    _, matrix, scales, _, _, m, _ = f.arguments

    def along(k: Any, *totals: Any) -> list[Any]:
        value = f.at(matrix, i, k, m)
        return [f.fma(value, f.at(vector, k), total) for vector, total in zip(vectors, totals, strict=True)]

    totals = f.loop(i, [f.zeros()] * len(vectors), along)
    by = [f.times(f.negative(f.at(scales, i)), total) for total in totals]

    def each(k: Any) -> None:
        value = f.at(matrix, i, k, m)
        for vector, part in zip(vectors, by, strict=True):
            f.to(f.fma(part, value, f.at(vector, k)), vector, k)

    f.loop(i, [], each)
