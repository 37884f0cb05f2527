"""The checked arguments of `denoise`, `denoise_stream` and `denoise_planes`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.denoise.qualities import PASSES, RADII, TEMPORAL
from shiftsearch.video.flow.measure import METHODS
from shiftsearch.video.frames import layout
from shiftsearch.video.noise import noise_scale
from shiftsearch.video.scale import white_of
from shiftsearch.video.types import Quality, Strength

_STRONGEST = 100.0  # times the noise


@dataclass(frozen=True)
class DenoiseSpec(Spec):
    """The options of a call and their defaults, with sigma on the scale 0..1."""

    sigma: tuple[Any, ...] = (
        None,
    )  # of each array of a frame: a number, one of each channel, `Noise`, None to find it
    quality: Quality = "fast"
    radius: int | None = None  # None for that of the quality
    strength: tuple[float, ...] = (1.0,)  # of each plane
    mix: float = 0.0
    temporal_only: bool = False
    white: float | None = None
    max_memory: int | str | None = None

    def __post_init__(self) -> None:
        self.choice("quality", *PASSES)
        if self.radius is not None:
            self.whole("radius", least=0, most=32)
        self.real("mix", most=1)
        self.switch("temporal_only")
        self.check(self.quality == TEMPORAL or not self.temporal_only, "temporal_only", f"quality {TEMPORAL!r} with it")
        if self.max_memory is not None:
            self.memory("max_memory")

    @property
    def reach(self) -> int:
        """Frames each way that a group may reach."""
        return RADII[self.quality] if self.radius is None else self.radius


def spec_of(
    op: str,
    frames: Any,
    sigmas: Iterable[Any],
    strength: Strength = 1.0,
    white: float | None = None,
    bits: int | None = None,
    **options: Any,
) -> DenoiseSpec:
    """Return the checked options of a call. The dtype of `frames` decides the scale of the sigmas."""
    sigmas = list(sigmas)
    white = white_of(op, frames, white, bits)
    planes = _planes(op, sigmas, frames)
    levels = tuple(None if _estimated(s) else _known(op, s, frames, white, planes) for s in sigmas)
    strengths = strengths_of(op, strength, planes)
    return DenoiseSpec(caller=op, sigma=levels, strength=strengths, white=white, **options)


def _planes(op: str, sigmas: Sequence[Any], frames: Any) -> int | None:
    """Return how many planes are filtered, or None if there is nothing to filter."""
    return len(sigmas) if len(sigmas) > 1 else _channels(op, frames) if hasattr(frames, "shape") else None


def _channels(op: str, frames: Any) -> int:
    channels = frames.shape[-1] if layout(op, "frames", frames.shape)[0] else 1
    return int(channels - 1 + channels % 2)  # an even number of channels has alpha last


def strengths_of(op: str, strength: Any, planes: int | None) -> tuple[float, ...]:
    """Return the strength of each plane, or of all planes if their number is not known."""
    each = list(strength) if isinstance(strength, (tuple, list, np.ndarray)) else [strength] * (planes or 1)
    if planes is not None and len(each) != planes:
        raise ShiftsearchError(
            f"{op}: strength has {len(each)} numbers, expected one, or one for each of {planes} planes"
        )
    for s in each:
        if isinstance(s, bool) or not isinstance(s, (Real, np.number)) or not 0 <= float(s) <= _STRONGEST:
            raise ShiftsearchError(f"{op}: strength is {s!r}, expected a number from 0 to {_STRONGEST:g}")
    return tuple(map(float, each))


def _known(op: str, sigma: Any, frames: Any, white: float | None, planes: int | None) -> Any:
    """Return what the caller knows of the noise of frames: a number, one of each channel, or `Noise`."""
    several = hasattr(sigma, "__len__") or isinstance(sigma, Noise)
    if planes is None or isinstance(sigma, (int, float, np.number, str)) or not several:
        return noise_scale(op, sigma, frames, white)
    if isinstance(sigma, Noise):
        if len(sigma.sigma) != planes:
            raise ShiftsearchError(f"{op}: sigma is the noise of {len(sigma.sigma)} planes, expected {planes}")
        return sigma
    colour, _ = layout(op, "frames", frames.shape)
    shape, size = np.shape(sigma), tuple(frames.shape[:-1] if colour else frames.shape)[-2:]
    if shape not in ((planes,), size):
        raise ShiftsearchError(
            f"{op}: sigma has shape {shape}, expected a number, one for each of {planes} channels, or {size}"
        )
    scaled = np.reshape([noise_scale(op, s, frames, white) for s in np.ravel(sigma).tolist()], shape)
    return Noise.mapped(scaled, planes) if shape == size else tuple(scaled.tolist())


def _estimated(sigma: Any) -> bool:
    return sigma is None or (isinstance(sigma, str) and sigma == "auto")


def pair_of(op: str, flow: Any) -> Any:
    """Return `flow` with a pair (forward, backward) as a tuple. Raise an error if it is other arrays."""
    pair = flow if isinstance(flow, (tuple, list)) else ()
    if hasattr(flow, "shape") or (flow is pair and len(pair) != 2):
        found = (
            f"has shape {tuple(flow.shape)}" if hasattr(flow, "shape") else f"is a {type(flow).__name__} of {len(pair)}"
        )
        raise ShiftsearchError(
            f"{op}: flow {found}, expected a pair: flow=(forward, backward), each "
            "(T, 2, h, w), such as shiftsearch.flow.pair measures"
        )
    return tuple(pair) if pair else flow


def method_of(op: str, flow: Any) -> str | None:
    """Return the name of the method that measures flow, or None if there is none: flow is then given or not used."""
    method = flow if isinstance(flow, str) else None
    if not (flow is None or method in METHODS or callable(flow) or isinstance(flow, tuple)):
        names = ", ".join(map(repr, METHODS))
        raise ShiftsearchError(
            f"{op}: flow is {flow!r}, expected one of {names}, None, a function or a pair (forward, backward)"
        )
    return method
