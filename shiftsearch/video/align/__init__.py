"""Frames warped onto another frame: a search around where the flow leads finds the exact places.

In noisy frames a search also finds places that only look alike because of the noise. Two terms keep the result where
the flow leads unless another place is clearly better. Both depend on sigma, the standard deviation of the noise, and on
the number N = channels * patch**2 of values that are compared:

    1. a candidate o pixels from where the flow leads ranks by its distance + penalty * N * sigma**2 * |o|**2
    2. the best candidate is taken if its distance is smaller than that of the flow's own place by
       4 * sigma**2 * (2 * N)**0.5, which is twice the standard deviation that the distance of equal patches has

Without noise both are 0. Without flow, whole pixels are found. Wherever the frames come from,

    3. a place away from a given flow that no others around it agree with must be better by twice as much, and by far
       more than the frames differ elsewhere
    4. a place must leave the smaller a share of the difference the farther it is: `penalty` less for each pixel
    5. what is seen in only one of the frames, or leads out of them, stays where the flow leads
    6. flow of less than half a pixel counts as none if the frames fit as well without it
    7. flow that is farther off than the window reaches is replaced by that of a search from coarse to fine, if this takes
       away half of the difference
    8. a change of light of the whole frame is undone before frames are compared
    9. least squares find fractions of pixels that the flow is off, before the search and after it, where they gain more
       than noise explains
"""

from shiftsearch.video.align.clips import align, align_clip
from shiftsearch.video.align.streams import align_planes, align_stream

__all__ = ["align", "align_clip", "align_planes", "align_stream"]
