"""Fields of numbers or vectors on a grid: means around each pixel, gaps that are filled, and vectors that pull at each other."""

from __future__ import annotations

from typing import Any, NamedTuple

from shiftsearch import _arrays

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


def settled(flow: Any, data: Data, stiff: float, steps: int) -> Any:
    """Return the flow (n, 2, h, w) that fits the data, and follows its neighbours where these say little.

    It is the smallest of the sum over pixels of what `Data` says, and over neighbours of

        stiff * log(1 + (flow - flow')**2)
    """
    return _arrays.computed("settle", flow, *data, stiff=stiff, held=_HELD, steps=steps, renewed=_RENEWED)


def filled(found: Any, weight: Any) -> Any:
    """Return found (n, 2, h, w) where there is weight, else the mean of what lies around, from as near as possible."""
    planes = (each.reshape(-1, *found.shape[2:]) for each in (found, weight))
    return _arrays.computed("fill", *planes, known=_KNOWN).reshape(found.shape)


def mean_around(frames: Any, by: int) -> Any:
    """Return means of (2 * by + 1)**2 pixels of frames (..., h, w), fewer at the border."""
    *others, h, w = frames.shape
    return _arrays.computed("mean_around", frames.reshape(-1, h, w), by).reshape(*others, h, w)
