"""What the launches of a primitive have in common: constants, arrays as kernels read them, and sizes.

Kernels read videos with channels last: those that already lie in memory like that are not copied.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch.backends.cuda.kernels import CTYPES, Constants, Kernel, Program

MOST_PROGRAMS = 1024  # that are remembered by the options of calls

# what tests compile of the kernels that are given places
_ARRAYS: Constants = {"OFFSET": "float", "WHOLE": 0, "ZEROS": 0, "QUERY_ZEROS": 0, "STACKED": 0}
FRACTION = _ARRAYS | {"PATCH": 7, "DILATION": 1, "STRIDE": 1, "SCALE": 1, "L2": 1}
_WHOLE = {**FRACTION, "OFFSET": "int", "WHOLE": 1, "L2": 0, "QUERY_ZEROS": 1}
_ZEROS = {**FRACTION, "ZEROS": 1, "QUERY_ZEROS": 1, "PATCH": 3, "DILATION": 2, "STRIDE": 2}
PLACES = (FRACTION, _WHOLE, _ZEROS)
STACKED = {**FRACTION, "QUERY_ZEROS": 1, "STACKED": 1, "PATCH": 3, "L2": 0}


class Call:
    """A call of a primitive that is given places."""

    def __init__(self, device, p: Patches, offsets, dtype, *, q_shape=None, k_shape=None, **arrays):
        """Prepare a call on `arrays` q, k, weights and patches, as far as there are any."""
        q, k, weights, patches = (arrays.get(name) for name in ("q", "k", "weights", "patches"))
        xp = device.xp
        self.device, self.patches, self.dtype, self.sums = device, p, dtype, sums(dtype)
        q_shape = q_shape if q is None else q.shape
        k_shape = k_shape if k is None else k.shape
        self.sizes = sizes_of(p, offsets.shape[:-1], q_shape, k_shape)
        self.candidates = offsets.size // 3
        layout = p if p.origin == (0, 0, 0) else replace(p, origin=(0, 0, 0))  # which no constant says
        stacked = q_shape is not None and len(q_shape) == 6
        self.options = (layout, dtype, offsets.dtype, patches is not None, stacked)
        self.arrays = {
            "q": channels_last(xp, q),
            "k": channels_last(xp, k),
            "offsets": xp.ascontiguousarray(offsets),
            "weights": None if weights is None else xp.ascontiguousarray(weights.astype(self.sums, copy=False)),
            "patches": None if patches is None else xp.ascontiguousarray(patches),
        }

    def run(self, kernel: Kernel, count: int, more: tuple[tuple[str, int], ...] = (), **arguments) -> None:
        """Launch a kernel that has one thread for each of `count` numbers, with `more` constants than all have."""
        if count == 0:
            return
        program = _program(kernel, *self.options, more)
        launch(
            self.device,
            program,
            -(-count // kernel.threads),
            {**self.arrays, **self.sizes, **arguments, "count": count},
        )


@lru_cache(MOST_PROGRAMS)
def _program(kernel: Kernel, p: Patches, dtype, offsets, patches: bool, stacked: bool, more) -> Program:
    constants = {"OFFSET": CTYPES[offsets.name], "PATCHES": int(patches), "STACKED": int(stacked)}
    return Program(kernel, {**constants_of(p, dtype, whole=offsets.kind == "i"), **constants, **dict(more)})


def launch(device, program: Program, blocks: int, known: dict[str, Any]) -> None:
    """Launch a kernel with those of the `known` arguments that it has."""
    device.launch(program, blocks, program.bind(known), shared=program.shared)


def channels_last(xp, video):
    if video is None:
        return None
    leading = range(video.ndim - 3)
    return xp.ascontiguousarray(video.transpose(*leading, -2, -1, -3))


def sizes_of(p: Patches, scores: tuple, q: tuple | None, k: tuple) -> dict[str, int]:
    """Return the sizes of a call by their names in video.cuh, and the batch, from the shapes of its arrays."""
    B, G, T, h, w, K = scores
    kT, C, kH, kW = k[-4:]
    qT, _, qH, qW = (0, 0, 0, 0) if q is None else q[-4:]
    t0, y0, x0 = p.origin
    queries = {"B": B, "G": G, "F": C // G, "K": K, "T": T, "h": h, "w": w, "t0": t0, "y0": y0, "x0": x0}
    return queries | {"qT": qT, "qH": qH, "qW": qW, "kT": kT, "kH": kH, "kW": kW}


@cache
def sums(dtype) -> np.dtype:
    """Return the dtype in which numbers of a dtype are added."""
    return np.dtype("float64") if dtype == np.float64 else np.dtype("float32")


def numbers(dtype) -> Constants:
    return {"SCALAR": CTYPES[np.dtype(dtype).name], "ACC": CTYPES[sums(dtype).name]}


def constants_of(p: Patches, dtype, whole: bool) -> Constants:
    borders = {"ZEROS": int(p.border == "zeros"), "QUERY_ZEROS": int(p.query_border == "zeros")}
    layout = {"PATCH": p.patch, "STRIDE": p.stride, "DILATION": p.dilation, "SCALE": p.scale}
    return {**numbers(dtype), **borders, **layout, "L2": int(p.metric == "l2"), "WHOLE": int(whole)}
