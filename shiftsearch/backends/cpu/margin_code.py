"""Vector code that transposes a part of memory: planes of channels become pixels with their channels side by side, or back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from shiftsearch.backends.cpu import simd

turn: Callable[..., Any] = simd.caller("ppllll")


@functools.cache
def build_turn(dtype: str, watches: bool = False) -> int:
    """Build out[column, row] = in[row, column]: (in, out, rows, columns, row stride of in, of out).

    With `watches` it returns 0 if all numbers are finite.
    """
    f = simd.Function("turn", dtype, "ppllll")
    given, out, rows, columns, stride, out_stride = f.arguments
    n = f.lanes
    whole_rows, whole_columns = (f.mul(f.b.sdiv(count, f.int(n)), n) for count in (rows, columns))

    def square(i, j, *seen):
        vectors = [f.load(given, f.add(f.mul(f.add(i, lane), stride), j)) for lane in range(n)]
        seen = _watch(f, vectors, seen)
        for lane, vector in enumerate(_transposed(f, vectors)):
            f.store(vector, out, f.add(f.mul(f.add(j, lane), out_stride), i))
        return seen

    def one(i, j, *seen):
        value = f.scalar(given, f.add(f.mul(i, stride), j))
        f.b.store(value, f._at(out, f.add(f.mul(j, out_stride), i)))
        return [f.b.fadd(f.b.fmul(value, f.element(0.0)), total) for total in seen]

    def squares(i, *seen):
        return f.loop(whole_columns, seen, lambda j, *seen: square(i, j, *seen), step=n)

    def column(j, *some):
        return f.loop(whole_rows, some, lambda i, *some: one(i, j, *some))

    def row(i, *some):
        return f.loop(columns, some, lambda j, *some: one(i, j, *some))

    seen = f.loop(whole_rows, [f.zeros()] * 2 * watches, squares, step=n)
    some = f.loop(columns, [f.element(0.0)] * watches, column, start=whole_columns)
    some = f.loop(rows, some, row, start=whole_rows)
    if not watches:
        return f.compile()
    return f.compile(f.has_nan(f.plus(f.plus(*seen), f.splat(some[0]))))


def _watch(f, vectors, seen):
    """Return `seen`, NaN if a vector is not finite: 0 times infinity or NaN is NaN. Two sums keep both adders busy."""
    seen = list(seen)
    for i, vector in enumerate(vectors if seen else []):
        seen[i % 2] = f.fma(vector, f.zeros(), seen[i % 2])
    return seen


def _transposed(f, vectors):
    """Return the columns of a square: interleaving its halves so often transposes it."""
    n = len(vectors)
    low = [i // 2 + i % 2 * n for i in range(n)]
    high = [(n + i) // 2 + i % 2 * n for i in range(n)]
    for _ in range(n.bit_length() - 1):
        pairs = zip(vectors[: n // 2], vectors[n // 2 :], strict=True)
        vectors = [f.shuffle(x, y, half) for x, y in pairs for half in (low, high)]
    return vectors
