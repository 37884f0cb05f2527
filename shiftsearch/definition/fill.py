"""Planes of half the size, and gaps that are filled from them."""

from __future__ import annotations

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import silent


@primitive
def coarser(planes: Native) -> Native:
    """Return the means (n, h, w) of squares of 2 x 2 pixels, of what lies in the planes."""
    return _mean_of_pairs(_mean_of_pairs(planes).swapaxes(1, 2)).swapaxes(1, 2)


@primitive
@silent()
def fill(found: Native, weight: Native, *, known: float) -> Native:
    """Return what is found (n, h, w) where it has weight, else the mean around, from as near as possible.

    That is the weighted mean of the smallest square of 2 x 2, 4 x 4 and so on pixels whose mean weight is more than `known`,
    or of the whole plane.
    """
    total, share = weight * found, weight
    nearest, missing, side = found.copy(), weight <= 0, 1
    while missing.any():
        mean, enough = total / np.maximum(share, 1e-12), (share > known) | (total[0].size == 1)
        mean, enough = (
            np.repeat(np.repeat(x, side, 1), side, 2)[:, : found.shape[1], : found.shape[2]] for x in (mean, enough)
        )
        nearest = np.where(missing & enough, mean, nearest)
        missing = missing & ~enough
        total, share, side = coarser(total), coarser(share), 2 * side
    return nearest


def _mean_of_pairs(planes: Native) -> Native:
    """Return the means of neighbouring rows; an odd last one is unchanged."""
    return np.stack([planes[:, y : y + 2].mean(1) for y in range(0, planes.shape[1], 2)], 1)
