"""Changes of light: the gain and the offset that bring the brightness of one frame to that of the next."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

RANGE = 0.25, 4.0  # gains beyond these are another scene, or nothing that could be filtered together
_ENDS = 0.03  # of white: so close to black and to white, values may have been clipped
_TINY = 1e-12  # avoids divisions by 0 where all is flat
_LEAST = 4  # values that a line is fitted to
_ROUNDS = 3  # of a fit without its outliers
_FAR = 2.5  # median distances from the line: outliers lie beyond


class Light(NamedTuple):
    """The brightness of a frame as that of another one: `gain` times it, plus an offset for each plane."""

    gain: float
    offsets: tuple[float, ...]

    def then(self, other: Light) -> Light:
        """Return both changes, one after the other."""
        offsets = (other.gain * mine + its for mine, its in zip(self.offsets, other.offsets, strict=True))
        return Light(self.gain * other.gain, tuple(offsets))

    def undone(self) -> Light:
        """Return the change back."""
        return Light(1 / self.gain, tuple(-offset / self.gain for offset in self.offsets))


def same(planes: int) -> Light:
    """Return the light that changes nothing."""
    return Light(1.0, (0.0,) * planes)


def of_quantiles(before: list[float], after: list[float]) -> Light:
    """Return the light that brings values with these quantiles, on the scale 0..1, to values with those.

    It does not need to know what moved where, but takes new things in a frame for new light.
    """
    a, b = np.array(before), np.array(after)
    inside = (a > _ENDS) & (a < 1 - _ENDS) & (b > _ENDS) & (b < 1 - _ENDS)
    if inside.sum() < _LEAST:
        inside[:] = True
    return _line(a[inside], b[inside])


def of_places(before: np.ndarray, after: np.ndarray) -> Light:
    """Return the light that brings values (C, n) to values of the same places, most of which show the same thing.

    All planes have one gain; each has its own offset.
    """
    kept = np.ones(before.shape[1], bool)
    light = same(len(before))
    for _ in range(_ROUNDS):
        gain = _gain(*(planes[:, kept] for planes in (before, after)))
        rest = after - gain * before
        light = Light(gain, tuple(float(offset) for offset in np.median(rest[:, kept], axis=1)))
        distance = np.sqrt(((rest.T - light.offsets) ** 2).sum(1))
        kept = distance <= _FAR * np.median(distance) + 1e-12
    return light


def _line(a: np.ndarray, b: np.ndarray) -> Light:
    """Return the line through points."""
    gain = _gain(a[None], b[None])
    return Light(gain, (float(b.mean() - gain * a.mean()),))


def _gain(a: np.ndarray, b: np.ndarray) -> float:
    """Return the tilt of lines through points of planes (C, n) that have errors in both coordinates."""
    a, b = (planes - planes.mean(1, keepdims=True) for planes in (a, b))
    tilt = float((b * b).sum() - (a * a).sum()) / (2 * max(float((a * b).sum()), _TINY))
    return min(max(tilt + math.hypot(tilt, 1), RANGE[0]), RANGE[1])
