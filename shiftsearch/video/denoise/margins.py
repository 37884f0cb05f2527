"""Planes with margins, so that code in main memory need not care for patches at the border of a frame.

They are views of larger arrays, their bases. A margin mirrors the pixels at the border, as `gather` and `fold` do. Arrays
of other modules have no margins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from mmap import mmap
from typing import Any

import numpy as np

from shiftsearch._geometry import reflect

MARGIN = 6  # pixels: half of a patch, and what a pass may begin later


def zeros_with_margins(xp: Any, shape: tuple[int, ...]) -> Any:
    """Return zeros (C, H, W)."""
    if xp is not np:
        return xp.zeros(shape, np.float32)
    return _inside(_zeros((shape[0], *(n + 2 * MARGIN for n in shape[1:]))))


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros in memory of their own, given back at once: between smaller arrays, that of frames would leave gaps."""
    return np.ndarray(shape, np.float32, mmap(-1, 4 * math.prod(shape)))


def apart(xp: Any, array: Any) -> Any:
    """Return a copy of an array that is kept as long as its frame, in memory of its own."""
    if xp is not np:
        return array
    copy = _zeros(array.shape)
    copy[...] = array
    return copy


def with_margins(xp: Any, planes: Any) -> Any:
    """Return planes (C, H, W) with margins: the same if they have them, else a copy."""
    if xp is not np or _has_margins(planes):
        return planes
    new = zeros_with_margins(xp, planes.shape)
    new[...] = planes
    return mirror(xp, new)


def in_margins(xp: Any, channels: Any, basis: np.ndarray | None) -> Any:
    """Return new planes (C, H, W) with margins: channels, or their sums with the weights of each row of a basis."""
    new = zeros_with_margins(xp, channels.shape)
    if basis is None:
        new[...] = channels
    else:
        for weights, channel in zip(basis.T, channels, strict=True):
            channel = xp.ascontiguousarray(channel)  # which may lie between the others
            for weight, plane in zip(weights, new, strict=True):
                plane += float(weight) * channel
    return mirror(xp, new)


def weighed(planes: Any, weights: Sequence[float]) -> Any:
    """Return the sum (H, W) of planes (C, H, W), each times a weight; with margins if they have them."""
    whole = isinstance(planes, np.ndarray) and _has_margins(planes)
    each = planes.base[:, None] if whole else planes
    total: Any = sum(weight * plane for weight, plane in zip(weights, each, strict=True))
    return _inside(total)[0] if whole else total


def mirror(xp: Any, planes: Any) -> Any:
    """Fill the margins of planes, and return these."""
    for whole, to, of in _mirrored(planes) if xp is np else ():
        whole[:, to] = whole[:, of]
    return planes


def fold_margins(xp: Any, planes: Any) -> Any:
    """Add what lies in the margins of planes to the pixels that it mirrors, and return the planes."""
    for whole, to, of in list(_mirrored(planes))[::-1] if xp is np else ():
        whole[:, of] += whole[:, to]
    return planes


def _inside(whole: np.ndarray) -> np.ndarray:
    return whole[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def _has_margins(planes: np.ndarray) -> bool:
    base = planes.base
    if base is None or base.ndim != 3:
        return False
    same, size = _inside(base), planes.shape[1:]
    before = planes.ctypes.data - same.ctypes.data  # they may be some of the planes of the array
    alike = (same.shape[1:], same.strides[1:]) == (size, planes.strides[1:])
    return alike and before % same.strides[0] == 0


def _mirrored(planes: np.ndarray) -> Any:
    """Yield an array, the number of a row in a margin, and of the one that it mirrors; then the same for columns."""
    whole: Any = planes.base
    for turned in (whole[:, :, MARGIN:-MARGIN], whole.transpose(0, 2, 1)):
        for to, of in _rows(turned.shape[1] - 2 * MARGIN):
            yield turned, to, of


@cache
def _rows(n: int) -> list[tuple[int, int]]:
    outside = np.array([*range(-MARGIN, 0), *range(n, n + MARGIN)])
    return list(zip((outside + MARGIN).tolist(), (reflect(outside, n) + MARGIN).tolist(), strict=True))
