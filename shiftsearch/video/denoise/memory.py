"""How much memory the frames take that a result depends on, and how much is left of the caller's limit."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from shiftsearch._homes import Cpu, home_of
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise import direct
from shiftsearch.video.denoise.groups import MOST_EACH, at_once
from shiftsearch.video.denoise.passes import Pass
from shiftsearch.video.denoise.qualities import passes_of
from shiftsearch.video.denoise.spec import DenoiseSpec
from shiftsearch.video.frames import layout
from shiftsearch.video.types import Planes

_ROOM = 2**30  # bytes for computations, unless the caller has a limit
_NUMBER = 4  # bytes
_LOOSE = 1.08  # margins, and memory that is free in pieces only
_TURNED = 10  # numbers for each number of a frame, while frames are taken and given
_MOTION = 2  # numbers for each pixel of a frame: flow, where it leads, and the plane that is searched
_CANDIDATE = 7  # numbers: its score, its offset, and what a search returns of some
_WAY = 10  # numbers for each frame that is searched at once for large groups: flow, and where it leads
_BAND = 24 << 20  # bytes for each plane: one band of groups of many patches


def room(spec: DenoiseSpec, frame: Planes) -> float:
    """Return the bytes that computations may take beside the frames, or raise an error if there are none."""
    if spec.max_memory is None:
        return _ROOM
    needed, most = held(spec, frame), float(spec.max_memory)
    if needed > most:
        frames = len(passes_of(spec.quality, False)) * (2 * spec.reach + 1)
        raise ShiftsearchError(
            f"{spec.caller}: max_memory is {most / 1e6:,.0f} MB, expected at least {needed / 1e6:,.0f} MB for {frames} "
            f"frames of {' and '.join(str(tuple(plane.shape)) for plane in frame)}; a smaller radius takes less"
        )
    return most - needed


def held(spec: DenoiseSpec, frame: Planes) -> float:
    """Return the bytes of the frames that a result depends on, and of the least computation."""
    passes, planes = passes_of(spec.quality, spec.temporal_only), _planes(spec, frame)
    frames, numbers = 2 * spec.reach + 1, sum(planes)
    of_frames = frames * numbers * sum(_of_frame(spec, frame, pass_) for pass_ in passes)
    of_motion = (len(passes) * frames + 2) * _MOTION * planes[0]
    of_candidates = max(_candidates(spec, frame, pass_) * planes[0] for pass_ in passes)
    return _LOOSE * _NUMBER * (of_frames + of_motion + _TURNED * numbers + of_candidates) + _of_bands(passes, planes)


def _of_frame(spec: DenoiseSpec, frame: Planes, pass_: Pass) -> float:
    """Return the numbers that a frame takes in a pass for each of its own: noisy and guide, sums and coverage."""
    if not direct.covers(_module(spec, frame), frame[0].shape[:2], 2 * spec.reach + 1, pass_):
        return 4
    kept = np.dtype(direct.kept()).itemsize / _NUMBER
    parted = kept < 1 and "int" in str(frame[0].dtype)  # floats may be too large
    return 2 * kept + (2 if pass_.guided and not parted else 1)


def _candidates(spec: DenoiseSpec, frame: Planes, pass_: Pass) -> float:
    """Return the numbers that candidates for large groups take, for each pixel of a frame."""
    if not pass_.count:
        return 0.0
    if at_once(_module(spec, frame), frame[0].shape[:2], pass_):
        return (3 * pass_.count + _WAY * (2 * spec.reach + 1)) / pass_.stride**2
    return _CANDIDATE * (pass_.count + MOST_EACH) / pass_.stride**2


def _module(spec: DenoiseSpec, frame: Planes) -> Any:
    """Return the module of arrays in main memory, or None for frames that are elsewhere."""
    return np if isinstance(home_of(spec.caller, {"frames": frame[0]}), Cpu) else None


def _planes(spec: DenoiseSpec, frame: Planes) -> list[int]:
    """Return the pixels of all planes that are filtered."""
    if len(frame) > 1:
        sizes = [prod(plane.shape) for plane in frame]
        return sizes if sizes[0] == sizes[1] else [*sizes, sizes[1]]  # the first plane once more, with the others
    colour, _ = layout(spec.caller, "frames", frame[0].shape)
    height, width, *channels = frame[0].shape
    return [height * width] * (channels[0] if colour else 1)


def _of_bands(passes: tuple[Pass, ...], planes: list[int]) -> int:
    return _BAND * len(planes) if any(pass_.count for pass_ in passes) else 0
