"""Align and denoise clips of any constant format in VapourSynth scripts. VapourSynth needs Python 3.12 or later.

    from shiftsearch.vapoursynth import Align, Denoise
    clip = Denoise(clip, sigma=8, radius=2)

Frames are computed in groups. Groups begin at fixed places in the clip: so a frame does not depend on which ones were
requested before it. Requests in order cost least: a group is computed once while it stays in VapourSynth's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import shiftsearch
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.align.spec import ONTO, Onto
from shiftsearch.video.denoise import Noise, denoise_planes
from shiftsearch.video.denoise.spec import DenoiseSpec, strengths_of
from shiftsearch.video.device import place_of
from shiftsearch.video.flow.measure import METHODS
from shiftsearch.video.types import METHOD, Measure, Method, Quality, Strength

Frame = Sequence[np.ndarray]  # planes of floats


def Denoise(
    clip: Any,
    sigma: float | list[float | None] | tuple[float | None, ...] | Noise | None = None,
    radius: int | None = DenoiseSpec.radius,
    planes: int | Sequence[int] | None = None,
    quality: Quality = DenoiseSpec.quality,
    flow: Method | Measure | None = METHOD,
    strength: Strength = 1.0,
    mix: float = DenoiseSpec.mix,
    temporal_only: bool = DenoiseSpec.temporal_only,
    device: str | None = None,
) -> Any:
    """Remove the noise of a clip.

    RGB is denoised as a whole. Other formats are denoised plane by plane, along the motion of the first plane.

    Args:
        clip: a VideoNode of constant format and size
        sigma: standard deviation of the noise, where white is 255 in every format. A list has one for each plane. What
            `shiftsearch.estimate_noise` returns is taken, too. None estimates it, frame by frame
        radius: how many frames to use each way. None is that of the quality
        planes: numbers of the planes to denoise, all by default. The others stay as they are
        strength: as in `shiftsearch.denoise`. A list has one for each plane
        quality, flow, mix, temporal_only: as in `shiftsearch.denoise`
        device: where frames are computed: "cpu", "cuda:0" or another number, or "auto", as in `shiftsearch.denoise_stream`

    Returns:
        VideoNode of the same format, size and length, with the properties of the frames of `clip`
    """
    known = _format("Denoise", clip)
    chosen = _planes(clip, planes)
    sigmas: list[Any] = list(sigma) if isinstance(sigma, (list, tuple)) else [sigma] * known.num_planes
    if len(sigmas) != known.num_planes:
        raise ShiftsearchError(f"Denoise: sigma has {len(sigmas)} values, expected one or {known.num_planes}")
    sigmas = [s if s is None or isinstance(s, Noise) else s / 255 for s in sigmas]
    strengths = strengths_of("Denoise", strength, known.num_planes)
    options: dict[str, Any] = {"radius": radius, "quality": quality, "mix": mix, "temporal_only": temporal_only}
    DenoiseSpec(caller="Denoise", **options)  # wrong options raise an error here, not at the first frame
    place_of("Denoise", device)  # as does a device that is not there
    options |= {"flow": flow, "device": device}

    def denoised(frames: list[Frame], kept: list[int]) -> list[Frame]:
        done: list[Any]
        if known.name.startswith("RGB"):
            whole = denoise_planes(
                [(np.stack(frame, -1),) for frame in frames], sigmas[0], strength=strengths, **options
            )
            done = [np.moveaxis(frame, -1, 0) for (frame,) in whole]
        else:
            needed = 1 if chosen == [0] else known.num_planes  # the motion of the others is that of the first
            pictures = [tuple(frame[:needed]) for frame in frames]
            done = list(denoise_planes(pictures, sigmas[:needed], strength=strengths[:needed], **options))
        return [[done[t][p] if p in chosen else frames[t][p] for p in range(known.num_planes)] for t in kept]

    return _in_groups(clip, denoised, 16, shiftsearch.denoise_overlap(radius=radius, quality=quality))


def Align(
    clip: Any,
    to: Onto | int = ONTO,
    flow: Method | None = METHOD,
    device: str | None = None,
    **options: Any,
) -> Any:
    """Move each frame onto its neighbour, or all frames onto one, by `shiftsearch.align`.

    Flow is measured on the first plane, and all planes are searched. Smaller colour planes are enlarged for the search,
    and reduced again.

    Args:
        clip: a VideoNode of constant format and size
        to: "previous", "next" or the number of a frame. A frame without such a neighbour stays as it is
        flow: "auto", "match", "dis", "farneback" or None
        device: as in `Denoise`
        options: window, patch, penalty, subpixel, output and interp as in `shiftsearch.align`

    Returns:
        VideoNode of the same format, size and length, with the properties of the frames of `clip`
    """
    known = _format("Align", clip)
    steps: dict[Any, int] = {"previous": -1, "next": 1}
    if to not in steps and (isinstance(to, bool) or not isinstance(to, int) or not 0 <= to < clip.num_frames):
        raise ShiftsearchError(
            f"Align: to is {to!r}, expected previous, next or a number from 0 to {clip.num_frames - 1}"
        )
    if flow not in (*METHODS, None):
        raise ShiftsearchError(f"Align: flow is {flow!r}, expected auto, match, dis, farneback or None")
    factors, place = (1 << known.subsampling_h, 1 << known.subsampling_w), place_of("Align", device)

    def motion(reference: np.ndarray, frame: np.ndarray) -> np.ndarray:
        return getattr(shiftsearch.flow, flow or "none")(reference[..., :1], frame[..., :1])

    def aligned(frames: list[Frame], kept: list[int]) -> list[Frame]:
        whole = [frame for (frame,) in place.up((_one_size(frame, factors),) for frame in frames)]
        moved: list[Frame] = []
        for t in kept:
            at = t + steps[to] if to in steps else len(whole) - 1
            if 0 <= at < len(whole):
                found = shiftsearch.align(whole[at], whole[t], motion, **options)
                moved.append(_own_sizes(place.get(found), factors))
            else:
                moved.append(frames[t])
        return moved

    reach = 1 if to in steps else 0
    return _in_groups(clip, aligned, 8, reach, None if isinstance(to, str) else to)


# --- groups of frames -------------------------------------------------------------------------------
def _in_groups(
    clip: Any,
    function: Callable[[list[Frame], list[int]], list[Frame]],
    size: int,
    reach: int,
    also: int | None = None,
) -> Any:
    """Return a clip made by `function(frames, kept)`, which takes frames and returns the results of those of `kept`.

    A group is one frame of a helper clip, as tall as `size` frames, so that VapourSynth itself manages threads and
    caches. Frames up to `reach` before and after a group are read with it, where the clip has them, and frame `also` is
    appended.
    """
    import vapoursynth

    std, length = vapoursynth.core.std, clip.num_frames
    places, count = range(-reach, size + reach), -(-length // size)
    sources = _by_place(clip, places, size, count)
    if also is not None:
        sources.append(clip[also : also + 1] * count)
    tall = std.BlankClip(clip, height=clip.height * size, length=count, keep=True)

    def group(n: int, f: list[Any]) -> Any:
        there = [i for i, place in enumerate(places) if 0 <= n * size + place < length]
        kept = [k for k, i in enumerate(there) if 0 <= places[i] < size]
        chosen = there if also is None else [*there, len(places)]
        out = f[0].copy()
        _write_below(out, function([_floats(f[1 + i]) for i in chosen], kept))
        return out

    return _cut(std, std.ModifyFrame(tall, [tall, *sources], group), clip, size)


def _by_place(clip: Any, places: range, size: int, count: int) -> list[Any]:
    """Return, for each place in or beside a group, a clip of the frames there, one for each group."""
    before, after = -places.start, count * size + places.stop - size - clip.num_frames
    padded = clip[:1] * before + clip if before else clip
    padded = padded + clip[-1:] * after if after else padded
    return [padded[place + before :: size][:count] for place in places]


def _write_below(out: Any, frames: list[Frame]) -> None:
    """Write frames one below the other into a tall one."""
    for number, planes in enumerate(frames):
        for p, plane in enumerate(planes):
            rows = np.asarray(out[p])
            rows[number * len(plane) : (number + 1) * len(plane)] = _samples(plane, out.format)


def _cut(std: Any, tall: Any, clip: Any, size: int) -> Any:
    """Return the frames that lie one below the other in tall ones, as a clip with the properties of `clip`."""
    height = clip.height
    parts = [std.Crop(tall, top=i * height, bottom=(size - 1 - i) * height) for i in range(size)]
    result = std.Interleave(parts)[: clip.num_frames]
    if clip.fps:
        result = std.AssumeFPS(result, src=clip)
    return std.CopyFrameProps(result, clip)


# --- formats ----------------------------------------------------------------------------------------
def _format(function: str, clip: Any) -> Any:
    if not getattr(clip, "num_frames", 0) or clip.format is None or not clip.width or not clip.height:
        raise ShiftsearchError(f"{function}: clip is {clip!r:.60}, expected a VideoNode of constant format and size")
    return clip.format


def _is_integer(known: Any) -> bool:
    return int(known.sample_type) == 0


def _white(known: Any) -> float:
    """Return the sample that stands for 255 in 8 bits."""
    return float(255 << known.bits_per_sample - 8) if _is_integer(known) else 1.0


def _floats(frame: Any) -> list[np.ndarray]:
    """Return planes as floats, whose white is 1."""
    kind: Any = np.float64 if frame.format.bits_per_sample > 16 and _is_integer(frame.format) else np.float32
    return [np.asarray(frame[p]).astype(kind) / kind(_white(frame.format)) for p in range(frame.format.num_planes)]


def _samples(plane: np.ndarray, known: Any) -> np.ndarray:
    """Return the samples of a plane of floats."""
    if not _is_integer(known):
        return plane
    return np.clip(np.rint(plane.astype(float) * _white(known)), 0, 2**known.bits_per_sample - 1)


def _one_size(planes: Frame, factors: tuple[int, int]) -> np.ndarray:
    """Return planes as (H, W, C), with the pixels of coarser ones repeated."""
    first, *others = planes
    return np.stack([first, *(plane.repeat(factors[0], 0).repeat(factors[1], 1) for plane in others)], -1)


def _own_sizes(frame: np.ndarray, factors: tuple[int, int]) -> list[np.ndarray]:
    """Return the planes of (H, W, C) at their own sizes: coarser ones are means."""
    first, *others = np.moveaxis(frame, -1, 0)
    down, across = factors
    height, width = first.shape
    return [first] + [other.reshape(height // down, down, width // across, across).mean((1, 3)) for other in others]


def _planes(clip: Any, planes: int | Sequence[int] | None) -> list[int]:
    there = range(clip.format.num_planes)
    chosen = list(there) if planes is None else [planes] if isinstance(planes, int) else list(planes)
    if not chosen or any(p not in there for p in chosen):
        raise ShiftsearchError(f"Denoise: planes is {planes!r}, expected numbers from 0 to {there[-1]}")
    return chosen
