"""select on the CPU: the windows, tile by tile, and the best of their candidates.

A tile is 8 x 8 queries. Where its windows overlap enough, the distances of single pixels are computed
once for all displacements that any of its queries needs, and summed over patches (the box form);
where they do not, each query is compared directly. What vector code does not cover - steps other
than one pixel, dilation, borders of zeros, very large windows and patches - is done by plain loops.
Which form is taken depends on the options and on the flow around the tile, never on the size of the
call, so that a part of a video gives what the whole gives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import MOST, Patches, frame_order
from shiftsearch.backends.cpu import micro, simd
from shiftsearch.backends.cpu.jit import exact, helper, inline, kernel
from shiftsearch.backends.cpu.pool import spread
from shiftsearch.backends.cpu.simd import after, get, pointer, put

TILE, ROW, BEST = micro.TILE, micro.ROW, micro.BEST
_LARGEST_WINDOW = 16  # of the vector code: its accumulators live in registers
_ROWS_AT_A_TIME = 4  # rows of tiles whose windows are placed at a time, which bounds scratch memory


class Task(NamedTuple):
    """What the kernels need to know of one search, of one head of one clip."""

    frames: int
    height: int
    width: int
    rows: int  # of queries
    columns: int
    slots: int
    first_slot: int  # 1 leaves out the own frame
    window: int
    patch: int
    stride: int  # pixels of k from query to query
    scale: int  # pixels of q for one of k
    dilation: int
    channels: int
    topk: int
    kept: int
    step: float
    whole_step: int  # the same, unless it is a fraction
    penalty: float
    dot: bool
    zeros: bool
    slide: bool
    subpixel: bool
    per_frame: bool
    all: bool  # are kept: topk=None
    anchor_self: bool
    anchor_centre: bool
    removes_self: bool  # from the candidates
    hides_self: bool  # by an infinite score
    finds_self: bool  # any of these
    ranks: bool  # by more than the score
    seeds: bool
    overhangs: bool  # windows may stick out of the frame
    wide: bool  # channels last is good for vectors


# --- windows --------------------------------------------------------------------------------------
@exact
def _mirror(x, n):
    """`reflect` for a position."""
    if n == 1:
        return 0.0
    if 0 <= x <= n - 1:
        return x
    period = 2.0 * (n - 1)
    x = np.mod(x, period)
    return x if x <= n - 1 else period - x


@exact
def _centre(at, moved, n, task):
    """Centre of the window of a query at pixel `at`, along an axis of n pixels."""
    if not abs(moved) <= MOST:
        moved = 0.0 if not np.isfinite(moved) else MOST if moved > 0 else -MOST
    if not task.subpixel:
        moved = np.rint(moved)
    return at + moved if task.zeros else _mirror(at + moved, n)


@exact
def _index_of_centre(centre, n, task):
    """`window_offset`: how many candidates come before the centre."""
    half, last = (task.window - 1) // 2, task.window - 1
    if not task.slide or (centre >= task.step * half and centre + task.step * (last - half) <= n - 1):
        return half
    before = np.float64(half)
    if centre - task.step * half < 0:
        before = np.floor(centre / task.step)
    if centre + task.step * (last - before) > n - 1:
        before = np.ceil((centre - (n - 1)) / task.step + last)
    before = before if before > 0 else 0.0
    return np.int64(before if before < last else last)


@exact
def _candidate(centre, i, before, step):
    """Position of the i-th candidate along an axis."""
    return centre + step * (i - before)


class Windows(NamedTuple):
    """The windows of some rows of tiles, in memory. Those of a query lie together, slot by slot, from `_first_of`."""

    cy: np.ndarray  # centre
    cx: np.ndarray
    by: np.ndarray  # candidates before the centre, down and across
    bx: np.ndarray
    frame: np.ndarray


@inline
def _pointers(w):
    return Windows(pointer(w.cy), pointer(w.cx), pointer(w.by), pointer(w.bx), pointer(w.frame))


@inline
def _first_of(u, a, x, task):
    """Where the windows of a query begin: row a of the u-th row of tiles, column x."""
    return ((u * TILE + a) * task.columns + x) * task.slots


@inline
def _place(windows, at, frame, y, x, dy, dx, task):
    cy = _centre(np.float64(y * task.stride), dy, task.height, task)
    cx = _centre(np.float64(x * task.stride), dx, task.width, task)
    put(windows.cy, at, cy)
    put(windows.cx, at, cx)
    put(windows.by, at, _index_of_centre(cy, task.height, task))
    put(windows.bx, at, _index_of_centre(cx, task.width, task))
    put(windows.frame, at, frame)


@kernel()
def _windows_of_flow(first, last, flow, order, task, windows):
    """Places the windows of tile rows first..last. flow: (T, S, 2, h, w)."""
    windows = _pointers(windows)
    tile_rows = (task.rows + TILE - 1) // TILE
    followed = order.shape[1] - flow.shape[1]
    for unit in range(first, last):
        t, y0 = unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                at = _first_of(unit - first, y - y0, x, task)
                for s in range(task.slots):
                    slot = s + task.first_slot
                    dx = dy = 0.0
                    if slot >= followed:
                        dx = np.float64(flow[t, slot - followed, 0, y, x])
                        dy = np.float64(flow[t, slot - followed, 1, y, x])
                    _place(windows, at + s, order[t, slot], y, x, dy, dx, task)


@kernel()
def _windows_of_seeds(first, last, seeds, order, task, windows):
    """The same around seeds (T, h, w, S, 3)."""
    windows = _pointers(windows)
    tile_rows = (task.rows + TILE - 1) // TILE
    for unit in range(first, last):
        t, y0 = unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                at = _first_of(unit - first, y - y0, x, task)
                for s in range(task.slots):
                    dt = np.float64(seeds[t, y, x, s, 0])
                    dt = np.rint(dt) if np.isfinite(dt) else 0.0
                    frame = np.int64(_mirror(t + dt, task.frames))
                    _place(windows, at + s, frame, y, x, np.float64(seeds[t, y, x, s, 1]),
                           np.float64(seeds[t, y, x, s, 2]), task)  # fmt: skip


# --- the best candidates --------------------------------------------------------------------------
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
    exactly = _candidate(cy, i, by, task.step) == y and _candidate(cx, j, bx, task.step) == x
    return s * task.window * task.window + i * task.window + j if there and exactly else -1


@helper
def _hide_outside(scores, at, windows, task):
    """Candidates of one window that lie outside the frame score infinite."""
    cy, cx, by, bx = get(windows.cy, at), get(windows.cx, at), get(windows.by, at), get(windows.bx, at)
    step, end, bottom, right = task.step, task.window - 1, task.height - 1, task.width - 1
    if _candidate(cy, 0, by, step) >= 0 and _candidate(cy, end, by, step) <= bottom:
        if _candidate(cx, 0, bx, step) >= 0 and _candidate(cx, end, bx, step) <= right:
            return
    for i in range(task.window):
        y = _candidate(cy, i, by, step)
        for j in range(task.window):
            x = _candidate(cx, j, bx, step)
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
def _finish(scores, t, y, x, at, windows, task, numbers, integers, work, codes, out, offsets, origin):
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
        put(offset, 1, np.float32(_candidate(cy, i, 0, task.step) - y * task.stride).view(np.int32))
        put(offset, 2, np.float32(_candidate(cx, j, 0, task.step) - x * task.stride).view(np.int32))
    else:
        put(offset, 0, dt)
        put(offset, 1, np.int64(cy) + i * task.whole_step - y * task.stride)
        put(offset, 2, np.int64(cx) + j * task.whole_step - x * task.stride)


@helper
def _name_candidates(integers, work, task):
    """Slot, row and column of each candidate, looked up because divisions are slow."""
    which, n = after(integers, work.candidate), 0
    for s in range(task.slots):
        for i in range(task.window):
            for j in range(task.window):
                put(which, n, s)
                put(which, n + 1, i)
                put(which, n + 2, j)
                n += 3


# --- tiles, by vector code ------------------------------------------------------------------------
class Shape(NamedTuple):
    """Strides of k in memory, mirrored `pad` pixels beyond its border."""

    pad: int
    row: int  # of [frame, row, channel, column]
    channel: int
    frame: int
    last_row: int  # of [frame, row, column, channel]
    last_frame: int
    lanes: int  # numbers in a vector


class Strides(NamedTuple):
    """q in memory, as the user laid it out."""

    frame: int
    channel: int
    row: int
    column: int
    height: int
    width: int


class Codes(NamedTuple):
    """Addresses of the vector code; 0 where it does not apply."""

    candidates: int
    ranks: int
    wide: int = 0
    small: int = 0
    interpolate: int = 0
    boxes: int = 0
    pick: int = 0


class _Spread(NamedTuple):
    """The displacements that the windows of a tile span."""

    top: int
    left: int
    down: int
    across: int
    whole: bool  # all windows lie on whole pixels of one frame


@inline
def _mirrored(i, n):
    """`reflect` for an index."""
    if n == 1:
        return 0
    if i < 0 or i >= n:
        i = i % (2 * (n - 1))
    return i if i < n else 2 * (n - 1) - i


@helper
def _packing(task):
    """How a tile's pixels are loaded: pixels from patch to patch, side, length of a row; and numbers from query to query."""
    apart = task.stride * task.scale
    packed = apart if apart < task.patch else task.patch  # patches that do not touch are packed side by side
    side = (TILE - 1) * packed + task.patch
    length = side if side > ROW else ROW
    candidates = task.slots * task.window * task.window
    return packed, side, length, (candidates + BEST - 1) // BEST * BEST + BEST


@helper
def _load_planes(q, q_shape, t, y0, x0, task, planes):
    """The pixels that the patches of a tile need, [row, channel, column]."""
    apart, half = task.stride * task.scale, task.patch // 2
    packed, side, length, _ = _packing(task)
    left = x0 * apart - half
    inside = packed == apart and left >= 0 and left + side <= q_shape.width
    for row in range(side):
        a = row // packed if row // packed < TILE else TILE - 1
        y = _mirrored((y0 + a) * apart + row - a * packed - half, q_shape.height)
        for c in range(task.channels):
            pixels = after(q, t * q_shape.frame + c * q_shape.channel + y * q_shape.row)
            to = after(planes, (row * task.channels + c) * length)
            if inside:
                for column in range(side):
                    put(to, column, get(pixels, (left + column) * q_shape.column))
                continue
            for column in range(side):
                b = column // packed if column // packed < TILE else TILE - 1
                x = _mirrored((x0 + b) * apart + column - b * packed - half, q_shape.width)
                put(to, column, get(pixels, x * q_shape.column))


@helper
def _turn_planes(planes, task, last):
    """The same pixels as [row, column, channel]."""
    C = task.channels
    _, side, length, _ = _packing(task)
    for row in range(side):
        for column in range(side):
            for c in range(C):
                put(last, (row * side + column) * C + c, get(planes, (row * C + c) * length + column))


@helper
def _spread_of(s, u, y0, x0, ny, nx, windows, task):
    frame = get(windows.frame, _first_of(u, 0, x0, task) + s)
    top, left, bottom, right, whole = 1 << 40, 1 << 40, -(1 << 40), -(1 << 40), True
    for a in range(ny):
        for b in range(nx):
            at = _first_of(u, a, x0 + b, task) + s
            fy, fx = np.floor(get(windows.cy, at)), np.floor(get(windows.cx, at))
            whole = whole and fy == get(windows.cy, at) and fx == get(windows.cx, at) and get(windows.frame, at) == frame
            dy = np.int64(fy) - get(windows.by, at) - (y0 + a)
            dx = np.int64(fx) - get(windows.bx, at) - (x0 + b)
            top, bottom = (dy if dy < top else top), (dy if dy > bottom else bottom)
            left, right = (dx if dx < left else left), (dx if dx > right else right)
    return _Spread(top, left, bottom - top + task.window, right - left + task.window, whole)


@helper
def _box_is_cheaper(displacements, queries, task, lanes):
    """Whether one pass over all displacements beats comparing each query, in nanoseconds as measured on one machine."""
    patch, C, window = task.patch, task.channels, task.window
    per_row = ROW // lanes if lanes < ROW else 1
    by_displacement = 0.9 * (TILE + patch - 1) * C * per_row + 2.4 * patch * per_row + 10
    if task.wide:
        direct = 0.41 * patch * patch * window * window * (C // lanes) + 1.2 * window * window
    else:
        direct = 0.38 * patch * patch * window * C * ((window + lanes - 1) // lanes) + 15
    return displacements * by_displacement + queries * window * window * 0.25 < queries * direct


@helper
def _box_scores(s, u, y0, x0, ny, nx, span, windows, task, shape, codes, q_planes, k, pixels, boxes, scores):
    """Scores of slot s of all queries of a tile, by box sums over all displacements."""
    _, _, length, stride = _packing(task)
    corner, frame = shape.pad - task.patch // 2, get(windows.frame, _first_of(u, 0, x0, task) + s)
    at = frame * shape.frame + (y0 + span.top + corner) * shape.row + x0 + span.left + corner
    micro.boxes(codes.boxes, q_planes, 0, k, at, pixels, 0, boxes, 0, span.down, span.across, task.channels,
                task.channels * length, length, shape.row, shape.channel)  # fmt: skip
    for a in range(ny):
        for b in range(nx):
            at = _first_of(u, a, x0 + b, task) + s
            i = np.int64(get(windows.cy, at)) - get(windows.by, at) - (y0 + a) - span.top
            j = np.int64(get(windows.cx, at)) - get(windows.bx, at) - (x0 + b) - span.left
            take = (i * span.across + j) * (TILE * TILE) + a * TILE + b
            to = (a * TILE + b) * stride + s * task.window * task.window
            micro.pick(codes.pick, boxes, take, scores, to, span.across)


@inline
def _direct_scores(at, windows, task, shape, codes, q_planes, q_last, k, k_last, near, fractions, sums, scores):
    """Scores of one window of one query, whose patch begins at q_planes and q_last."""
    _, side, length, _ = _packing(task)
    C, patch, reach = task.channels, task.patch, task.window + task.patch - 1
    cy, cx, frame = get(windows.cy, at), get(windows.cx, at), get(windows.frame, at)
    fy, fx = np.floor(cy), np.floor(cx)
    y = np.int64(fy) - get(windows.by, at) - patch // 2 + shape.pad
    x = np.int64(fx) - get(windows.bx, at) - patch // 2 + shape.pad
    whole = fy == cy and fx == cx
    if not whole:
        put(fractions, 0, cy - fy)
        put(fractions, 1, cx - fx)
    if task.wide:
        keys, row = after(k_last, frame * shape.last_frame + y * shape.last_row + x * C), shape.last_row
        if not whole:
            micro.interpolate(codes.interpolate, keys, 0, near, 0, fractions, 0, reach, reach * C, row, C, reach * C)
            keys, row = near, reach * C
        micro.wide(codes.wide, q_last, 0, keys, 0, scores, 0, sums, 0, patch, patch * C, side * C, row, C)
        return
    keys, row, channel = after(k, frame * shape.frame + y * shape.row + x), shape.row, shape.channel
    if not whole:
        row, channel = (reach + ROW) * C, reach + ROW
        for c in range(C):
            micro.interpolate(codes.interpolate, keys, c * shape.channel, near, c * channel, fractions, 0,
                              reach, reach, shape.row, 1, row)  # fmt: skip
        keys = near
    micro.small(codes.small, q_planes, 0, keys, 0, scores, 0, C, C * length, length, row, channel)


@kernel()
def _search_tiles(first, last, q, q_shape, k, k_last, shape, windows, task, codes, work, numbers, integers, out, offsets, origin):
    """Searches tile rows first..last."""
    windows, numbers, integers = _pointers(windows), pointer(numbers), pointer(integers)
    q, k, k_last = pointer(q), pointer(k), pointer(k_last)
    out, offsets, origin = pointer(out), pointer(offsets), pointer(origin)
    scores, q_planes, q_last = after(numbers, work.scores), after(numbers, work.q_planes), after(numbers, work.q_last)
    near, fractions, sums = after(numbers, work.near), after(numbers, work.fractions), after(numbers, work.sums)
    pixels, boxes = after(numbers, work.pixels), after(numbers, work.boxes)
    _name_candidates(integers, work, task)
    each, C = task.window * task.window, task.channels
    tile_rows, tile_columns = (task.rows + TILE - 1) // TILE, (task.columns + TILE - 1) // TILE
    packed, side, length, stride = _packing(task)
    for tile in range(first * tile_columns, last * tile_columns):
        unit, x0 = tile // tile_columns, tile % tile_columns * TILE
        u, t, y0 = unit - first, unit // tile_rows, unit % tile_rows * TILE
        ny = TILE if y0 + TILE <= task.rows else task.rows - y0
        nx = TILE if x0 + TILE <= task.columns else task.columns - x0
        _load_planes(q, q_shape, t, y0, x0, task, q_planes)
        turned = not task.wide
        for s in range(task.slots):
            boxed = False
            if codes.boxes != 0:
                span = _spread_of(s, u, y0, x0, ny, nx, windows, task)
                boxed = span.whole and span.down * span.across <= work.most
                boxed = boxed and _box_is_cheaper(span.down * span.across, ny * nx, task, shape.lanes)
                if boxed:
                    _box_scores(s, u, y0, x0, ny, nx, span, windows, task, shape, codes, q_planes, k,
                                pixels, boxes, scores)  # fmt: skip
            if not boxed:
                if not turned:
                    _turn_planes(q_planes, task, q_last)
                    turned = True
                for a in range(ny):
                    for b in range(nx):
                        _direct_scores(_first_of(u, a, x0 + b, task) + s, windows, task, shape, codes,
                                       after(q_planes, a * packed * C * length + b * packed),
                                       after(q_last, (a * packed * side + b * packed) * C), k, k_last,
                                       near, fractions, sums, after(scores, (a * TILE + b) * stride + s * each))  # fmt: skip
        for a in range(ny):
            for b in range(nx):
                _finish(after(scores, (a * TILE + b) * stride), t, y0 + a, x0 + b, _first_of(u, a, x0 + b, task),
                        windows, task, numbers, integers, work, codes, out, offsets, origin)  # fmt: skip


@kernel()
def _mirror_border(first, last, x, pad, strides, out):
    """Rows of k, mirrored `pad` pixels beyond its border and further right. strides: frame, row, column, channel, length."""
    _, C, H, W = x.shape
    rows, out = H + 2 * pad, pointer(out)
    for unit in range(first, last):
        t, row = unit // rows, unit % rows
        y, at = _mirrored(row - pad, H), t * strides[0] + row * strides[1]
        for c in range(C):
            for column in range(strides[4]):
                put(out, at + column * strides[2] + c * strides[3], x[t, c, y, _mirrored(column - pad, W)])


# --- everything else, by plain loops --------------------------------------------------------------
@inline
def _pixel(t, y, x, H, W, C, zeros):
    """Start of the channels of a pixel in [T, row, column, channel], or -1 outside a border of zeros."""
    if zeros and (y < 0 or y >= H or x < 0 or x >= W):
        return -1
    return ((t * H + _mirrored(y, H)) * W + _mirrored(x, W)) * C


@helper
def _pair(q, k, k00, k01, k10, k11, fy, fx, C, dot):
    """Distance of a pixel of q and a bilinear sample of k; corners at -1 are empty."""
    total = 0.0
    for c in range(C):
        value = 0.0
        if k00 >= 0:
            value += (1 - fy) * (1 - fx) * get(k, k00 + c)
        if k01 >= 0:
            value += (1 - fy) * fx * get(k, k01 + c)
        if k10 >= 0:
            value += fy * (1 - fx) * get(k, k10 + c)
        if k11 >= 0:
            value += fy * fx * get(k, k11 + c)
        if dot:
            total -= get(q, c) * value
        else:
            total += (get(q, c) - value) * (get(q, c) - value)
    return total


@helper
def _distance(q, k, t, y, x, f, py, px, task):
    """Distance of the patches at pixel (y, x) of q and place (py, px) of frame f of k."""
    C, H, W, total = task.channels, task.height, task.width, 0.0
    iy, ix = np.int64(np.floor(py)), np.int64(np.floor(px))
    fy, fx = py - iy, px - ix
    for m in range(task.patch):
        uy = (m - task.patch // 2) * task.dilation
        for n in range(task.patch):
            ux = (n - task.patch // 2) * task.dilation
            q_at = _pixel(t, y + uy, x + ux, H * task.scale, W * task.scale, C, task.zeros)
            k00 = _pixel(f, iy + uy, ix + ux, H, W, C, task.zeros)
            k01, k10, k11 = -1, -1, -1  # a corner without weight is not there
            if fx > 0:
                k01 = _pixel(f, iy + uy, ix + ux + 1, H, W, C, task.zeros)
            if fy > 0:
                k10 = _pixel(f, iy + uy + 1, ix + ux, H, W, C, task.zeros)
            if fy > 0 and fx > 0:
                k11 = _pixel(f, iy + uy + 1, ix + ux + 1, H, W, C, task.zeros)
            if q_at >= 0 and (k00 >= 0 or k01 >= 0 or k10 >= 0 or k11 >= 0):
                total += _pair(after(q, q_at), k, k00, k01, k10, k11, fy, fx, C, task.dot)
    return total


@kernel()
def _search_plainly(first, last, q, k, windows, task, codes, work, numbers, integers, out, offsets, origin):
    """Searches tile rows first..last, candidate by candidate. q, k: [T, row, column, channel]."""
    windows, numbers, integers = _pointers(windows), pointer(numbers), pointer(integers)
    q, k, out, offsets, origin = pointer(q), pointer(k), pointer(out), pointer(offsets), pointer(origin)
    each, apart, tile_rows = task.window * task.window, task.stride * task.scale, (task.rows + TILE - 1) // TILE
    scores = after(numbers, work.scores)
    _name_candidates(integers, work, task)
    for unit in range(first, last):
        u, t, y0 = unit - first, unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                at = _first_of(u, y - y0, x, task)
                for n in range(task.slots * each):
                    which = after(integers, work.candidate + 3 * n)
                    w = at + get(which, 0)
                    py = _candidate(get(windows.cy, w), get(which, 1), get(windows.by, w), task.step)
                    px = _candidate(get(windows.cx, w), get(which, 2), get(windows.bx, w), task.step)
                    put(scores, n, _distance(q, k, t, y * apart, x * apart, get(windows.frame, w), py, px, task))
                _finish(scores, t, y, x, at, windows, task, numbers, integers, work, codes, out, offsets, origin)


# --- the whole ------------------------------------------------------------------------------------
def select(q, k, spec, p: Patches, *, flow=None, seeds=None):
    """`definition.select`."""
    B, T, C, H, W = k.shape
    slots = spec.search_slots() if seeds is None else seeds.shape[-2]
    task = _task(spec, p, (T, C // spec.heads, H, W), slots, seeds is not None, q.dtype.name)
    shape = (B, spec.heads, T, task.rows, task.columns, task.kept)
    out = np.empty(shape, q.dtype)
    offsets = np.empty((*shape, 3), np.float32 if spec.subpixel else np.int32)
    origin = np.empty(shape if task.seeds else (B, spec.heads, 0), np.int32)
    if flow is None:
        flow = np.zeros((B, 1, T, 0, 2, task.rows, task.columns), np.float32)
    order, codes = frame_order(T, spec.radius), _codes(task, q.dtype.name, p.metric)
    for b in range(B):
        for g in range(spec.heads):
            channels = slice(g * task.channels, (g + 1) * task.channels)
            around = seeds[b, g] if task.seeds else flow[b, g % flow.shape[1]]
            outputs = out[b, g].reshape(-1), offsets[b, g].reshape(-1).view(np.int32), origin[b, g].reshape(-1)
            _search(q[b, :, channels], k[b, :, channels], around, order, task, codes, outputs)
    return out, offsets, origin if task.seeds else None


def _task(spec, p: Patches, size, slots: int, seeds: bool, dtype: str) -> Task:
    T, C, H, W = size
    kept = spec.kept(slots)
    sure = spec.slide and min(H, W) - 1 >= spec.window * spec.step  # that a window finds room in the frame
    overhangs = p.border == "reflect" and not sure
    removes, hides = spec.removes_self, spec.skip == "self" and not spec.removes_self
    return Task(
        frames=T, height=H, width=W, rows=(H - 1) // p.stride + 1, columns=(W - 1) // p.stride + 1,
        slots=slots, first_slot=int(spec.skip == "own_frame"), window=spec.window, patch=p.patch, stride=p.stride,
        scale=p.scale, dilation=p.dilation, channels=C, topk=spec.topk or kept, kept=kept, step=float(spec.step),
        whole_step=int(spec.step), penalty=float(spec.penalty), dot=p.metric == "dot", zeros=p.border == "zeros", slide=spec.slide,
        subpixel=spec.subpixel, per_frame=spec.per_frame, all=spec.topk is None, anchor_self=spec.anchor == "self",
        anchor_centre=spec.anchor == "flow", removes_self=removes, hides_self=hides,
        finds_self=removes or hides or spec.anchor == "self", ranks=spec.penalty > 0 or bool(spec.anchor) or removes,
        seeds=seeds, overhangs=overhangs, wide=C % simd.lanes(dtype) == 0,
    )  # fmt: skip


def _by_vectors(task: Task) -> bool:
    """Whether the vector code covers these options."""
    common = task.step == 1 and task.dilation == 1 and not task.zeros
    return common and task.window <= _LARGEST_WINDOW and task.patch <= ROW


def _codes(task: Task, dtype: str, metric: str) -> Codes:
    codes = {"candidates": micro.build_candidates(dtype), "ranks": micro.build_ranks(dtype)}
    if _by_vectors(task):
        codes["interpolate"] = micro.build_interpolate(dtype)
        if task.wide:
            codes["wide"] = micro.build_wide(dtype, metric, task.window)
        else:
            codes["small"] = micro.build_small(dtype, metric, task.window, task.patch)
        if task.stride * task.scale == 1 and task.patch <= ROW - TILE + 1:
            codes["boxes"] = micro.build_boxes(dtype, metric, task.patch, min(task.channels, 5))
            codes["pick"] = micro.build_pick(dtype, task.window)
    return Codes(**codes)


def _search(q, k, around, order, task: Task, codes: Codes, outputs):
    """One head of one clip."""
    place = _windows_of_seeds if task.seeds else _windows_of_flow
    tiles = _by_vectors(task)
    run, videos = (_search_tiles, (q, _strides(q), *_padded(k, task, codes))) if tiles else (_search_plainly, _plain(q, k))
    work = _memory(task, tiles, simd.lanes(k.dtype.name))

    def some_rows(first, last):
        scratch = _aligned(work.numbers, k.dtype), np.empty(work.integers, np.int32)
        for start in range(first, last, _ROWS_AT_A_TIME):
            end = min(last, start + _ROWS_AT_A_TIME)
            n = (end - start) * TILE * task.columns * task.slots
            windows = Windows(np.empty(n), np.empty(n), *(np.empty(n, np.int32) for _ in range(3)))
            place(start, end, around, order, task, windows)
            run(start, end, *videos, windows, task, codes, work, *scratch, *outputs)

    cost = task.frames * task.rows * task.columns * task.slots * task.window**2 * task.patch**2 * task.channels
    spread(some_rows, task.frames * -(-task.rows // TILE), cost)


def _strides(q) -> Strides:
    return Strides(*(stride // q.itemsize for stride in q.strides), *q.shape[2:])


def _memory(task: Task, tiles: bool, lanes: int) -> Work:
    """Where in a thread's scratch memory everything lies."""
    each, n, C = task.window**2, task.slots * task.window**2, task.channels
    _, side, length, stride = _packing.py_func(task)
    reach, rows, most = task.window + task.patch - 1, TILE + task.patch - 1, 16
    while tiles and most < 4096 and _box_is_cheaper.py_func(most, TILE * TILE, task, lanes):
        most += 16
    sizes = {"keys": stride, "part": each + 2 * BEST, "found": stride, "scores": stride * (TILE * TILE if tiles else 1)}
    for_tiles = {
        "q_planes": side * C * length, "q_last": side * side * C if task.wide else 0, "sums": each * ROW,
        "near": reach * (reach + ROW) * C + 4 * ROW if task.subpixel else 0, "fractions": 2,
        "pixels": most * rows * ROW, "boxes": most * TILE * TILE,
    }  # fmt: skip
    numbers, count = _one_behind_the_other({**sizes, **(for_tiles if tiles else dict.fromkeys(for_tiles, 0))})
    integers, whole = _one_behind_the_other({"positions": stride, "ranks": stride, "best": stride, "candidate": 3 * n})
    return Work(**numbers, numbers=count, **integers, integers=whole, most=most)


def _one_behind_the_other(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Where each begins, a whole vector after the other, and where all end."""
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = end
        end += -(-size // ROW) * ROW
    return places, end


def _aligned(size: int, dtype):
    """Memory that begins where a vector may: one that crosses a cache line costs two."""
    memory = np.zeros(size + ROW, dtype)
    return memory[-memory.ctypes.data % 64 // memory.itemsize :][:size]


def _padded(k, task: Task, codes: Codes):
    """k in the layouts that the vector code reads, as flat memory: planes for boxes and few channels, channels last for many."""
    T, C, H, W = k.shape
    overhang = 0 if task.slide and min(H, W) >= task.window else task.window
    pad = task.patch + TILE + overhang
    rows, planes, lasts = H + 2 * pad, np.empty(0, k.dtype), np.empty(0, k.dtype)
    width, wider = W + 2 * pad, -(-(W + 2 * pad + ROW) // ROW) * ROW
    if codes.boxes or not task.wide:
        planes = _mirrored_copy(k, pad, (rows * C * wider, C * wider, 1, wider, wider))
    if task.wide:
        lasts = _mirrored_copy(k, pad, (rows * width * C, width * C, C, 1, width))
    shape = Shape(pad, C * wider, wider, rows * C * wider, width * C, rows * width * C, simd.lanes(k.dtype.name))
    return planes, lasts, shape


def _mirrored_copy(k, pad: int, strides: tuple[int, ...]):
    """With a margin behind its end, where a vector may still be read."""
    T, _, H, _ = k.shape
    out = _aligned(T * strides[0] + 4 * ROW, k.dtype)
    spread(lambda a, b: _mirror_border(a, b, k, pad, strides, out), T * (H + 2 * pad), 4 * out.size)
    return out


def _plain(*videos):
    """Videos [T, row, column, channel] in flat memory."""
    return tuple(np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1) for x in videos)
