"""Attention to all places of the windows or the best: scores, their softmax, and weighted sums, all of them in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.form import aggregate, aggregate_and_scatter, scatter, score
from shiftsearch.definition.places import silent
from shiftsearch.definition.search import search
from shiftsearch.definition.weigh import FAR, by_factors_of, factors_of, logits_of, weigh


class _Attention(NamedTuple):
    """Of all candidates, (B, G, T, h, w, K): scores, whether they count, weights and offsets; and the `sums` of queries."""

    scores: Native
    counts: Native
    weights: Native
    offsets: Native
    sums: Native


@primitive
@silent()
def attend(
    q: Native, k: Native, v: Native, spec: Any, factor: float, *, scales: Native = None, flow: Native = None
) -> tuple[Native, Native]:
    """Return what each query gets, (B, T, V, H, W), and two sums of it, (B, G, T, h, w, 2).

    out = aggregate(v, weights, offsets), with weights = softmax over all candidates of factor * score. Scores
    are multiplied by the scale of their head, too, if there are scales (G,). The sums are the largest logit and the sum of all exp(logit - largest). Places are whole,
    patches single pixels, and no window sticks out of a mirrored frame. What is no number is far away, and so is the
    query itself with skip="self".
    """
    found = _attention(q, k, spec, factors_of(spec, factor, scales), flow)
    out = aggregate(None, v, found.weights, found.offsets, _of_values(spec), size=v.shape[1:])
    return out, found.sums


@primitive
@silent()
def attend_backward(
    q: Native,
    k: Native,
    v: Native,
    out: Native,
    sums: Native,
    grad: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native = None,
    flow: Native = None,
) -> tuple[Native, Native, Native, Native]:
    """Return the gradients by q, k, v and, with scales, the factors of heads, where `grad` arrives at `out`."""
    factors = factors_of(spec, factor, scales)
    found = _attention(q, k, spec, factors, flow)
    by_weights = score(grad, v, found.offsets, _of_values(spec))
    weights = found.weights
    mean = np.where(weights != 0, weights * by_weights, 0).sum(-1, keepdims=True)
    slopes = np.where(weights != 0, weights * (by_weights - mean), 0)
    by_scores = np.where(found.counts, slopes * factors, 0)
    q_grad, k_grad = aggregate_and_scatter(q, k, by_scores, found.offsets, spec.patches())
    v_grad = scatter(grad, None, weights, found.offsets, _of_values(spec), size=v.shape[1:])
    return q_grad, k_grad, v_grad, None if scales is None else by_factors_of(slopes, found.scores)


def _attention(q: Native, k: Native, spec: Any, factors: Native, flow: Native) -> _Attention:
    itself = spec.skip == "self"
    all_of_them = replace(spec, skip=None if itself else spec.skip, topk=None, anchor=None, per_frame=False)
    _, offsets, _ = search(q, k, all_of_them, spec.patches(), flow=flow)
    scores = score(q, k, offsets, spec.patches())
    counts = ~(itself & (offsets == 0).all(-1))
    logits = scores.clip(-FAR, FAR) * factors
    logits = np.where(counts & ~np.isnan(scores), logits, -FAR)
    most = logits.max(-1, keepdims=True)
    exponentials = np.exp(logits - most)
    total = exponentials.sum(-1, keepdims=True)
    return _Attention(scores, counts, exponentials / total, offsets, np.concatenate((most, total), -1))


def _of_values(spec: Any) -> Any:
    return replace(spec.patches(), metric="dot")


# --- some -------------------------------------------------------------------------------------------
@primitive
def attend_some(
    q: Native, k: Native, v: Native, spec: Any, factor: float, *, scales: Native = None, flow: Native = None
) -> tuple[Native, Native, Native]:
    """Return what each query gets from what `search` finds, and its weights and offsets, (B, G, T, h, w, K) and more.

    Where patches of values overlap, this is their mean.
    """
    scores, offsets, _ = search(q, k, spec, spec.patches(), flow=flow)
    weights = weigh(scores, spec, factor, scales=scales)
    p = spec.of_values().patches()
    return aggregate(None, v, weights, offsets, p, size=v.shape[1:], averaged=p.patch > 1), weights, offsets


# --- the best ---------------------------------------------------------------------------------------
@primitive
@silent()
def attend_best(
    q: Native, k: Native, v: Native, spec: Any, factor: float, *, scales: Native = None, flow: Native = None
) -> tuple[Native, Native, Native, Native, Native]:
    """Return what each query gets from the places that `search` finds, two sums as `attend` has them, and what is kept.

    That are places, weights and offsets. Scores are multiplied by factor, and by the scale of their head, if there are
    scales (G,). A place (B, G, T, h, w, K) is the number of a pixel of k in its clip, through frames, rows and columns, and
    -1 outside of the frame. The spec says what is kept: what is not has K = 0. Infinitely bad scores are far away, as what
    is no number.
    """
    _, offsets, _ = search(q, k, spec, spec.patches(), flow=flow)
    logits, _, _ = _logits(q, k, offsets, spec, factor, scales)
    most = logits.max(-1, keepdims=True)
    exponentials = np.exp(logits - most)
    total = exponentials.sum(-1, keepdims=True)
    weights = exponentials / total
    out = aggregate(None, v, weights, offsets, _of_values(spec), size=v.shape[1:])
    places = _numbered(offsets, k, spec) if spec.kept_places else np.zeros((*offsets.shape[:5], 0), np.int32)
    some = slice(None if spec.kept_weights else 0)
    return out, np.concatenate((most, total), -1), places, weights[..., some], offsets[..., some, :]


@primitive
@silent()
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
    scales: Native = None,
) -> tuple[Native, Native, Native, Native]:
    """Return the gradients by q, k, v and, with scales, the factors of heads, where `grad` arrives at `out`."""
    offsets = _offsets(places, k, spec)
    logits, scores, factors = _logits(q, k, offsets, spec, factor, scales)
    weights = np.exp(logits - sums[..., :1]) / sums[..., 1:]
    by_weights = score(grad, v, offsets, _of_values(spec))
    mean = np.where(weights != 0, weights * by_weights, 0).sum(-1, keepdims=True)
    slopes = np.where((weights != 0) & (logits != -FAR), weights * (by_weights - mean), 0)
    q_grad, k_grad = aggregate_and_scatter(q, k, slopes * factors, offsets, spec.patches())
    v_grad = scatter(grad, None, weights, offsets, _of_values(spec), size=v.shape[1:])
    return q_grad, k_grad, v_grad, None if scales is None else by_factors_of(slopes, scores)


def _logits(
    q: Native, k: Native, offsets: Native, spec: Any, factor: float, scales: Native
) -> tuple[Native, Native, Native]:
    scores, factors = score(q, k, offsets, spec.patches()), factors_of(spec, factor, scales)
    return logits_of(scores, spec, factors), scores, factors


def _numbered(offsets: Native, k: Native, spec: Any) -> Native:
    t, y, x = (offsets[..., axis] + at for axis, at in enumerate(_queries(offsets.shape[2:5], spec)))
    H, W = k.shape[-2:]
    return np.where((y >= 0) & (y < H) & (x >= 0) & (x < W), (t * H + y) * W + x, -1).astype(np.int32)


def _offsets(places: Native, k: Native, spec: Any) -> Native:
    numbers = np.where(places < 0, 0, places)
    found = [*np.unravel_index(numbers, (k.shape[1], *k.shape[-2:]))]
    found[1] = np.where(places < 0, -1, found[1])  # a row above the frame
    ways = (n - at for n, at in zip(found, _queries(places.shape[2:5], spec), strict=True))
    return np.stack([*ways], -1).astype(np.int32)


def _queries(grid: tuple[int, ...], spec: Any) -> tuple[Native, ...]:
    T, h, w = grid
    return (
        np.arange(T).reshape(-1, 1, 1, 1),
        spec.stride * np.arange(h).reshape(-1, 1, 1),
        spec.stride * np.arange(w)[:, None],
    )
