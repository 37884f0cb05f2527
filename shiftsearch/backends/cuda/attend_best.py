"""Attention to the best places in one launch, and its gradients in five: see attend_best.cuh and attend_places.cu.

A second launch of the first ends at once, unless tiles were left to it. Tiles that blend fractions cannot attend, nor can
those without the room: there, as these searches are much faster than direct ones, search and sum are apart.
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
from shiftsearch.backends.cuda import search, search_points, search_tiles
from shiftsearch.backends.cuda.attend import ATTEND, WARPS, constants, laid, rectangles
from shiftsearch.backends.cuda.call import (
    MOST_PLANS,
    channels_at_a_time,
    in_vectors,
    sizes_of,
    strides_of,
    sums,
)
from shiftsearch.backends.cuda.cells import begin_and_sort
from shiftsearch.backends.cuda.form import aggregate
from shiftsearch.backends.cuda.kernels import Constants, Kernel, Plan, Program
from shiftsearch.backends.cuda.search import around_of, constants_of_search, near
from shiftsearch.backends.cuda.search_tiles import plan as plan_of_tiles
from shiftsearch.backends.cuda.weigh import by_factors_of
from shiftsearch.errors import ShiftsearchError

_FOR_WILD = 1024  # blocks that look for queries whose tiles were left
_MOST_RUN = 16  # channels of v that are summed at a time

# --- what tests compile -----------------------------------------------------------------------------
_VALUES = {"RUN_V": 16, "VECTORS_V": 0, "ATTENDED": 10}
_DIRECT = {**search.SEARCHED, **_VALUES, "PATCH": 1, "TILE_X": 16, "TILE_Y": 16, "MARKED": 1}
_OTHER = {"ZEROS": 1, "L2": 0, "SKIP": 1, "TOPK": 24, "ATTENDED": 72, "PER_FRAME": 1, "VECTORS": 1, "STRIDE": 2}
_BETWEEN = {"SUBPIXEL": 1, "WHOLE": 0, "PLACE": "float", "PENALTY": 1, "ANCHOR": 1, "STEP": 0.5}
BEST = Kernel(
    "attend_best",
    "attend_best.cu",
    registers=240,  # of doubles; 168 of others
    instances=(_DIRECT, {**_DIRECT, **_OTHER, "SLIDE": 0, "MARKED": 0}, {**_DIRECT, **_BETWEEN, "MARKED": 0}),
)
POINTS = Kernel(
    "attend_points",
    "attend_points.cu",
    registers=128,
    shared=search_points.POINTS.shared,
    dtypes=search_points.POINTS.dtypes,
    instances=tuple(
        {**instance, **_VALUES, "APART": instance["PER_FRAME"], "FOUND": instance["PER_FRAME"] * 64 * 1024}
        for instance in search_points.POINTS.instances
    ),
)
_TILED = {"PATCH": 1, "TILE_X": 32, "TILE_Y": 32, "RING": 64 * 1024, "FOUND": 0}
_PASSES = {
    "ROWS": 16,
    "COLUMN": 2,
    "TILE_Y": 16,
    "THREADS": 384,
    "KEPT": 12,
    "TOPK": 6,
    "ATTENDED": 36,
    "FOUND": 99 * 1024,
}
TILES = Kernel(
    "attend_tiles",
    "attend_tiles.cu",
    registers=168,
    frame=200,
    shared=search_tiles.shared,
    dtypes=search_tiles.TILES.dtypes,
    instances=tuple(
        {**instance, **_VALUES, **_TILED, **more}
        for instance, more in zip(search_tiles.TILES.instances[:2], ({"THREADS": 512}, _PASSES), strict=True)
    ),
)
_OF_GRADIENTS = tuple({**instance, "TOPK": 10} for instance in ATTEND.instances)
SLOPES = Kernel("attend_slopes", "attend_places.cu", registers=168, instances=_OF_GRADIENTS)
NUMBER = Kernel("number_places", "attend_places.cu", registers=40, instances=_OF_GRADIENTS[:1])
FILL = Kernel("fill_places", "attend_places.cu", registers=40, instances=_OF_GRADIENTS[:1])
LANDED = Kernel("attend_landed", "attend_places.cu", registers=168, instances=_OF_GRADIENTS)


# --- forward ----------------------------------------------------------------------------------------
class _Layout(NamedTuple):
    """How the videos lie in memory: shapes and strides, and which are read 16 bytes at a time."""

    q: tuple[int, ...]
    v: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    vectors: bool
    vectors_of_values: bool


@dataclass(frozen=True)
class _Plan:
    """How a call is launched, and the queries (B, G, T, h, w), each with so many candidates."""

    on_tiles: Plan | None
    direct: Plan
    queries: tuple[int, ...]
    kept: int
    composed: bool  # it is not, as a search on tiles is faster that cannot end in attention
    number: Plan  # what is found


@primitive
def attend_best(
    device: Any,
    q: Native,
    k: Native,
    v: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
) -> tuple[Native, Native, Native, Native, Native]:
    xp, heads, wide = device.xp, spec.heads, sums(k.dtype)
    around = around_of(xp, k, spec.stride, flow)
    q, k, v = (near(xp, video) for video in (q, k, v))
    vectors = in_vectors(device, heads, q) and in_vectors(device, heads, k)
    layout = _Layout(q.shape, v.shape, (q.strides, k.strides, v.strides), vectors, in_vectors(device, heads, v))
    plan = _plan(spec.planned, layout, k.dtype, around.shape, around.dtype, device.most_shared)
    places, weights = spec.kept_places * plan.kept, spec.kept_weights * plan.kept
    found = {
        "sums": xp.empty((*plan.queries, 2), wide),
        "places": xp.empty((*plan.queries, places), np.int32),
        "weights": xp.empty((*plan.queries, weights), wide),
        "offsets": xp.empty((*plan.queries, weights, 3), wide if spec.subpixel else np.int32),
    }
    if plan.composed:
        return _composed(device, q, k, v, spec, factor, scales, flow, plan, found)
    out = (xp.empty if spec.stride == 1 else xp.zeros)(v.shape, v.dtype)
    written = {name: array if array.size else None for name, array in found.items()}
    wild = xp.zeros(1 + plan.on_tiles.blocks, np.int32) if plan.on_tiles else None
    arrays = {"q": q, "k": k, "v": v, "around": around, "scales": scales, "out": out, **written, "wild": wild}
    arrays |= {"factor": wide.type(factor), "penalty": np.float64(spec.penalty)}
    if plan.on_tiles:
        plan.on_tiles.launch(device, arrays)
    plan.direct.launch(device, arrays)
    return out, *found.values()


def _composed(
    device: Any,
    q: Native,
    k: Native,
    v: Native,
    spec: Any,
    factor: float,
    scales: Native | None,
    flow: Native | None,
    plan: _Plan,
    found: dict[str, Native],
) -> tuple[Native, ...]:
    """Search and sum one after the other."""
    weighing = {"scales": scales, "flow": flow, "sums": found["sums"]}
    weights, offsets = search.search_and_weigh(device, q, k, spec, factor, **weighing)
    out = aggregate(device, None, v, weights, offsets, spec.of_values().patches(), size=v.shape[1:])
    if spec.kept_places:
        plan.number.launch(device, {"offsets": offsets, "places": found["places"]})
    if spec.kept_weights:
        found |= {"weights": weights, "offsets": offsets}
    return out, *found.values()


@lru_cache(MOST_PLANS)
def _plan(spec: Any, layout: _Layout, dtype: np.dtype, around: tuple, of_around: np.dtype, memory: int) -> _Plan:
    p, windows, (B, T, _, H, W) = spec.patches(), spec.search_slots(), layout.q
    queries = (B, spec.heads, T, *query_grid(H, W, spec.stride))
    kept, count, values = spec.kept(windows), prod(queries), layout.v[2] // spec.heads
    run = channels_at_a_time(values, _MOST_RUN)
    known = constants_of_search(spec, p, dtype, of_around, windows, False) | {"VECTORS": int(layout.vectors)}
    known |= {"RUN_V": run, "VECTORS_V": int(layout.vectors_of_values and run * dtype.itemsize % 16 == 0)}
    numbers = {"groups": around[1], "slots": around[3], "windows": windows, "count": count, "FV": values}
    numbers |= sizes_of(p, (*queries, kept), layout.q, layout.q)
    q, k, v = layout.strides
    numbers |= strides_of(dtype.itemsize, q, k) | {
        f"v_{axis}": n // dtype.itemsize for axis, n in zip("btcyx", v, strict=True)
    }
    searched = search.plan_on_tiles(numbers, spec, p, dtype, known, layout.q, memory)
    known["ATTENDED"] = kept
    on_tiles = _on_tiles(spec, p, dtype, known, layout.q, memory, numbers)
    if on_tiles and searched and 2 * on_tiles.program.threads <= searched.program.threads:
        on_tiles = None  # what is found takes the room of half a tile
    composed = on_tiles is None and searched is not None
    blocks = -(-count // WARPS)
    if on_tiles:
        tiles = on_tiles.program.constants
        known |= {"TILE_X": tiles["TILE_X"], "TILE_Y": tiles["TILE_Y"], "MARKED": 1}
        blocks = min(blocks, _FOR_WILD)
    of_places = constants(spec, dtype, np.dtype(np.float32), 1, 1) | {"TOPK": kept}
    return _Plan(
        on_tiles,
        Plan(Program(BEST, known), blocks, numbers),
        queries,
        kept,
        composed=composed,
        number=Plan(Program(NUMBER, of_places), -(-count * kept // 128), {**numbers, "count": count * kept}),
    )


def _on_tiles(
    spec: Any,
    p: Patches,
    dtype: np.dtype,
    known: Constants,
    video: tuple[int, ...],
    memory: int,
    numbers: dict[str, Any],
) -> Plan | None:
    """Return how tiles of queries attend, in the fastest way that can do it, if any."""
    found = search_points.constants(spec, p, dtype, known, video, memory)
    if found:
        apart = int(found["PER_FRAME"] or spec.kept_weights)
        return plan_of_tiles(POINTS, {**found, "APART": apart, "FOUND": search_points.found_at(found)}, numbers)
    found = None if spec.subpixel else search_tiles.constants(spec, p, dtype, known, video, memory)
    return plan_of_tiles(TILES, {**found, "FOUND": search_tiles.found_at(found)}, numbers) if found else None


# --- backward ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Gradients:
    """How gradients are launched, and how their videos are laid."""

    plans: tuple[Plan, ...]
    beside: int  # numbers of a pixel that lie together
    parts: int
    parts_of_values: int
    cells: int


@primitive
def attend_best_backward(
    device: Any,
    q: Native,
    k: Native,
    v: Native,
    out: Native,
    sums: Native,
    places: Native,
    grad: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
) -> tuple[Native, Native, Native, Native | None]:
    xp, plan = device.xp, _plan_of_gradients(spec.planned, places.shape, k.shape, v.shape, k.dtype)
    parts = {
        "q": (q, plan.parts),
        "k": (k, plan.parts),
        "v": (v, plan.parts_of_values),
        "grad": (grad, plan.parts_of_values),
    }
    products = None if scales is None else xp.empty(places.shape[:-1], sums.dtype)
    arrays = {name: laid(xp, video, spec.heads, n, plan.beside) for name, (video, n) in parts.items()}
    arrays |= {"out": xp.ascontiguousarray(out), "scales": scales, "factor": sums.dtype.type(factor)}
    arrays |= {"sums": xp.ascontiguousarray(sums), "places": xp.ascontiguousarray(places)}
    arrays |= {name: xp.empty(places.shape, sums.dtype) for name in ("weights", "slopes")}
    arrays |= {"order": xp.empty(places.size, np.int32), "ends": xp.empty(plan.cells, np.int32)}
    arrays |= {"counts": xp.zeros(plan.cells + 1, np.int32), "products": products}
    arrays |= {"k_grad": xp.empty(k.shape, k.dtype), "v_grad": xp.empty(v.shape, v.dtype)}
    arrays["q_grad"] = (xp.empty if spec.stride == 1 else xp.zeros)(q.shape, q.dtype)
    for each in plan.plans:
        each.launch(device, arrays)
    return arrays["q_grad"], arrays["k_grad"], arrays["v_grad"], by_factors_of(products)


@lru_cache(MOST_PLANS)
def _plan_of_gradients(
    spec: Any, places: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], dtype: np.dtype
) -> _Gradients:
    (B, T, C, H, W), count, heads = k, prod(places), spec.heads
    if count >= 2**31:
        raise ShiftsearchError(f"{spec.caller}: {count} places, expected fewer than 2**31: split the arrays")
    known = constants(spec, dtype, np.dtype(np.float32), C // heads, v[2] // heads) | {"TOPK": places[-1]}
    numbers = {"B": B, "FV": v[2] // heads, "count": count, "of_clip": prod(places[2:])}
    numbers |= sizes_of(spec.patches(), places, k, k)
    clips, lanes, cells = prod(places[:3]), known["LANES"], B * heads * T * H * W

    def launch(kernel: Kernel, warps: int) -> Plan:
        return Plan(Program(kernel, known), -(-warps // WARPS), numbers)

    slopes, landed = (
        launch(kernel, clips * rectangles(lanes, *shape)) for kernel, shape in ((SLOPES, places[3:5]), (LANDED, (H, W)))
    )
    begin, sort = begin_and_sort(cells)
    return _Gradients(
        plans=(slopes, begin, launch(FILL, -(-count // 32)), sort, landed),
        beside=lanes * 16 // dtype.itemsize,
        parts=known["PARTS"],
        parts_of_values=known["PARTS_V"],
        cells=cells,
    )
