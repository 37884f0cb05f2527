"""The scale of frames: which value is white. A wrong one ruins pictures, so values that do not look like it are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError, warn
from shiftsearch.video.frames import DTYPES, WHITE
from shiftsearch.video.types import Planes

_DEPTHS = 10, 12  # bits that are often kept in 16 as they are
_DARK = 16  # times less than white is the mean of frames that are nearly black, whatever their depth
_BRIGHT = 2  # times white is no median of floats whose white is 1
_EACH = 16  # rows, or others, of each axis that are looked at


def white_of(op: str, frames: Any, white: Any = None, bits: Any = None) -> float | None:
    """Return the value that is white, or None if it is that of the dtype of `frames`."""
    kind = _kind(frames)
    if bits is not None:
        deepest = WHITE.get(kind, WHITE["uint16"] if frames is None else 0).bit_length()
        if white is not None:
            raise ShiftsearchError(f"{op}: bits is {bits!r} and white is {white!r}, expected one of them")
        if not deepest:
            raise ShiftsearchError(
                f"{op}: bits is {bits!r} for frames of {kind}, expected white={2**8 - 1} or the like"
            )
        if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= deepest:
            raise ShiftsearchError(f"{op}: bits is {bits!r}, expected a whole number from 1 to {deepest}")
        white = 2 ** int(bits) - 1
    most = WHITE.get(kind, 1e6)
    if white is not None and (isinstance(white, bool) or not isinstance(white, Real) or not 0 < float(white) <= most):
        raise ShiftsearchError(f"{op}: white is {white!r}, expected a number above 0, up to {most:g}, or None")
    return None if white is None else float(white)


def scaled(op: str, frames: Iterable[Planes], white: float | None) -> Iterator[Planes]:
    """Yield the frames, whose first plane is checked until one of them tells the scale: many clips begin black."""
    certain = False
    for frame in frames:
        certain = certain or check_scale(op, frame[0], white)
        for plane in frame:
            check_white(op, plane, white)
        yield frame


def check_white(op: str, frames: Any, white: float | None, name: str = "frames") -> None:
    """Raise an error if integers have values above their white, which results would not have."""
    if white is None or white >= WHITE.get(_kind(frames), 0) or 0 in frames.shape:
        return
    largest = _largest(op, frames)
    if largest > white:
        cure = f"bits={largest.bit_length()}" if white + 1 == 1 << int(white).bit_length() else f"white={largest}"
        raise ShiftsearchError(
            f"{op}: {name} has values up to {largest}, expected at most {white:g}, which is white: pass {cure}, or "
            f"{name}.clip(max={white:g}) if the rest is to be white"
        )


def check_scale(op: str, frames: Any, white: float | None, *, told: bool = True) -> bool:
    """Warn if the white of frames is not given and their values look as if it were another. Return if it is certain.

    `told` is whether the function that is called has the options `bits` and `white`.
    """
    kind = _kind(frames)
    if white is not None or not hasattr(frames, "tolist") or 0 in frames.shape or kind == "uint8":
        return True
    some = np.array(_some(frames).tolist(), float).ravel()
    some = some[np.isfinite(some)]
    if not some.size:
        return False
    return _check_whole(op, frames, some, told) if kind == "uint16" else _check_floats(op, some, told)


def _check_whole(op: str, frames: Any, some: np.ndarray, told: bool) -> bool:
    for bits in _DEPTHS:
        top = 2**bits - 1
        seen = some.mean() >= top / _DARK and np.ptp(some) >= top / _DARK  # a flat frame tells nothing
        if seen and some.max() <= top and _largest(op, frames) <= top:
            cure = f"pass bits={bits}, or bits=16 if they are dark" if told else f"pass frames * {2 ** (16 - bits)}"
            warn(f"{op}: frames have values up to {top} in uint16, as of {bits} bits, and 65535 is white: {cure}")
            return True
    return bool(some.max() >= 2 ** max(_DEPTHS))


def _check_floats(op: str, some: np.ndarray, told: bool) -> bool:
    middle = np.median(some)
    if middle > _BRIGHT:
        cure = "pass white=255, or white=1 if they are right" if told else "pass frames / 255"
        warn(f"{op}: frames are floats around {middle:.4g}, and 1 is white: {cure}")
        return True
    return bool(middle >= 1 / _DARK and some.max() <= _BRIGHT)


def _largest(op: str, frames: Any) -> int:
    """Return the largest value, which torch does not find among unsigned numbers."""
    found: list[int] = []

    def natively(xp: Any, array: Any) -> tuple[()]:
        found.append(int(array.max()))
        return ()

    transform(op, natively, DTYPES, frames=frames)
    return found[0]


def _some(frames: Any) -> Any:
    """Return values from all over the frames: a few thousand."""
    return frames[tuple(slice(None, None, max(1, n // _EACH)) for n in frames.shape[:3])]


def _kind(frames: Any) -> str:
    return str(getattr(frames, "dtype", "")).rpartition(".")[2]
