"""Videos (frames, channels, rows, columns) with the channels of a pixel side by side, and back.

A row at a time, by all threads: what copies much hears Ctrl-C, too.
"""

from __future__ import annotations

import numpy as np

from shiftsearch.backends.cpu.pool import spread


def channels_last(video):
    """Contiguous (T, H, W, C) of (T, C, H, W), without a copy where memory has it so."""
    turned = video.transpose(0, 2, 3, 1)
    if turned.flags.c_contiguous:
        return turned
    out = np.empty(turned.shape, video.dtype)
    copy_rows(turned, out)
    return out


def copy_rows(given, out) -> None:
    """out[...] = given, (T, H, W, C) both."""
    height = given.shape[1]

    def some_rows(stop, first, last):
        for row in range(first, last):
            if stop[0]:
                return
            out[row // height, row % height] = given[row // height, row % height]

    spread(some_rows, len(given) * height, given.size)
