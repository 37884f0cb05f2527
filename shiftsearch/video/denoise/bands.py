"""Bands of a few rows of queries, whose groups are read, filtered and put back together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from shiftsearch._geometry import query_grid
from shiftsearch.ops.fold import fold
from shiftsearch.ops.gather import gather
from shiftsearch.video.denoise.model import resized
from shiftsearch.video.denoise.passes import Frame, Pass
from shiftsearch.video.denoise.shrink import differences, evened

_BAND = {"numpy": 1 << 20, "cupy": 1 << 28}  # pixels of a band's patches: enough to be worth a call
_AT_ONCE = {"numpy": 2048, "cupy": 1 << 22}  # patches filtered at once: enough to fit the cache, or to fill the device
_LANES = 16  # groups that vector code filters at once

Part = tuple[slice, slice]  # rows and columns of queries


def bands(xp: Any, offsets: Any, pass_: Pass) -> list[Part]:
    """Return rows and columns of queries: a few whole rows each, or a part of one row."""
    h, w, n = offsets.shape[:3]
    queries = max(1, _BAND[xp.__name__] // (n * pass_.depth * pass_.patch**2))
    tall, wide = max(1, queries // w), min(queries, w)
    parts = itertools.product(range(0, h, tall), range(0, w, wide))
    return [(slice(y, min(y + tall, h)), slice(x, min(x + wide, w))) for y, x in parts]


def filter_band(
    xp: Any, frames: list[Frame], here: int, offsets: Any, still: Any, pass_: Pass, part: Part
) -> tuple[tuple[int, int], Any, Any]:
    """Filter the groups of a band and return the rows (top, bottom) that they reach, with the sums for these rows.

    These are sums of the noise that is removed (S, depth, C, bottom - top, W) and coverage (S, C, bottom - top, W) of the S
    spans of frames.
    """
    band = _Band.of(xp, frames, here, offsets, pass_, part)
    noisy, shape = band.groups(xp, "noisy")
    guide = band.groups(xp, "guide")[0] if pass_.guided else noisy
    noisier = _noisier(xp, frames, here, offsets[part]) if any(frame.noisier != 1 for frame in frames) else None
    weights = _shrink(xp, noisy, guide, frames[here], pass_, part, still[part].ravel(), noisier)
    all_weights = xp.zeros((len(noisy), *band.offsets.shape[2:4], 1), weights.dtype)
    all_weights[:, band.queries[1], band.queries[2]] = weights.reshape(-1, *shape[2:4], 1) * still[part][..., None]
    all_weights = xp.broadcast_to(all_weights[:, None], band.offsets.shape[:-1])
    size = len(band.spans), band.bottom - band.top, frames[here].noisy.shape[2]
    sums, coverage = fold(
        noisy.reshape(shape), band.offsets, all_weights, size=size, stride=pass_.stride, queries=band.queries
    )
    sums = sums.reshape(len(band.spans), len(noisy), pass_.depth, *size[1:]).swapaxes(1, 2)
    return (band.top, band.bottom), sums, coverage


@dataclass(frozen=True)
class _Band:
    """The rows that the groups of some queries are read from: top to bottom, in spans of frames."""

    pass_: Pass
    spans: list[list[Frame]]
    top: int
    bottom: int
    queries: tuple[slice, slice, slice]  # frame, rows and columns; rows are counted from `top`
    offsets: Any  # (channels, spans, h, w, n, 3)

    @classmethod
    def of(cls, xp: Any, frames: list[Frame], here: int, offsets: Any, pass_: Pass, part: Part) -> _Band:
        spans = [frames[s : s + pass_.depth] for s in range(len(frames) - pass_.depth + 1)]
        channels, H, W = frames[here].noisy.shape
        rows, columns = part
        first, top, bottom = 0, 0, H
        if rows.stop - rows.start < len(offsets):  # else all is read: a GPU need not wait for the offsets
            at = xp.arange(rows.start, rows.stop)[:, None, None] * pass_.stride + offsets[part][..., 1]
            first = min(rows.start, max(int(at.min()) - pass_.patch, 0) // pass_.stride)  # row of queries at `top`
            top = first * pass_.stride
            bottom = min(max(int(at.max()), rows.stop * pass_.stride) + pass_.patch + 1, H)
        queries = slice(here, here + 1), slice(rows.start - first, rows.stop - first), columns
        last = first + query_grid(bottom - top, W, pass_.stride)[0]
        read = offsets[first:last]  # only the offsets of `queries` are used
        read = xp.broadcast_to(read, (channels, len(spans), *read.shape))  # the same for each channel
        return cls(pass_, spans, top, bottom, queries, read)

    def groups(self, xp: Any, name: str) -> tuple[Any, tuple[int, ...]]:
        """Return the groups (channels, q, n, pixels) of the planes of this name, and their shape before that."""
        pass_, (channels, *_, n, _) = self.pass_, self.offsets.shape
        planes = [[getattr(frame, name)[:, self.top : self.bottom] for frame in span] for span in self.spans]
        planes = xp.stack([xp.stack(span, axis=1) for span in planes])
        planes = planes.reshape(len(self.spans), channels * pass_.depth, *planes.shape[-2:])
        patches = gather(
            planes, self.offsets, patch=pass_.patch, heads=channels, stride=pass_.stride, queries=self.queries
        )
        return patches.reshape(channels, -1, n, pass_.depth * pass_.patch**2), patches.shape


def _noisier(xp: Any, frames: list[Frame], here: int, offsets: Any) -> Any:
    """Return how much noisier than all each patch of groups (q, n) is."""
    each = xp.asarray([frame.noisier for frame in frames], np.float32)
    return each[here + offsets[..., 0]].reshape(-1, offsets.shape[2])


def _shrink(
    xp: Any, noisy: Any, guide: Any, frame: Frame, pass_: Pass, part: Part, counts: Any, noisier: Any | None
) -> Any:
    """Replace the groups `noisy` by the noise that is removed, and return weights (channels, q). Not all `counts` (q)."""
    weights = xp.zeros(noisy.shape[:2], noisy.dtype)
    some = max(_LANES, _AT_ONCE[xp.__name__] // noisy.shape[2] // _LANES * _LANES)
    shrink = partial(differences, shrink=pass_.shrink) if pass_.temporal else pass_.shrink
    times = pass_.times_noise(frame)
    sigmas = [times * s * sigma for s, sigma in zip(frame.strength, frame.noise.sigma, strict=True)]
    for c, (sigma, shape) in enumerate(zip(sigmas, frame.noise.shapes, strict=True)):
        relative = frame.relative(xp, c, pass_)
        shape = None if shape is None else xp.asarray(resized(shape, pass_.patch), np.float32).ravel()
        scale = None if relative is None else relative[part].ravel()
        for which in _some(xp, counts, some):
            few = c, which
            groups = (noisy[few],) * 2 if guide is noisy else (noisy[few], guide[few])
            if scale is not None:  # the noise of all groups becomes the same
                each = scale[which]
                groups = tuple(group / each[:, None, None] for group in groups)
            evenly = shrink if noisier is None else partial(evened, noisier=noisier[which], shrink=shrink)
            found, weight = evenly(xp, *groups, sigma, shape)
            if scale is not None:
                found, weight = found * each[:, None, None], weight / (each * each)
            noisy[few], weights[few] = found, weight
    return weights


def _some(xp: Any, counts: Any, most: int) -> Iterator[Any]:
    """Yield the numbers of the groups that count, so many at once; a GPU takes all, which it need not wait for."""
    if xp is not np or counts.all():
        yield from (slice(n, n + most) for n in range(0, len(counts), most))
    else:
        numbers = np.flatnonzero(counts)
        yield from (numbers[n : n + most] for n in range(0, len(numbers), most))
