"""Derivatives at whole places, tile by tile: see tiles.cuh."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from shiftsearch.backends.cuda.call import MOST_PLANS, WHOLE, Call, Options, Pairs, channels_at_a_time, plan_of
from shiftsearch.backends.cuda.kernels import Constants, Kernel, Plan, each_with
from shiftsearch.backends.cuda.landing import LANDS

_WIDTH, _HEIGHT, _THREADS = 32, 8, 128  # pixels of a tile, and threads
_SPARE = 4  # columns that are staged beside those that the steps need
_MOST_STEPS = 9  # at a time: a window is often that wide
_MOST_STAGED = 32  # candidates of a query, which are sorted
_FIXED = 64  # bytes of shared memory that the kernels have beside these
_DENSE = True  # whether the form of dense.cuh is used


def _fours(n: int) -> int:
    return -(-n // 4) * 4


def _around(constants: Constants) -> tuple[int, int]:
    """Return how many rows, and columns, of homes come before a tile and behind it."""
    patch, dilation = constants["PATCH"], constants["DILATION"]
    return dilation * (patch - 1 - patch // 2), dilation * (patch // 2)


def _shared(constants: Constants, our_zeros: int, of_home: int) -> int:
    """Return how many bytes a block has, as tile_sum.cuh divides them: with `of_home` bytes for each home on its side."""
    (before, after), size = _around(constants), 8 if constants["ACC"] == "double" else 4
    steps, rows = constants["STEPS"], _HEIGHT + before + after
    beside = (0, 0) if our_zeros else (_fours(after), before)
    sums = rows * _fours(beside[0] + _WIDTH + beside[1])
    plane = sums + rows * _fours(before + after)
    staged = constants["CHANNELS"] * (_WIDTH + _fours(steps - 1) + _SPARE)
    dense = constants["DENSE"] * _HEIGHT * (steps * _WIDTH + staged)
    images = 0 if our_zeros and constants["DENSE"] else steps * sums
    return size * (max(dense, images) + steps * plane) + of_home * rows * (_WIDTH + before + after)


def _of_queries(constants: Constants) -> int:
    return _shared(constants, constants["QUERY_ZEROS"], 4 * constants["STAGED"] + 5)


def _of_keys(constants: Constants) -> int:
    return _shared(constants, constants["ZEROS"], 8)


_TILED = {"STRIDE": 1, "CHANNELS": 16, "STEPS": 9, "STAGED": 10, "DENSE": 1}
_TILES: dict[str, Any] = {"threads": _THREADS, "registers": 255}
_L2 = {**WHOLE, **_TILED, "QUERY_ZEROS": 0, "L2": 1, "PATCH": 3, "STAGED": 4, "CHANNELS": 8}
AGGREGATE_TILES = Kernel(
    "aggregate_tiles",
    "aggregate_tiles.cu",
    **_TILES,
    shared=_of_queries,
    instances=({**WHOLE, **_TILED, "MEAN": 1}, {**_L2, "MEAN": 0, "STRIDE": 2}),
)
SCATTER_TILES = Kernel(
    "scatter_tiles",
    "scatter_tiles.cu",
    **_TILES,
    shared=_of_keys,
    instances=each_with(({**WHOLE, **_TILED}, _L2), STAGED=0, **LANDS),
)


def scatter(call: Call, landed: Pairs) -> int:
    """Scatter on tiles, and return the channels of a tile, 0 if that cannot be done."""
    found = plan(call.options, SCATTER_TILES, 0, landed, call.arrays["out"].shape, call.device.most_shared)
    return launch(found, call.device, call.arrays)


def launch(plan: Plan | None, device: Any, arrays: dict[str, Any]) -> int:
    """Launch a kernel that has a block for each tile of `out`, and return the channels of a tile, 0 without a plan.

    It adds to the arrays which tiles are `finite`.
    """
    if plan is None:
        return 0
    arrays["finite"] = device.xp.empty(plan.blocks, np.int32)
    plan.launch(device, arrays)
    return plan.program.constants["CHANNELS"]


@lru_cache(MOST_PLANS)
def plan(
    options: Options, kernel: Kernel, candidates: int, constants: Pairs, shape: tuple[int, ...], memory: int
) -> Plan | None:
    """Return how a video of this shape is summed on tiles, or None."""
    layout = _layout(options, kernel, candidates, memory)
    if layout is None:
        return None
    *videos, H, W = shape
    blocks = prod(videos) // dict(layout)["CHANNELS"] * -(-H // _HEIGHT) * -(-W // _WIDTH)
    return plan_of(kernel, blocks, options, (*constants, *layout))


def _layout(options: Options, kernel: Kernel, candidates: int, memory: int) -> Pairs | None:
    """Return how a tile lies in so many bytes of shared memory, or None: where neighbours share no homes, or it has no room."""
    known, s, p = options.constants, options.sizes, options.patches
    overlap = p.stride < p.patch
    small = p.patch > 1 and p.dilation * (p.patch // 2) < _HEIGHT
    rows, columns = (s[f"q{side}"] + s[f"k{side}"] + 2 * p.dilation * (p.patch - 1) for side in "HW")
    steps = max(s["qT"], s["kT"]) * rows * (columns + _MOST_STEPS)
    numbered = (
        candidates <= _MOST_STAGED
        and steps * (_MOST_STAGED if candidates else 1) < 2**32 - 1 > 2 * s["h"] * s["w"] * s["K"]
    )
    if not (options.whole and p.scale == 1 and overlap and not known["PATCHES"] and small and numbered):
        return None
    others_end = known["ZEROS"] if kernel is AGGREGATE_TILES else known["QUERY_ZEROS"]
    dense = int(_DENSE and not (known["L2"] and others_end))  # what is beside that frame makes no pair, not one with 0
    size = 8 if known["ACC"] == "double" else 4
    full, half = (channels_at_a_time(s["F"], most // size) for most in (64, 32))
    for at_once, channels in ((_MOST_STEPS, full), (_MOST_STEPS, half), (5, half), (1, 1)):
        layout = ("STEPS", at_once), ("CHANNELS", channels), ("STAGED", candidates), ("DENSE", dense)
        if kernel.shared({**known, **dict(layout)}) + _FIXED <= memory:
            return layout
    return None
