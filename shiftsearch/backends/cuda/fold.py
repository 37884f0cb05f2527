"""Patches added back: square by square where they lie at whole places, see fold.cu, and else as scatter does."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import (
    MOST_PLANS,
    MOST_SIDE,
    WHOLE,
    Call,
    Options,
    Pairs,
    channels_at_a_time,
    plan_of,
)
from shiftsearch.backends.cuda.kernels import Kernel, Plan
from shiftsearch.backends.cuda.landing import LANDS, sort_by_landing
from shiftsearch.backends.cuda.patches import collect

_SIDE, _WARPS = 8, 4  # pixels of a square, and squares of a block
_MOST_PATCH = 2 * _SIDE - 1  # larger ones reach from behind the border into the second square
_MOST_AT_ONCE = 8  # sums of a thread at a pixel: of some channels of some heads

_WHOLE = {**WHOLE, "PATCH": 8, "PATCHES": 1, "REPAIR": 0, "COVERS": 1, **LANDS}
FOLD = Kernel(
    "fold",
    "fold.cu",
    registers=128,
    instances=(
        {**_WHOLE, "SHARED": 1, "HEADS": 3, "CHANNELS": 1},
        {**_WHOLE, "SHARED": 0, "HEADS": 1, "ZEROS": 1, "COVERS": 0, "WEIGHTED": 0},
    ),
)


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
    return _folded(_of_patches(device, patches, weights, offsets, p, size), offsets, None)


@primitive
def fold_and_cover(
    device: Any,
    patches: Native,
    weights: Native | None,
    offsets: Native,
    p: Patches,
    *,
    size: tuple[int, int, int],
) -> tuple[Native, Native]:
    call, (T, H, W) = _of_patches(device, patches, weights, offsets, p, size), size
    coverage = device.xp.empty((call.options.sizes["B"], T, call.options.sizes["G"], H, W), call.sums)
    return _folded(call, offsets, coverage), coverage


def _of_patches(device: Any, patches: Native, weights: Native | None, offsets: Native, p: Patches, size) -> Call:
    T, H, W = size
    shape = (offsets.shape[0], T, offsets.shape[1] * patches.shape[-3], H, W)
    return Call(device, p, offsets, patches.dtype, weights=weights, patches=patches, k_shape=shape)


def _folded(call: Call, offsets: Native, coverage: Native) -> Native:
    options, xp = call.options, call.device.xp
    if not _in_squares(options):
        return collect(call, coverage)
    s = options.sizes
    shared = s["G"] > 1 and offsets.strides[1] == 0
    sorting = call
    if shared:  # the places of one head are those of all
        sorting = Call(
            call.device, options.patches, offsets[:, :1], call.dtype, k_shape=(s["B"], s["kT"], 1, s["kH"], s["kW"])
        )
    reach = dict(sort_by_landing(sorting))["REACH"]
    arrays = {name: sorting.arrays[name] for name in ("order", "ends", "counts")}
    arrays["out"] = xp.empty((s["B"], s["kT"], s["G"] * s["F"], s["kH"], s["kW"]), call.dtype)
    weighted, covers = call.arrays["weights"] is not None, coverage is not None
    constants = ("REACH", reach), ("WEIGHTED", int(weighted)), ("COVERS", int(covers)), ("SHARED", int(shared))
    _plan(options, constants).launch(call.device, {**call.arrays, **arrays, "coverage": coverage})
    return arrays["out"]


def _in_squares(options: Options) -> bool:
    """Return whether patches lie so that fold.cu can add them: each pixel is shown at most twice along an axis.

    The threads of a row of squares are counted in 32 bits: four for each of its pixels.
    """
    s, p = options.sizes, options.patches
    near = options.whole and p.dilation == 1 and p.patch <= _MOST_PATCH
    return near and min(s["kH"], s["kW"]) > p.patch and s["kW"] < MOST_SIDE // 2


@lru_cache(MOST_PLANS)
def _plan(options: Options, constants: Pairs) -> Plan:
    s = options.sizes
    heads = channels_at_a_time(s["G"], 4) if dict(constants)["SHARED"] else 1
    channels = channels_at_a_time(s["F"], _MOST_AT_ONCE // heads)
    frames = s["B"] * s["kT"] * (s["G"] // heads) * (s["F"] // channels)
    down, across = (-(-s[side] // _SIDE) for side in ("kH", "kW"))
    blocks = frames * down * -(-across // _WARPS)
    return plan_of(FOLD, blocks, options, (*constants, ("HEADS", heads), ("CHANNELS", channels)))
