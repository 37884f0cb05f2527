"""Types that the signatures of this package share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar


class AnyArray(Protocol):
    """An array of NumPy, torch or CuPy, or one that offers DLPack."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...


class Picture(Protocol):
    """An image of PIL."""

    @property
    def mode(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def convert(self) -> Any: ...


Several = list[Any] | tuple[Any, ...]  # frames of a clip, each an array or a picture
AnyFrames = AnyArray | Picture | Several

Array = TypeVar("Array", bound=AnyArray)  # results belong to the same library and device
AnyFrame = TypeVar("AnyFrame", bound=AnyArray | Picture)
Frames = TypeVar("Frames", bound=AnyFrames)

Method = Literal["auto", "match", "dis", "farneback"]
METHOD: Method = (
    "auto"  # unless the caller chooses another: OpenCV's DIS where it is, which is quick, or our own search
)
Measure = Callable[[Any, Any], Any]  # (reference, target) to a flow (2, h, w)
Flows = tuple[Any, Any]  # from each frame to the next, and to the one before: (T, 2, h, w)
Quality = Literal["preview", "fast", "high"]
Planes = tuple[Any, ...]  # one array for each plane of a frame
Strength = float | Sequence[float]  # times the noise that is removed, or so many times for each plane
Sigma = float | Literal["auto"] | None  # standard deviation of noise; None and "auto" find it
