"""search by vector code: windows of tiles of 8 x 8 queries.

Where the windows of a tile overlap enough, the distances of single pixels are computed once for all displacements that
any of its queries needs, and summed over patches (box sums). Otherwise each query is compared directly, a window at a
time, or a candidate at a time if candidates are not one pixel apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shiftsearch.backends.cpu import search_code as code
from shiftsearch.backends.cpu.choose import Options, Results, finish
from shiftsearch.backends.cpu.grid import reflect
from shiftsearch.backends.cpu.jit import helper, inline, kernel
from shiftsearch.backends.cpu.memory import after, get, pointers, put, stopped
from shiftsearch.backends.cpu.search_code import ROW
from shiftsearch.backends.cpu.topk_code import FEW
from shiftsearch.backends.cpu.windows import TILE, Query, Task, Windows, first_of, position, window_at

if TYPE_CHECKING:
    from shiftsearch.backends.cpu.search import Codes, Scratch


class Strides(NamedTuple):
    """q in memory, as the user laid it out."""

    frame: int
    channel: int
    row: int
    column: int
    height: int
    width: int


class Shape(NamedTuple):
    """k in memory, mirrored `pad` pixels beyond its border: its rows and strides."""

    pad: int
    rows: int  # of a frame
    row: int  # of [frame, row, channel, column]
    channel: int
    frame: int
    last_row: int  # of [frame, row, column, channel]
    last_frame: int
    lanes: int  # numbers in a vector


class Videos(NamedTuple):
    """q as it is, and two copies of k, of which one may be empty: by planes of channels, and channels last."""

    q: np.ndarray
    strides: Strides
    k: np.ndarray
    k_last: np.ndarray
    shape: Shape


class Tile(NamedTuple):
    """The queries from (y0, x0) of frame t, ny x nx of them, in the u-th row of tiles that has windows."""

    t: int
    y0: int
    x0: int
    ny: int
    nx: int
    u: int


class Packing(NamedTuple):
    """The layout of a tile's pixels."""

    apart: int  # pixels from patch to patch
    side: int
    length: int  # of a row
    stride: int  # numbers from the scores of a query to those of the next


class Span(NamedTuple):
    """The displacements that the windows of a tile span."""

    top: int
    left: int
    down: int
    across: int
    whole: bool  # all windows lie on whole pixels of one frame


@helper
def packing(task: Task) -> Packing:
    apart = task.stride * task.scale
    packed = apart if apart < task.patch else task.patch  # patches that do not touch are packed side by side
    side = (TILE - 1) * packed + task.patch
    length = side if side > ROW else ROW
    candidates = task.slots * task.each
    return Packing(packed, side, length, (candidates + FEW - 1) // FEW * FEW + FEW)


# --- the pixels of a tile -------------------------------------------------------------------------
@helper
def _load_planes(videos, t, y0, x0, task, copy, planes):
    """Load the pixels that the patches of a tile need, [row, channel, column]."""
    q, strides, pack = videos.q, videos.strides, packing(task)
    apart, half = task.stride * task.scale, task.patch // 2
    runs, run = (1, pack.side) if pack.apart == apart else (TILE, pack.apart)  # of pixels that are neighbours in q
    left = x0 * apart - half
    inside = left >= 0 and left + (runs - 1) * apart + run <= strides.width
    for row in range(pack.side):
        a = row // pack.apart if row // pack.apart < TILE else TILE - 1
        y = reflect((y0 + a) * apart + row - a * pack.apart - half, strides.height)
        for c in range(task.channels):
            pixels = after(q, t * strides.frame + c * strides.channel + y * strides.row)
            for b in range(runs):
                to = after(planes, (row * task.channels + c) * pack.length + b * run)
                _load_run(pixels, left + b * apart, run, strides, inside, copy, to)


@inline
def _load_run(pixels, x, run, strides, inside, copy, to):
    """Load neighbouring pixels, mirrored where they are not `inside`."""
    if not inside:
        for column in range(run):
            put(to, column, get(pixels, reflect(x + column, strides.width) * strides.column))
    elif strides.column == 1:
        code.copy(copy, after(pixels, x), to, run)
    else:
        for column in range(run):
            put(to, column, get(pixels, (x + column) * strides.column))


@helper
def _turn_planes(planes, task, last):
    """Write the same pixels as [row, column, channel]."""
    C, pack = task.channels, packing(task)
    for row in range(pack.side):
        for column in range(pack.side):
            for c in range(C):
                put(last, (row * pack.side + column) * C + c, get(planes, (row * C + c) * pack.length + column))


# --- box sums -------------------------------------------------------------------------------------
@helper
def _span_of(s, tile, windows, task):
    """Return the displacements that slot s of a tile needs."""
    frame = get(windows.frame, first_of(tile.u, 0, tile.x0, task) + s)
    top, left, bottom, right, whole = 1 << 40, 1 << 40, -(1 << 40), -(1 << 40), True
    for a in range(tile.ny):
        for b in range(tile.nx):
            at = first_of(tile.u, a, tile.x0 + b, task) + s
            dy, dx = get(windows.dy, at), get(windows.dx, at)
            top, bottom = (dy if dy < top else top), (dy if dy > bottom else bottom)
            left, right = (dx if dx < left else left), (dx if dx > right else right)
            whole = whole and get(windows.frame, at) == frame
            if task.subpixel:
                cy, cx = get(windows.cy, at), get(windows.cx, at)
                whole = whole and np.floor(cy) == cy and np.floor(cx) == cx
    return Span(top, left, bottom - top + task.down, right - left + task.across, whole)


@helper
def box_is_cheaper(displacements: int, queries: int, task: Task, lanes: int) -> bool:
    """Return whether box sums take less time than comparing each query, by nanoseconds that were measured once."""
    patch, C, each, across = task.patch, task.channels, task.each, task.across
    per_row = ROW // lanes if lanes < ROW else 1
    by_displacement = 0.6 * (TILE + patch - 1) * C * per_row + 4 * patch * per_row + 7
    if task.wide:
        direct = 0.41 * patch * patch * each * (C // lanes) + 1.2 * each
    else:
        direct = 0.38 * patch * patch * task.down * C * ((across + lanes - 1) // lanes) + 15
    return displacements * by_displacement + queries * each * 0.25 < queries * direct


@helper
def _box_scores(s, tile, span, windows, task, videos, codes, scratch):
    """Write the scores of slot s of all queries of a tile, by box sums over all displacements."""
    shape, pack = videos.shape, packing(task)
    corner, frame = shape.pad - task.patch // 2, get(windows.frame, first_of(tile.u, 0, tile.x0, task) + s)
    # if the window of one query begins at the first row in memory, those of queries above it begin before
    top = tile.y0 + span.top + corner
    at = frame * shape.frame + top * shape.row + tile.x0 + span.left + corner
    keys, pixels, boxes, C = after(videos.k, at), scratch.pixels, scratch.boxes, task.channels
    q_row, row, channel, bottom = C * pack.length, shape.row, shape.channel, shape.rows - top
    down, across = span.down, span.across
    sizes = down, across, C, q_row, pack.length, row, channel, -top, bottom
    code.boxes(codes.boxes, scratch.q_planes, keys, pixels, boxes, *sizes)
    for a in range(tile.ny):
        for b in range(tile.nx):
            at = first_of(tile.u, a, tile.x0 + b, task) + s
            first = (get(windows.dy, at) - span.top) * across + get(windows.dx, at) - span.left
            take = first * (TILE * TILE) + a * TILE + b
            to = (a * TILE + b) * pack.stride + s * task.each
            code.pick(codes.pick, after(boxes, take), after(scratch.scores, to), across)


# --- query by query -------------------------------------------------------------------------------
@inline
def _is_outside(y, x, task):
    """Return whether a candidate scores infinite because it is outside the frame."""
    return task.overhangs and (y < 0 or y > task.height - 1 or x < 0 or x > task.width - 1)


@inline
def _direct_scores(at, windows, task, videos, codes, scratch, q_planes, q_last, scores):
    """Write the scores of one window of one query, whose patch begins at q_planes and q_last."""
    window, frame = window_at(windows, at), get(windows.frame, at)
    cy, cx, by, bx = window
    if task.part_down == task.down and task.part_across == task.across:
        _compare(frame, cy - by, cx - bx, task, videos, codes, scratch, q_planes, q_last, scores)
        return
    for a in range(task.phases_down):
        for b in range(task.phases_across):
            y, x = position(cy, a, by, task.step), position(cx, b, bx, task.step)
            if task.part_down * task.part_across > 1 or not _is_outside(y, x, task):
                _compare(frame, y, x, task, videos, codes, scratch, q_planes, q_last, scratch.part)
            _deal(a, b, window, task, scratch.part, scores)


@inline
def _deal(a, b, window, task, part, scores):
    """Write the scores of the candidates that are whole pixels from candidate (a, b) to their places in the window."""
    cy, cx, by, bx = window
    row = 0
    for i in range(a, task.down, task.phases_down):
        y, number = position(cy, i, by, task.step), row
        for j in range(b, task.across, task.phases_across):
            outside = _is_outside(y, position(cx, j, bx, task.step), task)
            put(scores, i * task.across + j, np.inf if outside else get(part, number))
            number += 1
        row += task.part_across


@inline
def _compare(frame, py, px, task, videos, codes, scratch, q_planes, q_last, scores):
    """Write the scores of task.part_down x task.part_across candidates, one pixel apart, the first of them at (py, px)."""
    shape, pack, near, fractions = videos.shape, packing(task), scratch.near, scratch.fractions
    C, patch, tall, wide = task.channels, task.patch, task.part_down + task.patch - 1, task.part_across + task.patch - 1
    fy, fx = np.floor(py), np.floor(px)
    y, x = np.int64(fy) - patch // 2 + shape.pad, np.int64(fx) - patch // 2 + shape.pad
    whole = fy == py and fx == px
    if not whole:
        put(fractions, 0, py - fy)
        put(fractions, 1, px - fx)
    if task.wide:
        keys, row = after(videos.k_last, frame * shape.last_frame + y * shape.last_row + x * C), shape.last_row
        if not whole:
            code.interpolate(codes.interpolate, keys, near, fractions, tall, wide * C, row, C, wide * C)
            keys, row = near, wide * C
        code.wide(codes.wide, q_last, keys, scores, scratch.sums, patch, patch * C, pack.side * C, row, C)
        return
    keys, row, channel = after(videos.k, frame * shape.frame + y * shape.row + x), shape.row, shape.channel
    if not whole:
        row, channel = (wide + ROW) * C, wide + ROW
        for c in range(C):
            here, there = after(keys, c * shape.channel), after(near, c * channel)
            code.interpolate(codes.interpolate, here, there, fractions, tall, wide, shape.row, 1, row)
        keys = near
    code.small(codes.small, q_planes, keys, scores, C, C * pack.length, pack.length, row, channel)


# --- slot by slot ---------------------------------------------------------------------------------
@inline
def _slot_scores(s, tile, windows, task, videos, codes, scratch, stop):
    """Write the scores of slot s of all queries of a tile."""
    if codes.boxes != 0:
        span, queries = _span_of(s, tile, windows, task), tile.ny * tile.nx
        displacements = span.down * span.across
        fits = span.whole and displacements <= scratch.most
        if fits and box_is_cheaper(displacements, queries, task, videos.shape.lanes):
            _box_scores(s, tile, span, windows, task, videos, codes, scratch)
            return
    _slot_scores_directly(s, tile, windows, task, videos, codes, scratch, stop)


@inline
def _slot_scores_directly(s, tile, windows, task, videos, codes, scratch, stop):
    each, C, pack = task.each, task.channels, packing(task)
    for a in range(tile.ny):
        for b in range(tile.nx):
            if stopped(stop):
                return
            at = first_of(tile.u, a, tile.x0 + b, task) + s
            planes = after(scratch.q_planes, a * pack.apart * C * pack.length + b * pack.apart)
            lasts = after(scratch.q_last, (a * pack.apart * pack.side + b * pack.apart) * C)
            scores = after(scratch.scores, (a * TILE + b) * pack.stride + s * each)
            _direct_scores(at, windows, task, videos, codes, scratch, planes, lasts, scores)


# --- the visitor ----------------------------------------------------------------------------------
@inline
def _tile(number, first, tile_rows, tile_columns, task):
    unit, x0 = number // tile_columns, number % tile_columns * TILE
    y0 = unit % tile_rows * TILE
    ny = TILE if y0 + TILE <= task.rows else task.rows - y0
    nx = TILE if x0 + TILE <= task.columns else task.columns - x0
    return Tile(unit // tile_rows, y0, x0, ny, nx, unit - first)


@kernel(calls_vector_code=True)
def search_tiles(
    videos: Videos,
    windows: Windows,
    task: Task,
    options: Options | None,
    codes: Codes,
    scratch: Scratch,
    cells: np.ndarray,
    results: Results,
    stop: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Search tile rows first..last."""
    videos, windows, scratch = pointers(videos), pointers(windows), pointers(scratch)
    results, cells = pointers(results), pointers(cells)
    pack, tile_rows, tile_columns = packing(task), (task.rows + TILE - 1) // TILE, (task.columns + TILE - 1) // TILE
    for number in range(first * tile_columns, last * tile_columns):
        tile = _tile(number, first, tile_rows, tile_columns, task)
        _load_planes(videos, tile.t, tile.y0, tile.x0, task, codes.copy, scratch.q_planes)
        if task.wide:
            _turn_planes(scratch.q_planes, task, scratch.q_last)
        for s in range(task.slots):
            _slot_scores(s, tile, windows, task, videos, codes, scratch, stop)
            if stopped(stop):
                return
        for a in range(tile.ny):
            for b in range(tile.nx):
                query = Query(tile.t, tile.y0 + a, tile.x0 + b, first_of(tile.u, a, tile.x0 + b, task))
                scores = after(scratch.scores, (a * TILE + b) * pack.stride)
                finish(scores, query, windows, task, options, codes, scratch, cells, results)
