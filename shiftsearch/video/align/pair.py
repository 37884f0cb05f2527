"""One frame warped onto another: flow, a search around it, and the choice between the two."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    for keep, box in tiles(spec, xp, offsets, len(target), Box(0, size[0], 0, size[1])):
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
    for keep, box in tiles(spec, xp, flow, len(target), Box(0, size[0], 0, size[1])):
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
    """Return `target` (C, H, W) read at `offsets` (2, H, W) from each pixel, as means of overlapping patches.

    `aggregate` reads a fractional place bilinearly; for cubic weights it gets 16 whole pixels around the place instead.
    """
    cubic, patch = spec.interp == "bicubic", spec.patch if spec.output == "patch" else 1
    taps = np.arange(-1, 3, dtype=np.int32) if cubic else np.zeros(1, np.int32)
    around = xp.zeros((*offsets.shape[1:], len(taps), len(taps), 3), "int32" if len(taps) > 1 else "float32")
    weights = xp.ones(around.shape[:-1], target.dtype)
    for axis, shape in ((0, (-1, 1)), (1, (1, -1))):
        at, steps = offsets[1 - axis, :, :, None, None], xp.asarray(taps.reshape(shape))
        if cubic:
            low = xp.floor(at)
            weights *= _cubic(xp, at - low - steps.astype("float32"))
            at = low.astype("int32")
        around[..., axis + 1] = at + steps
    around, weights = (x.reshape(1, 1, *offsets.shape[1:], len(taps) ** 2, *x.shape[4:]) for x in (around, weights))
    return aggregate(target[None], weights, around, patch=patch)[0]


def _cubic(xp: Any, x: Any) -> Any:
    """Return Keys' cubic convolution kernel, a = -0.58: sharper than -0.5, and kinder to places that are a little off than -0.75."""
    x = xp.abs(x)
    far = -0.58 * (((x - 5) * x + 8) * x - 4)
    return xp.where(x < 1, (1.42 * x - 2.42) * x**2 + 1, xp.where(x < 2, far, 0))
