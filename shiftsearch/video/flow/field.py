"""Fields of numbers or vectors on a grid: means around each pixel, gaps that are filled, and vectors that pull at each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from shiftsearch.video.frames import halved

_KNOWN = 0.05  # mean weight of a square that tells what is found there
_RENEWED = 4  # steps after which the pulls follow the flow again
_HELD = 1e-3  # how strongly a vector is held where it is, so that a step is never infinite


class Data(NamedTuple):
    """What a flow f has to fit at each pixel: the smallest of f' [[xx, xy], [xy, yy]] f - 2 [x, y] f. Each is (n, h, w)."""

    xx: Any
    xy: Any
    yy: Any
    x: Any
    y: Any


def settled(xp: Any, flow: Any, data: Data, stiff: float, steps: int) -> Any:
    """Return the flow (n, 2, h, w) that fits the data, and follows its neighbours where these say little.

    It is the smallest of the sum over pixels of what `Data` says, and over neighbours of

        stiff * log(1 + (flow - flow')**2)
    """
    for step in range(steps):
        if step % _RENEWED == 0:
            bonds = _bonds(flow, stiff)
            held = _sum_of(xp, bonds, flow) + _HELD
            xx, yy = data.xx + held, data.yy + held
            scale = 1 / xp.maximum(xx * yy - data.xy**2, _HELD**2)
        pull = _pull(xp, bonds, flow)
        x, y = data.x + pull[:, 0] + held * flow[:, 0], data.y + pull[:, 1] + held * flow[:, 1]
        flow = xp.stack([(yy * x - data.xy * y) * scale, (xx * y - data.xy * x) * scale], 1)
    return flow


def _bonds(flow: Any, stiff: float) -> tuple[Any, Any]:
    """Return how strongly each pixel pulls at its neighbour to the right, and at that below."""
    steps = flow[..., 1:] - flow[..., :-1], flow[..., 1:, :] - flow[..., :-1, :]
    across, down = (stiff / (1 + (step**2).sum(1, keepdims=True)) for step in steps)
    return across, down


def _pull(xp: Any, bonds: tuple[Any, Any], flow: Any) -> Any:
    """Return the sum of bond * (neighbour - pixel)."""
    pull = xp.zeros_like(flow)
    across, down = bonds[0] * (flow[..., 1:] - flow[..., :-1]), bonds[1] * (flow[..., 1:, :] - flow[..., :-1, :])
    pull[..., :-1] += across
    pull[..., 1:] -= across
    pull[..., :-1, :] += down
    pull[..., 1:, :] -= down
    return pull


def _sum_of(xp: Any, bonds: tuple[Any, Any], flow: Any) -> Any:
    """Return the sum of the bonds of each pixel, (n, h, w)."""
    total = xp.zeros_like(flow[:, 0])
    across, down = (bond[:, 0] for bond in bonds)
    total[..., :-1] += across
    total[..., 1:] += across
    total[..., :-1, :] += down
    total[..., 1:, :] += down
    return total


def filled(xp: Any, found: Any, weight: Any) -> Any:
    """Return found (n, 2, h, w) where there is weight, else the mean of what lies around, from as near as possible."""
    levels = [(weight * found, weight)]
    while max(levels[-1][0].shape[2:]) > 1:
        levels.append((_halved(xp, levels[-1][0]), _halved(xp, levels[-1][1])))
    whole: Any = None
    for total, share in reversed(levels):
        mean = total / xp.maximum(share, 1e-12)
        if whole is not None:
            wide = whole.repeat(2, 2).repeat(2, 3)[:, :, : mean.shape[2], : mean.shape[3]]
            mean = xp.where(share > _KNOWN, mean, wide)
        whole = mean
    return xp.where(weight > 0, found, whole)


def _halved(xp: Any, planes: Any) -> Any:
    return halved(xp, halved(xp, planes, 2), 3)


def mean_around(xp: Any, frames: Any, by: int) -> Any:
    """Return means of (2 * by + 1)**2 pixels of frames (..., h, w), fewer at the border."""
    for axis in (-2, -1):
        n, around = frames.shape[axis], [(0, 0)] * frames.ndim
        around[axis] = (by, by)
        first, last = np.maximum(np.arange(n) - by, 0), np.minimum(np.arange(n) + by, n - 1)
        count = (last - first + 1).astype("float32").reshape((-1, 1) if axis == -2 else (-1,))
        frames = _sums(xp.pad(frames, around), 2 * by + 1, axis) / xp.asarray(count)
    return frames


def _sums(frames: Any, count: int, axis: int) -> Any:
    """Return the sums of `count` neighbours along an axis, from sums of 1, 2, 4, 8 of them."""

    def part(of: Any, first: int, length: int) -> Any:
        return of[..., first : first + length, :] if axis == -2 else of[..., first : first + length]

    length, start, size = frames.shape[axis] - count + 1, 0, 1
    total: Any = 0
    while True:
        if count & size:
            total = total + part(frames, start, length)
            start += size
        if 2 * size > count:
            return total
        left = frames.shape[axis] - size
        frames, size = part(frames, 0, left) + part(frames, size, left), 2 * size
