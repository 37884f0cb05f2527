"""The search: a warp for each query, which keeps its best candidates."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches, query_grid
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import FRACTION, MOST_PLANS, channels_last, constants_of, sizes_of, sums
from shiftsearch.backends.cuda.kernels import CTYPES, Constants, Kernel, Plan, Program
from shiftsearch.errors import ShiftsearchError

_WARPS = 4  # of a block, a query each
_CANDIDATE = {"float": 12, "double": 24}  # bytes of a candidate in topk.cuh, by the type of sums
_STAGED = 8 * 1024  # bytes of shared memory that a warp has for its query's patch
_BUFFER = 8 * 1024  # and for its best candidates: with the rest of the block's this fits on every device
_BUFFERS = 2**28  # bytes of global memory for larger buffers: as many warps run at a time
_IN_REGISTERS = 4 * 32  # candidates that a warp keeps in registers


def _buffer_size(constants: Constants) -> int:
    """Return how many bytes a warp of `search` needs for the best candidates that do not fit into registers."""
    return constants["ROOM"] * _CANDIDATE[constants["ACC"]]


def _shared_buffers(constants: Constants) -> int:
    return constants["SHARED"] * _WARPS * _buffer_size(constants)


_WINDOWS = {"AROUND": "float", "SEEDS": 0, "WINDOW": 9, "STEP": 1.0, "RADIUS": 1, "FIRST_SLOT": 0, "SLIDE": 1}
_BEST = {"PLACE": "int", "SUBPIXEL": 0, "PENALTY": 0.0, "TOPK": 10, "PER_FRAME": 0, "ANCHOR": 0, "SKIP": 0}
_MEMORY = {"REGISTERS": 1, "ROOM": 0, "SHARED": 0, "PIXELS": 49, "CHUNK": 16}
_SEARCH = FRACTION | {"WHOLE": 1} | _WINDOWS | _BEST | _MEMORY
_SUBPIXEL = {"PLACE": "float", "WHOLE": 0, "SUBPIXEL": 1, "STEP": 0.5, "TOPK": 100, "REGISTERS": 4, "SEEDS": 1}
_IN_SHARED = {"TOPK": 200, "REGISTERS": 0, "ROOM": 300, "SHARED": 1, "PATCH": 65, "PIXELS": 1024, "CHUNK": 1}
_IN_GLOBAL = {"TOPK": 500, "REGISTERS": 0, "ROOM": 750, "ZEROS": 1, "QUERY_ZEROS": 1}
_SEARCHES = (
    _SEARCH,
    {**_SEARCH, **_SUBPIXEL},
    {**_SEARCH, "TOPK": 0, "REGISTERS": 0, "ANCHOR": 1},
    {**_SEARCH, **_IN_SHARED},
    {**_SEARCH, **_IN_GLOBAL},
)
SEARCH = Kernel("search", "search.cu", registers=192, shared=_shared_buffers, instances=_SEARCHES)


@primitive
def search(
    device: Any, q: Native, k: Native, spec: Any, p: Patches, *, flow: Native | None = None, seeds: Native | None = None
) -> tuple[Native, Native, Native | None]:
    xp = device.xp
    around = _around(xp, k, p, flow, seeds)
    plan, shape, spare = _plan(spec, p, q.shape, k.shape, k.dtype, around.shape, around.dtype, seeds is not None)
    scores = xp.empty(shape, sums(k.dtype))
    offsets = xp.empty((*shape, 3), scores.dtype if spec.subpixel else np.int32)
    seed = None if seeds is None else xp.empty(shape, np.int32)
    buffers = xp.empty(spare, np.uint8) if spare else None
    found = {"scores": scores, "offsets": offsets, "seed": seed, "buffers": buffers}
    plan.launch(device, {"q": channels_last(xp, q), "k": channels_last(xp, k), "around": around, **found})
    return scores, offsets, seed


@lru_cache(MOST_PLANS)
def _plan(spec, p: Patches, q, k, dtype, around, of_around, seeds: bool) -> tuple[Plan, tuple[int, ...], int]:
    """Return how a search is launched, the shape of its scores, and the bytes of buffers that it needs."""
    windows = around[-2] if seeds else spec.search_slots()
    B, T, _, H, W = k
    queries = (B, spec.heads, T, *query_grid(H, W, p.stride))
    shape, count = (*queries, spec.kept(windows)), prod(queries)
    program = Program(SEARCH, _constants(spec, p, dtype, of_around, windows, seeds))
    blocks, spare = _blocks(program.constants, count)
    slots = windows if seeds else around[3]
    sizes = {"groups": around[1], "slots": slots, "windows": windows, "count": count}
    return Plan(program, blocks, {**sizes_of(p, shape, q, k), **sizes}), shape, spare


def _around(xp, k, p: Patches, flow, seeds):
    """Return what the windows lie around: flow or seeds, or flow that leads to no frame."""
    if flow is None and seeds is None:
        B, T, _, H, W = k.shape
        return xp.zeros((B, 1, T, 0, 2, *query_grid(H, W, p.stride)), np.float32)
    return xp.ascontiguousarray(seeds if flow is None else flow)


def _blocks(constants: Constants, queries: int) -> tuple[int, int]:
    """Return how many blocks search `queries`, and the bytes for their best candidates where they need global memory."""
    blocks = -(-queries // _WARPS)
    if not constants["ROOM"] or constants["SHARED"]:
        return blocks, 0
    of_block = _WARPS * _buffer_size(constants)
    blocks = min(blocks, max(1, _BUFFERS // of_block))
    return blocks, blocks * of_block


# --- constants ------------------------------------------------------------------------------------
def _constants(spec, p: Patches, dtype, around, windows: int, seeds: bool) -> Constants:
    if windows * spec.window**2 >= 2**31:
        raise ShiftsearchError(
            f"{spec.caller}: window is {spec.window} in {windows} places, expected fewer than 2**31 candidates"
        )
    wide = sums(dtype)
    per_frame = spec.per_frame and spec.topk is not None
    topk = 0 if spec.topk is None else spec.kept(windows) // (windows if per_frame else 1)
    return {
        **constants_of(p, dtype, whole=not spec.subpixel),
        "STACKED": 0,
        "AROUND": CTYPES[around.name],
        "OFFSET": CTYPES[around.name],
        "PLACE": CTYPES[wide.name] if spec.subpixel else "int",
        "SEEDS": int(seeds),
        "RADIUS": spec.radius,
        "FIRST_SLOT": int(spec.skip == "own_frame"),
        "WINDOW": spec.window,
        "STEP": float(spec.step),
        "SLIDE": int(spec.slide),
        "SUBPIXEL": int(spec.subpixel),
        "PENALTY": float(spec.penalty),
        "ANCHOR": {None: 0, "self": 1, "flow": 2}[spec.anchor],
        "SKIP": 1 if spec.removes_self else 2 if spec.skip == "self" else 0,
        "TOPK": topk,
        "PER_FRAME": int(per_frame and windows > 1),
        **_kept_in(topk, wide),
        **_staged(p.patch, wide),
    }


def _kept_in(topk: int, wide: np.dtype) -> Constants:
    """Return where a warp keeps its best candidates: registers of a lane, or the room of a buffer, a third of it spare."""
    if topk <= _IN_REGISTERS:
        return {"REGISTERS": -(-topk // 32), "ROOM": 0, "SHARED": 0}
    room = topk + topk // 2
    in_shared = _buffer_size({"ROOM": room, "ACC": CTYPES[wide.name]}) <= _BUFFER
    return {"REGISTERS": 0, "ROOM": room, "SHARED": int(in_shared)}


def _staged(patch: int, wide: np.dtype) -> Constants:
    """Return how many channels and pixels of a query's patch are in shared memory at a time: many pixels come first."""
    there = _STAGED // wide.itemsize
    channels = max(1, min(16, there // patch**2))
    return {"CHUNK": channels, "PIXELS": min(patch**2, there // channels)}
