"""The frames of one scene in all stages: motion, and then the passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shiftsearch.video.denoise.motion import Motion, Picture
from shiftsearch.video.denoise.passes import Frame
from shiftsearch.video.denoise.qualities import passes_of
from shiftsearch.video.denoise.running import Running
from shiftsearch.video.denoise.spec import DenoiseSpec


class Scene:
    """All stages for the pictures of a scene. Each part of a picture has its own passes, which run in step."""

    def __init__(self, spec: DenoiseSpec, method: str | None, in_order: Callable[..., Iterator[Any]], frames: int):
        self._motion = Motion(spec.caller, method, keeps=True)
        passes = passes_of(spec.quality, spec.temporal_only)
        self._chains = [[Running(pass_, spec.reach, in_order) for pass_ in passes] for _ in range(frames)]

    def push(self, xp: Any, picture: Picture, flow: Any) -> Iterator[tuple[Frame, ...]]:
        """Take the next picture and yield those that are ready. `flow` is as for `Motion.push`."""
        return self._passed(xp, self._motion.push(xp, picture, flow))

    def finish(self, xp: Any) -> Iterator[tuple[Frame, ...]]:
        """Yield the remaining pictures."""
        yield from self._passed(xp, self._motion.finish())
        yield from _together([_finished(xp, chain) for chain in self._chains])

    def _passed(self, xp: Any, pictures: Iterable[Picture]) -> Iterator[tuple[Frame, ...]]:
        for picture in pictures:
            yield from _together([_through(xp, *way) for way in zip(self._chains, picture, strict=True)])


# Frames are large: what is yielded is not kept while the next one is computed.
def _together(ways: list[Iterator[Frame]]) -> Iterator[tuple[Frame, ...]]:
    """Yield the next frames of all ways, which have the same number."""
    while frames := [frame for way in ways for frame in itertools.islice(way, 1)]:
        yield tuple(frames)
        del frames


def _through(xp: Any, stages: list[Running], frame: Frame) -> Iterator[Frame]:
    if not stages:
        yield frame
        return
    for ready in stages[0].push(xp, frame):
        yield from _through(xp, stages[1:], ready)
        del ready


def _finished(xp: Any, stages: list[Running]) -> Iterator[Frame]:
    for n, stage in enumerate(stages, 1):
        for ready in stage.finish(xp):
            yield from _through(xp, stages[n:], ready)
            del ready
