"""Principal components of many small matrices at once, in main memory: vector code with a matrix in each lane.

A symmetric matrix is made tridiagonal by reflections, and diagonal by the QL method with shifts (Wilkinson and Reinsch,
1971). All lanes take the same steps; where one is done, its rotations turn nothing.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.memory import aligned

_BLOCK = 4  # columns of vectors that are rotated at once
_EXACT = 2e-7  # of the trace: smaller elements are rounding
_SWEEPS = 100  # for a value: some two are enough, unless rounding keeps an element from its tolerance
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
        self._wide = -(-m // _BLOCK) * _BLOCK
        self._m, self._lanes = m, lanes
        sizes = {"matrix": (m, m), "vectors": (m, self._wide), "values": (m,), "beside": (m,), "turns": (2, m)}
        sizes["tolerance"] = ()
        self._arrays = {
            name: aligned(int(np.prod(size)) * lanes, np.float32, np.empty).reshape(*size, lanes)
            for name, size in sizes.items()
        }

    def decomposed(self, matrices: np.ndarray, least: float, exact: float) -> tuple[np.ndarray, np.ndarray]:
        """Return what `largest` does, of no more matrices than there are lanes."""
        arrays, count = self._arrays, len(matrices)
        trace = np.maximum(matrices.diagonal(axis1=1, axis2=2).sum(1), _TINY)
        arrays["matrix"][..., count:], arrays["tolerance"][count:] = 0, 1
        np.multiply(matrices.transpose(1, 2, 0), 1 / trace, out=arrays["matrix"][..., :count])
        arrays["tolerance"][:count] = np.maximum(exact / trace, _EXACT)
        _decompose()(*(array.ctypes.data for array in arrays.values()), self._m, self._wide)
        values = arrays["values"][:, :count] * trace
        order = np.argsort(-values, 0)[: max(1, int((values >= least).sum(0).max()))].T
        each = np.arange(count)[:, None]
        return values.T[each, order], arrays["vectors"][order, : self._m, each].swapaxes(1, 2)


@functools.cache
def _decompose() -> Callable[..., int]:
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 2)(_build())


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
    """Compile (matrix, vectors, values, beside, turns, tolerance, m, columns of vectors)."""
    f = _Code("decompose", "float32", "ppppppll")
    m = f.arguments[6]
    f.down(f.add(m, -1), 1, [], functools.partial(_reflect, f))
    _gather_reflections(f)
    tolerance = f.load(f.arguments[5], 0)
    f.loop(f.add(m, -1), [], functools.partial(_diagonal, f, tolerance))
    return f.compile()


def _reflect(f: _Code, i: Any) -> None:
    """Make row i tridiagonal: reflect the rows and columns before it along a vector, which is left in the row."""
    matrix, _, _, beside, turns, _, m, _ = f.arguments
    (square,) = f.loop(i, [f.zeros()], lambda k, s: [f.fma(f.at(matrix, i, k, m), f.at(matrix, i, k, m), s)])
    before = f.add(i, -1)
    last, root = f.at(matrix, i, before, m), f.root(square)
    new = f.chosen(f.less(f.zeros(), last), f.negative(root), root)
    f.to(new, beside, before)
    f.to(f.minus(last, new), matrix, i, before, m)
    half = f.minus(square, f.times(last, new))  # of the square of the vector
    scale = f.chosen(f.less(f.full(_TINY), half), f.over(f.full(1.0), half), f.zeros())
    f.to(scale, turns, i)
    product = f.b.gep(turns, [f.mul(m, f.lanes)])
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
    matrix, m = f.arguments[0], f.arguments[6]
    own = f.at(matrix, i, j, m)

    def each(k: Any, total: Any) -> list[Any]:
        value = f.at(matrix, j, k, m)
        f.to(f.fma(value, own, f.at(product, k)), product, k)
        return [f.fma(value, f.at(matrix, i, k, m), total)]

    (total,) = f.loop(j, [f.at(product, j)], each)
    f.to(f.fma(f.at(matrix, j, j, m), own, total), product, j)


def _update_row(f: _Code, i: Any, product: Any, j: Any) -> None:
    matrix, m = f.arguments[0], f.arguments[6]
    own, its = f.negative(f.at(matrix, i, j, m)), f.negative(f.at(product, j))

    def each(k: Any) -> None:
        value = f.fma(own, f.at(product, k), f.at(matrix, j, k, m))
        f.to(f.fma(its, f.at(matrix, i, k, m), value), matrix, j, k, m)

    f.loop(f.add(j, 1), [], each)


def _gather_reflections(f: _Code) -> None:
    """Write the product of all reflections to the vectors, a column in each row, and the diagonal to the values."""
    matrix, vectors, values, _, turns, _, m, columns = f.arguments
    f.loop(f.mul(m, columns), [], lambda n: f.to(f.zeros(), vectors, n))
    f.loop(m, [], lambda n: f.to(f.full(1.0), vectors, n, n, columns))
    f.loop(m, [], lambda n: f.to(f.at(matrix, n, n, m), values, n))

    def one(i: Any) -> None:
        scale = f.negative(f.at(turns, i))

        def column(j: Any) -> None:
            (total,) = f.loop(
                i, [f.zeros()], lambda k, t: [f.fma(f.at(matrix, i, k, m), f.at(vectors, j, k, columns), t)]
            )
            by = f.times(total, scale)
            f.loop(
                i,
                [],
                lambda k: f.to(f.fma(by, f.at(matrix, i, k, m), f.at(vectors, j, k, columns)), vectors, j, k, columns),
            )

        f.loop(i, [], column)

    f.loop(m, [], one, start=1)


def _diagonal(f: _Code, tolerance: Any, first: Any) -> None:
    """Turn until the element beside `first` is 0 in all matrices."""
    beside = f.arguments[3]

    def wanted() -> Any:
        return f.any(f.less(tolerance, f.size(f.at(beside, first))))

    f.repeat(wanted, lambda: _sweep(f, tolerance, first), _SWEEPS)


def _sweep(f: _Code, tolerance: Any, first: Any) -> None:
    """Turn all pairs of neighbours from the last to `first`; where elements beside the diagonal are 0, begin anew."""
    _, _, values, beside, turns, _, m, _ = f.arguments
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
        f.to(f.chosen(apart, one, c), turns, i)
        f.to(f.chosen(apart, zero, s), turns, f.add(m, i))
        g = f.chosen(apart, f.minus(here, shift), f.minus(f.times(c, r), b))
        return [g, f.chosen(apart, one, s), f.chosen(apart, one, c), f.chosen(apart, zero, p), apart]

    start = [f.minus(f.at(values, last), shift), one, one, zero, f.less(zero, one)]
    g, _, _, p, fresh = f.down(f.add(last, -1), first, start, turn)
    f.to(f.minus(f.at(values, first), p), values, first)
    f.to(f.chosen(fresh, zero, g), beside, first)
    _turn_vectors(f, first)


def _turn_vectors(f: _Code, first: Any) -> None:
    _, vectors, _, _, turns, _, m, columns = f.arguments
    last = f.add(m, -1)

    def block(k: Any) -> None:
        places = [f.add(k, n) for n in range(_BLOCK)]

        def turn(i: Any, *below: Any) -> list[Any]:
            c, s = f.at(turns, i), f.at(turns, f.add(m, i))
            here = [f.at(vectors, i, place, columns) for place in places]
            for place, x, y in zip(places, here, below, strict=True):
                f.to(f.fma(s, x, f.times(c, y)), vectors, f.add(i, 1), place, columns)
            return [f.minus(f.times(c, x), f.times(s, y)) for x, y in zip(here, below, strict=True)]

        ends = f.down(f.add(last, -1), first, [f.at(vectors, last, place, columns) for place in places], turn)
        for place, end in zip(places, ends, strict=True):
            f.to(end, vectors, first, place, columns)

    f.loop(columns, [], block, step=_BLOCK)
