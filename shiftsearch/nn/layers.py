"""What modules have in common: checks, and layers of the pixels of a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shiftsearch.errors import ShiftsearchError


def shown(options: Mapping[str, Any]) -> str:
    """Return options as text for a module's `extra_repr`."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def check_video(module: str, name: str, video: Any, channels: int) -> None:
    """Raise an error that names the module unless `video` is a tensor (B, T, channels, H, W) of floats."""
    if not isinstance(video, torch.Tensor):
        raise ShiftsearchError(f"{module}: {name} is a {type(video).__name__}, expected a torch tensor")
    if not (video.is_floating_point() and video.ndim in (4, 5) and video.shape[-3] == channels):
        found = f"{video.dtype} of shape {tuple(video.shape)}"
        raise ShiftsearchError(f"{module}: {name} is {found}, expected floats of shape (B, T, {channels}, H, W)")


def per_pixel(layer: nn.Module, video: Tensor) -> Tensor:
    """Return a linear layer of the channels of (..., C, H, W), channels last in memory, as kernels read them."""
    return layer(video.movedim(-3, -1)).movedim(-1, -3)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution with all its parameters set to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
