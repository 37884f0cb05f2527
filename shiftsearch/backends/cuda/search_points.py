"""Tiles of queries whose patches are one pixel: tensor cores tell which few candidates must be scored.

These are the searches on tiles (see search_tiles.py) by patches of one pixel, whose best are those of the best score: with
no penalty and no anchor. The others that tiles can do are for search_tiles.cu.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch.backends.cuda import search_tiles
from shiftsearch.backends.cuda.kernels import Constants, Kernel

_MOST_WINDOW, _MOST_RADIUS, _MOST_TOPK = 15, 7, 30
_MOST_PARTS = 4  # of 16 channels, each of two halves if they are floats, that a warp's registers hold
_WAIT, _COLUMNS = 12, 36  # SS_WAIT and SS_COLUMNS of search_points.cu
_PIECES = 1.8  # of windows for each of the best: the more, the fewer candidates are scored
_TALL, _WIDE = 16, 16  # queries of a tile
_ENOUGH_FOR_TWO, _APART = 200 * 1024, 3  # bytes of shared memory that two blocks may share, and pixels: see _shape
_RESERVED = 1024  # bytes of a block that systems take


def constants(
    spec: Any, p: Patches, dtype: Any, direct: Constants, video: tuple[int, ...], memory: int
) -> Constants | None:
    """Return the constants of a search by tensor cores, or None: see search_tiles.constants."""
    if spec.subpixel or not search_tiles.shares(spec, p, dtype, video) or not _is_of_points(spec, p, direct["TOPK"]):
        return None
    channels, itemsize = video[2] // spec.heads, np.dtype(dtype).itemsize
    chunks = -(-channels // 16)
    if chunks * itemsize > 2 * _MOST_PARTS:
        return None
    rows = spec.window[0] * (1 if direct["PER_FRAME"] else spec.search_slots())
    known = {name: value for name, value in direct.items() if name not in search_tiles.DIRECT}
    known |= {"CHUNKS": chunks, "PADDED": int(channels % 16 > 0)}
    known |= {"PIECES": min(spec.window[1], -int(-_PIECES * direct["TOPK"] // rows))}
    return _shape(known, itemsize, memory)


def _is_of_points(spec: Any, p: Patches, topk: int) -> bool:
    small = max(spec.window) <= _MOST_WINDOW and spec.radius <= _MOST_RADIUS and topk <= _MOST_TOPK
    return p.patch == 1 and small and spec.penalty == 0 and spec.anchor is None


def _shape(known: Constants, itemsize: int, memory: int) -> Constants | None:
    """Return the constants with those of the shape of tiles, or None if their pixels do not fit into shared memory.

    Two blocks share it if each can hold what it needs where neighbours' windows are some pixels apart.
    """
    of_shapes = ((2, _APART), (1, 0)) if memory >= _ENOUGH_FOR_TWO else ((1, 0),)
    shapes = (_shape_of(known, itemsize, memory, blocks, apart) for blocks, apart in of_shapes)
    return next((shape for shape in shapes if shape), None)


def _shape_of(known: Constants, itemsize: int, memory: int, blocks: int, apart: int) -> Constants | None:
    shape = known | {"TILE_X": _WIDE, "TILE_Y": _TALL, "THREADS": _WIDE * _TALL, "BLOCKS": blocks}
    shape["STRIPS"] = -(-(known["WINDOW_X"] + 7) // 8) + 1
    beside = _beside_pool(shape, itemsize)
    shape["POOL"] = (memory // blocks - _RESERVED - _fixed(shape) - beside) // 16 * 16
    down, across = (known[name] - 1 + apart for name in ("WINDOW_Y", "WINDOW_X"))
    needed = ((_WIDE + across + 1) * (_TALL + down) + 3) * _pixel(shape, itemsize)
    results = _WIDE * _TALL * known["TOPK"] * 16
    return shape if shape["POOL"] >= needed and shape["POOL"] + beside >= results else None


def _pixel(shape: Constants, itemsize: int) -> int:
    return 16 * shape["CHUNKS"] * itemsize + 4


def _fixed(shape: Constants) -> int:
    """Return the bytes of what a block knows of its slots."""
    return (2 * shape["RADIUS"] + 1) * (44 + 16 * shape["THREADS"] // 32) + 16


def _beside_pool(shape: Constants, itemsize: int) -> int:
    """Return the bytes of queries, products, noted rows, where windows begin, and what attention has found before."""
    of_thread = _pixel(shape, itemsize) + 4 * _WAIT + 4 * (2 * shape["RADIUS"] + 1)
    pairs = 4 * shape["STRIPS"] + 1 - shape["WINDOW_X"] % 2  # SS_OF_WARP
    of_thread += 8 * shape["PER_FRAME"] * shape.get("ATTENDED", 0)
    return shape["THREADS"] * of_thread + shape["THREADS"] // 32 * pairs * _COLUMNS * 8


def found_at(shape: Constants) -> int:
    """Return how many bytes of shared memory lie before what has been found in frames before."""
    return _shared(shape) - 8 * shape["THREADS"] * shape["ATTENDED"] if shape["PER_FRAME"] else 0


_ITEMSIZES = {"float": 4, "__half": 2, "__nv_bfloat16": 2}


def _shared(constants: Constants) -> int:
    return constants["POOL"] + _beside_pool(constants, _ITEMSIZES[constants["SCALAR"]])


# --- what tests compile -----------------------------------------------------------------------------
_SHAPE = {"TILE_X": 16, "TILE_Y": 16, "THREADS": 256, "BLOCKS": 2, "STRIPS": 3, "POOL": 48 * 1024}
_POINTS = {**search_tiles.INSTANCE, **_SHAPE, "PATCH": 1, "CHUNKS": 1, "PADDED": 0, "PIECES": 1}
_STRAY = {
    "SLIDE": 0,
    "ZEROS": 1,
    "QUERY_ZEROS": 1,
    "SKIP": 1,
    "PER_FRAME": 1,
    "VECTORS": 0,
    "L2": 0,
    "CHUNKS": 2,
    "PADDED": 1,
}
POINTS = Kernel(
    "search_points",
    "search_points.cu",
    registers=128,
    shared=_shared,
    dtypes=("float32", "float16", "bfloat16"),
    instances=(_POINTS, {**_POINTS, **_STRAY, "WINDOW_Y": 3, "WINDOW_X": 5, "PIECES": 4, "WEIGHED": 1}),
)
