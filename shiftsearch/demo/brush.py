"""A brush that fills shapes. A shape is the distance of each sample from its edge, in pixels, below 0 inside."""

from __future__ import annotations

import numpy as np

_TABLE = np.random.default_rng(1).random((64, 64), np.float32)


class Brush:
    """What is painted in one place of the picture: colours from 0 to 1, and how far they cover what is behind."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = np.broadcast_arrays(x, y)
        self.colour = np.zeros((*self.x.shape, 3), np.float32)
        self.cover = np.zeros(self.x.shape, np.float32)

    def fill(self, shape: np.ndarray | float, colour: np.ndarray | str, opacity: np.ndarray | float = 1.0) -> None:
        """Paint a shape in a colour, one for all samples (such as "#ff8000") or one for each."""
        cover = np.clip(0.5 - np.asarray(shape, np.float32), 0, 1) * opacity
        colour = rgb(colour) if isinstance(colour, str) else colour
        self.colour += cover[..., None] * (colour - self.colour)
        self.cover += cover * (1 - self.cover)

    def over(self, behind: np.ndarray, part: tuple[slice, ...]) -> np.ndarray:
        """Return what is seen of a part with something behind."""
        return self.colour[part] + (1 - self.cover[part][..., None]) * behind

    # --- shapes -------------------------------------------------------------------------------
    def disc(self, x: float, y: float, radius: float, flat: float = 1.0) -> np.ndarray:
        """Return a disc, or with `flat` other than 1 one as high as that times its width."""
        return np.hypot(self.x - x, (self.y - y) / flat) - radius

    def polygon(self, *corners: tuple[float, float]) -> np.ndarray:
        """Return a convex polygon, whose corners go around clockwise."""
        sides = zip(corners, corners[1:] + corners[:1], strict=True)
        return np.max([self._beside(*side) for side in sides], axis=0)

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        return np.maximum(np.maximum(left - self.x, self.x - right), np.maximum(top - self.y, self.y - bottom))

    def line(self, start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
        """Return a line with round ends."""
        (x, y), along = start, np.subtract(end, start)
        share = ((self.x - x) * along[0] + (self.y - y) * along[1]) / max(along @ along, 1e-9)
        share = np.clip(share, 0, 1)
        return np.hypot(self.x - x - share * along[0], self.y - y - share * along[1]) - width / 2

    def _beside(self, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
        (x, y), (dx, dy) = start, np.subtract(end, start)
        return ((self.x - x) * dy - (self.y - y) * dx) / np.hypot(dx, dy)

    # --- textures -----------------------------------------------------------------------------
    def grain(self, across: float, down: float, octaves: int = 3) -> np.ndarray:
        """Return a random texture from 0 to 1 with spots of these sizes, and smaller ones in them."""
        return grain(self.x / across, self.y / down, octaves)

    def mix(self, one: np.ndarray | str, other: np.ndarray | str, share: np.ndarray) -> np.ndarray:
        """Return colours between two."""
        one, other = (rgb(c) if isinstance(c, str) else c for c in (one, other))
        return one + np.clip(share, 0, 1)[..., None] * (other - one)


def rgb(name: str) -> np.ndarray:
    """Return the colour "#rrggbb"."""
    return np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def grain(x: np.ndarray, y: np.ndarray, octaves: int = 3) -> np.ndarray:
    """Return smooth random numbers from 0 to 1: between lattice points for each octave, half as many of half the size."""
    total, most = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32), 0.0
    for octave in range(octaves):
        size = 0.5**octave
        total += size * _between(x / size + 17 * octave, y / size + 29 * octave)
        most += size
    return total / most


def _between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = (f * f * (3 - 2 * f) for f in (x - left, y - top))
    corners = [[_TABLE[(top + j) % 64, (left + i) % 64] for i in (0, 1)] for j in (0, 1)]
    upper, lower = (a + right * (b - a) for a, b in corners)
    return upper + down * (lower - upper)
