"""Planes of half the size, and gaps that are filled from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native


@primitive
def coarser(planes: Native) -> Native:
    return _halved(_halved(planes, 1), 2)


def _halved(planes: Native, axis: int) -> Native:
    """Return the means of pairs of neighbours along an axis; an odd last element is unchanged."""
    first, second = (planes[(slice(None),) * axis + (slice(at, None, 2),)] for at in (0, 1))
    if first.shape == second.shape:
        pairs = first + second
        pairs /= 2
        return pairs
    pairs, rest = np.split(first, [second.shape[axis]], axis)
    return np.concatenate([(pairs + second) / 2, rest], axis)


@primitive
def fill(found: Native, weight: Native, *, known: float) -> Native:
    n, levels = len(found), [np.concatenate([weight * found, weight])]
    while max(levels[-1].shape[1:]) > 1:
        levels.append(coarser(levels[-1]))
    whole: Any = None
    for level in reversed(levels):
        total, share = level[:n], level[n:]
        mean = total / np.maximum(share, 1e-12)
        whole = mean if whole is None else np.where(share > known, mean, _doubled(whole, mean.shape))
    return np.where(weight > 0, found, whole)


def _doubled(planes: Native, shape: tuple[int, ...]) -> Native:
    """Return planes of `shape` that have four pixels for each."""
    n, h, w = planes.shape
    four = np.broadcast_to(planes[:, :, None, :, None], (n, h, 2, w, 2)).reshape(n, 2 * h, 2 * w)
    return four[:, : shape[1], : shape[2]]
