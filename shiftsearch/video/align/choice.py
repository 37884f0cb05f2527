"""Where the search of a pair begins, and which of the places that it found are kept.

A flow may be wrong, and so may a place that looks better: noise, and things that went out of sight, find their likes
anywhere. So every change must win by more than noise explains, and what is seen in one frame only is left alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch.ops.score import score
from shiftsearch.video.align.spec import AlignSpec
from shiftsearch.video.flow.arrays import agreement, inside, warped
from shiftsearch.video.flow.field import mean_around
from shiftsearch.video.flow.pyramid import between
from shiftsearch.video.light import Light, of_places

_AROUND = 4  # pixels each way that must agree on where the search begins
_WIDE = 24  # pixels each way that tell which flow what is hidden follows
_CERTAIN = 4.0  # standard deviations of what noise alone would gain
_SHARE = 0.5  # of the difference is gone, or a place far from the flow is no better
_EACH = 1.0  # times the penalty is the share of the difference that a pixel's way from the flow must take away
_LEAST = 0.2  # of the difference may be left, however far the way is
_APART = 2.0  # pixels between where the ways there and back of such flow end: else a pixel is hidden
_COARSE = 4  # pixels a side of what is compared to find flow that is far off
_SAMPLES = 64  # rows and columns that tell a change of light
_SEEN = 0.02  # of white: a smaller change of light makes no difference
_MENDED = 0.5  # of the difference is gone, or it was no change of light


def start(spec: AlignSpec, xp: Any, reference: Any, target: Any, flow: Any, level: float) -> tuple[Any, Any]:
    """Return where the search begins, (2, H, W), and which pixels (H, W) are seen in both frames, so can be searched.

    Flow that is nearly 0 becomes so where this makes no difference, if all that is nearly 0, and what lies around the
    pixel, comes together by it: then no pixel is interpolated. Flow that is wrong by more than a window becomes that of a
    search from coarse to fine.
    """
    cost = _difference(xp, reference, target, flow, level)
    certain = _CERTAIN * level**2 / (len(reference) ** 0.5 * (2 * _AROUND + 1))
    near = (xp.abs(flow) < 0.5).all(0)
    theirs = _difference(xp, reference, target, xp.zeros_like(flow), level)
    gains = xp.where(near, cost - theirs, 0)
    near &= (theirs <= cost + certain) & (mean_around(xp, gains, _WIDE) > 0)
    if float(gains.sum()) > 0:
        flow, cost = xp.where(near, 0, flow), xp.where(near, theirs, cost)
    both = between(xp, reference, target, level, _COARSE)
    far = both[0].astype(flow.dtype)
    theirs = _difference(xp, reference, target, far, level)
    seen = agreement(xp, both, both[::-1], _APART)[0]
    beyond = (xp.abs(far - flow) > spec.window // 2).any(0)  # what a window reaches, the search finds more exactly
    better = seen & beyond & (theirs + certain < (1 - _SHARE) * cost)
    share = mean_around(xp, better * 1.0, _WIDE) / (mean_around(xp, seen * 1.0, _WIDE) + 1e-6)
    flow = xp.where(xp.where(seen, better, share > 0.5), far, flow)  # what is hidden goes with what is around it
    return flow, seen & inside(xp, flow[None])[0]


def _difference(xp: Any, reference: Any, target: Any, flow: Any, level: float) -> Any:
    """Return the mean squared difference around each pixel (H, W), without the share that noise has in it."""
    moved = warped(xp, target[None], flow[None].astype("float32"))[0]
    squared = ((moved - reference) ** 2).mean(0)
    return mean_around(xp, squared - level**2 * (1 + _noise_kept(xp, flow)), _AROUND)


def _noise_kept(xp: Any, flow: Any) -> Any:
    """Return the share of the variance of noise that is left where a frame is read between its pixels, bilinearly."""
    part = flow - xp.floor(flow)
    each = part**2 + (1 - part) ** 2
    return each[0] * each[1]


def kept(spec: AlignSpec, xp: Any, reference: Any, target: Any, begun: Any, found: Any, seen: Any, level: float) -> Any:
    """Return the places (H, W, 2) that are kept of those that a search found, for those that it began at.

    What is not seen in both frames stays. Places must be better by more, the farther they are.
    """
    values = len(reference) * spec.patch**2
    offsets = xp.zeros((1, 1, 1, *begun.shape[:2], 2, 3), "float32")
    offsets[0, 0, 0, ..., 1:] = xp.stack([begun, found], 2)
    both = score(reference[None, None], target[None, None], offsets, patch=spec.patch)[0, 0, 0]
    certain = _CERTAIN * level**2 * (2 * values) ** 0.5
    cost, theirs = (
        both[..., n] - level**2 * values * (1 + _noise_kept(xp, xp.moveaxis(places, -1, 0)))
        for n, places in enumerate((begun, found))
    )
    far = ((found - begun) ** 2).sum(-1) ** 0.5
    moves = seen & (theirs + certain < xp.maximum(1 - _EACH * spec.penalty * far, _LEAST) * cost)
    return xp.where(moves[..., None], found, begun)


def light(xp: Any, reference: Any, target: Any, flow: Any) -> Light | None:
    """Return the light that brings the reference to that of the target, or None if there is no change that matters."""
    step = max(1, min(reference.shape[1:]) // _SAMPLES)
    moved = warped(xp, target[None], flow[None].astype("float32"))[0]
    pair = (x[:, ::step, ::step].reshape(len(x), -1) for x in (reference, moved))
    a, b = (np.array(x.tolist()) for x in pair)
    known = np.isfinite(a).all(0) & np.isfinite(b).all(0)
    if not known.any():
        return None
    a, b = a[:, known], b[:, known]
    found = of_places(a, b)
    lit = found.gain * a + np.array(found.offsets)[:, None]
    if abs(lit - a).mean() < _SEEN or np.median((b - lit) ** 2) > _MENDED**2 * np.median((b - a) ** 2):
        return None
    return found
