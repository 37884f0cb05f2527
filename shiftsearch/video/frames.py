"""Arrays of frames, in the layouts of decoders and in the layout of the ops.

| axes | meaning |
| --- | --- |
| (H, W) | one grey frame |
| (H, W, C) | one frame, where the last axis has length 1 to 4 |
| (T, H, W) | a grey clip, if the last axis is longer than 4 |
| (T, H, W, C) | a clip |

Frames may also be a list of arrays, or images of PIL: see `shiftsearch.video.forms`.

Integers use their full range whatever the bit depth of the file: 255 or 65535 is white. In floats, black is 0 and white
is 1; values outside this range are kept. Functions that have an option `white` take frames with another white: 1023 for
10 bits that are stored as 0 to 1023 in uint16, or 255 for floats from 0 to 255.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError, warn

WHITE = {"uint8": 255, "uint16": 65535}
DTYPES = (*WHITE, "float16", "float32", "float64")
CHANNELS = range(1, 5)  # grey, grey and alpha, colour, colour and alpha
_LARGE = 100  # pixels per side: what is smaller is told nothing


def planar(op: str, name: str, array: Any, white: float | None = None) -> Any:
    """Return frames of a NumPy or CuPy array as (T, C, H, W) on the scale 0..1, where `white` is 1.

    float64 stays float64, everything else becomes float32. Floats that need no conversion are not copied.
    """
    colour, clip = layout(op, name, array.shape)
    array = array if clip else array[None]
    array = array.transpose(0, 3, 1, 2) if colour else array[:, None]
    kind = array.dtype.name
    native = array.astype("float64" if kind == "float64" else "float32", copy=False)
    scale = white or WHITE.get(kind, 1)
    if scale == 1:
        return native
    if native is array:
        return native / scale
    native /= scale  # in place, as frames are large
    return native


def restored(xp: Any, result: Any, like: Any, white: float | None = None) -> Any:
    """Return (T', C', H', W') on the scale 0..1 as a new array in the layout and dtype of `like`, where 1 is `white`.

    The axes of time and channels are dropped if `like` has none and their length is 1. Integers are rounded to the
    nearest (half to even) and clipped, NaN becomes 0.
    """
    colour, clip = layout("restored", "like", like.shape)
    kind = like.dtype.name
    scale = white or WHITE.get(kind, 1)
    result = result * scale if kind in WHITE or scale != 1 else result
    if kind in WHITE:  # in place, as frames are large
        result = xp.rint(xp.fmin(xp.fmax(result, 0, out=result), scale, out=result), out=result)
    with np.errstate(over="ignore"):  # float16 holds up to 65504
        result = result.transpose(0, 2, 3, 1).astype(kind, order="C")
    result = result if colour or result.shape[3] > 1 else result[..., 0]
    return result if clip or len(result) > 1 else result[0]


def check_frame(op: str, name: str, shape: tuple[int, ...]) -> None:
    """Raise an error if this is a clip, or a frame whose channels come first."""
    if layout(op, name, shape)[1]:
        hint = f": channels come last, as in np.moveaxis({name}, 0, -1)" if shape[0] in CHANNELS else ""
        raise ShiftsearchError(f"{op}: {name} has shape {tuple(shape)}, expected (H, W) or (H, W, C){hint}")


def doubt_layout(op: str, name: str, shape: tuple[int, ...]) -> None:
    """Warn if a grey clip looks like one frame whose channels come first. A single grey frame is the same as such a clip."""
    if len(shape) == 3 and shape[0] in (3, 4) and min(shape[1:]) >= _LARGE:
        warn(
            f"{op}: {name} has shape {tuple(shape)}, which is a grey clip of {shape[0]} frames. If these are channels, pass "
            f"np.moveaxis({name}, 0, -1), or {name}.permute(1, 2, 0) of a tensor; if they are frames, {name}[..., None]"
        )


def halved(xp: Any, planes: Any, axis: int) -> Any:
    """Return the means of pairs of neighbours along an axis; an odd last element is unchanged."""
    before = (slice(None),) * axis
    first, second = (planes[(*before, slice(at, None, 2))] for at in (0, 1))
    if first.shape == second.shape:
        return (first + second) / 2
    pairs = (first[(*before, slice(-1))] + second) / 2
    return xp.concatenate([pairs, first[(*before, slice(-1, None))]], axis)


def coarsened(xp: Any, planes: Any, size: tuple[int, ...]) -> tuple[Any, list[int]]:
    """Return planes (C, H, W) halved until they have `size`, and how many rows and columns became one."""
    factors = [1, 1]
    for axis in (1, 2):
        while planes.shape[axis] > size[axis - 1]:
            planes, factors[axis - 1] = halved(xp, planes, axis), 2 * factors[axis - 1]
    return planes, factors


def layout(op: str, name: str, shape: tuple[int, ...]) -> tuple[bool, bool]:
    """Return whether frames of this shape have an axis of channels, and whether they have one of time."""
    axes = len(shape)
    colour = axes in (3, 4) and shape[-1] in CHANNELS
    if axes not in (2, 3, 4) or (axes == 4 and not colour):
        hint = ""
        if axes == 4 and shape[1] in CHANNELS:
            hint = ": channels come last, as in frames.transpose(0, 2, 3, 1), or permute in torch"
        elif axes == 5:
            hint = ": one clip at a time"
        raise ShiftsearchError(
            f"{op}: {name} has shape {tuple(shape)}, expected (T, H, W) or (T, H, W, C) with 1 to 4 channels{hint}"
        )
    if 0 in shape:
        raise ShiftsearchError(
            f"{op}: {name} has shape {tuple(shape)}, expected at least one frame of at least one pixel"
        )
    return colour, axes - colour == 3
