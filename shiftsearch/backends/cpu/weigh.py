"""The softmax of scores, and its gradient, in the memory of what they follow from."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native

FAR = 1e30  # the size of the largest logit


@primitive
def weigh(scores: Native, spec: Any, factor: float, *, scales: Native | None = None) -> Native:
    weights, _ = weigh_and_sum(scores, spec, factors_of(factor, scales))
    return weights


@primitive
def weigh_backward(
    weights: Native,
    by_weights: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    scores: Native | None = None,
) -> tuple[Native, Native | None]:
    slopes = slopes_of(weights, by_weights)
    by_factors = None if scores is None else by_factors_of(slopes, scores)
    slopes *= factors_of(factor, scales)
    return slopes, by_factors


def factors_of(factor: float, scales: Native | None) -> Any:
    """Return what the scores of each head are multiplied by."""
    return factor if scales is None else (factor * scales).reshape(-1, 1, 1, 1, 1)


def weigh_and_sum(scores: Native, spec: Any, factors: Any) -> tuple[Native, Native]:
    """Return weights, and what they follow from, (..., 2): the largest logit, and the sum of all exp(logit - largest)."""
    weights = logits_of(scores, spec, factors)
    most = weights.max(-1, keepdims=True)
    np.exp(np.subtract(weights, most, out=weights), out=weights)
    total = weights.sum(-1, keepdims=True)
    weights /= total
    return weights, np.concatenate((most, total), -1)


def logits_of(scores: Native, spec: Any, factors: Any) -> Native:
    """Return what is exponentiated, in place of the scores. What is no number, or infinitely bad, is far away."""
    there = scores < np.inf if spec.metric == "l2" else scores > -np.inf
    logits = np.clip(scores, -FAR, FAR, out=scores)
    logits *= factors
    logits[~there] = -FAR
    return logits


def slopes_of(weights: Native, by_weights: Native) -> Native:
    """Return the gradient of the logits, in place of that of the weights."""
    nothing = weights == 0
    by_weights[nothing] = 0
    mean = np.einsum("...k,...k->...", weights, by_weights)[..., None]
    slopes = np.subtract(by_weights, mean, out=by_weights)
    slopes *= weights
    slopes[nothing] = 0
    return slopes


def by_factors_of(slopes: Native, scores: Native) -> Native:
    """Return the gradient of the factors of heads from that of the logits."""
    return np.where(slopes != 0, slopes * scores.clip(-FAR, FAR), 0).sum((0, 2, 3, 4, 5))
