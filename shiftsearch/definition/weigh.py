"""The softmax of scores, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import silent

FAR = 1e30  # the size of the largest logit


@primitive
@silent()
def weigh(scores: Native, spec: Any, factor: float, *, scales: Native = None) -> Native:
    """Return softmax over the last axis of factor * score. Backends may write it over the scores.

    Scores are multiplied by the scale of their head, too, if there are scales (G,). What is no number, or infinitely bad,
    is far away.
    """
    logits = logits_of(scores, spec, factors_of(spec, factor, scales))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@primitive
@silent()
def weigh_backward(
    weights: Native,
    by_weights: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native = None,
    scores: Native = None,
) -> tuple[Native, Native]:
    """Return the gradient of the scores from that of the weights, and that of the factors of heads, if there are scores.

    Backends may write the first over `by_weights`. A weight of 0 has no gradient.
    """
    mean = np.where(weights != 0, weights * by_weights, 0).sum(-1, keepdims=True)
    slopes = np.where(weights != 0, weights * (by_weights - mean), 0)
    by_factors = None if scores is None else by_factors_of(slopes, scores)
    return slopes * factors_of(spec, factor, scales), by_factors


def factors_of(spec: Any, factor: float, scales: Native) -> Native:
    """Return what the scores of each head are multiplied by."""
    return np.reshape(factor * (np.ones(spec.heads) if scales is None else scales.astype(float)), (-1, 1, 1, 1, 1))


def logits_of(scores: Native, spec: Any, factors: Native) -> Native:
    """Return what is exponentiated."""
    worst = np.inf if spec.metric == "l2" else -np.inf
    return np.where(np.isnan(scores) | (scores == worst), -FAR, scores.clip(-FAR, FAR) * factors)


def by_factors_of(slopes: Native, scores: Native) -> Native:
    """Return the gradient of the factors of heads from that of the logits."""
    return np.where(slopes != 0, slopes * scores.clip(-FAR, FAR), 0).sum((0, 2, 3, 4, 5))
