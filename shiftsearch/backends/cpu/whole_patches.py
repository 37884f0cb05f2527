"""gather and fold at whole places: rows of patches are copied or added as they are.

Tables give the pixel of each row and column of a patch, also where it is mirrored or missing. Most patches lie inside
the frame, where the pixels of a row follow one another. One thread owns each output element and adds in the order of
queries and candidates, as in `visit`.
"""

from __future__ import annotations

import functools
import math
from functools import partial
from typing import NamedTuple

import numpy as np

from shiftsearch import _geometry
from shiftsearch._geometry import Patches
from shiftsearch._types import Native
from shiftsearch.backends.cpu import patches_code as code
from shiftsearch.backends.cpu import pool
from shiftsearch.backends.cpu.grid import reflect
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.memory import after, get, pointers, put, stopped
from shiftsearch.backends.cpu.patch import form
from shiftsearch.backends.cpu.visit import Places, values

_BAND = 32  # least rows of one thread: each thread reads all candidates


class Frames(NamedTuple):
    """Frames in memory, [frame, plane, row, column], of whose planes one head has those from `first`.

    The tables give the pixel at each position of an axis, from two patches before the frame to two behind it.
    """

    numbers: np.ndarray
    frames: int
    planes: int
    height: int
    width: int
    first: int
    rows: np.ndarray
    columns: np.ndarray


class Patch(NamedTuple):
    """A patch of one head: its first plane, and where its axes begin in the tables."""

    plane: int
    top: int
    left: int


@inline
def _first(offset, at, n, p):
    """Return where in the table of an axis of `n` pixels the patch at a place begins."""
    place = at * p.stride + np.int64(offset)
    place = reflect(place, n) if p.mirrored else min(max(place, -p.patch), n - 1 + p.patch)
    return place - p.patch // 2 + 2 * p.patch


@inline
def _inside(begin, n, p):
    """Return whether a patch lies inside the frame along an axis of `n` pixels."""
    return 2 * p.patch <= begin <= p.patch + n


@inline
def _patch(offset, frame, y, x, video, p):
    """Return the patch at an offset from a query, in a frame that is known."""
    top, left = _first(get(offset, 1), y + p.y, video.height, p), _first(get(offset, 2), x + p.x, video.width, p)
    return Patch(frame * video.planes + video.first, top, left)


@inline
def _lies_inside(patch, video, p):
    return _inside(patch.top, video.height, p) and _inside(patch.left, video.width, p)


@inline
def _row_at(patch, f, row, video):
    """Return where a row of a channel of the patch's frame begins."""
    return ((patch.plane + f) * video.height + row) * video.width


@kernel(calls_vector_code=True)
def _copy_patches(video, places, out, copy, p, stop, first, last):
    """Copy the patches of rows of queries, counted through all frames."""
    video, places, out, P = pointers(video), pointers(places), pointers(out), p.patch
    for row in range(first, last):
        t, y = row // places.rows, row % places.rows
        for x in range(places.columns):
            if stopped(stop):
                return
            for n in range(places.kept):
                number = (row * places.columns + x) * places.kept + n
                offset = after(places.offsets, 3 * number)
                patch = _patch(offset, reflect(t + p.t + np.int64(get(offset, 0)), video.frames), y, x, video, p)
                to = after(out, number * p.channels * P * P)
                if _lies_inside(patch, video, p):
                    for f in range(p.channels):
                        at = _row_at(patch, f, patch.top - 2 * P, video) + patch.left - 2 * P
                        code.copy_patch(copy, after(video.numbers, at), after(to, f * P * P), P, video.width)
                else:
                    _copy_pixels(patch, video, to, p)


@inline
def _copy_pixels(patch, video, to, p):
    """Copy a patch pixel by pixel, 0 where there is none."""
    for f in range(p.channels):
        for i in range(p.patch):
            row = get(video.rows, patch.top + i)
            for j in range(p.patch):
                column = get(video.columns, patch.left + j)
                there = row >= 0 and column >= 0
                value = get(video.numbers, _row_at(patch, f, row, video) + column) if there else 0
                put(to, (f * p.patch + i) * p.patch + j, value)


@kernel(calls_vector_code=True)
def _add_patches(values, same, places, video, accumulate, parts, p, stop, first, last):
    """Add patches to parts of frames: some frames, a band of rows of each. The patches are one number each if `same`."""
    values, places, video = pointers(values), pointers(places), pointers(video)
    for unit in range(first, last):
        i, j = unit // parts[1], unit % parts[1]
        first_frame, end_frame = i * video.frames // parts[0], (i + 1) * video.frames // parts[0]
        rows = j * video.height // parts[1], (j + 1) * video.height // parts[1]
        for row in range(places.frames * places.rows):
            t, y = row // places.rows, row % places.rows
            for x in range(places.columns):
                if stopped(stop):
                    return
                for n in range(places.kept):
                    number = (row * places.columns + x) * places.kept + n
                    if get(places.weights, number) == 0:
                        continue
                    offset = after(places.offsets, 3 * number)
                    frame = reflect(t + p.t + np.int64(get(offset, 0)), video.frames)
                    if not first_frame <= frame < end_frame:
                        continue
                    patch, weight = _patch(offset, frame, y, x, video, p), after(places.weights, number)
                    by_frame, by_row, by_column, by_place, by_channel, down, across = values.strides
                    given = after(values.numbers, t * by_frame + y * by_row + x * by_column + n * by_place)
                    steps = by_channel, down, across
                    if (same or across == 1) and _lies_inside(patch, video, p):
                        _add_rows(given, steps, weight, patch, video, rows, accumulate, p)
                    else:
                        _add_pixels(given, steps, weight, patch, video, rows, p)


@inline
def _add_rows(given, steps, weight, patch, video, rows, accumulate, p):
    """Add a patch that lies inside the frame, as far as it lies in a band of rows, row by row."""
    (by_channel, down, _), P, (first_row, end_row) = steps, p.patch, rows
    top, left = patch.top - 2 * P, patch.left - 2 * P
    above = max(first_row - top, 0)  # rows of the patch that lie in other bands
    mine = min(end_row - top, P) - above
    for f in range(p.channels):
        values, to = after(given, f * by_channel + above * down), _row_at(patch, f, top + above, video) + left
        code.accumulate(accumulate, values, weight, after(video.numbers, to), mine, down, video.width)


@inline
def _add_pixels(given, steps, weight, patch, video, rows, p):
    """Add a patch, as far as it lies in a band of rows, pixel by pixel."""
    (by_channel, down, across), (first_row, end_row) = steps, rows
    for i in range(p.patch):
        row = get(video.rows, patch.top + i)
        if not first_row <= row < end_row:
            continue
        for f in range(p.channels):
            at, to = f * by_channel + i * down, _row_at(patch, f, row, video)
            for j in range(p.patch):
                column = get(video.columns, patch.left + j)
                if column >= 0:
                    total = get(video.numbers, to + column)
                    total += get(weight, 0) * get(given, at + j * across)
                    put(video.numbers, to + column, total)


# --- the whole ------------------------------------------------------------------------------------
def covers(offsets: Native, p: Patches) -> bool:
    """Return whether this module does these places and patches."""
    return offsets.dtype == np.int32 and p.dilation == 1


@functools.lru_cache(64)
def _table(n: int, patch: int, mirrored: bool):
    """Return the pixel at each position of an axis, from two patches before the frame on; -1 where there is none."""
    at = np.arange(-2 * patch, n + 2 * patch)
    return _geometry.reflect(at, n).astype(np.int64) if mirrored else np.where((at >= 0) & (at < n), at, -1)


def _frames(video, head: int, channels: int, p: Patches) -> Frames:
    """Return the frames of a contiguous video (T, C, H, W)."""
    tables = (_table(n, p.patch, p.border == "reflect") for n in video.shape[2:])
    frames, planes, height, width = video.shape
    return Frames(video.reshape(-1), frames, planes, height, width, head * channels, *tables)


def gather(v: Native, offsets: Native, p: Patches) -> Native:
    (B, heads), shape, channels = offsets.shape[:2], offsets.shape[2:6], v.shape[2] // offsets.shape[1]
    out = np.empty((*offsets.shape[:-1], channels, p.patch, p.patch), v.dtype)
    copy, cost = code.build_copy_patch(v.dtype.name, p.patch), math.prod(shape) * p.patch**2 * channels
    for b, g in np.ndindex(B, heads):
        places = Places(np.ascontiguousarray(offsets[b, g]).reshape(-1), None, *shape)
        video = _frames(np.ascontiguousarray(v[b]), g, channels, p)
        work = partial(_copy_patches, video, places, out[b, g].reshape(-1), copy, form(p, channels))
        pool.spread(work, shape[0] * shape[1], cost)
    return out


def fold(patches: Native, weights: Native, offsets: Native, p: Patches, *, size: tuple[int, int, int]) -> Native:
    (B, heads), shape, channels = offsets.shape[:2], offsets.shape[2:6], patches.shape[-3]
    out = np.zeros((B, size[0], heads * channels, *size[1:]), patches.dtype)
    cost = math.prod(shape) * p.patch**2 * channels
    wanted = pool.parts(cost)
    bands = max(1, min(wanted, size[1] // _BAND))
    parts = min(size[0], -(-wanted // bands)), bands
    for b, g in np.ndindex(B, heads):
        given = values(patches[b, g])
        same = given.strides[-2:] == (0, 0)
        at, weighed = (np.ascontiguousarray(a[b, g]).reshape(-1) for a in (offsets, weights))
        places = Places(at, weighed, *shape)
        accumulate = code.build_accumulate(patches.dtype.name, p.patch, same)
        arrays = given, same, places, _frames(out[b], g, channels, p), accumulate
        pool.spread(partial(_add_patches, *arrays, parts, form(p, channels)), math.prod(parts), cost)
    return out
