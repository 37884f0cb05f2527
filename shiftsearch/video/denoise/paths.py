"""Where flow leads from places of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np


def flow_at(xp: Any, flow: Any, places: Any, size: tuple[int, int]) -> Any:
    """Return the flow of the cells that places (2, h, w) lie in; places are x, y in pixels of a frame of `size`."""
    cells = []
    for at, n, count in zip(places[::-1], size, flow.shape[1:], strict=True):
        cells.append(xp.clip(xp.floor((at + 0.5) * (count / n)), 0, count - 1).astype(np.int32))
    scale = xp.asarray([n / count for n, count in zip(size, flow.shape[1:], strict=True)][::-1], np.float32)
    found = flow[:, cells[0], cells[1]] * scale[:, None, None]
    return xp.where(abs(found) < 2**20, found, 0)  # also 0 for NaN


def followed(xp: Any, planes: Any, flow: Any, step: int) -> Any:
    """Return planes (C, H, W) of the frame that flow leads to, at every `step`-th pixel of the frame before."""
    if flow is None:
        return planes[:, ::step, ::step]
    _, height, width = planes.shape
    y, x = xp.arange(0, height, step)[:, None], xp.arange(0, width, step)
    places = xp.stack(xp.broadcast_arrays(x, y)).astype(np.float32)
    dx, dy = xp.rint(flow_at(xp, flow, places, (height, width))).astype(np.int32)
    return planes[:, xp.clip(y + dy, 0, height - 1), xp.clip(x + dx, 0, width - 1)]


def warped(xp: Any, plane: Any, flow: Any, step: int = 1) -> Any:
    """Return a plane (H, W) where flow leads from every `step`-th pixel, interpolated between its four pixels."""
    height, width = plane.shape
    x, y = (
        xp.clip(xp.arange(0, width, step) + flow[0], 0, width - 1),
        xp.clip(xp.arange(0, height, step)[:, None] + flow[1], 0, height - 1),
    )
    left, top = x.astype(np.int32), y.astype(np.int32)
    x, y = x - left, y - top
    right, bottom = xp.minimum(left + 1, width - 1), xp.minimum(top + 1, height - 1)
    upper, lower = ((1 - x) * plane[row, left] + x * plane[row, right] for row in (top, bottom))
    return (1 - y) * upper + y * lower
