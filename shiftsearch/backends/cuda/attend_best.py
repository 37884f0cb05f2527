"""Attention to the best places in one launch, and its gradients in five: see attend_best.cuh and attend_places.cu.

A second launch of the first ends at once, unless tiles were left to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._geometry import query_grid
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda import search_points
from shiftsearch.backends.cuda.attend import ATTEND, WARPS, constants, laid, rectangles
from shiftsearch.backends.cuda.call import (
    MOST_PLANS,
    channels_at_a_time,
    constants_of,
    in_vectors,
    of_window,
    sizes_of,
    strides_of,
    sums,
)
from shiftsearch.backends.cuda.cells import begin_and_sort
from shiftsearch.backends.cuda.kernels import CTYPES, Constants, Kernel, Plan, Program
from shiftsearch.backends.cuda.search_tiles import plan as plan_of_tiles
from shiftsearch.backends.cuda.weigh import by_factors_of
from shiftsearch.errors import ShiftsearchError

_FOR_WILD = 1024  # blocks that look for queries whose tiles were left
_MOST_RUN = 16  # channels of v that are summed at a time

# --- what tests compile -----------------------------------------------------------------------------
_VALUES = {"RUN_V": 16, "VECTORS_V": 0}
_DIRECT = {
    "AROUND": "float",
    "PATCH": 1,
    "STRIDE": 1,
    "DILATION": 1,
    "ZEROS": 0,
    "L2": 1,
    "RADIUS": 1,
    "FIRST_SLOT": 0,
    "WINDOW_Y": 9,
    "WINDOW_X": 9,
    "EVEN_BEFORE": 0,
    "STEP": 1.0,
    "SLIDE": 1,
    "SKIP": 0,
    "TOPK": 10,
    "REGISTERS": 1,
    "VECTORS": 0,
    "TILE_X": 16,
    "TILE_Y": 16,
    "MARKED": 1,
    **_VALUES,
}
_OTHER = {"ZEROS": 1, "L2": 0, "SKIP": 1, "TOPK": 24, "VECTORS": 1, "STRIDE": 2, "STEP": 3.0, "SLIDE": 0, "MARKED": 0}
BEST = Kernel(
    "attend_best",
    "attend_best.cu",
    registers=240,  # of doubles; 168 of others
    instances=(_DIRECT, {**_DIRECT, **_OTHER, "TILE_X": 1, "TILE_Y": 1}),
)
POINTS = Kernel(
    "attend_points",
    "attend_points.cu",
    registers=128,
    shared=search_points.POINTS.shared,
    dtypes=search_points.POINTS.dtypes,
    instances=tuple({**instance, **_VALUES, "PER_FRAME": 0} for instance in search_points.POINTS.instances),
)
_OF_GRADIENTS = tuple({**instance, "TOPK": 10} for instance in ATTEND.instances)
SLOPES = Kernel("attend_slopes", "attend_places.cu", registers=168, instances=_OF_GRADIENTS)
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
    """How a call is launched, and the shapes of its sums and places."""

    on_tiles: Plan | None
    direct: Plan
    sums: tuple[int, ...]
    places: tuple[int, ...]


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
) -> tuple[Native, Native, Native]:
    xp, heads = device.xp, spec.heads
    around = _no_flow(xp, spec, k) if flow is None else xp.ascontiguousarray(flow)
    q, k, v = (_near(xp, video) for video in (q, k, v))
    vectors = in_vectors(device, heads, q) and in_vectors(device, heads, k)
    layout = _Layout(q.shape, v.shape, (q.strides, k.strides, v.strides), vectors, in_vectors(device, heads, v))
    plan = _plan(spec, factor, layout, k.dtype, around.shape, around.dtype, device.most_shared)
    out = (xp.empty if spec.stride == 1 else xp.zeros)(v.shape, v.dtype)
    found, places = xp.empty(plan.sums, sums(k.dtype)), xp.empty(plan.places, np.int32)
    wild = xp.zeros(1 + plan.on_tiles.blocks, np.int32) if plan.on_tiles else None
    given = {"q": q, "k": k, "v": v, "around": around, "scales": scales}
    arrays = {**given, "out": out, "sums": found, "places": places if spec.differentiable else None, "wild": wild}
    if plan.on_tiles:
        plan.on_tiles.launch(device, arrays)
    plan.direct.launch(device, arrays)
    return out, found, places


@lru_cache(MOST_PLANS)
def _plan(
    spec: Any, factor: float, layout: _Layout, dtype: np.dtype, around: tuple, of_around: np.dtype, memory: int
) -> _Plan:
    p, windows, (B, T, _, H, W) = spec.patches(), spec.search_slots(), layout.q
    grid = (B, spec.heads, T, *query_grid(H, W, spec.stride))
    kept, count, values = (*grid, spec.topk), prod(grid), layout.v[2] // spec.heads
    known = {**_constants(spec, dtype, of_around), "VECTORS": int(layout.vectors)}
    run = channels_at_a_time(values, _MOST_RUN)
    known |= {"RUN_V": run, "VECTORS_V": int(layout.vectors_of_values and run * dtype.itemsize % 16 == 0)}
    numbers = {"groups": around[1], "slots": around[3], "windows": windows, "count": count, "FV": values}
    numbers |= {"factor": factor, **sizes_of(p, kept, layout.q, layout.q)}
    q, k, v = layout.strides
    numbers |= strides_of(dtype.itemsize, q, k) | {
        f"v_{axis}": n // dtype.itemsize for axis, n in zip("btcyx", v, strict=True)
    }
    tiles = search_points.constants(spec, p, dtype, known, layout.q, memory)
    on_tiles = plan_of_tiles(POINTS, tiles, numbers) if tiles else None
    blocks = -(-count // WARPS)
    if tiles:
        known |= {"TILE_X": tiles["TILE_X"], "TILE_Y": tiles["TILE_Y"], "MARKED": 1}
        blocks = min(blocks, _FOR_WILD)
    places = kept if spec.differentiable else (*grid, 0)
    return _Plan(on_tiles, Plan(Program(BEST, known), blocks, numbers), (*grid, 2), places)


def _constants(spec: Any, dtype: np.dtype, around: np.dtype) -> Constants:
    return {
        **constants_of(spec.patches(), dtype, whole=True),
        "AROUND": CTYPES[around.name],
        "RADIUS": spec.radius,
        "FIRST_SLOT": int(spec.skip == "own_frame"),
        **of_window(spec),
        "STEP": float(spec.step),
        "SLIDE": int(spec.slide),
        "SKIP": int(spec.skip == "self"),
        "TOPK": spec.topk,
        "PER_FRAME": 0,
        "REGISTERS": 1,
        "TILE_X": 1,
        "TILE_Y": 1,
        "MARKED": 0,
    }


def _no_flow(xp: Any, spec: Any, k: Native) -> Native:
    B, T, _, H, W = k.shape
    return xp.empty((B, 1, T, 0, 2, *query_grid(H, W, spec.stride)), np.float32)


def _near(xp: Any, video: Native) -> Native:
    """Return a video in which neighbours are no farther apart than 32 bits count."""
    apart = max(map(abs, video.strides[2:])) // video.dtype.itemsize
    return video if apart < 2**31 else xp.ascontiguousarray(video)


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
    xp, plan = device.xp, _plan_of_gradients(spec, factor, places.shape, k.shape, v.shape, k.dtype)
    parts = {
        "q": (q, plan.parts),
        "k": (k, plan.parts),
        "v": (v, plan.parts_of_values),
        "grad": (grad, plan.parts_of_values),
    }
    products = None if scales is None else xp.empty(places.shape[:-1], sums.dtype)
    arrays = {name: laid(xp, video, spec.heads, n, plan.beside) for name, (video, n) in parts.items()}
    arrays |= {"out": xp.ascontiguousarray(out), "scales": scales}
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
    spec: Any, factor: float, places: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], dtype: np.dtype
) -> _Gradients:
    (B, T, C, H, W), count, heads = k, prod(places), spec.heads
    if count >= 2**31:
        raise ShiftsearchError(f"{spec.caller}: {count} places, expected fewer than 2**31: split the arrays")
    known = constants(spec, dtype, np.dtype(np.float32), C // heads, v[2] // heads) | {"TOPK": places[-1]}
    numbers = {"factor": factor, "B": B, "FV": v[2] // heads, "count": count, "of_clip": prod(places[2:])}
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
