"""A search whose windows are staged, one by one: for patches that overlap in a window, whatever flow does.

All candidates of a query in a slot are scored together by a block, from what of the other frame lies in shared memory. These
are searches by patches of more than one pixel, with whole steps, whose windows fit there. The scores are those of the direct
form, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from math import gcd
from typing import NamedTuple

from shiftsearch.backends.cuda import search_tiles
from shiftsearch.backends.cuda.call import MOST_PLANS
from shiftsearch.backends.cuda.kernels import Constants, Kernel

_RUN = 16  # channels that are staged at a time: SS_RUN of pairs.cuh
_SUMS = {4: 63, 8: 24}  # that a thread has in registers, by their bytes
_WARPS = (1, 2, 4, 8)  # of a block
_ENOUGH = 10  # warps of a multiprocessor: with fewer, it waits
_OF_WARP = 150  # instructions of a warp in a window, about, beside comparing
_RESERVED = 1024  # bytes of a block that systems take
_CANDIDATE = {4: 12, 8: 24}  # bytes of a candidate in topk.cuh


class _Window(NamedTuple):
    """Of a window and its patches: sizes, and the pixels that candidates and pixels of patches are apart."""

    rows: int
    columns: int
    patch: int
    by: int
    hole: int
    blended: int  # 1 if candidates lie between pixels

    @property
    def tall(self) -> int:
        return self._staged(self.rows)

    @property
    def wide(self) -> int:
        return self._staged(self.columns)

    def _staged(self, candidates: int) -> int:
        """Return how many pixels are staged along an axis."""
        return self.by * (candidates - 1) + self.hole * (self.patch - 1) + 1 + self.blended


class _Block(NamedTuple):
    """Candidates of a thread, one below and one beside the other, and warps."""

    down: int
    across: int
    warps: int


def constants(direct: Constants, channels: int, itemsize: int, memory: int) -> Constants | None:
    """Return the constants of a search from those of its direct form, or None if it is to be direct.

    `channels` are those of a head, `itemsize` the bytes of a sum, and `memory` the bytes of shared memory of a block.
    """
    step = direct["STEP"] if max(direct["WINDOW_Y"], direct["WINDOW_X"]) > 1 else 0
    if step != int(step) or direct["PATCH"] == 1:
        return None
    known = {**direct, "APART": 1 if direct["SUBPIXEL"] else gcd(int(step), direct["DILATION"])}
    window = _window(known)
    pixels = (window.tall - window.blended) * (window.wide - window.blended)
    if pixels > window.rows * window.columns * window.patch**2:  # more would be staged than is read
        return None
    packs = -(-min(channels, _RUN) * itemsize // 16)
    beside = direct["SHARED"] * direct["ROOM"] * _CANDIDATE[itemsize]
    shape = _shape(window, packs, itemsize, memory - _RESERVED - beside)
    return shape and {**known, "PACKS": packs, **shape}


@lru_cache(MOST_PLANS)
def _shape(window: _Window, packs: int, itemsize: int, memory: int) -> Constants | None:
    """Return the constants of the block that is expected to take the fewest instructions, if any fits."""
    most = _SUMS[itemsize] // window.patch
    down, across = (range(1, min(n, most) + 1) for n in (window.rows, window.columns))
    blocks = [_Block(*size) for size in product(down, across, _WARPS) if size[0] * size[1] <= most]
    if not blocks or _bytes(window, packs, window.wide * packs, itemsize) > memory:
        return None
    best = min(blocks, key=lambda block: _expected(window, block, packs, itemsize, memory))
    pitch = _pitch(window, best, packs)
    if _bytes(window, packs, pitch, itemsize) > memory:
        pitch = window.wide * packs
    return {"DOWN": best.down, "ACROSS": best.across, "THREADS": 32 * best.warps, "PITCH": pitch}


def _bytes(window: _Window, packs: int, pitch: int, itemsize: int) -> int:
    of_scores = itemsize * window.patch * window.rows * window.columns
    return 16 * (window.tall * pitch + packs * window.patch**2) + of_scores


def _items(window: _Window, block: _Block) -> int:
    """Return how many rows of patches threads compare at blocks of candidates."""
    return -(-window.rows // block.down) * -(-window.columns // block.across) * window.patch


def _expected(window: _Window, block: _Block, packs: int, itemsize: int, memory: int) -> float:
    """Return about how many instructions the warps of a block take for a window."""
    candidates = block.down * block.across
    seen = {window.by * c + window.hole * j for c, j in product(range(block.across), range(window.patch))}
    of_pack = 2 * 16 // itemsize * candidates * window.patch + 4 * (block.down * len(seen) + window.patch)
    each = packs * of_pack + candidates * (window.patch + 3)
    rounds = block.warps * -(-_items(window, block) // (32 * block.warps))
    resident = block.warps * (memory // (_bytes(window, packs, window.wide * packs, itemsize) + _RESERVED))
    return (rounds * each + block.warps * _OF_WARP) * max(1, _ENOUGH / resident)


def _pitch(window: _Window, block: _Block, packs: int) -> int:
    """Return the packs of a staged row with which threads that read at a time meet in the fewest banks."""
    row = window.wide * packs
    return min(range(row, row + 8), key=lambda pitch: _turns(_places(window, block, pitch)))


def _places(window: _Window, block: _Block, pitch: int) -> Iterable[int]:
    down, across = -(-window.rows // block.down), -(-window.columns // block.across)
    for i, y, x in product(range(window.patch), range(down), range(across)):
        yield (window.by * y * block.down + window.hole * i) * pitch + window.by * x * block.across


def _turns(places: Iterable[int]) -> int:
    """Return how often shared memory is read: eight threads at a time, each in one of eight groups of banks."""
    found = list(places)
    eights = ({*found[n : n + 8]} for n in range(0, len(found), 8))
    return sum(max(sum(place % 8 == bank for place in eight) for bank in range(8)) for eight in eights)


def _window(constants: Constants) -> _Window:
    apart = constants["APART"]
    step, hole = int(constants["STEP"]) // apart, constants["DILATION"] // apart
    size = constants["WINDOW_Y"], constants["WINDOW_X"]
    return _Window(*size, constants["PATCH"], step, hole, constants["SUBPIXEL"])


def _shared(constants: Constants) -> int:
    itemsize = 8 if constants["ACC"] == "double" else 4
    beside = constants["SHARED"] * constants["ROOM"] * _CANDIDATE[itemsize]
    return _bytes(_window(constants), constants["PACKS"], constants["PITCH"], itemsize) + beside


# --- what tests compile -----------------------------------------------------------------------------
_DIRECT = {"SEEDS": 0, "REGISTERS": 1, "ROOM": 0, "SHARED": 0, "TILE_X": 26, "TILE_Y": 26, "MARKED": 1, "VECTORS": 0}
_SHAPE = {"APART": 1, "PACKS": 4, "DOWN": 1, "ACROSS": 9, "THREADS": 32, "PITCH": 61}
_INSTANCE = {**search_tiles.INSTANCE, **_DIRECT, **_SHAPE}
_BETWEEN = {"SUBPIXEL": 1, "WHOLE": 0, "PLACE": "float", "SEEDS": 1, "MARKED": 0, "VECTORS": 1, "PATCH": 5}
_MANY = {"TOPK": 200, "REGISTERS": 0, "ROOM": 300, "SHARED": 1, "ZEROS": 1, "QUERY_ZEROS": 1, "L2": 0, "DILATION": 2}
_LARGE = {"DOWN": 2, "ACROSS": 2, "THREADS": 64, "PITCH": 75, "PENALTY": 1, "WEIGHED": 1}
WINDOWS = Kernel(
    "search_windows",
    "search_windows.cu",
    registers=255,  # of doubles; 168 of others
    frame=64,  # outside of the loops over channels
    shared=_shared,
    instances=(_INSTANCE, {**_INSTANCE, **_BETWEEN, **_MANY, **_LARGE}),
)
