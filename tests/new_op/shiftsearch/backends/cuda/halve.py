"""The primitive on a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers, sums
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

HALVE = Kernel("halve", "halve.cu", instances=({"TIMES": 2},))


@primitive
def halve(device: Any, v: Native, factor: Native, times: int) -> Native:
    xp = device.xp
    out, factor = xp.empty(v.shape, v.dtype), factor.astype(sums(v.dtype))
    arrays = {"v": xp.ascontiguousarray(v), "factor": xp.ascontiguousarray(factor), "out": out}
    _plan(v.dtype, out.size, v.shape[-1], times).launch(device, arrays)
    return out


@lru_cache(MOST_PLANS)
def _plan(dtype, count: int, width: int, times: int) -> Plan:
    program = Program(HALVE, {**numbers(dtype), "TIMES": times})
    return Plan(program, -(-count // HALVE.threads), {"count": count, "width": width})
