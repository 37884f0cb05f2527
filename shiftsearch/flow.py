"""Optical flow: measured, converted, checked and drawn, all in one convention.

A flow is an array (2, H, W), or (T, 2, H, W) for clips, in pixels. Channel 0 is dx (to the right), channel 1 is dy
(down), and it leads from the reference to the target:

    reference[y, x] ~ target[y + dy, x + dx]

Every function that searches around a flow also takes a coarser one, (2, h, w), see `coarse`.
"""

from shiftsearch.video.flow.check import Check, check, consistency
from shiftsearch.video.flow.color import to_color
from shiftsearch.video.flow.convert import coarse, from_raft, from_skimage
from shiftsearch.video.flow.measure import auto, dis, farneback, match, none, pair

__all__ = [
    "Check",
    "auto",
    "check",
    "coarse",
    "consistency",
    "dis",
    "farneback",
    "from_raft",
    "from_skimage",
    "match",
    "none",
    "pair",
    "to_color",
]
