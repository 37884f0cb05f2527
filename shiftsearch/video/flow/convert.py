"""Flow of other libraries, converted to the convention of this package; and coarser flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.flow import upsample_flow
from shiftsearch.video.flow.arrays import checked, finite
from shiftsearch.video.types import AnyArray, Array


def from_skimage(v: Array, u: AnyArray) -> Array:
    """Convert flow of scikit-image: `from_skimage(*optical_flow_tvl1(reference, target))`.

    Args:
        v: displacement of rows (H, W), or (T, H, W)
        u: displacement of columns, the same shape

    Returns:
        flow (2, H, W), or (T, 2, H, W)

    Example:
        >>> v, u = np.full((2, 4, 5), [[[1.0]], [[2.0]]])
        >>> from_skimage(v, u)[:, 0, 0]  # dx, dy
        array([2., 1.])
    """
    if tuple(getattr(v, "shape", ())) != tuple(getattr(u, "shape", ())):
        raise ShiftsearchError(f"flow.from_skimage: u has shape {tuple(u.shape)}, expected that of v, {tuple(v.shape)}")
    return transform("flow.from_skimage", lambda xp, v, u: xp.stack([u, v], -3), v=v, u=u)


def from_raft(flow: Array | Sequence[Array], size: tuple[int, int] | None = None) -> Array:
    """Convert flow of RAFT and its relatives, in torchvision, ptlflow and elsewhere.

    Args:
        flow: (2, h, w) or (T, 2, h, w), in pixels of the frames that the network saw. Or its list of predictions, of
            which the last is the best
        size: (H, W) of the frames, if they were resized for the network. The flow and its vectors are resized, too

    Returns:
        flow (2, H, W), or (T, 2, H, W)

    Example:
        >>> predictions = [np.zeros((1, 2, 128, 160)), np.ones((1, 2, 128, 160))]
        >>> flow = from_raft(predictions, size=(120, 160))
        >>> flow.shape, float(flow[0, 0, 0, 0]), float(flow[0, 1, 0, 0])
        ((1, 2, 120, 160), 1.0, 0.9375)
    """
    if isinstance(flow, (list, tuple)):
        if not flow:
            raise ShiftsearchError("flow.from_raft: flow is an empty list, expected predictions")
        flow = flow[-1]
    found = transform("flow.from_raft", lambda xp, array: checked("flow.from_raft", "flow", array).copy(), flow=flow)
    return found if size is None else upsample_flow(found, size)


def coarse(flow: Array, factor: int = 8) -> Array:
    """Return the mean flow of each `factor` x `factor` pixels, in pixels of that size.

    It takes 1 / factor**2 of the memory. `shiftsearch.upsample_flow` is the way back. `align` takes coarse flow directly.

    Args:
        flow: (2, H, W), or (T, 2, H, W). Vectors that are not finite count as 0
        factor: pixels per side. The last cells of a row or column may be smaller

    Returns:
        flow (2, h, w), or (T, 2, h, w), with h = ceil(H / factor)

    Example:
        >>> flow = np.full((2, 100, 64), 4.0, np.float32)
        >>> coarse(flow).shape, float(coarse(flow)[0, 3, 2])
        ((2, 13, 8), 0.5)
    """
    if isinstance(factor, bool) or not hasattr(factor, "__index__") or not 1 <= factor <= 1024:
        raise ShiftsearchError(f"flow.coarse: factor is {factor!r}, expected a whole number from 1 to 1024")

    def natively(xp: Any, array: Any) -> Any:
        array = finite(xp, checked("flow.coarse", "flow", array))
        (h, w), (H, W) = (-(-n // factor) for n in array.shape[-2:]), array.shape[-2:]
        rows, columns = (xp.asarray(cells(n, m)) for n, m in ((H, h), (W, w)))
        scale = xp.asarray([w / W, h / H])[:, None, None]
        return (rows @ array @ columns.T * scale).astype(array.dtype)

    return transform("flow.coarse", natively, flow=flow)


def cells(fine: int, cells: int) -> np.ndarray:
    """Return the share (cells, fine) of each pixel in the mean of a cell: all cells together span `fine` pixels."""
    ends, pixel = np.arange(cells + 1) * (fine / cells), np.arange(fine)
    shared = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
    return np.maximum(shared, 0) * (cells / fine)
