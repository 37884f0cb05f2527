"""The frames of one scene in all stages: motion, and then the passes."""

from __future__ import annotations

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

    def push(self, xp: Any, picture: Picture, flow: Any) -> list[tuple[Frame, ...]]:
        """Take the next picture and return those that are ready. `flow` is as for `Motion.push`."""
        return self._passed(xp, self._motion.push(xp, picture, flow))

    def finish(self, xp: Any) -> list[tuple[Frame, ...]]:
        """Return the remaining pictures."""
        ready = self._passed(xp, self._motion.finish())
        return ready + list(zip(*(_finished(xp, chain) for chain in self._chains), strict=True))

    def _passed(self, xp: Any, pictures: Iterable[Picture]) -> list[tuple[Frame, ...]]:
        ways = [zip(self._chains, picture, strict=True) for picture in pictures]
        return [ready for way in ways for ready in zip(*(_through(xp, chain, [f]) for chain, f in way), strict=True)]


def _through(xp: Any, stages: Iterable[Running], frames: Iterable[Frame]) -> list[Frame]:
    for stage in stages:
        frames = [ready for frame in frames for ready in stage.push(xp, frame)]
    return list(frames)


def _finished(xp: Any, stages: list[Running]) -> list[Frame]:
    return [ready for n, stage in enumerate(stages, 1) for ready in _through(xp, stages[n:], stage.finish(xp))]
