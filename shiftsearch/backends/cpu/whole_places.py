"""Patches at whole places, by vector code: score, aggregate and scatter where offsets are integers.

Videos lie in memory with a margin, see `margin`, so that a row of any patch is one run of patch * channels numbers. A
query adds up all its patches in registers. What adds to a margin is folded back at the end. Patches of dilated pixels,
and squared differences where a border is empty, are left to `places`.

Threads share the videos out among them: each adds only to its own part of a sum, and to every number in the order of
queries and kept candidates. A number is rounded the same whether both derivatives are computed at once or not, so
results depend neither on the number of threads nor on that.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._types import Native
from shiftsearch.backends.cpu import margin, pool, simd
from shiftsearch.backends.cpu import places_code as code
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.margin import Margined, margined
from shiftsearch.backends.cpu.simd import after, aligned, get, pointers, put, stopped

_LEAST_ROWS = 32  # of a thread's part of a frame: patches that lie across parts cost more
_LONG = 1 << 26  # multiply-adds between two looks at whether to stop
_LINE = 16  # numbers in a cache line, or more


class Pairs(NamedTuple):
    """The pairs of patches of one head of one clip."""

    q: Margined
    k: Margined
    patch: int
    stride: int
    scale: int
    t: int  # frame, row and column of the first query in the query grid
    y: int
    x: int
    frames: int  # of queries
    rows: int
    columns: int
    kept: int
    aggregates: bool
    scatters: bool


class Memory(NamedTuple):
    """The numbers of one head: both videos, both sums, and weights and offsets of the rows of queries."""

    q: np.ndarray
    to_q: np.ndarray
    k: np.ndarray
    to_k: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    reach: np.ndarray


class Scratch(NamedTuple):
    """What a thread needs to find the places of a row of queries."""

    columns: np.ndarray  # pixel of each place's query
    starts: np.ndarray  # where its patch begins in the memory of k; and room for one query twice
    vectors: np.ndarray
    numbers: np.ndarray


# --- where the patches of a row of queries are ----------------------------------------------------
@inline
def _find_starts(offsets, row, pairs, find, scratch):
    """Find where the patches of a row of queries begin in the memory of k."""
    v, places = pairs.k, pairs.columns * pairs.kept
    t, y = row // pairs.rows + pairs.t, (row % pairs.rows + pairs.y) * pairs.stride
    offsets, first = after(offsets, 3 * row * places), v.before - pairs.patch // 2
    sizes = v.frames, v.height, v.width, v.rows, v.row, v.channels, first, pairs.patch
    code.find(find, offsets, scratch.columns, scratch.starts, scratch.vectors, places, t, y, *sizes)


@kernel()
def _find_reach(offsets, reach, find, pairs, scratch, lanes, stop, first, last):
    """First and last frame, first and last beginning of a patch, for rows first..last of queries, [row, 4]."""
    offsets, reach, scratch = pointers((offsets, reach, scratch))
    shift = pairs.k.before - pairs.patch // 2
    for row in range(first, last):
        if stopped(stop):
            return
        _find_starts(offsets, row, pairs, find, scratch)
        for bound in range(4):
            found = np.int64(get(scratch.vectors, (3 + bound) * lanes))
            for lane in range(1, lanes):
                other = np.int64(get(scratch.vectors, (3 + bound) * lanes + lane))
                found = max(found, other) if bound % 2 else min(found, other)
            put(reach, 4 * row + bound, found + shift * (bound // 2))


class _Part(NamedTuple):
    """Rows top..bottom of frames first..last, in memory."""

    first: int
    last: int
    top: int
    bottom: int


@inline
def _part(number, parts, v):
    i, j, n, m = number // parts[1], number % parts[1], parts[0], parts[1]
    return _Part(i * v.frames // n, (i + 1) * v.frames // n, j * v.rows // m, (j + 1) * v.rows // m)


@inline
def _within(reach, row, part, pairs):
    """Return whether the patches of a row of queries touch a part of k, and whether nothing else."""
    f0, f1 = get(reach, 4 * row), get(reach, 4 * row + 1)
    top, bottom = get(reach, 4 * row + 2), get(reach, 4 * row + 3) + pairs.patch
    touched = f0 < part.last and f1 >= part.first and top < part.bottom and bottom > part.top
    return touched, f0 >= part.first and f1 < part.last and top >= part.top and bottom <= part.bottom


# --- adding up ------------------------------------------------------------------------------------
class _Rows(NamedTuple):
    """What a row of queries adds to a part of both sums."""

    at_q: int  # where the patches of the first query begin
    at_weights: int
    first: int  # rows of the patches of queries that belong to the part
    last: int
    theirs: _Part  # what the part has of k
    alone: bool  # no row of any patch belongs to another part
    spare_q: int  # where a row goes that does
    spare_k: int


@inline
def _step(pairs):
    """Return the numbers from query to query."""
    return pairs.stride * pairs.scale * pairs.q.channels


@inline
def _add(add, memory, at_q, to_q, at_k, weights, starts, targets, queries, kept, rows, pairs):
    """Add pairs of patches: vector code finds those of k at starts and targets, `at_k` numbers further."""
    q, sum_q, k, sum_k = (
        after(memory.q, at_q),
        after(memory.to_q, to_q),
        after(memory.k, at_k),
        after(memory.to_k, at_k),
    )
    step, row_q, row_k = _step(pairs), pairs.q.row, pairs.k.row
    code.add(add, q, sum_q, k, sum_k, weights, starts, targets, queries, kept, rows, step, row_q, row_k)


@inline
def _add_all(memory, add, some, pairs, starts, stop):
    """Add a row of queries, as many of them at once as may be before asking whether to stop."""
    at_k, rows, at_once = some.first * pairs.k.row, some.last - some.first, _at_once(pairs)
    for x in range(0, pairs.columns, at_once):
        if stopped(stop):
            return
        at, count, first = some.at_q + some.first * pairs.q.row + x * _step(pairs), pairs.columns - x, x * pairs.kept
        weights, places = after(memory.weights, some.at_weights + first), after(starts, first)
        _add(add, memory, at, at, at_k, weights, places, places, min(at_once, count), pairs.kept, rows, pairs)


@inline
def _add_weighted(memory, add, some, pairs, scratch, stop):
    """Add a row of queries without its pairs of weight 0."""
    found, at_k, rows = (
        after(scratch.starts, pairs.columns * pairs.kept),
        some.first * pairs.k.row,
        some.last - some.first,
    )
    for x in range(pairs.columns):
        if stopped(stop):
            return
        m, at = 0, some.at_q + some.first * pairs.q.row + x * _step(pairs)
        for n in range(x * pairs.kept, (x + 1) * pairs.kept):
            weight = get(memory.weights, some.at_weights + n)
            if weight != 0:
                put(found, m, get(scratch.starts, n))
                put(scratch.numbers, m, weight)
                m += 1
        _add(add, memory, at, at, at_k, scratch.numbers, found, found, 1, m, rows, pairs)


@inline
def _add_across(memory, add, some, pairs, scratch, stop):
    """Add a row of queries whose patches lie across parts, row by row: what falls on other parts goes to spare memory."""
    found = after(scratch.starts, pairs.columns * pairs.kept)
    targets = after(found, pairs.kept)
    for x in range(pairs.columns):
        if stopped(stop):
            return
        for r in range(pairs.patch):
            is_mine = some.first <= r < some.last
            m = _find_row(memory, some, x, r, is_mine and pairs.aggregates, pairs, scratch, found, targets)
            at = some.at_q + x * _step(pairs) + r * pairs.q.row
            _add(add, memory, at, at if is_mine else some.spare_q, 0, scratch.numbers, found, targets, 1, m, 1, pairs)


@inline
def _find_row(memory, some, x, r, is_wanted, pairs, scratch, found, targets):
    """Find where row r of the patches of query x is in k, and where it adds to; return how many add anything."""
    part, m = some.theirs, 0
    for n in range(x * pairs.kept, (x + 1) * pairs.kept):
        weight = get(memory.weights, some.at_weights + n)
        if weight == 0:
            continue
        start = get(scratch.starts, n) + r * pairs.k.row
        line = start // pairs.k.row
        frame, down = line // pairs.k.rows, line % pairs.k.rows
        is_theirs = part.first <= frame < part.last and part.top <= down < part.bottom
        if is_theirs or is_wanted:
            put(found, m, start)
            put(targets, m, start if is_theirs else some.spare_k)
            put(scratch.numbers, m, weight)
            m += 1
    return m


@inline
def _spare(run):
    """Return how many numbers a thread may write behind a sum: a run, in no cache line with another thread."""
    return (run // _LINE + 2) * _LINE


@inline
def _at_once(pairs):
    """Return how many queries to do before asking whether to stop: all of a row, unless their patches are very large."""
    return max(1, _LONG // (pairs.kept * pairs.patch * pairs.patch * pairs.q.channels))


@inline
def _rows_of(memory, unit, parts, row, pairs):
    """Return what a row of queries adds to a part, and whether that is anything."""
    q, k = pairs.q, pairs.k
    mine, theirs, spare = _part(unit, parts, q), _part(unit, parts, k), unit * _spare(pairs.patch * q.channels)
    t, y = row // pairs.rows + pairs.t, (row % pairs.rows + pairs.y) * pairs.stride * pairs.scale
    first = mine.top - y if mine.top > y else 0
    last = mine.bottom - y if mine.bottom - y < pairs.patch else pairs.patch
    owned = pairs.aggregates and mine.first <= t < mine.last and first < last
    touched, inside = pairs.scatters, True
    if touched and parts[0] * parts[1] > 1:
        touched, inside = _within(memory.reach, row, theirs, pairs)
    if not owned:
        first, last = 0, (0 if pairs.aggregates else pairs.patch)
    alone = not pairs.scatters or (inside and last - first == pairs.patch)
    at_q = (t * q.rows + y) * q.row + pairs.x * _step(pairs)
    spare_q, spare_k = q.frames * q.rows * q.row + spare, k.frames * k.rows * k.row + spare
    some = _Rows(at_q, row * pairs.columns * pairs.kept, first, last, theirs, alone, spare_q, spare_k)
    return some, owned or touched


@kernel()
def _add_parts(memory, codes, parts, pairs, scratch, sparse, stop, first, last):
    """Add up parts first..last of both sums, or of one; if `sparse`, nothing is multiplied by weights of 0."""
    memory, scratch, (find, add) = pointers(memory), pointers(scratch), codes
    for unit in range(first, last):
        for row in range(pairs.frames * pairs.rows):
            if stopped(stop):
                return
            some, adds = _rows_of(memory, unit, parts, row, pairs)
            if not adds:
                continue
            _find_starts(memory.offsets, row, pairs, find, scratch)
            if not some.alone:
                _add_across(memory, add, some, pairs, scratch, stop)
            elif sparse:
                _add_weighted(memory, add, some, pairs, scratch, stop)
            else:
                _add_all(memory, add, some, pairs, scratch.starts, stop)


@kernel()
def _compare_rows(memory, out, codes, pairs, scratch, endless, stop, first, last):
    """Score rows first..last of queries, counted through all frames; `endless` gets 1 if any score is not finite."""
    memory, scratch, out, endless = pointers(memory), pointers(scratch), pointers(out), pointers(endless)
    (find, compare), at_once, step, q, k = codes, _at_once(pairs), _step(pairs), pairs.q, pairs.k
    for row in range(first, last):
        t, y = row // pairs.rows + pairs.t, (row % pairs.rows + pairs.y) * pairs.stride * pairs.scale
        _find_starts(memory.offsets, row, pairs, find, scratch)
        at_q = (t * q.rows + y) * q.row + pairs.x * step
        for x in range(0, pairs.columns, at_once):
            if stopped(stop):
                return
            queries, starts = after(memory.q, at_q + x * step), after(scratch.starts, x * pairs.kept)
            scores, count = after(out, (row * pairs.columns + x) * pairs.kept), min(at_once, pairs.columns - x)
            sizes = count, pairs.kept, pairs.patch, step, q.row, k.row
            found = code.compare(compare, queries, memory.k, starts, scores, scratch.numbers, *sizes)
            if found != 0:
                put(endless, 0, 1)


# --- the whole ------------------------------------------------------------------------------------
# Stacks of videos of queries are (B, N, T, C, H, W); what belongs to their places is (N, B, G, T, h, w, K).
def covers(offsets: Native, p: Patches) -> bool:
    """Return whether this is for these places and patches."""
    mirrored = p.border == p.query_border == "reflect"
    return offsets.dtype == np.int32 and p.dilation == 1 and (p.metric == "dot" or mirrored)


class _Heads:
    """The heads of a call, one after another, in memory as `pairs` says."""

    def __init__(self, offsets, p: Patches, shape_q, shape_k, dtype, *, aggregates=False, scatters=False):
        P, (B, G, T, h, w, K) = p.patch, offsets.shape[1:7]
        near, mirrored, channels = (P // 2, P - 1 - P // 2), p.border == "reflect", shape_k[2] // G
        (_, _, frames, _, height, width), (before, behind) = shape_q, near
        q = margined(frames, height, width, channels, before, behind, p.query_border == "reflect")
        (_, frames, _, height, width), (before, behind) = shape_k, near if mirrored else (P, P)
        k = margined(frames, height, width, channels, before, behind, mirrored)
        self.pairs = Pairs(q, k, P, p.stride, p.scale, *p.origin, T, h, w, K, aggregates, scatters)
        self.batch, self.heads, self.dtype = B, G, dtype
        self.find, self.turn = code.build_find(mirrored), code.build_turn(dtype.name)
        self.turn_back = code.build_turn(dtype.name, watches=True) if aggregates or scatters else 0
        self.cost = math.prod(offsets.shape[3:7]) * P**2 * channels

    def __iter__(self):
        return np.ndindex(self.batch, self.heads)

    def load(self, video, v: Margined, b: int, g: int):
        return margin.load(video[b], v, self.heads, g, turn=self.turn)

    def store(self, sums, v: Margined, out, b: int, g: int, endless) -> None:
        margin.store(sums, v, out[b], self.heads, g, endless, turn=self.turn_back)

    def parts(self) -> tuple[int, int]:
        """Return how many parts of frames, and of rows, the videos are shared out in."""
        workers = pool.threads()
        if workers == 1:
            return 1, 1
        of_rows = max(1, min(workers, min(self.pairs.q.height, self.pairs.k.height) // _LEAST_ROWS))
        return min(-(-workers // of_rows), self.pairs.k.frames), of_rows

    def scratch(self, numbers) -> Scratch:
        pairs, lanes = self.pairs, simd.lanes("float32")
        places = pairs.columns * pairs.kept
        columns = np.zeros(places + lanes, np.int32)
        columns[:places] = np.repeat((np.arange(pairs.columns) + pairs.x) * pairs.stride, pairs.kept)
        starts = np.empty(places + max(lanes, 2 * pairs.kept), np.int64)
        return Scratch(columns, starts, np.empty(7 * lanes, np.int32), numbers)

    def reach(self, offsets):
        """See `_find_reach`."""
        rows, lanes = self.pairs.frames * self.pairs.rows, simd.lanes("float32")
        reach = np.empty(4 * rows, np.int64)

        def find(stop, first, last):
            scratch = self.scratch(np.empty(0, self.dtype))
            _find_reach(offsets, reach, self.find, self.pairs, scratch, lanes, stop, first, last)

        pool.spread(find, rows, offsets.size)
        return reach


def gradients(
    q: Native | None,
    k: Native | None,
    weights: Native,
    offsets: Native,
    p: Patches,
    shape_q: tuple[int, ...],
    shape_k: tuple[int, ...],
    *,
    aggregates: bool,
    scatters: bool,
) -> tuple[Native | None, Native | None]:
    """Return `aggregate` and `scatter`, each if asked for, else nothing; with "dot", the other video may be None.

    Vector code also multiplies by weights of 0, and by pixels outside of a frame, which are 0. 0 times infinity or NaN is
    NaN, and so is every sum that it enters. Finite results are therefore right, and others are computed again without
    weights of 0. (None, None) says that a weight that is not finite may have met an empty border.
    """
    given = partial(_gradients, q, k, weights, offsets, p, shape_q, shape_k, aggregates, scatters)
    found, finite = given(sparse=False)
    if finite:
        return found
    empty = (aggregates and p.border == "zeros") or (scatters and p.query_border == "zeros")
    if empty and not np.isfinite(weights).all():
        return None, None
    return given(sparse=True)[0] if (weights == 0).any() else found


def _gradients(q, k, weights, offsets, p: Patches, shape_q, shape_k, aggregates: bool, scatters: bool, *, sparse: bool):
    """Return both, and whether they are finite."""
    dtype, l2 = (k if q is None else q).dtype, p.metric == "l2"
    heads = _Heads(offsets, p, shape_q, shape_k, dtype, aggregates=aggregates, scatters=scatters)
    pairs, parts = heads.pairs, heads.parts()
    count, run = parts[0] * parts[1], p.patch * pairs.q.channels
    codes = heads.find, code.build_add(dtype.name, p.metric, aggregates, scatters, pairs.q.channels, p.patch)
    out_q, out_k = np.empty(shape_q if aggregates else 0, dtype), np.empty(shape_k if scatters else 0, dtype)
    nothing, endless, spare = np.empty(0, dtype), np.zeros(1, np.int32), count * _spare.py_func(run)
    for b, g in heads:
        keys = heads.load(k, pairs.k, b, g) if l2 or aggregates else nothing
        to_k = aligned(pairs.k.size + spare, dtype) if scatters else nothing
        for n in range(shape_q[1]):
            queries = heads.load(q[:, n], pairs.q, b, g) if l2 or scatters else nothing
            to_q = aligned(pairs.q.size + spare, dtype) if aggregates else nothing
            numbers = np.ascontiguousarray(weights[n, b, g], dtype).reshape(-1)
            places = np.ascontiguousarray(offsets[n, b, g]).reshape(-1)
            reach = heads.reach(places) if count > 1 and scatters else np.empty(0, np.int64)
            memory = Memory(queries, to_q, keys, to_k, numbers, places, reach)

            def some_parts(stop, first, last):
                scratch = heads.scratch(np.empty(pairs.kept, dtype))
                _add_parts(memory, codes, parts, pairs, scratch, sparse, stop, first, last)  # noqa: B023 (called before the loop goes on)

            pool.spread(some_parts, count, heads.cost)
            if aggregates:
                heads.store(to_q, pairs.q, out_q[:, n], b, g, endless)
        if scatters:
            heads.store(to_k, pairs.k, out_k, b, g, endless)
    return (out_q, out_k), not endless[0]


def score(q: Native, k: Native, offsets: Native, out: Native, p: Patches) -> bool:
    """Write `score`; return whether it is right: pixels outside of a frame are 0 here, and 0 times infinity is NaN."""
    heads, dtype = _Heads(offsets, p, q.shape, k.shape, q.dtype), q.dtype
    pairs, empty, endless = heads.pairs, "zeros" in (p.border, p.query_border), np.zeros(1, np.int32)
    codes = heads.find, code.build_compare(dtype.name, p.metric, pairs.q.channels, p.patch, empty)
    lanes, nothing = simd.lanes(dtype.name), np.empty(0, dtype)
    for b, g in heads:
        keys = heads.load(k, pairs.k, b, g)
        for n in range(q.shape[1]):
            places = np.ascontiguousarray(offsets[n, b, g]).reshape(-1)
            queries, scores = heads.load(q[:, n], pairs.q, b, g), out[n, b, g].reshape(-1)
            memory = Memory(queries, nothing, keys, nothing, nothing, places, np.empty(0, np.int64))

            def some_rows(stop, first, last):
                scratch = heads.scratch(aligned((pairs.kept + lanes) * lanes, dtype))
                _compare_rows(memory, scores, codes, pairs, scratch, endless, stop, first, last)  # noqa: B023 (called before the loop goes on)

            pool.spread(some_rows, pairs.frames * pairs.rows, heads.cost)
    return not endless[0]
