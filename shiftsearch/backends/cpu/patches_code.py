"""Vector code for patches at whole places, whose rows are runs of memory: comparing, adding up and copying them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

from shiftsearch.backends.cpu import simd

add: Callable[..., Any] = simd.caller("pppppppllllll")
compare: Callable[..., Any] = simd.caller("pppppllllll")
copy_patch: Callable[..., Any] = simd.caller("ppll")
accumulate: Callable[..., Any] = simd.caller("ppplll")


def _pieces(f, channels: int, patch: int) -> list[tuple[int, int]]:
    """Return a row of a patch in vectors, (start, width) each.

    Vectors that cross a cache line, or read what was just written beside them, cost more than short ones. So no vector
    leaves the row, and none is longer than half a cache line unless each pixel begins one.
    """
    run, at, pieces = patch * channels, 0, []
    width = f.lanes if channels % f.lanes == 0 else min(f.lanes, 32 // f.bytes)
    while at < run:
        while at + width > run:
            width //= 2
        pieces.append((at, width))
        at += width
    return pieces


def _along(f, pieces, most: int, carried, body):
    """Return the last `carried = body(at, pieces, *carried)` for all of a row of a patch, at most so many pieces at a time."""
    each, width = -(-len(pieces) // -(-len(pieces) // most)), pieces[0][1]
    turns = sum(piece[1] == width for piece in pieces) // each
    if turns > 1:
        end, step = turns * each * width, each * width
        carried = f.loop(end, carried, lambda at, *carried: body(at, pieces[:each], *carried), step=step)
    for first in range(turns * each if turns > 1 else 0, len(pieces), each):
        carried = body(f.int(0), pieces[first : first + each], *carried)
    return carried


@functools.cache
def build_add(dtype: str, metric: str, aggregates: bool, scatters: bool, channels: int, patch: int) -> int:
    """Build what the pairs of a row of queries add to the sums for q (`aggregates`) and for k (`scatters`).

    (q, to_q, k, to_k, weights, starts, targets, queries, kept, rows, step, row stride of q, of k): the n-th patch of
    query x begins at k[starts[x, n]] and to_k[targets[x, n]]; the queries are `step` numbers apart.
    """
    f = simd.Function("add", dtype, "pppppppllllll")
    q, to_q, k, to_k, weights, starts, targets, queries, kept, rows, step, q_row, k_row = f.arguments
    starts, targets = (f.b.bitcast(table, simd.INT.as_pointer()) for table in (starts, targets))
    l2, row = metric == "l2", _pieces(f, channels, patch)

    def pair(number, query, totals, pieces, along):
        """Add one patch row of one pair; `along` is where it lies behind the beginnings of k's patches."""
        weight = f.scalar(weights, number)
        weight = f.b.fadd(weight, weight) if l2 else weight
        at, to = f.add(f.scalar(starts, number), along), f.add(f.scalar(targets, number), along) if scatters else None
        for i, (start, width) in enumerate(pieces):
            by = f.splat(weight, width)
            key = f.load(k, f.add(at, start), width) if l2 or aggregates else None
            if l2:
                moved = f.b.fmul(by, f.minus(query[i], key))
            if aggregates:
                totals[i] = f.plus(totals[i], moved) if l2 else f.fma(by, key, totals[i])
            if scatters:
                old = f.load(to_k, f.add(to, start), width)
                f.store(f.minus(old, moved) if l2 else f.fma(by, query[i], old), to_k, f.add(to, start))
        return totals

    def chunk(first, q_at, k_at, offset, pieces):
        """Add these pieces of one row of a query's patches, from pair `first` on; the query's sums stay in registers."""
        at, along = f.add(q_at, offset), f.add(k_at, offset)
        query = [f.load(q, f.add(at, start), width) for start, width in pieces] if l2 or scatters else []
        totals = [f.load(to_q, f.add(at, start), width) for start, width in pieces] if aggregates else []
        totals = f.loop(kept, totals, lambda n, *totals: pair(f.add(first, n), query, list(totals), pieces, along))
        for (start, _), total in zip(pieces, totals, strict=False):
            f.store(total, to_q, f.add(at, start))
        return []

    def query_row(x, r):
        first, q_at, k_at = f.mul(x, kept), f.add(f.mul(x, step), f.mul(r, q_row)), f.mul(r, k_row)
        _along(f, row, simd.registers() // 4, [], partial(chunk, first, q_at, k_at))

    f.loop(queries, [], lambda x: f.loop(rows, [], lambda r: query_row(x, r)))
    return f.compile()


@functools.cache
def build_compare(dtype: str, metric: str, channels: int, patch: int, watches: bool) -> int:
    """Build the scores of a row of queries: (q, k, starts, out, scratch, queries, kept, rows, step, row stride of q, of k).

    With `watches` it returns 0 if all scores are finite.
    """
    f = simd.Function("compare", dtype, "pppppllllll")
    q, k, starts, out, scratch, queries, kept, rows, step, q_row, k_row = f.arguments
    starts = f.b.bitcast(starts, simd.INT.as_pointer())
    most, n, row = simd.registers() // 4, f.lanes, _pieces(f, channels, patch)
    width = row[0][1]

    def chunk(q_at, k_at, offset, pieces, *sums):
        """Add the products or squares of these pieces of a row to the sums."""
        sums = list(sums)
        for i, (at, short) in enumerate(pieces):
            one = f.load(q, f.add(q_at, offset, at), short)
            other = f.load(k, f.add(k_at, offset, at), short)
            if metric == "l2":
                one = other = f.minus(one, other)
            sums[i] = f.fma(_widened(f, one, width), _widened(f, other, width), sums[i])
        return sums

    def patch_row(x, start, r, *sums):
        q_at, k_at = f.add(f.mul(x, step), f.mul(r, q_row)), f.add(start, f.mul(r, k_row))
        return _along(f, row, most, sums, partial(chunk, q_at, k_at))

    def score(x, number):
        start = f.scalar(starts, f.add(f.mul(x, kept), number))
        zeros = [f.zeros(width)] * min(most, len(row))
        sums = f.loop(rows, zeros, partial(patch_row, x, start))
        f.store(_widened(f, f.tree(sums), n), scratch, f.mul(number, n))

    def reduce(x, i, *seen):
        """Write the scores of a vector of candidates, whose sums lie in scratch."""
        sums = f.lane_sums([f.load(scratch, f.mul(f.add(i, lane), n)) for lane in range(n)])
        f.store_masked(sums, out, f.add(f.mul(x, kept), i), f.first(f.b.sub(kept, i)))
        return [f.fma(sums, f.zeros(), total) for total in seen]

    def query(x, *seen):
        f.loop(kept, [], lambda number: score(x, number))
        return f.loop(kept, seen, partial(reduce, x), step=n)

    seen = f.loop(queries, [f.zeros()] * watches, query)
    return f.compile(f.has_nan(*seen) if watches else 0)


def _widened(f, vector, n: int):
    """Return a vector of n lanes, zeros behind those given."""
    count = vector.type.count
    return vector if count == n else f.shuffle(vector, f.zeros(count), [min(i, count) for i in range(n)])


def _runs(lanes: int, length: int):
    """Yield (begin, length) of vectors, the longest first, that make up a row of a patch."""
    begin = 0
    while begin < length:
        while lanes > length - begin:
            lanes //= 2
        yield begin, lanes
        begin += lanes


@functools.cache
def build_copy_patch(dtype: str, patch: int) -> int:
    """Build (in, out, rows, row stride of in): a patch as one run of memory."""
    f = simd.Function("copy_patch", dtype, "ppll")
    given, out, rows, stride = f.arguments

    def row(i):
        for begin, n in _runs(f.lanes, patch):
            f.store(f.load(given, f.add(f.mul(i, stride), begin), n), out, f.add(f.mul(i, patch), begin))

    f.loop(rows, [], row)
    return f.compile()


@functools.cache
def build_accumulate(dtype: str, patch: int, same: bool) -> int:
    """Build (values, weight, out, rows, row stride of values, of out): out += weight * values, or all times the `same` value."""
    f = simd.Function("accumulate", dtype, "ppplll")
    values, weight, out, rows, stride, out_stride = f.arguments
    weight = f.scalar(weight, 0)
    if same:
        weight = f.b.fmul(weight, f.scalar(values, 0))

    def row(i):
        for begin, n in _runs(f.lanes, patch):
            to = f.add(f.mul(i, out_stride), begin)
            total, more = f.load(out, to, n), f.splat(weight, n)
            if same:
                total = f.plus(total, more)
            else:
                total = f.fma(more, f.load(values, f.add(f.mul(i, stride), begin), n), total)
            f.store(total, out, to)

    f.loop(rows, [], row)
    return f.compile()
