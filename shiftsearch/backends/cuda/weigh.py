"""The softmax of scores, and its gradient, in the memory of what they follow from: see weigh.cu."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

_OF_LANE = 4  # candidates, about
_INSTANCES = ({"L2": 1, "LANES": 4}, {"L2": 0, "LANES": 32})
WEIGH = Kernel("weigh", "weigh.cu", registers=64, instances=_INSTANCES)
WEIGH_BACKWARD = Kernel("weigh_backward", "weigh.cu", registers=64, instances=_INSTANCES)


@primitive
def weigh(
    device: Any,
    scores: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
) -> Native:
    """Write weights over the scores."""
    plan = _plan(WEIGH, spec.metric, scores.shape, scores.dtype)
    plan.launch(device, {"weights": scores, "scales": scales, "factor": scores.dtype.type(factor)})
    return scores


@primitive
def weigh_backward(
    device: Any,
    weights: Native,
    by_weights: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    scores: Native | None = None,
) -> tuple[Native, Native | None]:
    plan = _plan(WEIGH_BACKWARD, spec.metric, weights.shape, weights.dtype)
    products = None if scores is None else device.xp.empty(weights.shape[:-1], weights.dtype)
    read = {
        "weights": device.xp.ascontiguousarray(weights),
        "scores": scores,
        "scales": scales,
        "factor": weights.dtype.type(factor),
    }
    plan.launch(device, {**read, "slopes": by_weights, "products": products})
    return by_weights, by_factors_of(products)


def by_factors_of(products: Native | None) -> Native | None:
    """Return the gradient of the factors of heads from that by the factor of each query, (B, G, T, h, w)."""
    return None if products is None else products.sum((0, 2, 3, 4))


@lru_cache(MOST_PLANS)
def _plan(kernel: Kernel, metric: str, scores: tuple[int, ...], dtype: np.dtype) -> Plan:
    *queries, K = scores
    count = prod(queries)
    lanes = next(n for n in (1, 2, 4, 8, 16, 32) if n * _OF_LANE >= K or n == 32)
    sizes = {"count": count, "of_head": prod(queries[2:]), "G": queries[1], "K": K}
    program = Program(kernel, {**numbers(dtype), "L2": int(metric == "l2"), "LANES": lanes})
    return Plan(program, -(-count * lanes // kernel.threads), sizes)
