"""The checked arguments of `denoise`, `denoise_stream` and `denoise_planes`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.denoise.qualities import PASSES
from shiftsearch.video.flow.measure import METHODS
from shiftsearch.video.frames import layout
from shiftsearch.video.noise import noise_scale
from shiftsearch.video.types import Quality


@dataclass(frozen=True)
class DenoiseSpec(Spec):
    """The options of a call and their defaults, with sigma on the scale 0..1."""

    sigma: tuple[Any, ...] = (
        None,
    )  # of each array of a frame: a number, one of each channel, `Noise`, None to find it
    quality: Quality = "fast"
    radius: int = 2
    max_memory: int | str = "1GiB"

    def __post_init__(self) -> None:
        self.choice("quality", *PASSES)
        self.whole("radius", least=0, most=32)
        self.memory("max_memory")


def spec_of(op: str, frames: Any, sigmas: Iterable[Any], **options: Any) -> DenoiseSpec:
    """Return the checked options of a call. The dtype of `frames` decides the scale of the sigmas."""
    sigmas = list(sigmas)
    read = _known if len(sigmas) == 1 and hasattr(frames, "shape") else noise_scale
    levels = tuple(None if _estimated(s) else read(op, s, frames) for s in sigmas)
    return DenoiseSpec(caller=op, sigma=levels, **options)


def _known(op: str, sigma: Any, frames: Any) -> Any:
    """Return what the caller knows of the noise of frames: a number, one of each channel, or `Noise`."""
    if isinstance(sigma, (int, float, np.number, str)) or not (hasattr(sigma, "__len__") or isinstance(sigma, Noise)):
        return noise_scale(op, sigma, frames)
    colour, _ = layout(op, "frames", frames.shape)
    channels = frames.shape[-1] - 1 + frames.shape[-1] % 2 if colour else 1
    size = tuple(frames.shape[:-1] if colour else frames.shape)[-2:]
    if isinstance(sigma, Noise):
        if len(sigma.sigma) != channels:
            raise ShiftsearchError(f"{op}: sigma is the noise of {len(sigma.sigma)} planes, expected {channels}")
        return sigma
    shape = np.shape(sigma)
    if shape not in ((channels,), size):
        raise ShiftsearchError(
            f"{op}: sigma has shape {shape}, expected a number, one for each of {channels} channels, or {size}"
        )
    scaled = np.reshape([noise_scale(op, s, frames) for s in np.ravel(sigma).tolist()], shape)
    return Noise.mapped(scaled, channels) if shape == size else tuple(scaled.tolist())


def _estimated(sigma: Any) -> bool:
    return sigma is None or (isinstance(sigma, str) and sigma == "auto")


def check_no_array(op: str, flow: Any) -> None:
    """Raise an error if flow is given as arrays, which a stream cannot use."""
    if isinstance(flow, (tuple, list)) or hasattr(flow, "shape"):
        raise ShiftsearchError(
            f'{op}: flow is a {type(flow).__qualname__}, expected "dis", "farneback", None or a function'
        )


def method_of(op: str, flow: Any) -> str | None:
    """Return the name of the method that measures flow, or None if there is none: flow is then given or not used."""
    method = flow if isinstance(flow, str) else None
    if not (flow is None or method in METHODS or callable(flow) or isinstance(flow, tuple)):
        names = ", ".join(map(repr, METHODS))
        also = " or a pair (forward, backward)" if op == "denoise" else ""
        raise ShiftsearchError(f"{op}: flow is {flow!r}, expected one of {names}, None, a function{also}")
    return method
