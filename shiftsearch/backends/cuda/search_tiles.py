"""Tiles of queries that share what they compare: which searches they can do, and what shape they have.

On tiles are searches by float32, float16 and bfloat16, for every pixel (no stride, step, dilation or second resolution), by
patches of up to 15, with channels that fit into shared memory; a topk of whole pixels that registers cannot hold is found
in passes.
Strides and dilations lose what neighbours share, seeds lead them apart: these searches, and tiles whose flow is wild, from
the first slot on where it is, are for search_windows.cu or search.cu.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch.backends.cuda.kernels import Constants, Kernel, Plan, Program

_AT_ONCE, _WAIT = 9, 6  # SS_MOST_AT_ONCE and SS_WAIT of search_tiles.cu
_BLENDED_AT_ONCE = 5  # and of search_subpixel.cu
_MOST_PATCH, _MOST_WINDOW, _MOST_RADIUS = 15, 63, 32
DIRECT = ("REGISTERS", "ROOM", "SHARED", "MARKED", "SEEDS")  # constants that tiles do not have
_FEWEST = 24 * 24  # pixels of a frame for which tiles are worth it
_BUDGET = 24  # displacements of a tile for each of the window, above which its queries are searched one by one
_PASSES = range(1, 10)  # over the same candidates, each of which keeps those behind the ones of the pass before
# rows of pixels, queries of a consumer, and numbers of their best in its registers; what comes first is faster
_SHAPES = ((32, 4, 80), (24, 4, 80), (16, 2, 120), (12, 2, 120), (8, 2, 120))
_BLENDED_SHAPES = ((28, 2, 60), (16, 2, 120), (12, 2, 120))


def constants(
    spec: Any, p: Patches, dtype: Any, direct: Constants, video: tuple[int, ...], memory: int
) -> Constants | None:
    """Return the constants of a search of a `video`, which is none of seeds, from those of its direct form.

    `memory` are the bytes of shared memory of a block. None: it cannot be on tiles.
    """
    if not shares(spec, p, dtype, video):
        return None
    C, itemsize = video[2], np.dtype(dtype).itemsize
    ranked = int(spec.penalty != 0 or spec.anchor is not None)
    known = {**direct, "RANKED": ranked, "BUDGET": _BUDGET, **_channels(C // spec.heads, itemsize)}
    of_size = _BLENDED_SHAPES if spec.subpixel else _SHAPES
    held = dict.fromkeys(("float", direct["SCALAR"]))  # floats need not be converted each time, but take more room
    ways = ({**known, "HELD": number} for number in held)
    shapes = (
        _shape(way, rows, column, registers, passes, memory)
        for passes, (rows, column, registers), way in product(_PASSES, of_size, ways)
    )
    shape = next((shape for shape in shapes if shape), None)
    return {name: value for name, value in known.items() if name not in DIRECT} | shape if shape else None


def plan(kernel: Kernel, tiles: Constants, sizes: dict[str, int]) -> Plan:
    across, down = -(-sizes["w"] // tiles["TILE_X"]), -(-sizes["h"] // tiles["TILE_Y"])
    blocks = sizes["B"] * sizes["G"] * sizes["T"] * across * down
    return Plan(Program(kernel, tiles), blocks, {**sizes, "across": across, "down": down})


def shares(spec: Any, p: Patches, dtype: Any, video: tuple[int, ...]) -> bool:
    """Say whether windows of neighbours share comparisons that a tile can make."""
    *_, H, W = video
    slides = not spec.slide or all(
        n >= m + spec.subpixel for n, m in zip((H, W), spec.window, strict=True)
    )  # else candidates lie outside all the same
    near = spec.step == p.stride == p.dilation == p.scale == 1 and p.border == p.query_border
    small = p.patch <= _MOST_PATCH and max(spec.window) <= _MOST_WINDOW and spec.radius <= _MOST_RADIUS
    return (
        H * W >= _FEWEST
        and slides
        and near
        and small
        and _blends(spec, p)
        and spec.topk is not None
        and dtype != np.float64
    )


def _blends(spec: Any, p: Patches) -> bool:
    """Say whether scores of whole pixels become those of the places between, where candidates lie there.

    In a border of zeros a difference of which one pixel is outside is not there, whatever its weight.
    """
    ranked = spec.penalty != 0 or spec.anchor is not None
    return not spec.subpixel or (not ranked and (p.metric == "dot" or p.border == "reflect"))


def _channels(channels: int, itemsize: int) -> Constants:
    """Return how many channels are compared at a time, and how often."""
    at_once = next(n for n in (4, 8, 16) if n * itemsize >= 16 and (n >= channels or n == 16))
    return {"CHANNELS": at_once, "CHUNKS": -(-channels // at_once), "FULL": int(channels % at_once == 0)}


def _shape(constants: Constants, rows: int, column: int, registers: int, passes: int, memory: int) -> Constants | None:
    """Return the constants of a shape of tiles, or None if something does not fit."""
    patch, kept = constants["PATCH"], constants["TOPK"]
    topk = -(-kept // passes)
    wide, tall = (n - patch + 1 & ~1 for n in (32, rows))  # pairs begin at even queries
    one = constants["SUBPIXEL"] and passes > 1  # what is open has to be settled in the first
    if one or tall < column or column * topk * (2 + constants["RANKED"]) > registers:
        return None
    shape = {
        "HELD": constants["HELD"],
        "ROWS": rows,
        "COLUMN": column,
        "TILE_X": wide,
        "TILE_Y": tall,
        "KEPT": kept,
        "TOPK": topk,
    }
    shape["THREADS"] = 8 * rows + -(-_owners(shape) // 32) * 32
    shape["RING"] = (memory - _fixed(constants) - _beside_ring({**constants, **shape})) // 16 * 16
    strip = 4 * constants["CHANNELS"] * constants["CHUNKS"] * (4 if constants["HELD"] == "float" else 2) + 16
    needed = (rows + 1) * -(-(31 + max(constants["WINDOW_X"] + constants["SUBPIXEL"], 3)) // 4) * strip
    return shape if shape["RING"] >= needed and shared({**constants, **shape}) >= wide * tall * topk * 16 else None


def _owners(shape: Constants) -> int:
    return shape["TILE_X"] * -(-shape["TILE_Y"] // shape["COLUMN"])


def _fixed(constants: Constants) -> int:
    """Return the bytes of shared arrays of fixed size: slots, penalties of a window, and some that systems take."""
    penalties = constants["RANKED"] * constants["WINDOW_Y"] * constants["WINDOW_X"]
    return 12 * (2 * constants["RADIUS"] + 1) + 4 * penalties + 1280


def _beside_ring(constants: Constants) -> int:
    """Return the bytes of sums along rows, of queues, and of what blends need."""
    row, queries = -(-constants["TILE_X"] // 4) * 16, constants["TILE_X"] * constants["TILE_Y"]
    at_once = _BLENDED_AT_ONCE if constants["SUBPIXEL"] else _AT_ONCE
    sums = 2 * (at_once * constants["ROWS"] + constants["COLUMN"]) * row
    blends = constants["SUBPIXEL"] * _for_blends(constants, queries)
    return sums + 8 * _WAIT * queries + blends + _for_attention(constants)


def _for_blends(constants: Constants, queries: int) -> int:
    """Return the bytes of blends that wait for the next row, and of what consumers note of their queries."""
    consumers = constants["THREADS"] - 8 * constants["ROWS"]
    return 4 * constants["WINDOW_X"] * queries + 16 * constants["COLUMN"] * consumers


def _for_attention(constants: Constants) -> int:
    """Return the bytes of what has been found of the places to attend to, before all of them are: the rest needs no ring."""
    in_one = constants["KEPT"] == constants["TOPK"] and not constants["PER_FRAME"]
    return 0 if in_one else 8 * constants["TILE_X"] * constants["TILE_Y"] * constants.get("ATTENDED", 0)


def found_at(constants: Constants) -> int:
    """Return how many bytes of shared memory lie before what has been found of the places to attend to."""
    kept = _for_attention(constants)
    return shared(constants) - kept if kept else 0


def shared(constants: Constants) -> int:
    return constants["RING"] + _beside_ring(constants)


# --- what tests compile -----------------------------------------------------------------------------
_FORM = {"OFFSET": "float", "WHOLE": 1, "ZEROS": 0, "QUERY_ZEROS": 0, "STACKED": 0, "PATCH": 7, "L2": 1}
_WINDOWS = {"WINDOW_Y": 9, "WINDOW_X": 9, "EVEN_BEFORE": 0, "STEP": 1.0, "RADIUS": 1, "SLIDE": 1}
_GRID = {"DILATION": 1, "STRIDE": 1, "SCALE": 1, "AROUND": "float", **_WINDOWS}
_BEST = {"FIRST_SLOT": 0, "PENALTY": 0, "TOPK": 10, "KEPT": 10, "PER_FRAME": 0, "ANCHOR": 0, "SKIP": 0, "RANKED": 0}
_LARGE = {"ROWS": 32, "COLUMN": 4, "TILE_X": 26, "TILE_Y": 26, "THREADS": 448, "RING": 127 * 1024}
_SMALL = {"ROWS": 16, "COLUMN": 2, "TILE_X": 30, "TILE_Y": 14, "THREADS": 352, "RING": 48 * 1024, "PATCH": 3}
INSTANCE = {**_FORM, **_GRID, **_BEST, "VECTORS": 1, "SUBPIXEL": 0, "PLACE": "int", "WEIGHED": 0}
_TILES = {**INSTANCE, **_LARGE, "CHANNELS": 16, "CHUNKS": 1, "FULL": 1, "HELD": "float", "BUDGET": _BUDGET}
_PENALTY = {"PENALTY": 1, "RANKED": 1, "PER_FRAME": 1, "SLIDE": 0, "L2": 0, "SKIP": 1, "WEIGHED": 1}
_ODD = {
    "ZEROS": 1,
    "QUERY_ZEROS": 1,
    "PATCH": 4,
    "VECTORS": 0,
    "CHANNELS": 8,
    "ROWS": 24,
    "TILE_X": 28,
    "TILE_Y": 20,
    "WEIGHED": 1,
}
TILES = Kernel(
    "search_tiles",
    "search_tiles.cu",
    registers=168,
    frame=200,  # outside of the loops over displacements and candidates
    shared=shared,
    dtypes=("float32", "float16", "bfloat16"),
    instances=(
        _TILES,
        {**_TILES, **_SMALL, **_PENALTY},
        {**_TILES, **_ODD, "THREADS": 352, "CHUNKS": 2, "FULL": 0, "TOPK": 6, "KEPT": 10},
    ),
)
