"""Flow along trajectories, and its gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches, query_grid
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.fold import fold
from shiftsearch.backends.cuda.kernels import Constants, Kernel, Plan, Program

_CHAINS: tuple[Constants, ...] = ({"RADIUS": 2, "STRIDE": 1},)
CHAIN_FLOW = Kernel("chain_flow", "chain_flow.cu", registers=88, instances=_CHAINS)
CHAIN_FLOW_BACKWARD = Kernel("chain_flow_backward", "chain_flow.cu", registers=96, instances=_CHAINS)


@primitive
def chain_flow(device: Any, forward: Native, backward: Native, *, radius: int, stride: int) -> Native:
    return _chained(device, forward, backward, radius, stride).astype(forward.dtype)


@primitive
def chain_flow_backward(
    device: Any, grad: Native, forward: Native, backward: Native, *, radius: int, stride: int
) -> tuple[Native, ...]:
    xp, (B, T, _, H, W) = device.xp, forward.shape
    h, w = query_grid(H, W, stride)
    shape = (B, 1, T, h, w, 2 * radius)
    offsets, arrived = xp.empty((*shape, 3), np.float64), xp.empty((*shape, 2, 1, 1), np.float64)
    parts = {"forwards": xp.empty(shape, np.float64), "backwards": xp.empty(shape, np.float64)}
    grad = xp.ascontiguousarray(grad.astype(forward.dtype))
    chained = _chained(device, forward, backward, radius, stride)
    arrays = {"grad": grad, "chained": chained, "offsets": offsets, "arrived": arrived, **parts}
    launch_chain(device, CHAIN_FLOW_BACKWARD, forward, backward, radius, stride, arrays)
    p = Patches(stride=stride)
    found = (fold(device, arrived, part, offsets, p, size=(T, H, W)) for part in parts.values())
    return tuple(gradient.astype(forward.dtype) for gradient in found)


def _chained(device, forward, backward, radius: int, stride: int):
    B, T, _, H, W = forward.shape
    chained = device.xp.empty((B, T, 2 * radius, 2, *query_grid(H, W, stride)), np.float64)
    launch_chain(device, CHAIN_FLOW, forward, backward, radius, stride, {"chained": chained})
    return chained


def launch_chain(device, kernel: Kernel, forward, backward, radius: int, stride: int, arrays: dict) -> None:
    flows = {name: device.xp.ascontiguousarray(flow) for name, flow in (("forward", forward), ("backward", backward))}
    _plan(kernel, forward.dtype, forward.shape, radius, stride).launch(device, {**flows, **arrays})


@lru_cache(MOST_PLANS)
def _plan(kernel: Kernel, dtype, shape: tuple[int, ...], radius: int, stride: int) -> Plan:
    B, T, _, H, W = shape
    h, w = query_grid(H, W, stride)
    sizes = {"T": T, "H": H, "W": W, "h": h, "w": w, "count": B * T * h * w}
    program = Program(kernel, {**numbers(dtype), "RADIUS": radius, "STRIDE": stride})
    return Plan(program, -(-sizes["count"] // kernel.threads), sizes)
