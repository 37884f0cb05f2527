"""Where things are: reflection, frame order, query grid, search windows. What each backend computes in its own words.

Positions are computed in float64 on every backend, whatever the arrays are: two backends then look
at the same places, bit for bit, and differ only in how they round sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST = 2.0**30  # pixels that a search follows a flow: offsets must fit 32 bits


def reflect(x, n: int):
    """Position(s) `x` mirrored into [0, n - 1] without repeating the edge: -1 is 1, n is n - 2."""
    if n == 1:
        return np.zeros_like(x)
    x = np.mod(x, 2 * (n - 1))
    return np.where(x <= n - 1, x, 2 * (n - 1) - x)


def mirror_sign(x, n: int):
    """Derivative of `reflect`: +1, -1 where `x` lies in a mirror image, 0 where there is only one pixel."""
    if n == 1:
        return np.zeros_like(x, dtype=float)
    return np.where(np.mod(x, 2 * (n - 1)) <= n - 1, 1.0, -1.0)


def frame_order(frames: int, radius: int, xp=np):
    """Frames that each frame looks at, in slot order, (frames, 2 * radius + 1).

    Its own frame, then forward in time, then backward from the frame before. At the ends of the
    clip the range moves inside, so that there are always 2 * radius + 1 different frames.
    """
    t = xp.arange(frames)[:, None]
    slot = xp.arange(2 * radius + 1)
    last = xp.minimum(xp.maximum(t + radius, 2 * radius), frames - 1)
    return xp.where(t + slot <= last, t + slot, last - slot).astype("int32")


def query_grid(height: int, width: int, stride: int) -> tuple[int, int]:
    """Rows and columns of queries when every `stride`-th pixel asks."""
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def patch_offsets(patch: int, dilation: int, xp=np):
    """Pixels of a patch along one axis, relative to its query: -1, 0, 1 for 3; -2, -1, 0, 1 for 4."""
    return dilation * (xp.arange(patch) - patch // 2)


def coverage(height: int, width: int, patch: int, stride: int, dilation: int, xp=np):
    """How many queries of one frame have a patch that covers each pixel, (height, width), in float64."""

    def along(n):
        query = xp.arange(n)[:, None] - patch_offsets(patch, dilation, xp)  # whose patch has this pixel, if it is one
        return ((query >= 0) & (query < n) & (query % stride == 0)).sum(1)

    return along(height)[:, None] * along(width).astype("float64")


def window_offset(centre, n: int, window: int, step: float, slide: bool):
    """Index of the centre in its window of `window` candidates along an axis of `n` pixels.

    A window that sticks out slides inward by whole steps if `slide`; the centre stays a candidate.
    """
    half = (window - 1) // 2
    if not slide:
        return np.full(np.shape(centre), half)
    low = np.where(centre - step * half < 0, np.floor(centre / step), half)
    high = np.ceil((centre - (n - 1)) / step + window - 1)
    slid = np.where(centre + step * (window - 1 - low) > n - 1, high, low)
    return np.clip(slid, 0, window - 1).astype(int)


@dataclass(frozen=True)
class Patches:
    """How the patches of queries and keys are laid out and compared: what all ops share.

    A query (t, y, x) of the grid sits at pixel r = (y, x) * stride; a key patch sits at a place
    n = r + offset. Reading the pixels of a patch, `border` says what lies outside the frame:
    "reflect" mirrors (places first, then the pixels around them), "zeros" holds nothing.
    """

    patch: int = 1
    stride: int = 1
    dilation: int = 1
    border: str = "reflect"
    query_border: str = "reflect"  # the same for the patches of queries; aggregate drops what is outside
    metric: str = "dot"
    scale: int = 1  # the frame of queries has this multiple of the keys' resolution
    origin: tuple[int, int, int] = (0, 0, 0)  # frame, row and column of the first query in the query grid
