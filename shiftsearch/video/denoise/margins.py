"""Planes with margins, so that code in main memory need not care for patches at the border of a frame.

They are views of larger arrays, their bases. A margin mirrors the pixels at the border, as `gather` and `fold` do. Arrays
of other modules have no margins.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from shiftsearch._geometry import reflect
from shiftsearch.video.denoise import spare

MARGIN = 6  # pixels: half of a patch, and what a pass may begin later


def zeros_with_margins(xp: Any, shape: tuple[int, ...], kind: npt.DTypeLike = np.float32) -> Any:
    """Return zeros (C, H, W)."""
    if xp is not np:
        return xp.zeros(shape, kind)
    return _inside(spare.zeros((shape[0], *(n + 2 * MARGIN for n in shape[1:])), kind))


def apart(xp: Any, array: Any, kind: npt.DTypeLike) -> Any:
    """Return a copy of an array that is kept as long as its frame, in memory of its own."""
    if xp is not np:
        return array
    copy = spare.zeros(array.shape, kind)
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


def begun_later(xp: Any, plane: Any, begin: int) -> Any:
    """Return a plane (H, W) from row and column `begin` on, mirrored behind its end to the same size, with margins."""
    if isinstance(plane, np.ndarray) and _has_margins(plane[None]):
        later = zeros_with_margins(np, (1, *plane.shape))
        later[0] = as_strided(plane[begin:, begin:], plane.shape, plane.strides)  # ends in the margin
        return mirror(np, later)[0]
    rows, columns = (xp.asarray(reflect(np.arange(begin, begin + n), n)) for n in plane.shape)
    return with_margins(xp, plane[rows[:, None], columns][None])[0]


# --- of 16 bits -----------------------------------------------------------------------------------
def has_halves() -> bool:
    """Return whether vector code reads and writes half precision here."""
    return importlib.import_module("shiftsearch.backends.cpu.simd").has_halves()


def parted(noisy: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return planes as two of 16 bits, the guide and the rest, which together are as good as they are."""
    whole, rest = (zeros_with_margins(np, noisy.shape, kind) for kind in (np.int16, np.float16))
    _code().part(*(with_margins(np, planes).base for planes in (noisy, guide)), whole.base, rest.base)
    return whole, rest


def joined(*parts: np.ndarray) -> np.ndarray:
    """Return the sum of such parts."""
    planes = zeros_with_margins(np, parts[0].shape)
    _code().join([part.base for part in parts], planes.base)
    return planes


def _code() -> Any:
    return importlib.import_module("shiftsearch.video.denoise.halves")  # loads numba


# --- mirrored -------------------------------------------------------------------------------------
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
