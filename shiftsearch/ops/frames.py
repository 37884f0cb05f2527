"""Frames that are given: what a search looks at in place of the frames around each query, perhaps in another clip.

Such a search is `refine`, with seeds that lie where the flow leads in each of these frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch._call import are_tensors
from shiftsearch._geometry import along_flow, query_grid
from shiftsearch._types import Native
from shiftsearch.errors import ShiftsearchError


def seeds(caller: str, q: Any, k: Any, flow: Any, frames: Any, stride: int) -> Any:
    """Return the offsets that lead along a flow into the given frames of k: (B, heads or 1, T, h, w, S, 3).

    They are arrays like q, B is missing if it is in q, and tensors have the gradient of the flow.
    """
    (*batch, T, _, H, W), (*_, most, _, _, _) = (
        shape_of_video(caller, name, video) for name, video in (("q", q), ("k", k))
    )
    ahead = frames_ahead(caller, frames, T, most, q)
    shape = (*batch, T, len(ahead[0]), 2, *query_grid(H, W, stride))
    heads = flow is not None and _has_heads(caller, flow, shape)
    if are_tensors(q):
        from shiftsearch import _torch

        return _torch.seeds(ahead, flow, shape, heads)
    like = q if flow is None else flow
    return transform(
        caller, lambda xp, array: _seeds(xp, ahead, None if flow is None else array, shape, heads), like=like
    )


def frames_ahead(caller: str, frames: Any, T: int, most: int | None, like: Any) -> Any:
    """Return how many frames ahead of each frame those lie that it looks at, (T, S), where there are `most` of them."""
    if are_tensors(like):
        from shiftsearch import _torch

        return _torch.frames_ahead(caller, frames, T, most, like.device)
    try:
        found = np.asarray(frames)
    except (TypeError, ValueError):
        raise ShiftsearchError(f"{caller}: frames is {frames!r}, expected whole numbers of shape ({T}, S)") from None
    if found.ndim != 2 or len(found) != T or not found.size or found.dtype.kind not in "iu":
        raise ShiftsearchError(
            f"{caller}: frames is {found.dtype} of shape {found.shape}, expected whole numbers of shape ({T}, S)"
        )
    if most is not None and not (found.min() >= 0 and found.max() < most):
        raise ShiftsearchError(
            f"{caller}: frames are {found.min()} to {found.max()}, expected some of 0 to {most - 1}, as k has {most}"
        )
    return found.astype(np.int32) - np.arange(T, dtype=np.int32)[:, None]


def shape_of_video(caller: str, name: str, video: Any) -> tuple[int, ...]:
    """Return the shape of a video, which may have no batch."""
    shape = tuple(getattr(video, "shape", ()))
    if len(shape) not in (4, 5):
        found = f"has shape {shape}" if shape else f"is a {type(video).__name__}"
        raise ShiftsearchError(f"{caller}: {name} {found}, expected an array (B, T, C, H, W)")
    return shape


def _has_heads(caller: str, flow: Any, shape: tuple[int, ...]) -> bool:
    """Return whether there is flow for each head, if it has this shape otherwise."""
    found = getattr(flow, "shape", None)
    if found is None:
        expected = f"an array {shape}, with a slot for each of the frames, or None"
        raise ShiftsearchError(f"{caller}: flow is a {type(flow).__name__}, expected {expected}")
    heads = len(found) > len(shape)
    if tuple(found[:-6] if heads else found[:-5]) + tuple(found[-5:]) != shape:
        raise ShiftsearchError(f"{caller}: flow has shape {tuple(found)}, expected {shape}, for each of the frames")
    return heads


def _seeds(xp: Any, ahead: Native, flow: Native, shape: tuple[int, ...], heads: bool) -> Native:
    if flow is None:
        flow = xp.zeros(shape, np.int32)
    elif flow.dtype.itemsize == 2:
        flow = flow.astype(np.float32)
    flow = flow if heads else flow[(..., None, *(slice(None),) * 5)]
    return along_flow(xp, xp.asarray(ahead, flow.dtype), flow)
