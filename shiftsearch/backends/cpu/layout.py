"""Videos (frames, channels, rows, columns) with the channels of a pixel side by side, and back.

All threads copy, a row at a time, so that a long copy can be interrupted, too.
"""

from __future__ import annotations

import numpy as np

from shiftsearch._types import Native
from shiftsearch.backends.cpu.pool import spread


def channels_last(video: Native) -> Native:
    """Return contiguous (T, H, W, C) of (T, C, H, W), without a copy if memory has this order already."""
    turned = video.transpose(0, 2, 3, 1)
    if turned.flags.c_contiguous:
        return turned
    out = np.empty(turned.shape, video.dtype)
    copy_rows(turned, out)
    return out


def copy_rows(given: Native, out: Native) -> None:
    """Copy (T, H, W, C), row by row."""
    height = given.shape[1]

    def some_rows(stop, first, last):
        for row in range(first, last):
            if stop[0]:
                return
            out[row // height, row % height] = given[row // height, row % height]

    spread(some_rows, len(given) * height, given.size)
