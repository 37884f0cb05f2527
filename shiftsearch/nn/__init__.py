"""Torch modules: ops with fixed options, and attention layers made of them.

Videos are (B, T, C, H, W), flow and offsets as in `shiftsearch.search`.
"""

from shiftsearch.nn.attention import ShiftedAttention, attend
from shiftsearch.nn.guided import GuidedDeformableAttention
from shiftsearch.nn.inter_frame import InterFrameAttention, inter_frame
from shiftsearch.nn.ops import Aggregate, Attend, Refine, ShiftedSearch, Stack

__all__ = [
    "Aggregate",
    "Attend",
    "GuidedDeformableAttention",
    "InterFrameAttention",
    "Refine",
    "ShiftedAttention",
    "ShiftedSearch",
    "Stack",
    "attend",
    "inter_frame",
]
