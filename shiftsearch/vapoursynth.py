"""Aligning and denoising in VapourSynth scripts, for clips of any constant format. Needs Python 3.12 or later.

    from shiftsearch.vapoursynth import Align, Denoise
    clip = Denoise(clip, sigma=8, radius=2)

Frames are computed in groups of fixed places in the clip, so a frame is the same whatever was asked for before it.
VapourSynth asks for frames in any order; a group is computed once while it stays in its cache.
"""

from __future__ import annotations

import numpy as np

import shiftsearch
from shiftsearch.errors import ShiftsearchError

_GROUP = 8  # frames


def Denoise(clip, sigma="auto", radius=2, planes=None, quality="fast"):
    """A clip with less noise: `shiftsearch.denoise` of each plane, or of all of them together where they are RGB.

    Args:
        clip: a VideoNode of constant format and size
        sigma: standard deviation of the noise where white is 255, whatever the format; a list has one for each plane.
            "auto" estimates it, in each group of 8 frames
        radius: frames that are used each way
        planes: numbers of the planes to denoise, all by default; the others are left as they are
        quality: "fast" or "high"

    Returns:
        VideoNode of the same format, size and length, with the properties of the frames of `clip`
    """
    known = _known("Denoise", clip)
    chosen = _planes("Denoise", clip, planes)
    sigmas = list(sigma) if isinstance(sigma, (list, tuple)) else [sigma] * known.num_planes
    if len(sigmas) != known.num_planes:
        raise ShiftsearchError(f"Denoise: sigma has {len(sigmas)} values, expected one or {known.num_planes}")
    scaled = [s if isinstance(s, str) else s / 255 for s in sigmas]

    def denoised(frames, kept):
        options = {"radius": radius, "quality": quality}
        planes = [np.stack(plane) for plane in zip(*frames, strict=True)]
        if _is_rgb(known):
            together = shiftsearch.denoise(np.stack(planes, -1), scaled[0], **options)
            done = dict(enumerate(np.moveaxis(together, -1, 0)))
        else:
            done = {p: shiftsearch.denoise(planes[p], scaled[p], **options) for p in chosen}
        return [[done[p][t] if p in chosen else planes[p][t] for p in range(len(planes))] for t in kept]

    return _in_groups(clip, denoised, reach=2 * radius)


def Align(clip, to="previous", flow="dis", **options):
    """Each frame moved onto its neighbour, or all of them onto one: `shiftsearch.align`.

    Flow is that of the first plane, and the other planes follow: colour of half the size is brought to full size for
    it, and back.

    Args:
        clip: a VideoNode of constant format and size
        to: "previous", "next" or the number of a frame. A frame that has no such neighbour stays as it is
        flow: a function's name in `shiftsearch.flow`: "dis", "farneback" or "none"
        options: window, patch, penalty, subpixel, output, interp, as in `shiftsearch.align`

    Returns:
        VideoNode of the same format, size and length, with the properties of the frames of `clip`
    """
    known = _known("Align", clip)
    steps = {"previous": -1, "next": 1}
    if not (to in steps or (isinstance(to, int) and 0 <= to < clip.num_frames)):
        raise ShiftsearchError(f"Align: to is {to!r}, expected previous, next or a number of 0 to {clip.num_frames - 1}")
    method = getattr(shiftsearch.flow, flow)
    factors = 1 << known.subsampling_h, 1 << known.subsampling_w

    def aligned(frames, kept):
        whole = [_one_size(frame, factors) for frame in frames]
        moved = []
        for t in kept:
            at = t + steps[to] if to in steps else len(whole) - 1
            if not 0 <= at < len(whole):
                moved.append(frames[t])
                continue
            motion = method(whole[at][..., 0], whole[t][..., 0])
            found = shiftsearch.align(whole[at], whole[t], motion, **options)
            moved.append(_own_sizes(found, factors))
        return moved

    return _in_groups(clip, aligned, reach=1 if to in steps else 0, also=None if to in steps else to)


# --- groups of frames -------------------------------------------------------------------------------
def _in_groups(clip, function, reach, also=None):
    """A clip of `function(frames, kept)`, which gets the planes of a group's frames as floats and returns those of `kept`.

    Groups are single frames of a helper clip, `_GROUP` frames tall, so that VapourSynth itself looks after threads
    and caches. Frames up to `reach` before and after a group are read with it, where the clip has them, and frame
    `also` comes last.
    """
    import vapoursynth

    core, length = vapoursynth.core, clip.num_frames
    count = -(-length // _GROUP)
    places = range(-reach, _GROUP + reach)
    padded = clip[:1] * reach + clip if reach else clip
    padded = padded + clip[-1:] * (count * _GROUP + reach - length) if count * _GROUP + reach > length else padded
    sources = [padded[place + reach :: _GROUP][:count] for place in places]
    if also is not None:
        sources.append(clip[also : also + 1] * count)
    tall = core.std.BlankClip(clip, height=clip.height * _GROUP, length=count, keep=True)

    def group(n, f):
        there = [i for i, place in enumerate(places) if 0 <= n * _GROUP + place < length]
        kept = [k for k, i in enumerate(there) if 0 <= places[i] < _GROUP]
        chosen = there if also is None else [*there, len(places)]
        result = function([_floats(f[1 + i]) for i in chosen], kept)
        out = f[0].copy()
        for number, planes in enumerate(result):
            for p, plane in enumerate(planes):
                whole = np.asarray(out[p])
                height = len(whole) // _GROUP
                whole[number * height : (number + 1) * height] = _samples(plane, out.format)
        return out

    done = core.std.ModifyFrame(tall, [tall, *sources], group)
    height = clip.height
    rows = [core.std.Crop(done, top=i * height, bottom=(_GROUP - 1 - i) * height) for i in range(_GROUP)]
    result = core.std.Interleave(rows)[:length]
    if clip.fps:
        result = core.std.AssumeFPS(result, src=clip)
    return core.std.CopyFrameProps(result, clip)


# --- formats ----------------------------------------------------------------------------------------
def _white(known) -> float:
    """What is 255 in 8 bits."""
    return float(255 << known.bits_per_sample - 8) if _is_integer(known) else 1.0


def _floats(frame) -> list[np.ndarray]:
    """Planes as floats, white is 1."""
    kind = np.float64 if frame.format.bits_per_sample > 16 and _is_integer(frame.format) else np.float32
    return [np.asarray(frame[p]).astype(kind) / kind(_white(frame.format)) for p in range(frame.format.num_planes)]


def _samples(plane: np.ndarray, known) -> np.ndarray:
    """And back."""
    if not _is_integer(known):
        return plane
    return np.clip(np.rint(plane.astype(float) * _white(known)), 0, 2**known.bits_per_sample - 1)


def _one_size(planes, factors) -> np.ndarray:
    """Planes as (H, W, C), coarser ones repeated."""
    height, width = planes[0].shape
    finer = [
        plane if plane.shape == planes[0].shape else plane.repeat(factors[0], 0).repeat(factors[1], 1)[:height, :width]
        for plane in planes
    ]
    return np.stack(finer, -1)


def _own_sizes(frame, factors) -> list[np.ndarray]:
    """And back: means over the pixels of a coarser one."""
    first, *others = np.moveaxis(frame, -1, 0)
    down, across = factors
    height, width = first.shape
    return [first] + [other.reshape(height // down, down, width // across, across).mean((1, 3)) for other in others]


def _is_integer(known) -> bool:
    return int(known.sample_type) == 0


def _is_rgb(known) -> bool:
    return known.num_planes == 3 and known.name.startswith("RGB")


def _known(function, clip):
    if getattr(clip, "format", None) is None or not clip.width or not clip.height:
        raise ShiftsearchError(f"{function}: clip is {clip!r:.60}, expected a VideoNode of constant format and size")
    return clip.format


def _planes(function, clip, planes) -> list[int]:
    chosen = list(range(clip.format.num_planes)) if planes is None else [planes] if isinstance(planes, int) else list(planes)
    if not chosen or any(p not in range(clip.format.num_planes) for p in chosen):
        raise ShiftsearchError(f"{function}: planes is {planes!r}, expected numbers from 0 to {clip.format.num_planes - 1}")
    return chosen
