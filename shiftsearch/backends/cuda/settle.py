"""Fields of vectors that pull at each other, a launch for each step: see settle.cu."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

SETTLE = Kernel("settle", "settle.cu", registers=64, dtypes=("float32", "float64"), instances=({},))


@primitive
def settle(
    device: Any,
    flow: Native,
    xx: Native,
    xy: Native,
    yy: Native,
    x: Native,
    y: Native,
    *,
    stiff: float,
    held: float,
    steps: int,
    renewed: int,
) -> Native:
    xp, dtype = device.xp, flow.dtype
    data = {"xx": xx, "xy": xy, "yy": yy, "x": x, "y": y}
    arrays = {name: xp.ascontiguousarray(each.astype(dtype, copy=False)) for name, each in data.items()}
    arrays |= {"stiff": dtype.type(stiff), "held": dtype.type(held)}
    plan, now = _plan(flow.shape, dtype), xp.ascontiguousarray(flow)
    spare = [xp.empty(flow.shape, dtype) for _ in range(3)]
    for step in range(steps):
        if step % renewed == 0:
            bonded = now
        out = next(each for each in spare if each is not now and each is not bonded)
        plan.launch(device, {**arrays, "flow": now, "bonded": bonded, "out": out})
        now = out
    return now


@lru_cache(MOST_PLANS)
def _plan(shape: tuple[int, ...], dtype: np.dtype) -> Plan:
    n, _, h, w = shape
    return Plan(Program(SETTLE, numbers(dtype)), -(-n * h * w // SETTLE.threads), {"count": n * h * w, "h": h, "w": w})
