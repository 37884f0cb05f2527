"""A pass in the middle of a scene.

A pass takes the frames in order and holds only those that a group may reach: `push` adds a frame, and frames are
returned when no later group can reach them. Additions to a pixel happen in the order of frames and bands of queries,
whose size depends only on that of the frame. So a result does not depend on the number of frames that follow, on
threads, or on memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from shiftsearch.video.denoise import direct
from shiftsearch.video.denoise.bands import bands, filter_band
from shiftsearch.video.denoise.groups import still
from shiftsearch.video.denoise.lights import Lights, lights_to, seen_in, unlit
from shiftsearch.video.denoise.margins import fold_margins, mirror, zeros_with_margins
from shiftsearch.video.denoise.passes import Frame, Pass
from shiftsearch.video.denoise.threads import blas_alone


class Running:
    """A pass and the frames that it holds. `in_order` runs the work on bands, see `Threads`."""

    def __init__(self, pass_: Pass, radius: int, in_order: Callable[..., Iterator[Any]]):
        self._pass, self._radius, self._ahead, self._in_order = pass_, radius, 2 * radius + 1, in_order
        self._held: dict[int, Frame] = {}
        self._arrived = self._asked = self._done = 0  # frames added, filtered and returned

    def push(self, xp: Any, frame: Frame) -> Iterator[Frame]:
        """Take the next frame of the scene and yield those that are ready."""
        if self._pass.guided and direct.covers(xp, frame.shape[1:], self._ahead, self._pass):
            frame.narrow(self._pass.begin)
        self._held[self._arrived] = frame
        self._arrived += 1
        ahead = self._ahead
        # the last frames of a scene are searched 2 * radius frames back: those from here on may be among them
        while self._done + ahead < self._arrived:  # before more memory is taken
            yield self._ready(xp)
        while self._arrived >= ahead and self._asked + self._radius < self._arrived:
            first = max(self._asked - self._radius, 0)
            self._ask(xp, range(first, first + ahead))

    def finish(self, xp: Any) -> Iterator[Frame]:
        """Yield the remaining frames at the end of the scene."""
        ahead = self._ahead
        while self._asked < self._arrived:
            first = max(min(self._asked - self._radius, self._arrived - ahead), 0)
            self._ask(xp, range(first, min(first + ahead, self._arrived)))
        while self._done < self._arrived:
            yield self._ready(xp)

    def _ready(self, xp: Any) -> Frame:
        frame = self._held.pop(self._done)
        self._done += 1
        frame.noisy, frame.parts = frame.noisy, None
        frame.guide = _mean(xp, frame)
        frame.sums = frame.coverage = frame.weighed = None
        frame.views = {}
        if self._pass.searched:
            frame.searched = frame.compared(frame.guide)
        return frame

    def _ask(self, xp: Any, numbers: range) -> None:
        """Filter the groups of the next frame of queries, among frames of these numbers."""
        frames, here = [self._held[n] for n in numbers], self._asked - numbers.start
        self._asked += 1
        lights = lights_to(frames, here)
        for pass_ in (self._pass, self._pass.beside):
            if pass_ is not None and here + pass_.depth <= len(frames):
                self._add(xp, frames, lights, here, pass_)

    def _add(self, xp: Any, frames: list[Frame], lights: Lights, here: int, pass_: Pass) -> None:
        seen = seen_in(frames, lights, here)
        if direct.covers(xp, frames[here].shape[1:], self._ahead, pass_):
            direct.add_groups(frames, seen, lights, here, pass_, self._in_order)
            return
        alike = still(xp, seen, here, pass_)
        if xp is np and not alike.any():
            return
        offsets = pass_.find(xp, seen, here, pass_)
        offsets[..., 1:] += pass_.begin
        for frame in frames:
            _begin(xp, frame)
        work = partial(filter_band, xp, seen, here, offsets, alike, pass_)
        parts = bands(xp, offsets, pass_)
        groups = math.prod(part.stop for part in parts[0])
        each = 24 * groups * offsets.shape[2] * pass_.depth * pass_.patch**2 * len(frames[here].noisy)
        with blas_alone():
            for (top, bottom), sums, coverage in self._in_order(work, parts, each):
                for first, c in enumerate(coverage):
                    those = slice(first, first + pass_.depth)
                    for frame, light, s in zip(frames[those], lights[those], sums[first], strict=True):
                        own, its = (s, c) if light is None else unlit(s, c, light)
                        frame.sums[:, top:bottom] += own
                        frame.coverage[:, top:bottom] += its


def _begin(xp: Any, frame: Frame) -> None:
    """Give a frame memory for sums, if it has none: it gets it late, when the first group adds to it."""
    if frame.sums is None:
        frame.sums, frame.coverage = (zeros_with_margins(xp, frame.noisy.shape) for _ in range(2))


def _mean(xp: Any, frame: Frame) -> Any:
    """Return a frame without the mean of the noise that is removed from its patches."""
    if frame.sums is None:
        return frame.noisy
    if frame.weighed is not None:
        return direct.mean(frame)
    mean, coverage = fold_margins(xp, frame.sums), fold_margins(xp, frame.coverage)
    known = coverage > 0  # everywhere, except where a value is NaN
    xp.copyto(coverage, 1, where=~known)
    mean /= coverage
    xp.subtract(frame.noisy, mean, out=mean)
    xp.copyto(mean, frame.noisy, where=~known)
    return mirror(xp, mean)
