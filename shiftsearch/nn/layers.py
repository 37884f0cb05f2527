"""What modules have in common: checks, and layers of the pixels of a video."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from shiftsearch.errors import ShiftsearchError

Conv = TypeVar("Conv", bound=nn.Module)


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


def check_floats(caller: str, name: str, tensor: Any) -> None:
    """Raise an error unless `tensor` is a tensor of floats."""
    if not isinstance(tensor, torch.Tensor):
        raise ShiftsearchError(f"{caller}: {name} is a {type(tensor).__name__}, expected a torch tensor")
    if not tensor.is_floating_point():
        raise ShiftsearchError(f"{caller}: {name} is {tensor.dtype}, expected floats")


def check_shape(caller: str, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise an error unless a tensor has this shape."""
    if tuple(tensor.shape) != tuple(expected):
        raise ShiftsearchError(f"{caller}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected)}")


def check_whole(caller: str, *, least: int = 1, **options: Any) -> None:
    """Raise an error unless all options are whole numbers that are large enough."""
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ShiftsearchError(f"{caller}: {name} is {value!r}, expected a whole number of at least {least}")


def pair(caller: str, name: str, value: Any, *, least: int = 1) -> tuple[int, int]:
    """Return (rows, columns) of an option that is one number for both, or two."""
    found = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(found) != 2:
        raise ShiftsearchError(f"{caller}: {name} is {value!r}, expected a whole number or two")
    for number in found:
        check_whole(caller, least=least, **{name: number})
    return found[0], found[1]


def each_per_pixel(layers: Iterable[nn.Module], video: Tensor) -> list[Tensor]:
    """Return `per_pixel` of several layers, which share one copy of the video for their gradients."""
    last = video.movedim(-3, -1).contiguous()
    return [layer(last).movedim(-1, -3) for layer in layers]


def per_pixel(layer: nn.Module, video: Tensor) -> Tensor:
    """Return a linear layer of the channels of (..., C, H, W), channels last in memory, as kernels read them."""
    return layer(video.movedim(-3, -1)).movedim(-1, -3)


def zeroed(layer: Conv) -> Conv:
    """Return a convolution with all its parameters set to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
