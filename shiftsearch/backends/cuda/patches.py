"""Patches as arrays: read, and added back."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import PLACES, STACKED, Call
from shiftsearch.backends.cuda.kernels import Kernel, each_with

_SORTED = each_with(PLACES, PATCHES=0, REACH=4, WEIGHTED=1)
_SCATTERED = (*_SORTED, *each_with((STACKED,), PATCHES=0, REACH=4, WEIGHTED=1), *each_with(_SORTED, PATCHES=1))
GATHER = Kernel("gather", "gather.cu", registers=72, instances=PLACES)
LANDING = Kernel("landing", "scatter.cu", registers=40, instances=_SORTED)
SCATTER = Kernel("scatter", "scatter.cu", registers=128, instances=_SCATTERED)


@primitive
def gather(device: Any, v: Native, offsets: Native, p: Patches) -> Native:
    call = Call(device, p, offsets, v.dtype, k=v)
    patches = device.xp.empty((*offsets.shape[:-1], call.sizes["F"], p.patch, p.patch), v.dtype)
    call.run(GATHER, patches.size, patches=patches)
    return patches


@primitive
def fold(
    device: Any,
    patches: Native,
    weights: Native | None,
    offsets: Native,
    p: Patches,
    *,
    size: tuple[int, int, int],
) -> Native:
    """Scatter patches that are given."""
    T, H, W = size
    shape = (offsets.shape[0], T, offsets.shape[1] * patches.shape[-3], H, W)
    return sort_and_scatter(Call(device, p, offsets, patches.dtype, weights=weights, patches=patches, k_shape=shape))


def sort_and_scatter(call: Call) -> Native:
    """Sort the candidates by the pixel that each lands at, and let each pixel collect its own: see scatter.cu."""
    xp, p, s = call.device.xp, call.patches, call.sizes
    reach = p.dilation * (p.patch // 2 + 1) + 1
    constants = ("REACH", reach), ("WEIGHTED", int(call.arrays["weights"] is not None))
    padded = s["B"] * s["G"] * s["kT"] * (s["kH"] + 2 * reach) * (s["kW"] + 2 * reach)
    pixels = xp.empty(call.candidates, np.int64)
    call.run(LANDING, pixels.size, constants=constants, numbers=(("behind", padded),), pixels=pixels)
    order = xp.argsort(pixels, kind="stable")
    begins = xp.searchsorted(pixels[order], xp.arange(padded + 1))
    out = xp.empty((s["B"], s["kT"], s["G"] * s["F"], s["kH"], s["kW"]), call.dtype)
    call.run(SCATTER, out.size, constants=constants, order=order, begins=begins, out=out)
    return out
