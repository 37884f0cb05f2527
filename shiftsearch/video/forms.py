"""The forms in which frames are given and come back: an array, a list of frames, or pictures of PIL.

A list, or a tuple, of frames (H, W) or (H, W, C) is a clip, and results that are frames come back as a list, or a tuple, of
such frames. Pictures come back as pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from shiftsearch._arrays import shaped, transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.frames import DTYPES, check_frame, doubt_layout

_MODES = ("L", "LA", "RGB", "RGBA", "I;16")  # of pictures, whose numbers are those of frames


def unpacked(op: str, name: str, frames: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return frames as one array, and the function that gives an array of the same layout the form of `frames`."""
    if isinstance(frames, (list, tuple)):
        each = [_frame(op, f"{name}[{n}]", frame) for n, frame in enumerate(frames)]
        return _clip(op, name, each), partial(_listed, like=frames, grey=len(each[0].shape) == 2)
    if is_picture(frames):
        array = pixels(op, name, frames)
        return array, partial(_pictures, axes=array.ndim)
    array = shaped(op, name, frames)
    doubt_layout(op, name, getattr(array, "shape", ()))
    return array, _same


class Each:
    """Frames of an iterable as arrays; `give` returns a result in the form of those that were taken."""

    def __init__(self, op: str, frames: Iterable[Any]):
        self._op, self._frames, self.give = op, frames, _same

    def __iter__(self) -> Iterator[Any]:
        for frame in self._frames:
            if is_picture(frame):
                self.give = picture
                yield pixels(self._op, "a frame", frame)
            else:
                yield frame


def is_picture(frame: Any) -> bool:
    """Return whether this is an image of PIL."""
    library = sys.modules.get("PIL.Image")  # without it there are no images
    return library is not None and isinstance(frame, library.Image)


def pixels(op: str, name: str, image: Any) -> Any:
    """Return the pixels of a picture, (H, W) or (H, W, C)."""
    if image.mode not in _MODES:
        raise ShiftsearchError(
            f'{op}: {name} is a picture of mode {image.mode}, expected {", ".join(_MODES)}: try .convert("RGB")'
        )
    return np.asarray(image)


def picture(array: Any) -> Any:
    """Return a picture with these pixels."""
    return sys.modules["PIL.Image"].fromarray(np.ascontiguousarray(array))


def first(give: Callable[[Any], Any], found: Any) -> Any:
    """Return a result, or a tuple whose first part it is, with the result in the form that `give` gives it."""
    return (give(found[0]), *found[1:]) if isinstance(found, tuple) else give(found)


def _same(array: Any) -> Any:
    return array


def _pictures(array: Any, axes: int) -> Any:
    """Return a picture, or a list of them if there is an axis of time."""
    return picture(array) if array.ndim == axes else [*map(picture, array)]


def _listed(clip: Any, like: Any, grey: bool) -> Any:
    """Return the frames of a clip in a list or a tuple, as arrays or as pictures."""
    of_pictures = is_picture(like[0])
    arrays = (frame[..., 0] if grey else frame for frame in clip)
    each = [picture(array) if of_pictures else array for array in arrays]
    return tuple(each) if isinstance(like, tuple) else each


def _frame(op: str, name: str, frame: Any) -> Any:
    frame = pixels(op, name, frame) if is_picture(frame) else shaped(op, name, frame)
    if not hasattr(frame, "shape"):
        raise ShiftsearchError(f"{op}: {name} is a {type(frame).__qualname__}, expected an array or a picture")
    check_frame(op, name, frame.shape)
    return frame


def _clip(op: str, name: str, frames: list[Any]) -> Any:
    """Return frames of one shape, dtype and library as a clip (T, H, W, C)."""
    if not frames:
        raise ShiftsearchError(f"{op}: {name} is empty, expected at least one frame")
    for n, frame in enumerate(frames):
        kinds = ((type(f).__qualname__, str(f.dtype), tuple(f.shape)) for f in (frame, frames[0]))
        found, expected = (f"{kind} of {dtype} {shape}" for kind, dtype, shape in kinds)
        if found != expected:
            raise ShiftsearchError(f"{op}: {name}[{n}] is {found}, expected {expected} as {name}[0]")
    colour = len(frames[0].shape) == 3

    def stacked(xp: Any, *arrays: Any) -> Any:
        return xp.stack([array if colour else array[..., None] for array in arrays])

    return transform(op, stacked, DTYPES, **{f"{name}[{n}]": frame for n, frame in enumerate(frames)})
