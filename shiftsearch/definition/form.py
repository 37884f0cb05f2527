"""The form and its derivatives. Each loops over patch pixels and kept candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.patches import slope_of_patches
from shiftsearch.definition.places import (
    At,
    join,
    outside,
    patch_pixels,
    places,
    query_patch,
    sample,
    sample_slopes,
    silent,
    split,
    spread,
    times,
)


# q may be stacked, (B, K, T, C, H, W): the n-th kept candidate is then compared with q[:, n].
def _queries_of(q: Native, heads: int) -> Any:
    """Return, by the number of a kept candidate, its video of queries, split: the same for all unless q is stacked."""
    return _Same(split(q, heads)) if q.ndim == 5 else [split(q[:, n], heads) for n in range(q.shape[1])]


class _Same:
    """A list whose every element is the same."""

    def __init__(self, element: Any) -> None:
        self.element = element

    def __getitem__(self, n: int) -> Native:
        return self.element


def _pairs(
    q: Native, k: Native, offsets: Native, p: Patches
) -> Iterator[tuple[int, At, At, Native, Native, Native, list[Native]]]:
    """Yield, for every patch pixel and kept candidate, (its number, where q is read, where k is read, both values, exists, signs)."""
    found = [places(offsets[..., n, :], p, k.shape[2], *k.shape[-2:]) for n in range(offsets.shape[-2])]
    for dy, dx in patch_pixels(p):
        at_q = query_patch(q[0], p, offsets.shape[:5], dy, dx)
        values, missing = _read(q, at_q, p), outside(q[0], *at_q[1:], p.query_border)
        for n, (frame, y, x, *signs) in enumerate(found):
            at_k = frame, y + dy, x + dx
            exists = ~(missing | outside(k, *at_k[1:], p.border))
            yield n, at_q, at_k, values[n], sample(k, *at_k, p.border), exists[..., None], signs


def _read(q: Any, at: At, p: Patches) -> Any:
    """Return what lies at these pixels of each video of queries, which is read once if all are the same."""
    if isinstance(q, _Same):
        return _Same(sample(q[0], *at, p.query_border))
    return [sample(video, *at, p.query_border) for video in q]


@primitive
@silent()
def score(q: Native, k: Native, offsets: Native, p: Patches) -> Native:
    """Return dS/dweights, (B, G, T, h, w, K) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)).

    phi is the product ("dot") or the squared difference ("l2"). A pair with a member outside the
    frame, where the border is "zeros", contributes nothing.
    """
    heads = offsets.shape[1]
    q, k = _queries_of(q, heads), split(k, heads)
    scores = np.zeros(offsets.shape[:-1])
    for n, _, _, a, b, exists, _ in _pairs(q, k, offsets, p):
        pair = a * b if p.metric == "dot" else (a - b) ** 2
        scores[..., n] += np.where(exists, pair, 0).sum(-1)
    return scores


@primitive
@silent()
def aggregate(
    q: Native,
    k: Native,
    weights: Native,
    offsets: Native,
    p: Patches,
    *,
    size: Any = None,
    stacked: bool = False,
    averaged: bool = False,
) -> Native:
    """Return dS/dq, separately for each kept candidate if `stacked`, and divided by `coverage` if `averaged`.

    With "dot" this is the weighted sum of patches of k; q may then be None, if its `size` is given.
    """
    heads = offsets.shape[1]
    shape = (k.shape[0], *([offsets.shape[-2]] if stacked else []), *size) if q is None else q.shape
    out = _queries_of(np.zeros(shape), heads)
    q = out if q is None else _queries_of(q, heads)
    k = split(k, heads)
    for n, at_q, _, a, b, exists, _ in _pairs(q, k, offsets, p):
        value = b if p.metric == "dot" else 2 * (a - b)
        spread(out[n], *at_q, p.query_border, times(weights[..., n, None], value, exists))
    found = np.stack(list(map(join, out)), 1) if isinstance(out, list) else join(out[0])
    return found / p.covered(*found.shape[-2:]) if averaged else found


@primitive
@silent()
def scatter(q: Native, k: Native, weights: Native, offsets: Native, p: Patches, *, size: Any = None) -> Native:
    """Return dS/dk. With "dot" the patches of q are added at their places, and k may be None if its `size` is given."""
    heads = offsets.shape[1]
    out = np.zeros((q.shape[0], *size) if k is None else k.shape)
    out = split(out, heads)
    k = out if k is None else split(k, heads)
    q = _queries_of(q, heads)
    for n, _, at_k, a, b, exists, _ in _pairs(q, k.copy() if k is out else k, offsets, p):
        value = a if p.metric == "dot" else -2 * (a - b)
        spread(out, *at_k, p.border, times(weights[..., n, None], value, exists))
    return join(out)


@primitive
def aggregate_and_scatter(q: Native, k: Native, weights: Native, offsets: Native, p: Patches) -> tuple[Native, Native]:
    """Return both derivatives, which share their work on other backends."""
    return aggregate(q, k, weights, offsets, p), scatter(q, k, weights, offsets, p)


@primitive
@silent()
def slope(q: Native, k: Native, weights: Native, offsets: Native, p: Patches, *, patches: Native = None) -> Native:
    """Return dS/d(dt, dy, dx), (B, G, T, h, w, K, 3). The derivative by dt is 0, as frames are whole numbers.

    With `patches`, which replace q and weights, return the derivative of sum(patches * gather(k, offsets)).
    """
    if patches is not None:
        return slope_of_patches(k, patches, offsets, p)
    heads = offsets.shape[1]
    q, k = _queries_of(q, heads), split(k, heads)
    out, there = np.zeros(offsets.shape), np.zeros(offsets.shape, bool)
    for n, _, at_k, a, b, exists, signs in _pairs(q, k, offsets, p):
        factor = a if p.metric == "dot" else -2 * (a - b)
        for axis, (sign, ds) in enumerate(zip(signs, sample_slopes(k, *at_k, p.border), strict=True), 1):
            out[..., n, axis] += times(sign[..., None], factor * ds, exists).sum(-1)
            there[..., n, axis] |= exists[..., 0] & (sign != 0)
    return times(weights[..., None], out, there)
