"""The passes of the denoiser, and the frames that they work on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Frame:
    """A frame and what the passes compute of it. Planes are (C, H, W)."""

    noisy: Any
    sigma: Sequence[float]  # standard deviation of each plane's noise
    mix: Sequence[float]  # weights of the planes in the plane that is searched, or 1 for the first plane alone
    white: float  # in the first plane
    alpha: Any  # planes that are not denoised
    guide: Any = None  # the result of the pass before
    searched: Any  # (H, W), where patches are compared
    level: float  # standard deviation of the noise there
    forward: Any = None  # flow to the next frame
    backward: Any = None  # flow to the one before
    ways: dict[tuple[int, int, int], dict[int, Any]]  # flow from the queries to other frames, kept for the next pass
    sums: Any = None  # of estimates times weights
    coverage: Any = None  # sum of weights
    small: Any = None  # a smaller plane, on which motion is measured

    def __init__(
        self, noisy: Any, sigma: Sequence[float], mix: Sequence[float] = (1,), white: float = 1.0, alpha: Any = None
    ):
        self.noisy, self.sigma, self.mix, self.white, self.alpha = noisy, sigma, mix, white, alpha
        self.searched = self.mixed(noisy)
        self.level = math.hypot(*(m * s for m, s in zip(mix, sigma, strict=False)))
        self.ways = {}

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
    worst: float = math.inf  # largest mean square difference of patches of the same thing, in variances of the noise
    searched: bool = True  # whether the next pass searches in the result of this one
    count: int = 0  # patches of a group, 0 for the number of frames
    patch: int = 8
    stride: int = 4
    depth: int = 1  # frames that a patch spans, where they show the same thing at the same place
    beside: Pass | None = None  # filters other groups of the same frames; the results of both are added up
