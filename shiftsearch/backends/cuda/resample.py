"""A frame read between its pixels in one launch: see resample.cu."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

RESAMPLE = Kernel(
    "resample",
    "resample.cu",
    registers=160,
    dtypes=("float32", "float64"),
    instances=({"PATCH": 3, "CHANNELS": 3}, {"PATCH": 1, "CHANNELS": 1}),
)


@primitive
def resample(device: Any, target: Native, offsets: Native, *, patch: int) -> Native:
    xp, dtype = device.xp, target.dtype
    given = {"target": target, "offsets": offsets}
    arrays = {name: xp.ascontiguousarray(each.astype(dtype, copy=False)) for name, each in given.items()}
    out = xp.empty(target.shape, dtype)
    _plan(target.shape, dtype, patch).launch(device, {**arrays, "out": out})
    return out


@lru_cache(MOST_PLANS)
def _plan(shape: tuple[int, ...], dtype: np.dtype, patch: int) -> Plan:
    channels, h, w = shape
    program = Program(RESAMPLE, {**numbers(dtype), "PATCH": patch, "CHANNELS": channels})
    return Plan(program, h * -(-w // RESAMPLE.threads), {"h": h, "w": w})
