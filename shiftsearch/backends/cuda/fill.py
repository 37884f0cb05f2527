"""Planes of half the size, and gaps that are filled from them, a launch for each size: see fill.cu."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

_OF_SUMS: dict[str, Any] = {"registers": 40, "dtypes": ("float32", "float64"), "instances": ({},)}
COARSER = Kernel("coarser", "fill.cu", **_OF_SUMS)
FILL_UP = Kernel("fill_up", "fill.cu", **_OF_SUMS)


@primitive
def coarser(device: Any, planes: Native) -> Native:
    return _coarser(device, device.xp.ascontiguousarray(planes))


@primitive
def fill(device: Any, found: Native, weight: Native, *, known: float) -> Native:
    xp, found = device.xp, device.xp.ascontiguousarray(found)
    levels = [xp.concatenate([weight * found, weight])]
    while max(levels[-1].shape[1:]) > 1:
        levels.append(_coarser(device, levels[-1]))
    whole = _filled(device, None, levels[-1], None, known)
    for level in reversed(levels[1:-1]):
        whole = _filled(device, None, level, whole, known)
    return _filled(device, found, levels[0], whole, 0)


def _filled(device: Any, found: Native | None, level: Native, coarse: Native | None, least: float) -> Native:
    n, h, w = level.shape
    out = device.xp.empty((n // 2, h, w), level.dtype)
    arrays = {"found": found, "level": level, "coarse": coarse, "out": out, "least": level.dtype.type(least)}
    _plan(FILL_UP, out.shape, (h, w), out.dtype).launch(device, arrays)
    return out


def _coarser(device: Any, planes: Native) -> Native:
    n, h, w = planes.shape
    out = device.xp.empty((n, -(-h // 2), -(-w // 2)), planes.dtype)
    _plan(COARSER, out.shape, (h, w), planes.dtype).launch(device, {"planes": planes, "out": out})
    return out


@lru_cache(MOST_PLANS)
def _plan(kernel: Kernel, shape: tuple[int, ...], size: tuple[int, int], dtype: np.dtype) -> Plan:
    """Return the launch of a thread for each pixel of planes of this shape."""
    n, h, w = shape
    return Plan(
        Program(kernel, numbers(dtype)),
        -(-n * h * w // kernel.threads),
        {"count": n * h * w, "h": size[0], "w": size[1]},
    )
