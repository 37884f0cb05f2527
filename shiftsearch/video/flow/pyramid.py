"""Flow by our own search, from coarse to fine, on any device: method "match".

Two steps find the flow of a level, there and back, around that of the coarser one:

1. The search, on all levels but the finest, finds motion of any kind. Each pixel gets the place in a window whose patch is
   most like its own, and the parabola through the scores around it, which gives the fraction and how certain it is. Places
   count for nothing where the ways there and back do not agree.
2. The descent, on all levels, finds fractions of pixels: the frame there is moved by the flow so far, and what still differs
   around a pixel says how much farther to go. Pixels that differ by more than noise count less.

In both, vectors follow their neighbours where a pixel itself says little, see `settled`.
"""

from __future__ import annotations

from typing import Any

from shiftsearch import _arrays
from shiftsearch.ops.flow import upsample_flow
from shiftsearch.ops.match import match
from shiftsearch.video.flow.arrays import agreement, inside, warped
from shiftsearch.video.flow.field import Data, filled, mean_around, settled

_COARSEST = 12  # pixels of the shorter side of the coarsest level, or up to twice as many
_LOCAL = 4  # pixels each way that share their light
_FAR = 1e6  # times white; squares of such values are still finite

# the search
_PATCH = 9
_WINDOW = 9
_FLOOR = 1e-4  # squared difference per pixel that is no difference: 0.01 of a local standard deviation
_CHANCE = 0.3  # a place among noise is so deep, in scores
_STIFF = 2.0  # how strongly neighbours pull, in weights of a patch whose parabola is as deep as its score
_STEPS = 24

# the descent
_AROUND = 2  # pixels each way that move together
_SAME = 0.01  # of white: a smaller difference is none
_SEEN = 0.02  # of white: a smaller change of light of the whole frame makes no difference
_PULL = 1.5
_MOVES = 2, 3  # how often the frame is moved, and on the finest level
_SHORT = 12  # steps after each
_LONGEST = 2.0  # pixels that a descent leads: farther it does not see


def between(xp: Any, reference: Any, target: Any, level: float, finest: int = 1) -> Any:
    """Return the flow from reference to target and back, (2, 2, H, W) in float32.

    Args:
        xp: NumPy or CuPy
        reference, target: frames (C, H, W) on the scale 0..1
        level: standard deviation of their noise
        finest: pixels per side of the squares whose means the last level compares, a power of 2
    """
    grey = xp.stack([frame[:3].mean(0) for frame in (reference, target)]).astype("float32")
    levels = [xp.where(xp.isfinite(grey), xp.clip(grey, -_FAR, _FAR), 0)]
    while min(levels[-1].shape[1:]) > 2 * _COARSEST:
        levels.append(_arrays.computed("coarser", levels[-1]))
    last = min(finest.bit_length() - 1, len(levels) - 1)
    flow = xp.zeros((2, 2, *levels[-1].shape[1:]), "float32")
    for n in reversed(range(last, len(levels))):
        flow, noise = _doubled(flow, levels[n].shape[1:]), level / 2**n
        if n > 0 or n == len(levels) - 1:
            flow = _searched(xp, levels[n], flow, noise, slide=last > 0)
        if last == 0:  # who asks for squares asks where things went, not for fractions, and for small things, too
            flow = _descended(xp, levels[n], flow, noise, _MOVES[n == 0])
    for n in reversed(range(last)):
        flow = _doubled(flow, levels[n].shape[1:])
    return flow


def _doubled(flow: Any, size: tuple[int, int]) -> Any:
    """Return the flow of a coarser level on the grid of this `size`; of the coarsest it is as it is."""
    h, w = flow.shape[2:]
    return flow if (h, w) == size else upsample_flow(flow, (2 * h, 2 * w))[:, :, : size[0], : size[1]]


# --- the search --------------------------------------------------------------------------------------
def _searched(xp: Any, grey: Any, start: Any, noise: float, *, slide: bool) -> Any:
    """Return the flow (2, 2, h, w) of a level by the search around `start`."""
    pair = _even_light(xp, grey, noise)
    q, k = pair[:, None], pair[::-1, None]
    # without slide the same kernel serves both, and it is compiled once
    options: dict[str, Any] = {"patch": _PATCH, "subpixel": True}
    _, offsets = match(q, k, start, window=_WINDOW, topk=1, slide=slide, **options)
    best = xp.moveaxis(offsets[:, 0, :, :, 0, ::-1], -1, 1)  # dx, dy
    scores, _ = match(q, k, best, window=3, topk=None, slide=False, **options)
    scores = scores[:, 0].reshape(2, *grey.shape[1:], 3, 3)
    fraction, depth = _parabola(xp, xp.stack([scores[..., 1, :], scores[..., 1]], 1))  # along x and y
    found = best + fraction
    middle = xp.where(xp.isfinite(scores[..., 1, 1]), scores[..., 1, 1], 0)
    certain = depth / (middle + _FLOOR * _PATCH**2)[:, None]
    weight = xp.maximum(certain - _CHANCE, 0) * agreement(xp, found, found[::-1])[:, None]
    (x, y), (by_x, by_y) = ((one[:, 0], one[:, 1]) for one in (weight * found, weight))
    data = Data(by_x, xp.zeros_like(by_x), by_y, x, y)
    return settled(filled(found, weight), data, _STIFF, _STEPS)


def _even_light(xp: Any, grey: Any, noise: float) -> Any:
    """Return frames (2, h, w) without their local mean, in local standard deviations: light does not matter then."""
    mean = mean_around(grey, _LOCAL)
    spread = mean_around((grey - mean) ** 2, _LOCAL)
    return (grey - mean) / xp.sqrt(spread + (2 * noise) ** 2 + 1e-5)


def _parabola(xp: Any, three: Any) -> tuple[Any, Any]:
    """Return where the parabola through the scores at -1, 0 and 1 is lowest, at most 1/2 away, and its depth at 1."""
    three = xp.where(xp.isfinite(three).all(-1, keepdims=True), three, 0)  # beyond the border there is none
    depth = xp.maximum(three[..., 0] + three[..., 2] - 2 * three[..., 1], 0) / 2
    slope = (three[..., 0] - three[..., 2]) / 4
    return xp.clip(slope / xp.maximum(depth, 1e-12), -0.5, 0.5), depth


# --- the descent -------------------------------------------------------------------------------------
def _descended(xp: Any, grey: Any, flow: Any, noise: float, moves: int) -> Any:
    """Return the flow (2, 2, h, w) at which the frames (2, h, w), moved `moves` times, differ least."""
    there = _in_its_light(xp, grey, flow)
    for _ in range(moves):
        moved = warped(there[:, None], flow)[:, 0]
        products = _arrays.computed("descent", moved, grey, flow, same=2 * noise**2 + _SAME**2)
        xx, xy, yy, x, y = mean_around(products, _AROUND)
        before = flow
        dx, dy = flow[:, 0], flow[:, 1]
        data = Data(xx, xy, yy, xx * dx + xy * dy - x, xy * dx + yy * dy - y)
        flow = settled(flow, data, _PULL, _SHORT)
        flow = before + xp.clip(flow - before, -_LONGEST, _LONGEST)
    return flow


def _in_its_light(xp: Any, grey: Any, flow: Any) -> Any:
    """Return the other frame of each (2, h, w), with the mean and contrast of what shows the same here, if it had others."""
    there, within = grey[::-1], inside(xp, flow)
    count = xp.maximum(within.sum((1, 2), keepdims=True), 1)
    (mean, its_mean), (spread, its_spread) = _moments(
        xp, xp.stack([grey, warped(there[:, None], flow)[:, 0]]), within, count
    )
    lit = mean + (there - its_mean) * (spread / (its_spread + 1e-6))
    return xp.where(abs(lit - there).mean((1, 2), keepdims=True) > _SEEN, lit, there).astype("float32")


def _moments(xp: Any, frames: Any, within: Any, count: Any) -> tuple[Any, Any]:
    """Return the mean and the standard deviation of the pixels `within`, `count` of them, of frames (..., n, h, w)."""
    mean = (within * frames).sum((-2, -1), keepdims=True) / count
    return mean, xp.sqrt((within * (frames - mean) ** 2).sum((-2, -1), keepdims=True) / count)


def slopes(xp: Any, frames: Any) -> tuple[Any, Any]:
    """Return the derivatives of frames (n, h, w) along x and y."""
    wide = xp.pad(frames, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / 2, (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2
