"""Attention to all places of the windows, in one launch, and its gradients in three: see attend.cuh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from shiftsearch._geometry import query_grid
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import MOST_PLANS, numbers, of_window, sizes_of, sums
from shiftsearch.backends.cuda.kernels import CTYPES, Constants, Kernel, Plan, Program
from shiftsearch.backends.cuda.weigh import by_factors_of

WARPS = 4  # of a block, a rectangle of pixels each
_CROWD = 32  # rectangles whose boxes are also known together
_STAGED_QUERY = 40  # bytes of `StagedQuery` in attend_keys.cu, or fewer
_MOST = 64  # bytes of sums over channels of a pixel that one thread has


# --- constants ------------------------------------------------------------------------------------
def _sixteen(constants: Constants) -> int:
    """Return how many numbers of a video are 16 bytes."""
    return {"double": 2, "float": 4}.get(constants["SCALAR"], 8)


def _of_staged_queries(constants: Constants) -> int:
    """Return the bytes of staged queries: see `StagedQueries` in attend_keys.cu."""
    size = 8 if constants["ACC"] == "double" else 4
    parts = constants["LANES"] * (constants["PARTS"] + constants["PARTS_V"])
    of_query = parts * _sixteen(constants) * size + 16 + _STAGED_QUERY
    return WARPS * 32 // constants["LANES"] * of_query


_WINDOW = {"WINDOW_Y": 9, "WINDOW_X": 9, "EVEN_BEFORE": 0, "STEP": 1, "SLIDE": 1}
_WINDOWS = {**_WINDOW, "AROUND": "float", "DILATION": 1, "RADIUS": 1, "FIRST_SLOT": 0}
_FORM = {"STRIDE": 1, "ZEROS": 0, "L2": 0, "SKIP": 0, "VECTORS": 1, **_WINDOWS}
_INSTANCES = (
    {**_FORM, "LANES": 1, "PARTS": 2, "PARTS_V": 2},
    {**_FORM, "LANES": 4, "PARTS": 1, "PARTS_V": 2, "L2": 1, "ZEROS": 1, "SKIP": 1, "STRIDE": 2, "STEP": 3, "SLIDE": 0},
)
ATTEND = Kernel("attend", "attend.cu", registers=144, instances=_INSTANCES)
QUERIES = Kernel("attend_queries", "attend.cu", registers=168, instances=_INSTANCES)
REACH = Kernel("attend_reach", "attend_keys.cu", registers=64, instances=_INSTANCES[:1])
KEYS = Kernel("attend_keys", "attend_keys.cu", registers=224, shared=_of_staged_queries, instances=_INSTANCES)


# --- calls ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Plan:
    """How a call is launched, what is in a video as kernels read it, and the shapes of its arrays."""

    attend: Plan
    queries: Plan
    reach: Plan
    keys: Plan
    beside: int  # numbers of a pixel that lie together
    parts: int
    parts_of_values: int
    grid: tuple[int, ...]  # (B, G, T, h, w)
    boxes: tuple[int, ...]
    crowds: tuple[int, ...]


@lru_cache(MOST_PLANS)
def _plan(
    spec: Any,
    k: tuple[int, ...],
    v: tuple[int, ...],
    dtype: np.dtype,
    around: tuple,
    of_around: np.dtype,
) -> _Plan:
    B, T, C, H, W = k
    grid = (B, spec.heads, T, *query_grid(H, W, spec.stride))
    known = constants(spec, dtype, of_around, C // spec.heads, v[2] // spec.heads)
    sizes = {"B": B, "FV": v[2] // spec.heads, "groups": around[1], "slots": around[3], "windows": spec.search_slots()}
    sizes |= sizes_of(spec.patches(), (*grid, 0), k, k)
    lanes, lines = known["LANES"], (B, around[1], T, spec.search_slots())
    count = rectangles(lanes, *grid[3:])
    crowds = -(-count // _CROWD)

    def launch(kernel: Kernel, warps: int) -> Plan:
        return Plan(Program(kernel, known), -(-warps // WARPS), sizes)

    queries, keys = (prod(grid[:3]) * rectangles(lanes, *shape) for shape in (grid[3:], (H, W)))
    return _Plan(
        attend=launch(ATTEND, queries),
        queries=launch(QUERIES, queries),
        reach=launch(REACH, prod(lines) * crowds),
        keys=launch(KEYS, keys),
        beside=lanes * 16 // dtype.itemsize,
        parts=known["PARTS"],
        parts_of_values=known["PARTS_V"],
        grid=grid,
        boxes=(*lines, count, 4),
        crowds=(*lines, crowds, 4),
    )


def constants(spec: Any, dtype: np.dtype, around: np.dtype, channels: int, channels_of_values: int) -> Constants:
    few = 16 // dtype.itemsize
    most = max(channels, channels_of_values)
    lanes = next(n for n in (1, 2, 4, 8, 16, 32) if n * _MOST >= most * sums(dtype).itemsize or n == 32)
    return {
        **numbers(dtype),
        "AROUND": CTYPES[around.name],
        "VECTORS": 1,
        "LANES": lanes,
        "PARTS": -(-channels // (lanes * few)),
        "PARTS_V": -(-channels_of_values // (lanes * few)),
        "L2": int(spec.metric == "l2"),
        "ZEROS": int(spec.border == "zeros"),
        "STRIDE": spec.stride,
        "DILATION": 1,
        **of_window(spec),
        "STEP": int(spec.step),
        "SLIDE": int(spec.slide),
        "RADIUS": spec.radius,
        "FIRST_SLOT": int(spec.skip == "own_frame"),
        "SKIP": int(spec.skip == "self"),
    }


def rectangles(lanes: int, height: int, width: int) -> int:
    """Return how many rectangles of a warp cover a grid: attend.cuh says their shape."""
    across = {1: 8, 2: 4, 4: 4, 8: 2, 16: 2, 32: 1}[lanes]
    return -(-width // across) * -(-height // (32 // lanes // across))


class _Call:
    """A call: its plan, and its videos as kernels read them."""

    def __init__(self, device: Any, spec: Any, factor: float, q: Native, k: Native, v: Native, flow: Native | None):
        xp = self.xp = device.xp
        B, T, _, H, W = k.shape
        around = xp.zeros((B, 1, T, 0, 2, *query_grid(H, W, spec.stride)), np.float32) if flow is None else flow
        plan = self.plan = _plan(spec.planned, k.shape, v.shape, k.dtype, around.shape, around.dtype)
        self.heads, self.wide = spec.heads, sums(k.dtype)
        self.arrays = {
            "q": self.laid(q, plan.parts),
            "k": self.laid(k, plan.parts),
            "v": self.laid(v, plan.parts_of_values),
            "around": xp.ascontiguousarray(around),
            "factor": self.wide.type(factor),
        }

    def laid(self, video: Native, parts: int) -> Native:
        return laid(self.xp, video, self.heads, parts, self.plan.beside)


def laid(xp: Any, video: Native, heads: int, parts: int, beside: int) -> Native:
    """Return a video as (B, G, T, parts, H, W, numbers that lie beside each other), with zeros behind its channels."""
    B, T, C, H, W = video.shape
    channels = C // heads
    if channels != parts * beside:
        wider = xp.zeros((B, T, heads, parts * beside, H, W), video.dtype)
        wider[:, :, :, :channels] = video.reshape(B, T, heads, channels, H, W)
        video = wider
    return xp.ascontiguousarray(video.reshape(B, T, heads, parts, beside, H, W).transpose(0, 2, 1, 3, 5, 6, 4))


@primitive
def attend(
    device: Any,
    q: Native,
    k: Native,
    v: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
) -> tuple[Native, Native]:
    call, xp = _Call(device, spec, factor, q, k, v, flow), device.xp
    out = (xp.empty if spec.stride == 1 else xp.zeros)(v.shape, v.dtype)
    found = xp.empty((*call.plan.grid, 2), call.wide)
    call.plan.attend.launch(device, {**call.arrays, "scales": scales, "out": out, "sums": found})
    return out, found


@primitive
def attend_backward(
    device: Any,
    q: Native,
    k: Native,
    v: Native,
    out: Native,
    sums: Native,
    grad: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
) -> tuple[Native, Native, Native, Native | None]:
    call, xp = _Call(device, spec, factor, q, k, v, flow), device.xp
    plan = call.plan
    given = {"grad": call.laid(grad, plan.parts_of_values), "sums": sums, "out": xp.ascontiguousarray(out)}
    for_keys = {"boxes": xp.empty(plan.boxes, np.int32), "crowds": xp.empty(plan.crowds, np.int32)}
    products = None if scales is None else xp.empty(plan.grid, call.wide)
    of_queries = {"means": xp.empty(plan.grid, call.wide), "products": products, "scales": scales}
    found = {"k_grad": xp.empty(k.shape, k.dtype), "v_grad": xp.empty(v.shape, v.dtype)}
    found["q_grad"] = (xp.empty if spec.stride == 1 else xp.zeros)(q.shape, q.dtype)
    arrays = {**call.arrays, **given, **for_keys, **of_queries, **found}
    for launch in (plan.queries, plan.reach, plan.keys):
        launch.launch(device, arrays)
    return found["q_grad"], found["k_grad"], found["v_grad"], by_factors_of(products)
