"""The loops that decide the speed of a search, as vector code: distances of patches, and box sums.

What each builder makes is compiled once per (dtype, metric, sizes of the inner loops) and returns an address.
With "dot" distances are negative products, so that smaller is better everywhere.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.windows import TILE

ROW = 16  # pixels of a row of a tile with its patches: TILE + patch - 1 must fit
_DOWN = 3  # displacements down that `boxes` does at a time

wide: Callable[..., Any] = simd.caller("pppplllll")
small: Callable[..., Any] = simd.caller("ppplllll")
boxes: Callable[..., Any] = simd.caller("pppplllllllll")
pick: Callable[..., Any] = simd.caller("ppl")
interpolate: Callable[..., Any] = simd.caller("ppplllll")
copy: Callable[..., Any] = simd.caller("ppl")


def _accumulate(f, metric, q, k, total):
    """Return total + (q - k)**2, or total - q * k."""
    if metric == "dot":
        return f.fma(f.b.fneg(q), k, total)
    difference = f.minus(q, k)
    return f.fma(difference, difference, total)


def _parts(count: int, most: int) -> list[range]:
    """Return range(count) in the fewest parts of at most `most`, as even as can be."""
    parts = -(-count // most)
    ends = [count * i // parts for i in range(parts + 1)]
    return [range(*pair) for pair in itertools.pairwise(ends)]


@functools.cache
def build_wide(dtype: str, metric: str, window: int) -> int:
    """Build the distances of one query to its window, channels last, channels a multiple of the lanes.

    (q, k, out, scratch, patch rows, patch * channels, row stride of q, of k, channels): a row of a patch is
    one run of memory, and the candidates of a window row are shifted runs. They share the loads of q.
    """
    f = simd.Function("wide", dtype, "pppplllll")
    q, k, out, scratch, rows, run, q_stride, k_stride, channels = f.arguments
    for columns in _parts(window, simd.registers() - 4):
        shifts = [f.mul(j, channels) for j in columns]

        def window_row(i, columns=columns, shifts=shifts):
            def patch_row(r, *sums):
                q_row, k_row = f.mul(r, q_stride), f.mul(f.add(i, r), k_stride)

                def along(e, *sums):
                    vector, at = f.load(q, f.add(q_row, e)), f.add(k_row, e)
                    keys = [f.load(k, f.add(at, shift)) for shift in shifts]
                    return [_accumulate(f, metric, vector, key, total) for key, total in zip(keys, sums, strict=True)]

                return f.loop(run, sums, along, step=f.lanes)

            sums = f.loop(rows, [f.zeros()] * len(columns), patch_row)
            at = f.mul(f.add(f.mul(i, window), columns[0]), f.lanes)
            for n, total in enumerate(sums):
                f.store(total, scratch, f.add(at, n * f.lanes))

        f.loop(window, [], window_row)
    count, n = window * window, f.lanes

    def reduce(i):
        vectors = [f.load(scratch, f.mul(f.add(i, lane), n)) for lane in range(n)]
        f.store(f.lane_sums(vectors), out, i)

    f.loop(count // n * n, [], reduce, step=n)
    for i in range(count // n * n, count):
        total = f.tree(f.b.extract_element(f.load(scratch, i * n), ir.IntType(32)(lane)) for lane in range(n))
        f.b.store(total, f._at(out, i))
    return f.compile()


@functools.cache
def build_small(dtype: str, metric: str, window: int, patch: int) -> int:
    """Build the distances of one query to its window, planes of channels in each row, any number of channels.

    (q, k, out, channels, row stride of q, channel stride of q, row stride of k, channel stride of k): lanes lie
    along the columns of the window. Each vector of k serves all patch rows that meet it.
    """
    f = simd.Function("small", dtype, "ppplllll")
    q, k, out, channels, q_row, q_channel, k_row, k_channel = f.arguments
    for first in range(0, window, f.lanes):
        for rows in _parts(window, simd.registers() * 3 // 4):

            def channel(c, *sums, first=first, rows=rows):
                def column(j, *sums):
                    q_at = f.add(f.mul(c, q_channel), j)
                    k_at = f.add(f.mul(c, k_channel), j, first)
                    sums = list(sums)
                    for y in range(rows[0], rows[-1] + patch):
                        keys = f.load(k, f.add(k_at, f.mul(k_row, y)))
                        for i in range(max(rows[0], y - patch + 1), min(rows[-1], y) + 1):
                            query = f.splat(f.scalar(q, f.add(q_at, f.mul(q_row, y - i))))
                            sums[i - rows[0]] = _accumulate(f, metric, query, keys, sums[i - rows[0]])
                    return sums

                return f.loop(patch, sums, column)

            sums = f.loop(channels, [f.zeros()] * len(rows), channel)
            mask = f.first(window - first) if window - first < f.lanes else None
            for i, total in zip(rows, sums, strict=True):
                if mask is None:
                    f.store(total, out, i * window + first)
                else:
                    f.store_masked(total, out, i * window + first, mask)
    return f.compile()


@functools.cache
def build_boxes(dtype: str, metric: str, patch: int, few: int) -> int:
    """Build the distances of all patches of a tile, for a range of displacements, by box sums over those of its pixels.

    (q, k, scratch, out, displacements down, across, channels, row stride of q, channel stride of q, row stride of
    k, channel stride of k, top, bottom): out[dy * across + dx, TILE, TILE]. Rows top ... bottom - 1 of k, counted from
    its address, are in memory: no other one is read, and sums that need one hold anything. Up to 4 channels are no
    loop: `few` says how many.
    """
    f = simd.Function("boxes", dtype, "pppplllllllll")
    q, k, scratch, out, down, across, channels, q_row, q_channel, k_row, k_channel, top, bottom = f.arguments
    rows = TILE + patch - 1
    per_row = ROW // f.lanes or 1
    widths = [n for n in (12, 9, 6, 3, 1) if n * per_row <= simd.registers() * 3 // 4]

    def pixels(n, q_at, k_at, to, dx):
        """Write one row of the distances of pixels, for n displacements across, which share the loads of q."""

        def channel(c, *sums):
            vector, at = f.load(q, f.add(q_at, f.mul(c, q_channel)), ROW), f.add(k_at, f.mul(c, k_channel), dx)
            keys = f.shifted(k, at, n, ROW)
            return [_accumulate(f, metric, vector, key, total) for key, total in zip(keys, sums, strict=True)]

        sums = [f.zeros(ROW)] * n
        if few < 5:
            for c in range(few):
                sums = channel(c, *sums)
        else:
            sums = f.loop(channels, sums, channel)
        for i, total in enumerate(sums):
            f.store(total, scratch, f.mul(f.add(to, f.mul(f.add(dx, i), rows)), ROW))

    def some_rows(first):
        """Do `_DOWN` displacements: rows of k are then used several times while they are near, and scratch stays near."""
        count = f.b.sub(f.least(f.add(first, _DOWN), down), first)

        def key_row(y):
            low, high = f.most(f.b.sub(y, f.int(rows - 1)), 0), f.least(f.add(y, 1), count)
            k_at = f.mul(f.add(first, y), k_row)

            def displacement(dy):
                row, dx = f.b.sub(y, dy), f.int(0)
                to = f.add(f.mul(f.mul(dy, across), rows), row)
                for n in widths:  # as many as fit, the widest first
                    last = f.add(dx, f.mul(f.b.sdiv(f.b.sub(across, dx), f.int(n)), n))
                    f.loop(last, [], lambda at, n=n: pixels(n, f.mul(row, q_row), k_at, to, at), step=n, start=dx)
                    dx = last

            f.loop(high, [], displacement, start=low)

        there = f.most(f.b.sub(top, first), 0), f.least(f.b.sub(bottom, first), f.add(count, rows - 1))
        f.loop(there[1], [], key_row, start=there[0])
        to = f.mul(first, across)

        def sums(i):
            _box_sums(f, patch, scratch, f.mul(i, rows * ROW), out, f.mul(f.add(to, i), TILE * TILE))

        f.loop(f.mul(count, across), [], sums)

    f.loop(down, [], some_rows, step=_DOWN)
    return f.compile()


def _box_sums(f, patch, given, at, out, to):
    """Write sums over patch x patch of given[at :], (rows, ROW), to out[to :], (TILE, TILE).

    Longer runs are sums of shorter ones, never differences, so that an infinite pixel stays where it is.
    """

    def run_sums(values, move):
        """Return sums of `patch` values in a row, from sums of 1, 2, 4, ... of them."""
        length, have, total, done = 1, values, None, 0
        while True:
            if patch & length:
                part = move(have, done)
                total = part if total is None else [f.plus(x, y) for x, y in zip(total, part, strict=False)]
                done += length
            if done == patch:
                return total
            have = [f.plus(x, y) for x, y in zip(have, move(have, length), strict=False)]
            length *= 2

    pixel_rows = [f.load(given, f.add(at, y * ROW), ROW) for y in range(TILE + patch - 1)]
    columns = run_sums(pixel_rows, lambda values, by: values[by:])[:TILE]
    for y, sums in enumerate(columns):
        (total,) = run_sums([sums], lambda values, by: [f.shift(values[0], by)] if by else values)
        f.store(f.low(total, TILE), out, f.add(to, y * TILE))


@functools.cache
def build_pick(dtype: str, window: int) -> int:
    """Build the copy of one query's window out of box sums: (in, out, displacements across); in[dy * across + dx, TILE * TILE]."""
    f = simd.Function("pick", dtype, "ppl")
    given, out, across = f.arguments

    def row(i):
        at, to = f.mul(f.mul(i, across), TILE * TILE), f.mul(i, window)
        values = [f.scalar(given, f.add(at, j * TILE * TILE)) for j in range(window)]
        for j, value in enumerate(values):
            f.b.store(value, f._at(out, f.add(to, j)))

    f.loop(window, [], row)
    return f.compile()


@functools.cache
def build_interpolate(dtype: str, metric: str) -> int:
    """Build bilinear samples of runs of memory: (k, out, fractions, rows, run, row stride of k, step across, row stride of out).

    The fractions are those down and across, one of which may be 0; a run may be written up to one vector further.
    """
    f = simd.Function("interpolate", dtype, "ppplllll")
    k, out, fractions, rows, run, k_row, step, out_row = f.arguments
    b, parts = f.b, [f.scalar(fractions, i) for i in (0, 1)]
    moves = [b.fcmp_ordered("!=", part, f.element(0.0)) for part in parts]
    down, across = map(f.splat, parts)
    rests = {part: f.minus(f.full(1.0), part) for part in (down, across)}

    def between(x, y, part):
        if metric == "dot":  # what is infinite must stay so
            return f.fma(part, y, b.fmul(rests[part], x))
        return f.fma(part, f.minus(y, x), x)  # exact where x and y are the same

    def row(r, moves_down, moves_across):
        def sample(at):
            here = f.load(k, at)
            return between(here, f.load(k, f.add(at, step)), across) if moves_across else here

        def along(e):
            at = f.add(f.mul(r, k_row), e)
            here = sample(at)
            if moves_down:
                here = between(here, sample(f.add(at, k_row)), down)
            f.store(here, out, f.add(f.mul(r, out_row), e))

        f.loop(run, [], along, step=f.lanes)

    for wanted in ((True, True), (True, False), (False, True)):  # a pixel of weight 0 is not read
        here = b.and_(*(move if asked else b.not_(move) for move, asked in zip(moves, wanted, strict=True)))
        f.loop(b.select(here, rows, f.int(0)), [], lambda r, wanted=wanted: row(r, *wanted))
    return f.compile()


@functools.cache
def build_copy(dtype: str) -> int:
    """Build (in, out, n): out[:n] = in[:n]; numbers that do not fill a vector are copied with some before them again."""
    f = simd.Function("copy", dtype, "ppl")
    given, out, n = f.arguments
    last = f.b.sub(n, f.int(f.lanes))
    few = f.b.icmp_signed("<", last, f.int(0))

    def vector(i):
        f.store(f.load(given, i), out, i)

    def one(i):
        f.b.store(f.scalar(given, i), f._at(out, i))

    f.loop(f.b.select(few, n, f.int(0)), [], one)
    f.loop(last, [], vector, step=f.lanes)
    f.loop(f.b.select(few, f.int(0), f.int(1)), [], lambda _: vector(last))
    return f.compile()
