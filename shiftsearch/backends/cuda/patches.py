"""Patches as arrays: read, and added back."""

from __future__ import annotations

from typing import Any

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda import tiles
from shiftsearch.backends.cuda.call import PLACES, STACKED, Call
from shiftsearch.backends.cuda.kernels import Kernel, each_with
from shiftsearch.backends.cuda.landing import LANDS, sort_by_landing

_OF_FORM, _OF_PATCHES = each_with((*PLACES, STACKED), PATCHES=0), each_with(PLACES, PATCHES=1, REPAIR=0, COVERS=1)
_SCATTERED = each_with((*_OF_FORM, *_OF_PATCHES), **LANDS)
GATHER = Kernel("gather", "gather.cu", registers=112, instances=PLACES)
SCATTER = Kernel("scatter", "scatter.cu", registers=192, instances=_SCATTERED)


@primitive
def gather(device: Any, v: Native, offsets: Native, p: Patches) -> Native:
    call = Call(device, p, offsets, v.dtype, k=v).with_channels_last()
    patches = device.xp.empty((*offsets.shape[:-1], call.options.sizes["F"], p.patch, p.patch), v.dtype)
    call.arrays["patches"] = patches
    call.run_for_each(GATHER, p.patch)
    return patches


def collect(call: Call, coverage: Native = None) -> Native:
    """Sort the candidates by where they land, and let each pixel collect what lands on it: see scatter.cu."""
    s = call.options.sizes
    landed = sort_by_landing(call)
    out = call.device.xp.empty((s["B"], s["kT"], s["G"] * s["F"], s["kH"], s["kW"]), call.dtype)
    call.arrays["out"], call.arrays["coverage"] = out, coverage
    # stacked candidates look at videos of their own
    summed = 0 if call.options.stacked else tiles.scatter(call, landed)
    if not summed:
        call.with_channels_last()
    call.run_for_video(SCATTER, (*landed, ("REPAIR", summed), ("COVERS", int(coverage is not None))))
    return out
