"""Frames moved by flow in one launch, and means around pixels in two: see warp.cu and mean_down.cu."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

_SIDE = 32  # pixels of a tile, as mean_down.cu says
_RUNS = 8, 4, 2, 1  # pixels whose windows share a middle
_OF_SUMS: dict[str, Any] = {"registers": 96, "dtypes": ("float32", "float64")}
WARP = Kernel("warp", "warp.cu", **_OF_SUMS, instances=({},))
MEAN_DOWN = Kernel("mean_down", "mean_down.cu", **_OF_SUMS, instances=({"RUN": 8}, {"RUN": 1}))


@primitive
def warp(device: Any, target: Native, flow: Native) -> Native:
    xp, dtype = device.xp, np.result_type(target.dtype, flow.dtype, np.float32)
    out = xp.empty(target.shape, dtype)
    given = {"target": target, "flow": flow}
    arrays = {name: xp.ascontiguousarray(each.astype(dtype, copy=False)) for name, each in given.items()}
    _plan(target.shape, dtype).launch(device, {**arrays, "out": out})
    return out


@primitive
def mean_around(device: Any, frames: Native, by: int) -> Native:
    xp, found = device.xp, device.xp.ascontiguousarray(frames)
    for _ in range(2):
        n, h, w = found.shape
        out = xp.empty((n, w, h), found.dtype)
        _plan_of_means(found.shape, found.dtype, by).launch(device, {"frames": found, "out": out})
        found = out
    return found


@lru_cache(MOST_PLANS)
def _plan(shape: tuple[int, ...], dtype: np.dtype) -> Plan:
    T, C, h, w = shape
    count = T * h * w
    program = Program(WARP, numbers(dtype))
    return Plan(program, -(-count // WARP.threads), {"count": count, "channels": C, "h": h, "w": w})


@lru_cache(MOST_PLANS)
def _plan_of_means(shape: tuple[int, ...], dtype: np.dtype, by: int) -> Plan:
    n, h, w = shape
    program = Program(MEAN_DOWN, {**numbers(dtype), "RUN": next(run for run in _RUNS if run <= 2 * by + 1)})
    return Plan(program, n * -(-h // _SIDE) * -(-w // _SIDE), {"h": h, "w": w, "by": by})
