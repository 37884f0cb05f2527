"""Groups of patches that look alike: their places in the frames around."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from shiftsearch._geometry import query_grid
from shiftsearch.ops.match import match
from shiftsearch.video.denoise.margins import with_margins
from shiftsearch.video.denoise.passes import Frame, Pass, of_patches
from shiftsearch.video.denoise.paths import flow_at

_ROWS = 8  # of queries, whose candidates are chosen at once in main memory
MOST_EACH = 48  # candidates of each frame among which large groups are chosen
NEARER = 2.0  # so many times as near are patches of a frame that take the place of those of others
SPARES = 3  # patches of a frame that have to be nearer
FLAT = 0.1  # of the score of those that are close: less is flat, where patches lie over each other and share noise
_PIXELS = 64  # of a patch, which vector code holds
_SPREAD = 0.618  # multiples of it, modulo 1, lie far apart: the golden ratio


def of_each_frame(xp: Any, frames: list[Frame], here: int, pass_: Pass) -> Any:
    """Return the offsets of the best patch of each frame, (h, w, n, 3), in order of time: what moves changes steadily.

    If the best patch of a frame does not show the same thing, or some of frame `here` are much nearer, it is replaced by
    the next best of these, or, if only time counts, by the patch itself.
    """
    others = [s for s in range(len(frames) - pass_.depth + 1) if s != here]
    spares = 1 if pass_.temporal else min(max(len(frames), SPARES + 1), pass_.window**2)
    near, own = (part[:, :, 0] for part in _candidates(xp, frames, here, [here], pass_, spares))
    if not others:
        return own[:, :, :1]
    scores, found = _candidates(xp, frames, here, others, pass_, 1)
    limit = xp.asarray(worst(xp, frames[here], pass_))[..., None]
    if not pass_.temporal and pass_.close < pass_.worst:
        limit = _lowered(xp, limit, near[..., SPARES : SPARES + 1], pass_)
    good = scores[..., 0] <= limit
    rank = xp.minimum(xp.cumsum(~good, axis=2), spares - 1)
    spare = xp.take_along_axis(own, rank[..., None], axis=2)
    found = xp.where(good[..., None], found[..., 0, :], spare)
    return xp.concatenate([found[:, :, :here], own[:, :, :1], found[:, :, here:]], axis=2)


def _lowered(xp: Any, limit: Any, own: Any, pass_: Pass) -> Any:
    """Return the largest scores of patches of other frames, given those (h, w, 1) of patches of the same frame."""
    close = limit * (pass_.close / pass_.worst)
    return xp.where(own < FLAT * close, limit, xp.fmin(limit, xp.fmax(close, NEARER * own)))


def of_all_frames(xp: Any, frames: list[Frame], here: int, pass_: Pass) -> Any:
    """Return the offsets of the best `count` patches of all frames, (h, w, n, 3)."""
    there = list(range(len(frames) - pass_.depth + 1))
    each = min(pass_.count, MOST_EACH, pass_.window**2)
    some, count = _together(xp, there), min(pass_.count, len(there) * each)
    height, width = frames[here].searched.shape
    grid = query_grid(height, width, pass_.stride)
    flow = _flow_to(xp, frames, here, there, grid, pass_.stride)
    if at_once(xp, frames[here].shape[1:], pass_):
        planes = [with_margins(np, frame.seen_from(np, pass_.begin)[None]) for frame in frames]
        closest = importlib.import_module("shiftsearch.video.denoise.closest")  # loads numba
        return closest.best(planes, flow, here, pass_, count)
    least = _equal(xp, frames[here], pass_) if pass_.alike else None
    scores = xp.full((*grid, count + some * each), np.inf, np.float32)  # the best so far, and those of some frames
    offsets = xp.zeros((*scores.shape, 3), xp.int32)
    for first in range(0, len(there), some):
        those, new = slice(first, first + some), (*grid, some, each)
        found = scores[:, :, count:].reshape(new), offsets[:, :, count:].reshape(*new, 3)  # views
        _match(xp, frames, here, there[those], flow[those], pass_, *found)
        if least is not None:
            _scatter(xp, found[0], first * each, least)
        _move_best(xp, scores, offsets, count)
    return xp.ascontiguousarray(offsets[:, :, :count])


def at_once(xp: Any, size: tuple[int, ...], pass_: Pass) -> bool:
    """Return whether vector code finds the best of all frames at once: patches of few pixels, in frames of (H, W)."""
    fits = pass_.window <= min(size) and pass_.patch**2 <= _PIXELS
    return xp is np and fits and pass_.depth == 1 and not pass_.alike


def _move_best(xp: Any, scores: Any, offsets: Any, count: int) -> None:
    """Move the best `count` of the candidates (h, w, n) of each query to the front."""
    height, width, n = scores.shape
    rows = _ROWS if xp is np else height
    flat, places = scores.reshape(-1), offsets.reshape(-1, 3)
    for first in range(0, height, rows):
        some = slice(first, first + rows)
        best = xp.argpartition(scores[some], count - 1, axis=2)[:, :, :count]
        best += n * xp.arange(first * width, first * width + best[..., 0].size).reshape(-1, width, 1)
        scores[some, :, :count] = flat.take(best)
        offsets[some, :, :count] = places.take(best, axis=0)


def _scatter(xp: Any, scores: Any, number: int, least: Any) -> None:
    """Make all scores (h, w, n, k) below `least` as good, so that some of each frame come first.

    What little they differ is error of what is searched, which would choose those that have the same errors. `number`
    counts the candidates before these.
    """
    least = xp.asarray(least)[..., None, None]
    order = (number + xp.arange(scores[0, 0].size)) * _SPREAD % 1
    order = order.reshape(scores.shape[2:]).astype(scores.dtype)
    xp.copyto(scores, (order - 1) * least, where=scores < least)


def still(xp: Any, frames: list[Frame], here: int, pass_: Pass) -> Any:
    """Return where the frames that a patch spans show the same thing, (h, w)."""
    own, *later = (frame.seen_from(xp, pass_.begin) for frame in frames[here : here + pass_.depth])
    if not later:
        height, width = own.shape
        return xp.ones(query_grid(height, width, pass_.stride), bool)
    later = xp.stack(later)[:, None]
    scores, _ = match(
        xp.broadcast_to(own, later.shape), later, window=1, patch=pass_.patch, stride=pass_.stride, topk=1
    )
    return scores.max((0, 1, 4)) <= worst(xp, frames[here], pass_)


def worst(xp: Any, frame: Frame, pass_: Pass) -> Any:
    """Return the largest score of patches that show the same thing, a number or (h, w)."""
    return pass_.worst * _noise(xp, frame, pass_)


def _noise(xp: Any, frame: Frame, pass_: Pass) -> Any:
    """Return the sum of squares of the noise of a patch in the plane that is searched, a number or (h, w)."""
    relative = frame.relative(xp, 0, pass_)
    level = pass_.times_noise(frame) * frame.level * pass_.patch * (1 if relative is None else relative)
    return level * level


def _equal(xp: Any, frame: Frame, pass_: Pass) -> Any:
    """Return the score up to which patches are as good as each other, a number or (h, w).

    It follows from the errors of the plane that is searched. They are about as large as what it differs from the guide,
    another result for the frame, in the patch that is the median of all.
    """
    apart = frame.compared(frame.guide) - frame.searched
    noise = _noise(xp, frame, pass_)
    share = xp.median(pass_.patch**2 * of_patches(xp, apart * apart, pass_) / noise) if frame.level else 0
    return pass_.alike * pass_.depth * share * noise


def _candidates(xp: Any, frames: list[Frame], here: int, there: list[int], pass_: Pass, topk: int) -> tuple[Any, Any]:
    """Return the best `topk` of each frame `there` for each query of frame `here`.

    These are scores (h, w, n, k) and offsets (h, w, n, k, 3).
    """
    height, width = frames[here].searched.shape
    grid = query_grid(height, width, pass_.stride)
    flow = _flow_to(xp, frames, here, there, grid, pass_.stride)
    scores = xp.empty((*grid, len(there), topk), np.float32)
    offsets = xp.empty((*scores.shape, 3), xp.int32)
    many = _together(xp, there)
    for first in range(0, len(there), many):
        some = slice(first, first + many)
        _match(xp, frames, here, there[some], flow[some], pass_, scores[:, :, some], offsets[:, :, some])
    return scores, offsets


def _together(xp: Any, there: list[int]) -> int:
    return 1 if xp is np else len(there)  # a GPU is filled by many frames, and main memory by few


def _match(
    xp: Any, frames: list[Frame], here: int, there: list[int], flow: Any, pass_: Pass, scores: Any, offsets: Any
) -> None:
    """Write the best of each frame `there` to scores (h, w, n, k) and offsets (h, w, n, k, 3)."""
    own, *keys = (_spans(xp, frames[s : s + pass_.depth], pass_.begin) for s in [here, *there])
    keys = keys[0][None] if len(keys) == 1 else xp.stack(keys)
    options: dict[str, Any] = {"window": pass_.window, "patch": pass_.patch, "stride": pass_.stride}
    best, found = match(xp.broadcast_to(own, keys.shape), keys, flow, topk=scores.shape[3], **options)
    scores[...] = best[:, 0].transpose(1, 2, 0, 3)
    offsets[..., 0] = (xp.asarray(there, xp.int32) - here)[:, None]
    offsets[..., 1:] = found[:, 0].transpose(1, 2, 0, 3, 4)


def _spans(xp: Any, frames: list[Frame], begin: int) -> Any:
    """Return the planes to search in of neighbouring frames, (n, H, W)."""
    planes = [frame.seen_from(xp, begin) for frame in frames]
    return planes[0][None] if len(planes) == 1 else xp.stack(planes)


# --- where flow leads -------------------------------------------------------------------------------
def _flow_to(xp: Any, frames: list[Frame], here: int, others: list[int], grid: tuple[int, int], stride: int) -> Any:
    """Return flow (n - 1, 2, h, w) from the queries of frame `here` to the other frames, chained frame by frame."""
    ways = frames[here].ways.setdefault((here, len(frames), stride), {})  # computed once for all passes
    if not ways:
        y, x = (xp.arange(n) * stride for n in grid)
        start = xp.stack(xp.broadcast_arrays(x, y[:, None])).astype(np.float32)
        led, ways[here] = {here: start}, xp.zeros_like(start)
        for s in [*range(here + 1, len(frames)), *range(here - 1, -1, -1)]:
            before = s - 1 if s > here else s + 1
            flow = frames[before].forward if s > here else frames[before].backward
            step = 0 if flow is None else flow_at(xp, flow, led[before], frames[here].noisy.shape[1:])
            led[s] = led[before] + step
            ways[s] = led[s] - start
    return xp.stack([ways[s] for s in others])
