"""Frames moved by flow, and means around pixels."""

from __future__ import annotations

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import silent


@primitive
@silent()
def warp(target: Native, flow: Native) -> Native:
    """Return target[t, c, y + dy, x + dx], (T, C, H, W), bilinear between pixels, for flow (T, 2, H, W) of dx and dy.

    Beyond the border is the mirror image of the frame, and beyond that the pixel at its other border.
    """
    T, _, H, W = target.shape
    (x, across), (y, down) = (
        _between(flow[:, channel], at, n) for channel, at, n in ((0, np.arange(W), W), (1, np.arange(H)[:, None], H))
    )
    frame = np.arange(T)[:, None, None]
    upper, lower = (
        sum(
            share[..., None] * target[frame, :, row, column]
            for share, column in zip((1 - across, across), x, strict=True)
        )
        for row in y
    )
    return np.moveaxis((1 - down)[..., None] * upper + down[..., None] * lower, -1, 1)


def _between(flow: Native, at: Native, n: int) -> tuple[tuple[Native, ...], Native]:
    """Return the two pixels that flow from pixels `at` leads between, and the share of the second."""
    flow = flow.clip(-2 * n, 2 * n)
    first = at + np.floor(flow).astype(int)
    return tuple((n - 1 - abs(n - 1 - abs(first + step))).clip(0, n - 1) for step in (0, 1)), flow - np.floor(flow)


@primitive
def mean_around(frames: Native, by: int) -> Native:
    """Return means of (2 * by + 1)**2 pixels of frames (n, h, w), fewer at the border."""
    _, h, w = frames.shape
    rows, columns = (abs(np.arange(n)[:, None] - np.arange(n)) <= by for n in (h, w))
    sums = np.einsum("ij,njk,kl->nil", rows.astype(frames.dtype), frames, columns.astype(frames.dtype))
    return sums / (rows.sum(1)[:, None] * columns.sum(1)).astype(frames.dtype)
