"""Flow as a picture, in the colours of the Middlebury benchmark, whose wheel has its hues as far apart as they look."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.flow.arrays import checked, finite
from shiftsearch.video.types import Array

_TURNS = (
    np.array([0, 15, 21, 25, 36, 49, 55]) / 55
)  # where red, yellow, green, cyan, blue, magenta and red lie on the wheel


@overload
def to_color(flow: NDArray[Any], *, longest: float | None = None) -> NDArray[np.uint8]: ...
@overload
def to_color(flow: Array, *, longest: float | None = None) -> Array: ...


def to_color(flow: Any, *, longest: float | None = None) -> Any:
    """Return a picture of a flow.

    The hue shows the direction: red is right, yellow down, blue left. Pale colours are slow.

    Args:
        flow: (2, H, W), or (T, 2, H, W)
        longest: length in pixels of a vector of full colour. Longer ones are darker. By default that of the longest one

    Returns:
        RGB uint8 (H, W, 3), or (T, H, W, 3). No motion is white. Vectors that are not finite are black

    Example:
        >>> flow = np.zeros((2, 1, 3))
        >>> flow[0] = 4, 0, np.nan
        >>> to_color(flow).tolist()
        [[[255, 0, 0], [255, 255, 255], [0, 0, 0]]]
    """
    if longest is not None and (not isinstance(longest, (int, float, np.number)) or not longest > 0):
        raise ShiftsearchError(f"flow.to_color: longest is {longest!r}, expected a number of pixels or None")

    def natively(xp: Any, array: Any) -> Any:
        array = checked("flow.to_color", "flow", array).astype("float64")
        known = xp.isfinite(array).all(-3)
        dx, dy = xp.moveaxis(finite(xp, array), -3, 0)
        length = xp.hypot(dx, dy)
        share = length / (longest or float(length.max()) or 1)
        turn = xp.interp(xp.arctan2(dy, dx) / (2 * np.pi) % 1, xp.asarray(_TURNS), xp.arange(7.0))
        turn = turn[..., None] + xp.asarray([5.0, 3.0, 1.0])
        ramp = xp.clip(xp.minimum(turn % 6, 4 - turn % 6), 0, 1)  # how much of red, green and blue a hue lacks
        color = (1 - xp.minimum(share, 1)[..., None] * ramp) / xp.maximum(share, 1)[..., None]
        return xp.rint(255 * color * known[..., None]).astype("uint8")

    return transform("flow.to_color", natively, flow=flow)
