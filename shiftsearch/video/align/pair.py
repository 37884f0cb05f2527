"""One frame warped onto another: flow, a search around it, and the choice between the two."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch import _arrays
from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import aggregate
from shiftsearch.ops.match import match
from shiftsearch.video.align.choice import costs, kept, light, start
from shiftsearch.video.align.finer import after, before
from shiftsearch.video.align.spec import AlignSpec
from shiftsearch.video.align.tiles import Box, tiles
from shiftsearch.video.flow.arrays import agreement, checked
from shiftsearch.video.flow.measure import measure
from shiftsearch.video.frames import DTYPES, planar, restored
from shiftsearch.video.noise import noise_level

_HELD = 30  # numbers for each pixel of a tile, beside those of each channel
_WEIGHED = 110  # the same where there are weights and places of 16 pixels for one: a kernel has none in memory
_FAR = 2.0**14  # pixels: any longer vector leads out of the frame


def warp_pair(spec: AlignSpec, reference: Any, frame: Any, flow: Any, *, mask: bool = False) -> tuple[Any, ...]:
    """Return a frame (H, W) or (H, W, C) warped onto a reference, its offsets (2, H, W), and with `mask` where it is seen.

    Without a reference the frame is copied, the offsets are 0, and all of it is seen.
    """
    arrays = {"frames": frame}
    if reference is not None:
        arrays["reference"] = reference
        if callable(flow):
            arrays["flow"] = flow(reference, frame)
            if mask:
                arrays["back"] = flow(frame, reference)
        elif not (flow is None or isinstance(flow, str)):
            arrays["flow"] = flow

    def natively(xp: Any, frame: Any, reference: Any = None, given: Any = flow, back: Any = None) -> tuple[Any, ...]:
        target = planar(spec.caller, "frames", frame, spec.white)[0]
        if reference is None:
            seen = (xp.ones(target.shape[1:], bool),) if mask else ()
            return frame.copy(), xp.zeros((2, *target.shape[1:]), "float32"), *seen
        wanted = planar(spec.caller, "reference", reference, spec.white)[0]
        if wanted.shape != target.shape:
            raise ShiftsearchError(
                f"{spec.caller}: reference has frames of shape {tuple(reference.shape)}, expected {tuple(frame.shape)} as "
                "those of frames"
            )
        common = np.promote_types(wanted.dtype, target.dtype)
        pair = wanted.astype(common), target.astype(common)
        with np.errstate(all="ignore"):  # frames that are not finite
            found, offsets = _aligned(spec, xp, *pair, given)
            if not mask:
                return restored(xp, found[None], frame, spec.white), offsets
            back = _way_back(flow) if back is None else back
            there_and_back = offsets, _aligned(spec, xp, *pair[::-1], back)[1]
            seen = agreement(xp, *(way[None] for way in there_and_back))[0]
        return restored(xp, found[None], frame, spec.white), offsets, seen

    return transform(spec.caller, natively, DTYPES, **arrays)


def _way_back(flow: Any) -> Any:
    """Return how the flow back is found: as that there, unless that is an array."""
    return flow if flow is None or isinstance(flow, str) else "match"


def _aligned(spec: AlignSpec, xp: Any, reference: Any, target: Any, flow: Any) -> tuple[Any, Any]:
    """Return the target (C, H, W) warped onto the reference, and the offsets (2, H, W) that it was read at."""
    level = spec.sigma
    if level is None:
        level = float(np.hypot(noise_level(xp, reference), noise_level(xp, target)) / 2**0.5)
    size = target.shape[1:]
    found = _flow(spec, xp, reference, target, flow, level)
    if spec.window > 1:
        changed = light(xp, reference, target, found)
        if changed is not None:
            reference = changed.gain * reference + xp.asarray(changed.offsets, reference.dtype)[:, None, None]
            found = _flow(spec, xp, reference, target, flow, level)
        found = _searched(spec, xp, reference, target, found, level, led=flow is not None)
    offsets = (found if spec.subpixel else xp.rint(found)).astype("float32")
    out = xp.empty_like(target)
    held = 8 * len(target) + (_WEIGHED if spec.interp == "bicubic" and xp is np else _HELD)
    for keep, box in tiles(spec, xp, offsets, held, Box(0, size[0], 0, size[1])):
        out[keep.of] = _interpolated(spec, xp, target[box.of], offsets[box.of])[keep.within(box).of]
    return out, offsets


def _searched(spec: AlignSpec, xp: Any, reference: Any, target: Any, flow: Any, level: float, *, led: bool) -> Any:
    """Return where (2, H, W) a search around flow finds the pixels. Without flow that leads it, it knows whole pixels."""
    size, begun = target.shape[1:], flow
    seen = xp.ones(size, bool)
    if led:
        flow, seen = start(spec, xp, reference, target, flow, level)
        begun = _on_grid(spec, xp, before(xp, reference, target, flow, level), size)
        flow = _on_grid(spec, xp, flow, size)
    begun = (begun if spec.subpixel else xp.rint(begun)).astype("float32")
    found, differ = xp.empty_like(begun), xp.empty_like(begun)
    for keep, box in tiles(spec, xp, flow, 8 * len(target) + _HELD, Box(0, size[0], 0, size[1])):
        frames = reference[box.of], target[box.of]
        places = begun[box.of], _best(spec, xp, *frames, flow[box.of], level)
        for whole, part in ((found, places[1]), (differ, costs(spec, xp, *frames, places, level))):
            whole[keep.of] = part[keep.within(box).of]
    found = kept(spec, xp, begun, found, seen, differ, len(target) * spec.patch**2, level, led=led)
    if led and spec.subpixel:
        found = _on_grid(spec, xp, after(xp, reference, target, begun, found, level), size)
    return found


def _flow(spec: AlignSpec, xp: Any, reference: Any, target: Any, flow: Any, level: float) -> Any:
    """Return the flow for each pixel of these frames, measured if it is the name of a method."""
    size = target.shape[1:]
    if isinstance(flow, str):
        flow = measure(spec.caller, xp, flow, reference, target, level)
    return xp.zeros((2, *size)) if flow is None else _on_grid(spec, xp, flow, size)


def _on_grid(spec: AlignSpec, xp: Any, flow: Any, size: tuple[int, int]) -> Any:
    """Return flow (2, h, w) for each pixel of a frame of `size`, in float64, with 0 for what is not finite.

    A pixel takes the flow of the cell it lies in, which keeps edges sharp. Vectors are rounded to 2**-16 pixels: then
    their sums with pixel numbers are exact, wherever a tile begins.
    """
    flow = checked(spec.caller, "flow", flow)
    (h, w), (H, W) = flow.shape[-2:], size
    if flow.ndim != 3 or h > H or w > W:
        raise ShiftsearchError(f"{spec.caller}: flow has shape {tuple(flow.shape)}, expected (2, {H}, {W}) or coarser")
    flow = flow.astype("float64", copy=False)
    if (h, w) != (H, W):
        rows, columns = ((np.arange(n) * 2 + 1) * m // (2 * n) for n, m in ((H, h), (W, w)))
        flow = flow[:, xp.asarray(rows)][:, :, xp.asarray(columns)] * xp.asarray([W / w, H / h])[:, None, None]
    flow = xp.clip(xp.where(xp.isfinite(flow), flow, 0), -_FAR, _FAR)
    return xp.rint(flow * 2**16) / 2**16


def _best(spec: AlignSpec, xp: Any, reference: Any, target: Any, flow: Any, level: float) -> Any:
    """Return the best places (2, H, W) in the windows around flow."""
    values = len(reference) * spec.patch**2
    _, found = match(
        reference,
        target,
        flow,
        window=spec.window,
        patch=spec.patch,
        topk=1,
        subpixel=spec.subpixel,
        penalty=min(spec.penalty * values * level**2, 1e6),
    )
    return xp.moveaxis(found[0, :, :, 0, ::-1], -1, 0).astype("float32")


def _interpolated(spec: AlignSpec, xp: Any, target: Any, offsets: Any) -> Any:
    """Return `target` (C, H, W) read at `offsets` (2, H, W) from each pixel, as means of overlapping patches."""
    patch = spec.patch if spec.output == "patch" else 1
    if spec.interp == "bicubic":
        return _arrays.computed("resample", target, offsets, patch=patch)
    places = xp.zeros((1, 1, *offsets.shape[1:], 1, 3), "float32")
    places[0, 0, ..., 0, 1], places[0, 0, ..., 0, 2] = offsets[1], offsets[0]
    return aggregate(target[None], xp.ones(places.shape[:-1], target.dtype), places, patch=patch)[0]
