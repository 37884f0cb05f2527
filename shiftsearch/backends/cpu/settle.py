"""Fields of vectors that pull at each other, all pixels at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native


@primitive
def settle(
    flow: Native,
    xx: Native,
    xy: Native,
    yy: Native,
    x: Native,
    y: Native,
    *,
    stiff: float,
    held: float,
    steps: int,
    renewed: int,
) -> Native:
    n, _, h, w = flow.shape
    wide = np.zeros((n, 2, h + 2, w + 2), flow.dtype)  # beyond the border nothing pulls
    now = wide[:, :, 1:-1, 1:-1]
    now[...] = flow
    around = wide[:, :, 1:-1, 2:], wide[:, :, 1:-1, :-2], wide[:, :, 2:, 1:-1], wide[:, :, :-2, 1:-1]
    data, pull, part = np.stack((x, y), 1), np.empty_like(now), np.empty_like(now)
    for step in range(steps):
        if step % renewed == 0:
            bonds = _bonds(now, stiff)
            total = sum(bonds[1:], bonds[0])[:, 0] + flow.dtype.type(held)
            along, between = _inverse(xx + total, xy, yy + total, held)
            base = along * data + between * data[:, ::-1]
        np.multiply(now, flow.dtype.type(held), out=pull)
        for bond, there in zip(bonds, around, strict=True):
            pull += np.multiply(bond, there, out=part)
        np.multiply(between, pull[:, ::-1], out=part)
        pull *= along
        pull += part
        np.add(pull, base, out=now)
    return now.copy()


def _bonds(flow: Native, stiff: float) -> list[Any]:
    """Return how strongly the neighbours to the right, left, below and above pull at each pixel, (n, 1, h, w)."""
    n, _, h, w = flow.shape
    across, down = np.zeros((n, 1, h, w + 1), flow.dtype), np.zeros((n, 1, h + 1, w), flow.dtype)
    for bonds, apart in (
        (across[..., 1:-1], flow[..., 1:] - flow[..., :-1]),
        (down[..., 1:-1, :], flow[..., 1:, :] - flow[..., :-1, :]),
    ):
        apart *= apart
        np.divide(flow.dtype.type(stiff), 1 + apart[:, :1] + apart[:, 1:], out=bonds)
    return [across[..., 1:], across[..., :-1], down[..., 1:, :], down[..., :-1, :]]


def _inverse(xx: Native, xy: Native, yy: Native, held: float) -> tuple[Native, Native]:
    """Return what the inverse matrix of each pixel has along its diagonal, (n, 2, h, w), and beside it, (n, 1, h, w)."""
    scale = 1 / np.maximum(xx * yy - xy**2, held**2)
    return np.stack((yy * scale, xx * scale), 1), (-xy * scale)[:, None]
