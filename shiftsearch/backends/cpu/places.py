"""Comparing, reading and writing patches at given places, for any places, borders, dilations and dtypes.

A batch item and a head at a time: its video is copied to (T, H, W * F), so that the F channels of a
pixel, and mostly all pixels of a patch row, are next to each other. Every output element has one owner:
a row of queries owns its own results, a band of rows of a frame is written by who owns the band. All
that is added to an element is added by its owner, in the order of queries and kept candidates, so
results do not depend on the number of threads or bands.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch.backends.cpu import pool, whole_patches, whole_places
from shiftsearch.backends.cpu.jit import exact, inline, kernel
from shiftsearch.backends.cpu.layout import channels_last, copy_rows
from shiftsearch.backends.cpu.simd import after, pointer, stopped

_BAND = 32  # rows at least: bands look at all candidates of query rows that reach them, so they should not be many


class _Layout(NamedTuple):
    """Patches as kernels see them, and the channels of one head."""

    patch: int
    stride: int
    dilation: int
    scale: int
    t: int
    y: int
    x: int
    mirror: bool
    mirror_queries: bool
    l2: bool
    channels: int


class _Axis(NamedTuple):
    """Where the samples of a patch lie along one axis.

    Sample i is near[i] * pixel low[i] + far[i] * pixel high[i], its slope has weights `fall` and `rise`;
    low[i] is -1 where there is no sample. Of the weights only those of pixel high[i] are ever 0. The samples that exist
    are first ... last - 1 of span = (first, last, step); `step` of them at a time lie between consecutive pixels. All
    are pointers.
    """

    low: np.ndarray
    high: np.ndarray
    near: np.ndarray
    far: np.ndarray
    fall: np.ndarray
    rise: np.ndarray
    span: np.ndarray


# --- places ---------------------------------------------------------------------------------------
@exact
def _frame(offset, t, n):
    """The frame of a place: the time component rounded, mirrored at the ends of the clip."""
    dt = np.float64(offset)
    if n == 1:
        return 0
    if not math.isfinite(dt):
        return t
    period, at = 2.0 * (n - 1), t + np.rint(dt)
    if not 0 <= at < n:
        at %= period
    return np.int64(at if at < n else period - at)


@exact
def _place(offset, at, n, p):
    """Where a place lies along an axis of `n` pixels, and the sign with which it moves when its offset does."""
    offset = np.float64(offset)
    place = at + (offset if math.isfinite(offset) else 0.0)
    if not p.mirror:  # far away is as good as just out of reach, and fits an integer
        reach = p.patch * p.dilation + 2
        return min(max(place, -float(reach)), float(n + reach)), 1.0
    if n == 1:
        return 0.0, 0.0
    if 0 <= place <= n - 1:
        return place, 1.0
    place %= 2.0 * (n - 1)
    return (place, 1.0) if place <= n - 1 else (2.0 * (n - 1) - place, -1.0)


@exact
def _pixel(i, n, mirror):
    """The pixel at whole position `i`, or -1 if there is none."""
    if 0 <= i < n:
        return i
    if not mirror:
        return -1
    if n == 1:
        return 0
    i %= 2 * (n - 1)
    return i if i < n else 2 * (n - 1) - i


@inline
def _axis(index, floats, number, p):
    """Room for axis `number` in a kernel's scratch arrays."""
    n = p.patch
    i, f = number * (2 * n + 3), number * 4 * n
    low, high, span = after(index, i), after(index, i + n), after(index, i + 2 * n)
    near, far = after(floats, f), after(floats, f + n)
    return _Axis(low, high, near, far, after(floats, f + 2 * n), after(floats, f + 3 * n), span)


@inline
def _axes(index, floats, p):
    """Rows and columns of a place, then of a query."""
    rows, columns = _axis(index, floats, 0, p), _axis(index, floats, 1, p)
    return rows, columns, _axis(index, floats, 2, p), _axis(index, floats, 3, p)


@inline
def _patch(floats, number, p):
    """Room for patch `number`, behind that of the axes."""
    return after(floats, 16 * p.patch + number * p.patch * p.patch * p.channels)


@exact
def _lay(axis, place, n, p, mirror):
    """Lays the samples of a patch around `place` on an axis of `n` pixels."""
    for i in range(p.patch):
        at = place + p.dilation * (i - p.patch // 2)
        below = math.floor(at)
        far = at - below
        low, high = _pixel(below, n, mirror), _pixel(below + 1, n, mirror)
        if low >= 0:
            axis.low[i], axis.near[i], axis.fall[i] = low, 1 - far, -1.0
        else:
            axis.low[i], axis.near[i], axis.fall[i] = high if far > 0 else -1, far, 1.0
        both = low >= 0 and high >= 0
        axis.high[i] = high if both else axis.low[i]
        axis.far[i], axis.rise[i] = (far, 1.0) if both else (0.0, 0.0)


@inline
def _limit(axis, other, p):
    """Leaves out the samples that have no partner, and finds the span of the others."""
    first, last, steady = p.patch, 0, True
    for i in range(p.patch):
        if other.low[i] < 0:
            axis.low[i] = -1
        if axis.low[i] >= 0:
            first, last = (i if first == p.patch else first), i + 1
            moved = i - first
            steady &= axis.low[i] == axis.low[first] + moved and axis.high[i] == axis.high[first] + moved
            steady &= axis.near[i] == axis.near[first] and axis.far[i] == axis.far[first]
    axis.span[0], axis.span[1] = first, last
    axis.span[2] = last - first if steady and last > first else 1


@inline
def _own(axis, top, bottom, p):
    """Leaves out the samples without a pixel in top ... bottom - 1; whether any is left."""
    left = False
    for i in range(p.patch):
        near = top <= axis.low[i] < bottom
        far = axis.far[i] > 0 and top <= axis.high[i] < bottom
        if near or far:
            left = True
        else:
            axis.low[i] = -1
    return left


@inline
def _band(number, bands, height):
    """First row of a band of a frame, and the one behind the last."""
    return number * height // bands, (number + 1) * height // bands


@inline
def _lay_place(axis, offset, at, n, p):
    """Lays the patch of keys at an offset from query `at` of the grid; the sign with which it moves."""
    place, sign = _place(offset, at * p.stride, n, p)
    _lay(axis, place, n, p, p.mirror)
    return sign


@inline
def _lay_query(axis, at, n, p):
    """Lays the patch of query `at` of the grid, whose frame has `scale` times the resolution of the keys."""
    _lay(axis, np.float64(p.scale * at * p.stride), n, p, p.mirror_queries)
    _limit(axis, axis, p)


# --- patches --------------------------------------------------------------------------------------
# A patch is an array (patch, patch * F). Only the samples that exist in `rows` and `columns` are touched.
@inline
def _mix(out, to, video, a, b, c, d, n, u0, u1, v0, v1):
    if u1 == 0 and v1 == 0:
        weight = u0 * v0
        for e in range(n):
            out[to + e] = weight * video[a + e]
    elif u1 == 0 or v1 == 0:
        near, other, far = u0 * v0, (b if u1 == 0 else c), (u0 * v1 if u1 == 0 else u1 * v0)
        for e in range(n):
            out[to + e] = near * video[a + e] + far * video[other + e]
    else:
        for e in range(n):
            out[to + e] = u0 * (v0 * video[a + e] + v1 * video[b + e]) + u1 * (v0 * video[c + e] + v1 * video[d + e])


@inline
def _sample(out, frame, W, rows, u0, u1, columns, v0, v1, p):
    """Reads a patch, with u0, u1 and v0, v1 the weights of its samples along rows and columns."""
    F = p.channels
    first, last, step = columns.span[0], columns.span[1], columns.span[2]
    for i in range(p.patch):
        if rows.low[i] < 0:
            continue
        y0 = rows.low[i] * W
        y1 = rows.high[i] * W if u1[i] != 0 else y0
        for j in range(first, last, step):
            x0 = columns.low[j] * F
            x1 = columns.high[j] * F if v1[j] != 0 else x0
            to = (i * p.patch + j) * F
            _mix(out, to, frame, y0 + x0, y0 + x1, y1 + x0, y1 + x1, step * F, u0[i], u1[i], v0[j], v1[j])


@inline
def _read(out, frame, W, rows, columns, p):
    _sample(out, frame, W, rows, rows.near, rows.far, columns, columns.near, columns.far, p)


@inline
def _spread(frame, W, rows, columns, patch, weight, top, bottom, p):
    """The transpose of `_read`: adds weight * patch to rows top ... bottom - 1 of a frame."""
    for i in range(p.patch):
        if rows.low[i] >= 0:
            if top <= rows.low[i] < bottom:
                _spread_row(frame, rows.low[i] * W, columns, patch, i, weight * rows.near[i], p)
            if rows.far[i] != 0 and top <= rows.high[i] < bottom:
                _spread_row(frame, rows.high[i] * W, columns, patch, i, weight * rows.far[i], p)


@inline
def _spread_row(frame, row, columns, patch, i, weight, p):
    F = p.channels
    step = columns.span[2]
    for j in range(columns.span[0], columns.span[1], step):
        values = (i * p.patch + j) * F
        _add(frame, row + columns.low[j] * F, patch, values, step * F, weight * columns.near[j])
        if columns.far[j] != 0:
            _add(frame, row + columns.high[j] * F, patch, values, step * F, weight * columns.far[j])


@inline
def _add(out, to, patch, values, n, weight):
    for e in range(n):
        out[to + e] += weight * patch[values + e]


@inline
def _ends(i, columns, p):
    """First element, and the one behind the last, of row `i` of a patch."""
    return (i * p.patch + columns.span[0]) * p.channels, (i * p.patch + columns.span[1]) * p.channels


@inline
def _subtract(patch, out, rows, columns, p):
    """out = patch - out"""
    for i in range(p.patch):
        if rows.low[i] >= 0:
            first, last = _ends(i, columns, p)
            for e in range(first, last):
                out[e] = patch[e] - out[e]


@inline
def _collect(out, patch, weight, rows, columns, p):
    """out += weight * patch"""
    for i in range(p.patch):
        if rows.low[i] >= 0:
            first, last = _ends(i, columns, p)
            _add(out, first, patch, first, last - first, weight)


@inline
def _product(one, other, rows, columns, zero, p):
    total = zero
    for i in range(p.patch):
        if rows.low[i] >= 0:
            first, last = _ends(i, columns, p)
            for e in range(first, last):
                total += one[e] * other[e]
    return total


@inline
def _slopes(factor, slopes, frame, W, rows, columns, zero, p):
    """Products of a patch with the slopes of the samples by row and by column; `slopes` is room for them."""
    _sample(slopes, frame, W, rows, rows.fall, rows.rise, columns, columns.near, columns.far, p)
    by_y = _product(factor, slopes, rows, columns, zero, p)
    _sample(slopes, frame, W, rows, rows.near, rows.far, columns, columns.fall, columns.rise, p)
    return by_y, _product(factor, slopes, rows, columns, zero, p)


@inline
def _missing(rows, columns):
    """Whether no sample of a patch exists."""
    return rows.span[1] == 0 or columns.span[1] == 0


@inline
def _signed(sign, value):
    """sign * value, and 0 whatever the value is if the sign is."""
    return value if sign > 0 else -value if sign < 0 else 0.0


@inline
def _clear(patch, zero, p):
    for e in range(p.patch * p.patch * p.channels):
        patch[e] = zero


@inline
def _turn(out, patches, t, y, x, n, p):
    """Copies a patch (F, patch, patch) of an array."""
    for i in range(p.patch):
        for j in range(p.patch):
            for f in range(p.channels):
                out[(i * p.patch + j) * p.channels + f] = patches[t, y, x, n, f, i, j]


# --- kernels --------------------------------------------------------------------------------------
# Videos are (T, H, W * F) and contiguous, what belongs to queries is (T, h, w, K, ...). `index` and `floats`
# are scratch arrays.
@inline
def _frame_of(video, t):
    return after(pointer(video), t * video.shape[1] * video.shape[2])


@kernel("out", "index", "floats")
def _score(q, k, offsets, out, again, index, floats, p, stop, first, last):
    """Scores of the rows first ... last - 1 of queries, counted through all frames; `again`: those that are no number."""
    (T, H, WF), (h, w, K) = k.shape, out.shape[1:]
    index, floats = pointer(index), pointer(floats)
    rows, columns, query_rows, query_columns = _axes(index, floats, p)
    mine, theirs, zero = _patch(floats, 0, p), _patch(floats, 1, p), q.dtype.type(0)
    for row in range(first, last):
        t, y = row // h, row % h
        _lay_query(query_rows, y + p.y, q.shape[1], p)
        for x in range(w):
            if stopped(stop):
                return
            _lay_query(query_columns, x + p.x, q.shape[2] // p.channels, p)
            _read(mine, _frame_of(q, t + p.t), q.shape[2], query_rows, query_columns, p)
            for n in range(K):
                if again and not math.isnan(out[t, y, x, n]):
                    continue
                frame = _frame(offsets[t, y, x, n, 0], t + p.t, T)
                _lay_place(rows, offsets[t, y, x, n, 1], y + p.y, H, p)
                _lay_place(columns, offsets[t, y, x, n, 2], x + p.x, WF // p.channels, p)
                _limit(rows, query_rows, p)
                _limit(columns, query_columns, p)
                _read(theirs, _frame_of(k, frame), WF, rows, columns, p)
                if p.l2:
                    _subtract(mine, theirs, rows, columns, p)
                out[t, y, x, n] = _product(theirs if p.l2 else mine, theirs, rows, columns, zero, p)


@kernel("out", "index", "floats")
def _aggregate(q, k, c, offsets, out, bands, index, floats, p, stop, first, last):
    """Bands of rows of the queries' frames."""
    (T, H, WF), (h, w, K) = k.shape, c.shape[1:]
    index, floats = pointer(index), pointer(floats)
    rows, columns, query_rows, query_columns = _axes(index, floats, p)
    mine, theirs, total = _patch(floats, 0, p), _patch(floats, 1, p), _patch(floats, 2, p)
    kind = k.dtype.type
    for unit in range(first, last):
        t, top, bottom = unit // bands, *_band(unit % bands, bands, out.shape[1])
        for y in range(h):
            _lay_query(query_rows, y + p.y, out.shape[1], p)
            if not _own(query_rows, top, bottom, p):
                continue
            for x in range(w):
                if stopped(stop):
                    return
                _lay_query(query_columns, x + p.x, out.shape[2] // p.channels, p)
                if p.l2:
                    _read(mine, _frame_of(q, t + p.t), q.shape[2], query_rows, query_columns, p)
                _clear(total, kind(0), p)
                for n in range(K):
                    weight, frame = kind(c[t, y, x, n]), _frame(offsets[t, y, x, n, 0], t + p.t, T)
                    if weight == 0:
                        continue
                    _lay_place(rows, offsets[t, y, x, n, 1], y + p.y, H, p)
                    _lay_place(columns, offsets[t, y, x, n, 2], x + p.x, WF // p.channels, p)
                    _limit(rows, query_rows, p)
                    _limit(columns, query_columns, p)
                    _read(theirs, _frame_of(k, frame), WF, rows, columns, p)
                    if p.l2:
                        _subtract(mine, theirs, rows, columns, p)
                        weight *= kind(2)
                    _collect(total, theirs, weight, rows, columns, p)
                here = _frame_of(out, t + p.t)
                _spread(here, out.shape[2], query_rows, query_columns, total, kind(1), top, bottom, p)


@kernel("out", "index", "floats")
def _scatter(q, k, c, offsets, reach, out, bands, index, floats, p, stop, first, last):
    """Bands of rows of the keys' frames; `reach` as in `_reach`."""
    (T, H, WF), (h, w, K) = out.shape, c.shape[1:]
    index, floats = pointer(index), pointer(floats)
    rows, columns, query_rows, query_columns = _axes(index, floats, p)
    mine, theirs, kind = _patch(floats, 0, p), _patch(floats, 1, p), q.dtype.type
    for unit in range(first, last):
        s, top, bottom = unit // bands, *_band(unit % bands, bands, H)
        for row in range(c.shape[0] * h):
            t, y = row // h, row % h
            if reach[row, s, 0] >= bottom or reach[row, s, 1] < top:
                continue
            _lay_query(query_rows, y + p.y, q.shape[1], p)
            for x in range(w):
                if stopped(stop):
                    return
                read = False
                for n in range(K):
                    if c[t, y, x, n] == 0 or _frame(offsets[t, y, x, n, 0], t + p.t, T) != s:
                        continue
                    _lay_place(rows, offsets[t, y, x, n, 1], y + p.y, H, p)
                    if not _own(rows, top, bottom, p):
                        continue
                    _lay_place(columns, offsets[t, y, x, n, 2], x + p.x, WF // p.channels, p)
                    if not read:
                        read = True
                        _lay_query(query_columns, x + p.x, q.shape[2] // p.channels, p)
                        _read(mine, _frame_of(q, t + p.t), q.shape[2], query_rows, query_columns, p)
                    _limit(rows, query_rows, p)
                    _limit(columns, query_columns, p)
                    weight, values = kind(c[t, y, x, n]), mine
                    if p.l2:
                        _read(theirs, _frame_of(k, s), WF, rows, columns, p)
                        _subtract(mine, theirs, rows, columns, p)
                        weight, values = kind(-2) * weight, theirs
                    _spread(_frame_of(out, s), WF, rows, columns, values, weight, top, bottom, p)


@kernel("out", "index", "floats")
def _slope(q, k, c, offsets, out, index, floats, p, stop, first, last):
    """Slopes of rows of queries."""
    (T, H, WF), (h, w, K) = k.shape, c.shape[1:]
    index, floats = pointer(index), pointer(floats)
    rows, columns, query_rows, query_columns = _axes(index, floats, p)
    mine, theirs, slopes, kind = _patch(floats, 0, p), _patch(floats, 1, p), _patch(floats, 2, p), q.dtype.type
    for row in range(first, last):
        t, y = row // h, row % h
        _lay_query(query_rows, y + p.y, q.shape[1], p)
        for x in range(w):
            if stopped(stop):
                return
            _lay_query(query_columns, x + p.x, q.shape[2] // p.channels, p)
            _read(mine, _frame_of(q, t + p.t), q.shape[2], query_rows, query_columns, p)
            for n in range(K):
                here = _frame_of(k, _frame(offsets[t, y, x, n, 0], t + p.t, T))
                sign_y = _lay_place(rows, offsets[t, y, x, n, 1], y + p.y, H, p)
                sign_x = _lay_place(columns, offsets[t, y, x, n, 2], x + p.x, WF // p.channels, p)
                _limit(rows, query_rows, p)
                _limit(columns, query_columns, p)
                weight, factor = kind(c[t, y, x, n]), mine
                out[t, y, x, n, 0] = out[t, y, x, n, 1] = out[t, y, x, n, 2] = 0
                if weight == 0 or _missing(rows, columns):
                    continue
                if p.l2:
                    _read(theirs, here, WF, rows, columns, p)
                    _subtract(mine, theirs, rows, columns, p)
                    weight, factor = kind(-2) * weight, theirs
                by_y, by_x = _slopes(factor, slopes, here, WF, rows, columns, kind(0), p)
                out[t, y, x, n, 1] = _signed(sign_y, weight * by_y)
                out[t, y, x, n, 2] = _signed(sign_x, weight * by_x)


@kernel("out", "index", "floats")
def _gather(v, offsets, out, index, floats, p, stop, first, last):
    """Patches of rows of queries."""
    (T, H, WF), (h, w, K) = v.shape, out.shape[1:4]
    index, floats = pointer(index), pointer(floats)
    rows, columns, _, _ = _axes(index, floats, p)
    patch = _patch(floats, 0, p)
    for row in range(first, last):
        t, y = row // h, row % h
        for x in range(w):
            if stopped(stop):
                return
            for n in range(K):
                here = _frame_of(v, _frame(offsets[t, y, x, n, 0], t + p.t, T))
                _lay_place(rows, offsets[t, y, x, n, 1], y + p.y, H, p)
                _lay_place(columns, offsets[t, y, x, n, 2], x + p.x, WF // p.channels, p)
                _limit(rows, rows, p)
                _limit(columns, columns, p)
                if not p.mirror:
                    _clear(patch, v.dtype.type(0), p)
                _read(patch, here, WF, rows, columns, p)
                for f in range(p.channels):
                    for i in range(p.patch):
                        for j in range(p.patch):
                            out[t, y, x, n, f, i, j] = patch[(i * p.patch + j) * p.channels + f]


@kernel("out", "index", "floats")
def _fold(patches, c, offsets, reach, out, bands, index, floats, p, stop, first, last):
    """Bands of rows of the frames that patches are added to; `reach` as in `_reach`."""
    (T, H, WF), (h, w, K) = out.shape, c.shape[1:]
    index, floats = pointer(index), pointer(floats)
    rows, columns, _, _ = _axes(index, floats, p)
    patch, kind = _patch(floats, 0, p), out.dtype.type
    for unit in range(first, last):
        s, top, bottom = unit // bands, *_band(unit % bands, bands, H)
        for row in range(c.shape[0] * h):
            t, y = row // h, row % h
            if reach[row, s, 0] >= bottom or reach[row, s, 1] < top:
                continue
            for x in range(w):
                if stopped(stop):
                    return
                for n in range(K):
                    if c[t, y, x, n] == 0 or _frame(offsets[t, y, x, n, 0], t + p.t, T) != s:
                        continue
                    _lay_place(rows, offsets[t, y, x, n, 1], y + p.y, H, p)
                    if not _own(rows, top, bottom, p):
                        continue
                    _lay_place(columns, offsets[t, y, x, n, 2], x + p.x, WF // p.channels, p)
                    _limit(columns, columns, p)
                    _turn(patch, patches, t, y, x, n, p)
                    _spread(_frame_of(out, s), WF, rows, columns, patch, kind(c[t, y, x, n]), top, bottom, p)


@kernel("out", "index", "floats")
def _fold_slope(v, patches, offsets, out, index, floats, p, stop, first, last):
    """Slopes of rows of queries."""
    (T, H, WF), (h, w, K) = v.shape, out.shape[1:4]
    index, floats = pointer(index), pointer(floats)
    rows, columns, _, _ = _axes(index, floats, p)
    patch, slopes, zero = _patch(floats, 0, p), _patch(floats, 1, p), v.dtype.type(0)
    for row in range(first, last):
        t, y = row // h, row % h
        for x in range(w):
            if stopped(stop):
                return
            for n in range(K):
                here = _frame_of(v, _frame(offsets[t, y, x, n, 0], t + p.t, T))
                sign_y = _lay_place(rows, offsets[t, y, x, n, 1], y + p.y, H, p)
                sign_x = _lay_place(columns, offsets[t, y, x, n, 2], x + p.x, WF // p.channels, p)
                _limit(rows, rows, p)
                _limit(columns, columns, p)
                _turn(patch, patches, t, y, x, n, p)
                by_y, by_x = _slopes(patch, slopes, here, WF, rows, columns, zero, p)
                out[t, y, x, n, 0] = 0
                out[t, y, x, n, 1] = _signed(sign_y, by_y)
                out[t, y, x, n, 2] = _signed(sign_x, by_x)


@kernel("reach")
def _reach(offsets, reach, H, p, stop, first, last):
    """For rows of queries, the first and last row of each frame that their places may touch, (rows, frames, 2), widened."""
    h, w, K = offsets.shape[1:4]
    above, below = p.dilation * (p.patch // 2), p.dilation * (p.patch - 1 - p.patch // 2) + 1
    for row in range(first, last):
        t, y = row // h, row % h
        for x in range(w):
            if stopped(stop):
                return
            for n in range(K):
                s = _frame(offsets[t, y, x, n, 0], t + p.t, reach.shape[1])
                place, _ = _place(offsets[t, y, x, n, 1], (y + p.y) * p.stride, H, p)
                top, bottom = math.floor(place) - above, math.floor(place) + below
                # what sticks out is mirrored back in
                reach[row, s, 0] = min(reach[row, s, 0], max(top, 0), 2 * (H - 1) - bottom)
                reach[row, s, 1] = max(reach[row, s, 1], min(bottom, H - 1), -top)


# --- primitives -----------------------------------------------------------------------------------
class _Heads:
    """The batch items and heads of a call, one at a time, and the threads that work on each."""

    def __init__(self, offsets, p: Patches, channels: int):
        self.offsets, self.count = offsets, offsets.shape[1]
        self.channels = channels
        borders = p.border == "reflect", p.query_border == "reflect"
        self.layout = _Layout(p.patch, p.stride, p.dilation, p.scale, *p.origin, *borders, p.metric == "l2", channels)
        self.cost = math.prod(offsets.shape[2:6]) * p.patch**2 * channels

    def __iter__(self):
        return np.ndindex(self.offsets.shape[:2])

    def of(self, video, b: int, g: int):
        """The channels of one head, (T, H, W * F)."""
        part = channels_last(video[b, :, g * self.channels : (g + 1) * self.channels])
        return part.reshape(*part.shape[:2], -1)

    def put(self, out, b: int, g: int, head):
        part = out[b, :, g * self.channels : (g + 1) * self.channels].transpose(0, 2, 3, 1)
        copy_rows(head.reshape(part.shape), part)

    def reach(self, b: int, g: int, frames: int, height: int):
        """The rows that each row of queries may touch in each frame, see `_reach`."""
        offsets = self.offsets[b, g]
        rows = math.prod(offsets.shape[:2])
        reach = np.empty((rows, frames, 2), np.int32)
        reach[..., 0], reach[..., 1] = height, -1
        pool.spread(partial(_reach, offsets, reach, height, self.layout), rows, 3 * offsets.size)
        return reach

    def rows(self, kernel, dtype, *arrays):
        """A kernel that owns rows of queries."""
        self._run(kernel, dtype, math.prod(self.offsets.shape[2:4]), *arrays)

    def bands(self, kernel, frames: int, *arrays):
        """A kernel that owns bands of rows of the last of `arrays`."""
        out, workers = arrays[-1], pool.threads()
        wanted = -(-3 * workers // frames) if workers > 1 else 1
        bands = max(1, min(wanted, out.shape[1] // _BAND))
        self._run(kernel, out.dtype, frames * bands, *arrays, bands)

    def _run(self, kernel, dtype, count, *arrays):
        P = self.layout.patch

        def work(stop, first, last):
            index = np.empty(4 * (2 * P + 3), np.int64)
            floats = np.empty(16 * P + 3 * P**2 * self.channels, dtype)
            kernel(*arrays, index, floats, self.layout, stop, first, last)

        pool.spread(work, count, self.cost)


def score(q, k, offsets, p: Patches):
    if q.ndim == 6:
        found = [score(q[:, n], k, offsets[..., n : n + 1, :], p) for n in range(q.shape[1])]
        return np.concatenate(found, -1)
    again = whole_places.covers(offsets, p)
    out, done = whole_places.scores(q, k, offsets, p) if again else (np.empty(offsets.shape[:-1], q.dtype), False)
    heads = _Heads(offsets, p, q.shape[2] // offsets.shape[1])
    for b, g in heads if not done else ():
        heads.rows(_score, q.dtype, heads.of(q, b, g), heads.of(k, b, g), offsets[b, g], out[b, g], again)
    return out


def aggregate(q, k, c, offsets, p: Patches, *, size=None, stacked=False):
    if stacked:
        one = partial(aggregate, q, k, p=p, size=size)
        return np.stack([one(c[..., n : n + 1], offsets[..., n : n + 1, :]) for n in range(offsets.shape[-2])], 1)
    shape = (k.shape[0], *size) if q is None else q.shape
    if whole_places.covers(offsets, p):
        found = whole_places.gradients(q, k, c, offsets, p, shape, k.shape, pulls=True, pushes=False)
        if found:
            return found[0]
    out, heads = np.empty(shape, k.dtype), _Heads(offsets, p, k.shape[2] // offsets.shape[1])
    for b, g in heads:
        keys = heads.of(k, b, g)
        queries = heads.of(q, b, g) if p.metric == "l2" else keys  # "dot" does not read them
        sums = np.zeros((shape[1], shape[3], shape[4] * heads.channels), k.dtype)
        heads.bands(_aggregate, offsets.shape[2], queries, keys, c[b, g], offsets[b, g], sums)
        heads.put(out, b, g, sums)
    return out


def scatter(q, k, c, offsets, p: Patches, *, size=None):
    if q.ndim == 6:
        one = partial(scatter, p=p, size=size)
        return sum(one(q[:, n], k, c[..., n : n + 1], offsets[..., n : n + 1, :]) for n in range(q.shape[1]))
    shape = (q.shape[0], *size) if k is None else k.shape
    if whole_places.covers(offsets, p):
        found = whole_places.gradients(q, k, c, offsets, p, q.shape, shape, pulls=False, pushes=True)
        if found:
            return found[1]
    out, heads = np.empty(shape, q.dtype), _Heads(offsets, p, q.shape[2] // offsets.shape[1])
    for b, g in heads:
        queries = heads.of(q, b, g)
        keys = heads.of(k, b, g) if p.metric == "l2" else queries  # "dot" does not read them
        sums = np.zeros((shape[1], shape[3], shape[4] * heads.channels), q.dtype)
        arrays = queries, keys, c[b, g], offsets[b, g], heads.reach(b, g, *shape[1:4:2])
        heads.bands(_scatter, shape[1], *arrays, sums)
        heads.put(out, b, g, sums)
    return out


def aggregate_and_scatter(q, k, c, offsets, p: Patches):
    """Both derivatives, which cost little more than one where they are computed at once."""
    if whole_places.covers(offsets, p):
        found = whole_places.gradients(q, k, c, offsets, p, q.shape, k.shape, pulls=True, pushes=True)
        if found:
            return found
    return aggregate(q, k, c, offsets, p), scatter(q, k, c, offsets, p)


def slope(q, k, c, offsets, p: Patches, *, patches=None):
    if patches is not None:
        return _slope_of_patches(k, patches, offsets, p)
    if q.ndim == 6:
        parts = [slope(q[:, n], k, c[..., n : n + 1], offsets[..., n : n + 1, :], p) for n in range(q.shape[1])]
        return np.concatenate(parts, -2)
    out, heads = np.empty(offsets.shape, q.dtype), _Heads(offsets, p, q.shape[2] // offsets.shape[1])
    for b, g in heads:
        heads.rows(_slope, q.dtype, heads.of(q, b, g), heads.of(k, b, g), c[b, g], offsets[b, g], out[b, g])
    return out


def gather(v, offsets, p: Patches):
    if whole_patches.covers(offsets, p):
        return whole_patches.gather(v, offsets, p)
    heads = _Heads(offsets, p, v.shape[2] // offsets.shape[1])
    out = np.empty((*offsets.shape[:-1], heads.channels, p.patch, p.patch), v.dtype)
    for b, g in heads:
        heads.rows(_gather, v.dtype, heads.of(v, b, g), offsets[b, g], out[b, g])
    return out


def fold(patches, c, offsets, p: Patches, *, size):
    (B, G), (T, H, W), F = offsets.shape[:2], size, patches.shape[-3]
    c = np.broadcast_to(np.ones((), patches.dtype), offsets.shape[:-1]) if c is None else c
    if whole_patches.covers(offsets, p):
        return whole_patches.fold(patches, c, offsets, p, size=size)
    out, heads = np.empty((B, T, G * F, H, W), patches.dtype), _Heads(offsets, p, F)
    for b, g in heads:
        sums = np.zeros((T, H, W * F), patches.dtype)
        heads.bands(_fold, T, patches[b, g], c[b, g], offsets[b, g], heads.reach(b, g, T, H), sums)
        heads.put(out, b, g, sums)
    return out


def _slope_of_patches(v, patches, offsets, p: Patches):
    out, heads = np.empty(offsets.shape, v.dtype), _Heads(offsets, p, v.shape[2] // offsets.shape[1])
    for b, g in heads:
        heads.rows(_fold_slope, v.dtype, heads.of(v, b, g), patches[b, g], offsets[b, g], out[b, g])
    return out
