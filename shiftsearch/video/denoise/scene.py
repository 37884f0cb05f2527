"""The frames of one scene in all stages: motion, and then the passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shiftsearch.video.denoise.passes import Frame
from shiftsearch.video.denoise.qualities import PASSES
from shiftsearch.video.denoise.running import Running
from shiftsearch.video.denoise.spec import DenoiseSpec
from shiftsearch.video.flow.measure import measure
from shiftsearch.video.frames import halved

_BLURRED = 0.2  # noise above this is not blurred more before motion is measured

Picture = list[Frame]  # the parts of one picture that are filtered separately, see `pictures`


class Scene:
    """All stages for the pictures of a scene. Each part of a picture has its own passes, which run in step."""

    def __init__(self, spec: DenoiseSpec, method: str | None, in_order: Callable[..., Iterator[Any]], frames: int):
        self._motion = _Motion(spec.caller, method)
        self._chains = [
            [Running(pass_, spec.radius, in_order) for pass_ in PASSES[spec.quality]] for _ in range(frames)
        ]

    def push(self, xp: Any, picture: Picture, flow: Any) -> list[tuple[Frame, ...]]:
        """Take the next picture and return those that are ready. `flow` is as for `_Motion.push`."""
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


class _Motion:
    """The stage that gives each frame its flow to the next one and to the one before, once both are there."""

    def __init__(self, op: str, method: str | None):
        self._op, self._method = op, method
        self._before: Picture | None = None

    def push(self, xp: Any, picture: Picture, flow: Any) -> Iterator[Picture]:
        """Yield the picture before. `flow` is what the caller measured: from that one to this one, and back."""
        before, self._before = self._before, picture
        if self._method is not None:
            picture[0].small = _small(xp, picture[0])
        if before is not None:
            if self._method is not None:
                pairs = (before[0], picture[0]), (picture[0], before[0])
                flow = [_measured(self._op, xp, self._method, *pair) for pair in pairs]
                before[0].small = None
            for one, other in zip(before, picture, strict=True):
                one.forward, other.backward = flow or (None, None)
            yield before

    def finish(self) -> Iterator[Picture]:
        """Yield the last picture."""
        if self._before is not None:
            yield self._before


def _measured(op: str, xp: Any, method: str, reference: Frame, target: Frame) -> Any:
    blurred = min(reference.sigma[0] / 2, _BLURRED)
    return measure(op, xp, method, reference.small, target.small, blurred)


def _small(xp: Any, frame: Frame) -> Any:
    """Return the first plane as a grey image (1, h, w) of half the resolution, which also halves the noise."""
    return halved(xp, halved(xp, frame.noisy[:1] / frame.white, 1), 2)
