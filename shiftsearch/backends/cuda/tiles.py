"""Derivatives at whole places, tile by tile: see tiles.cuh."""

from __future__ import annotations

from math import prod
from typing import Any

from shiftsearch._geometry import Patches
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import WHOLE, Call, Pairs, channels_at_a_time
from shiftsearch.backends.cuda.kernels import Constants, Kernel, each_with
from shiftsearch.backends.cuda.landing import LANDS, Landed

_WIDTH, _HEIGHT = 32, 8  # pixels of a tile
_MEMORY = 63 * 1024  # bytes of shared memory: with the few of fixed size this fits on every device
_MOST_STAGED = 15  # candidates of a query: their order fits into 64 bits
_MOST_STEPS = 12  # at a time: a window is often that wide


def _around(p: Patches) -> int:
    """Return how many more rows, and columns, homes have than a tile."""
    return p.dilation * (p.patch - 1)


def _homes(around: int) -> int:
    return (_HEIGHT + around) * (_WIDTH + around)


def _of_step(around: int) -> int:
    """Return how many numbers a step has in shared memory: weights, and their sums along rows."""
    return (_HEIGHT + around) * (_fours(_WIDTH + 2 * around) + _fours(_WIDTH + around))


def _fours(n: int) -> int:
    return -(-n // 4) * 4


def _shared(constants: Constants) -> int:
    around, size = constants["DILATION"] * (constants["PATCH"] - 1), 8 if constants["ACC"] == "double" else 4
    numbers = constants["STEPS"] * _of_step(around) + 4
    return numbers * size + 4 * constants["STAGED"] * _homes(around)


def _steps(p: Patches, candidates: int, size: int) -> Pairs:
    """Return how many steps are taken at a time, and of how many candidates they are staged: of all or none.

    Sums have `size` bytes.
    """
    around = _around(p)
    for staged in (candidates if candidates <= _MOST_STAGED else 0, 0):
        room = _MEMORY - 4 * size - 4 * staged * _homes(around)
        at_once = min(_MOST_STEPS, room // (size * _of_step(around)))
        if at_once >= 2 or not staged:
            break
    return ("STEPS", at_once), ("STAGED", staged)


_TILED = {"STRIDE": 1, "CHANNELS": 16, "STEPS": 9, "STAGED": 10}
_TILES: dict[str, Any] = {"threads": _WIDTH * _HEIGHT, "registers": 224, "shared": _shared}
_L2 = {**WHOLE, **_TILED, "QUERY_ZEROS": 0, "L2": 1, "PATCH": 3, "STAGED": 0}
AGGREGATE_TILES = Kernel("aggregate_tiles", "aggregate_tiles.cu", **_TILES, instances=({**WHOLE, **_TILED}, _L2))
SCATTER_TILES = Kernel(
    "scatter_tiles",
    "scatter_tiles.cu",
    **_TILES,
    instances=each_with(({**WHOLE, **_TILED}, _L2), STAGED=0, **LANDS),
)


def fits(call: Call) -> bool:
    """Say whether tiles are for this call: where neighbours share homes, and all steps have numbers of 32 bits."""
    p, s = call.patches, call.sizes
    every_pixel = call.whole and p.stride == p.scale == 1 and call.arrays["patches"] is None
    small = p.patch > 1 and p.dilation * (p.patch // 2) < _HEIGHT
    rows, columns = (s[f"q{side}"] + s[f"k{side}"] + 2 * _around(p) for side in "HW")
    return every_pixel and small and max(s["qT"], s["kT"]) * rows * (columns + _MOST_STEPS) < 2**32 - 1


def aggregate(call: Call, out: Native) -> None:
    _run(call, AGGREGATE_TILES, out, 1 if call.stacked else call.sizes["K"])


def scatter(call: Call, landed: Landed, out: Native) -> None:
    _run(call, SCATTER_TILES, out, 0, landed.constants, order=landed.order, ends=landed.ends)


def _run(call: Call, kernel: Kernel, out: Native, staged: int, constants: Pairs = (), **arrays: Native) -> None:
    """Launch a kernel that has a block for each tile of `out`."""
    *videos, H, W = out.shape
    size = call.sums.itemsize
    channels = channels_at_a_time(call.sizes["F"], 64 // size)
    constants = (*constants, ("CHANNELS", channels), *_steps(call.patches, staged, size))
    blocks = prod(videos) // channels * -(-H // _HEIGHT) * -(-W // _WIDTH)
    call.run(kernel, blocks, constants=constants, out=out, **arrays)
