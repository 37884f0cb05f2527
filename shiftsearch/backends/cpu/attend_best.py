"""Attention to the best places: scores and offsets of a call are in memory, and of a gradient again."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu.places import aggregate, aggregate_and_scatter, scatter, score
from shiftsearch.backends.cpu.search import search

_FAR = 1e30  # the size of the largest logit


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
) -> tuple[Native, Native, Native]:
    scores, offsets, _ = search(q, k, spec, spec.patches(), flow=flow)
    weights = _logits(scores, spec, _factors(spec, factor, scales))
    most = weights.max(-1, keepdims=True)
    np.exp(np.subtract(weights, most, out=weights), out=weights)
    total = weights.sum(-1, keepdims=True)
    weights /= total
    out = aggregate(None, v, weights, offsets, _of_values(spec), size=v.shape[1:])
    places = _places(offsets, k, spec) if spec.differentiable else np.empty((*offsets.shape[:5], 0), np.int32)
    return out, np.concatenate((most, total), -1), places


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
) -> tuple[Native, Native, Native, Native]:
    offsets, of_values, factors = _offsets(places, k, spec), _of_values(spec), _factors(spec, factor, scales)
    scores = score(q, k, offsets, spec.patches())
    logits = _logits(scores, spec, factors)
    weights = np.exp(logits - sums[..., :1]) / sums[..., 1:]
    by_weights = score(grad, v, offsets, of_values)
    mean = np.where(weights != 0, weights * by_weights, 0).sum(-1, keepdims=True)
    slopes = np.where((weights != 0) & (logits != -_FAR), weights * (by_weights - mean), 0)
    q_grad, k_grad = aggregate_and_scatter(q, k, slopes * factors, offsets, spec.patches())
    v_grad = scatter(grad, None, weights, offsets, of_values, size=v.shape[1:])
    by_factors = np.where(slopes != 0, slopes * scores.clip(-_FAR, _FAR), 0).sum((0, 2, 3, 4, 5))
    return q_grad, k_grad, v_grad, by_factors


def _factors(spec: Any, factor: float, scales: Native | None) -> Any:
    return factor if scales is None else (factor * scales).reshape(-1, 1, 1, 1, 1)


def _logits(scores: Native, spec: Any, factors: Any) -> Native:
    """Return what is exponentiated. What is no number, or infinitely bad, is far away."""
    there = scores < np.inf if spec.metric == "l2" else scores > -np.inf
    logits = scores.clip(-_FAR, _FAR) * factors
    logits[~there] = -_FAR
    return logits


def _of_values(spec: Any) -> Patches:
    return spec.of_values().patches()


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
