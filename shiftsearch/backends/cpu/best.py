"""From the scores of all candidates of a query to those that are kept, in order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shiftsearch.backends.cpu import micro
from shiftsearch.backends.cpu.jit import helper, inline
from shiftsearch.backends.cpu.micro import BEST
from shiftsearch.backends.cpu.simd import after, get, put
from shiftsearch.backends.cpu.windows import candidate


class Codes(NamedTuple):
    """Addresses of the vector code; 0 where it does not apply."""

    candidates: int
    ranks: int
    wide: int = 0
    small: int = 0
    interpolate: int = 0
    boxes: int = 0
    pick: int = 0


class Work(NamedTuple):
    """Scratch memory of one thread, numbers and whole numbers: where in it everything begins."""

    keys: int  # what ranks the candidates of a query
    part: int  # the keys of one frame
    found: int
    scores: int  # of all queries of a tile
    q_planes: int  # the pixels of a tile: [row, channel, column]
    q_last: int  # and [row, column, channel]
    sums: int
    near: int  # an interpolated neighbourhood
    fractions: int
    pixels: int
    boxes: int
    numbers: int  # how many in all
    positions: int
    ranks: int
    best: int
    candidate: int  # slot, row and column of each candidate
    integers: int  # how many in all
    most: int  # displacements that there is room for


@inline
def _comes_before(values, positions, i, j):
    x, y = get(values, i), get(values, j)
    return x < y or (x == y and get(positions, i) < get(positions, j))


@inline
def _swap(values, positions, i, j):
    x, p = get(values, i), get(positions, i)
    put(values, i, get(values, j))
    put(positions, i, get(positions, j))
    put(values, j, x)
    put(positions, j, p)


@helper
def _sink(values, positions, i, n):
    """Restores the heap of n entries below entry i: the worst of the kept is on top."""
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and _comes_before(values, positions, child, child + 1):
            child += 1
        if not _comes_before(values, positions, i, child):
            return
        _swap(values, positions, i, child)
        i = child


@helper
def _sort_smallest(values, positions, n, k):
    """The k smallest of n values and their positions to the front, in order, by a heap."""
    for i in range(k // 2 - 1, -1, -1):
        _sink(values, positions, i, k)
    for i in range(k, n):
        if _comes_before(values, positions, i, 0):
            _swap(values, positions, i, 0)
            _sink(values, positions, 0, k)
    for end in range(k - 1, 0, -1):
        _swap(values, positions, 0, end)
        _sink(values, positions, 0, end)


@helper
def _find_best(keys, n, k, numbers, integers, work, codes):
    """Positions of the k smallest of n keys, equal ones in order; writes behind the keys."""
    found, positions = after(numbers, work.found), after(integers, work.positions)
    m = n
    if k <= BEST and n >= 2 * BEST:
        end = (n + BEST - 1) // BEST * BEST
        for i in range(n, end):
            put(keys, i, np.inf)
        m = micro.candidates(codes.candidates, keys, 0, found, 0, positions, 0, end, k)
        while get(positions, m - 1) >= n:  # padding is as small as the rest if that is infinite
            m -= 1
        if m <= 4 * BEST:
            micro.ranks(codes.ranks, found, 0, integers, work.ranks, m)
            for i in range(m):
                rank = get(integers, work.ranks + i)
                if rank < k:
                    put(integers, work.best + rank, get(positions, i))
            return
    else:
        for i in range(n):
            put(found, i, get(keys, i))
            put(positions, i, i)
    _sort_smallest(found, positions, m, k)
    for i in range(k):
        put(integers, work.best + i, get(positions, i))


@helper
def _own_index(s, y, x, t, at, windows, task):
    """Index of the candidate of slot s that is the query itself, or -1."""
    cy, cx, by, bx = get(windows.cy, at + s), get(windows.cx, at + s), get(windows.by, at + s), get(windows.bx, at + s)
    y, x = y * task.stride, x * task.stride
    i, j = np.int64(np.rint((y - cy) / task.step)) + by, np.int64(np.rint((x - cx) / task.step)) + bx
    there = get(windows.frame, at + s) == t and 0 <= i < task.window and 0 <= j < task.window
    exactly = candidate(cy, i, by, task.step) == y and candidate(cx, j, bx, task.step) == x
    return s * task.window * task.window + i * task.window + j if there and exactly else -1


@helper
def _hide_outside(scores, at, windows, task):
    """Candidates of one window that lie outside the frame score infinite."""
    cy, cx, by, bx = get(windows.cy, at), get(windows.cx, at), get(windows.by, at), get(windows.bx, at)
    step, end, bottom, right = task.step, task.window - 1, task.height - 1, task.width - 1
    rows_inside = candidate(cy, 0, by, step) >= 0 and candidate(cy, end, by, step) <= bottom
    if rows_inside and candidate(cx, 0, bx, step) >= 0 and candidate(cx, end, bx, step) <= right:
        return
    for i in range(task.window):
        y = candidate(cy, i, by, step)
        for j in range(task.window):
            x = candidate(cx, j, bx, step)
            if y < 0 or y > bottom or x < 0 or x > right:
                put(scores, i * task.window + j, np.inf)


@helper
def _rank(scores, own, at, windows, task, keys):
    """What the candidates are ranked by: their scores, unless options say more. Gives how many there are."""
    each, n = task.window * task.window, task.slots * task.window * task.window
    for i in range(n):
        put(keys, i, get(scores, i))
    for s in range(task.slots):
        by, bx = get(windows.by, at + s), get(windows.bx, at + s)
        if task.penalty > 0:
            for i in range(each):
                down, across = i // task.window - by, i % task.window - bx
                more = task.penalty * (task.step * task.step * (down * down + across * across))
                put(keys, s * each + i, get(keys, s * each + i) + more)
        if task.anchor_centre:
            put(keys, s * each + by * task.window + bx, -np.inf)
    if task.anchor_self and own >= 0:
        put(keys, own, -np.inf)
    if task.removes_self:
        for i in range(own, n - 1):
            put(keys, i, get(keys, i + 1))
        n -= 1
    return n


@helper
def _keep_all(keys, n, anchored, best):
    """Every candidate in order, behind those that are anchored."""
    filled = 0
    for turn in range(2):
        for i in range(n):
            if (anchored and get(keys, i) == -np.inf) == (turn == 0):
                put(best, filled, i)
                filled += 1


@inline
def finish(scores, t, y, x, at, windows, task, numbers, integers, work, codes, out, offsets, origin):
    """From the scores of all candidates of query (t, y, x) to what is kept."""
    each, n, own = task.window * task.window, task.slots * task.window * task.window, -1
    if task.overhangs:
        for s in range(task.slots):
            _hide_outside(after(scores, s * each), at + s, windows, task)
    if task.finds_self:
        for s in range(task.slots):
            here = _own_index(s, y, x, t, at, windows, task)
            own = here if own < 0 else own
            if task.hides_self and here >= 0:
                put(scores, here, np.inf)
    keys = scores
    if task.ranks or task.all or task.topk > BEST or n < 2 * BEST:
        for i in range(n):  # what is not a number ranks behind what is; the vector code does so itself
            if not get(scores, i) < np.inf:
                put(scores, i, np.inf)
    if task.ranks:
        keys = after(numbers, work.keys)
        n = _rank(scores, own, at, windows, task, keys)
    parts = task.slots if task.per_frame and not task.all else 1
    to = ((t * task.rows + y) * task.columns + x) * task.kept
    passed = 0
    for part in range(parts):
        count = n
        if parts > 1:  # the own frame has one less if it lost the query itself
            count = each - (1 if task.removes_self and part == own // each else 0)
            keys_of_part = after(numbers, work.part)
            for i in range(count):
                put(keys_of_part, i, get(keys, passed + i))
            _find_best(keys_of_part, count, task.topk, numbers, integers, work, codes)
        elif task.all:
            _keep_all(keys, n, task.anchor_self or task.anchor_centre, after(integers, work.best))
        else:
            _find_best(keys, n, task.topk, numbers, integers, work, codes)
        for place in range(n if task.all else task.topk):
            index = passed + get(integers, work.best + place)
            if task.removes_self and index >= own:
                index += 1
            which = after(integers, work.candidate + 3 * index)
            score = get(scores, index)
            put(out, to, -score if task.dot else score)
            _write_offset(after(offsets, 3 * to), t, y, x, at + get(which, 0), get(which, 1), get(which, 2), windows, task)
            if task.seeds:
                put(origin, to, get(which, 0))
            to += 1
        passed += count


@inline
def _write_offset(offset, t, y, x, at, i, j, windows, task):
    """Whole offsets as they are, fractional ones as the bits of float32: one compiled kernel serves both."""
    cy, cx, dt = get(windows.cy, at), get(windows.cx, at), get(windows.frame, at) - t
    i, j = i - get(windows.by, at), j - get(windows.bx, at)
    if task.subpixel:
        put(offset, 0, np.float32(dt).view(np.int32))
        put(offset, 1, np.float32(candidate(cy, i, 0, task.step) - y * task.stride).view(np.int32))
        put(offset, 2, np.float32(candidate(cx, j, 0, task.step) - x * task.stride).view(np.int32))
    else:
        put(offset, 0, dt)
        put(offset, 1, np.int64(cy) + i * task.whole_step - y * task.stride)
        put(offset, 2, np.int64(cx) + j * task.whole_step - x * task.stride)


@helper
def name_candidates(integers, work, task):
    """Slot, row and column of each candidate, looked up because divisions are slow."""
    which, n = after(integers, work.candidate), 0
    for s in range(task.slots):
        for i in range(task.window):
            for j in range(task.window):
                put(which, n, s)
                put(which, n + 1, i)
                put(which, n + 2, j)
                n += 3
