"""From the scores of all candidates of a query to those that are kept, in order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shiftsearch.backends.cpu import micro
from shiftsearch.backends.cpu.jit import helper, inline
from shiftsearch.backends.cpu.micro import BEST
from shiftsearch.backends.cpu.simd import after, get, put, put_fraction
from shiftsearch.backends.cpu.windows import candidate


class Codes(NamedTuple):
    """Addresses of the vector code; 0 where it does not apply."""

    candidates: int
    ranks: int
    smallest: int
    copy: int
    wide: int = 0
    small: int = 0
    interpolate: int = 0
    boxes: int = 0
    pick: int = 0


class Options(NamedTuple):
    """What else can decide which candidates are kept.

    Searches without any of this get None in its place, and kernels from which numba leaves all of it out.
    """

    topk: int
    all: bool  # are kept: topk=None
    per_frame: bool
    penalty: float
    anchor_self: bool
    anchor_centre: bool
    removes_self: bool  # from the candidates
    hides_self: bool  # by an infinite score
    finds_self: bool  # any of these
    ranks: bool  # by more than the score


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
def _find_best(keys, n, k, numbers, integers, work, codes, best):
    """Positions of the k smallest of n keys, equal ones in order; writes behind the keys, and behind the k in `best`."""
    found, positions, order = after(numbers, work.found), after(integers, work.positions), after(integers, work.ranks)
    if k == 1:
        micro.smallest(codes.smallest, keys, 0, best, 0, n)
        return
    if k <= BEST and n < 2 * BEST:
        micro.ranks(codes.ranks, keys, 0, order, 0, n)
        for i in range(n):
            put(best, get(order, i), i)
        return
    m = n
    if k <= BEST:
        end = (n + BEST - 1) // BEST * BEST
        for i in range(n, end):
            put(keys, i, np.inf)
        m = micro.candidates(codes.candidates, keys, 0, found, 0, positions, 0, end, k)
        while get(positions, m - 1) >= n:  # padding is as small as the rest if that is infinite
            m -= 1
        if m <= 4 * BEST:
            micro.ranks(codes.ranks, found, 0, order, 0, m)
            for i in range(m):
                put(best, get(order, i), get(positions, i))
            return
    else:
        for i in range(n):
            put(found, i, get(keys, i))
            put(positions, i, i)
    _sort_smallest(found, positions, m, k)
    for i in range(k):
        put(best, i, get(positions, i))


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
def _rank(scores, own, at, windows, task, options, keys):
    """What the candidates are ranked by: their scores, unless options say more. Gives how many there are."""
    each, n = task.window * task.window, task.slots * task.window * task.window
    for i in range(n):
        put(keys, i, get(scores, i))
    for s in range(task.slots):
        by, bx = get(windows.by, at + s), get(windows.bx, at + s)
        if options.penalty > 0:
            for i in range(each):
                down, across = i // task.window - by, i % task.window - bx
                more = options.penalty * (task.step * task.step * (down * down + across * across))
                put(keys, s * each + i, get(keys, s * each + i) + more)
        if options.anchor_centre:
            put(keys, s * each + by * task.window + bx, -np.inf)
    if options.anchor_self and own >= 0:
        put(keys, own, -np.inf)
    if options.removes_self:
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
def finish(scores, t, y, x, at, windows, task, options, numbers, integers, work, codes, names, out, offsets, origin):
    """From the scores of all candidates of query (t, y, x) to what is kept. names: slot, row and column of each candidate."""
    n, best = task.slots * task.window * task.window, after(integers, work.best)
    if options is None:
        _find_best(scores, n, task.kept, numbers, integers, work, codes, best)
    else:
        _choose(scores, t, y, x, at, windows, task, options, numbers, integers, work, codes, best)
    to = ((t * task.rows + y) * task.columns + x) * task.kept
    out, offsets = after(out, to), after(offsets, 3 * to)
    if task.subpixel:
        _write_fractions(scores, best, names, t, y, x, at, windows, task, out, offsets)
    else:
        dt, dy, dx = after(windows.dt, at), after(windows.dy, at), after(windows.dx, at)
        _write(scores, best, names, task.kept, dt, dy, dx, task.whole_step, task.dot, out, offsets)
    if task.seeds:
        for place in range(task.kept):
            put(origin, to + place, get(names, 3 * get(best, place)))


@helper
def _choose(scores, t, y, x, at, windows, task, options, numbers, integers, work, codes, best):
    """The indices of the candidates that are kept, in order, to `best`."""
    each, n, own = task.window * task.window, task.slots * task.window * task.window, -1
    if task.overhangs:
        for s in range(task.slots):
            _hide_outside(after(scores, s * each), at + s, windows, task)
    if options.finds_self:
        for s in range(task.slots):
            here = _own_index(s, y, x, t, at, windows, task)
            own = here if own < 0 else own
            if options.hides_self and here >= 0:
                put(scores, here, np.inf)
    for i in range(n):  # what is not a number ranks behind what is
        if not get(scores, i) < np.inf:
            put(scores, i, np.inf)
    keys = scores
    if options.ranks:
        keys = after(numbers, work.keys)
        n = _rank(scores, own, at, windows, task, options, keys)
    if options.all:
        _keep_all(keys, n, options.anchor_self or options.anchor_centre, best)
    elif options.per_frame:
        passed, keys_of_frame = 0, after(numbers, work.part)
        for s in range(task.slots):  # the own frame has one less if it lost the query itself
            count = each - (1 if options.removes_self and s == own // each else 0)
            for i in range(count):
                put(keys_of_frame, i, get(keys, passed + i))
            to = after(best, s * options.topk)
            _find_best(keys_of_frame, count, options.topk, numbers, integers, work, codes, to)
            for place in range(options.topk):
                put(to, place, passed + get(to, place))
            passed += count
    else:
        _find_best(keys, n, options.topk, numbers, integers, work, codes, best)
    if options.removes_self:
        for place in range(task.kept):
            index = get(best, place)
            put(best, place, index + 1 if index >= own else index)


@helper
def _write(scores, best, names, count, dt, dy, dx, step, dot, out, offsets):
    """The candidates named in `best`, whose windows begin at offsets dt, dy, dx slot by slot."""
    for place in range(count):
        index = get(best, place)
        score = get(scores, index)
        score = score if score < np.inf else np.inf  # what is not a number has ranked as infinite
        put(out, place, -score if dot else score)
        slot = get(names, 3 * index)
        put(offsets, 3 * place, get(dt, slot))
        put(offsets, 3 * place + 1, get(dy, slot) + get(names, 3 * index + 1) * step)
        put(offsets, 3 * place + 2, get(dx, slot) + get(names, 3 * index + 2) * step)


@helper
def _write_fractions(scores, best, names, t, y, x, at, windows, task, out, offsets):
    """The same with offsets that are fractions, as bits: one compiled kernel serves whole ones and float32."""
    for place in range(task.kept):
        index = get(best, place)
        score = get(scores, index)
        score = score if score < np.inf else np.inf
        put(out, place, -score if task.dot else score)
        w = at + get(names, 3 * index)
        py = candidate(get(windows.cy, w), get(names, 3 * index + 1), get(windows.by, w), task.step)
        px = candidate(get(windows.cx, w), get(names, 3 * index + 2), get(windows.bx, w), task.step)
        put_fraction(offsets, 3 * place, get(windows.dt, w))
        put_fraction(offsets, 3 * place + 1, py - y * task.stride)
        put_fraction(offsets, 3 * place + 2, px - x * task.stride)
