"""Positions and borders for numba kernels, all of them: the formulas of shiftsearch/_geometry.py.

The twin of cuda_src/grid.cuh. Nothing here is computed with fast-math, so that all backends look at the same places,
bit for bit.
"""

from __future__ import annotations

import math

import numpy as np

from shiftsearch.backends.cpu.jit import exact


@exact
def reflect(i: int, n: int) -> int:
    """Return whole position `i` mirrored into [0, n - 1] without repeating the edge: -1 is 1, n is n - 2."""
    if 0 <= i < n:
        return i
    if n == 1:
        return 0
    i %= 2 * (n - 1)
    return i if i < n else 2 * (n - 1) - i


@exact
def within_period(x: float, n: int) -> float:
    """Return position `x` minus whole periods of a mirrored axis of `n` pixels, in [0, 2 * (n - 1)); n is at least 2."""
    return x % (2.0 * (n - 1))


@exact
def mirror(x: float, n: int) -> tuple[float, float]:
    """Return any position `x` mirrored likewise, and the sign of the derivative: -1 in a mirror image, 0 if n is 1."""
    if n == 1:
        return 0.0, 0.0
    if 0 <= x <= n - 1:
        return x, 1.0
    x = within_period(x, n)
    return (x, 1.0) if x <= n - 1 else (2.0 * (n - 1) - x, -1.0)


@exact
def finite(x: float) -> float:
    """Return `x` in float64, 0 if it is not finite."""
    x = np.float64(x)
    return x if math.isfinite(x) else 0.0


@exact
def pixel(i: int, n: int, mirrored: bool) -> int:
    """Return the pixel at whole position `i` of an axis, or -1 if its border is empty there."""
    if 0 <= i < n:
        return i
    return reflect(i, n) if mirrored else -1


@exact
def frame_of_place(t: int, dt: float, frames: int) -> np.int64:
    """Return the frame of a place: `dt` is rounded, and mirrored at the ends of the clip."""
    return np.int64(mirror(t + np.rint(finite(dt)), frames)[0])


@exact
def slots_ahead(t: int, frames: int, radius: int) -> int:
    """Return how many slots of frame t lead forward."""
    return min(max(t + radius, 2 * radius), frames - 1) - t
