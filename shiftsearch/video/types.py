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


Array = TypeVar("Array", bound=AnyArray)  # results belong to the same library and device

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
