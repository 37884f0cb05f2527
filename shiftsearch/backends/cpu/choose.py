"""Which candidates of a query are kept, and in which order, from the scores of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shiftsearch.backends.cpu.jit import helper, inline
from shiftsearch.backends.cpu.memory import Pointer, after, get, put, put_fraction
from shiftsearch.backends.cpu.topk import find_smallest
from shiftsearch.backends.cpu.windows import Query, Task, Windows, position, window_at

if TYPE_CHECKING:
    from shiftsearch.backends.cpu.search import Codes, Scratch


class Options(NamedTuple):
    """Options that change which candidates are kept.

    A search that has none of them gets None instead, and a kernel that numba compiles without their code.
    """

    topk: int
    all: bool  # topk=None: keep all candidates
    per_frame: bool
    penalty: float
    anchor_self: bool
    anchor_centre: bool
    removes_self: bool  # the query itself is not a candidate
    hides_self: bool  # the query itself gets an infinite score
    finds_self: bool  # one of these needs to know which candidate the query itself is
    ranks: bool  # not by the score alone


class Results(NamedTuple):
    """What a search gives for one head, (frames, rows, columns, kept); `slots` only if it has seeds."""

    scores: np.ndarray
    offsets: np.ndarray
    slots: np.ndarray


@inline
def finish(
    scores: Pointer,
    query: Query,
    windows: Windows,
    task: Task,
    options: Options | None,
    codes: Codes,
    scratch: Scratch,
    cells: Pointer,
    results: Results,
) -> None:
    """Write what is kept of a query's candidates; `cells` are the slot, row and column of each in its window."""
    n, kept = task.slots * task.each, scratch.kept
    if options is None:
        find_smallest(scores, n, task.kept, codes.topk, scratch.topk, kept)
    else:
        _choose(scores, query, windows, task, options, codes, scratch, kept)
    to = ((query.t * task.rows + query.y) * task.columns + query.x) * task.kept
    out, offsets = after(results.scores, to), after(results.offsets, 3 * to)
    if task.subpixel:
        _write_fractions(scores, kept, cells, query, windows, task, out, offsets)
    else:
        dt, dy, dx = after(windows.dt, query.at), after(windows.dy, query.at), after(windows.dx, query.at)
        _write(scores, kept, cells, task.kept, dt, dy, dx, task.whole_step, task.dot, out, offsets)
    if task.seeds:
        for n in range(task.kept):
            put(results.slots, to + n, get(cells, 3 * get(kept, n)))


# --- options --------------------------------------------------------------------------------------
@helper
def _choose(scores, query, windows, task, options, codes, scratch, kept):
    """Write the indices of the candidates that are kept, in order."""
    each, n = task.each, task.slots * task.each
    own = _hide(scores, query, windows, task, options)
    keys = scores
    if options.ranks:
        keys = scratch.keys
        n = _rank(scores, own, query.at, windows, task, options, keys)
    if options.all:
        _keep_all(keys, n, options.anchor_self or options.anchor_centre, kept)
    elif options.per_frame:
        removed = own // each if options.removes_self else -1
        _choose_per_frame(keys, removed, each, task.slots, options.topk, codes, scratch, kept)
    else:
        find_smallest(keys, n, options.topk, codes.topk, scratch.topk, kept)
    if options.removes_self:
        for n in range(task.kept):
            index = get(kept, n)
            put(kept, n, index + 1 if index >= own else index)


@inline
def _hide(scores, query, windows, task, options):
    """Set scores to infinity that are NaN or may not be kept; return the index of the query itself, or -1."""
    each, own = task.each, -1
    if task.overhangs:
        for s in range(task.slots):
            _hide_outside(after(scores, s * each), window_at(windows, query.at + s), task)
    if options.finds_self:
        for s in range(task.slots):
            here = _own_index(s, query, windows, task)
            own = here if own < 0 else own
            if options.hides_self and here >= 0:
                put(scores, here, np.inf)
    for i in range(task.slots * each):
        if not get(scores, i) < np.inf:
            put(scores, i, np.inf)
    return own


@helper
def _own_index(s, query, windows, task):
    """Return the index of the candidate of slot s that is the query itself, or -1."""
    window = window_at(windows, query.at + s)
    y, x = query.y * task.stride, query.x * task.stride
    i = np.int64(np.rint((y - window.cy) / task.step)) + window.by
    j = np.int64(np.rint((x - window.cx) / task.step)) + window.bx
    there = get(windows.frame, query.at + s) == query.t and 0 <= i < task.down and 0 <= j < task.across
    exactly = position(window.cy, i, window.by, task.step) == y and position(window.cx, j, window.bx, task.step) == x
    return s * task.each + i * task.across + j if there and exactly else -1


@helper
def _hide_outside(scores, window, task):
    """Make the scores of candidates that lie outside the frame infinite."""
    cy, cx, by, bx = window
    step, bottom, right = task.step, task.height - 1, task.width - 1
    rows_inside = position(cy, 0, by, step) >= 0 and position(cy, task.down - 1, by, step) <= bottom
    if rows_inside and position(cx, 0, bx, step) >= 0 and position(cx, task.across - 1, bx, step) <= right:
        return
    for i in range(task.down):
        y = position(cy, i, by, step)
        for j in range(task.across):
            x = position(cx, j, bx, step)
            if y < 0 or y > bottom or x < 0 or x > right:
                put(scores, i * task.across + j, np.inf)


@helper
def _rank(scores, own, at, windows, task, options, keys):
    """Write the keys that rank the candidates, which are scores with penalty and anchor; return how many there are."""
    each, n = task.each, task.slots * task.each
    for i in range(n):
        put(keys, i, get(scores, i))
    for s in range(task.slots):
        by, bx = get(windows.by, at + s), get(windows.bx, at + s)
        if options.penalty > 0:
            for i in range(each):
                down, across = i // task.across - by, i % task.across - bx
                more = options.penalty * (task.step * task.step * (down * down + across * across))
                put(keys, s * each + i, get(keys, s * each + i) + more)
        if options.anchor_centre:
            put(keys, s * each + by * task.across + bx, -np.inf)
    if options.anchor_self and own >= 0:
        put(keys, own, -np.inf)
    if options.removes_self:
        for i in range(own, n - 1):
            put(keys, i, get(keys, i + 1))
        n -= 1
    return n


@helper
def _keep_all(keys, n, anchored, kept):
    """Keep every candidate in order, the anchored ones first."""
    filled = 0
    for turn in range(2):
        for i in range(n):
            if (anchored and get(keys, i) == -np.inf) == (turn == 0):
                put(kept, filled, i)
                filled += 1


@inline
def _choose_per_frame(keys, removed, each, slots, topk, codes, scratch, kept):
    """Keep `topk` of each slot; the slot that lost the query itself has one candidate less."""
    passed = 0
    for s in range(slots):
        count = each - (1 if s == removed else 0)
        for i in range(count):
            put(scratch.part, i, get(keys, passed + i))
        to = after(kept, s * topk)
        find_smallest(scratch.part, count, topk, codes.topk, scratch.topk, to)
        for n in range(topk):
            put(to, n, passed + get(to, n))
        passed += count


# --- results --------------------------------------------------------------------------------------
@inline
def _put_score(score, dot, out, n):
    score = score if score < np.inf else np.inf  # NaN is ranked as infinite
    put(out, n, -score if dot else score)


@helper
def _write(scores, kept, cells, count, dt, dy, dx, step, dot, out, offsets):
    """Write the kept candidates, whose windows begin at offsets dt, dy, dx slot by slot."""
    for n in range(count):
        index = get(kept, n)
        _put_score(get(scores, index), dot, out, n)
        slot = get(cells, 3 * index)
        put(offsets, 3 * n, get(dt, slot))
        put(offsets, 3 * n + 1, get(dy, slot) + get(cells, 3 * index + 1) * step)
        put(offsets, 3 * n + 2, get(dx, slot) + get(cells, 3 * index + 2) * step)


@helper
def _write_fractions(scores, kept, cells, query, windows, task, out, offsets):
    """Write fractional offsets as bits, so that one compiled kernel serves int32 and float32."""
    for n in range(task.kept):
        index = get(kept, n)
        _put_score(get(scores, index), task.dot, out, n)
        at = query.at + get(cells, 3 * index)
        window = window_at(windows, at)
        py = position(window.cy, get(cells, 3 * index + 1), window.by, task.step)
        px = position(window.cx, get(cells, 3 * index + 2), window.bx, task.step)
        put_fraction(offsets, 3 * n, get(windows.dt, at))
        put_fraction(offsets, 3 * n + 1, py - query.y * task.stride)
        put_fraction(offsets, 3 * n + 2, px - query.x * task.stride)
