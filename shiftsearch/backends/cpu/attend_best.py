"""Attention to the best places: scores and offsets of a call are in memory, and of a gradient again."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu.places import aggregate, aggregate_and_scatter, scatter, score
from shiftsearch.backends.cpu.search import search
from shiftsearch.backends.cpu.weigh import FAR, by_factors_of, factors_of, logits_of, slopes_of, weigh, weigh_and_sum


@primitive
def attend_some(
    q: Native,
    k: Native,
    v: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
) -> tuple[Native, Native, Native]:
    scores, offsets, _ = search(q, k, spec, spec.patches(), flow=flow)
    weights = weigh(scores, spec, factor, scales=scales)
    p = spec.of_values().patches()
    return aggregate(None, v, weights, offsets, p, size=v.shape[1:], averaged=p.patch > 1), weights, offsets


@primitive
def attend_best(
    q: Native,
    k: Native,
    v: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
) -> tuple[Native, Native, Native, Native, Native]:
    scores, offsets, _ = search(q, k, spec, spec.patches(), flow=flow)
    weights, sums = weigh_and_sum(scores, spec, factors_of(factor, scales))
    out = aggregate(None, v, weights, offsets, spec.of_values().patches(), size=v.shape[1:])
    places = _places(offsets, k, spec) if spec.kept_places else np.empty((*offsets.shape[:5], 0), np.int32)
    some = slice(None if spec.kept_weights else 0)
    return out, sums, places, weights[..., some], offsets[..., some, :]


@primitive
def attend_best_backward(
    q: Native,
    k: Native,
    v: Native,
    out: Native,
    sums: Native,
    places: Native,
    grad: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
) -> tuple[Native, Native, Native, Native | None]:
    offsets, of_values, factors = _offsets(places, k, spec), spec.of_values().patches(), factors_of(factor, scales)
    scores = score(q, k, offsets, spec.patches())
    by_weights = score(grad, v, offsets, of_values)
    logits = logits_of(scores.copy() if scales is not None else scores, spec, factors)
    far = logits == -FAR
    weights = np.exp(np.subtract(logits, sums[..., :1], out=logits), out=logits)
    weights /= sums[..., 1:]
    slopes = slopes_of(weights, by_weights)
    slopes[far] = 0
    by_factors = None if scales is None else by_factors_of(slopes, scores)
    slopes *= factors
    q_grad, k_grad = aggregate_and_scatter(q, k, slopes, offsets, spec.patches())
    v_grad = scatter(grad, None, weights, offsets, of_values, size=v.shape[1:])
    return q_grad, k_grad, v_grad, by_factors


# --- places -------------------------------------------------------------------------------------------
def _places(offsets: Native, k: Native, spec: Any) -> Native:
    """Return the number of each place's pixel in its clip, -1 outside of the frame."""
    (t, y, x), (H, W) = _grid(offsets.shape, spec.stride), k.shape[-2:]
    rows, columns = offsets[..., 1] + y, offsets[..., 2] + x
    places = ((offsets[..., 0] + t) * H + rows) * W + columns
    if spec.border == "zeros":
        places[(rows < 0) | (rows >= H) | (columns < 0) | (columns >= W)] = -1
    return places


def _offsets(places: Native, k: Native, spec: Any) -> Native:
    (t, y, x), (H, W) = _grid(places.shape, spec.stride), k.shape[-2:]
    offsets = np.empty((*places.shape, 3), np.int32)
    lines = places // np.int32(W)  # -1 is in the last column of line -1. `divmod` takes several times as long
    frames = lines // np.int32(H)
    np.subtract(frames, t, out=offsets[..., 0])
    np.subtract(lines - frames * np.int32(H), y, out=offsets[..., 1])
    np.subtract(places - lines * np.int32(W), x, out=offsets[..., 2])
    if spec.border == "zeros":
        outside = places < 0
        offsets[outside] = 0
        offsets[..., 1][outside] = np.broadcast_to(-1 - y, places.shape)[outside]
    return offsets


def _grid(shape: tuple[int, ...], stride: int) -> tuple[Native, ...]:
    """Return frame, row and column of each query, each to be broadcast over (T, h, w, K)."""
    T, h, w = (np.arange(n, dtype=np.int32) for n in shape[2:5])
    return T[:, None, None, None], stride * h[:, None, None], stride * w[:, None]
