"""Detection of where scenes begin: thumbnails of neighbouring frames are searched in each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.match import match
from shiftsearch.video.forms import Each
from shiftsearch.video.frames import DTYPES, check_frame, planar
from shiftsearch.video.light import of_quantiles
from shiftsearch.video.pans import overlap, shift_between
from shiftsearch.video.streams import iterated
from shiftsearch.video.types import AnyArray, Picture

_SIDE = 24  # pixels of a thumbnail's shorter side
_WINDOW = 21  # half pixels of a thumbnail that are searched for a patch: motion of a fifth of its rows
_NEAR = 5  # half pixels that are searched where the frames of a pan overlap: their shift is known
_PATCH = 7
_CHANGE = 0.4  # real cuts gave 0.7 and more, motion and pans at most 0.3
_FLAT = 0.02  # of white: contrast below this is none
_COLOURFUL = 0.25  # of the contrast in brightness; in most clips, that in colour is less
_FLASH = 0.25  # of white: flat frames that differ by more are two scenes
_QUANTILES = 65  # of a thumbnail, by which its light is compared


def scene_cuts(frames: Iterable[AnyArray | Picture]) -> Iterator[int]:
    """Yield the numbers of the frames that begin a scene.

    Each frame is compared with the one before it, as thumbnails of about 24 rows. Patches of each are searched in the
    other. A frame begins a scene if what is found differs by more than 40 % of the contrast of the two. If they are very
    colourful, they must differ in colour alone, too. These are no cuts:

    - noise, pans (up to half of the frame) and fast motion
    - flashes and fades: they show the same scene in other light
    - dissolves: no single frame begins the scene

    Args:
        frames: a clip, or any iterable of frames (H, W) or (H, W, C). It is read once, and frames are not kept

    Returns:
        iterator over frame numbers, from 1 on

    Example:
        >>> rng = np.random.default_rng(0)
        >>> first, second = rng.random((2, 12, 16)).repeat(4, 1).repeat(4, 2)
        >>> clip = [np.roll(first, n, axis=1) for n in range(4)] + [np.roll(second, n, axis=0) for n in range(4)]
        >>> list(scene_cuts(clip))
        [4]
    """
    for number, (_, begins) in enumerate(with_scenes("scene_cuts", frames)):
        if begins and number:
            yield number


def with_scenes(
    op: str, frames: Iterable[Any], seen: Callable[[Any], Any] = lambda frame: frame, white: float | None = None
) -> Iterator[tuple[Any, bool]]:
    """Yield each frame and whether it begins a scene, as the first one does. `seen(frame)` is the array to compare."""
    before = first = None
    for number, whole in enumerate(Each(op, iterated(op, frames))):
        frame = seen(whole)
        last: dict[str, Any] = {} if before is None else {"the frame before": before[0]}  # of one library and device
        thumbnail = transform(op, lambda xp, array, *_: _thumbnail(op, xp, array, white), DTYPES, frame=frame, **last)
        first = first or (tuple(frame.shape), frame.dtype)
        if (tuple(frame.shape), frame.dtype) != first:
            raise ShiftsearchError(
                f"{op}: frame {number} is {frame.dtype} {tuple(frame.shape)}, expected {first[1]} {first[0]} as frame 0"
            )
        yield whole, before is None or _cut(before, thumbnail)
        before = thumbnail


def _thumbnail(op: str, xp: Any, frame: Any, white: float | None) -> tuple[Any, Any, Any, Any]:
    """Return a thumbnail (1, h, w), the most noise in it, its quantiles, and its channels (C, h, w).

    It has means over squares of pixels, and over the channels. The noise is a variance.
    """
    check_frame(op, "frame", frame.shape)
    step = max(1, min(frame.shape[:2]) // (8 * _SIDE))  # some pixels of a large frame are enough
    native = planar(op, "frame", frame[::step, ::step], white)
    native = xp.fmin(xp.fmax(native, 0), 1).astype("float32")  # NaN, and values beyond black and white, are ignored
    _, channels, height, width = native.shape
    side = max(1, min(height, width) // _SIDE)
    h, w = height // side, width // side
    squares = native[0, :, : h * side, : w * side].reshape(channels, h, side, w, side)
    colours = squares.mean(2).mean(-1)
    spread = (squares**2).mean() - (colours**2).mean()  # the mean variance within squares
    means = colours.mean(0)
    quantiles = xp.sort(means.ravel())[xp.linspace(0, means.size - 1, _QUANTILES).astype(int)]
    return means[None], spread.reshape(1) / (channels * side**2), quantiles, colours


def _cut(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """Return whether two thumbnails differ, also if one of them is brought to the light of the other."""
    if not _differ(before[:2], after[:2]):
        return False
    (a, *_), (b, *_) = before, after
    if max(_contrast(a), _contrast(b)) < _FLAT**2:  # nothing but its brightness tells what a flat frame shows
        return abs(float(a.mean() - b.mean())) > _FLASH
    in_light = all(_differ(_lit(x, y), y[:2]) for x, y in ((before, after), (after, before)))
    return in_light and _differ(*_overlap(before, after), _NEAR) and not _same_colours(before, after)


def _same_colours(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """Return whether two thumbnails are alike but for their brightness, which grain may hide, and have much colour."""
    a, b = _coloured(before), _coloured(after)
    grey = len(a[0]) * (_contrast(before[0]) + _contrast(after[0]))
    return _contrast(a[0]) + _contrast(b[0]) > _COLOURFUL * grey and not _differ(a, b)


def _coloured(thumbnail: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return how the channels of a thumbnail differ from their mean, and the noise of all."""
    means, noise, _, channels = thumbnail
    return channels - means, len(channels) * (len(channels) - 1) * noise


def _overlap(*thumbnails: tuple[Any, ...]) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return the parts of two thumbnails that show the same if the camera has been panned far, and the noise."""
    (a, noise_a), (b, noise_b) = (
        [np.array(part.tolist(), np.float32) for part in thumbnail[:2]] for thumbnail in thumbnails
    )
    first, second = overlap(a[0], b[0], shift_between(a[0], b[0]))
    return (first[None], noise_a), (second[None], noise_b)


def _lit(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return a thumbnail and its noise in the light of another one, clipped as that one may be."""
    gain, (offset,) = of_quantiles(a[2].tolist(), b[2].tolist())
    return (gain * a[0] + offset).clip(0, 1), gain * gain * a[1]


def _differ(before: tuple[Any, Any], after: tuple[Any, Any], window: int = _WINDOW) -> bool:
    """Return whether too much of the contrast of two thumbnails, beyond noise, is not found in the other one."""
    (a, noise_a), (b, noise_b) = before, after
    contrast = (_contrast(a) + _contrast(b)) / 2
    most = _CHANGE * (contrast + _FLAT**2) + float((noise_a + noise_b).sum())
    # frames that are alike without motion need no search: a window of 1 gives the same both ways
    return _missed(a, b, 1) > most and max(_missed(a, b, window), _missed(b, a, window)) > most


def _contrast(thumbnail: Any) -> float:
    """Return the variance of a thumbnail (C, h, w), the sum of its channels."""
    return float(((thumbnail - thumbnail.mean((1, 2), keepdims=True)) ** 2).mean((1, 2)).sum())


def _missed(a: Any, b: Any, window: int) -> float:
    scores, _ = match(
        a[None], b[None], window=window, patch=_PATCH, topk=1, stride=4, step=0.5, subpixel=True, slide=False
    )
    return float(scores.mean()) / _PATCH**2
