"""How far flow is off, by what differs where it leads."""

from __future__ import annotations

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import silent


@primitive
@silent()
def descent(moved: Native, grey: Native, flow: Native, *, same: float) -> Native:
    """Return five weighted products at each pixel, (5, n, h, w), of the slopes a and b and the difference c of frames.

    The products are aa, ab, bb, ac and bc: their sums say how much farther than flow (n, 2, h, w) the frames `moved` by it
    (n, h, w) have to go to look like `grey`. Slopes along x and y are those of the mean of both. The weight is
    1 / (same + cc), and 0 where flow leads out of the frame.
    """
    _, h, w = grey.shape
    x, y = np.arange(w), np.arange(h)
    left, above, right, below = (
        np.maximum(x - 1, 0),
        np.maximum(y - 1, 0),
        np.minimum(x + 1, w - 1),
        np.minimum(y + 1, h - 1),
    )
    mean, c = (moved + grey) / 2, moved - grey
    a, b = (mean[:, :, right] - mean[:, :, left]) / 2, (mean[:, below] - mean[:, above]) / 2
    to_x, to_y = x + flow[:, 0], y[:, None] + flow[:, 1]
    inside = (to_x >= 0) & (to_x <= w - 1) & (to_y >= 0) & (to_y <= h - 1)
    return inside / (same + c**2) * np.stack((a * a, a * b, b * b, a * c, b * c))
