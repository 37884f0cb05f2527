"""The loops that decide the speed of a search, as vector code: distances of patches, and box sums.

Each builder compiles a function for one dtype, metric and size of the inner loops, and returns its address. With "dot" a
distance is the negative product, so that smaller is better everywhere.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

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
def build_wide(dtype: str, metric: str, down: int, across: int) -> int:
    """Build the distances of one query to its window, channels last, channels a multiple of the lanes.

    (q, k, out, scratch, patch rows, patch * channels, row stride of q, of k, channels): a row of a patch is
    one run of memory, and the candidates of a window row are shifted runs. They share the loads of q.
    """
    f = simd.Function("wide", dtype, "pppplllll")
    q, k, out, scratch, rows, run, q_stride, k_stride, channels = f.arguments

    def along(q_row, k_row, shifts, e, *sums):
        vector, at = f.load(q, f.add(q_row, e)), f.add(k_row, e)
        keys = [f.load(k, f.add(at, shift)) for shift in shifts]
        return [_accumulate(f, metric, vector, key, total) for key, total in zip(keys, sums, strict=True)]

    def patch_row(i, shifts, r, *sums):
        q_row, k_row = f.mul(r, q_stride), f.mul(f.add(i, r), k_stride)
        return f.loop(run, sums, partial(along, q_row, k_row, shifts), step=f.lanes)

    def window_row(columns, shifts, i):
        sums = f.loop(rows, [f.zeros()] * len(columns), partial(patch_row, i, shifts))
        at = f.mul(f.add(f.mul(i, across), columns[0]), f.lanes)
        for n, total in enumerate(sums):
            f.store(total, scratch, f.add(at, n * f.lanes))

    for columns in _parts(across, simd.registers() - 4):
        f.loop(down, [], partial(window_row, columns, [f.mul(j, channels) for j in columns]))
    _write_lane_sums(f, scratch, out, down * across)
    return f.compile()


def _write_lane_sums(f, vectors, out, count: int) -> None:
    """Write the sum of the lanes of each of `count` vectors, which lie in memory one after another."""
    n, whole = f.lanes, count // f.lanes * f.lanes

    def reduce(i):
        some = [f.load(vectors, f.mul(f.add(i, lane), n)) for lane in range(n)]
        f.store(f.lane_sums(some), out, i)

    f.loop(whole, [], reduce, step=n)
    for i in range(whole, count):
        total = f.tree(f.b.extract_element(f.load(vectors, i * n), simd.INT32(lane)) for lane in range(n))
        f.b.store(total, f._at(out, i))


@functools.cache
def build_small(dtype: str, metric: str, down: int, across: int, patch: int) -> int:
    """Build the distances of one query to its window, planes of channels in each row, any number of channels.

    (q, k, out, channels, row stride of q, channel stride of q, row stride of k, channel stride of k): lanes lie
    along the columns of the window. Each vector of k serves all patch rows that meet it.
    """
    f = simd.Function("small", dtype, "ppplllll")
    q, k, out, channels, q_row, q_channel, k_row, k_channel = f.arguments
    for first in range(0, across, f.lanes):
        for rows in _parts(down, simd.registers() * 3 // 4):

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
            mask = f.first(across - first) if across - first < f.lanes else None
            for i, total in zip(rows, sums, strict=True):
                if mask is None:
                    f.store(total, out, i * across + first)
                else:
                    f.store_masked(total, out, i * across + first, mask)
    return f.compile()


@functools.cache
def build_boxes(dtype: str, metric: str, patch: int, few: int) -> int:
    """Build the distances of all patches of a tile, for a range of displacements, by box sums over those of its pixels.

    (q, k, scratch, out, displacements down, across, channels, row stride of q, channel stride of q, row stride of
    k, channel stride of k, top, bottom): out[dy * across + dx, TILE, TILE]. Of k only rows top ... bottom - 1, counted
    from its address, are in memory and are read; sums that would need another row are undefined. `few` is the number of
    channels if they are at most 4, which are done without a loop, or else 5.
    """
    f = simd.Function("boxes", dtype, "pppplllllllll")
    q, k, scratch, out, down, across, channels, q_row, q_channel, k_row, k_channel, top, bottom = f.arguments
    rows = TILE + patch - 1
    per_row = ROW // f.lanes or 1
    widths = [n for n in (12, 9, 6, 3, 1) if n * per_row <= simd.registers() * 3 // 4]

    def channel(q_at, k_at, dx, c, *sums):
        vector, at = f.load(q, f.add(q_at, f.mul(c, q_channel)), ROW), f.add(k_at, f.mul(c, k_channel), dx)
        keys = f.shifted(k, at, len(sums), ROW)
        return [_accumulate(f, metric, vector, key, total) for key, total in zip(keys, sums, strict=True)]

    def pixels(n, row, k_at, to, dx):
        """Write one row of the distances of pixels, for n displacements across, which share the loads of q."""
        q_at, sums = f.mul(row, q_row), [f.zeros(ROW)] * n
        if few < 5:
            for c in range(few):
                sums = channel(q_at, k_at, dx, c, *sums)
        else:
            sums = f.loop(channels, sums, partial(channel, q_at, k_at, dx))
        for i, total in enumerate(sums):
            f.store(total, scratch, f.mul(f.add(to, f.mul(f.add(dx, i), rows)), ROW))

    def displacement(y, k_at, dy):
        """Write the distances of row y of k at one displacement down, for all displacements across."""
        row, dx = f.b.sub(y, dy), f.int(0)
        to = f.add(f.mul(f.mul(dy, across), rows), row)
        for n in widths:  # as many as fit, the widest first
            last = f.add(dx, f.mul(f.b.sdiv(f.b.sub(across, dx), f.int(n)), n))
            f.loop(last, [], partial(pixels, n, row, k_at, to), step=n, start=dx)
            dx = last

    def key_row(first, count, y):
        low, high = f.most(f.b.sub(y, f.int(rows - 1)), 0), f.least(f.add(y, 1), count)
        f.loop(high, [], partial(displacement, y, f.mul(f.add(first, y), k_row)), start=low)

    def sums(to, i):
        _box_sums(f, patch, scratch, f.mul(i, rows * ROW), out, f.mul(f.add(to, i), TILE * TILE))

    def some_rows(first):
        """Do `_DOWN` displacements: rows of k and scratch are then used several times while they are in the cache."""
        count = f.b.sub(f.least(f.add(first, _DOWN), down), first)
        there = f.most(f.b.sub(top, first), 0), f.least(f.b.sub(bottom, first), f.add(count, rows - 1))
        f.loop(there[1], [], partial(key_row, first, count), start=there[0])
        f.loop(f.mul(count, across), [], partial(sums, f.mul(first, across)))

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
def build_pick(dtype: str, rows: int, columns: int) -> int:
    """Build the copy of one query's window out of box sums: (in, out, displacements across); in[dy * across + dx, TILE * TILE]."""
    f = simd.Function("pick", dtype, "ppl")
    given, out, across = f.arguments

    def row(i):
        at, to = f.mul(f.mul(i, across), TILE * TILE), f.mul(i, columns)
        values = [f.scalar(given, f.add(at, j * TILE * TILE)) for j in range(columns)]
        for j, value in enumerate(values):
            f.b.store(value, f._at(out, f.add(to, j)))

    f.loop(rows, [], row)
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
        if metric == "dot":  # an infinite pixel must stay infinite
            return f.fma(part, y, b.fmul(rests[part], x))
        return f.fma(part, f.minus(y, x), x)  # exact where x and y are the same

    def sample_across(at, moves_across):
        here = f.load(k, at)
        return between(here, f.load(k, f.add(at, step)), across) if moves_across else here

    def sample(r, moves_down, moves_across, e):
        at = f.add(f.mul(r, k_row), e)
        here = sample_across(at, moves_across)
        if moves_down:
            here = between(here, sample_across(f.add(at, k_row), moves_across), down)
        f.store(here, out, f.add(f.mul(r, out_row), e))

    def row(wanted, r):
        f.loop(run, [], partial(sample, r, *wanted), step=f.lanes)

    for wanted in ((True, True), (True, False), (False, True)):  # a pixel of weight 0 is not read
        here = b.and_(*(move if asked else b.not_(move) for move, asked in zip(moves, wanted, strict=True)))
        f.loop(b.select(here, rows, f.int(0)), [], partial(row, wanted))
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
