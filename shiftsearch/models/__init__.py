"""Networks of torch, for clips (B, T, C, H, W)."""

from shiftsearch.models._vit import ViT
from shiftsearch.models.load import load
from shiftsearch.models.timesformer import TimeSformer
from shiftsearch.models.unet import ShiftedUNet, estimate_flow

__all__ = ["ShiftedUNet", "TimeSformer", "ViT", "estimate_flow", "load"]
