"""Patches as arrays: read, added back, and their slopes."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import (
    join,
    outside,
    patch_pixels,
    places,
    sample,
    sample_slopes,
    silent,
    split,
    spread,
    times,
)


@primitive
@silent()
def gather(v: Native, offsets: Native, p: Patches) -> Native:
    """Return the patches of v at the places, (B, G, T, h, w, K, F, patch, patch)."""
    v = split(v, offsets.shape[1])
    out = np.zeros((*offsets.shape[:-1], v.shape[3], p.patch, p.patch))
    for n in range(offsets.shape[-2]):
        frame, y, x, _, _ = places(offsets[..., n, :], p, v.shape[2], *v.shape[-2:])
        for i, (dy, dx) in enumerate(patch_pixels(p)):
            out[..., n, :, i // p.patch, i % p.patch] = sample(v, frame, y + dy, x + dx, p.border)
    return out


@primitive
@silent()
def fold(patches: Native, weights: Native, offsets: Native, p: Patches, *, size: Any) -> Native:
    """Return a video of `size` (T, H, W) to which weights * patches are added: the transpose of `gather`."""
    (B, G), F = offsets.shape[:2], patches.shape[-3]
    out = np.zeros((B, G, size[0], F, *size[1:]))
    for n in range(offsets.shape[-2]):
        frame, y, x, _, _ = places(offsets[..., n, :], p, *size)
        for i, (dy, dx) in enumerate(patch_pixels(p)):
            values = patches[..., n, :, i // p.patch, i % p.patch]
            spread(
                out,
                frame,
                y + dy,
                x + dx,
                p.border,
                values if weights is None else times(weights[..., n, None], values),
            )
    return join(out)


@primitive
def fold_and_cover(
    patches: Native, weights: Native, offsets: Native, p: Patches, *, size: Any
) -> tuple[Native, Native]:
    """Return the same, and the sum of the weights at each pixel of each head (B, T, G, H, W)."""
    ones = np.ones((*offsets.shape[:-1], 1, p.patch, p.patch))
    return fold(patches, weights, offsets, p, size=size), fold(ones, weights, offsets, p, size=size)


@silent()
def slope_of_patches(v: Native, patches: Native, offsets: Native, p: Patches) -> Native:
    v = split(v, offsets.shape[1])
    out = np.zeros(offsets.shape)
    for n in range(offsets.shape[-2]):
        frame, y, x, *signs = places(offsets[..., n, :], p, v.shape[2], *v.shape[-2:])
        for i, (dy, dx) in enumerate(patch_pixels(p)):
            values = patches[..., n, :, i // p.patch, i % p.patch]
            at = frame, y + dy, x + dx
            exists = ~outside(v, *at[1:], p.border)[..., None]
            for axis, (sign, ds) in enumerate(zip(signs, sample_slopes(v, *at, p.border), strict=True), 1):
                out[..., n, axis] += times(sign[..., None], values * ds, exists).sum(-1)
    return out
