"""Tiles of a frame: a large frame is computed piece by piece, with the same result in less memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from shiftsearch.video.align.spec import AlignSpec

_SMALLEST = 64  # pixels per side; a tile is made no smaller, even if it needs more than the limit of memory


class Box(NamedTuple):
    """Rows top to bottom and columns left to right of a frame."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def of(self) -> tuple[Any, slice, slice]:
        """The index of these pixels in an array (..., H, W)."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def area(self) -> int:
        """The number of pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def within(self, box: Box) -> Box:
        """Return the same pixels, counted from the corner of another box."""
        return Box(self.top - box.top, self.bottom - box.top, self.left - box.left, self.right - box.left)

    def grown(self, by: int, size: tuple[int, int]) -> Box:
        """Return the box with a margin, in a frame of `size`. It begins and ends at multiples of 8.

        The search takes 8 pixels at a time: so it rounds the same in a tile as in the whole frame.
        """
        top, left = (max(0, (n - by) // 8 * 8) for n in (self.top, self.left))
        bottom, right = (min(n, -(-(m + by) // 8) * 8) for n, m in zip(size, (self.bottom, self.right), strict=True))
        return Box(top, bottom, left, right)

    def joined(self, other: Box) -> Box:
        """Return the smallest box around both."""
        return Box(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def halves(self) -> tuple[Box, Box]:
        """Return the two halves along the longer side, cut at a multiple of 8."""
        if self.bottom - self.top >= self.right - self.left:
            middle = (self.top + self.bottom) // 16 * 8
            return self._replace(bottom=middle), self._replace(top=middle)
        middle = (self.left + self.right) // 16 * 8
        return self._replace(right=middle), self._replace(left=middle)


def tiles(spec: AlignSpec, xp: Any, flow: Any, held: int, keep: Box) -> Iterator[tuple[Box, Box]]:
    """Yield tiles that cover `keep`, each with the box of all pixels that its result depends on.

    The pixels of a tile are means over the patches of queries around them. Their windows lie where the flow leads, and
    decide which part of the target is read. Of each pixel about so many numbers are `held`.
    """
    size = flow.shape[-2:]
    whole, queries = Box(0, size[0], 0, size[1]), keep.grown(spec.patch, size)
    margin = spec.window + spec.patch + 2  # a window may slide by its size; interpolation reads two more
    box = queries.grown(spec.patch, size)
    if box != whole:  # else nothing is beyond it, and a GPU need not wait for where flow leads
        box = box.joined(_reached(xp, flow, queries).grown(margin, size))
    longest = max(keep.bottom - keep.top, keep.right - keep.left)
    if box.area * 4 * held <= float(spec.max_memory) or longest <= _SMALLEST:
        yield keep, box
        return
    for half in keep.halves():
        yield from tiles(spec, xp, flow, held, half)


def _reached(xp: Any, flow: Any, queries: Box) -> Box:
    """Return pixels with all those that the flow leads these queries to, mirrored into the frame."""
    found: list[Any] = []
    for axis, first, last in ((1, *queries[:2]), (0, *queries[2:])):
        at = xp.arange(first, last, dtype="float64")
        at = flow[axis][queries.of] + (at[:, None] if axis else at)
        found += [at.min(), at.max()]
    ends = xp.stack(found).reshape(2, 2).tolist()  # a GPU is waited for once
    (top, bottom), (left, right) = (
        _mirrored(low, high, n) for (low, high), n in zip(ends, flow.shape[1:], strict=True)
    )
    return Box(top, bottom, left, right)


def _mirrored(low: float, high: float, n: int) -> tuple[int, int]:
    """Return the first of n pixels that the mirror images of a range may lie at, and the end."""
    last = n - 1
    if low < -last or high > 2 * last:
        return 0, n
    first = 0 if low < 0 else min(low, last, 2 * last - high)
    return math.floor(first), n if high > last else math.ceil(max(high, -low)) + 1
