"""Frames moved by flow, and means around pixels: nothing is compiled for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native


@primitive
def warp(target: Native, flow: Native) -> Native:
    T, C, H, W = target.shape
    pixels = target.swapaxes(0, 1).reshape(C, -1)
    (left, right, across), (top, bottom, down) = (
        _between(flow[:, channel], at, n) for channel, at, n in ((0, np.arange(W), W), (1, np.arange(H)[:, None], H))
    )
    first = (H * W * np.arange(T))[:, None, None]

    def row(y: Native) -> Native:
        begin = first + W * y
        near, far = pixels.take(begin + left, axis=1), pixels.take(begin + right, axis=1)
        return near + across * (far - near)

    upper = row(top)
    return (upper + down * (row(bottom) - upper)).swapaxes(0, 1)


def _between(flow: Native, at: Native, n: int) -> tuple[Native, Native, Native]:
    """Return the two pixels of an axis that flow from pixels `at` leads between, mirrored, and how far from the first."""
    flow = np.clip(flow, -2.0 * n, 2.0 * n)  # farther it is mirrored once more, to no use
    whole = np.floor(flow)
    first = at + whole.astype(int)
    return _mirrored(first, n), _mirrored(first + 1, n), flow - whole


def _mirrored(at: Native, n: int) -> Native:
    last = n - 1
    return np.clip(last - abs(last - abs(at)), 0, last)


@primitive
def mean_around(frames: Native, by: int) -> Native:
    for axis in (-2, -1):
        n, around = frames.shape[axis], [(0, 0)] * frames.ndim
        around[axis] = (by, by)
        first, last = np.maximum(np.arange(n) - by, 0), np.minimum(np.arange(n) + by, n - 1)
        count = (last - first + 1).astype("float32").reshape((-1, 1) if axis == -2 else (-1,))
        frames = _sums(np.pad(frames, around), 2 * by + 1, axis) / count
    return frames


def _sums(frames: Native, count: int, axis: int) -> Any:
    """Return the sums of `count` neighbours along an axis, from sums of 1, 2, 4, 8 of them."""

    def part(of: Native, first: int, length: int) -> Native:
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
