"""Subpixel search on tiles: scores of whole pixels are blended into those of the places between them.

A score is that of the direct form to 2**-12 of itself, where products are subtracted from nothing to what float32 sums
round. See cuda_src/blend.cuh.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._types import Native
from shiftsearch.backends.cuda import search_tiles
from shiftsearch.backends.cuda.kernels import Constants, Kernel, Plan, Program

_TOLERANCE = 2.0**-12
_ROUNDS = 2.0**-24  # how much float32 does, of a number
BESIDE = 3  # columns of a spread on either side of its frame: SS_BESIDE of blend.cuh
_SPREAD_X, _SPREAD_Y = 32, 32  # pixels of a block of spread.cu
_OF_SPREAD = ("SCALAR", "ACC", "PATCH", "VECTORS", "STRIDE", "STACKED")


def constants(spec: Any, *search: Any) -> Constants | None:
    """Return the constants of a subpixel search on tiles, or None: see search_tiles.constants."""
    tiles = search_tiles.constants(spec, *search) if spec.subpixel else None
    return tiles and tiles | precision(tiles)


def precision(tiles: Constants) -> Constants:
    """Return the tolerance, and a bound of how wrong a blend is, in shares of what is subtracted from.

    Each number of a sum of squares is rounded as often as it is in a sum. Of a score: by the subtraction and the square,
    in a run of up to 16 channels, over the runs, and by the pairs along rows and columns; of a spread: by as many, over
    all channels and pixels. Weights, their products, and the fraction of a place are rounded, too.
    """
    patch, channels = tiles["PATCH"], tiles["CHANNELS"] * tiles["CHUNKS"]
    of_score = 3 + tiles["CHANNELS"] + tiles["CHUNKS"] + 2 * (patch // 2 + 2)
    of_spread = 4 + channels + 2 * patch
    of_weights = 32
    return {"TOLERANCE": _TOLERANCE, "ROUNDING": (of_score + of_spread + of_weights) * _ROUNDS}


def spread(tiles: Constants, sizes: dict[str, int]) -> Plan | None:
    """Return the launch that sums how much neighbouring pixels of k differ; products subtract nothing."""
    if not tiles["L2"]:
        return None
    across, down = -(-(sizes["kW"] + 2 * BESIDE) // _SPREAD_X), -(-sizes["kH"] // _SPREAD_Y)
    blocks = sizes["B"] * sizes["G"] * sizes["kT"] * across * down
    constants = {name: tiles[name] for name in _OF_SPREAD} | {"BESIDE": BESIDE}
    return Plan(Program(SPREAD, constants), blocks, {**sizes, "across": across, "down": down})


def empty_spread(xp: Any, heads: int, k: Native) -> Native:
    B, T, _, H, W = k.shape
    return xp.empty((B, heads, T, H, W + 2 * BESIDE, 4), np.float32)


# --- what tests compile -----------------------------------------------------------------------------
_SHAPE = {"ROWS": 28, "COLUMN": 2, "TILE_X": 26, "TILE_Y": 22, "THREADS": 512, "RING": 130 * 1024}
_ODD = {"SUBPIXEL": 1, "PLACE": "float", "RANKED": 0, "PENALTY": 0}
_BLENDS = [{**c, **_ODD, "KEPT": c["TOPK"], **precision(c)} for c in search_tiles.TILES.instances]
_BLENDS[0] |= _SHAPE
BLENDS = Kernel(
    "search_subpixel",
    "search_subpixel.cu",
    registers=168,
    frame=200,  # outside of the loops over displacements and candidates
    shared=search_tiles.shared,
    dtypes=search_tiles.TILES.dtypes,
    instances=(*_BLENDS,),
)
_VIDEO = {"PATCH": 7, "STRIDE": 1, "STACKED": 0, "BESIDE": BESIDE}
SPREAD = Kernel(
    "spread",
    "spread.cu",
    threads=256,
    registers=96,
    dtypes=search_tiles.TILES.dtypes,
    instances=({**_VIDEO, "VECTORS": 1}, {**_VIDEO, "VECTORS": 0, "PATCH": 15}),
)
