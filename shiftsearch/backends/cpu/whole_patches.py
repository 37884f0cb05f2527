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
from shiftsearch.backends.cpu import micro_places as micro
from shiftsearch.backends.cpu import pool
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.simd import get, pointer, put, stopped

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


@inline
def _inside(begin, n, p):
    """Whether a patch lies inside the frame along an axis of `n` pixels."""
    return p.margin <= begin <= p.margin + n - p.patch


@kernel("out", calls_vector_code=True)
def _gather(v, plane, offsets, rows, columns, out, code, p, stop, first, last):
    """Patches of rows of queries, counted through all frames; the first of their channels is `plane` of those of v."""
    T, planes, H, W = v.shape
    h, w, K, F = out.shape[1:5]
    video, result, offsets, P = pointer(v), pointer(out), pointer(offsets), p.patch
    for row in range(first, last):
        t, y = row // h, row % h
        for x in range(w):
            if stopped(stop):
                return
            for n in range(K):
                place = (row * w + x) * K + n
                start = _frame(get(offsets, 3 * place), t + p.t, T) * planes + plane
                top = _first(get(offsets, 3 * place + 1), y + p.y, H, p)
                left = _first(get(offsets, 3 * place + 2), x + p.x, W, p)
                if _inside(top, H, p) and _inside(left, W, p):
                    for f in range(F):
                        at = ((start + f) * H + top - p.margin) * W + left - p.margin
                        micro.copy(code, video, at, result, (place * F + f) * P * P, P, W)
                    continue
                for f in range(F):
                    for i in range(P):
                        to, at = ((place * F + f) * P + i) * P, ((start + f) * H + rows[top + i]) * W
                        for j in range(P):
                            column = columns[left + j]
                            there = rows[top + i] >= 0 and column >= 0
                            put(result, to + j, get(video, at + column) if there else 0)


@kernel("out", calls_vector_code=True)
def _fold(
    patches, strides, weights, offsets, plane, rows, columns, out, code, same, frames, bands, p, stop, first, last
):
    """Parts of the frames that patches are added to: some frames, a band of rows of each.

    `strides` are those of `patches`, in elements; the first of their channels is `plane` of those of `out`.
    """
    T, planes, H, W = out.shape
    (h, w, K, F), (by_frame, by_row, by_column, by_place, by_channel, down, across) = patches.shape[1:5], strides
    result, values, weights, offsets, P = pointer(out), pointer(patches), pointer(weights), pointer(offsets), p.patch
    for unit in range(first, last):
        first_frame, end_frame = unit // bands * T // frames, (unit // bands + 1) * T // frames
        first_row, end_row = unit % bands * H // bands, (unit % bands + 1) * H // bands
        for row in range(patches.shape[0] * h):
            t, y = row // h, row % h
            for x in range(w):
                if stopped(stop):
                    return
                for n in range(K):
                    place = (row * w + x) * K + n
                    if get(weights, place) == 0:
                        continue
                    s = _frame(get(offsets, 3 * place), t + p.t, T)
                    if not first_frame <= s < end_frame:
                        continue
                    start, patch = s * planes + plane, t * by_frame + y * by_row + x * by_column + n * by_place
                    top = _first(get(offsets, 3 * place + 1), y + p.y, H, p)
                    left = _first(get(offsets, 3 * place + 2), x + p.x, W, p)
                    if (same or across == 1) and _inside(top, H, p) and _inside(left, W, p):
                        above = max(first_row - (top - p.margin), 0)  # rows that others add
                        mine = min(end_row - (top - p.margin), P) - above
                        for f in range(F):
                            at = ((start + f) * H + top - p.margin + above) * W + left - p.margin
                            micro.accumulate(code, values, patch + f * by_channel + above * down, weights, place,
                                             result, at, mine, down, W)  # fmt: skip
                        continue
                    for i in range(P):
                        if not first_row <= rows[top + i] < end_row:
                            continue
                        for f in range(F):
                            at, to = patch + f * by_channel + i * down, ((start + f) * H + rows[top + i]) * W
                            for j in range(P):
                                if columns[left + j] >= 0:
                                    total = get(result, to + columns[left + j])
                                    total += get(weights, place) * get(values, at + j * across)
                                    put(result, to + columns[left + j], total)


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
    (B, heads), (H, W), F = offsets.shape[:2], v.shape[-2:], v.shape[2] // offsets.shape[1]
    out = np.empty((*offsets.shape[:-1], F, p.patch, p.patch), v.dtype)
    layout, tables, cost = *_prepared(p, H, W), math.prod(offsets.shape[2:6]) * p.patch**2 * F
    code = micro.build_copy(v.dtype.name, p.patch)
    for b, g in np.ndindex(B, heads):
        places = np.ascontiguousarray(offsets[b, g])
        work = partial(_gather, np.ascontiguousarray(v[b]), g * F, places, *tables, out[b, g], code, layout)
        pool.spread(work, math.prod(offsets.shape[2:4]), cost)
    return out


def fold(patches, weights, offsets, p: Patches, *, size):
    (B, heads), (T, H, W), F = offsets.shape[:2], size, patches.shape[-3]
    out = np.zeros((B, T, heads * F, H, W), patches.dtype)
    layout, tables, cost = *_prepared(p, H, W), math.prod(offsets.shape[2:6]) * p.patch**2 * F
    parts = pool.parts(cost)
    bands = max(1, min(parts, H // _BAND))
    frames = min(T, -(-parts // bands))
    strides = tuple(step // patches.itemsize for step in patches.strides[2:])
    same = strides[-2:] == (0, 0)
    code = micro.build_accumulate(patches.dtype.name, p.patch, same)
    for b, g in np.ndindex(B, heads):
        places = np.ascontiguousarray(weights[b, g]), np.ascontiguousarray(offsets[b, g])
        work = partial(
            _fold, patches[b, g], strides, *places, g * F, *tables, out[b], code, same, frames, bands, layout
        )
        pool.spread(work, frames * bands, cost)
    return out
