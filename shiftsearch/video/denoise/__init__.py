"""Denoising without training: groups of similar patches are found by search, filtered together, and put back.

Frames go through stages one after another: first motion is measured, then each pass filters groups and hands its result
to the next one as a guide. `qualities` lists the passes, `running` takes the frames of a scene through one of them.
"""

from shiftsearch.video.denoise.clips import denoise, denoise_overlap
from shiftsearch.video.denoise.streams import denoise_planes, denoise_stream

__all__ = ["denoise", "denoise_overlap", "denoise_planes", "denoise_stream"]
