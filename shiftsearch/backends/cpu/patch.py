"""Patches at any place: where their samples lie on the axes of a frame, and reading, comparing and writing them.

The twin of cuda_src/place.cuh. A frame is memory [row, column, channel], so that the channels of a pixel, and mostly
all pixels of a row of a patch, are next to each other. A patch is memory (patch, patch * channels), of which only the
samples that exist on both of its axes are touched.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch.backends.cpu.grid import finite, mirror, pixel
from shiftsearch.backends.cpu.jit import exact, inline
from shiftsearch.backends.cpu.memory import Pointer, after, like


class Form(NamedTuple):
    """`_geometry.Patches` as kernels see them, and the channels of one head."""

    patch: int
    stride: int
    dilation: int
    scale: int
    t: int  # frame, row and column of the first query in the query grid
    y: int
    x: int
    mirrored: bool  # or empty: the border of keys
    queries_mirrored: bool
    l2: bool
    channels: int


def form(p: Patches, channels: int) -> Form:
    borders = p.border == "reflect", p.query_border == "reflect"
    return Form(p.patch, p.stride, p.dilation, p.scale, *p.origin, *borders, p.metric == "l2", channels)


class Axis(NamedTuple):
    """Where the samples of a patch lie along one axis.

    Sample i is near[i] * pixel low[i] + far[i] * pixel high[i], its slope has the weights `fall` and `rise`; low[i] is
    -1 where there is no sample. Only weights of pixel high[i] can be 0. The samples that exist are
    first ... last - 1 of span = (first, last, step); `step` of them at a time lie between consecutive pixels. All are
    pointers.
    """

    low: np.ndarray
    high: np.ndarray
    near: np.ndarray
    far: np.ndarray
    fall: np.ndarray
    rise: np.ndarray
    span: np.ndarray


class Frame(NamedTuple):
    """A frame in memory: its first number, and how many there are from row to row."""

    numbers: np.ndarray
    row: int


class Workspace(NamedTuple):
    """Where a thread works on one pair of patches: the axes of both and room for three patches."""

    rows: Axis
    columns: Axis
    query_rows: Axis
    query_columns: Axis
    query: np.ndarray
    key: np.ndarray  # or its difference from the query
    spare: np.ndarray


# --- scratch memory -------------------------------------------------------------------------------
class Scratch(NamedTuple):
    """Scratch memory of a thread, which `workspace` divides."""

    integers: np.ndarray
    numbers: np.ndarray


def scratch(p: Form, dtype: np.dtype) -> Scratch:
    """Return new scratch memory."""
    return Scratch(
        np.empty(4 * (2 * p.patch + 3), np.int64), np.empty(16 * p.patch + 3 * p.patch**2 * p.channels, dtype)
    )


@inline
def workspace(scratch: Scratch, p: Form) -> Workspace:
    """Return the workspace that lies in scratch memory."""
    integers, numbers = scratch
    rows, columns = _axis(integers, numbers, 0, p), _axis(integers, numbers, 1, p)
    query_rows, query_columns = _axis(integers, numbers, 2, p), _axis(integers, numbers, 3, p)
    patches, size = after(numbers, 16 * p.patch), p.patch * p.patch * p.channels
    return Workspace(rows, columns, query_rows, query_columns, patches, after(patches, size), after(patches, 2 * size))


@inline
def _axis(integers, numbers, which, p):
    n = p.patch
    i, f = after(integers, which * (2 * n + 3)), after(numbers, which * 4 * n)
    return Axis(i, after(i, n), f, after(f, n), after(f, 2 * n), after(f, 3 * n), after(i, 2 * n))


# --- axes -----------------------------------------------------------------------------------------
@exact
def place(offset: float, at: int, n: int, p: Form) -> tuple[float, float]:
    """Return where a place lies along an axis of `n` pixels, and the sign with which it moves when its offset does."""
    moved = at + finite(offset)
    if p.mirrored:
        return mirror(moved, n)
    reach = p.patch * p.dilation + 2  # any place out of reach reads nothing, and the true one may not fit an integer
    return min(max(moved, -float(reach)), float(n + reach)), 1.0


@exact
def between(at: float, n: int, mirrored: bool) -> tuple[int, int, float]:
    """Return the two pixels that position `at` lies between, -1 for one that is not there, and the weight of the second."""
    below = math.floor(at)
    return pixel(below, n, mirrored), pixel(below + 1, n, mirrored), at - below


@exact
def lay(axis: Axis, place: float, n: int, p: Form, mirrored: bool) -> None:
    """Lay the samples of a patch around `place` on an axis of `n` pixels."""
    for i in range(p.patch):
        low, high, far = between(place + p.dilation * (i - p.patch // 2), n, mirrored)
        if low >= 0:
            axis.low[i], axis.near[i], axis.fall[i] = low, 1 - far, -1.0
        else:
            axis.low[i], axis.near[i], axis.fall[i] = high if far > 0 else -1, far, 1.0
        both = low >= 0 and high >= 0
        axis.high[i] = high if both else axis.low[i]
        axis.far[i], axis.rise[i] = (far, 1.0) if both else (0.0, 0.0)


@inline
def lay_key(axis: Axis, offset: float, at: int, n: int, p: Form) -> float:
    """Lay the patch at an offset from query `at` of the grid; return the sign with which it moves."""
    here, sign = place(offset, at * p.stride, n, p)
    lay(axis, here, n, p, p.mirrored)
    return sign


@inline
def lay_query(axis: Axis, at: int, n: int, p: Form) -> None:
    """Lay the patch of query `at` of the grid, whose frame has `scale` times the resolution of the keys."""
    lay(axis, np.float64(p.scale * at * p.stride), n, p, p.queries_mirrored)
    pair(axis, axis, p)


@inline
def pair(axis: Axis, other: Axis, p: Form) -> None:
    """Leave out the samples that have no partner on the other axis, and find the span of the rest."""
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
def own(axis: Axis, top: int, bottom: int, p: Form) -> bool:
    """Leave out the samples without a pixel in top ... bottom - 1; return whether any is left."""
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
def missing(rows: Axis, columns: Axis) -> bool:
    """Return whether no sample of a patch exists."""
    return rows.span[1] == 0 or columns.span[1] == 0


# --- reading and writing --------------------------------------------------------------------------
@inline
def bilinear(a: float, b: float, c: float, d: float, u0: float, u1: float, v0: float, v1: float) -> float:
    """Return the sum of pixels a (above left), b (above right), c and d (below), by weights of rows and of columns."""
    return u0 * (v0 * a + v1 * b) + u1 * (v0 * c + v1 * d)


@inline
def _mix(out, to, video, a, b, c, d, n, u0, u1, v0, v1):
    """Write n bilinear samples, of the pixels from a (above left), b (above right), c and d (below)."""
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
            out[to + e] = bilinear(video[a + e], video[b + e], video[c + e], video[d + e], u0, u1, v0, v1)


@inline
def _sample(out, frame, rows, u0, u1, columns, v0, v1, p):
    """Read a patch, with u0, u1 and v0, v1 the weights of its samples along rows and columns."""
    F = p.channels
    first, last, step = columns.span[0], columns.span[1], columns.span[2]
    for i in range(p.patch):
        if rows.low[i] < 0:
            continue
        y0 = rows.low[i] * frame.row
        y1 = rows.high[i] * frame.row if u1[i] != 0 else y0
        for j in range(first, last, step):
            x0 = columns.low[j] * F
            x1 = columns.high[j] * F if v1[j] != 0 else x0
            to = (i * p.patch + j) * F
            _mix(out, to, frame.numbers, y0 + x0, y0 + x1, y1 + x0, y1 + x1, step * F, u0[i], u1[i], v0[j], v1[j])


@inline
def read(out: Pointer, frame: Frame, rows: Axis, columns: Axis, p: Form) -> None:
    """Read a patch of a frame."""
    _sample(out, frame, rows, rows.near, rows.far, columns, columns.near, columns.far, p)


@inline
def slopes(factor: Pointer, spare: Pointer, frame: Frame, rows: Axis, columns: Axis, p: Form) -> tuple[float, float]:
    """Return the products of a patch with the slopes of the samples of another by row and by column."""
    _sample(spare, frame, rows, rows.fall, rows.rise, columns, columns.near, columns.far, p)
    by_y = product(factor, spare, rows, columns, p)
    _sample(spare, frame, rows, rows.near, rows.far, columns, columns.fall, columns.rise, p)
    return by_y, product(factor, spare, rows, columns, p)


@inline
def write(
    frame: Frame, rows: Axis, columns: Axis, patch: Pointer, weight: float, top: int, bottom: int, p: Form
) -> None:
    """Add weight * patch to rows top ... bottom - 1 of a frame: the transpose of `read`."""
    for i in range(p.patch):
        if rows.low[i] >= 0:
            if top <= rows.low[i] < bottom:
                _write_row(frame.numbers, rows.low[i] * frame.row, columns, patch, i, weight * rows.near[i], p)
            if rows.far[i] != 0 and top <= rows.high[i] < bottom:
                _write_row(frame.numbers, rows.high[i] * frame.row, columns, patch, i, weight * rows.far[i], p)


@inline
def _write_row(numbers, row, columns, patch, i, weight, p):
    F = p.channels
    step = columns.span[2]
    for j in range(columns.span[0], columns.span[1], step):
        values = (i * p.patch + j) * F
        _add(numbers, row + columns.low[j] * F, patch, values, step * F, weight * columns.near[j])
        if columns.far[j] != 0:
            _add(numbers, row + columns.high[j] * F, patch, values, step * F, weight * columns.far[j])


@inline
def _add(out, to, patch, values, n, weight):
    for e in range(n):
        out[to + e] += weight * patch[values + e]


# --- calculating ----------------------------------------------------------------------------------
@inline
def _ends(i, columns, p):
    """Return the first element of row `i` of a patch, and the one behind the last."""
    return (i * p.patch + columns.span[0]) * p.channels, (i * p.patch + columns.span[1]) * p.channels


@inline
def subtract(patch: Pointer, out: Pointer, rows: Axis, columns: Axis, p: Form) -> None:
    """Replace `out` by patch - out."""
    for i in range(p.patch):
        if rows.low[i] >= 0:
            first, last = _ends(i, columns, p)
            for e in range(first, last):
                out[e] = patch[e] - out[e]


@inline
def collect(out: Pointer, patch: Pointer, weight: float, rows: Axis, columns: Axis, p: Form) -> None:
    """Add weight * patch to `out`."""
    for i in range(p.patch):
        if rows.low[i] >= 0:
            first, last = _ends(i, columns, p)
            _add(out, first, patch, first, last - first, weight)


@inline
def product(one: Pointer, other: Pointer, rows: Axis, columns: Axis, p: Form) -> float:
    """Return the sum of the products of two patches."""
    total = like(one, 0)
    for i in range(p.patch):
        if rows.low[i] >= 0:
            first, last = _ends(i, columns, p)
            for e in range(first, last):
                total += one[e] * other[e]
    return total


@inline
def clear(patch: Pointer, p: Form) -> None:
    for e in range(p.patch * p.patch * p.channels):
        patch[e] = 0
