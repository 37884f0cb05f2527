"""The noise of a clip, found once, to be looked at and given to `denoise`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.estimate import of_flat
from shiftsearch.video.denoise.model import Noise, mean
from shiftsearch.video.denoise.motion import Motion
from shiftsearch.video.denoise.pictures import taken
from shiftsearch.video.denoise.spec import method_of, white_of
from shiftsearch.video.frames import DTYPES, layout, planar
from shiftsearch.video.scenes import with_scenes
from shiftsearch.video.types import METHOD, AnyArray, Method

_OP = "estimate_noise"


def estimate_noise(
    frames: AnyArray, *, box: Sequence[int] | None = None, flow: Method | None = METHOD, white: float | None = None
) -> Noise:
    """Find the noise of a clip: its strength, by plane, frequency and brightness.

    It is what `denoise(frames)` finds for each frame, as the mean of all: found once, for a few frames or for a flat patch
    that shows nothing but noise, and given to `denoise` as `sigma`, it makes the strength of a long clip even.

    Args:
        frames: a clip or a frame, as `denoise` takes it
        box: (top, left, height, width) of a flat patch, at least 8 pixels a side; its noise is then all that is looked at
        flow: "dis" or "farneback", along which frames are compared. With None, and for a single frame, the noise is taken
            as white, and found from fine differences
        white: the value that is white, as in `denoise`

    Returns:
        the noise, on the scale where white is 1. `print` describes it, and its method `plot` returns a picture

    Example:
        >>> rng = np.random.default_rng(0)
        >>> clip = 0.5 + 0.1 * rng.standard_normal((3, 48, 64))
        >>> print(estimate_noise(clip, box=(8, 8, 32, 32)))
        Y: noise of 25.2 of 255, white
    """
    method, scale = method_of(_OP, flow), white_of(_OP, frames, white)
    found: list[Noise] = []

    def whole(xp: Any, clip: Any) -> Any:
        source = clip if layout(_OP, "frames", clip.shape)[1] else clip[None]
        found.extend(_of_box(xp, source, box, scale) if box is not None else _along(xp, source, method, scale))
        return clip

    transform(_OP, whole, DTYPES, frames=frames)
    return mean(found)


def _along(xp: Any, source: Any, method: str | None, white: float | None) -> Iterator[Noise]:
    """Yield the noise of each frame."""
    motion = Motion(_OP, method)
    for frame, begins in with_scenes(_OP, source, white=white):
        if begins:
            yield from (picture[0].noise for picture in motion.finish())
            motion = Motion(_OP, method)
        picture = taken(xp, [planar(_OP, "frames", frame, white)[0]], (None,))
        yield from (before[0].noise for before in motion.push(xp, picture, ()))
    yield from (picture[0].noise for picture in motion.finish())


def _of_box(xp: Any, source: Any, box: Sequence[int], white: float | None) -> Iterator[Noise]:
    """Yield the noise of a patch of each frame."""
    height, width = source.shape[1:3]
    whole = all(hasattr(n, "__index__") for n in box) and len(box) == 4
    if not whole or min(box) < 0 or min(box[2:]) < 8 or box[0] + box[2] > height or box[1] + box[3] > width:
        raise ShiftsearchError(
            f"{_OP}: box is {box!r}, expected (top, left, height, width) of 8 x 8 pixels or more in {height} x {width}"
        )
    top, left, rows, columns = box
    for frame in source[:, top : top + rows, left : left + columns]:
        (part,) = taken(xp, [planar(_OP, "frames", frame, white)[0]], (0.0,))
        found = of_flat(xp, part.noisy)
        yield Noise.of(found.variances, found.shades, found.of_shades)
