"""Planes of half the size, and gaps that are filled from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native


@primitive
def coarser(planes: Native) -> Native:
    for axis in (1, 2):
        before = (slice(None),) * axis
        first, second = (planes[(*before, slice(at, None, 2))] for at in (0, 1))
        pairs = (first[(*before, slice(second.shape[axis]))] + second) / 2
        rest = first[(*before, slice(second.shape[axis], None))]
        planes = np.concatenate([pairs, rest], axis) if rest.size else pairs
    return planes


@primitive
def fill(found: Native, weight: Native, *, known: float) -> Native:
    levels = [np.concatenate([weight * found, weight])]
    while max(levels[-1].shape[1:]) > 1:
        levels.append(coarser(levels[-1]))
    whole: Any = None
    for total, share in (np.split(level, 2) for level in reversed(levels)):
        mean = total / np.maximum(share, 1e-12)
        whole = mean if whole is None else np.where(share > known, mean, _doubled(whole, mean.shape))
    return np.where(weight > 0, found, whole)


def _doubled(planes: Native, shape: tuple[int, ...]) -> Native:
    """Return planes of `shape` that have four pixels for each."""
    n, h, w = planes.shape
    four = np.broadcast_to(planes[:, :, None, :, None], (n, h, 2, w, 2)).reshape(n, 2 * h, 2 * w)
    return four[:, : shape[1], : shape[2]]
