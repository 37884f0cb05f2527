"""Torch modules: ops with fixed options, and attention layers made of them.

Videos are (B, T, C, H, W), flow and offsets as in `shiftsearch.search`.
"""

from shiftsearch.nn.attend_at import attend_at
from shiftsearch.nn.attention import ShiftedAttention, attend
from shiftsearch.nn.deformable import deform_attn, deform_conv2d
from shiftsearch.nn.guided import GuidedDeformableAttention
from shiftsearch.nn.inter_frame import InterFrameAttention, inter_frame
from shiftsearch.nn.neighborhood import neighborhood_attention
from shiftsearch.nn.ops import Aggregate, Attend, Refine, ShiftedSearch, Stack
from shiftsearch.nn.places import places

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
    "attend_at",
    "deform_attn",
    "deform_conv2d",
    "inter_frame",
    "neighborhood_attention",
    "places",
]
