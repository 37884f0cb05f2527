"""The standard deviation of the noise of frames: estimated, or given by the caller."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.frames import WHITE

_OF_DIFFERENCES = 70  # standard deviation of fourth differences along both axes, in that of white noise
_ENOUGH = 1 << 17  # pixels, of larger frames some rows
_HALF = 0.6745  # half of a normal distribution lies within this number of standard deviations
_SQUARE = 32  # pixels a side of squares, which are compared
_FLATTEST = 0.1  # of the squares: these show noise alone, and elsewhere there is texture
_CHANCE = 0.92  # of the noise is what so few of the squares show of noise that is the same in all of them
_CLIPPED = 3  # standard deviations from black and white, within which noise is cut off
_ENOUGH_SQUARES = 0.1  # of all


def noise_level(xp: Any, planes: Any) -> float:
    """Estimate the standard deviation of the white noise of planes (C, H, W).

    It follows from the median of their fourth differences along both axes. These remove smooth content, as the finest
    wavelets do, but more of it. On real clips, noise of 5, 10 and 20 of 255 is estimated with errors of 5, 1 and 2 %.
    Those of `skimage.restoration.estimate_sigma` are 11, 3 and 2 %.
    """
    if min(planes.shape[1:]) < 5:
        return 0.0
    return _standard(xp.median(xp.abs(_differences(planes))))


def flattest_level(xp: Any, plane: Any, level: float, white: float) -> float:
    """Return how much of the noise of this `level` the flattest parts of a plane (H, W) show: the rest may be texture.

    Parts that are nearly black or white do not count, as noise is cut off there.
    """
    if min(plane.shape) < 5:
        return level
    fine = _squares(xp.abs(_differences(plane[None])[0]))
    means = _squares(plane[2 : len(plane) - 2 : _step(plane), 2:-2]).mean(1)
    apart = xp.minimum(means, abs(means - white)) > _CLIPPED * level
    if apart.mean() < _ENOUGH_SQUARES:
        return level
    return min(level, _standard(xp.quantile(xp.median(fine, axis=1)[apart], _FLATTEST)) / _CHANCE)


def _differences(planes: Any) -> Any:
    """Return the fourth differences along both axes of some rows of planes (C, H, W)."""
    step = _step(planes)
    for _ in range(2):
        a, b, c, d, e = (planes[:, n : planes.shape[1] - 4 + n : step] for n in range(5))
        step = 1
        planes = (a - 4 * b + 6 * c - 4 * d + e).swapaxes(1, 2)
    return planes


def _step(planes: Any) -> int:
    """Return that each so many rows are enough."""
    return int(1 + planes.size // _ENOUGH)


def _standard(median: Any) -> float:
    """Return the standard deviation of the noise whose fourth differences have this median size."""
    level = float(median) / (_OF_DIFFERENCES * _HALF)
    return min(level, 1e6) if np.isfinite(level) else 0.0


def _squares(plane: Any) -> Any:
    """Return the pixels of the squares of a plane, (squares, pixels)."""
    h, w = (min(_SQUARE, n) for n in plane.shape)
    down, across = plane.shape[0] // h, plane.shape[1] // w
    whole = plane[: down * h, : across * w].reshape(down, h, across, w)
    return whole.swapaxes(1, 2).reshape(down * across, h * w)


def noise_scale(op: str, sigma: Any, frames: Any, white: float | None = None) -> float:
    """Return `sigma` on the scale 0..1. White is 255 for frames of integers of any depth, and `white` or 1 for floats."""
    fits = isinstance(sigma, (int, float, np.number)) and not isinstance(sigma, bool) and 0 <= sigma <= 1e6
    if not fits:
        raise ShiftsearchError(f"{op}: sigma is {sigma!r}, expected a number from 0 to 1e6, or None")
    kind = str(getattr(frames, "dtype", "")).rpartition(".")[2]
    top = 255 if kind in WHITE else white or 1
    if kind and sigma > top:
        cure = ""
        if kind not in WHITE and white is None:
            cure = f": sigma={sigma:g} / 255 for floats from 0 to 1"
            cure += f", {'frames / 255' if op.startswith('flow.') else 'white=255'} for floats from 0 to 255"
        raise ShiftsearchError(f"{op}: sigma is {sigma:g}, expected at most {top:g}, which is white{cure}")
    return float(sigma) / top
