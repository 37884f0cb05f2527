"""What the machine code of a kernel does not say: how often its loops run in a case, and which of its lines are run.

A loop is known by a part of its line in the source. What a kernel's warps do differs where they have roles.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))

from gpu_cases import Case, flow_of

Trips = dict[
    str, tuple[float, int]
]  # by a part of a loop's line: how often it runs, and its floats each time, if unrolled
WITHIN = " within "  # behind it a part of the line of a loop around it, where one is there more than once
_APART = {"zero": 0, "fraction": 0, "smooth": 2, "random": 16, "wild": math.inf}  # windows of a tile, in pixels


@dataclass(frozen=True)
class Role:
    """What a part of a kernel's warps does."""

    trips: Trips
    lines: tuple[str, ...] = ()  # parts of lines that are run: what a thread does not skip
    share: float = 1  # of the warps
    of_loop: int = 1  # as how many lines a loop counts: many, where a way without it has more lines that are named


@dataclass(frozen=True)
class Owner:
    """What a kernel's machine code does not say."""

    roles: Callable[[dict[str, Any], Case, int], list[Role]]  # from constants, case and blocks: on average
    load: int  # cycles of the L1 cache for a load of a warp: 16, a guess, where each thread reads a line of its own
    planar: int  # the same where the channels of a pixel do not lie together, but neighbouring pixels do


def _windows(case: Case) -> int:
    return 2 * case.search["radius"] + 1


def _inserted(case: Case) -> float:
    """Return how many candidates are better than the best before them, in random order."""
    kept = case.search["topk"]
    return kept * (1 + math.log(_windows(case) * case.search["window"] ** 2 / kept))


def _busiest(mean: float) -> float:
    """Return how many hits the busiest of a warp's 32 threads has on average, where each has so many."""
    rarer, most = 1.0, 0.0
    for n in range(100):
        rarer -= math.exp(-mean) * mean**n / math.factorial(n)  # more than n
        most += 1 - (1 - max(rarer, 0)) ** 32
    return most


def _window(c: dict[str, Any]) -> tuple[int, int]:
    return c["WINDOW_Y"], c["WINDOW_X"]


def _search(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    turns, windows = -(-c["WINDOW_Y"] * c["WINDOW_X"] // 32), _windows(case)
    queries = case.queries * case.search["heads"] / (4 * blocks) if c["MARKED"] else 1  # of a warp
    if c["MARKED"] and math.isfinite(_APART[case.flow]):  # tiles have left none: it ends at once
        return [Role({"long long number = first": (0, 0)})]
    trips = {
        "long long number = first": (queries, 0),
        "int slot = begin": (windows, 0),
        "int start = 0": (turns, 0),
        "int i = 0; i < SS_PATCH": (c["PATCH"], 0),
        "int first = 0": (-(-case.channels // 16), 0),
        "int j = 0; j < SS_PATCH": (c["PATCH"], 0),
        "while (waiting)": (_inserted(case) / turns / windows, 0),
        "int e = task.lane": (1 / windows, 0),
    }
    return [Role(trips, lines=("__fmaf_rn(",))]


def _search_windows(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """All warps stage and compare, and the first of them keeps the best."""
    turns, windows, warps = -(-c["WINDOW_Y"] * c["WINDOW_X"] // 32), _windows(case), c["THREADS"] // 32
    windows -= c["MARKED"] and not c["SUBPIXEL"]  # tiles have searched the queries' own frame
    if c["MARKED"] and math.isfinite(_APART[case.flow]):
        return [Role({"long long number = blockIdx": (0, 0)})]
    queries = case.queries * case.search["heads"] / blocks if c["MARKED"] else 1
    sides = [(int(c["STEP"]) * (n - 1) + c["DILATION"] * (c["PATCH"] - 1)) // c["APART"] + 1 for n in _window(c)]
    staged = math.prod(side + c["SUBPIXEL"] for side in sides)
    parts = c["PACKS"] // (2 if case.dtype != "float32" else 1) if c["VECTORS"] else 1
    rows = -(-c["WINDOW_Y"] // c["DOWN"]) * -(-c["WINDOW_X"] // c["ACROSS"]) * c["PATCH"]
    of_first = windows if case.channels <= 16 else 1  # a patch is staged once, if all its channels are
    shared = {
        "long long number = blockIdx": (queries, 0),
        "int slot = begin": (windows, 0),
        "int f = 0; even": (-(-case.channels // 16), 0),
        "n < SS_STAGED_TALL * SS_STAGED_WIDE": (-(-staged * parts // 32) / warps, 0),
        "start < SS_TALL * SS_WIDE": (-(-math.prod(sides) // 32) / warps, 0),
        "n < SS_PATCH * SS_PATCH": (-(-(c["PATCH"] ** 2) * parts // 32) / warps / of_first, 0),
        "n < SS_BLOCKS * SS_PATCH": (-(-rows // 32) / warps, 0),
        "int pack = 0": (c["PACKS"], 0),
        "n < SS_WINDOW_SIZE; n +=": (turns / warps, 0),
        "number < SS_WINDOW_SIZE; number +=": (0, 0),  # but for windows whose candidates lie unevenly
    }
    taken = case.search["topk"] if windows < _windows(case) else 0  # over from tiles
    let_in = _inserted(case) - (taken and _inserted(replace(case, options={**case.options, "radius": 0})))
    kept = {
        "int start = 0": (turns, 0),
        "while (waiting) within int slot = begin": (let_in / turns / windows, 0),
        "while (waiting)": (taken, 0),
        "int e = task.lane": (1 / windows, 0),
    }
    others = dict.fromkeys(kept, (0, 0))
    lines = ("__fmaf_rn(", " load(const ", "*reinterpret_cast<const")
    return [
        Role({**shared, **kept}, lines=lines, share=1 / warps),
        Role({**shared, **others}, lines=lines, share=1 - 1 / warps),
    ]


@dataclass(frozen=True)
class _Reach:
    """What a tile looks at in a slot, on average."""

    columns: float
    rows: float
    steps: float
    produced: float  # displacements, of a warp
    consumed: float
    evens: float  # steps with an even number of displacements
    whole: float  # steps of a warp that are a whole window, whose displacements are unrolled
    too_wide: bool  # tiles are left


def _reach(case: Case, wide: int, tall: int, column: int, budget: int) -> _Reach:
    """Look at the windows of one frame, in the slots without and with flow."""
    flow = flow_of(np.random.default_rng(0), case)[0, 0, 0, 0].astype(int)
    slots = [_of_slot(case, moved, wide, tall, column) for moved in (0 * flow, *[flow] * (_windows(case) - 1))]
    mean = np.mean(slots, 0)
    return _Reach(*mean, np.max(slots) > budget * case.search["window"] ** 2)


def _of_slot(case: Case, flow: Any, wide: int, tall: int, column: int) -> list[float]:
    window, patch, found = case.search["window"], case.search["patch"], []
    begin = [_window_begins(moved, axis, window) for moved, axis in ((flow[1], 0), (flow[0], 1))]
    for top, left in product(range(0, case.height, tall), range(0, case.width, wide)):
        y, x = (values[top : top + tall, left : left + wide] for values in begin)
        groups, existing = -(-tall // column), -(-y.shape[0] // column)

        def area(first: int, last: int, y: Any = y, x: Any = x, existing: int = existing) -> float:
            rows = slice(first * column, (last + 1) * column)
            return 0 if first >= existing else (np.ptp(y[rows]) + window) * (np.ptp(x[rows]) + window)

        lines = range(0, tall + patch - 1 & ~3, 4)
        produced = [area(max(n - patch + 1, 0) // column, min((n + 3) // column, groups - 1)) for n in lines]
        warps = range(0, groups * wide, 32)
        consumed = [area(n // wide, min((n + 31) // wide, groups - 1)) for n in warps]
        rows, columns = np.ptp(y) + window, np.ptp(x) + window
        steps, whole = rows * -(-columns // 9), np.mean(produced) / window if columns == window <= 9 else 0
        evens = 0 if whole else rows * _evens(columns, 9)
        found.append([columns, rows, steps, np.mean(produced), np.mean(consumed), evens, whole])
    return list(np.mean(found, 0))


def _window_begins(moved: Any, axis: int, window: int) -> Any:
    """Return where windows begin that slide into the frame, as displacements."""
    n = moved.shape[axis]
    at = np.arange(n).reshape((-1, 1) if axis == 0 else (1, -1))
    centre = np.abs(at + moved)
    centre = np.where(centre < n, centre, 2 * (n - 1) - centre)
    return np.clip(centre - (window - 1) // 2, 0, n - window) - at


def _compared(produced: float, odd: float) -> Trips:
    """Return the trips of loops behind the first three displacements of a step: by two of them, and for one that is left."""
    return {"x + 1 < n": ((produced - 3 - odd) / 2, 0), "x < n": (odd, 0)}


_unrolled: Trips = {"x + 1 < n": (0, 0), "x < n": (0, 0)}  # in a step that is a whole window


def _evens(columns: int, at_once: int) -> int:
    """Return how many steps of a row have an even number of displacements: three, pairs, and one."""
    steps = -(-columns // at_once)
    return sum((columns + step) // steps % 2 == 0 for step in range(steps))


_LEFT = 3  # candidates of the busiest thread of a warp that wait at the end


def _staged(c: dict[str, Any], columns: float) -> int:
    """Return how often a warp turns to stage a row of k."""
    strips, channels = -(-(31 + round(columns)) // 4), c["CHANNELS"] * c["CHUNKS"]
    return -(-8 * -(-strips // 2) * channels // (min(8, c["CHANNELS"]) * 32))


def _search_tiles(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """Producers and consumers; steps are of nine displacements, in each row of what a tile looks at."""
    windows = _windows(case)
    shape = c["TILE_X"], c["TILE_Y"], c["COLUMN"], c["BUDGET"]
    reach = _reach(case, *shape)
    if reach.too_wide:  # all but the queries' own frame is left
        windows, reach = 1, _reach(replace(case, flow="zero"), *shape)
    warps, steps, rows = c["THREADS"] / 32, reach.steps, reach.rows
    producers = 8 * c["ROWS"] / 32 / warps
    pieces, row = _staged(c, reach.columns), c["TILE_X"] * c["TOPK"]
    shared = {
        "int number = begin": (windows, 0),
        "int y = threadIdx.x / 32; y < SS_KEPT_ROWS": ((c["ROWS"] + 1) / warps, 0),
        "i < items within int y = threadIdx": (pieces, 0),
        "int y = threadIdx.x / 32; y < tall": (c["TILE_Y"] / warps, 0),
        "i < SS_TILE_X * SS_TILE_Y": (c["TILE_X"] * c["TILE_Y"] / c["THREADS"], 0),  # whose scores become weights
        "first < count": ((-(-row // 128) + -(-3 * row // 128)) / 2, 0),  # in two loops, of scores and of offsets
    }
    staged = pieces / (warps * (1 - producers)) * (rows - 2) / rows
    looks = reach.consumed / 3
    let_in = (1.65 * _inserted(case) - _LEFT) / (windows * looks)  # a warp waits for the busiest of its threads
    produced = {
        "int dy = 0; dy < slot.reach.tall": (rows, 0),
        "steps.left()": (steps / rows, 0),
        "int chunk = 0": (c["CHUNKS"], 0),
    }
    in_whole = reach.whole if c["L2"] else 0
    whole, others, some = in_whole / steps, steps - in_whole, _unrolled
    if others:
        some = _compared((reach.produced - in_whole * c["WINDOW_X"]) / others, reach.evens / others)
    consumed = {
        "int dy = 0; dy < slot.reach.tall": (rows, 0),
        "steps.left()": (steps / rows, 0),
        "i < items within int dy = 0": (staged, 0),
        "start < step.n": (looks / steps, 0),
        "w.count & many & 255u within start < step.n": (let_in, 0),
        "w.count & many & 255u": (_LEFT / windows, 0),
    }
    staging = "*reinterpret_cast<uint4*>(to + j * sizeof(SS_HELD))"
    consuming = ("rows[j] = sums", "best[SS_TOPK + i] = before", "to.offsets[3 * at] =")
    producing = ("__fmaf_rn(", "*to = found", staging)
    return [
        Role({**shared, **produced, **_unrolled}, lines=producing, share=producers * whole),
        Role({**shared, **produced, **some}, lines=producing, share=producers * (1 - whole), of_loop=10**4),
        Role({**shared, **consumed}, lines=(*consuming, staging), share=1 - producers),
    ]


def _attend_points(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """A search of points that ends otherwise."""
    (role,) = _search_points(c, case, blocks)
    trips = {**role.trips, "int first = 0; first < m.FV": (case.channels / c["RUN_V"], 0)}
    return [replace(role, trips=trips, lines=(*role.lines, "sum[c] = multiply_add"))]


def _attend_tiles(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """A search on tiles that ends otherwise: a thread has a query or two."""
    each = -(-c["TILE_X"] * c["TILE_Y"] // c["THREADS"])
    ends = {
        "i < SS_TILE_X * SS_TILE_Y": (each, 0),
        "int c = 0; c < m.FV": (case.channels / c["RUN_V"], 0),
        "int e = first": (c["ATTENDED"], 16),
        "row < tall": (c["TILE_Y"] * 32 / c["THREADS"], 0),
        "i < across": (c["TILE_X"] * c["ATTENDED"] / 32, 0),
        "e < SS_ATTENDED; ++e) scores[e]": (0, 0),
    }
    roles = _search_tiles(c, case, blocks)
    return [replace(role, trips={**role.trips, **ends}, lines=(*role.lines, "sum[c] = multiply_add")) for role in roles]


def _search_points(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """Two passes through all slots; the second stages them again if they do not lie in memory together."""
    windows, apart = _windows(case), _APART[case.flow]
    down, reach = (n + apart for n in _window(c))
    held = (
        windows
        * (down + c["TILE_Y"] - 1)
        * (reach + 15)
        * (16 * c["CHUNKS"] * (4 if case.dtype == "float32" else 2) + 4)
    )
    staged = (down + 15) * (reach + 15) / c["THREADS"]
    rows, strips = 1 + down, -(-(7 + reach) // 8)
    shared = {
        "i < SS_SLOTS * 4": (1, 0),
        "i < r.tall * r.wide within int slot = first": (staged, 0),
        "int slot = 0; slot < a.windows": (windows, 0),
        "int first = 0; first < a.windows": (1, 0),
        "i < r.tall * r.wide within int again = first": (0 if held <= c["POOL"] else staged, 0),
        "int slot = first": (windows, 0),
        "int again = first": (windows, 0),
        "i < r.tall * r.wide": (1, 0),  # of queries
        "int left = reach.tall": (rows, 0),
        "int strip = 0": (strips + 0.5 if apart else 0, 0),  # one more, where one half has nothing; else it is unrolled
        "int chunk = 0": (c["CHUNKS"], 0),
        "int y = threadIdx.x / 32; y < tall": (c["TILE_Y"] * 32 / c["THREADS"], 0),
        "int i = lane; i < fours": (2 * c["TOPK"] / 8, 0),  # of scores and of offsets, on average
        "int rest = 4 * fours": (0, 0),
    }
    scored = 1.85 * c["TOPK"] / (windows * rows)  # a warp waits for the busiest of its threads; simulated
    noted = "int i = 0; __any_sync(SS_ALL, left"
    lines = ("kept[i] = fminf(", "beyond = beyond << 1", "(strip - begin[half])" if apart else "to[0] = {sums[0]")
    return [Role({**shared, noted: (scored, 0)}, lines=lines)]


def _search_subpixel(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """As on tiles of whole pixels, with one more displacement along an axis where flow leads between pixels."""
    windows, between = _windows(case), case.flow == "fraction"
    side = c["WINDOW_X"]  # goals have windows as high as wide
    reaches = [side] + [side + between + _APART[case.flow]] * (windows - 1)  # of the own frame, and others
    if max(reaches) ** 2 > c["BUDGET"] * side**2:
        return [Role({"int number = 0": (1, 0)})]
    warps, steps = c["THREADS"] / 32, sum(reach * -(-reach // 5) for reach in reaches) / windows
    rows = sum(reaches) / windows
    at_once = sum(reach**2 for reach in reaches) / steps / windows
    producers = 8 * c["ROWS"] / 32 / warps
    pieces = _staged(c, max(reaches))
    queries = c["TILE_X"] * c["TILE_Y"]
    shared = {
        "int number = 0": (windows, 0),
        "int y = threadIdx.x / 32; y < SS_KEPT_ROWS": ((c["ROWS"] + 1) / warps, 0),
        "i < items within int y = threadIdx": (pieces, 0),
        "i < SS_WINDOW_X * SS_QUERIES": (c["WINDOW_X"] * queries / c["THREADS"], 0),
        "i < SS_QUERIES; i +=": (queries / c["THREADS"] / windows, 0),
        "int e = 0; e < SS_TOPK": (c["TOPK"], 0),
        "int i = 0; i < SS_PATCH": (0, 0),  # hardly any candidate is scored directly
        "i < 3 * all": (3 * queries * c["TOPK"] / c["THREADS"] / windows, 0),
    }
    staged = pieces / (warps * (1 - producers)) * (rows - 2) / rows
    looks = at_once / 3
    let_in = (1.65 * _inserted(case) - _LEFT) / (windows * steps * looks)  # a warp waits for the busiest of its threads
    produced = {
        "int dy = 0; dy < slot.reach.tall": (rows, 0),
        "steps.left()": (steps / rows, 0),
        "int chunk = 0": (c["CHUNKS"], 0),
        **_compared(at_once, sum(reach * _evens(reach, 5) for reach in reaches) / windows / steps),
    }
    consumed = {
        "int dy = 0; dy < slot.reach.tall": (rows, 0),
        "steps.left()": (steps / rows, 0),
        "i < items within int dy = 0": (staged, 0),
        "start < step.n": (looks, 0),
        "w.count & many & 255u within start < step.n": (let_in, 0),
        "w.count & many & 255u": (_LEFT / windows, 0),
    }
    staging = "*reinterpret_cast<uint4*>(to + j * sizeof(SS_HELD))"
    consuming = ("rows[j] = sums", "float across = ", "best[SS_TOPK + i] = before")
    return [
        Role({**shared, **produced}, lines=("__fmaf_rn(", "*to = found", staging), share=producers),
        Role({**shared, **consumed}, lines=(*consuming, staging), share=1 - producers),
    ]


def _spread(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    tall, wide = 33 + c["PATCH"] - 1, 32 + c["PATCH"] - 1
    loads = case.channels / (1 if not c["VECTORS"] else 4 if case.dtype == "float32" else 8)
    trips = {"i < SS_TALL * SS_WIDE": (tall * wide / 256, 0), "int f = 0; f < F": (loads / 2, 0)}
    return [Role({**trips, "row < SS_TALL": (tall / 8, 0), "row < 32": (4, 0)}, lines=("sums.right = squared",))]


def _score(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    runs = case.channels / c["CHANNELS"]
    return [Role({"int a = 0": (c["PATCH"], 0), "int b = 0": (c["PATCH"], 0), "int f = 0": (runs, 0)}, lines=("phi(",))]


def _tiles(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """Steps are the displacements between patches, taken a row of a window at a time where it is not too wide.

    Tiles at the border of a frame that is mirrored are summed pixel by pixel.
    """
    window, around = case.search["window"] + min(_APART[case.flow], 99), c["PATCH"] - 1
    rows, columns, at_once = 8 + around, 32 + around, min(c["STEPS"], window)
    each = _windows(case) * window  # rows of windows
    chunks = each * -(-window // c["STEPS"])
    of_thread = rows * columns / 128  # homes
    trips = {
        "int i = threadIdx.x; i < SS_HOMES * SS_STAGED": (rows * columns * c["STAGED"] / 128, 0),
        "int home = threadIdx.x": (of_thread, 0),
        "while (found.next != SS_NONE": (chunks, 0),
        "found.next < end": (_busiest(case.search["topk"] * of_thread / chunks), 0),
        "int i = threadIdx.x; i < SS_ROWS": (rows * -(-columns // 4) / 128, 0),
        "unsigned left = present": (at_once, 0),
        "int row = kept": (each / chunks * (1 + 7 / window), 0),
        "int i = threadIdx.x; i < steps * SS_QUADS": (-(-at_once // 4) / 4, 0),
        "int v = first_image": (1, 0),
        "int u = first_image": (1, 0),
    }
    zeros = c["QUERY_ZEROS"] if c["STAGED"] else c["ZEROS"]
    inside = 1 if zeros else max(0, 1 - 2 * 8 / case.height) * max(0, 1 - 2 * 32 / case.width)
    if not c["DENSE"]:
        inside = 0
    dense = Role(
        trips,
        lines=(
            "filter_tile<SS_STEPS>",
            "sum[c][j] += weight",
        ),
        share=inside,
    )
    return [dense, Role(trips, lines=("sum.of[c] += weight",), share=1 - inside)]


def _pixels(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """A thread asks all pixels of a patch for those who lie there, and `aggregate` all four mirror images of each."""
    if c["REPAIR"]:  # all is well: it only looks
        return [Role({})]
    corners = 1 if c["WHOLE"] else 4
    kept = case.search["topk"] / 4
    landed = _busiest(case.search["topk"])  # a warp waits for the pixel at which most candidates land
    trips = {
        "SS_PATCH * SS_PATCH * 4": (4 * c["PATCH"] ** 2, 0),
        "int n = first": (kept, 0),
        "int at = begin_of": (landed, 0),
    }
    return [Role({**trips, "corners << shift": (corners * c["PATCH"] ** 2, 0)}, lines=("sum.of[c] +=",))]


def _fold(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """A warp asks for the candidates of all cells around its square, 32 at a time, and adds each to all of its pixels."""
    side, kept = 8 + c["PATCH"] - 1, case.search["topk"]
    turns = -(-(side**2) // 32)
    trips = {
        "int kind = 0": ((1 + 16 / case.height) * (1 + 16 / case.width), 0),  # squares at borders go around again
        "int first = 0; first < SS_CELLS": (turns, 0),
        "unsigned some = __ballot_sync": (side**2 * min(kept, 1) / turns, 0),
        "int at = __shfl_sync": (max(kept, 1), 0),
    }
    return [Role(trips, lines=("+= weight * load(number",))]


def _gather(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    return [Role({"int row = 0": (c["PATCH"], 0), "int f = 0": (case.channels / c["CHANNELS"], 0)})]


def _shrink(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    pixels, lines = (-(-c["GROUPS"] * n // 128) for n in (c["PATCH"] ** 2, c["COUNT"] * c["PATCH"]))
    trips = {
        "i < min(SS_GROUPS, left) * SS_PIXELS": (pixels, 0),
        "i < lines; i += SS_THREADS": (lines, 0),
        "int group = threadIdx.x / 32": (c["GROUPS"] / 4, 0),
        "i < SS_COUNT * SS_PATCH; i += 32": (-(-c["COUNT"] * c["PATCH"] // 32), 0),
        "i < here * SS_PIXELS": (pixels, 0),
    }
    return [Role(trips)]


def _landing(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    kept = case.search["topk"]
    return [Role({"int i = 1; i < count": (kept, 0), "to > 0 && numbers": (kept / 4, 0)})]


def _attend(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    trips = {"int slot = 0": (_windows(case), 0), "int i = 0; i < SS_WINDOW_Y": (c["WINDOW_Y"], 0)}
    return [Role({**trips, "int j = 0; j < SS_WINDOW_X": (c["WINDOW_X"], 0)})]


def _attend_best(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    if c["MARKED"] and math.isfinite(_APART[case.flow]):  # tiles have left none: it ends at once
        return [Role({"long long number = ": (0, 0)})]
    turns, windows, kept = -(-c["WINDOW_Y"] * c["WINDOW_X"] // 32), _windows(case), c["ATTENDED"]
    each = -(-kept // 32)
    trips = {
        "long long number = ": (case.queries * case.search["heads"] / (4 * blocks), 0),
        "int slot = begin": (windows, 0),
        "int start = 0": (turns, 0),
        "int i = 0; i < SS_PATCH": (1, 0),
        "int first = 0": (-(-case.channels // 16), 0),
        "int j = 0; j < SS_PATCH": (1, 0),
        "while (waiting)": (_inserted(case) / turns / windows, 0),
        "e < SS_TOPK; e += 32": (1 / windows, 0),
        "e < SS_ATTENDED; e += 32": (each, 0),
        "i < 3 * SS_ATTENDED": (-(-3 * kept // 32), 0),
        "int e = 0; e < SS_ATTENDED": (kept, 0),
        "int c = task.lane": (-(-case.channels // 32), 0),
    }
    return [Role(trips, lines=("__fmaf_rn(",))]


def _attend_slopes(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """Turns of two candidates, of which all have weight."""
    trips = {"int e = 0; e < SS_TOPK": (c["TOPK"] / 2, 0)}
    return [Role(trips, lines=("sums[n] += weight * numbers[n]", "atomicAdd(counted"))]


def _attend_landed(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """A warp waits for the pixel at which most candidates land."""
    return [Role({"int n = begin_of": (_busiest(case.search["topk"]), 0)}, lines=("by_key[c] +=",))]


def _attend_keys(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    """A warp has 8 x 4 keys, and 8 x 4 queries at a time; each that has some of a key in its window is gone through."""
    down, across = (n + _APART[case.flow] - 1 for n in _window(c))
    met = (1 + (across + 7) / 8) * (1 + (down + 3) / 4)  # rectangles of queries
    crowds = -(-case.width // 8) * -(-case.height // 4) / 32
    meeting = (c["WINDOW_X"] + 7) * (c["WINDOW_Y"] + 3)
    trips = {
        "int i = 0; i < (to - from": (_windows(case), 0),
        "int first = 0; first < crowds": (crowds / 32, 0),
        "some &= some - 1": (1 + met / 8, 0),
        "few &= few - 1": (met / (1 + met / 8), 0),
        "meeting &= meeting - 1": (meeting / met, 0),
    }
    return [Role(trips)]


def _attend_reach(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    return [Role({"int n = 0; n < SS_CROWD": (32, 0)})]


def _weigh(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    return [Role({"int e = lane": (-(-case.search["topk"] // c["LANES"]), 0)})]


def _warp(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    return [Role({"int c = 0; c < s.channels": (case.channels, 0)})]


def _resample(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    return [
        Role({"int a = 0": (c["PATCH"], 0), "int b = 0": (c["PATCH"], 0)}, lines=("multiply_add(weight, weight != 0",))
    ]


def _mean_down(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    middle = 2 * case.search["window"] + 2 - c["RUN"]
    runs = {"int row = warp * SS_ROWS": (8 / c["RUN"], 0), "int row = max(first": (middle, 0)}
    return [Role({**runs, "int i = warp; i < SS_SIDE": (8, 0)})]


def _no_loops(c: dict[str, Any], case: Case, blocks: int) -> list[Role]:
    return [Role({})]


OWNERS = {
    "search": Owner(_search, load=8, planar=3),  # half of its loads are of one place for all threads
    "search_windows": Owner(_search_windows, load=5, planar=4),  # a row of a stage is in a line or two
    "search_tiles": Owner(_search_tiles, load=4, planar=2),
    "search_points": Owner(_search_points, load=4, planar=2),
    **dict.fromkeys(("attend", "attend_queries"), Owner(_attend, load=4, planar=4)),
    "attend_points": Owner(_attend_points, load=4, planar=2),
    "attend_tiles": Owner(_attend_tiles, load=4, planar=2),
    "attend_best": Owner(_attend_best, load=8, planar=4),
    "attend_slopes": Owner(_attend_slopes, load=16, planar=16),
    "attend_landed": Owner(_attend_landed, load=16, planar=16),
    **dict.fromkeys(("weigh", "weigh_backward"), Owner(_weigh, load=4, planar=4)),
    **dict.fromkeys(("number_places", "fill_places"), Owner(_no_loops, load=4, planar=4)),
    "attend_keys": Owner(_attend_keys, load=4, planar=4),
    "attend_reach": Owner(_attend_reach, load=4, planar=4),
    "search_subpixel": Owner(_search_subpixel, load=4, planar=2),
    "spread": Owner(_spread, load=16, planar=2),
    "score": Owner(_score, load=8, planar=8),  # ten threads have one query
    "aggregate_tiles": Owner(_tiles, load=16, planar=2),
    "scatter_tiles": Owner(_tiles, load=16, planar=2),
    "aggregate": Owner(_pixels, load=8, planar=8),
    "scatter": Owner(_pixels, load=8, planar=8),
    "fold": Owner(_fold, load=4, planar=4),  # of a patch, a warp reads rows behind one another
    **dict.fromkeys(("count_landings", "fill_cells", "sort_cells"), Owner(_landing, load=4, planar=4)),
    **dict.fromkeys(("coarser", "fill_up"), Owner(_no_loops, load=2, planar=2)),
    "begin_cells": Owner(_no_loops, load=4, planar=4),
    "gather": Owner(_gather, load=4, planar=4),
    "warp": Owner(_warp, load=4, planar=4),
    "resample": Owner(_resample, load=2, planar=2),  # neighbouring pixels, at most two lines
    "mean_down": Owner(_mean_down, load=2, planar=2),
    "shrink": Owner(_shrink, load=2, planar=2),
    "descent": Owner(_no_loops, load=2, planar=2),
    "settle": Owner(_no_loops, load=2, planar=2),  # neighbouring pixels, at most two lines
}
