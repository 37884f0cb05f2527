"""Frames warped onto another frame: flow leads there roughly, a search around it finds the place.

Under noise, a search also finds what only noise makes look alike. Two terms keep it where the flow leads unless leaving
pays, both in units of what noise of standard deviation sigma does to a comparison of the N = channels * patch**2 values
of two patches:

    1. a candidate o pixels from where the flow leads ranks by its distance + penalty * N * sigma**2 * |o|**2
    2. the best candidate is taken if its distance is smaller than that of the flow's own place by
       4 * sigma**2 * (2 * N)**0.5, which is twice the standard deviation that the distance of equal patches has

Without noise both are 0.
"""

from shiftsearch.video.align.clips import align, align_clip
from shiftsearch.video.align.streams import align_planes, align_stream

__all__ = ["align", "align_clip", "align_planes", "align_stream"]
