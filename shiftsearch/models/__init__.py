"""Networks of torch, for clips (B, T, C, H, W)."""

from shiftsearch.models._vit import ViT
from shiftsearch.models.audio_visual import AudioVisualAttention, Explanation
from shiftsearch.models.avt import AVT, Anticipation, AVTHead
from shiftsearch.models.load import load
from shiftsearch.models.rvrt import RVRTAttention
from shiftsearch.models.sifa import SIFANet, SIFATransformer, TwoHeads
from shiftsearch.models.star_vqa import Codebook, StarVQA
from shiftsearch.models.timesformer import TimeSformer
from shiftsearch.models.unet import ShiftedUNet
from shiftsearch.models.video_swin import VideoSwin
from shiftsearch.models.xvit import XViT

__all__ = [
    "AVT",
    "AVTHead",
    "Anticipation",
    "AudioVisualAttention",
    "Codebook",
    "Explanation",
    "RVRTAttention",
    "SIFANet",
    "SIFATransformer",
    "ShiftedUNet",
    "StarVQA",
    "TimeSformer",
    "TwoHeads",
    "ViT",
    "VideoSwin",
    "XViT",
    "load",
]
