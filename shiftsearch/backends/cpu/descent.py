"""How far flow is off, by what differs where it leads."""

from __future__ import annotations

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native


@primitive
def descent(moved: Native, grey: Native, flow: Native, *, same: float) -> Native:
    (h, w), (x, y) = grey.shape[1:], (flow[:, 0], flow[:, 1])
    wide = np.pad((moved + grey) / 2, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across, down = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / 2, (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2
    # where flow would lead to the first column and row
    left, above = -np.arange(w).astype(flow.dtype), -np.arange(h).astype(flow.dtype)[:, None]
    inside = (x >= left) & (x <= left + (w - 1)) & (y >= above) & (y <= above + (h - 1))
    apart = moved - grey
    weight = inside / (apart.dtype.type(same) + apart**2)
    return weight * np.stack((across * across, across * down, down * down, across * apart, down * apart))
