"""Frames in the light of another one, so that their patches can be compared and filtered together."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace
from typing import Any

from shiftsearch.video.denoise.passes import Frame
from shiftsearch.video.light import Light

Lights = list[Light | None]  # one for each frame; None where there is no change


def lights_to(frames: list[Frame], here: int) -> Lights:
    """Return the light that brings each frame to that of frame `here`; None where there is no change."""
    lights: Lights = [None] * len(frames)
    for s in range(here - 1, -1, -1):  # frame s, then s + 1 and so on
        lights[s] = _joined(frames[s + 1].light, lights[s + 1])
    for s in range(here + 1, len(frames)):
        step = frames[s].light
        lights[s] = _joined(None if step is None else step.undone(), lights[s - 1])
    return lights


def _joined(first: Light | None, second: Light | None) -> Light | None:
    return second if first is None else first if second is None else first.then(second)


def seen_in(frames: list[Frame], lights: Lights, here: int) -> list[Frame]:
    """Return frames in the light of frame `here`, whose noise becomes the mean of theirs."""
    if lights == [None] * len(frames):
        return frames
    seen = [copy(frame) if light is None else frame.lit(light) for frame, light in zip(frames, lights, strict=True)]
    gains = [1.0 if light is None else light.gain for light in lights]
    mean = math.hypot(*gains) / math.sqrt(len(gains))
    for frame, gain in zip(seen, gains, strict=True):
        frame.noisier = gain / mean
    planes = zip(*(frame.noise.sigma for frame in seen), strict=True)
    sigma = tuple(math.sqrt(sum(s * s for s in plane) / len(seen)) for plane in planes)
    seen[here].noise = replace(seen[here].noise, sigma=sigma)
    return seen


def unlit(sums: Any, coverage: Any, light: Light) -> tuple[Any, Any]:
    """Return sums of noise times weights, and of the weights, in the light that a frame came from."""
    return light.gain * sums, light.gain**2 * coverage
