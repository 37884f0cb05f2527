"""The passes of the denoiser, and the frames that they work on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from shiftsearch._geometry import query_grid
from shiftsearch.video.denoise.margins import begun_later, has_halves, joined, parted, weighed
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.light import Light

_TINY = 1e-30
_LARGE = 2.0  # whole numbers of 16 bits reach so far


class Frame:
    """A frame and what the passes compute of it. Planes are (C, H, W)."""

    shape: tuple[int, ...]
    noise: Noise
    unknown: Sequence[bool]  # whether the noise of each plane has yet to be found along the motion
    weights: Sequence[float]  # of the planes in the plane that is searched, or 1 for the first plane alone
    strength: Sequence[float]  # of each plane: so many times the noise is removed
    white: float  # in the first plane
    alpha: Any  # planes that are not denoised
    parts: tuple[Any, Any] | None = (
        None  # the guide, and what is left of `noisy` without it, in 16 bits, in their place
    )
    searched: Any  # (H, W), where patches are compared
    views: dict[int, Any]  # that plane from other corners on, kept for one pass
    forward: Any = None  # flow to the next frame
    backward: Any = None  # flow to the one before
    noisier: float = 1.0  # its noise, in that of the frames that it is seen with: light makes noise stronger and weaker
    light: Light | None = None  # what brings the frame before to the brightness of this one; None for no change
    ways: dict[tuple[int, int, int], dict[int, Any]]  # flow from the queries to other frames, kept for the next pass
    sums: Any = None  # of the noise that is removed, times weights
    coverage: Any = None  # sum of weights, at each pixel
    weighed: Any = None  # or sum of weights of the patches that begin there, see `direct`
    _noisy: Any
    _guide: Any = None
    _relative: dict[tuple[int, ...], Any]  # kept for all bands
    small: Any = None  # a smaller plane, on which motion is measured

    def __init__(
        self,
        noisy: Any,
        noise: Noise,
        unknown: Sequence[bool],
        weights: Sequence[float] = (1,),
        white: float = 1.0,
        alpha: Any = None,
    ):
        self.noisy, self.shape, self.noise, self.unknown = noisy, noisy.shape, noise, unknown
        self.weights, self.white, self.alpha = weights, white, alpha
        self.strength = (1.0,) * len(noisy)
        self.searched = self.compared(noisy)
        self.views, self.ways, self._relative = {}, {}, {}

    @property
    def noisy(self) -> Any:
        """The planes as they came."""
        return joined(*self.parts) if self.parts else self._noisy

    @noisy.setter
    def noisy(self, planes: Any) -> None:
        self._noisy = planes

    @property
    def guide(self) -> Any:
        """The result of the pass before."""
        return joined(self.parts[0]) if self.parts else self._guide

    @guide.setter
    def guide(self, planes: Any) -> None:
        self._guide = planes

    def narrow(self, begin: int) -> None:
        """Hold planes in 16 bits, unless they have numbers beyond, for a pass that searches from `begin` on."""
        noisy = self._noisy
        if has_halves() and noisy.min() > -_LARGE and noisy.max() < _LARGE:
            self.seen_from(np, begin)
            self.parts = parted(noisy, self._guide)
            self._noisy = self._guide = self.searched = None

    @property
    def level(self) -> float:
        """Standard deviation of the noise in the plane that is searched."""
        return math.hypot(*(m * s for m, s in zip(self.weights, self.noise.sigma, strict=False)))

    def relative(self, xp: Any, plane: int, pass_: Pass) -> Any | None:
        """Return the relative strength of a plane's noise in each patch of a pass, (h, w), or None if it is 1."""
        key = plane, pass_.patch, pass_.stride, pass_.begin
        if key not in self._relative:  # what is put there is whole: threads share a frame
            self._relative[key] = self._of_noise(xp, plane, pass_)
        return self._relative[key]

    def _of_noise(self, xp: Any, plane: int, pass_: Pass) -> Any | None:
        noise = self.noise
        if noise.map is not None:
            return of_patches(xp, xp.asarray(noise.map), pass_).astype(np.float32)
        if noise.strengths[plane] is None:
            return None
        means = of_patches(xp, self.noisy[0], pass_)
        return xp.interp(means, *map(xp.asarray, (noise.shades, noise.strengths[plane]))).astype(np.float32)

    def compared(self, planes: Any) -> Any:
        """Return the plane to search in."""
        if len(self.weights) == 1:
            return planes[0]
        return weighed(planes, self.weights)

    def seen_from(self, xp: Any, begin: int) -> Any:
        """Return the plane to search in from row and column `begin` on, mirrored behind its end to the same size."""
        if begin not in self.views:
            self.views[begin] = begun_later(xp, self.searched, begin) if begin else self.searched
        return self.views[begin]

    def lit(self, light: Light) -> Frame:
        """Return this frame in other light."""
        seen, (gain, offsets) = copy(self), light
        searched = self.compared(self.guide) if self.searched is None else self.searched
        seen.parts = None
        seen.noisy, seen.guide = (_lit(planes, gain, offsets) for planes in (self.noisy, self.guide))
        seen.searched = gain * searched + self.compared(offsets)
        seen.noise, seen._relative, seen.views = self.noise.scaled(gain, offsets[0]), {}, {}
        return seen


def of_patches(xp: Any, plane: Any, pass_: Pass) -> Any:
    """Return the means (h, w) of the patches of a pass, of what lies in the frame."""
    for _ in range(2):
        count = len(plane)
        sums = xp.concatenate([xp.zeros_like(plane[:1], np.float64), xp.cumsum(plane, 0, np.float64)])
        first = xp.arange(query_grid(count, count, pass_.stride)[0]) * pass_.stride + pass_.begin - pass_.patch // 2
        last = xp.minimum(first + pass_.patch, count)
        first = xp.maximum(first, 0)
        plane = ((sums[last] - sums[first]) / (last - first)[:, None]).T
    return plane


def _lit(planes: Any, gain: float, offsets: Sequence[float]) -> Any:
    lit = None if planes is None else gain * planes
    if lit is not None:
        for plane, offset in zip(lit, offsets, strict=True):
            plane += offset
    return lit


@dataclass(frozen=True)
class Pass:
    """How groups are found and how they are filtered."""

    shrink: Callable[..., tuple[Any, Any]]  # of groups to their noise and weights, see `shrink`
    find: Callable[..., Any]  # (xp, frames, here, this) to offsets (h, w, n, 3) of groups of n patches, see `groups`
    window: int
    guided: bool  # whether the filter uses the guide, or only the search does
    worst: float = math.inf  # largest mean square difference of patches of the same thing, in variances of the noise
    close: float = math.inf  # up to this difference, patches of other frames are not set against those of this one
    alike: float = 0.0  # square difference of patches that are as good, in that of guide and searched plane
    searched: bool = True  # whether the next pass searches in the result of this one
    count: int = 0  # patches of a group, 0 for the number of frames
    patch: int = 8
    stride: int = 4
    begin: int = 0  # row and column of the first query: patches of one pass lie across the edges of another's
    depth: int = 1  # frames that a patch spans, where they show the same thing at the same place
    temporal: bool = False  # the patches of a group differ in their frames alone, and only what differs is filtered
    beside: Pass | None = None  # filters other groups of the same frames; the results of both are added up
    times: tuple[tuple[float, ...], tuple[float, ...]] = (1.0,), (1.0,)  # noise of white, and how many times it counts

    def times_noise(self, frame: Frame) -> float:
        """Return how many times the noise of a frame counts."""
        levels, times = self.times
        return float(np.interp(np.log(max(frame.noise.sigma[0] / frame.white, _TINY)), np.log(levels), times))
