"""Rows of queries whose patches lie at whole places: kernels that score them, and that add up what they give.

Vector code adds up all patches of a query in registers. Threads share the videos out among them in parts: each adds only to
its own part of a sum, and to every number in the order of queries and kept candidates. What lies across parts is added row
by row, so results do not depend on the number of parts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shiftsearch.backends.cpu import patches_code, places_code
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.margin import Margined
from shiftsearch.backends.cpu.memory import after, get, pointers, put, stopped

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
    places_code.find(find, offsets, scratch.columns, scratch.starts, scratch.vectors, places, t, y, *sizes)


@kernel()
def find_reach(offsets, reach, find, pairs, scratch, lanes, stop, first, last):
    """Find, for each row of queries, the first and last frame and row of k where a patch begins, [row, 4]."""
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
    """Return whether the patches of a row of queries touch a part of k, and whether they touch nothing else."""
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
    theirs: _Part  # the part of k
    alone: bool  # every row of every patch belongs to the part
    spare_q: int  # where rows that belong to other parts are added, to be ignored
    spare_k: int


@inline
def _step(pairs):
    """Return the numbers from query to query."""
    return pairs.stride * pairs.scale * pairs.q.channels


@inline
def _add_pairs(add, memory, at_q, to_q, at_k, weights, starts, targets, queries, kept, rows, pairs):
    """Add pairs of patches: vector code finds those of k at starts and targets, `at_k` numbers further."""
    q, sum_q, k, sum_k = (
        after(memory.q, at_q),
        after(memory.to_q, to_q),
        after(memory.k, at_k),
        after(memory.to_k, at_k),
    )
    step, row_q, row_k = _step(pairs), pairs.q.row, pairs.k.row
    patches_code.add(add, q, sum_q, k, sum_k, weights, starts, targets, queries, kept, rows, step, row_q, row_k)


@inline
def _add_all(memory, add, some, pairs, starts, stop):
    """Add a row of queries, as many of them at a time as take not too long to stop for Ctrl-C."""
    at_k, rows, at_once = some.first * pairs.k.row, some.last - some.first, _at_once(pairs)
    for x in range(0, pairs.columns, at_once):
        if stopped(stop):
            return
        at, count, first = some.at_q + some.first * pairs.q.row + x * _step(pairs), pairs.columns - x, x * pairs.kept
        weights, places = after(memory.weights, some.at_weights + first), after(starts, first)
        _add_pairs(add, memory, at, at, at_k, weights, places, places, min(at_once, count), pairs.kept, rows, pairs)


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
        _add_pairs(add, memory, at, at, at_k, scratch.numbers, found, found, 1, m, rows, pairs)


@inline
def _add_across(memory, add, some, pairs, scratch, stop):
    """Add a row of queries whose patches lie across parts, row by row; rows of other parts go to spare memory."""
    found = after(scratch.starts, pairs.columns * pairs.kept)
    targets = after(found, pairs.kept)
    for x in range(pairs.columns):
        if stopped(stop):
            return
        for r in range(pairs.patch):
            is_mine = some.first <= r < some.last
            m = _find_row(memory, some, x, r, is_mine and pairs.aggregates, pairs, scratch, found, targets)
            at = some.at_q + x * _step(pairs) + r * pairs.q.row
            _add_pairs(
                add, memory, at, at if is_mine else some.spare_q, 0, scratch.numbers, found, targets, 1, m, 1, pairs
            )


@inline
def _find_row(memory, some, x, r, is_wanted, pairs, scratch, found, targets):
    """Find where row r of the patches of query x begins in k, and where it is added; return how many there are."""
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
def spare_size(run: int) -> int:
    """Return the size of a thread's spare memory behind a sum: one run, in cache lines that no other thread uses."""
    return (run // _LINE + 2) * _LINE


@inline
def _at_once(pairs):
    """Return how many queries to do between two looks at `stop`: a row, unless the patches are very large."""
    return max(1, _LONG // (pairs.kept * pairs.patch * pairs.patch * pairs.q.channels))


@inline
def _rows_of(memory, unit, parts, row, pairs):
    """Return what a row of queries adds to a part, and whether it adds anything."""
    q, k = pairs.q, pairs.k
    mine, theirs, spare = _part(unit, parts, q), _part(unit, parts, k), unit * spare_size(pairs.patch * q.channels)
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
def add_parts(memory, codes, parts, pairs, scratch, sparse, stop, first, last):
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
def compare_rows(memory, out, codes, pairs, scratch, nonfinite, stop, first, last):
    """Score rows first..last of queries, counted through all frames; `nonfinite` gets 1 if any score is not finite."""
    memory, scratch, out, nonfinite = pointers(memory), pointers(scratch), pointers(out), pointers(nonfinite)
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
            found = patches_code.compare(compare, queries, memory.k, starts, scores, scratch.numbers, *sizes)
            if found != 0:
                put(nonfinite, 0, 1)
