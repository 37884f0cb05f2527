"""gather and fold at whole places: rows of patches are copied or added as they are.

Tables say which pixel each row and column of a patch is, mirrored or missing ones too. Most patches lie inside the frame,
where the pixels of a row follow one another. Each output element has one owner, who adds in the order of queries and
candidates, as in `places`.
"""

from __future__ import annotations

import functools
import math
from functools import partial
from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import Patches, reflect
from shiftsearch.backends.cpu import pool
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.simd import pointer

_BAND = 32  # rows at least that one thread adds to: each thread looks at all candidates


class _Layout(NamedTuple):
    """Patches as the kernels see them. `margin` is how far the tables reach beyond the frame, each way."""

    patch: int
    stride: int
    t: int
    y: int
    x: int
    mirror: bool
    margin: int


@inline
def _frame(dt, t, n):
    """The frame of a place, mirrored at the ends of the clip."""
    at = t + np.int64(dt)
    if 0 <= at < n or n == 1:
        return at if n > 1 else 0
    at %= 2 * (n - 1)
    return at if at < n else 2 * (n - 1) - at


@inline
def _first(offset, at, n, p):
    """Where in the table of an axis of `n` pixels the patch at a place begins."""
    place = at * p.stride + np.int64(offset)
    if not 0 <= place < n:
        if not p.mirror:
            place = min(max(place, -p.patch), n - 1 + p.patch)
        elif n == 1:
            place = 0
        else:
            place %= 2 * (n - 1)
            place = place if place < n else 2 * (n - 1) - place
    return place - p.patch // 2 + p.margin


# four at a time, all read before one is written: LLVM makes a vector of them and need not ask whether memory overlaps
@inline
def _copy(out, to, values, at, n):
    for j in range(0, n - 3, 4):
        a, b, c, d = values[at + j], values[at + j + 1], values[at + j + 2], values[at + j + 3]
        out[to + j], out[to + j + 1], out[to + j + 2], out[to + j + 3] = a, b, c, d
    for j in range(n - n % 4, n):
        out[to + j] = values[at + j]


@inline
def _add(out, to, values, at, n, weight):
    for j in range(0, n - 3, 4):
        i, k = to + j, at + j
        a, b, c, d = weight * values[k], weight * values[k + 1], weight * values[k + 2], weight * values[k + 3]
        a, b, c, d = out[i] + a, out[i + 1] + b, out[i + 2] + c, out[i + 3] + d
        out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, d
    for j in range(n - n % 4, n):
        out[to + j] += weight * values[at + j]


@inline
def _add_same(out, to, value, n):
    for j in range(0, n - 3, 4):
        i = to + j
        a, b, c, d = out[i] + value, out[i + 1] + value, out[i + 2] + value, out[i + 3] + value
        out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, d
    for j in range(n - n % 4, n):
        out[to + j] += value


@kernel("out")
def _gather(v, offsets, rows, columns, out, p, first, last):
    """Patches of rows of queries, counted through all frames."""
    T, F, H, W = v.shape
    h, w, K = out.shape[1:4]
    video, result, P = pointer(v), pointer(out), p.patch
    for row in range(first, last):
        t, y = row // h, row % h
        for x in range(w):
            for n in range(K):
                frame = _frame(offsets[t, y, x, n, 0], t + p.t, T)
                top = _first(offsets[t, y, x, n, 1], y + p.y, H, p)
                left = _first(offsets[t, y, x, n, 2], x + p.x, W, p)
                inside = p.margin <= left <= p.margin + W - P
                for f in range(F):
                    plane = (frame * F + f) * H
                    for i in range(P):
                        to = ((((row * w + x) * K + n) * F + f) * P + i) * P
                        if rows[top + i] < 0:
                            for j in range(P):
                                result[to + j] = 0
                        elif inside:
                            _copy(result, to, video, (plane + rows[top + i]) * W + left - p.margin, P)
                        else:
                            start = (plane + rows[top + i]) * W
                            for j in range(P):
                                column = columns[left + j]
                                result[to + j] = video[start + column] if column >= 0 else v.dtype.type(0)


@kernel("out")
def _fold(patches, strides, weights, offsets, rows, columns, out, bands, p, first, last):
    """Bands of rows of the frames that patches are added to; `strides` are those of `patches`, in elements."""
    T, F, H, W = out.shape
    h, w, K = offsets.shape[1:4]
    result, values, P, step = pointer(out), pointer(patches), p.patch, strides[6]
    for unit in range(first, last):
        s, first_row, end_row = unit // bands, unit % bands * H // bands, (unit % bands + 1) * H // bands
        for row in range(offsets.shape[0] * h):
            t, y = row // h, row % h
            for x in range(w):
                for n in range(K):
                    if _frame(offsets[t, y, x, n, 0], t + p.t, T) != s:
                        continue
                    top = _first(offsets[t, y, x, n, 1], y + p.y, H, p)
                    left = _first(offsets[t, y, x, n, 2], x + p.x, W, p)
                    inside = p.margin <= left <= p.margin + W - P
                    weight = weights[t, y, x, n]
                    patch = t * strides[0] + y * strides[1] + x * strides[2] + n * strides[3]
                    for i in range(P):
                        if not first_row <= rows[top + i] < end_row:
                            continue
                        for f in range(F):
                            at = patch + f * strides[4] + i * strides[5]
                            start = ((s * F + f) * H + rows[top + i]) * W
                            if inside and step == 1:
                                _add(result, start + left - p.margin, values, at, P, weight)
                            elif inside and step == 0:
                                _add_same(result, start + left - p.margin, weight * values[at], P)
                            else:
                                for j in range(P):
                                    if columns[left + j] >= 0:
                                        result[start + columns[left + j]] += weight * values[at + j * step]


# --- the whole ------------------------------------------------------------------------------------
def covers(offsets, p: Patches) -> bool:
    """Whether this is for these places and patches."""
    return offsets.dtype == np.int32 and p.dilation == 1


@functools.lru_cache(64)
def _table(n: int, margin: int, mirror: bool):
    """The pixel at each position of an axis, from `margin` before the frame to as far behind it; -1 where there is none."""
    at = np.arange(-margin, n + margin)
    return reflect(at, n).astype(np.int64) if mirror else np.where((at >= 0) & (at < n), at, -1)


def _prepared(p: Patches, H: int, W: int):
    margin, mirror = 2 * p.patch, p.border == "reflect"
    tables = _table(H, margin, mirror), _table(W, margin, mirror)
    return _Layout(p.patch, p.stride, *p.origin, mirror, margin), tables


def gather(v, offsets, p: Patches):
    heads, (H, W) = offsets.shape[1], v.shape[-2:]
    F = v.shape[2] // heads
    out = np.empty((*offsets.shape[:-1], F, p.patch, p.patch), v.dtype)
    layout, tables, cost = *_prepared(p, H, W), math.prod(offsets.shape[2:6]) * p.patch**2 * F
    for b, g in np.ndindex(offsets.shape[:2]):
        video = np.ascontiguousarray(v[b, :, g * F : (g + 1) * F])
        work = partial(_gather, video, offsets[b, g], *tables, out[b, g], layout)
        pool.spread(work, math.prod(offsets.shape[2:4]), cost)
    return out


def fold(patches, weights, offsets, p: Patches, *, size):
    (T, H, W), F, heads = size, patches.shape[-3], offsets.shape[1]
    out = np.zeros((offsets.shape[0], T, heads * F, H, W), patches.dtype)
    layout, tables, cost = *_prepared(p, H, W), math.prod(offsets.shape[2:6]) * p.patch**2 * F
    workers = pool.threads()
    bands = max(1, min(-(-3 * workers // T), H // _BAND)) if workers > 1 else 1
    for b, g in np.ndindex(offsets.shape[:2]):
        sums = out[b] if heads == 1 else np.zeros((T, F, H, W), patches.dtype)
        here = patches[b, g]
        strides = tuple(step // here.itemsize for step in here.strides)
        work = partial(_fold, here, strides, weights[b, g], offsets[b, g], *tables, sums, bands, layout)
        pool.spread(work, T * bands, cost)
        if heads > 1:
            out[b, :, g * F : (g + 1) * F] = sums
    return out
