"""The form and its derivatives at given places: score, aggregate, scatter, slope, gather and fold.

Whole places and patches of pixels side by side are left to `whole_places` and `whole_patches`. Here is what serves any
place, border and dilation: one body for each primitive, which `visit` calls at every place.

Queries may be stacked, (B, N, T, C, H, W): of K kept candidates, each of the N videos then has its own K / N. Videos
that are not stacked are seen as stacks of one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu import whole_patches, whole_places
from shiftsearch.backends.cpu.jit import inline
from shiftsearch.backends.cpu.memory import after, get, like, put
from shiftsearch.backends.cpu.patch import clear, collect, missing, product, read, slopes, subtract
from shiftsearch.backends.cpu.visit import Heads, Job, by_band_of_keys, by_band_of_queries, by_query, frame_of, values


@inline
def _load(out, values, number, places, p):
    """Copy a patch (channels, patch, patch) to the workspace, channels last."""
    at, (by_frame, by_row, by_column, by_place, by_channel, down, across) = 0, values.strides
    at += number % places.kept * by_place
    number //= places.kept
    at += number % places.columns * by_column
    number //= places.columns
    at += number % places.rows * by_row + number // places.rows * by_frame
    patch = after(values.numbers, at)
    for i in range(p.patch):
        for j in range(p.patch):
            for f in range(p.channels):
                out[(i * p.patch + j) * p.channels + f] = get(patch, f * by_channel + i * down + j * across)


@inline
def _signed(sign, value):
    """Return sign * value, and 0 whatever the value is if the sign is."""
    return value if sign > 0 else -value if sign < 0 else 0.0


@inline
def _put_slopes(out, number, here, weight, by_y, by_x):
    put(out, 3 * number + 1, _signed(here.sign_y, weight * by_y))
    put(out, 3 * number + 2, _signed(here.sign_x, weight * by_x))


@inline
def _difference(key, work, p):
    """Read the patch of a key and write its difference from that of the query to work.key."""
    read(work.key, key, work.rows, work.columns, p)
    subtract(work.query, work.key, work.rows, work.columns, p)


# --- bodies ---------------------------------------------------------------------------------------
@inline
def _is_no_number(job, number):
    return math.isnan(get(job.out, number))


@inline
def _has_weight(job, number):
    return get(job.places.weights, number) != 0


@inline
def _score(job, number, here, work, p):
    read(work.key, here.frame, work.rows, work.columns, p)
    if p.l2:
        subtract(work.query, work.key, work.rows, work.columns, p)
    put(job.out, number, product(work.key if p.l2 else work.query, work.key, work.rows, work.columns, p))


@inline
def _aggregate(job, number, here, work, p):
    read(work.key, here.frame, work.rows, work.columns, p)
    weight = like(work.query, get(job.places.weights, number))
    if p.l2:
        subtract(work.query, work.key, work.rows, work.columns, p)
        weight *= like(work.query, 2)
    collect(work.spare, work.key, weight, work.rows, work.columns, p)


@inline
def _scatter(job, number, s, work, p):
    weight = like(work.query, get(job.places.weights, number))
    if not p.l2:
        return weight, work.query
    _difference(frame_of(job.k, s), work, p)
    return like(work.query, -2) * weight, work.key


@inline
def _slope(job, number, here, work, p):
    if missing(work.rows, work.columns):
        return
    weight, factor = like(work.query, get(job.places.weights, number)), work.query
    if p.l2:
        _difference(here.frame, work, p)
        weight, factor = like(work.query, -2) * weight, work.key
    by_y, by_x = slopes(factor, work.spare, here.frame, work.rows, work.columns, p)
    _put_slopes(job.out, number, here, weight, by_y, by_x)


@inline
def _gather(job, number, here, work, p):
    if not p.mirrored:
        clear(work.query, p)
    read(work.query, here.frame, work.rows, work.columns, p)
    out, pixels = after(job.out, number * p.channels * p.patch * p.patch), p.patch * p.patch
    for f in range(p.channels):
        for i in range(pixels):
            put(out, f * pixels + i, work.query[i * p.channels + f])


@inline
def _fold(job, number, s, work, p):
    _load(work.query, job.q, number, job.places, p)
    return like(work.query, get(job.places.weights, number)), work.query


@inline
def _slope_of_values(job, number, here, work, p):
    _load(work.query, job.q, number, job.places, p)
    by_y, by_x = slopes(work.query, work.spare, here.frame, work.rows, work.columns, p)
    _put_slopes(job.out, number, here, like(work.query, 1), by_y, by_x)


_score_rows = by_query(_score, compares=True)
_score_rows_again = by_query(_score, _is_no_number, compares=True)
_aggregate_bands = by_band_of_queries(_aggregate)
_scatter_bands = by_band_of_keys(_scatter, compares=True)
_slope_rows = by_query(_slope, _has_weight, compares=True)
_gather_rows = by_query(_gather, compares=False)
_fold_bands = by_band_of_keys(_fold, compares=False)
_slope_of_values_rows = by_query(_slope_of_values, compares=False)


# --- primitives -----------------------------------------------------------------------------------
def _stack(q):
    return q[:, None] if q.ndim == 5 else q


def _split(places, count: int):
    """Return (B, G, T, h, w, K, ...) as (count, B, G, T, h, w, K / count, ...), the places of each video of a stack."""
    return np.moveaxis(places.reshape(*places.shape[:5], count, places.shape[5] // count, *places.shape[6:]), 5, 0)


def _joined(places):
    """Return (count, B, G, T, h, w, K / count, ...) as (B, G, T, h, w, K, ...)."""
    places = np.moveaxis(places, 0, 5)
    return places.reshape(*places.shape[:5], -1, *places.shape[7:])


@primitive
def score(q: Native, k: Native, offsets: Native, p: Patches) -> Native:
    q = _stack(q)
    offsets = _split(offsets, q.shape[1])
    heads = Heads(offsets.shape[1:-1], p, k.shape[2] // offsets.shape[2], q.dtype)
    out, kernel = np.empty(offsets.shape[:-1], q.dtype), _score_rows
    if whole_places.covers(offsets, p):
        if whole_places.score(q, k, offsets, out, p):
            return _joined(out)
        kernel = _score_rows_again
    for b, g in heads:
        key = heads.clip(k, b, g)
        for n in range(len(offsets)):
            job = Job(heads.clip(q[:, n], b, g), key, heads.places(offsets[n, b, g]), out[n, b, g].reshape(-1))
            heads.by_query(kernel, job)
    return _joined(out)


@primitive
def aggregate(
    q: Native | None,
    k: Native,
    weights: Native,
    offsets: Native,
    p: Patches,
    *,
    size: Any = None,
    stacked: bool = False,
    averaged: bool = False,
) -> Native:
    count = offsets.shape[-2] if stacked else 1
    q = None if q is None else _stack(q)
    shape = (k.shape[0], count, *size) if q is None else q.shape
    weights, offsets = _split(weights, count), _split(offsets, count)
    out = None
    if whole_places.covers(offsets, p):
        out, _ = whole_places.gradients(q, k, weights, offsets, p, shape, k.shape, aggregates=True, scatters=False)
    if out is None:
        out = _aggregated(q, k, weights, offsets, p, shape)
    if averaged:
        out /= p.covered(*shape[-2:]).astype(out.dtype)
    return out if stacked else out[:, 0]


def _aggregated(q, k, weights, offsets, p: Patches, shape):
    out, heads = np.empty(shape, k.dtype), Heads(offsets.shape[1:-1], p, k.shape[2] // offsets.shape[2], k.dtype)
    for b, g in heads:
        key = heads.clip(k, b, g)
        for n in range(shape[1]):
            query = heads.clip(q[:, n], b, g) if p.metric == "l2" else key  # "dot" does not read queries
            sums, places = heads.empty(shape[2], *shape[4:]), heads.places(offsets[n, b, g], weights[n, b, g])
            heads.by_band_of_queries(_aggregate_bands, Job(query, key, places, sums))
            heads.put(sums, out[:, n], b, g)
    return out


@primitive
def scatter(q: Native, k: Native | None, weights: Native, offsets: Native, p: Patches, *, size: Any = None) -> Native:
    q = _stack(q)
    shape = (q.shape[0], *size) if k is None else k.shape
    weights, offsets, out = _split(weights, q.shape[1]), _split(offsets, q.shape[1]), None
    if whole_places.covers(offsets, p):
        _, out = whole_places.gradients(q, k, weights, offsets, p, q.shape, shape, aggregates=False, scatters=True)
    return _scattered(q, k, weights, offsets, p, shape) if out is None else out


def _scattered(q, k, weights, offsets, p: Patches, shape):
    out, heads = np.empty(shape, q.dtype), Heads(offsets.shape[1:-1], p, q.shape[3] // offsets.shape[2], q.dtype)
    for b, g in heads:
        sums = heads.empty(shape[1], *shape[3:])
        for n in range(q.shape[1]):
            query = heads.clip(q[:, n], b, g)
            key = heads.clip(k, b, g) if p.metric == "l2" else query  # "dot" does not read keys
            places = heads.places(offsets[n, b, g], weights[n, b, g])
            heads.by_band_of_keys(_scatter_bands, Job(query, key, places, sums))
        heads.put(sums, out, b, g)
    return out


@primitive
def aggregate_and_scatter(q: Native, k: Native, weights: Native, offsets: Native, p: Patches) -> tuple[Native, Native]:
    """Return both derivatives, which cost little more than one where they are computed at once."""
    if whole_places.covers(offsets, p):
        given = q[:, None], k, weights[None], offsets[None], p, q[:, None].shape, k.shape
        aggregated, scattered = whole_places.gradients(*given, aggregates=True, scatters=True)
        if aggregated is not None:
            return aggregated[:, 0], scattered
    return aggregate(q, k, weights, offsets, p), scatter(q, k, weights, offsets, p)


@primitive
def slope(
    q: Native | None, k: Native, weights: Native | None, offsets: Native, p: Patches, *, patches: Native | None = None
) -> Native:
    if patches is not None:
        return _slope_of_patches(k, patches, offsets, p)
    q = _stack(q)
    weights, offsets = _split(weights, q.shape[1]), _split(offsets, q.shape[1])
    out, heads = (
        np.zeros(offsets.shape, q.dtype),
        Heads(offsets.shape[1:-1], p, k.shape[2] // offsets.shape[2], q.dtype),
    )
    for b, g in heads:
        key = heads.clip(k, b, g)
        for n in range(len(offsets)):
            places = heads.places(offsets[n, b, g], weights[n, b, g])
            heads.by_query(_slope_rows, Job(heads.clip(q[:, n], b, g), key, places, out[n, b, g].reshape(-1)))
    return _joined(out)


@primitive
def gather(v: Native, offsets: Native, p: Patches) -> Native:
    if whole_patches.covers(offsets, p):
        return whole_patches.gather(v, offsets, p)
    heads = Heads(offsets.shape[:-1], p, v.shape[2] // offsets.shape[1], v.dtype)
    out = np.empty((*offsets.shape[:-1], heads.channels, p.patch, p.patch), v.dtype)
    for b, g in heads:
        job = Job(None, heads.clip(v, b, g), heads.places(offsets[b, g]), out[b, g].reshape(-1))
        heads.by_query(_gather_rows, job)
    return out


@primitive
def fold(patches: Native, weights: Native | None, offsets: Native, p: Patches, *, size: tuple[int, int, int]) -> Native:
    (B, G), (T, H, W), F = offsets.shape[:2], size, patches.shape[-3]
    weights = np.broadcast_to(np.ones((), patches.dtype), offsets.shape[:-1]) if weights is None else weights
    if whole_patches.covers(offsets, p):
        return whole_patches.fold(patches, weights, offsets, p, size=size)
    out, heads = np.empty((B, T, G * F, H, W), patches.dtype), Heads(offsets.shape[:-1], p, F, patches.dtype)
    for b, g in heads:
        sums, places = heads.empty(T, H, W), heads.places(offsets[b, g], weights[b, g])
        heads.by_band_of_keys(_fold_bands, Job(values(patches[b, g]), None, places, sums))
        heads.put(sums, out, b, g)
    return out


@primitive
def fold_and_cover(
    patches: Native, weights: Native | None, offsets: Native, p: Patches, *, size: tuple[int, int, int]
) -> tuple[Native, Native]:
    sums = np.result_type(patches.dtype, np.float32)  # a half counts to 2048 only
    ones = np.broadcast_to(np.ones((), sums), (*offsets.shape[:-1], 1, p.patch, p.patch))
    return fold(patches, weights, offsets, p, size=size), fold(ones, weights, offsets, p, size=size)


def _slope_of_patches(v, patches, offsets, p: Patches):
    out = np.zeros(offsets.shape, v.dtype)
    heads = Heads(offsets.shape[:-1], p, v.shape[2] // offsets.shape[1], v.dtype)
    for b, g in heads:
        job = Job(values(patches[b, g]), heads.clip(v, b, g), heads.places(offsets[b, g]), out[b, g].reshape(-1))
        heads.by_query(_slope_of_values_rows, job)
    return out
