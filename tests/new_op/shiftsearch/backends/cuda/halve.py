"""The primitive on a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PROGRAMS, launch, numbers, sums
from shiftsearch.backends.cuda.kernels import Kernel, Program

HALVE = Kernel("halve", "halve.cu", instances=({"TIMES": 2},))


@primitive
def halve(device: Any, v: Native, factor: Native, times: int) -> Native:
    xp = device.xp
    out, factor = xp.empty(v.shape, v.dtype), factor.astype(sums(v.dtype))
    arrays = {"v": xp.ascontiguousarray(v), "factor": xp.ascontiguousarray(factor), "out": out}
    sizes = {"width": v.shape[-1], "count": out.size}
    launch(device, _program(v.dtype, times), -(-out.size // HALVE.threads), {**arrays, **sizes})
    return out


@lru_cache(MOST_PROGRAMS)
def _program(dtype, times: int) -> Program:
    return Program(HALVE, {**numbers(dtype), "TIMES": times})
