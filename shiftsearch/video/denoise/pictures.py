"""Conversion between the caller's pictures and the frames that passes filter: opponent colours, planes of one size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from shiftsearch.video.denoise.margins import in_margins
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.denoise.passes import Frame
from shiftsearch.video.frames import coarsened, restored
from shiftsearch.video.noise import noise_level

_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32) / np.sqrt(np.array([[3], [2], [6]], np.float32))
_FAR = 2.0**30  # times white; squares of sums of such values are still finite
_BESIDE = 0.5  # weight of U and V, where that of Y is 1, in the search: more is better for U and V and worse for Y


def taken(
    xp: Any, natives: list[Any], sigmas: tuple[Any, ...], strengths: tuple[float, ...] | None = None
) -> list[Frame]:
    """Return a picture of arrays (C, H, W) on the scale 0..1 as frames to filter.

    Values that are not finite become black. Planes of one size become one frame, whose weighted sum is searched. If the
    planes after the first are coarser, they become a separate frame, with the first plane averaged to their size. A
    sigma of None is estimated, until the next frame tells more; `Noise` is that of all planes. Each plane has a strength, which is 1 if none is given.
    """
    natives = [_finite(xp, a).astype(np.float32, copy=False) for a in natives]
    frames = _planes(xp, natives, sigmas) if len(natives) > 1 else [_colours(xp, natives[0], sigmas[0])]
    for frame in frames:
        frame.strength = frame.strength if strengths is None else strengths[: len(frame.noisy)]
    return frames


def _finite(xp: Any, array: Any) -> Any:
    """Return values without those that are not finite, or the same array if there are none."""
    if xp is np and array.min() >= -_FAR and array.max() <= _FAR:  # a GPU does not wait for the answer
        return array
    return xp.where(xp.isfinite(array), xp.clip(array, -_FAR, _FAR), 0)


def _colours(xp: Any, channels: Any, sigma: Any) -> Frame:
    """Return channels as a frame of opponent colours, or of one grey plane."""
    colours = len(channels) - 1 + len(channels) % 2  # an even number of channels has alpha last
    planes = in_margins(xp, channels[:colours], _OPPONENT if colours == 3 else None)
    known = noise_level(xp, planes[:1]) if sigma is None else sigma
    noise = known if isinstance(known, Noise) else Noise.white(_of_channels(known, colours))
    unknown, alpha = [sigma is None] * colours, channels[colours:].copy()  # a view would keep all channels
    return Frame(planes, noise, unknown, white=math.sqrt(colours), alpha=alpha)


def _planes(xp: Any, natives: list[Any], sigmas: tuple[Any, ...]) -> list[Frame]:
    """Return planes as one frame, or as two if those after the first are coarser."""
    first, *others = natives
    unknown = [s is None for s in sigmas]
    levels = [noise_level(xp, a) if s is None else s for a, s in zip(natives, sigmas, strict=True)]
    noise = levels[0] if isinstance(levels[0], Noise) else Noise.white(levels)
    if others[0].shape == first.shape:
        return [Frame(in_margins(xp, xp.concatenate(natives), None), noise, unknown, (1, *[_BESIDE] * len(others)))]
    seen, factors = coarsened(xp, first, others[0].shape[1:])
    known = Noise.white([noise_level(xp, seen), *levels[1:]]) if sigmas[0] is None else noise.coarsened(factors)
    coarse = Frame(in_margins(xp, xp.concatenate([seen, *others]), None), known, unknown, (1,) * len(natives))
    return [Frame(in_margins(xp, first, None), noise.first(), unknown[:1]), coarse]


def _of_channels(sigma: Any, planes: int) -> list[float]:
    """Return the standard deviation in each plane, where `sigma` is that of all channels or one of each."""
    if isinstance(sigma, float):
        return [sigma] * planes
    return [float(s) for s in np.sqrt(_OPPONENT**2 @ np.square(sigma))] if planes == 3 else list(sigma)


def noise_of(picture: Sequence[Frame]) -> Noise:
    """Return the noise of the planes of a picture, in the order of the caller's arrays."""
    fine, *coarse = (frame.noise for frame in picture)
    return Noise.joined(fine, coarse[0]) if coarse else fine


def given(xp: Any, picture: tuple[Frame, ...], likes: tuple[Any, ...], mix: float, white: float | None) -> list[Any]:
    """Return the arrays of a picture, each in the layout of its array of `likes`. `mix` is the share of the noise that stays."""
    first, *others = (f.guide + mix * (f.noisy - f.guide) if mix else f.guide for f in picture)
    if len(likes) == 1:
        return [_whole(xp, chain(_turned(first, _OPPONENT.T), picture[0].alpha), likes[0], white)]
    planes = [plane for frame in (first, *(other[1:] for other in others)) for plane in frame]
    return [_whole(xp, [plane], like, white) for plane, like in zip(planes, likes, strict=True)]


def _whole(xp: Any, planes: Iterable[Any], like: Any, white: float | None) -> Any:
    """Return planes as an array in the layout of another one, one after the other: these are large."""
    whole = xp.empty(like.shape, like.dtype)
    channels = xp.moveaxis(whole, -1, 0) if whole.ndim == 3 else whole[None]
    for channel, plane in zip(channels, planes, strict=True):
        channel[...] = restored(xp, plane[None, None], channel, white)
    return whole


def _turned(planes: Any, basis: np.ndarray) -> Iterator[Any]:
    """Yield three channels in an orthonormal basis, in which their noise is the same; others are unchanged."""
    if len(planes) != 3:
        yield from planes
        return
    for row in basis:
        yield sum(float(weight) * plane for weight, plane in zip(row, planes, strict=True))
