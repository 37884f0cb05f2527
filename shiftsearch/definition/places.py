"""Where patches lie, and samples of a video there, bilinear between pixels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches, mirror_sign, patch_offsets, reflect
from shiftsearch._types import Native

silent: partial[np.errstate] = partial(np.errstate, all="ignore")
At = tuple[Native, Native, Native]  # frame, row and column


def queries(p: Patches, T: int, h: int, w: int) -> tuple[Native, Native, Native]:
    """Return frames, rows and columns (t, y, x) of the queries, each to be broadcast over (T, h, w)."""
    t, y, x = (np.arange(n) + first for n, first in zip((T, h, w), p.origin, strict=True))
    return t[:, None, None], (y * p.stride)[:, None], x * p.stride


def places(
    offsets: Native, p: Patches, frames: int, height: int, width: int
) -> tuple[Native, Native, Native, Native, Native]:
    """Return frame, row and column of the place of each offset (..., T, h, w, 3), and mirror signs of rows and columns."""
    offsets = np.where(np.isfinite(offsets), offsets, 0).astype(float)
    t, y, x = queries(p, *offsets.shape[-4:-1])
    frame = reflect(t + np.rint(offsets[..., 0]), frames).astype(int)
    y, x = y + offsets[..., 1], x + offsets[..., 2]
    signs = np.ones_like(y), np.ones_like(x)
    if p.border == "reflect":
        signs = mirror_sign(y, height), mirror_sign(x, width)
        y, x = reflect(y, height), reflect(x, width)
    return frame, y, x, *signs


def _index(video: Native, frame: Native, y: Native, x: Native) -> Any:
    """Return the index of the pixels of `video` (B, G, T, F, H, W) at whole positions (B, G, T, h, w)."""
    (B, G), (H, W) = video.shape[:2], video.shape[-2:]
    y, x = (np.fmax(reflect(i, n), 0).astype(int) for i, n in ((y, H), (x, W)))  # 0 for what is no number
    b, g = np.arange(B).reshape(B, *[1] * (y.ndim - 1)), np.arange(G).reshape(G, *[1] * (y.ndim - 2))
    return b, g, frame, slice(None), y, x


def _read(video: Native, y: Native, x: Native, border: str, weights: Native) -> Native:
    """Return which pixels of `video` at whole positions have a weight and exist."""
    H, W = video.shape[-2:]
    weigh = weights != 0
    return weigh if border == "reflect" else weigh & (y >= 0) & (y < H) & (x >= 0) & (x < W)


def _corners(y: Native, x: Native) -> Iterator[tuple[Native, Native, Native, Native, Native]]:
    """Yield the four whole positions around (y, x), each with its weight and the weight's derivatives by y and x."""
    y0, x0 = np.floor(y), np.floor(x)
    fy, fx = y - y0, x - x0
    for a, b in product((0, 1), (0, 1)):
        wy, wx = (fy if a else 1 - fy), (fx if b else 1 - fx)
        sy, sx = 2 * a - 1, 2 * b - 1
        yield y0 + a, x0 + b, wy * wx, sy * wx, sx * wy


def outside(video: Native, y: Native, x: Native, border: str) -> Native:
    """Return where a sample has no pixel with a weight: neither it nor its slope exists."""
    H, W = video.shape[-2:]
    if border == "reflect":
        return np.zeros(np.shape(y), bool)
    return (y <= -1) | (y >= H) | (x <= -1) | (x >= W)


def times(weights: Native, values: Native, exists: Any = True) -> Native:
    """Return weights * values, but 0 where the weight is 0 or nothing exists."""
    return np.where(exists & (weights != 0), weights * values, 0)


def _weighted(video: Native, frame: Native, y: Native, x: Native, border: str, weights: Native) -> Native:
    """Return pixels of `video` times `weights`, (B, G, T, h, w, F), but 0 where the weight is 0 or no pixel exists."""
    read = _read(video, y, x, border, weights)
    if not read.any():
        return 0.0
    pixels = video[_index(video, frame, y, x)] * weights[..., None]
    return pixels if read.all() else np.where(read[..., None], pixels, 0)


def sample(video: Native, frame: Native, y: Native, x: Native, border: str) -> Native:
    values = sum(_weighted(video, frame, v, u, border, w) for v, u, w, _, _ in _corners(y, x))
    return np.broadcast_to(values, (*y.shape, video.shape[3]))


def sample_slopes(video: Native, frame: Native, y: Native, x: Native, border: str) -> tuple[Native, Native]:
    """Return the derivatives of `sample` by y and x; at whole positions towards the next pixel."""
    exists = ~outside(video, y, x, border)
    corners = [(v, u, wy * exists, wx * exists) for v, u, _, wy, wx in _corners(y, x)]
    by_y = sum(_weighted(video, frame, v, u, border, wy) for v, u, wy, _ in corners)
    by_x = sum(_weighted(video, frame, v, u, border, wx) for v, u, _, wx in corners)
    return by_y, by_x


def spread(out: Native, frame: Native, y: Native, x: Native, border: str, values: Native) -> None:
    """Add to a video, as the transpose of `sample`, `values` (B, G, T, h, w, F) to `out`."""
    for v, u, w, _, _ in _corners(y, x):
        read = _read(out, v, u, border, w)
        if read.any():
            np.add.at(out, _index(out, frame, v, u), np.where(read[..., None], w[..., None] * values, 0))


def split(video: Native, heads: int) -> Native:
    """Return (B, T, C, H, W) in float64 as (B, G, T, F, H, W): channels are split head by head."""
    B, T, C, H, W = video.shape
    return np.asarray(video, float).reshape(B, T, heads, C // heads, H, W).swapaxes(1, 2)


def join(video: Native) -> Native:
    """Return the inverse of `split`."""
    B, G, T, F, H, W = video.shape
    return video.swapaxes(1, 2).reshape(B, T, G * F, H, W)


def patch_pixels(p: Patches) -> Iterator[tuple[Any, Any]]:
    return product(patch_offsets(p.patch, p.dilation), repeat=2)


def query_patch(q: Native, p: Patches, shape: Native, dy: Any, dx: Any) -> At:
    """Return frame, row and column of one pixel of all query patches, broadcast to `shape` (B, G, T, h, w)."""
    t, y, x = queries(p, *shape[2:])
    y, x = p.scale * y + dy, p.scale * x + dx
    return np.broadcast_to(t, shape), np.broadcast_to(y, shape), np.broadcast_to(x, shape)
