"""Attention to all places of the windows: scores, their softmax, and weighted sums, all of them in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.form import aggregate, aggregate_and_scatter, scatter, score
from shiftsearch.definition.places import silent
from shiftsearch.definition.search import search

_FAR = 1e30  # the size of the largest logit


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
    q: Native, k: Native, v: Native, spec: Any, factors: Native, *, flow: Native = None
) -> tuple[Native, Native]:
    """Return what each query gets, (B, T, V, H, W), and two sums of it, (B, G, T, h, w, 2).

    out = aggregate(v, weights, offsets), with weights = softmax over all candidates of factor * score; `factors` (G,)
    has a factor for each head. The sums are the largest logit and the sum of all exp(logit - largest). Places are whole,
    patches single pixels, and no window sticks out of a mirrored frame. What is no number is far away, and so is the
    query itself with skip="self".
    """
    found = _attention(q, k, spec, factors, flow)
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
    factors: Native,
    *,
    flow: Native = None,
) -> tuple[Native, Native, Native, Native]:
    """Return the gradients by q, k, v and factors, where `grad` arrives at `out`."""
    found, factors = _attention(q, k, spec, factors, flow), np.reshape(factors, (-1, 1, 1, 1, 1))
    by_weights = score(grad, v, found.offsets, _of_values(spec))
    weights = found.weights
    mean = np.where(weights != 0, weights * by_weights, 0).sum(-1, keepdims=True)
    slopes = np.where(weights != 0, weights * (by_weights - mean), 0)
    by_scores = np.where(found.counts, slopes * factors, 0)
    q_grad, k_grad = aggregate_and_scatter(q, k, by_scores, found.offsets, spec.patches())
    v_grad = scatter(grad, None, weights, found.offsets, _of_values(spec), size=v.shape[1:])
    by_factors = np.where(slopes != 0, slopes * found.scores.clip(-_FAR, _FAR), 0).sum((0, 2, 3, 4, 5))
    return q_grad, k_grad, v_grad, by_factors


def _attention(q: Native, k: Native, spec: Any, factors: Native, flow: Native) -> _Attention:
    itself = spec.skip == "self"
    all_of_them = replace(spec, skip=None if itself else spec.skip, topk=None, anchor=None, per_frame=False)
    _, offsets, _ = search(q, k, all_of_them, spec.patches(), flow=flow)
    scores = score(q, k, offsets, spec.patches())
    counts = ~(itself & (offsets == 0).all(-1))
    logits = scores.clip(-_FAR, _FAR) * np.reshape(factors, (-1, 1, 1, 1, 1)).astype(float)
    logits = np.where(counts & ~np.isnan(scores), logits, -_FAR)
    most = logits.max(-1, keepdims=True)
    exponentials = np.exp(logits - most)
    total = exponentials.sum(-1, keepdims=True)
    return _Attention(scores, counts, exponentials / total, offsets, np.concatenate((most, total), -1))


def _of_values(spec: Any) -> Any:
    return replace(spec.patches(), metric="dot")
