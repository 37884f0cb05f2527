"""The checked arguments of `align`, `align_clip`, `align_stream` and `align_planes`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from shiftsearch._arrays import transform
from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.flow.arrays import checked
from shiftsearch.video.flow.measure import METHODS
from shiftsearch.video.frames import DTYPES, layout
from shiftsearch.video.noise import noise_scale
from shiftsearch.video.scale import white_of
from shiftsearch.video.types import AnyArray, Measure, Method

Flow = Method | AnyArray | Measure | None
Onto = Literal["previous", "next"]
ONTO: Onto = "previous"  # unless the caller chooses another
Progress = Callable[..., Any] | None


class AlignOptions(TypedDict, total=False):
    """The options that all functions for alignment share."""

    window: int
    patch: int
    penalty: float
    sigma: float | None
    subpixel: bool
    output: Literal["patch", "pixel"]
    interp: Literal["bilinear", "bicubic"]
    white: float | None
    bits: int | None
    max_memory: int | str


@dataclass(frozen=True)
class AlignSpec(Spec):
    """The options of a call and their defaults, with sigma on the scale 0..1."""

    window: int = 9
    patch: int = 3
    penalty: float = 0.05
    sigma: float | None = None
    subpixel: bool = True
    output: Literal["patch", "pixel"] = "patch"
    interp: Literal["bilinear", "bicubic"] = "bicubic"
    white: float | None = None
    max_memory: int | str = "1GiB"

    def __post_init__(self) -> None:
        self.whole("window", most=1025)
        self.whole("patch", most=129)
        self.real("penalty")
        self.switch("subpixel")
        self.choice("output", "patch", "pixel")
        self.choice("interp", "bilinear", "bicubic")
        self.memory("max_memory")


def spec_of(op: str, frames: Any, sigma: Any = None, white: Any = None, bits: Any = None, **options: Any) -> AlignSpec:
    """Return the checked options of a call. The dtype of `frames` decides the scale of sigma."""
    known = [*(field.name for field in fields(AlignSpec)), "bits"][1:]
    for name in options:
        if name not in known:
            raise ShiftsearchError(f"{op}: there is no argument {name!r}, expected one of {', '.join(known)}")
    white = white_of(op, frames, white, bits)
    level = None if sigma is None else noise_scale(op, sigma, frames, white)
    return AlignSpec(caller=op, sigma=level, white=white, **options)


def wanted(found: tuple[Any, ...], return_offsets: bool) -> Any:
    """Return of a frame, its offsets and, if there is one, its mask what the caller wants: an array, or a tuple."""
    kept = found if return_offsets else (found[0], *found[2:])
    return kept if len(kept) > 1 else kept[0]


def lengths(op: str, reference: Any, frames: Any) -> list[int | None]:
    """Return how many frames each of the two has; None for a frame without an axis of time."""
    found: list[int | None] = []

    def natively(xp: Any, *arrays: Any) -> tuple[()]:
        for name, array in zip(("frames", "reference"), arrays, strict=True):
            found.append(len(array) if layout(op, name, array.shape)[1] else None)
        return ()

    transform(op, natively, DTYPES, frames=frames, reference=reference)
    return found[::-1]


def is_method(op: str, flow: Any) -> bool:
    """Return whether flow is to be found for each pair of frames, rather than given as an array."""
    if isinstance(flow, str) and flow not in METHODS:
        names = ", ".join(map(repr, METHODS))
        raise ShiftsearchError(f"{op}: flow is {flow!r}, expected one of {names}, None, an array or a function")
    return flow is None or isinstance(flow, str) or callable(flow)


def flow_at(op: str, flow: Any, t: int, count: int | None) -> Any:
    """Return the flow for frame t of a clip of `count` frames, or for the only frame if `count` is None."""
    if is_method(op, flow):
        return flow

    def natively(xp: Any, array: Any) -> tuple[()]:
        checked(op, "flow", array)
        return ()

    transform(op, natively, ("float16", "float32", "float64"), flow=flow)
    if len(flow.shape) == 3:
        return flow
    if count is None or len(flow) != count:
        expected = "(2, H, W)" if count is None else f"(2, H, W) or ({count}, 2, H, W)"
        raise ShiftsearchError(f"{op}: flow has shape {tuple(flow.shape)}, expected {expected}")
    return flow[t]
