"""Geometry: reflection, frame order, query grid, search windows.

Each backend repeats these formulas in its own language. Positions are float64 on all of them, whatever the dtype of the
arrays, so that all backends look at exactly the same places and differ only in how they round sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch._types import Native

MOST = 2.0**30  # pixels: a search follows flow no further, so that offsets fit 32 bits


def reflect(x: Native, n: int) -> Native:
    """Return positions `x` mirrored into [0, n - 1] without repeating the edge: -1 is 1, n is n - 2."""
    if n == 1:
        return np.zeros_like(x)
    x = np.mod(x, 2 * (n - 1))
    return np.where(x <= n - 1, x, 2 * (n - 1) - x)


def mirror_sign(x: Native, n: int) -> Native:
    """Return the derivative of `reflect`: +1, -1 where `x` lies in a mirror image, 0 where there is only one pixel."""
    if n == 1:
        return np.zeros_like(x, dtype=float)
    return np.where(np.mod(x, 2 * (n - 1)) <= n - 1, 1.0, -1.0)


def frame_order(frames: int, radius: int, xp: Any = np) -> Native:
    """Return the frames that each frame is searched in, in slot order, (frames, 2 * radius + 1).

    Its own frame, then forward in time, then backward from the frame before. At the ends of the
    clip the range is shifted inward, so that there are always 2 * radius + 1 different frames.
    """
    t = xp.arange(frames)[:, None]
    slot = xp.arange(2 * radius + 1)
    last = xp.minimum(xp.maximum(t + radius, 2 * radius), frames - 1)
    return xp.where(t + slot <= last, t + slot, last - slot).astype("int32")


def along_flow(xp: Any, ahead: Native, flow: Native) -> Native:
    """Return the offsets (..., T, h, w, S, 3) that lead along a flow (..., T, S, 2, h, w) so many frames `ahead`, (T, S)."""
    moves = xp.moveaxis(flow, -4, -1)
    across, down = moves[..., 0, :, :, :], moves[..., 1, :, :, :]
    return xp.stack((xp.broadcast_to(ahead[:, None, None], down.shape), down, across), -1)


def query_grid(height: int, width: int, stride: int) -> tuple[int, int]:
    """Return the rows and columns of the query grid, which has every `stride`-th pixel."""
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def patch_offsets(patch: int, dilation: int, xp: Any = np) -> Native:
    """Return the pixels of a patch along one axis, relative to its query: -1, 0, 1 for 3; -2, -1, 0, 1 for 4."""
    return dilation * (xp.arange(patch) - patch // 2)


def coverage(height: int, width: int, patch: int, stride: int, dilation: int, xp: Any = np) -> Native:
    """Return how many queries of one frame have a patch that covers each pixel, (height, width), in float64."""

    def along(n: int) -> Native:
        query = xp.arange(n)[:, None] - patch_offsets(patch, dilation, xp)  # whose patch would have this pixel
        return ((query >= 0) & (query < n) & (query % stride == 0)).sum(1)

    return along(height)[:, None] * along(width).astype("float64")


def window_offset(centre: Native, n: int, window: int, before: int, step: float, slide: bool) -> Native:
    """Return the index of the centre in its window along an axis of `n` pixels: `before` of its `window` candidates come first.

    With `slide`, a window that sticks out moves inward by whole steps; the centre stays one of its candidates.
    """
    if not slide:
        return np.full(np.shape(centre), before)
    low = np.where(centre - step * before < 0, np.floor(centre / step), before)
    high = np.ceil((centre - (n - 1)) / step + window - 1)
    slid = np.where(centre + step * (window - 1 - low) > n - 1, high, low)
    return np.clip(slid, 0, window - 1).astype(int)


@dataclass(frozen=True)
class Patches:
    """The layout of the patches of queries and keys, and how they are compared.

    A query (t, y, x) of the grid sits at pixel r = (y, x) * stride; a key patch sits at a place
    n = r + offset. `border` says what is outside the frame: with "reflect" its mirror image (places are mirrored first,
    then the pixels around them), with "zeros" nothing.
    """

    patch: int = 1
    stride: int = 1
    dilation: int = 1
    border: str = "reflect"
    query_border: str = "reflect"  # the same for the patches of queries; aggregate drops what is outside
    metric: str = "dot"
    scale: int = 1  # the frame of queries has this multiple of the keys' resolution
    origin: tuple[int, int, int] = (0, 0, 0)  # frame, row and column of the first query in the query grid

    def covered(self, height: int, width: int, xp: Any = np) -> Native:
        """Return what the sum at each pixel is divided by: how many queries' patches cover it, or 1, in float64."""
        return xp.maximum(coverage(height, width, self.patch, self.stride, self.dilation, xp), 1)


patches_of = lru_cache(1024)(Patches)  # made once for each set of options
