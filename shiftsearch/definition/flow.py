"""Flow along trajectories, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._geometry import Patches, frame_order
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import queries, sample, sample_slopes, silent, spread


@primitive
@silent()
def chain_flow(forward: Native, backward: Native, *, radius: int, stride: int) -> Native:
    """Return the flow from each frame along its trajectory to the frames around it, (B, T, 2 * radius, 2, h, w)."""
    out, _ = _chain(forward, backward, radius, stride)
    return out


def _chain(forward: Native, backward: Native, radius: int, stride: int) -> tuple[Native, list[tuple[Any, ...]]]:
    """Return the chained flow and its steps: per frame and slot (slot before or None, flow, frame, where it was read)."""
    B, T, _, H, W = forward.shape
    order, p = frame_order(T, radius), Patches(stride=stride)
    h, w = (H - 1) // stride + 1, (W - 1) // stride + 1
    out, steps = np.zeros((B, T, 2 * radius, 2, h, w)), []
    for t in range(T):
        _, ry, rx = queries(p, 1, h, w)
        for s in range(1, 2 * radius + 1):
            ahead = order[t, s] > t
            first = s == 1 or (not ahead and order[t, s - 1] >= t)
            before = None if first else s - 2
            flow, at = (forward, order[t, s] - 1) if ahead else (backward, order[t, s] + 1)
            moved = np.zeros((B, 2, h, w)) if first else out[:, t, before]
            y, x = (ry + moved[:, 1])[:, None, None], (rx + moved[:, 0])[:, None, None]
            video = np.where(np.isfinite(flow), flow, 0).astype(float)[:, None]
            here = np.full(y.shape, at)
            read = np.moveaxis(sample(video, here, y, x, "reflect")[:, 0, 0], -1, 1)
            out[:, t, s - 1] = moved + read
            steps.append((t, s - 1, before, ahead, video, here, y, x))
    return out, steps


@primitive
@silent()
def chain_flow_backward(
    grad: Native, forward: Native, backward: Native, *, radius: int, stride: int
) -> tuple[Native, Native]:
    """Return the gradients of both flows, chained through the Jacobians of the samples."""
    _, steps = _chain(forward, backward, radius, stride)
    grads = {True: np.zeros(forward.shape)[:, None], False: np.zeros(backward.shape)[:, None]}
    total = np.array(grad, float)
    for t, s, before, ahead, video, here, y, x in reversed(steps):
        g = np.moveaxis(total[:, t, s], 1, -1)[:, None, None]  # (B, 1, 1, h, w, 2)
        spread(grads[ahead], here, y, x, "reflect", g)
        if before is not None:
            by_y, by_x = sample_slopes(video, here, y, x, "reflect")
            total[:, t, before] += total[:, t, s]
            total[:, t, before, 1] += (g * by_y).sum(-1)[:, 0, 0]
            total[:, t, before, 0] += (g * by_x).sum(-1)[:, 0, 0]
    return grads[True][:, 0], grads[False][:, 0]
