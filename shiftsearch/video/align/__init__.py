"""Frames warped onto another frame: a search around where the flow leads finds the exact places.

In noisy frames a search also finds places that only look alike because of the noise. Two terms keep the result where
the flow leads unless another place is clearly better. Both depend on sigma, the standard deviation of the noise, and on
the number N = channels * patch**2 of values that are compared:

    1. a candidate o pixels from where the flow leads ranks by its distance + penalty * N * sigma**2 * |o|**2
    2. the best candidate is taken if its distance is smaller than that of the flow's own place by
       4 * sigma**2 * (2 * N)**0.5, which is twice the standard deviation that the distance of equal patches has

Without noise both are 0.
"""

from shiftsearch.video.align.clips import align, align_clip
from shiftsearch.video.align.streams import align_planes, align_stream

__all__ = ["align", "align_clip", "align_planes", "align_stream"]
