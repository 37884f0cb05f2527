"""The noise of a clip, found once, to be looked at and given to `denoise`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.estimate import of_flat
from shiftsearch.video.denoise.model import SIDE, Noise, aside, mean
from shiftsearch.video.denoise.motion import Motion
from shiftsearch.video.denoise.passes import Frame
from shiftsearch.video.denoise.pictures import noise_of, taken
from shiftsearch.video.denoise.spec import method_of
from shiftsearch.video.forms import Each, unpacked
from shiftsearch.video.frames import DTYPES, layout, planar
from shiftsearch.video.scale import scaled, white_of
from shiftsearch.video.scenes import with_scenes
from shiftsearch.video.streams import check_planes, iterated, peeked
from shiftsearch.video.types import METHOD, AnyArray, Method, Picture, Planes

_OP = "estimate_noise"


def estimate_noise(
    frames: AnyArray | Picture | Iterable[AnyArray | Picture] | Iterable[Planes],
    *,
    box: Sequence[int] | None = None,
    flow: Method | None = METHOD,
    white: float | None = None,
    bits: int | None = None,
) -> Noise:
    """Find the noise of a clip: its strength, by plane, frequency and brightness.

    `denoise(frames)` finds it for each frame; this is the mean of all. Find it once, in a few frames or in a flat patch
    that shows nothing but noise. Give it to `denoise` as `sigma`: then the strength is even in a long clip.

    Args:
        frames: a clip or a frame, as `denoise` takes it. Or an iterator over frames, or over tuples of planes, as
            `denoise_planes` takes them
        box: (top, left, height, width) of a flat patch, in pixels of the first plane. It has at least 8 pixels a side in
            every plane. Then only its noise is looked at
        flow: "auto", "match", "dis" or "farneback", along which frames are compared. With None, and for a single frame, the
            noise is taken as white, and found from fine differences where these are least
        white, bits: as in `denoise`

    Returns:
        the noise, on the scale where white is 1. `print` describes it. Its method `plot` returns a picture

    Example:
        >>> rng = np.random.default_rng(0)
        >>> clip = 0.5 + 0.1 * rng.standard_normal((3, 48, 64))
        >>> print(estimate_noise(clip, box=(8, 8, 32, 32)))
        Y: noise of 25.2 of 255, white
    """
    found: list[Noise] = []
    method = method_of(_OP, flow)
    if not isinstance(frames, (list, tuple)):  # those may hold planes
        frames = cast(Any, unpacked(_OP, "frames", frames)[0])
    if hasattr(frames, "shape"):

        def whole(xp: Any, clip: Any) -> tuple[Any, ...]:
            source = clip if layout(_OP, "frames", clip.shape)[1] else clip[None]
            found.extend(_noises(((frame,) for frame in source), box, method, white, bits))
            return ()

        transform(_OP, whole, DTYPES, frames=frames)
    else:
        pictures = (
            tuple(each) if isinstance(each, (tuple, list)) else (each,) for each in Each(_OP, iterated(_OP, frames))
        )
        found.extend(_noises(pictures, box, method, white, bits))
    if not found:
        raise ShiftsearchError(f"{_OP}: frames has none, expected at least one")
    return mean(found)


def _noises(
    pictures: Iterable[Planes], box: Sequence[int] | None, method: str | None, white: float | None, bits: int | None
) -> Iterator[Noise]:
    """Yield the noise of each picture."""
    first, pictures = peeked(_OP, pictures)
    if first is None:
        return
    white, pictures = white_of(_OP, first[0], white, bits), check_planes(_OP, pictures, first)
    pictures = scaled(_OP, pictures, white)
    colour = len(first) == 1
    if box is None:
        found = (noise_of(picture) for picture in _along(pictures, method, white))
    else:
        boxes = _boxes(box, [_size(array) for array in first])
        found = (_of_boxes(picture, boxes, white) for picture in pictures)
    yield from (replace(noise, colour=colour) for noise in found)


def _along(pictures: Iterable[Planes], method: str | None, white: float | None) -> Iterator[list[Frame]]:
    """Yield the pictures with the noise that is found along the motion."""
    motion = Motion(_OP, method)
    for picture, begins in with_scenes(_OP, pictures, lambda picture: picture[0], white):
        if begins:
            yield from motion.finish()
            motion = Motion(_OP, method)
        yield from _natively(picture, white, partial(_pushed, motion))
    yield from motion.finish()


def _pushed(motion: Motion, xp: Any, planes: list[Any]) -> list[list[Frame]]:
    return list(motion.push(xp, taken(xp, planes, (None,) * len(planes)), ()))


def _natively(picture: Planes, white: float | None, function: Callable[[Any, list[Any]], Any]) -> Any:
    """Return `function(xp, planes)` of the arrays (C, H, W) of a picture, on the scale 0..1."""
    names = ["frames"] if len(picture) == 1 else [f"plane {n}" for n in range(len(picture))]
    found: list[Any] = []

    def natively(xp: Any, *arrays: Any) -> tuple[Any, ...]:
        found.append(function(xp, [planar(_OP, *named, white)[0] for named in zip(names, arrays, strict=True)]))
        return ()

    transform(_OP, natively, DTYPES, **dict(zip(names, picture, strict=True)))
    return found[0]


# --- a flat patch -----------------------------------------------------------------------------------
def _size(array: Any) -> tuple[int, ...]:
    colour, clip = layout(_OP, "frames", tuple(array.shape))
    return tuple(array.shape[clip : len(array.shape) - colour])


def _boxes(box: Sequence[int], sizes: list[tuple[int, ...]]) -> list[tuple[slice, ...]]:
    """Return the rows and columns of a patch in planes of these sizes."""
    whole = all(hasattr(n, "__index__") for n in box) and len(box) == 4
    if not whole or min(box) < 0 or any(a + n > size for a, n, size in zip(box, box[2:], sizes[0], strict=False)):
        raise ShiftsearchError(f"{_OP}: box is {box!r}, expected (top, left, height, width) in {sizes[0]}")
    ends = [(a, a + n) for a, n in zip(box[:2], box[2:], strict=True)]
    factors = [[-(-fine // n) for fine, n in zip(sizes[0], size, strict=True)] for size in sizes]
    boxes = [[(-(-a // f), b // f) for (a, b), f in zip(ends, each, strict=True)] for each in factors]
    if min(b - a for each in boxes for a, b in each) < SIDE:
        raise ShiftsearchError(f"{_OP}: box is {box!r}, expected {SIDE} x {SIDE} pixels or more of every plane")
    return [tuple(slice(*ends) for ends in each) for each in boxes]


def _of_boxes(picture: Planes, boxes: list[tuple[slice, ...]], white: float | None) -> Noise:
    """Return the noise of a patch of each array of a picture, which shows nothing else."""
    parts = tuple(array[box] for array, box in zip(picture, boxes, strict=True))
    return _natively(parts, white, lambda xp, planes: aside([_of_part(xp, plane) for plane in planes]))


def _of_part(xp: Any, channels: Any) -> Noise:
    (part,) = taken(xp, [channels], (0.0,))
    return Noise.of(*of_flat(xp, part.noisy))
