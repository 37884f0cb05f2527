"""A frame read between its pixels."""

from __future__ import annotations

from itertools import product

import numpy as np

from shiftsearch._geometry import reflect
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import silent


@primitive
@silent()
def resample(target: Native, offsets: Native, *, patch: int) -> Native:
    """Return target (C, H, W) read at offsets (2, H, W) of dx and dy from each pixel, the mean of all patches that have it.

    Each pixel has a patch, at its own offset, that reads 4 x 4 pixels for one with the weights of cubic convolution. These
    lie in the frame or are mirrored into it, and so are then the pixels of the patch around each of them. What has weight
    0 is not read.
    """
    _, H, W = target.shape
    at = [np.broadcast_to(np.arange(n).reshape(shape), (H, W)) for n, shape in ((W, (1, W)), (H, (H, 1)))]
    low = [np.floor(way).astype(int) for way in offsets]
    total, count = np.zeros(target.shape), np.zeros((H, W))
    for dy, dx in product(range(-(patch // 2), patch - patch // 2), repeat=2):
        y, x = at[1] + dy, at[0] + dx
        own = (y >= 0) & (y < H) & (x >= 0) & (x < W)
        value = np.zeros(target.shape)
        for i, j in product(range(-1, 3), repeat=2):
            weight = _cubic(offsets[1] - low[1] - i) * _cubic(offsets[0] - low[0] - j)
            row, column = (reflect(a + b + c, n) for a, b, c, n in ((at[1], low[1], i, H), (at[0], low[0], j, W)))
            read = target[:, reflect(row + dy, H), reflect(column + dx, W)]
            value += np.where(weight != 0, weight * read, 0)
        total[:, y[own], x[own]] += value[:, own]
        count[y[own], x[own]] += 1
    return total / count


def _cubic(x: Native) -> Native:
    """Return Keys' cubic convolution kernel with a = -0.58."""
    a, x = -0.58, np.abs(x)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))
