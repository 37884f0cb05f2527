"""The stage before the passes: what leads from each frame to its neighbours, motion and changes of light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from shiftsearch import _arrays
from shiftsearch.errors import warn
from shiftsearch.video.denoise.estimate import Found, around, differences
from shiftsearch.video.denoise.margins import apart
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.denoise.passes import Frame
from shiftsearch.video.denoise.paths import followed, warped
from shiftsearch.video.flow.measure import both_ways, measure
from shiftsearch.video.frames import halved
from shiftsearch.video.light import Light, of_places, of_quantiles
from shiftsearch.video.noise import flattest_level
from shiftsearch.video.pans import Shift, overlap, shift_between, shifted

_BLURRED = 0.2  # noise above this is not blurred more before motion is measured
_APART = 4  # pixels between patches of DIS: as good here as less, in two thirds of the time
_SQUARE = 8  # pixels a side of squares, in whose means there is hardly noise
_FINE = 4  # the same for a fit, which allows for noise: there is more contrast in smaller ones
_ROWS = 128  # or more of a frame: so many show a change of light
_FAR = 4  # pixels of the smaller plane: shorter shifts are no more to find than other motion, even of fine texture
_STEADY = 0.8  # of what one shift for all misses: flow that is measured fits noise, too
_NEARLY = 0.95  # of what one motion for all of a frame misses: more is that of noise, which flow follows
_QUIET = 2.5e-4  # of white squared: what flow misses where there is hardly noise that it could follow
_SOME = 4  # every so many pixels tell the median of flow
_STEP = 2  # pixels between places where flows are compared
_AROUND = 7  # such places a side are compared together
_FLASH = 0.1  # of white: if the light of most pixels changes more than this, motion is measured in equal light
_LESS = 0.7  # of the variance
_SEEN = 0.25  # of the noise: a smaller change of light makes no difference
_LEAST = 0.004  # of white
_COPY = 0.01  # of the noise of a frame: its copy, as for another rate of frames, differs by less
_NOTHING = 1.2  # times the variance of the noise that is found: all of the frame looks like noise
_BETTER = 0.5  # how far a change of light must bring frames together, else it is motion that was not found

Pair = tuple[Any, Any]
Picture = list[Frame]  # the parts of one picture that are filtered separately, see `pictures`


class Motion:
    """The stage that gives each frame its flow and change of light to the next one and the one before.

    A frame is returned once the next one is there. With `keeps`, frames that may be all texture have no noise.
    """

    def __init__(self, op: str, method: str | None, *, keeps: bool = False):
        self._op, self._method, self._keeps = op, method, keeps
        self._xp: Any = np
        self._doubted = False
        self._before: Picture | None = None
        self._noise: list[Any] = []  # of the parts of that picture, seen from the one before it

    def push(self, xp: Any, picture: Picture, flow: Any) -> Iterator[Picture]:
        """Yield the picture before. `flow` is what the caller measured: from that one to this one, and back."""
        before, self._before, self._xp = self._before, picture, xp
        if self._method is not None:
            picture[0].small = _small(xp, picture[0])
        if before is not None:
            if self._method is not None:
                flow = self._measured(xp, self._method, before[0], picture[0])
                before[0].small = None
            _lead(before, picture, flow)
            found = [_compared(xp, *parts) for parts in zip(before, picture, strict=True)]
            if self._method is not None:  # what is kept need not be as exact: half precision tells pixels apart
                _lead(before, picture, [apart(xp, way, np.float16) for way in flow])
            self._know(before, found)
            yield before

    def finish(self) -> Iterator[Picture]:
        """Yield the last picture."""
        if self._before is not None:
            self._know(self._before, [None] * len(self._before))
            yield self._before

    def _know(self, picture: Picture, after: list[Any]) -> None:
        """Tell the parts of a picture their noise, from comparisons with the picture before and the one after."""
        for part, *noise in zip(picture, self._noise or [None] * len(picture), after, strict=True):
            found = [each for each in noise if each is not None]
            if found:
                _know(part, found)
            elif any(part.unknown):
                self._guess(part)
        self._noise = after

    def _guess(self, frame: Frame) -> None:
        """Tell a frame that is compared with no other one the noise that it shows itself, where it is flattest."""
        level, white = frame.noise.sigma[0], frame.white
        if not frame.unknown[0] or not level:
            return
        alike = _LEAST * white < level < white and float(frame.noisy[0].var()) < _NOTHING * level**2
        if alike and self._keeps:
            self._doubt(level / white)
            share = 0.0
        else:
            share = flattest_level(self._xp, frame.noisy[0], level, white) / level
        frame.noise = frame.noise.chosen(Noise.white([share * sigma for sigma in frame.noise.sigma]), frame.unknown)

    def _doubt(self, level: float) -> None:
        if not self._doubted:
            warn(
                f"{self._op}: frames show nothing but noise or fine texture, and without motion nothing tells which: they "
                f"are kept. If it is noise, pass sigma={255 * level:.3g} for integers, or sigma={level:.2g} times white for "
                "floats"
            )
        self._doubted = True

    def _measured(self, xp: Any, method: str, before: Frame, after: Frame) -> list[Any]:
        """Return the flow from one frame to the next, and back, in the same light."""
        a, b = before.small, after.small
        dx, dy = _pan(a[0], b[0]) if xp is np else (0, 0)
        light = of_quantiles(*(_quantiles(xp, part[None]) for part in overlap(a[0], b[0], (dx, dy))))
        if _change(xp, light, a) > _FLASH:
            a = xp.clip(light.gain * a + light.offsets[0], 0, 1)
        level = min((before.noise.sigma[0] + after.noise.sigma[0]) / 4, _BLURRED)
        ways = both_ways(self._op, xp, method, a, b, level, _APART)
        smooth = _smooth(xp, light.gain * before.small[0] + light.offsets[0]), _smooth(xp, b[0])
        pairs = (a, b, (dx, dy), smooth), (b, a, (-dx, -dy), smooth[::-1])
        return [self._beyond(xp, method, *pair, level, way) for pair, way in zip(pairs, ways, strict=True)]

    def _beyond(self, xp: Any, method: str, a: Any, b: Any, shift: Shift, smooth: Pair, level: float, flow: Any) -> Any:
        """Return the flow between planes (1, h, w), of which most is shifted if it is a pan."""
        if shift == (0, 0):
            flow = _even(xp, flow, a[0], b[0])
            return _chosen(xp, [flow], [_median(xp, flow), xp.zeros((2, 1, 1), np.float32)], *smooth)
        pan = np.array(shift, np.float32)[:, None, None]
        beyond = measure(self._op, xp, method, a, shifted(b[0], shift)[None], level, _APART) + pan
        return _chosen(xp, [flow, beyond], [pan], *smooth)


def _lead(before: Picture, after: Picture, flow: Any) -> None:
    """Give the parts of two pictures the flow between them, forward and back, if there is any."""
    for one, other in zip(before, after, strict=True):
        one.forward, other.backward = flow or (None, None)


def _pan(here: np.ndarray, there: np.ndarray) -> Shift:
    """Return the shift of most of a frame, or none if it is short or misses as much: in noise, some shift is the best."""
    shift = shift_between(here, there)
    if max(map(abs, shift)) < _FAR:
        return 0, 0
    missed, still = (_coarse(x - y).var() for x, y in (overlap(here, there, shift), (here, there)))
    return shift if missed < _STEADY * still else (0, 0)


def _even(xp: Any, flow: Any, here: Any, there: Any) -> Any:
    """Return the flow, or the median of it for all of the frame if that misses hardly more: it has no errors of its own."""
    one = _median(xp, flow)
    here, there = _arrays.computed("coarser", xp.stack((here, there)))
    height, width = here.shape
    ways = flow[:, : 2 * height : 2, : 2 * width : 2] / 2, xp.broadcast_to(one / 2, (2, height, width))
    missed, missed_by_one = (((here - warped(xp, there, way)) ** 2).mean() for way in ways)
    return xp.where((missed > _NEARLY * missed_by_one) & (missed > _QUIET), one, flow)


def _chosen(xp: Any, flows: list[Any], steady: list[Any], here: Any, there: Any) -> Any:
    """Return at each place the flow that misses least around it: one of those measured there, or of those for all places."""
    every = xp.stack([xp.broadcast_to(flow, flows[0].shape) for flow in (*flows, *steady)])
    some = np.s_[..., ::_STEP, ::_STEP]
    missed = xp.stack([around(xp, (here[some] - warped(xp, there, flow[some], _STEP)) ** 2, _AROUND) for flow in every])
    missed[len(flows) :] *= _STEADY
    best = missed.argmin(0).repeat(_STEP, 0).repeat(_STEP, 1)[: here.shape[0], : here.shape[1]]
    return xp.take_along_axis(every, best[None, None], 0)[0]


def _median(xp: Any, flow: Any) -> Any:
    return xp.median(flow[:, ::_SOME, ::_SOME], axis=(1, 2)).astype(np.float32)[:, None, None]


def _smooth(xp: Any, plane: Any) -> Any:
    """Return the means of a plane over each pixel and its neighbours, in which there is less noise."""
    for _ in range(2):
        padded = xp.pad(plane, ((1, 1), (0, 0)), mode="edge")
        plane = (padded[:-2] + padded[1:-1] + padded[2:]).T
    return plane / np.float32(9)


def _coarse(plane: np.ndarray) -> np.ndarray:
    """Return a plane of a quarter of the resolution, if it is as large as that."""
    return halved(np, halved(np, halved(np, halved(np, plane[None], 1), 2), 1), 2)[0]


def _small(xp: Any, frame: Frame) -> Any:
    """Return the first plane as a grey image (1, h, w) of half the resolution, which also halves the noise."""
    return _arrays.computed("coarser", frame.noisy[:1] / frame.white)


def _quantiles(xp: Any, small: Any) -> list[float]:
    means = xp.sort(_means(xp, small).ravel())
    return means[xp.linspace(0, means.size - 1, 65).astype(int)].tolist()


# --- noise and light ---------------------------------------------------------------------------------
def _compared(xp: Any, before: Frame, after: Frame) -> Found | None:
    """Find the light of `after`, and return the noise of `before` if some of it is unknown."""
    after.light = _light(xp, before, after)
    if not any(before.unknown):
        return None
    whole = before if after.light is None else before.lit(after.light)
    gain = 1.0 if after.light is None else after.light.gain
    still = before.forward is None
    flow = xp.zeros((2, 1, 1), np.float32) if still else before.forward
    found = differences(xp, whole.noisy, after.noisy, flow, before.noise.sigma)
    if still and found is not None and not _is_less(found, before.noise):
        return None  # without motion, what differs may be anything
    if found is None or after.light is None:
        return found
    back, mean = after.light.undone(), 2 / (1 + gain * gain)
    return Found(mean * found.variances, back.gain * found.shades + back.offsets[0], mean * found.of_shades)


def _is_less(found: Found, noise: Noise) -> bool:
    """Return whether what differs between frames is much less than what a single one shows: the rest is texture."""
    return bool((found.variances.mean((1, 2)) < _LESS * np.square(noise.sigma)).all())


def _know(frame: Frame, found: list[Found]) -> None:
    """Tell a frame the noise that was found: the mean, unless one of two frames is only a copy of the other."""
    most = max(noise.variances.sum() for noise in found)
    found = [noise for noise in found if noise.variances.sum() >= _COPY * most]
    whole = Noise.of(*(np.mean(part, axis=0) for part in zip(*found, strict=True)))
    frame.noise = frame.noise.chosen(whole, frame.unknown)


def _light(xp: Any, before: Frame, after: Frame) -> Light | None:
    """Return the light that brings `before` to the next frame, or None if there is no change that matters."""
    step = max(1, min(before.noisy.shape[1:]) // _ROWS)
    moved = followed(xp, after.noisy, before.forward, step)
    pair = before.noisy[:, ::step, ::step], moved
    light = of_places(*(_listed(xp, _means(xp, planes, _FINE)) for planes in pair))
    a, b = (_listed(xp, _means(xp, planes)) for planes in pair)
    least = max(_SEEN * before.level, _LEAST * before.white)
    lit = light.gain * a + np.array(light.offsets)[:, None]
    if np.sqrt(((lit - a) ** 2).sum(0).mean()) < least:
        return None
    return light if np.median(((b - lit) ** 2).sum(0)) < _BETTER**2 * np.median(((b - a) ** 2).sum(0)) else None


def _change(xp: Any, light: Light, plane: Any) -> float:
    return float(abs((light.gain - 1) * plane + light.offsets[0]).mean())


def _listed(xp: Any, planes: Any) -> np.ndarray:
    """Return the values of planes (C, n) in main memory, in double precision."""
    found = planes if xp is np else xp.asnumpy(planes)
    return found.reshape(len(found), -1).astype(float)


def _means(xp: Any, planes: Any, square: int = _SQUARE) -> Any:
    """Return the means of squares of planes (C, H, W)."""
    channels, height, width = planes.shape
    h, w = (min(square, n) for n in (height, width))
    whole = planes[:, : height // h * h, : width // w * w]
    return whole.reshape(channels, height // h, h, width // w, w).mean((2, 4))
