"""How far flow is off, by what differs where it leads, in one launch: see descent.cu."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

DESCENT = Kernel("descent", "descent.cu", registers=64, dtypes=("float32", "float64"), instances=({},))


@primitive
def descent(device: Any, moved: Native, grey: Native, flow: Native, *, same: float) -> Native:
    xp, dtype = device.xp, grey.dtype
    given = {"moved": moved, "grey": grey, "flow": flow}
    arrays = {name: xp.ascontiguousarray(each.astype(dtype, copy=False)) for name, each in given.items()}
    out = xp.empty((5, *grey.shape), dtype)
    _plan(grey.shape, dtype).launch(device, {**arrays, "out": out, "same": dtype.type(same)})
    return out


@lru_cache(MOST_PLANS)
def _plan(shape: tuple[int, ...], dtype: np.dtype) -> Plan:
    n, h, w = shape
    program = Program(DESCENT, numbers(dtype))
    return Plan(program, -(-n * h * w // DESCENT.threads), {"count": n * h * w, "h": h, "w": w})
