"""Where the search of a pair begins, and which of the places that it found are kept.

A flow may be wrong, and so may a place that looks better: noise, and things that went out of sight, find their likes
anywhere. So every change must win by more than noise explains, and what is seen in one frame only is left alone.
"""

from __future__ import annotations

import itertools
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
_SURE = 7.5  # times what noise alone would gain: such a place needs no others around it, if it also gains
_UNUSUAL = 1.5  # times what the best places differ on average, for each pixel of the way
_REACH = 3  # pixels each way where others may agree
_ALIKE = 1.0  # pixels between places that agree
_ENOUGH = 0.2  # of them must
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
    near &= (theirs <= cost + certain) & (mean_around(gains, _WIDE) > 0)
    if float(gains.sum()) > 0:
        flow, cost = xp.where(near, 0, flow), xp.where(near, theirs, cost)
    both = between(xp, reference, target, level, _COARSE)
    far = both[0].astype(flow.dtype)
    theirs = _difference(xp, reference, target, far, level)
    seen = agreement(xp, both, both[::-1], _APART)[0]
    beyond = (xp.abs(far - flow) > spec.window // 2).any(0)  # what a window reaches, the search finds more exactly
    better = seen & beyond & (theirs + certain < (1 - _SHARE) * cost)
    share = mean_around(better.astype("float32"), _WIDE) / (mean_around(seen.astype("float32"), _WIDE) + 1e-6)
    replaced = xp.where(seen, better, share > 0.5)  # what is hidden goes with what is around it
    flow = xp.where(replaced, far, flow)
    return flow, seen & inside(xp, flow[None])[0]


def _difference(xp: Any, reference: Any, target: Any, flow: Any, level: float) -> Any:
    """Return the mean squared difference around each pixel (H, W), without the share that noise has in it."""
    flow = flow.astype("float32")  # so that what follows is in the precision of the frames
    moved = warped(target[None], flow[None])[0]
    squared = ((moved - reference) ** 2).mean(0)
    return mean_around(squared - level**2 * (1 + _noise_kept(xp, flow)), _AROUND)


def _noise_kept(xp: Any, flow: Any) -> Any:
    """Return the share of the variance of noise that is left where a frame is read between its pixels, bilinearly."""
    part = flow - xp.floor(flow)
    each = part**2 + (1 - part) ** 2
    return each[0] * each[1]


def costs(spec: AlignSpec, xp: Any, reference: Any, target: Any, places: tuple[Any, ...], level: float) -> Any:
    """Return how much patches differ from those at each of the places (2, H, W), without the share that noise has in it."""
    values = len(reference) * spec.patch**2
    offsets = xp.zeros((1, 1, 1, *places[0].shape[1:], len(places), 3), "float32")
    offsets[0, 0, 0, ..., 1:] = xp.moveaxis(xp.stack(places)[:, ::-1], (0, 1), (2, 3))
    found = score(reference[None, None], target[None, None], offsets, patch=spec.patch)[0, 0, 0]
    noise = xp.stack([1 + _noise_kept(xp, each) for each in places], -1)
    return xp.moveaxis(found - level**2 * values * noise, -1, 0)


def kept(
    spec: AlignSpec, xp: Any, begun: Any, found: Any, seen: Any, differ: Any, values: int, level: float, *, led: bool
) -> Any:
    """Return the places (2, H, W) that are kept of those that a search found, for those that it began at.

    What is not seen in both frames stays. Places must be better by more, the farther they are. Those that leave a
    flow that led there also need others around them that are alike, or to be so much better that neither noise nor what
    differs in all of the frame explains it.
    """
    cost, theirs = differ
    far = ((found - begun) ** 2).sum(0) ** 0.5
    chance = level**2 * (2 * values) ** 0.5
    least = _CERTAIN * chance + spec.penalty * values * (level * far) ** 2
    better = seen & (theirs + least < xp.maximum(1 - _EACH * spec.penalty * far, _LEAST) * cost)
    found = xp.where(better, found, begun)
    if not led:
        return found
    usual = max(float(xp.where(xp.isfinite(theirs), theirs, 0).mean()), 0.0)
    surely = cost - theirs > xp.maximum(_SURE * chance, _UNUSUAL * usual * xp.maximum(far, 1))
    return xp.where(surely | _agreed(xp, found), found, begun)


def _agreed(xp: Any, places: Any) -> Any:
    """Return where enough of the places (2, H, W) around a pixel are like its own, (H, W)."""
    _, height, width = places.shape
    wide = xp.pad(places, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="edge")
    alike = xp.zeros((height, width), "uint8")
    steps = range(0, 2 * _REACH + 1, 2)
    for y, x in itertools.product(steps, steps):
        apart = wide[:, y : y + height, x : x + width] - places
        alike += (apart**2).sum(0) < _ALIKE**2
    return alike >= _ENOUGH * len(steps) ** 2


def light(xp: Any, reference: Any, target: Any, flow: Any) -> Light | None:
    """Return the light that brings the reference to that of the target, or None if there is no change that matters."""
    step = max(1, min(reference.shape[1:]) // _SAMPLES)
    moved = warped(target[None], flow[None].astype("float32"))[0]
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
