"""Chained flow and its gradients: following trajectories through the flow between neighbouring frames.

A trajectory is followed in float64, whatever the flow is. Slots of frame t lead forward first, from
flow to flow, then backward from frame t again, see `frame_order`. For the gradients, rows of queries
first compute the gradient at each step of their trajectories. Bands of rows of the flow fields then
add them up, in the order of queries, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu import pool
from shiftsearch.backends.cpu.grid import finite, slots_ahead, within_period
from shiftsearch.backends.cpu.jit import exact, kernel
from shiftsearch.backends.cpu.memory import stopped
from shiftsearch.backends.cpu.patch import between, bilinear
from shiftsearch.threads import get_num_threads

_BAND = 32  # least rows: every band of a field reads all trajectories
_STEP = 40  # multiply-adds that take as long as one step of a trajectory


@exact
def _field(t, s, ahead):
    """Return the frame whose flow takes the trajectory of frame t to its slot s."""
    return t + s if s < ahead else t - (s - ahead)


@exact
def _between(at, n):
    """Return the two pixels that a position lies between, and the weight of the second."""
    if abs(at) < 2.0**52:
        return between(at, n, True)
    if n == 1 or not math.isfinite(at):  # infinite flow: the sample is NaN, but the pixels that are read must exist
        return 0, 0, at - at
    return between(within_period(at, n), n, True)


@exact
def _value(flow, b, t, axis, y, x):
    """Return the flow along an axis (0 for rows, whose channel is 1); what is not finite counts as no motion."""
    return finite(flow[b, t, 1 - axis, y, x])


@exact
def _read(flow, b, t, axis, y, x):
    """Return the flow at (y, x) with its derivatives by y and x; at whole positions towards the next pixel."""
    y0, y1, fy = _between(y, flow.shape[3])
    x0, x1, fx = _between(x, flow.shape[4])
    v00, v01 = _value(flow, b, t, axis, y0, x0), _value(flow, b, t, axis, y0, x1)
    v10, v11 = _value(flow, b, t, axis, y1, x0), _value(flow, b, t, axis, y1, x1)
    value = bilinear(v00, v01, v10, v11, 1 - fy, fy, 1 - fx, fx)
    by_y = bilinear(v00, v01, v10, v11, -1.0, 1.0, 1 - fx, fx)
    return value, by_y, bilinear(v00, v01, v10, v11, 1 - fy, fy, -1.0, 1.0)


@exact
def _moved(forward, backward, b, t, s, ahead, y, x):
    """Return how far step s takes a trajectory that is at (y, x), with the derivatives: (dy, by y, by x), (dx, by y, by x)."""
    flow, at = forward if s < ahead else backward, _field(t, s, ahead)
    return _read(flow, b, at, 0, y, x), _read(flow, b, at, 1, y, x)


@kernel("out")
def _follow(forward, backward, out, stride, stop, first, last):
    """Write chained flow (B, T, slots, 2, h, w) for rows of queries, counted through all frames and batch items."""
    T, slots, h, w = out.shape[1], out.shape[2], out.shape[4], out.shape[5]
    for unit in range(first, last):
        y, t, b = unit % h, unit // h % T, unit // h // T
        ahead = slots_ahead(t, T, slots // 2)
        for x in range(w):
            if stopped(stop):
                return
            dy, dx = 0.0, 0.0
            for s in range(slots):
                if s == ahead:
                    dy, dx = 0.0, 0.0
                by_y, by_x = _moved(forward, backward, b, t, s, ahead, y * stride + dy, x * stride + dx)
                dy, dx = dy + by_y[0], dx + by_x[0]
                out[b, t, s, 0, y, x] = dx
                out[b, t, s, 1, y, x] = dy


@kernel("steps")
def _retrace(grad, forward, backward, steps, b, t, stride, stop, first, last):
    """Write each step's position and gradient for rows of queries of one frame, (slots, h, w, 4): (y, x, by y, by x)."""
    slots, w = steps.shape[0], steps.shape[2]
    ahead = slots_ahead(t, grad.shape[1], slots // 2)
    for y in range(first, last):
        for x in range(w):
            if stopped(stop):
                return
            dy, dx = 0.0, 0.0
            for s in range(slots):
                if s == ahead:
                    dy, dx = 0.0, 0.0
                at_y, at_x = y * stride + dy, x * stride + dx
                steps[s, y, x, 0], steps[s, y, x, 1] = at_y, at_x
                moved_y, moved_x = _moved(forward, backward, b, t, s, ahead, at_y, at_x)
                dy, dx = dy + moved_y[0], dx + moved_x[0]
            on_y, on_x = 0.0, 0.0
            for s in range(slots - 1, -1, -1):
                gy, gx = on_y + grad[b, t, s, 1, y, x], on_x + grad[b, t, s, 0, y, x]
                steps[s, y, x, 2], steps[s, y, x, 3] = gy, gx
                moved_y, moved_x = _moved(forward, backward, b, t, s, ahead, steps[s, y, x, 0], steps[s, y, x, 1])
                on_y = gy + gy * moved_y[1] + gx * moved_x[1]
                on_x = gx + gy * moved_y[2] + gx * moved_x[2]
                if s == ahead:
                    on_y, on_x = 0.0, 0.0


@kernel("forward", "backward")
def _collect(steps, forward, backward, b, t, bands, stop, first, last):
    """Add the gradients of the steps to bands of rows of the fields they used; each slot used its own."""
    (slots, h, w), (T, _, H, W) = steps.shape[:3], forward.shape[1:]
    ahead = slots_ahead(t, T, slots // 2)
    for unit in range(first, last):
        s, band = unit // bands, unit % bands
        top, bottom = band * H // bands, (band + 1) * H // bands
        out, at = forward if s < ahead else backward, _field(t, s, ahead)
        for y in range(h):
            if stopped(stop):
                return
            for x in range(w):
                y0, y1, fy = _between(steps[s, y, x, 0], H)
                x0, x1, fx = _between(steps[s, y, x, 1], W)
                for row, by_row in ((y0, 1 - fy), (y1, fy)):
                    if not top <= row < bottom:
                        continue
                    for column, weight in ((x0, by_row * (1 - fx)), (x1, by_row * fx)):
                        if weight == 0:
                            continue
                        out[b, at, 0, row, column] += weight * steps[s, y, x, 3]
                        out[b, at, 1, row, column] += weight * steps[s, y, x, 2]


@primitive
def chain_flow(forward: Native, backward: Native, *, radius: int, stride: int) -> Native:
    B, T, _, H, W = forward.shape
    out = np.empty((B, T, 2 * radius, 2, (H - 1) // stride + 1, (W - 1) // stride + 1), forward.dtype)
    pool.spread(partial(_follow, forward, backward, out, stride), B * T * out.shape[4], out.size * _STEP)
    return out


@primitive
def chain_flow_backward(
    grad: Native, forward: Native, backward: Native, *, radius: int, stride: int
) -> tuple[Native, Native]:
    (B, T, slots, _, h, w), H = grad.shape, forward.shape[3]
    grads = np.zeros(forward.shape, forward.dtype), np.zeros(backward.shape, backward.dtype)
    bands = max(1, min(get_num_threads(), H // _BAND))
    cost = slots * h * w * _STEP
    for b, t in np.ndindex(B, T):
        steps = np.empty((slots, h, w, 4))
        pool.spread(partial(_retrace, grad, forward, backward, steps, b, t, stride), h, cost)
        pool.spread(partial(_collect, steps, *grads, b, t, bands), slots * bands, cost)
    return grads
