"""Arrays of flow and pairs of frames, checked for all functions of flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shiftsearch import _arrays
from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.forms import unpacked
from shiftsearch.video.frames import DTYPES, layout, planar


def checked(op: str, name: str, flow: Any) -> Any:
    """Return the flow, or raise an error if it is not (2, H, W) or (T, 2, H, W) of floats."""
    if flow.dtype.kind != "f":
        raise ShiftsearchError(f"{op}: {name} is {flow.dtype.name}, expected floats")
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2 or 0 in flow.shape:
        hint = ""
        if flow.ndim in (3, 4) and flow.shape[-1] == 2:
            hint = ": convert OpenCV's (H, W, 2) with np.moveaxis(flow, -1, -3)"
        raise ShiftsearchError(f"{op}: {name} has shape {tuple(flow.shape)}, expected (2, H, W) or (T, 2, H, W){hint}")
    return flow


def finite(xp: Any, flow: Any) -> Any:
    """Return the flow with 0 for vectors that are not finite."""
    return xp.where(xp.isfinite(flow).all(-3, keepdims=True), flow, 0)


def pairwise(op: str, function: Callable[..., Any], reference: Any, target: Any, **others: Any) -> Any:
    """Return `function(xp, reference, target, *others)` of clips (T, C, H, W) of equal length.

    The axis T of the result is dropped if both `reference` and `target` are single frames.
    """

    reference, target = (unpacked(op, n, frames)[0] for n, frames in (("reference", reference), ("target", target)))

    def natively(xp: Any, *arrays: Any) -> Any:
        a, b = (planar(op, name, array) for name, array in zip(("reference", "target"), arrays, strict=False))
        if a.shape[1:] != b.shape[1:] or (len(a) != len(b) and 1 not in (len(a), len(b))):
            raise ShiftsearchError(
                f"{op}: target has shape {tuple(arrays[1].shape)}, expected that of reference, "
                f"{tuple(arrays[0].shape)}, or one frame for many"
            )
        frames = max(len(a), len(b))
        found = function(xp, *(xp.broadcast_to(x, (frames, *x.shape[1:])) for x in (a, b)), *arrays[2:])
        return found if any(layout(op, "frames", x.shape)[1] for x in arrays[:2]) else found[0]

    return transform(op, natively, DTYPES, reference=reference, target=target, **others)


def warped(target: Any, flow: Any) -> Any:
    """Return target[y + dy, x + dx] of (T, C, H, W): bilinear, mirrored beyond the border."""
    return _arrays.computed("warp", target, flow)


def inside(xp: Any, flow: Any) -> Any:
    """Return where flow (T, 2, H, W) leads into the frame, as a mask (T, H, W)."""
    (x, y), (H, W) = (flow[:, 0], flow[:, 1]), flow.shape[-2:]
    # where flow would lead to the first column and row
    left, above = xp.arange(0, -W, -1, flow.dtype), xp.arange(0, -H, -1, flow.dtype)[:, None]
    return (x >= left) & (x <= left + (W - 1)) & (y >= above) & (y <= above + (H - 1))


def agreement(xp: Any, there: Any, back: Any, tolerance: float = 1.0) -> Any:
    """Return where flow `there` and back (T, 2, H, W) stays in the frame and ends where it began, as a mask (T, H, W)."""
    known = xp.isfinite(there).all(1)
    there = finite(xp, there)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = ((there + warped(back, there)) ** 2).sum(1)
        return known & inside(xp, there) & (apart <= tolerance**2)
