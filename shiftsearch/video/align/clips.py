"""Clips in memory, warped onto a reference, or each frame onto its neighbour or onto one frame of the clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.align.pair import warp_pair
from shiftsearch.video.align.spec import (
    ONTO,
    AlignOptions,
    AlignSpec,
    Flow,
    Onto,
    Progress,
    flow_at,
    lengths,
    spec_of,
    wanted,
)
from shiftsearch.video.forms import first, unpacked
from shiftsearch.video.frames import DTYPES
from shiftsearch.video.scale import check_scale, check_white
from shiftsearch.video.scenes import with_scenes
from shiftsearch.video.streams import watched
from shiftsearch.video.types import METHOD, AnyFrames, Frames

if TYPE_CHECKING:
    from typing_extensions import Unpack


@overload
def align(
    reference: AnyFrames,
    frames: Frames,
    flow: Flow = METHOD,
    *,
    return_offsets: Literal[False] = False,
    return_mask: Literal[False] = False,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> Frames: ...
@overload
def align(
    reference: AnyFrames,
    frames: Frames,
    flow: Flow = METHOD,
    *,
    return_offsets: Literal[True],
    return_mask: Literal[False] = False,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> tuple[Frames, Any]: ...
@overload
def align(
    reference: AnyFrames,
    frames: Frames,
    flow: Flow = METHOD,
    *,
    return_offsets: bool,
    return_mask: Literal[False] = False,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> Frames | tuple[Frames, Any]: ...
@overload
def align(
    reference: AnyFrames,
    frames: Frames,
    flow: Flow = METHOD,
    *,
    return_offsets: bool = False,
    return_mask: bool,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> Frames | tuple[Any, ...]: ...


def align(
    reference: Any,
    frames: Any,
    flow: Flow = METHOD,
    *,
    window: int = AlignSpec.window,
    patch: int = AlignSpec.patch,
    penalty: float = AlignSpec.penalty,
    sigma: float | None = AlignSpec.sigma,
    subpixel: bool = AlignSpec.subpixel,
    output: Literal["patch", "pixel"] = AlignSpec.output,
    interp: Literal["bilinear", "bicubic"] = AlignSpec.interp,
    white: float | None = AlignSpec.white,
    bits: int | None = None,
    return_offsets: bool = False,
    return_mask: bool = False,
    max_memory: int | str = AlignSpec.max_memory,
    progress: Progress = None,
) -> Any:
    """Warp frames so that they show what a reference shows.

    Each pixel of the result shows the place in the frame that matches the reference there.

    Args:
        reference: a frame (H, W) or (H, W, C), or a clip with one for each of the frames. uint8, uint16, or floats whose
            white is 1: see `shiftsearch.video.frames`
        frames: a frame, or a clip, of which each frame is warped. Both may be lists of frames, or images of PIL
        flow: where to search. "match" measures flow by our own search. "dis" and "farneback" measure it with OpenCV, for
            frames in main memory. "auto" is "dis" where that works, else "match". None means no motion. An array (2, H, W),
            or (T, 2, H, W) with one for each frame, leads from reference to frame in pixels. Channel 0 is dx, and channel
            1 is dy. It may be coarser, (2, h, w), as from `flow.coarse`. A function of (reference, frames) returns such
            an array
        window: candidates per side around where the flow leads. 1 warps by the flow alone
        patch: pixels per side of the patches that are compared
        penalty: how strongly noise makes places far from the flow rank behind others: see `shiftsearch.video.align`
        sigma: standard deviation of the noise, where white is 255 for integers and 1 for floats. 0 trusts the frames.
            None estimates it for each pair of frames: see `shiftsearch.video.noise.noise_level`
        subpixel: keep the fraction of the flow. False searches and shows whole pixels only
        output: "patch" shows at each pixel the mean of the patches that overlap there. "pixel" shows only its own place
        interp: "bicubic" or "bilinear" interpolation of the result. The search is always bilinear
        return_offsets: also return where the pixels were found
        return_mask: also return which pixels both frames show. For these the way to the frame and back, which is searched
            too, ends within a pixel of where it began
        white: the value that is white, if it is not the usual one: 255 for floats from 0 to 255. The usual one is the
            largest of an integer type, and 1 for floats
        bits: the depth of integers, if it is not that of their dtype: 10 if uint16 holds 0 to 1023
        max_memory: limit of the memory for one computation beside the frames: a number of bytes, or text such as
            "500MB". Frames that need more are computed in tiles, with the same result
        progress: a function such as tqdm that shows the progress. It is called with what to iterate over, and `total`

    Returns:
        the warped frames, in the layout, dtype and library of `frames`. Of a list, a list. With `return_offsets`, next a
        flow to the places that were found: float32, (2, H, W) for one frame and (T, 2, H, W) for a clip. With
        `return_mask`, last a mask of bool, (H, W) or (T, H, W)

    Example:
        >>> rng = np.random.default_rng(0)
        >>> still = (200 * rng.random((12, 16, 3))).repeat(5, 0).repeat(5, 1).astype(np.uint8)
        >>> clip = np.stack([np.roll(still, (2 * t, -t), (0, 1)) for t in range(4)])
        >>> aligned = align(clip[0], clip, flow=None, window=13)
        >>> aligned.shape, aligned.dtype
        ((4, 60, 80, 3), dtype('uint8'))
        >>> bool((aligned == still)[:, 10:-10, 10:-10].all())
        True
    """
    (reference, _), (frames, give) = unpacked("align", "reference", reference), unpacked("align", "frames", frames)
    spec = spec_of(
        "align",
        frames,
        sigma,
        window=window,
        patch=patch,
        penalty=penalty,
        subpixel=subpixel,
        output=output,
        interp=interp,
        white=white,
        bits=bits,
        max_memory=max_memory,
    )
    check_scale("align", frames, spec.white)
    for name, array in (("reference", reference), ("frames", frames)):
        check_white("align", array, spec.white, name)
    of_reference, of_frames = lengths(spec.caller, reference, frames)
    counts = {n for n in (of_reference, of_frames) if n is not None}
    if len(counts) == 2:
        raise ShiftsearchError(f"align: reference has {of_reference} frames, expected 1, or {of_frames} as frames has")
    if not counts:
        found = warp_pair(spec, reference, frames, flow_at(spec.caller, flow, 0, None), mask=return_mask)
        return first(give, wanted(found, return_offsets))
    (count,) = counts
    pairs = (
        (reference if of_reference is None else reference[t], frames if of_frames is None else frames[t])
        for t in range(count)
    )
    warped = [
        warp_pair(spec, onto, frame, flow_at(spec.caller, flow, t, count), mask=return_mask)
        for t, (onto, frame) in enumerate(watched("align", progress, pairs, count))
    ]
    return first(give, _stacked(spec.caller, warped, return_offsets))


@overload
def align_clip(
    frames: Frames,
    to: Onto | int = ONTO,
    flow: Flow = METHOD,
    *,
    return_offsets: Literal[False] = False,
    return_mask: Literal[False] = False,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> Frames: ...
@overload
def align_clip(
    frames: Frames,
    to: Onto | int = ONTO,
    flow: Flow = METHOD,
    *,
    return_offsets: Literal[True],
    return_mask: Literal[False] = False,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> tuple[Frames, Any]: ...
@overload
def align_clip(
    frames: Frames,
    to: Onto | int = ONTO,
    flow: Flow = METHOD,
    *,
    return_offsets: bool,
    return_mask: Literal[False] = False,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> Frames | tuple[Frames, Any]: ...
@overload
def align_clip(
    frames: Frames,
    to: Onto | int = ONTO,
    flow: Flow = METHOD,
    *,
    return_offsets: bool = False,
    return_mask: bool,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> Frames | tuple[Any, ...]: ...


def align_clip(
    frames: Any,
    to: Onto | int = ONTO,
    flow: Flow = METHOD,
    *,
    return_offsets: bool = False,
    return_mask: bool = False,
    progress: Progress = None,
    **options: Unpack[AlignOptions],
) -> Any:
    """Warp each frame of a clip onto the one before it, onto the one after it, or onto one frame of the clip.

    With "previous" and "next", a frame without such a neighbour in its scene is left unchanged: see `scene_cuts`.

    Args:
        frames: a clip, (T, H, W) or (T, H, W, C), or a list of frames
        to: "previous", "next" or the number of a frame
        flow: as in `align`. An array has a flow for each frame. It leads to the frame from the one that it is warped onto.
            With "previous" or "next", the one frame that has no neighbour may have none
        return_offsets, return_mask, progress: as in `align`
        options: as in `align`

    Returns:
        as `align`

    Example:
        >>> still = np.random.default_rng(0).random((12, 16)).repeat(5, 0).repeat(5, 1)
        >>> clip = np.stack([np.roll(still, 3 * t, 1) for t in range(3)])
        >>> steady = align_clip(clip, to=0, flow=None, window=13, sigma=0)
        >>> bool(np.abs(steady - still)[:, :, 10:-20].max() < 1e-6)
        True
    """
    frames, give = unpacked("align_clip", "frames", frames)
    spec = spec_of("align_clip", frames, **options)
    _check_target(to)
    check_scale("align_clip", frames, spec.white)
    check_white("align_clip", frames, spec.white)
    count, _ = lengths(spec.caller, frames, frames)
    if count is None:
        raise ShiftsearchError(
            f"align_clip: frames has shape {tuple(frames.shape)}, expected (T, H, W) or (T, H, W, C)"
        )
    found = [
        warp_pair(
            spec, None if r is None else frames[r], frames[t], _flow_of(spec, flow, to, t, count), mask=return_mask
        )
        for t, r in enumerate(watched("align_clip", progress, _references(spec, frames, to, count), count))
    ]
    return first(give, _stacked(spec.caller, found, return_offsets))


def _flow_of(spec: AlignSpec, flow: Any, to: Onto | int, t: int, count: int) -> Any:
    """Return the flow for frame t. An array may have none for the frame that has no neighbour, as of flow networks."""
    if isinstance(to, str) and len(getattr(flow, "shape", ())) == 4 and len(flow) == count - 1:
        number = t - (to == "previous")
        return flow_at(spec.caller, flow, number, count - 1) if 0 <= number < count - 1 else None
    return flow_at(spec.caller, flow, t, count)


def _check_target(to: Any) -> None:
    whole = isinstance(to, (int, np.integer)) and not isinstance(to, bool)
    if not whole and not (isinstance(to, str) and to in ("previous", "next")):
        raise ShiftsearchError(f'align_clip: to is {to!r}, expected "previous", "next" or the number of a frame')


def _references(spec: AlignSpec, frames: Any, to: Onto | int, count: int) -> list[int | None]:
    """Return for each frame the number of the frame that it is warped onto, or None if it is left unchanged."""
    if not isinstance(to, str):
        if not -count <= to < count:
            raise ShiftsearchError(f"align_clip: to is {to}, expected the number of one of the {count} frames")
        return [None if t == to % count else to % count for t in range(count)]
    begins = [begins for _, begins in with_scenes("align_clip", frames, white=spec.white)]
    if to == "previous":
        return [None if begins[t] else t - 1 for t in range(count)]
    return [None if t + 1 == count or begins[t + 1] else t + 1 for t in range(count)]


def _stacked(op: str, found: list[tuple[Any, ...]], return_offsets: bool) -> Any:
    """Return the frames of a clip as one array, and what else is wanted."""
    each = [
        dict(zip((f"frame {t}" for t in range(len(found))), part, strict=True)) for part in zip(*found, strict=True)
    ]
    kinds = (*DTYPES, "bool")
    return wanted(
        tuple(transform(op, lambda xp, *arrays: xp.stack(arrays), kinds, **part) for part in each), return_offsets
    )
