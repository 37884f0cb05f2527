"""The search: on tiles where windows overlap, else query by query.

What a query is compared with is staged where patches of its window overlap, else a warp scores candidates one by one. All of
these give the same, bit for bit: see cuda_src/pairs.cuh.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._geometry import Patches, query_grid
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda import search_points, search_subpixel, search_tiles, search_windows
from shiftsearch.backends.cuda.call import (
    FRACTION,
    MOST_PLANS,
    constants_of,
    in_vectors,
    of_window,
    sizes_of,
    strides_of,
    sums,
)
from shiftsearch.backends.cuda.kernels import CTYPES, Constants, Kernel, Plan, Program
from shiftsearch.errors import ShiftsearchError

_WARPS = 4  # of a block, a query each
_CANDIDATE = {"float": 12, "double": 24}  # bytes of a candidate in topk.cuh, by the type of sums
_BUFFER = 8 * 1024  # bytes of shared memory that a warp has for its best candidates
_BUFFERS = 2**28  # bytes of global memory for larger buffers: as many warps run at a time
_IN_REGISTERS = 4 * 32  # candidates that a warp keeps in registers
_FOR_WILD = 2**14  # queries at a time of which those are searched whose tiles were left


def _buffer_size(constants: Constants) -> int:
    """Return how many bytes a warp of `search` needs for the best candidates that do not fit into registers."""
    return constants["ROOM"] * _CANDIDATE[constants["ACC"]]


def _shared_buffers(constants: Constants) -> int:
    return constants["SHARED"] * _WARPS * _buffer_size(constants)


_WINDOW = {"WINDOW_Y": 9, "WINDOW_X": 9, "EVEN_BEFORE": 0, "STEP": 1.0, "SLIDE": 1}
_WINDOWS = {**_WINDOW, "AROUND": "float", "SEEDS": 0, "RADIUS": 1, "FIRST_SLOT": 0}
_BEST = {"PLACE": "int", "SUBPIXEL": 0, "PENALTY": 0, "TOPK": 10, "PER_FRAME": 0, "ANCHOR": 0, "SKIP": 0}
_MEMORY = {"REGISTERS": 1, "ROOM": 0, "SHARED": 0, "VECTORS": 0, "TILE_X": 1, "TILE_Y": 1, "MARKED": 0, "WEIGHED": 0}
SEARCHED = FRACTION | {"WHOLE": 1} | _WINDOWS | _BEST | _MEMORY
_SUBPIXEL = {"PLACE": "float", "WHOLE": 0, "SUBPIXEL": 1, "STEP": 0.5, "TOPK": 100, "REGISTERS": 4, "SEEDS": 1}
_IN_SHARED = {"PENALTY": 1, "TOPK": 200, "REGISTERS": 0, "ROOM": 300, "SHARED": 1, "PATCH": 65}
_IN_GLOBAL = {"TOPK": 500, "REGISTERS": 0, "ROOM": 750, "ZEROS": 1, "QUERY_ZEROS": 1}
_SEARCHES = (
    SEARCHED,
    {**SEARCHED, **_SUBPIXEL},
    {**SEARCHED, "TOPK": 0, "REGISTERS": 0, "ANCHOR": 1, "WEIGHED": 1},
    {**SEARCHED, "VECTORS": 1, "TILE_X": 26, "TILE_Y": 26, "MARKED": 1},
    {**SEARCHED, **_IN_SHARED},
    {**SEARCHED, **_IN_GLOBAL},
)
SEARCH = Kernel("search", "search.cu", registers=216, shared=_shared_buffers, instances=_SEARCHES)


@primitive
def search(
    device: Any, q: Native, k: Native, spec: Any, p: Patches, *, flow: Native | None = None, seeds: Native | None = None
) -> tuple[Native, Native, Native | None]:
    return _search(device, q, k, spec, p, flow, seeds)


def search_and_weigh(
    device: Any,
    q: Native,
    k: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
    sums: Native | None = None,
) -> tuple[Native, Native]:
    """Return weights and offsets. Also write to `sums` the largest logit, and the sum of all exp(logit - largest)."""
    weighing = Weighing(factor, scales, sums)
    weights, offsets, _ = _search(device, q, k, spec, spec.patches(), flow, None, weighing)
    return weights, offsets


class Weighing(NamedTuple):
    """How scores become weights, if there is a factor, and where sums are kept."""

    factor: float | None = None
    scales: Native | None = None
    sums: Native | None = None


_NOT_WEIGHED = Weighing()


def _search(
    device: Any,
    q: Native,
    k: Native,
    spec: Any,
    p: Patches,
    flow: Native | None,
    seeds: Native | None,
    weighing: Weighing = _NOT_WEIGHED,
) -> tuple[Native, Native, Native | None]:
    xp = device.xp
    around = around_of(xp, k, p.stride, flow) if seeds is None else xp.ascontiguousarray(seeds)
    q, k = near(xp, q), near(xp, k)
    vectors = in_vectors(device, spec.heads, q) and in_vectors(device, spec.heads, k)
    layout = Layout(q.shape, k.shape, q.strides, k.strides, vectors)
    weighed, known = weighing.factor is not None, spec.planned
    plan = plan_of_search(
        known, p, layout, k.dtype, around.shape, around.dtype, seeds is not None, device.most_shared, weighed
    )
    return launch(device, plan, q, k, around, spec, weighing)


def launch(
    device: Any, plan: PlanOfSearch, q: Native, k: Native, around: Native, spec: Any, weighing: Weighing
) -> tuple[Native, Native, Native | None]:
    """Return scores, or weights, offsets and seeds."""
    xp = device.xp
    scores = xp.empty(plan.shape, sums(k.dtype))
    offsets = xp.empty((*plan.shape, 3), scores.dtype if spec.subpixel else np.int32)
    seed = xp.empty(plan.shape, np.int32) if plan.seeds else None
    buffers = xp.empty(plan.spare, np.uint8) if plan.spare else None
    wild = xp.zeros(1 + plan.on_tiles.blocks, np.int32) if plan.on_tiles else None
    arrays = {
        "q": q,
        "k": k,
        "around": around,
        "spread": None,
        "scores": scores,
        "offsets": offsets,
        "seed": seed,
        "buffers": buffers,
        "wild": wild,
        "scales": weighing.scales,
        "sums": weighing.sums,
        "factor": scores.dtype.type(weighing.factor or 0.0),
        "penalty": np.float64(spec.penalty),
    }
    if plan.spread:
        arrays["spread"] = search_subpixel.empty_spread(xp, spec.heads, k)
        plan.spread.launch(device, arrays)
    if plan.on_tiles:
        plan.on_tiles.launch(device, arrays)
    plan.one_by_one.launch(device, arrays)
    return scores, offsets, seed


class Layout(NamedTuple):
    """How q and k lie in memory."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    q_strides: tuple[int, ...]
    k_strides: tuple[int, ...]
    in_vectors: bool


@dataclass(frozen=True)
class PlanOfSearch:
    """How a search is launched, the shape of its scores, and the bytes of buffers that it needs."""

    spread: Plan | None  # first, if it is subtracted on tiles
    on_tiles: Plan | None  # then, if it can be; then only what it left is searched one by one
    one_by_one: Plan
    shape: tuple[int, ...]
    spare: int
    seeds: bool  # whether it says around which seed each was found


@lru_cache(MOST_PLANS)
def plan_of_search(
    spec, p: Patches, layout: Layout, dtype, around, of_around, seeds: bool, memory: int, weighed: bool = False
) -> PlanOfSearch:
    windows = around[-2] if seeds else spec.search_slots()
    B, _, _, H, W = layout.k
    queries = (B, spec.heads, layout.q[1], *query_grid(H, W, p.stride))
    shape, count = (*queries, spec.kept(windows)), prod(queries)
    constants = constants_of_search(spec, p, dtype, of_around, windows, seeds) | {"VECTORS": int(layout.in_vectors)}
    constants["WEIGHED"] = int(weighed)
    sizes = {"groups": around[1], "slots": windows if seeds else around[3], "windows": windows, "count": count}
    sizes |= sizes_of(p, shape, layout.q, layout.k)
    sizes |= strides_of(np.dtype(dtype).itemsize, layout.q_strides, layout.k_strides)
    on_tiles = None if seeds else plan_on_tiles(sizes, spec, p, dtype, constants, layout.k, memory)
    spread = search_subpixel.spread(on_tiles.program.constants, sizes) if on_tiles and spec.subpixel else None
    if on_tiles:
        tiles = on_tiles.program.constants
        constants |= {"TILE_X": tiles["TILE_X"], "TILE_Y": tiles["TILE_Y"], "MARKED": 1}
    staged = search_windows.constants(constants, sizes["F"], sums(dtype).itemsize, memory)
    program = Program(search_windows.WINDOWS, staged) if staged else Program(SEARCH, constants)
    blocks, spare = _blocks(constants, 1 if staged else _WARPS, count)
    return PlanOfSearch(spread, on_tiles, Plan(program, blocks, sizes), shape, spare, seeds)


def plan_on_tiles(sizes: dict[str, int], *search: Any) -> Plan | None:
    """Return how a search is launched on tiles, in the fastest way that can do it, if any."""
    ways = (
        (search_subpixel.BLENDS, search_subpixel.constants),
        (search_points.POINTS, search_points.constants),
        (search_tiles.TILES, search_tiles.constants),
    )
    found = ((kernel, constants(*search)) for kernel, constants in ways)
    return next((search_tiles.plan(kernel, tiles, sizes) for kernel, tiles in found if tiles), None)


def near(xp, video):
    """Return a video in which neighbours are no farther apart than 32 bits count."""
    apart = max(map(abs, video.strides[2:])) // video.dtype.itemsize
    return video if apart < 2**31 else xp.ascontiguousarray(video)


def around_of(xp, k, stride: int, flow):
    """Return the flow that windows lie around, or flow that leads to no frame."""
    if flow is not None:
        return xp.ascontiguousarray(flow)
    B, T, _, H, W = k.shape
    return xp.zeros((B, 1, T, 0, 2, *query_grid(H, W, stride)), np.float32)


def _blocks(constants: Constants, at_once: int, queries: int) -> tuple[int, int]:
    """Return how many blocks search `queries`, each some at once, and the bytes for their best where those need global
    memory."""
    blocks = -(-queries // at_once)
    if constants["MARKED"]:
        blocks = min(blocks, _FOR_WILD // at_once)
    if not constants["ROOM"] or constants["SHARED"]:
        return blocks, 0
    of_block = at_once * _buffer_size(constants)
    blocks = min(blocks, max(1, _BUFFERS // of_block))
    return blocks, blocks * of_block


# --- constants ------------------------------------------------------------------------------------
def constants_of_search(spec, p: Patches, dtype, around, windows: int, seeds: bool) -> Constants:
    """Return the constants of a search query by query."""
    if windows * prod(spec.window) >= 2**31:
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
        **of_window(spec),
        "STEP": float(spec.step),
        "SLIDE": int(spec.slide),
        "SUBPIXEL": int(spec.subpixel),
        "PENALTY": int(spec.penalty != 0),
        "ANCHOR": {None: 0, "self": 1, "flow": 2}[spec.anchor],
        "SKIP": 1 if spec.removes_self else 2 if spec.skip == "self" else 0,
        "TOPK": topk,
        "PER_FRAME": int(per_frame and windows > 1),
        "TILE_X": 1,
        "TILE_Y": 1,
        "MARKED": 0,
        "WEIGHED": 0,
        **_kept_in(topk, wide),
    }


def _kept_in(topk: int, wide: np.dtype) -> Constants:
    """Return where a warp keeps its best candidates: registers of a lane, or the room of a buffer, a third of it spare."""
    if topk <= _IN_REGISTERS:
        return {"REGISTERS": -(-topk // 32), "ROOM": 0, "SHARED": 0}
    room = topk + topk // 2
    in_shared = _buffer_size({"ROOM": room, "ACC": CTYPES[wide.name]}) <= _BUFFER
    return {"REGISTERS": 0, "ROOM": room, "SHARED": int(in_shared)}
