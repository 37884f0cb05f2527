"""Flow by our own search, from coarse to fine, on any device: method "match".

A level compares patches of both frames, forward and backward. Each pixel gets the best place in a window, the parabola
through the scores around it, which gives the fraction and how certain it is, and a weight, which is 0 where forward and
backward do not agree. Vectors of little weight then follow their neighbours: the result is the smallest of

    sum of weight * (flow - found)**2 + sum over neighbours of stiffness * log(1 + (flow - flow')**2)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch.ops.flow import upsample_flow
from shiftsearch.ops.match import match
from shiftsearch.video.flow.arrays import agreement
from shiftsearch.video.flow.convert import cells

_COARSEST = 12  # pixels of the shorter side of the coarsest level, or up to twice as many
_PATCH = 9
_WINDOW = 9
_STEPS = 24  # of the smoothing
_STIFF = 2.0  # how strongly neighbours pull, in weights of a patch whose parabola is as deep as its score
_FLOOR = 1e-4  # squared difference per pixel that is no difference: 0.01 of a local standard deviation
_CHANCE = 0.3  # a place among noise is so deep, in scores
_KNOWN = 0.05  # mean weight of a square that tells what is found there
_LOCAL = 4  # pixels each way that share their light


def between(xp: Any, reference: Any, target: Any, level: float, finest: int = 1) -> Any:
    """Return the flow from reference to target and back, (2, 2, H, W) in float32.

    Args:
        xp: NumPy or CuPy
        reference, target: frames (C, H, W) on the scale 0..1
        level: standard deviation of their noise
        finest: pixels per side of the squares whose means the last level compares
    """
    grey = xp.stack([frame[:3].mean(0) for frame in (reference, target)]).astype("float32")
    grey = xp.where(xp.isfinite(grey), grey, 0)
    size = grey.shape[1:]
    flow: Any = None
    for step in _sizes(min(size), finest):
        h, w = (-(-n // step) for n in size)
        pair = _even_light(xp, _reduced(xp, grey, (h, w)), level / step)
        flow = _level(xp, pair, None if flow is None else upsample_flow(flow, (h, w)))
    return flow if flow.shape[2:] == size else upsample_flow(flow, size)


def _sizes(shorter: int, finest: int) -> list[int]:
    """Return the pixels per side of each level's squares, the coarsest first."""
    sizes = [finest]
    while shorter > 2 * _COARSEST * sizes[0]:
        sizes.insert(0, 2 * sizes[0])
    return sizes


def _reduced(xp: Any, grey: Any, size: tuple[int, int]) -> Any:
    rows, columns = (xp.asarray(cells(n, m), "float32") for n, m in zip(grey.shape[1:], size, strict=True))
    return rows @ grey @ columns.T


def _even_light(xp: Any, grey: Any, level: float) -> Any:
    """Return frames (2, h, w) without their local mean, in local standard deviations: light does not matter then."""
    mean = mean_around(xp, grey, _LOCAL)
    spread = mean_around(xp, (grey - mean) ** 2, _LOCAL)
    return (grey - mean) / xp.sqrt(spread + (2 * level) ** 2 + 1e-5)


def _level(xp: Any, pair: Any, flow: Any) -> Any:
    """Return the flow (2, 2, h, w) of a level, around that of the coarser one."""
    q, k = pair[:, None], pair[::-1, None]
    start = xp.zeros((2, 2, *pair.shape[1:]), "float32") if flow is None else flow
    _, offsets = match(q, k, start, window=_WINDOW, patch=_PATCH, topk=1, subpixel=True)
    best = xp.moveaxis(offsets[:, 0, :, :, 0, ::-1], -1, 1)  # dx, dy
    scores, _ = match(q, k, best, window=3, patch=_PATCH, topk=None, subpixel=True, slide=False)
    scores = scores[:, 0].reshape(2, *pair.shape[1:], 3, 3)
    lines = scores[..., 1, :], scores[..., 1]  # along x and y
    fraction, depth = zip(*(parabola(xp, line) for line in lines), strict=True)
    found = best + xp.stack(fraction, 1)
    middle = xp.where(xp.isfinite(scores[..., 1, 1]), scores[..., 1, 1], 0)
    certain = xp.stack(depth, 1) / (middle + _FLOOR * _PATCH**2)[:, None]
    certain = xp.maximum(certain - _CHANCE, 0)
    weight = certain * agreement(xp, found, found[::-1])[:, None]
    return _smoothed(xp, xp.where(weight > 0, found, _filled(xp, found, weight)), found, weight)


def _filled(xp: Any, found: Any, weight: Any) -> Any:
    """Return at each pixel the mean of what was found around it, from as near as there is something certain."""
    filled, known = xp.zeros_like(found), xp.zeros(found.shape, bool)
    by, most = 1, max(found.shape[2:])
    while True:
        total = mean_around(xp, weight, by)
        filled = xp.where(known, filled, mean_around(xp, weight * found, by) / xp.maximum(total, 1e-12))
        known |= total > _KNOWN
        if by > most:
            return filled.astype("float32")
        by *= 2


def parabola(xp: Any, three: Any) -> tuple[Any, Any]:
    """Return where the parabola through the scores at -1, 0 and 1 is lowest, at most 1/2 away, and its depth at 1."""
    three = xp.where(xp.isfinite(three).all(-1, keepdims=True), three, 0)  # beyond the border there is none
    depth = xp.maximum(three[..., 0] + three[..., 2] - 2 * three[..., 1], 0) / 2
    slope = (three[..., 0] - three[..., 2]) / 4
    return xp.clip(slope / xp.maximum(depth, 1e-12), -0.5, 0.5), depth


def _smoothed(xp: Any, flow: Any, found: Any, weight: Any) -> Any:
    """Return the flow that keeps to what was found as far as its weight goes, and else follows its neighbours."""
    for _ in range(_STEPS):
        near = _shifted(xp, flow)
        pull = [_STIFF / (1 + ((other - flow) ** 2).sum(1, keepdims=True)) for other in near]
        total = weight * found + sum(p * other for p, other in zip(pull, near, strict=True))
        flow = total / (weight + sum(pull))
    return flow.astype("float32")


def _shifted(xp: Any, flow: Any) -> list[Any]:
    """Return for each pixel its four neighbours; beyond the border itself."""
    wide = xp.pad(flow, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return [wide[:, :, :-2, 1:-1], wide[:, :, 2:, 1:-1], wide[:, :, 1:-1, :-2], wide[:, :, 1:-1, 2:]]


def mean_around(xp: Any, frames: Any, by: int) -> Any:
    """Return means of (2 * by + 1)**2 pixels of frames (..., h, w), fewer at the border."""
    for axis in (-1, -2):
        n = frames.shape[axis]
        sums = xp.cumsum(frames.astype("float64"), axis)
        sums = xp.concatenate([xp.zeros_like(sums.take(xp.arange(1), axis=axis)), sums], axis)
        first, last = np.maximum(np.arange(n) - by, 0), np.minimum(np.arange(n) + by + 1, n)
        shape = (-1, 1) if axis == -2 else (-1,)
        count = xp.asarray((last - first).reshape(shape))
        frames = (sums.take(xp.asarray(last), axis=axis) - sums.take(xp.asarray(first), axis=axis)) / count
    return frames.astype("float32")
