"""Iterables of frames: looked into, checked and counted as they pass, never held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.types import Planes


def iterated(op: str, frames: Any) -> Iterator[Any]:
    """Return an iterator over frames, or raise an error that says what `frames` is."""
    try:
        return iter(frames)
    except TypeError:
        raise ShiftsearchError(
            f"{op}: frames is a {type(frames).__qualname__}, expected a clip or an iterator over frames"
        ) from None


def peeked(op: str, frames: Any) -> tuple[Any, Iterator[Any]]:
    """Return the first frame, or None if there is none, and an iterator over all frames."""
    rest = iterated(op, frames)
    first = next(rest, None)
    return first, rest if first is None else chain([first], rest)


def watched(op: str, progress: Any, items: Iterable[Any], total: int) -> Iterable[Any]:
    """Return the items wrapped by `progress`: tqdm, or a function with the same call."""
    if progress is None:
        return items
    if not callable(progress):
        raise ShiftsearchError(f"{op}: progress is {progress!r}, expected a function such as tqdm, or None")
    return progress(items, total=total)


def check_planes(op: str, frames: Iterable[Any], like: Planes) -> Iterator[Planes]:
    """Yield the frames, after a check that their planes have the shapes and dtypes of those of `like`."""
    kinds = _kinds(op, like)
    (first, _), *others = kinds
    sizes = {shape for shape, _ in others}
    if others and (len(first) != 2 or len(sizes) > 1 or not all(map(_fits, first, *sizes))):
        raise ShiftsearchError(
            f"{op}: planes of a frame have shapes {', '.join(str(shape) for shape, _ in kinds)}, expected (H, W), then "
            "planes of the same size, or of a half or a quarter of the rows or columns"
        )
    return _alike(op, frames, kinds)


def _alike(op: str, frames: Iterable[Any], kinds: list[tuple[tuple[int, ...], str]]) -> Iterator[Planes]:
    for number, frame in enumerate(frames):
        if _kinds(op, frame) != kinds:
            found, expected = (", ".join(f"{kind} {shape}" for shape, kind in k) for k in (_kinds(op, frame), kinds))
            raise ShiftsearchError(f"{op}: frame {number} has {found}, expected {expected} as frame 0")
        yield frame


def _kinds(op: str, frame: Any) -> list[tuple[tuple[int, ...], str]]:
    if not isinstance(frame, (tuple, list)) or not all(hasattr(plane, "shape") for plane in frame) or not frame:
        raise ShiftsearchError(f"{op}: a frame is a {type(frame).__qualname__}, expected a tuple of arrays")
    return [(tuple(plane.shape), str(plane.dtype)) for plane in frame]


def _fits(fine: int, coarse: int) -> bool:
    return coarse in (fine, -(-fine // 2), -(-fine // 4))
