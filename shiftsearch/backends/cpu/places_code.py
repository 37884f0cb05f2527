"""Vector code for patches at whole places: where they are, how they compare, adding them up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from shiftsearch.backends.cpu import simd

turn: Callable[..., Any] = simd.caller("ppllll")
find: Callable[..., Any] = simd.caller("iipi" + "l" * 11)
add: Callable[..., Any] = simd.caller("pppppppllllll")
compare: Callable[..., Any] = simd.caller("pppppllllll")
copy: Callable[..., Any] = simd.caller("ppll")
accumulate: Callable[..., Any] = simd.caller("ppplll")


@functools.cache
def build_turn(dtype: str, watches: bool = False) -> int:
    """Build (in, out, rows, columns, row stride of in, of out): out[column, row] = in[row, column].

    With `watches` it returns 0 if all numbers are finite.
    """
    f = simd.Function("turn", dtype, "ppllll")
    given, out, rows, columns, stride, out_stride = f.arguments
    n, index = f.lanes, ir.VectorType(ir.IntType(32), f.lanes)
    low = ir.Constant(index, [i // 2 + i % 2 * n for i in range(n)])
    high = ir.Constant(index, [(n + i) // 2 + i % 2 * n for i in range(n)])
    whole_rows, whole_columns = (f.mul(f.b.sdiv(count, f.int(n)), n) for count in (rows, columns))

    def block(i, j, *seen):
        square, seen = [f.load(given, f.add(f.mul(f.add(i, lane), stride), j)) for lane in range(n)], list(seen)
        for lane, vector in enumerate(square if watches else []):
            seen[lane % 2] = f.fma(vector, f.zeros(), seen[lane % 2])  # 0 times infinity or NaN is NaN
        for _ in range(n.bit_length() - 1):  # interleaving its halves so often transposes the square
            pairs = zip(square[: n // 2], square[n // 2 :], strict=True)
            square = [f.b.shuffle_vector(x, y, half) for x, y in pairs for half in (low, high)]
        for lane, vector in enumerate(square):
            f.store(vector, out, f.add(f.mul(f.add(j, lane), out_stride), i))
        return seen

    def one(i, j, *seen):
        value = f.scalar(given, f.add(f.mul(i, stride), j))
        f.b.store(value, f._at(out, f.add(f.mul(j, out_stride), i)))
        return [f.b.fadd(f.b.fmul(value, f.element(0.0)), total) for total in seen]

    def blocks(i, *seen):
        return f.loop(whole_columns, seen, lambda j, *seen: block(i, j, *seen), step=n)

    def column(j, *some):
        return f.loop(whole_rows, some, lambda i, *some: one(i, j, *some))

    def row(i, *some):
        return f.loop(columns, some, lambda j, *some: one(i, j, *some))

    seen = f.loop(whole_rows, [f.zeros()] * 2 * watches, blocks, step=n)
    some = f.loop(columns, [f.element(0.0)] * watches, column, start=whole_columns)
    some = f.loop(rows, some, row, start=whole_rows)
    if not watches:
        return f.compile()
    return f.compile(f.no_number(f.plus(f.plus(*seen), f.splat(some[0]))))


@functools.cache
def build_find(mirrored: bool) -> int:
    """Build where the patches of a row of queries begin in k, whose border is mirrored or empty.

    (offsets, columns, starts, scratch, places, t, y, frames, height, width, rows, row, channels, shift, patch): columns
    are those of the queries, one per place; `shift` is how far a patch begins behind its place, in memory. Behind
    room for three vectors, scratch gets the least and the greatest frame, then row, of each lane.
    """
    f = simd.Function("find", "float32", "iipi" + "l" * 11)
    offsets, columns, starts, scratch, places, *numbers = f.arguments
    t, y, frames, height, width, rows, row, channels, shift, patch = numbers
    b, n, i32 = f.b, f.lanes, ir.IntType(32)
    vector, wide = ir.VectorType(i32, n), ir.VectorType(simd.INT, n)
    starts = b.bitcast(starts, simd.INT.as_pointer())

    def constant(values):
        return ir.Constant(vector, list(values))

    def splat(number):
        return f.splat(b.trunc(number, i32), n)

    def load(i):
        """(dt, dy, dx) of n places; nothing is read behind the row, where memory may end."""
        parts = []
        for part in range(3):
            mask = f.first(b.sub(f.mul(b.sub(places, i), 3), f.int(part * n)))
            address = f._at(offsets, f.add(f.mul(i, 3), part * n), vector)
            name = f"llvm.masked.load.v{n}i32.p0"
            function = f._declare(name, vector, [address.type, i32, mask.type, vector])
            parts.append(b.call(function, [address, i32(4), mask, constant([0] * n)]))
        for axis in range(3):
            picks = [3 * lane + axis for lane in range(n)]
            near = b.shuffle_vector(parts[0], parts[1], constant(min(i, 2 * n - 1) for i in picks))
            yield b.shuffle_vector(
                near, parts[2], constant(lane if i < 2 * n else i - n for lane, i in enumerate(picks))
            )

    def mirror(at, size):
        period = b.shl(b.sub(size, f.int(1)), f.int(1))
        period = b.select(b.icmp_signed(">", period, f.int(0)), period, f.int(1))
        rest = b.srem(at, period)
        rest = b.select(b.icmp_signed("<", rest, f.int(0)), b.add(rest, period), rest)
        other = b.sub(period, rest)
        return b.select(b.icmp_signed("<", rest, other), rest, other)

    def limit(at, size):
        """Limit positions to the margin, where all is empty."""
        least, most = b.sub(f.int(0), shift), b.sub(b.add(size, patch), shift)
        at = b.select(b.icmp_signed("<", at, least), least, at)
        return b.select(b.icmp_signed(">", at, most), most, at)

    def block(i, *bounds):
        across = f.load(columns, i, n)
        bases, sizes = (splat(t), splat(y), across), (frames, height, width)
        found = [b.add(base, offset) for base, offset in zip(bases, load(i), strict=True)]
        # a sum of 32 bits that wraps around is outside too
        outside = [b.icmp_unsigned(">=", at, splat(size)) for at, size in zip(found, sizes, strict=True)]
        for axis, at in enumerate(found):
            f.store(at, scratch, axis * n)
        anywhere = b.or_(b.or_(outside[0], outside[1]), outside[2])
        all_inside = b.icmp_unsigned("==", b.bitcast(anywhere, ir.IntType(n)), ir.IntType(n)(0))

        def bring_inside(lane):
            for axis, size in enumerate(sizes):
                base = f.scalar(columns, f.add(i, lane)) if axis == 2 else b.trunc((t, y)[axis], i32)
                slot = f.add(axis * n, lane)
                offset = b.sub(f.scalar(scratch, slot), base)
                at = b.add(b.sext(base, simd.INT), b.sext(offset, simd.INT))
                at = mirror(at, size) if mirrored or axis == 0 else limit(at, size)
                b.store(b.trunc(at, i32), f._at(scratch, slot))

        f.loop(b.select(all_inside, f.int(0), f.int(n)), [], bring_inside)
        frame, down, across = (f.load(scratch, axis * n, n) for axis in range(3))
        line = b.add(b.add(b.mul(frame, splat(rows)), down), splat(shift))
        start = b.mul(b.sext(line, wide), f.splat(row, n))
        start = b.add(start, b.mul(b.sext(b.add(across, splat(shift)), wide), f.splat(channels, n)))
        b.store(start, f._at(starts, i, wide), align=8)
        pairs = zip(bounds, (frame, frame, down, down), ("<", ">", "<", ">"), strict=True)
        return [b.select(b.icmp_signed(sign, at, bound), at, bound) for bound, at, sign in pairs]

    least, most = constant([2**31 - 1] * n), constant([-1] * n)
    bounds = f.loop(places, [least, most, least, most], block, step=n)
    for number, bound in enumerate(bounds):
        f.store(bound, scratch, (3 + number) * n)
    return f.compile()


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
            if l2 and aggregates:
                totals[i] = f.plus(totals[i], moved)
            elif aggregates:
                totals[i] = f.fma(by, key, totals[i])
            if scatters:
                old = f.load(to_k, f.add(to, start), width)
                new = f.minus(old, moved) if l2 else f.fma(by, query[i], old)
                f.store(new, to_k, f.add(to, start))
        return totals

    def query_row(x, r):
        first, here = f.mul(x, kept), f.add(f.mul(x, step), f.mul(r, q_row))

        def chunk(offset, pieces):
            at, along = f.add(here, offset), f.add(f.mul(r, k_row), offset)
            query, totals = [], []
            if l2 or scatters:
                query = [f.load(q, f.add(at, start), width) for start, width in pieces]
            if aggregates:
                totals = [f.load(to_q, f.add(at, start), width) for start, width in pieces]
            totals = f.loop(kept, totals, lambda n, *totals: pair(f.add(first, n), query, list(totals), pieces, along))
            for (start, _), total in zip(pieces, totals, strict=False):
                f.store(total, to_q, f.add(at, start))
            return []

        _along(f, row, simd.registers() // 4, [], chunk)

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

    def wide(vector, to):
        """Return the vector with zeros behind."""
        count = vector.type.count
        picks = ir.Constant(ir.VectorType(ir.IntType(32), to), [min(i, count) for i in range(to)])
        return vector if count == to else f.b.shuffle_vector(vector, f.zeros(count), picks)

    def score(x, number):
        start = f.scalar(starts, f.add(f.mul(x, kept), number))

        def patch_row(r, *sums):
            q_at, k_at = f.add(f.mul(x, step), f.mul(r, q_row)), f.add(start, f.mul(r, k_row))

            def chunk(offset, pieces, *sums):
                sums = list(sums)
                for i, (at, width) in enumerate(pieces):
                    one = f.load(q, f.add(q_at, offset, at), width)
                    other = f.load(k, f.add(k_at, offset, at), width)
                    if metric == "l2":
                        one = other = f.minus(one, other)
                    sums[i] = f.fma(wide(one, row[0][1]), wide(other, row[0][1]), sums[i])
                return sums

            return _along(f, row, most, sums, chunk)

        sums = f.loop(rows, [f.zeros(row[0][1])] * min(most, len(row)), patch_row)
        f.store(wide(f.tree(sums), n), scratch, f.mul(number, n))

    def query(x, *seen):
        f.loop(kept, [], lambda number: score(x, number))

        def reduce(i, *seen):
            sums = f.lane_sums([f.load(scratch, f.mul(f.add(i, lane), n)) for lane in range(n)])
            f.store_masked(sums, out, f.add(f.mul(x, kept), i), f.first(f.b.sub(kept, i)))
            return [f.fma(sums, f.zeros(), total) for total in seen]

        return f.loop(kept, seen, reduce, step=n)

    seen = f.loop(queries, [f.zeros()] * watches, query)
    return f.compile(f.no_number(*seen) if watches else 0)


def _runs(lanes: int, length: int):
    """Yield (begin, length) of vectors, the longest first, that make up a row of a patch."""
    begin = 0
    while begin < length:
        while lanes > length - begin:
            lanes //= 2
        yield begin, lanes
        begin += lanes


@functools.cache
def build_copy(dtype: str, patch: int) -> int:
    """Build (in, out, rows, row stride of in): a patch as one run of memory."""
    f = simd.Function("copy", dtype, "ppll")
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
