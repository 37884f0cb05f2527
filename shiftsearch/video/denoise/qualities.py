"""The passes of each quality."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from shiftsearch.video.denoise.groups import of_all_frames, of_each_frame
from shiftsearch.video.denoise.passes import Pass
from shiftsearch.video.denoise.shrink import principal, threshold, wiener

# The less noise there is, the more of what patches of the same thing differ by is motion that was not found exactly. If
# there is hardly any, what is found may be that alone.
_LITTLE = (0.004, 0.01, 0.02, 0.04), (1.0, 1.1, 1.1, 1.0)
_FAST = (
    Pass(partial(threshold, factor=2.85), of_each_frame, window=3, guided=False, worst=3.5, times=_LITTLE),
    Pass(
        partial(wiener, share=0.8), of_each_frame, window=5, guided=True, worst=4.0, close=0.25, begin=2, times=_LITTLE
    ),
)
_EVEN = (0.1, 0.2), (1.0, 0.96)  # among much noise, components of groups are worth more than they seem
_FIRST = Pass(
    partial(principal, least=2.7, gain=lambda v: 1 - 1 / v),
    of_all_frames,
    window=11,
    guided=False,
    searched=False,
    count=50,
    patch=6,
    stride=3,
    times=_EVEN,
)
_BAYES = partial(principal, least=1.5, gain=lambda v: v / (v + 1))
_LAST = Pass(_BAYES, of_all_frames, window=11, guided=True, count=64, patch=16, stride=8, alike=1.5, times=_EVEN)
_HIGH = (*_FAST, _FIRST, replace(_LAST, beside=replace(_LAST, shrink=partial(_BAYES, depth=2), depth=2, worst=0.2)))

PASSES: dict[str, tuple[Pass, ...]] = {"preview": _FAST[:1], "fast": _FAST, "high": _HIGH}
RADII = {"preview": 2, "fast": 3, "high": 6}  # frames each way, unless the caller chooses
TEMPORAL = "fast"  # the quality whose groups have one patch of each frame


def passes_of(quality: str, temporal_only: bool) -> tuple[Pass, ...]:
    """Return the passes of a quality; `temporal_only` filters no pixel together with others of its frame."""
    return tuple(replace(pass_, temporal=temporal_only) for pass_ in PASSES[quality])
