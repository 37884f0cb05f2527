"""Attention of patches: a search that ends in weights, and a sum of what it finds, by one plan."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda import search, tiles
from shiftsearch.backends.cuda.call import MOST_PLANS, NOWHERE, Lies, in_vectors, lies_of, options_of, sums
from shiftsearch.backends.cuda.form import aggregate, plans_of_sum
from shiftsearch.backends.cuda.kernels import Plan
from shiftsearch.backends.cuda.search import Layout, PlanOfSearch, Weighing, around_of, near, plan_of_search


class _Plan(NamedTuple):
    """How is searched, and how what is found is summed on tiles, if it can be, and what they leave."""

    search: PlanOfSearch
    on_tiles: Plan | None
    rest: Plan


@primitive
def attend_some(
    device: Any,
    q: Native,
    k: Native,
    v: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
) -> tuple[Native, Native, Native]:
    xp, heads = device.xp, spec.heads
    around, q, k = around_of(xp, k, spec.stride, flow), near(xp, q), near(xp, k)
    vectors = in_vectors(device, heads, q) and in_vectors(device, heads, k)
    layout, lies = Layout(q.shape, k.shape, q.strides, k.strides, vectors), lies_of(device, heads, v)
    plan = _plan(spec.planned, layout, v.shape, lies, k.dtype, around.shape, around.dtype, device.most_shared)
    weights, offsets, _ = search.launch(device, plan.search, q, k, around, spec, Weighing(factor, scales))
    if plan.on_tiles is None:
        p = spec.of_values().patches()
        return aggregate(device, None, v, weights, offsets, p, size=v.shape[1:], averaged=p.patch > 1), weights, offsets
    out = xp.empty(v.shape, v.dtype)
    arrays = {"q": None, "k": v, "offsets": offsets, "weights": weights, "patches": None, "out": out}
    tiles.launch(plan.on_tiles, device, arrays)
    plan.rest.launch(device, arrays)
    return out, weights, offsets


@lru_cache(MOST_PLANS)
def _plan(
    spec: Any,
    layout: Layout,
    v: tuple[int, ...],
    lies: Lies,
    dtype: np.dtype,
    around: tuple[int, ...],
    of_around: np.dtype,
    memory: int,
) -> _Plan:
    searched = plan_of_search(spec, spec.patches(), layout, dtype, around, of_around, False, memory, True)
    p, offsets = spec.of_values().patches(), sums(dtype) if spec.subpixel else np.dtype(np.int32)
    options = options_of(p, searched.shape, v, v, dtype, offsets, False, NOWHERE, lies)
    return _Plan(searched, *plans_of_sum(options, v, p.patch > 1, memory))
