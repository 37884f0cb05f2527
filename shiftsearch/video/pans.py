"""Pans: one shift of most of a frame, however long, by which two frames are compared where they overlap."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

from shiftsearch.video.frames import halved

Shift = tuple[int, int]  # dx, dy in pixels: what a frame has at x is at x + dx in the next one

_OVERLAP = 0.5  # share of a frame that two must have in common
_SIDE = 48  # pixels of the shorter side, at most, where all shifts are tried
_QUICK = 32  # the sizes of Fourier transforms are multiples of it, which have small factors
_TINY = 1e-12  # of the square of white: less contrast is none


def shift_between(a: np.ndarray, b: np.ndarray) -> Shift:
    """Return the shift that brings most of plane `a` (H, W) to `b`.

    It is where the overlap correlates best, whatever its light: of all shifts between smaller planes, and then, as these
    grow, of those beside it.
    """
    if min(a.shape) > _SIDE:
        dx, dy = shift_between(*(halved(np, halved(np, plane[None], 1), 2)[0] for plane in (a, b)))
        return _climbed(a, b, (2 * dx, 2 * dy))
    correlation = _correlations(a, b)
    rows, columns = (np.fft.fftfreq(n, 1 / n) for n in correlation.shape)
    y, x = np.unravel_index(correlation.argmax(), correlation.shape)
    return int(columns[x]), int(rows[y])


def overlap(a: np.ndarray, b: np.ndarray, shift: Shift) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of two planes (H, W) that show the same after a shift."""
    (height, width), (dx, dy) = a.shape, shift
    first = a[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    return first, b[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]


def shifted(plane: np.ndarray, shift: Shift) -> np.ndarray:
    """Return a plane (H, W) shifted back, whose border is repeated where it ends."""
    rows, columns = (np.clip(np.arange(n) + by, 0, n - 1) for n, by in zip(plane.shape, shift[::-1], strict=True))
    return plane[rows[:, None], columns]


def _climbed(a: np.ndarray, b: np.ndarray, shift: Shift) -> Shift:
    """Return the shift near this one that correlates better than those beside it."""
    a, b = (plane - plane.mean(dtype=np.float64).astype(plane.dtype) for plane in (a, b))

    @cache
    def of(shift: Shift) -> float:
        return _correlation(a, b, shift)

    while True:
        beside = [(shift[0] + x, shift[1] + y) for x, y in product((-1, 0, 1), repeat=2)]
        better, found = max((of(each), each) for each in beside)
        if better <= of(shift):
            return shift
        shift = found


def _correlation(a: np.ndarray, b: np.ndarray, shift: Shift) -> float:
    """Return the correlation of two planes, whose means are about 0, after a shift."""
    (height, width), (dx, dy) = a.shape, shift
    if max(0, height - abs(dy)) * max(0, width - abs(dx)) < _OVERLAP * height * width:
        return -np.inf
    first, second = overlap(a, b, shift)
    mean_a, mean_b = (float(np.einsum("ij->", part)) / first.size for part in (first, second))
    of_a, both, of_b = (
        float(np.einsum("ij,ij->", x, y)) / first.size for x, y in ((first, first), (first, second), (second, second))
    )
    spread = (of_a - mean_a**2) * (of_b - mean_b**2)
    return (both - mean_a * mean_b) / spread**0.5 if spread > _TINY**2 else 0.0


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the correlation after each shift, a negative one as an index from the end."""
    size = [-(-2 * n // _QUICK) * _QUICK for n in a.shape]
    parts = np.ones(a.shape), a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    one, first, second, first_squares, second_squares = (
        np.fft.rfft2(part, size) for part in (*parts, *(part**2 for part in parts[1:]))
    )

    def products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(x.conj() * y, size)

    count = np.maximum(products(one, one), 1)
    mean_a, mean_b = products(first, one) / count, products(one, second) / count
    spread = (products(first_squares, one) / count - mean_a**2) * (products(one, second_squares) / count - mean_b**2)
    found = (products(first, second) / count - mean_a * mean_b) / np.sqrt(np.maximum(spread, _TINY**2))
    return np.where(count >= _OVERLAP * a.size - 0.5, np.where(spread > _TINY**2, found, 0), -np.inf)
