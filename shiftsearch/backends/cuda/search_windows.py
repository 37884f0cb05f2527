"""A search whose windows are staged, one by one: for patches that overlap in a window, whatever flow does.

All candidates of a query in a slot are scored together by a block, from what of the other frame lies in shared memory. These
are searches by patches of more than one pixel, with whole steps, whose windows fit there. The scores are those of the direct
form, bit for bit.
"""

from __future__ import annotations

from collections import Counter
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


class _Packs(NamedTuple):
    """What a pixel has: so many packs of so many channels, each of which takes `itemsize` bytes."""

    of_pixel: int
    numbers: int
    itemsize: int

    @property
    def bytes(self) -> int:
        return self.numbers * self.itemsize

    @property
    def at_a_time(self) -> int:
        """The threads that shared memory serves at a time."""
        return 128 // self.bytes


def _packs(channels: int, itemsize: int) -> _Packs:
    """Return packs of 16 bytes, or of one channel if half of these, or more, would be empty."""
    wide = 16 // itemsize
    numbers = 1 if 2 * channels <= wide else wide
    return _Packs(-(-min(channels, _RUN) // numbers), numbers, itemsize)


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
    packs = _packs(channels, itemsize)
    beside = direct["SHARED"] * direct["ROOM"] * _CANDIDATE[itemsize]
    shape = _shape(window, packs, memory - _RESERVED - beside)
    return shape and {**known, "PACKS": packs.of_pixel, "NARROW": int(packs.numbers == 1), **shape}


@lru_cache(MOST_PLANS)
def _shape(window: _Window, packs: _Packs, memory: int) -> Constants | None:
    """Return the constants of the block that is expected to take the fewest instructions, if any fits."""
    most = _SUMS[packs.itemsize] // window.patch
    down, across = (range(1, min(n, most) + 1) for n in (window.rows, window.columns))
    blocks = [_Block(*size) for size in product(down, across, _WARPS) if size[0] * size[1] <= most]
    if not blocks or _bytes(window, packs, window.wide * packs.of_pixel) > memory:
        return None
    best = min(blocks, key=lambda block: _expected(window, block, packs, memory))
    pitch = _pitch(window, best, packs)
    if _bytes(window, packs, pitch) > memory:
        pitch = window.wide * packs.of_pixel
    return {"DOWN": best.down, "ACROSS": best.across, "THREADS": 32 * best.warps, "PITCH": pitch}


def _bytes(window: _Window, packs: _Packs, pitch: int) -> int:
    of_scores = packs.itemsize * window.patch * window.rows * window.columns
    return packs.bytes * (window.tall * pitch + packs.of_pixel * window.patch**2) + of_scores


def _items(window: _Window, block: _Block) -> int:
    """Return how many rows of patches threads compare at blocks of candidates."""
    return -(-window.rows // block.down) * -(-window.columns // block.across) * window.patch


def _expected(window: _Window, block: _Block, packs: _Packs, memory: int) -> float:
    """Return about how many instructions the warps of a block take for a window."""
    candidates = block.down * block.across
    seen = {window.by * c + window.hole * j for c, j in product(range(block.across), range(window.patch))}
    loads = packs.bytes // 4 * (block.down * len(seen) + window.patch)
    of_pack = 2 * packs.numbers * candidates * window.patch + loads
    each = packs.of_pixel * of_pack + candidates * (window.patch + 3)
    rounds = block.warps * -(-_items(window, block) // (32 * block.warps))
    resident = block.warps * (memory // (_bytes(window, packs, window.wide * packs.of_pixel) + _RESERVED))
    return (rounds * each + block.warps * _OF_WARP) * max(1, _ENOUGH / resident)


def _pitch(window: _Window, block: _Block, packs: _Packs) -> int:
    """Return the packs of a staged row with which threads that read at a time meet in the fewest banks."""
    row, at_a_time = window.wide * packs.of_pixel, packs.at_a_time
    return min(range(row, row + at_a_time), key=lambda pitch: _turns(_places(window, block, pitch), at_a_time))


def _places(window: _Window, block: _Block, pitch: int) -> Iterable[int]:
    down, across = -(-window.rows // block.down), -(-window.columns // block.across)
    for i, y, x in product(range(window.patch), range(down), range(across)):
        yield (window.by * y * block.down + window.hole * i) * pitch + window.by * x * block.across


def _turns(places: Iterable[int], at_a_time: int) -> int:
    """Return how often shared memory is read: by so many threads at a time, each in one of as many groups of banks."""
    found = list(places)
    parts = ({*found[n : n + at_a_time]} for n in range(0, len(found), at_a_time))
    return sum(max(Counter(place % at_a_time for place in part).values()) for part in parts)


def _window(constants: Constants) -> _Window:
    apart = constants["APART"]
    step, hole = int(constants["STEP"]) // apart, constants["DILATION"] // apart
    size = constants["WINDOW_Y"], constants["WINDOW_X"]
    return _Window(*size, constants["PATCH"], step, hole, constants["SUBPIXEL"])


def _shared(constants: Constants) -> int:
    itemsize = 8 if constants["ACC"] == "double" else 4
    beside = constants["SHARED"] * constants["ROOM"] * _CANDIDATE[itemsize]
    packs = _Packs(constants["PACKS"], 1 if constants["NARROW"] else 16 // itemsize, itemsize)
    return _bytes(_window(constants), packs, constants["PITCH"]) + beside


# --- what tests compile -----------------------------------------------------------------------------
_DIRECT = {"SEEDS": 0, "REGISTERS": 1, "ROOM": 0, "SHARED": 0, "TILE_X": 26, "TILE_Y": 26, "MARKED": 1, "VECTORS": 0}
_SHAPE = {"APART": 1, "PACKS": 4, "NARROW": 0, "DOWN": 1, "ACROSS": 9, "THREADS": 32, "PITCH": 61}
_INSTANCE = {**search_tiles.INSTANCE, **_DIRECT, **_SHAPE}
_BETWEEN = {"SUBPIXEL": 1, "WHOLE": 0, "PLACE": "float", "SEEDS": 1, "MARKED": 0, "VECTORS": 1, "PATCH": 5}
_MANY = {"TOPK": 200, "REGISTERS": 0, "ROOM": 300, "SHARED": 1, "ZEROS": 1, "QUERY_ZEROS": 1, "L2": 0, "DILATION": 2}
_LARGE = {"DOWN": 2, "ACROSS": 2, "THREADS": 64, "PITCH": 75, "PENALTY": 1, "WEIGHED": 1}
_NARROW = {
    "NARROW": 1,
    "PACKS": 1,
    "PATCH": 8,
    "WINDOW_Y": 5,
    "WINDOW_X": 5,
    "ACROSS": 3,
    "PITCH": 13,
    "STRIDE": 4,
    "MARKED": 0,
}
WINDOWS = Kernel(
    "search_windows",
    "search_windows.cu",
    registers=255,  # of doubles; 168 of others
    frame=64,  # outside of the loops over channels
    shared=_shared,
    instances=(_INSTANCE, {**_INSTANCE, **_BETWEEN, **_MANY, **_LARGE}, {**_INSTANCE, **_NARROW}),
)
