"""The jobs of the demo: they see noisy frames, and are judged by the frames and the motion that were drawn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import shiftsearch
from shiftsearch.demo.scene import Scene, visible

_PATCH = 9
_PENALTY = 1.0 * 3 * _PATCH**2  # squared differences that each squared pixel of motion must make up for: most is slow
_SEARCH: dict[str, Any] = {"patch": _PATCH, "topk": 1, "per_frame": True, "penalty": _PENALTY}
_WINDOW = 11  # pixels: motion of up to 5 in each direction


class Job(NamedTuple):
    """One row of the table: what was done, how far it is from the truth before and after, and how long it took."""

    name: str
    does: str
    before: float
    after: float
    unit: str  # "dB", of which more is better, or "pixels" off
    seconds: float  # without compiling

    @property
    def times(self) -> float:
        """Return how many times smaller the error has become."""
        return 10 ** ((self.after - self.before) / 20) if self.unit == "dB" else self.before / self.after


class Work(NamedTuple):
    """What is shown: the rows, the number t of a frame, and what was found of it and the next one."""

    jobs: list[Job]
    t: int
    noisy: np.ndarray
    clean: np.ndarray  # denoised without and with motion
    forward: np.ndarray  # the motion (2, H, W) that was found
    there: np.ndarray  # the next frame, denoised
    aligned: np.ndarray  # and moved onto this one


def work(film: Scene, noisy: np.ndarray) -> Work:
    """Do the jobs on the noisy frames of a film."""
    t = len(noisy) // 2
    seen, true = visible(film, t), film.frames[t]
    steps = _Clock()
    first = steps.time(lambda: shiftsearch.denoise(noisy, flow=None))
    flow = steps.time(lambda: found_by_search(first))
    moved = steps.time(lambda: shiftsearch.align(first[t], first[t + 1], flow[0][t], window=1))
    clean = steps.time(lambda: shiftsearch.denoise(noisy, flow=flow))
    rows = [
        ("denoise", "removes the noise", decibels(true, noisy[t]), decibels(true, first[t]), "dB"),
        ("search", "finds where each pixel goes", off(film, t, 0), off(film, t, flow[0][t]), "pixels"),
        ("align", "moves a frame onto another", decibels(true, first[t + 1], seen), decibels(true, moved, seen), "dB"),
        ("denoise", "again, along the motion found", decibels(true, noisy[t]), decibels(true, clean[t]), "dB"),
    ]
    jobs = [Job(*row, seconds) for row, seconds in zip(rows, steps.seconds, strict=True)]
    return Work(jobs, t, noisy[t], clean[t], flow[0][t], first[t + 1], moved)


def found_by_search(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the motion (T, 2, H, W) from each frame to the next, and to the one before: by pixels, then by halves."""
    video = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32)
    _, places = shiftsearch.search(video, video, window=_WINDOW, skip="own_frame", **_SEARCH)
    _, places = shiftsearch.refine(video, video, places, window=3, step=0.5, subpixel=True, **_SEARCH)
    motion = [np.zeros((len(frames), 2, *frames.shape[1:3]), np.float32) for _ in range(2)]
    for t, slot in np.ndindex(len(frames), 2):
        dt = places[0, t, 0, 0, slot, 0]
        if abs(dt) == 1:  # at the ends of the film the second neighbour is two frames away
            motion[int(dt < 0)][t] = np.moveaxis(places[0, t, ..., slot, :0:-1], -1, 0)
    return motion[0], motion[1]


def decibels(true: np.ndarray, frame: np.ndarray, where: np.ndarray | None = None) -> float:
    """Return the PSNR of a frame, of all pixels or some."""
    squared = (true.astype(float) - frame) ** 2
    return float(10 * np.log10(255**2 / (squared if where is None else squared[where]).mean()))


def off(film: Scene, t: int, flow: np.ndarray | float) -> float:
    """Return by how many pixels a motion is wrong, on average over the pixels that the next frame shows, too."""
    return float(np.hypot(*(flow - film.forward[t]))[visible(film, t)].mean())


def compiling() -> float:
    """Return the seconds that compiling has taken so far."""
    jit = sys.modules.get("shiftsearch.backends.cpu.jit")
    return jit.compiling() if jit is not None else 0.0


class _Clock:
    """Takes the time of each step, without what its first run compiles."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def time(self, step: Callable[[], Any]) -> Any:
        begin = time.perf_counter() - compiling()
        found = step()
        self.seconds.append(time.perf_counter() - compiling() - begin)
        return found
