"""What goes through the passes of the denoiser, and what a pass is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Frame:
    """A frame on its way through the passes. Planes are (C, H, W)."""

    def __init__(
        self, noisy: Any, sigma: Sequence[float], mix: Sequence[float] = (1,), white: float = 1.0, kept: Any = None
    ):
        self.noisy, self.sigma = noisy, sigma  # the standard deviation of each plane's noise
        self.mix = mix  # weights of the planes in what is searched, or 1 for the first plane alone
        self.white = white  # in the first plane
        self.kept = kept  # planes that are not denoised
        self.guide: Any = None  # the result of the pass before
        self.searched = self.mixed(noisy)  # where patches are compared
        self.level = math.hypot(*(m * s for m, s in zip(mix, sigma, strict=False)))  # of the noise there
        self.forward: Any = None  # flow to the next frame
        self.backward: Any = None  # and to the one before
        self.ways: dict = {}  # flow from its queries to other frames, kept for the next pass
        self.sums: Any = None
        self.coverage: Any = None
        self.small: Any = None

    def mixed(self, planes: Any) -> Any:
        """Return the plane to search in."""
        return planes[0] if len(self.mix) == 1 else sum(m * plane for m, plane in zip(self.mix, planes, strict=True))


@dataclass(frozen=True)
class Pass:
    """How groups are found and how they are filtered."""

    shrink: Callable[..., tuple[Any, Any]]  # (xp, noisy, guide, sigma) of groups to estimates and weights, see `shrink`
    find: Callable[..., Any]  # (xp, frames, here, this) to offsets (n, h, w, 3) of groups of n patches, see `groups`
    window: int
    guided: bool  # whether the filter uses the guide, or only the search does
    worst: float = math.inf  # mean square difference of patches of the same thing, in variances of noise, at most
    searched: bool = True  # whether the next pass searches in the result of this one
    count: int = 0  # patches of a group, if that is not the number of frames
    patch: int = 8
    stride: int = 4
    depth: int = 1  # frames that a patch spans, where they show the same thing at the same place
    beside: Pass | None = None  # filters other groups of the same frames; the results of both are added up
