"""search on the CPU: the windows, tile by tile, and the best of their candidates.

A tile is 8 x 8 queries. Where its windows overlap enough, the distances of single pixels are computed
once for all displacements that any of its queries needs, and summed over patches (the box form);
where they do not, each query is compared directly, a window at a time, or, where candidates are not
one pixel apart, a candidate at a time. What vector code does not cover - dilation, borders of zeros,
very large windows and patches - is done by plain loops.
Which form is taken depends on the options and on the flow around the tile, never on the size of the
call, so that a part of a video gives what the whole gives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import Patches, frame_order, reflect
from shiftsearch.backends.cpu import micro, simd
from shiftsearch.backends.cpu.best import Codes, Options, Work, finish
from shiftsearch.backends.cpu.jit import helper, inline, kernel
from shiftsearch.backends.cpu.layout import channels_last
from shiftsearch.backends.cpu.micro import BEST, ROW, TILE
from shiftsearch.backends.cpu.pool import spread
from shiftsearch.backends.cpu.simd import after, aligned, get, pointer, put, stopped
from shiftsearch.backends.cpu.windows import (
    Task,
    candidate,
    first_of,
    mirror_index,
    pointers,
    room_for,
    windows_of_flow,
    windows_of_seeds,
)

_LARGEST_WINDOW = 16  # of the vector code: its accumulators live in registers
_AT_A_TIME = 4096  # windows that are placed at a time, or those of one row of tiles, which bounds scratch memory


# --- tiles, by vector code ------------------------------------------------------------------------
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


class Strides(NamedTuple):
    """q in memory, as the user laid it out."""

    frame: int
    channel: int
    row: int
    column: int
    height: int
    width: int


class _Spread(NamedTuple):
    """The displacements that the windows of a tile span."""

    top: int
    left: int
    down: int
    across: int
    whole: bool  # all windows lie on whole pixels of one frame


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
def _load_planes(q, q_shape, t, y0, x0, task, codes, planes):
    """The pixels that the patches of a tile need, [row, channel, column]."""
    apart, half = task.stride * task.scale, task.patch // 2
    packed, side, length, _ = _packing(task)
    runs, run = (1, side) if packed == apart else (TILE, packed)  # of pixels that are neighbours in q
    left, step = x0 * apart - half, q_shape.column
    inside = left >= 0 and left + (runs - 1) * apart + run <= q_shape.width
    for row in range(side):
        a = row // packed if row // packed < TILE else TILE - 1
        y = mirror_index((y0 + a) * apart + row - a * packed - half, q_shape.height)
        for c in range(task.channels):
            pixels = after(q, t * q_shape.frame + c * q_shape.channel + y * q_shape.row)
            for b in range(runs):
                to, x = after(planes, (row * task.channels + c) * length + b * run), left + b * apart
                if not inside:
                    for column in range(run):
                        put(to, column, get(pixels, mirror_index(x + column, q_shape.width) * step))
                elif step == 1:
                    micro.copy(codes.copy, pixels, x, to, 0, run)
                else:
                    for column in range(run):
                        put(to, column, get(pixels, (x + column) * step))


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
def _spread_of(s, u, x0, ny, nx, windows, task):
    frame = get(windows.frame, first_of(u, 0, x0, task) + s)
    top, left, bottom, right, whole = 1 << 40, 1 << 40, -(1 << 40), -(1 << 40), True
    for a in range(ny):
        for b in range(nx):
            at = first_of(u, a, x0 + b, task) + s
            dy, dx = get(windows.dy, at), get(windows.dx, at)
            top, bottom = (dy if dy < top else top), (dy if dy > bottom else bottom)
            left, right = (dx if dx < left else left), (dx if dx > right else right)
            whole = whole and get(windows.frame, at) == frame
            if task.subpixel:
                cy, cx = get(windows.cy, at), get(windows.cx, at)
                whole = whole and np.floor(cy) == cy and np.floor(cx) == cx
    return _Spread(top, left, bottom - top + task.window, right - left + task.window, whole)


@helper
def _box_is_cheaper(displacements, queries, task, lanes):
    """Whether one pass over all displacements beats comparing each query, in nanoseconds as measured on one machine."""
    patch, C, window = task.patch, task.channels, task.window
    per_row = ROW // lanes if lanes < ROW else 1
    by_displacement = 0.6 * (TILE + patch - 1) * C * per_row + 4 * patch * per_row + 7
    if task.wide:
        direct = 0.41 * patch * patch * window * window * (C // lanes) + 1.2 * window * window
    else:
        direct = 0.38 * patch * patch * window * C * ((window + lanes - 1) // lanes) + 15
    return displacements * by_displacement + queries * window * window * 0.25 < queries * direct


@helper
def _box_scores(s, u, y0, x0, ny, nx, span, windows, task, shape, codes, q_planes, k, pixels, boxes, scores):
    """Scores of slot s of all queries of a tile, by box sums over all displacements."""
    _, _, length, stride = _packing(task)
    corner, frame = shape.pad - task.patch // 2, get(windows.frame, first_of(u, 0, x0, task) + s)
    # the displacement that takes one query to the frame's first row takes those above it out of the frame
    top = y0 + span.top + corner
    at = frame * shape.frame + top * shape.row + x0 + span.left + corner
    micro.boxes(codes.boxes, q_planes, 0, k, at, pixels, 0, boxes, 0, span.down, span.across, task.channels,
                task.channels * length, length, shape.row, shape.channel, -top, shape.rows - top)  # fmt: skip
    for a in range(ny):
        for b in range(nx):
            at = first_of(u, a, x0 + b, task) + s
            first = (get(windows.dy, at) - span.top) * span.across + get(windows.dx, at) - span.left
            take = first * (TILE * TILE) + a * TILE + b
            to = (a * TILE + b) * stride + s * task.window * task.window
            micro.pick(codes.pick, boxes, take, scores, to, span.across)


@inline
def _outside(y, x, task):
    """Whether a candidate scores infinite because it is outside the frame."""
    return task.overhangs and (y < 0 or y > task.height - 1 or x < 0 or x > task.width - 1)


@inline
def _direct_scores(at, windows, task, shape, codes, q_planes, q_last, k, k_last, near, fractions, sums, block, scores):
    """Scores of one window of one query, whose patch begins at q_planes and q_last."""
    cy, cx, by, bx = get(windows.cy, at), get(windows.cx, at), get(windows.by, at), get(windows.bx, at)
    frame = get(windows.frame, at)
    if task.part == task.window:
        _compare(
            frame, cy - by, cx - bx, task, shape, codes, q_planes, q_last, k, k_last, near, fractions, sums, scores
        )
        return
    for a in range(task.phases):
        for b in range(task.phases):
            y, x = candidate(cy, a, by, task.step), candidate(cx, b, bx, task.step)
            if task.part > 1 or not _outside(y, x, task):
                _compare(frame, y, x, task, shape, codes, q_planes, q_last, k, k_last, near, fractions, sums, block)
            row = 0
            for i in range(a, task.window, task.phases):
                y, place = candidate(cy, i, by, task.step), row
                for j in range(b, task.window, task.phases):
                    outside = _outside(y, candidate(cx, j, bx, task.step), task)
                    put(scores, i * task.window + j, np.inf if outside else get(block, place))
                    place += 1
                row += task.part


@inline
def _compare(frame, py, px, task, shape, codes, q_planes, q_last, k, k_last, near, fractions, sums, scores):
    """Scores of task.part x task.part candidates, one pixel apart, the first of them at (py, px)."""
    _, side, length, _ = _packing(task)
    C, patch, reach = task.channels, task.patch, task.part + task.patch - 1
    fy, fx = np.floor(py), np.floor(px)
    y, x = np.int64(fy) - patch // 2 + shape.pad, np.int64(fx) - patch // 2 + shape.pad
    whole = fy == py and fx == px
    if not whole:
        put(fractions, 0, py - fy)
        put(fractions, 1, px - fx)
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


@kernel(calls_vector_code=True)
def _search_tiles(
    first,
    last,
    q,
    q_shape,
    k,
    k_last,
    shape,
    windows,
    task,
    options,
    codes,
    work,
    numbers,
    integers,
    names,
    out,
    offsets,
    origin,
    stop,
):
    """Searches tile rows first..last."""
    windows, numbers, integers = pointers(windows), pointer(numbers), pointer(integers)
    q, k, k_last = pointer(q), pointer(k), pointer(k_last)
    names, out, offsets, origin = pointer(names), pointer(out), pointer(offsets), pointer(origin)
    scores, q_planes, q_last = after(numbers, work.scores), after(numbers, work.q_planes), after(numbers, work.q_last)
    near, fractions, sums = after(numbers, work.near), after(numbers, work.fractions), after(numbers, work.sums)
    pixels, boxes, block = after(numbers, work.pixels), after(numbers, work.boxes), after(numbers, work.part)
    each, C = task.window * task.window, task.channels
    tile_rows, tile_columns = (task.rows + TILE - 1) // TILE, (task.columns + TILE - 1) // TILE
    packed, side, length, stride = _packing(task)
    for tile in range(first * tile_columns, last * tile_columns):
        unit, x0 = tile // tile_columns, tile % tile_columns * TILE
        u, t, y0 = unit - first, unit // tile_rows, unit % tile_rows * TILE
        ny = TILE if y0 + TILE <= task.rows else task.rows - y0
        nx = TILE if x0 + TILE <= task.columns else task.columns - x0
        _load_planes(q, q_shape, t, y0, x0, task, codes, q_planes)
        turned = not task.wide
        for s in range(task.slots):
            boxed = False
            if stopped(stop):
                return
            if codes.boxes != 0:
                span = _spread_of(s, u, x0, ny, nx, windows, task)
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
                        if stopped(stop):
                            return
                        _direct_scores(first_of(u, a, x0 + b, task) + s, windows, task, shape, codes,
                                       after(q_planes, a * packed * C * length + b * packed),
                                       after(q_last, (a * packed * side + b * packed) * C), k, k_last,
                                       near, fractions, sums, block, after(scores, (a * TILE + b) * stride + s * each))  # fmt: skip
        for a in range(ny):
            for b in range(nx):
                finish(after(scores, (a * TILE + b) * stride), t, y0 + a, x0 + b, first_of(u, a, x0 + b, task),
                       windows, task, options, numbers, integers, work, codes, names, out, offsets, origin)  # fmt: skip


# --- everything else, by plain loops --------------------------------------------------------------
@inline
def _pixel(t, y, x, H, W, C, zeros):
    """Start of the channels of a pixel in [T, row, column, channel], or -1 outside a border of zeros."""
    if zeros and (y < 0 or y >= H or x < 0 or x >= W):
        return -1
    return ((t * H + mirror_index(y, H)) * W + mirror_index(x, W)) * C


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
def _search_plainly(
    first, last, q, k, windows, task, options, codes, work, numbers, integers, names, out, offsets, origin, stop
):
    """Searches tile rows first..last, candidate by candidate. q, k: [T, row, column, channel]."""
    windows, numbers, integers = pointers(windows), pointer(numbers), pointer(integers)
    q, k, names, out, offsets, origin = (
        pointer(q),
        pointer(k),
        pointer(names),
        pointer(out),
        pointer(offsets),
        pointer(origin),
    )
    each, apart, tile_rows = task.window * task.window, task.stride * task.scale, (task.rows + TILE - 1) // TILE
    scores = after(numbers, work.scores)
    for unit in range(first, last):
        u, t, y0 = unit - first, unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                at = first_of(u, y - y0, x, task)
                for n in range(task.slots * each):
                    if stopped(stop):
                        return
                    w = at + get(names, 3 * n)
                    py = candidate(get(windows.cy, w), get(names, 3 * n + 1), get(windows.by, w), task.step)
                    px = candidate(get(windows.cx, w), get(names, 3 * n + 2), get(windows.bx, w), task.step)
                    score = np.inf  # outside the frame, unless its border is zeros
                    if not task.overhangs or (0 <= py <= task.height - 1 and 0 <= px <= task.width - 1):
                        score = _distance(q, k, t, y * apart, x * apart, get(windows.frame, w), py, px, task)
                    put(scores, n, score)
                finish(
                    scores,
                    t,
                    y,
                    x,
                    at,
                    windows,
                    task,
                    options,
                    numbers,
                    integers,
                    work,
                    codes,
                    names,
                    out,
                    offsets,
                    origin,
                )


# --- the whole ------------------------------------------------------------------------------------
def search(q, k, spec, p: Patches, *, flow=None, seeds=None):
    """`definition.search`."""
    if any(stride % q.itemsize for stride in q.strides):
        q = np.ascontiguousarray(q)
    B, T, C, H, W = k.shape
    if B > 1 and T == 1 and seeds is None:  # many clips of one frame are searched like one of many frames
        flow = None if flow is None else flow.swapaxes(0, 2)
        out, offsets, _ = search(q.swapaxes(0, 1), k.swapaxes(0, 1), spec, p, flow=flow)
        return out.swapaxes(0, 2), offsets.swapaxes(0, 2), None
    slots = spec.search_slots() if seeds is None else seeds.shape[-2]
    task = _task(spec, p, (T, C // spec.heads, H, W), slots, seeds is not None, q.dtype.name)
    shape = (B, spec.heads, T, task.rows, task.columns, task.kept)
    out = np.empty(shape, q.dtype)
    offsets = np.empty((*shape, 3), q.dtype if spec.subpixel else np.int32)
    words = np.int64 if offsets.itemsize == 8 else np.int32
    origin = np.empty(shape if task.seeds else (B, spec.heads, 0), np.int32)
    if flow is None:
        flow = np.zeros((B, 1, T, 0, 2, task.rows, task.columns), np.float32)
    order, codes, options = frame_order(T, spec.radius), _codes(task, q.dtype.name, p.metric), _options(spec, task)
    for b in range(B):
        for g in range(spec.heads):
            channels = slice(g * task.channels, (g + 1) * task.channels)
            around = seeds[b, g] if task.seeds else flow[b, g % flow.shape[1]]
            outputs = out[b, g].reshape(-1), offsets[b, g].reshape(-1).view(words), origin[b, g].reshape(-1)
            _search(q[b, :, channels], k[b, :, channels], around, order, task, options, codes, outputs)
    return out, offsets, origin if task.seeds else None


def _task(spec, p: Patches, size, slots: int, seeds: bool, dtype: str) -> Task:
    T, C, H, W = size
    sure = spec.slide and min(H, W) - 1 >= spec.window * spec.step  # that a window finds room in the frame
    overhangs = p.border == "reflect" and not sure
    phases = min(round(1 / spec.step), spec.window) if 1 / spec.step in (1, 2, 4, 8) else spec.window
    return Task(
        frames=T, height=H, width=W, rows=(H - 1) // p.stride + 1, columns=(W - 1) // p.stride + 1,
        slots=slots, first_slot=int(spec.skip == "own_frame"), window=spec.window, patch=p.patch, stride=p.stride,
        scale=p.scale, dilation=p.dilation, channels=C, kept=spec.kept(slots), step=float(spec.step),
        whole_step=int(spec.step), dot=p.metric == "dot", zeros=p.border == "zeros", slide=spec.slide, subpixel=spec.subpixel,
        seeds=seeds, overhangs=overhangs, phases=phases, part=-(-spec.window // phases),
        wide=C % simd.lanes(dtype) == 0,
    )  # fmt: skip


def _options(spec, task: Task) -> Options | None:
    removes, hides = spec.removes_self, spec.skip == "self" and not spec.removes_self
    ranks, candidates = spec.penalty > 0 or bool(spec.anchor) or removes, task.slots * task.window**2
    simple = not (ranks or hides or spec.per_frame or task.overhangs)
    if simple and task.kept <= BEST and candidates >= 2 * BEST and spec.topk is not None:
        return None
    return Options(
        topk=spec.topk or task.kept, all=spec.topk is None, per_frame=spec.per_frame, penalty=float(spec.penalty),
        anchor_self=spec.anchor == "self", anchor_centre=spec.anchor == "flow", removes_self=removes, hides_self=hides,
        finds_self=removes or hides or spec.anchor == "self", ranks=ranks,
    )  # fmt: skip


def _by_vectors(task: Task) -> bool:
    """Whether the vector code covers these options."""
    return task.dilation == 1 and not task.zeros and task.part <= _LARGEST_WINDOW and task.patch <= ROW


def _codes(task: Task, dtype: str, metric: str) -> Codes:
    codes = {name: getattr(micro, f"build_{name}")(dtype) for name in ("candidates", "ranks", "smallest", "copy")}
    if _by_vectors(task):
        codes["interpolate"] = micro.build_interpolate(dtype, metric)
        if task.wide:
            codes["wide"] = micro.build_wide(dtype, metric, task.part)
        else:
            codes["small"] = micro.build_small(dtype, metric, task.part, task.patch)
        if task.step == 1 and task.stride * task.scale == 1 and task.patch <= ROW - TILE + 1:
            codes["boxes"] = micro.build_boxes(dtype, metric, task.patch, min(task.channels, 5))
            codes["pick"] = micro.build_pick(dtype, task.window)
    return Codes(**codes)


def _search(q, k, around, order, task: Task, options: Options | None, codes: Codes, outputs):
    """One head of one clip."""
    place = windows_of_seeds if task.seeds else windows_of_flow
    tiles = _by_vectors(task)
    run, videos = (
        (_search_tiles, (q, _strides(q), *_padded(k, task, codes))) if tiles else (_search_plainly, _plain(q, k))
    )
    work = _memory(task, tiles, simd.lanes(k.dtype.name))
    names = _names(task)
    rows = max(1, _AT_A_TIME // (TILE * task.columns * task.slots))

    def some_rows(stop, first, last):
        scratch = aligned(work.numbers, k.dtype), np.empty(work.integers, np.int32)
        windows = room_for(rows * TILE * task.columns * task.slots)
        for start in range(first, max(last, first + 1), rows):
            end = min(last, start + rows)
            if stop[0]:
                return
            place(start, end, around, order, task, windows)
            run(start, end, *videos, windows, task, options, codes, work, *scratch, names, *outputs, stop)

    cost = task.frames * task.rows * task.columns * task.slots * task.window**2 * task.patch**2 * task.channels
    spread(some_rows, task.frames * -(-task.rows // TILE), cost)


def _names(task: Task):
    """Slot, row and column of each candidate, to be looked up because divisions are slow."""
    return np.stack(np.indices((task.slots, task.window, task.window), np.int32), -1).reshape(-1)


def _strides(q) -> Strides:
    """Fields of records are not whole numbers apart: `search` has copied them."""
    return Strides(*(stride // q.itemsize for stride in q.strides), *q.shape[2:])


def _memory(task: Task, tiles: bool, lanes: int) -> Work:
    """Where in a thread's scratch memory everything lies."""
    each, C = task.window**2, task.channels
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
    integers, whole = _one_behind_the_other({"positions": stride, "ranks": stride, "best": task.kept + stride})
    return Work(**numbers, numbers=count, **integers, integers=whole, most=most)


def _one_behind_the_other(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Where each begins, a whole vector after the other, and where all end."""
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = end
        end += -(-size // ROW) * ROW
    return places, end


def _padded(k, task: Task, codes: Codes):
    """k in the layouts that the vector code reads, as flat memory: planes for boxes and few channels, channels last for many.

    Mirrored as far as the patches of windows in the frame reach, and where a fraction reads one pixel more. Beside
    them is memory of any content: vectors read beyond the end of a run, and box sums as far as other queries of the
    tile would look, up to TILE - 1 numbers before the first row.
    """
    _, C, H, W = k.shape
    overhang = 0 if task.slide and min(H, W) >= task.window else task.window
    pad = task.patch // 2 + task.subpixel + overhang
    rows, width, planes, lasts = H + 2 * pad, W + 2 * pad, np.empty(0, k.dtype), np.empty(0, k.dtype)
    if codes.boxes or not task.wide:
        planes = _mirrored_copy(k, pad, channels_last=False)
    if task.wide:
        lasts = _mirrored_copy(k, pad, channels_last=True)
    shape = Shape(pad, rows, C * width, width, rows * C * width, width * C, rows * width * C, simd.lanes(k.dtype.name))
    return planes, lasts, shape


def _mirrored_copy(k, pad: int, channels_last: bool):
    """Its rows one behind the other, mirrored `pad` pixels beyond their border."""
    T, C, H, W = k.shape
    height, width = H + 2 * pad, W + 2 * pad
    shape = (T, height, width, C) if channels_last else (T, height, C, width)
    size = math.prod(shape)
    out = aligned(ROW + size + 4 * ROW, k.dtype, np.empty)[ROW:]
    rows = out[:size].reshape(shape)
    columns = rows.swapaxes(2, 3) if channels_last else rows
    down, across = (reflect(np.arange(-pad, n + pad), n).astype(int) + pad for n in (H, W))

    def some_rows(stop, first, last):
        some = columns[:, pad + first : pad + last]
        some[..., pad : pad + W] = k[:, :, first:last].swapaxes(1, 2)
        some[..., :pad], some[..., pad + W :] = some[..., across[:pad]], some[..., across[pad + W :]]

    spread(some_rows, H, 4 * out.size)
    for frame in rows:
        frame[:pad], frame[pad + H :] = frame[down[:pad]], frame[down[pad + H :]]
    return out


def _plain(*videos):
    """Videos [T, row, column, channel] in flat memory."""
    return tuple(channels_last(x).reshape(-1) for x in videos)
