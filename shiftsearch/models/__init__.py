"""Networks of torch, for clips (B, T, C, H, W)."""

from shiftsearch.models.unet import ShiftedUNet, estimate_flow

__all__ = ["ShiftedUNet", "estimate_flow"]
