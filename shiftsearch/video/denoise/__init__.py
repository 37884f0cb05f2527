"""Denoising without training: groups of similar patches are found by search, filtered together, and put back.

First motion is measured; then passes filter groups, each with the result of the pass before as its guide. `qualities`
lists the passes, and `running` applies one of them to the frames of a scene.
"""

from shiftsearch.video.denoise.clips import denoise, denoise_overlap
from shiftsearch.video.denoise.known import estimate_noise
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.denoise.streams import denoise_planes, denoise_stream

__all__ = ["Noise", "denoise", "denoise_overlap", "denoise_planes", "denoise_stream", "estimate_noise"]
