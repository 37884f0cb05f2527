"""Samples of YUV in files, and their conversion to colours and back.

Planes are (Y, U, V): Y has a sample for each pixel, U and V may be coarser. Samples of 8 bits are uint8, in which
black is 16 and white is 235 if the range is limited. Samples of n > 8 bits are uint16, multiplied by 2 ** (16 - n):
black and white then lie at 256 times their values of 8 bits, whatever n is. Colours are three planes (R, G, B) of
floats, with black at 0 and white at 1.

The way there and back is exact as long as no colour lies outside of 0..1. This holds for colours of 8 bits from samples
of 8 bits, too: rounding R, G and B moves Y, U and V by at most half a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_SIZES = {(1, 1): "444", (1, 2): "422", (2, 2): "420", (2, 1): "440", (1, 4): "411", (4, 4): "410"}


@dataclass(frozen=True)
class Form:
    """The meaning of the samples of a file."""

    bits: int
    down: int  # rows and columns of Y for one of U and V
    across: int
    red: float  # the weights of R and B in Y
    blue: float
    full: bool  # whether black is 0 and white the largest number

    @classmethod
    def of(cls, bits: int, down: int, across: int, matrix: int, full: bool) -> Form:
        """Return the form for FFmpeg's number of a matrix: BT.601 if it is not specified, or is not of this kind."""
        return cls(bits, down, across, *_WEIGHTS.get(matrix, (0.299, 0.114)), full)

    @property
    def name(self) -> str:
        """FFmpeg's name of the pixel format with three planes."""
        return f"yuv{_SIZES[self.down, self.across]}p{f'{self.bits}le' if self.bits > 8 else ''}"

    def kinds(self, size: Sequence[int]) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shapes and dtypes of the planes of a frame of this size."""
        kind = np.dtype(np.uint8 if self.bits == 8 else np.uint16)
        coarse = -(-size[0] // self.down), -(-size[1] // self.across)
        return [(tuple(size), kind), (coarse, kind), (coarse, kind)]

    def colours(self, planes: Sequence[Any]) -> list[np.ndarray]:
        """Return the colours of planes as three planes (H, W) of floats, not clipped. U and V are repeated."""
        (black, white), (grey, span) = self._scales()
        height, width = planes[0].shape
        y, u, v = (plane.astype(np.float32) for plane in planes)
        y = (y - black) / (white - black)
        u, v = ((chroma - grey) / span for chroma in (u, v))
        of_v, of_u = 2 * (1 - self.red), 2 * (1 - self.blue)
        green = 1 - self.red - self.blue
        parts = of_v * v, -(self.red * of_v / green) * v - (self.blue * of_u / green) * u, of_u * u
        return [y + self._finer(part)[:height, :width] for part in parts]

    def planes(self, colours: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the planes of colours as floats, which `samples` rounds. U and V are means over their pixels."""
        (black, white), (grey, span) = self._scales()
        red, green, blue = colours
        y = self.red * red + (1 - self.red - self.blue) * green + self.blue * blue
        u, v = (self._coarser((c - y) / (2 * (1 - w))) for c, w in ((blue, self.blue), (red, self.red)))
        return black + (white - black) * y, grey + span * u, grey + span * v

    def plane(self, samples: np.ndarray) -> np.ndarray:
        """Return a plane from the samples of a file."""
        return samples if self.bits == 8 else samples.astype(np.uint16) << np.uint16(16 - self.bits)

    def samples(self, plane: np.ndarray) -> np.ndarray:
        """Return the samples of a plane for a file, rounded to the nearest."""
        if plane.dtype == np.uint8:
            return plane
        kind, step = (np.uint8, 1) if self.bits == 8 else (np.uint16, 1 << 16 - self.bits)
        steps = plane / np.float32(step)
        return np.clip(np.rint(steps, out=steps), 0, (1 << self.bits) - 1, out=steps).astype(kind)

    def _scales(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (black, white) of Y, and (the middle, the span) of U and V."""
        unit, step = (1, 1) if self.bits == 8 else (256, 1 << 16 - self.bits)
        if self.full:
            return (0, 256 * unit - step), (128 * unit, 256 * unit - step)
        return (16 * unit, 235 * unit), (128 * unit, 224 * unit)

    def _finer(self, plane: np.ndarray) -> np.ndarray:
        return plane.repeat(self.down, 0).repeat(self.across, 1)

    def _coarser(self, plane: np.ndarray) -> np.ndarray:
        """Return means over the pixels of each coarser one; there may be fewer at the ends of rows and columns."""
        for axis, each in ((0, self.down), (1, self.across)):
            if each == 1:
                continue
            plane = plane.swapaxes(0, axis)
            sums, counts = plane[::each].copy(), np.ones(-(-len(plane) // each), plane.dtype)
            for part in (plane[n::each] for n in range(1, each)):
                sums[: len(part)] += part
                counts[: len(part)] += 1
            plane = (sums / counts[:, None]).swapaxes(0, axis)
        return plane
