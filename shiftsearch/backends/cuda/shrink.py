"""Groups of patches that are filtered in the spectrum of their cosine transform: see shrink.cu."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch import _cosines
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.kernels import Constants, Kernel, Plan, Program

_THREADS = 128
_MOST = 17  # patches of a group: code grows with the square of it
_MOST_SIDE = 16  # of a patch: likewise, and so do registers
_ROOM = 48 << 10  # bytes of shared memory

_FAST = {"PATCH": 8, "COUNT": 7, "GROUPS": 2}
SHRINK = Kernel(
    "shrink",
    "shrink.cu",
    threads=_THREADS,
    registers=168,
    dtypes=("float32", "float64"),
    instances=({**_FAST, "GUIDED": 1}, {**_FAST, "GUIDED": 0}, {"PATCH": 5, "COUNT": 17, "GROUPS": 5, "GUIDED": 1}),
)


@primitive
def threshold(device: Any, groups: Native, levels: Native, powers: Native) -> tuple[Native, Native]:
    plan = _plan(groups.shape, groups.dtype, 0)
    if plan is None:
        return _cosines.threshold(device.xp, groups, levels, powers)
    return _launched(device, plan, groups=groups, guide=None, levels=levels, powers=powers)


@primitive
def wiener(device: Any, groups: Native, guide: Native, noise: Native, powers: Native) -> tuple[Native, Native]:
    plan = _plan(groups.shape, groups.dtype, 1)
    if plan is None:
        return _cosines.wiener(device.xp, groups, guide, noise, powers)
    return _launched(device, plan, groups=groups, guide=guide, levels=noise, powers=powers)


def _launched(device: Any, plan: Plan, **given: Native) -> tuple[Native, Native]:
    xp, groups = device.xp, given["groups"]
    arrays = {
        name: None if each is None else xp.ascontiguousarray(each.astype(groups.dtype, copy=False))
        for name, each in given.items()
    }
    found, weights = xp.empty(groups.shape, groups.dtype), xp.empty(len(groups), groups.dtype)
    plan.launch(device, {**arrays, "found": found, "weights": weights})
    return found, weights


@lru_cache(MOST_PLANS)
def _plan(shape: tuple[int, ...], dtype: np.dtype, guided: int) -> Plan | None:
    """Return how groups of this shape are filtered, or None if they are too large."""
    count, n, pixels = shape
    side = math.isqrt(pixels)
    at_once = max(1, _THREADS // pixels)
    memory = dtype.itemsize * (1 + guided) * at_once * n * side * (side + 1)
    if n > _MOST or side > _MOST_SIDE or memory > _ROOM - 4096:
        return None
    constants: Constants = {"PATCH": side, "COUNT": n, "GROUPS": at_once, "GUIDED": guided}
    return Plan(Program(SHRINK, {**numbers(dtype), **constants}), -(-count // at_once), {"count": count})
