"""Frames as decoders give them, and as the ops want them.

| axes | what it is |
| --- | --- |
| (H, W) | one grey frame |
| (H, W, C) | one frame, where the last axis is 1 to 4 long |
| (T, H, W) | a grey clip, of any other last axis |
| (T, H, W, C) | a clip |

Whole numbers use their full range, whatever the depth of the file was: 255 or 65535 is white. Floats have
black at 0 and white at 1, and may lie outside: nothing is clipped. 10-bit frames of 0 to 1023 in uint16 are
very dark frames here.
"""

from __future__ import annotations

import numpy as np

from shiftsearch.errors import ShiftsearchError

WHITE = {"uint8": 255, "uint16": 65535}
DTYPES = (*WHITE, "float16", "float32", "float64")
CHANNELS = range(1, 5)  # grey, grey and alpha, colour, colour and alpha


def planar(op: str, name: str, array):
    """Frames of a NumPy or CuPy array as (T, C, H, W) on the scale 0..1: float64 if it is that, or else float32.

    Floats that fit are not copied.
    """
    colour, clip = layout(op, name, array.shape)
    array = array if clip else array[None]
    array = array.transpose(0, 3, 1, 2) if colour else array[:, None]
    kind = array.dtype.name
    native = array.astype("float64" if kind == "float64" else "float32", copy=False)
    return native / WHITE[kind] if kind in WHITE else native


def restored(xp, result, like):
    """(T', C', H', W') on the scale 0..1 in the layout and dtype of `like`, in memory of its own.

    The axes of time and channels are left out if `like` has none and they are 1 long. Whole numbers are rounded to the
    nearest (half to even) and clipped, what is no number is 0.
    """
    colour, clip = layout("restored", "like", like.shape)
    kind = like.dtype.name
    if kind in WHITE:
        result = xp.rint(xp.fmin(xp.fmax(result * WHITE[kind], 0), WHITE[kind]))
    with np.errstate(over="ignore"):  # float16 ends at 65504
        result = result.transpose(0, 2, 3, 1).astype(kind, order="C")
    result = result if colour or result.shape[3] > 1 else result[..., 0]
    return result if clip or len(result) > 1 else result[0]


def halved(xp, planes, axis: int):
    """Means of two neighbours along an axis; the last may be alone."""
    n = planes.shape[axis]
    first = 2 * xp.arange((n + 1) // 2)
    return (planes.take(first, axis=axis) + planes.take(xp.minimum(first + 1, n - 1), axis=axis)) / 2


def coarsened(xp, planes, size):
    """Planes (C, H, W) as coarse as those of `size`, by halves; and how many rows and columns became one."""
    factors = [1, 1]
    for axis in (1, 2):
        while planes.shape[axis] > size[axis - 1]:
            planes, factors[axis - 1] = halved(xp, planes, axis), 2 * factors[axis - 1]
    return planes, factors


def check_planes(op: str, frames, like):
    """The frames as they pass, each with planes of the shapes and kinds that those of `like` have, which fit one another."""
    kinds = _kinds(op, like)
    (first, _), *others = kinds
    sizes = {shape for shape, _ in others}
    if others and (len(first) != 2 or len(sizes) > 1 or not all(map(_fits, first, *sizes))):
        raise ShiftsearchError(
            f"{op}: planes of a frame have shapes {', '.join(str(shape) for shape, _ in kinds)}, expected (H, W), then ones "
            "as large, or of a half or a quarter of the rows or columns"
        )
    return _alike(op, frames, kinds)


def _alike(op: str, frames, kinds):
    for number, frame in enumerate(frames):
        if _kinds(op, frame) != kinds:
            found, expected = (", ".join(f"{kind} {shape}" for shape, kind in k) for k in (_kinds(op, frame), kinds))
            raise ShiftsearchError(f"{op}: frame {number} has {found}, expected {expected} as frame 0")
        yield frame


def _kinds(op: str, frame) -> list:
    if not isinstance(frame, (tuple, list)) or not all(hasattr(plane, "shape") for plane in frame) or not frame:
        raise ShiftsearchError(f"{op}: a frame is a {type(frame).__qualname__}, expected a tuple of arrays")
    return [(tuple(plane.shape), str(plane.dtype)) for plane in frame]


def _fits(fine: int, coarse: int) -> bool:
    return coarse in (fine, -(-fine // 2), -(-fine // 4))


def watched(op: str, progress, items, total: int):
    """The items as they pass, which `progress` shows: tqdm, or whatever else is called like that."""
    if progress is None:
        return items
    if not callable(progress):
        raise ShiftsearchError(f"{op}: progress is {progress!r}, expected a function such as tqdm, or None")
    return progress(items, total=total)


def noise_level(xp, planes) -> float:
    """Standard deviation of the white noise of planes (C, H, W): the median of their fourth differences along both axes.

    These stop what is smooth, as the finest wavelets do, but more of it: on real clips, noise of 5, 10 and 20 of 255 is
    found with errors of 5, 1 and 2 %, and with 11, 3 and 2 % by `skimage.restoration.estimate_sigma`.
    """
    for _ in range(2):
        if planes.shape[1] < 5:
            return 0.0
        a, b, c, d, e = (planes[:, n : planes.shape[1] - 4 + n] for n in range(5))
        planes = (a - 4 * b + 6 * c - 4 * d + e).swapaxes(1, 2)
    level = float(xp.median(xp.abs(planes))) / (
        70 * 0.6745
    )  # half of a normal distribution is within 0.6745 deviations
    return min(level, 1e6) if np.isfinite(level) else 0.0


def layout(op: str, name: str, shape: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether frames of this shape have an axis of channels, and one of time."""
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
