"""score, aggregate and scatter at whole places, by vector code.

Videos lie in memory with a margin, see `margin`, so that a row of any patch is one run of patch * channels numbers. What
adds to a margin is folded back at the end. Patches of dilated pixels, and squared differences where a border is empty, are
left to `places`.

A number is rounded the same whether both derivatives are computed at once or not, and by however many threads.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._types import Native
from shiftsearch.backends.cpu import margin, pool, simd
from shiftsearch.backends.cpu.margin import Margined, margined
from shiftsearch.backends.cpu.margin_code import build_turn
from shiftsearch.backends.cpu.memory import aligned
from shiftsearch.backends.cpu.patches_code import build_add, build_compare
from shiftsearch.backends.cpu.places_code import build_find
from shiftsearch.backends.cpu.whole_rows import Memory, Pairs, Scratch, add_parts, compare_rows, find_reach, spare_size
from shiftsearch.threads import get_num_threads

_LEAST_ROWS = 32  # of a thread's part of a frame: patches that lie across parts cost more


# Stacks of videos of queries are (B, N, T, C, H, W); what belongs to their places is (N, B, G, T, h, w, K).
def covers(offsets: Native, p: Patches) -> bool:
    """Return whether this module does these places and patches."""
    mirrored = p.border == p.query_border == "reflect"
    return offsets.dtype == np.int32 and p.dilation == 1 and (p.metric == "dot" or mirrored)


class _Heads:
    """The heads of a call, done one after another, in memory as `pairs` describes."""

    def __init__(self, offsets, p: Patches, shape_q, shape_k, dtype, *, aggregates=False, scatters=False):
        P, (B, G, T, h, w, K) = p.patch, offsets.shape[1:7]
        near, mirrored, channels = (P // 2, P - 1 - P // 2), p.border == "reflect", shape_k[2] // G
        (_, _, frames, _, height, width), (before, behind) = shape_q, near
        q = margined(frames, height, width, channels, before, behind, p.query_border == "reflect")
        (_, frames, _, height, width), (before, behind) = shape_k, near if mirrored else (P, P)
        k = margined(frames, height, width, channels, before, behind, mirrored)
        self.pairs = Pairs(q, k, P, p.stride, p.scale, *p.origin, T, h, w, K, aggregates, scatters)
        self.batch, self.heads, self.dtype = B, G, dtype
        self.find, self.turn = build_find(mirrored), build_turn(dtype.name)
        self.turn_back = build_turn(dtype.name, watches=True) if aggregates or scatters else 0
        self.cost = math.prod(offsets.shape[3:7]) * P**2 * channels

    def __iter__(self):
        return np.ndindex(self.batch, self.heads)

    def load(self, video, v: Margined, b: int, g: int):
        return margin.load(video[b], v, self.heads, g, turn=self.turn)

    def store(self, sums, v: Margined, out, b: int, g: int, nonfinite) -> None:
        margin.store(sums, v, out[b], self.heads, g, nonfinite, turn=self.turn_back)

    def parts(self) -> tuple[int, int]:
        """Return into how many parts the frames, and the rows, of the videos are divided among threads."""
        workers = get_num_threads()
        if workers == 1:
            return 1, 1
        of_rows = max(1, min(workers, min(self.pairs.q.height, self.pairs.k.height) // _LEAST_ROWS))
        return min(-(-workers // of_rows), self.pairs.k.frames), of_rows

    def scratch(self, numbers) -> Scratch:
        pairs, lanes = self.pairs, simd.lanes("float32")
        places = pairs.columns * pairs.kept
        columns = np.zeros(places + lanes, np.int32)
        columns[:places] = np.repeat((np.arange(pairs.columns) + pairs.x) * pairs.stride, pairs.kept)
        starts = np.empty(places + max(lanes, 2 * pairs.kept), np.int64)
        return Scratch(columns, starts, np.empty(7 * lanes, np.int32), numbers)

    def reach(self, offsets):
        """See `find_reach`."""
        rows, lanes = self.pairs.frames * self.pairs.rows, simd.lanes("float32")
        reach = np.empty(4 * rows, np.int64)

        def find(stop, first, last):
            scratch = self.scratch(np.empty(0, self.dtype))
            find_reach(offsets, reach, self.find, self.pairs, scratch, lanes, stop, first, last)

        pool.spread(find, rows, offsets.size)
        return reach


def gradients(
    q: Native | None,
    k: Native | None,
    weights: Native,
    offsets: Native,
    p: Patches,
    shape_q: tuple[int, ...],
    shape_k: tuple[int, ...],
    *,
    aggregates: bool,
    scatters: bool,
) -> tuple[Native | None, Native | None]:
    """Return `aggregate` and `scatter`, each if asked for, else nothing; with "dot", the other video may be None.

    Vector code also multiplies by weights of 0, and by pixels outside of a frame, which are 0. 0 times infinity or NaN is
    NaN, and so is every sum that it enters. Finite results are therefore right, and others are computed again without
    weights of 0. (None, None) says that a weight that is not finite may have met an empty border.
    """
    given = partial(_gradients, q, k, weights, offsets, p, shape_q, shape_k, aggregates, scatters)
    found, finite = given(sparse=False)
    if finite:
        return found
    empty = (aggregates and p.border == "zeros") or (scatters and p.query_border == "zeros")
    if empty and not np.isfinite(weights).all():
        return None, None
    return given(sparse=True)[0] if (weights == 0).any() else found


def _gradients(q, k, weights, offsets, p: Patches, shape_q, shape_k, aggregates: bool, scatters: bool, *, sparse: bool):
    """Return both, and whether they are finite."""
    dtype, l2 = (k if q is None else q).dtype, p.metric == "l2"
    heads = _Heads(offsets, p, shape_q, shape_k, dtype, aggregates=aggregates, scatters=scatters)
    pairs, parts = heads.pairs, heads.parts()
    count, run = parts[0] * parts[1], p.patch * pairs.q.channels
    codes = heads.find, build_add(dtype.name, p.metric, aggregates, scatters, pairs.q.channels, p.patch)
    out_q, out_k = np.empty(shape_q if aggregates else 0, dtype), np.empty(shape_k if scatters else 0, dtype)
    nothing, nonfinite, room = np.empty(0, dtype), np.zeros(1, np.int32), count * spare_size.py_func(run)
    for b, g in heads:
        keys = heads.load(k, pairs.k, b, g) if l2 or aggregates else nothing
        to_k = aligned(pairs.k.size + room, dtype) if scatters else nothing
        for n in range(shape_q[1]):
            queries = heads.load(q[:, n], pairs.q, b, g) if l2 or scatters else nothing
            to_q = aligned(pairs.q.size + room, dtype) if aggregates else nothing
            numbers = np.ascontiguousarray(weights[n, b, g], dtype).reshape(-1)
            places = np.ascontiguousarray(offsets[n, b, g]).reshape(-1)
            reach = heads.reach(places) if count > 1 and scatters else np.empty(0, np.int64)
            memory = Memory(queries, to_q, keys, to_k, numbers, places, reach)

            def some_parts(stop, first, last):
                scratch = heads.scratch(np.empty(pairs.kept, dtype))
                add_parts(memory, codes, parts, pairs, scratch, sparse, stop, first, last)  # noqa: B023 (called before the loop goes on)

            pool.spread(some_parts, count, heads.cost)
            if aggregates:
                heads.store(to_q, pairs.q, out_q[:, n], b, g, nonfinite)
        if scatters:
            heads.store(to_k, pairs.k, out_k, b, g, nonfinite)
    return (out_q, out_k), not nonfinite[0]


def score(q: Native, k: Native, offsets: Native, out: Native, p: Patches) -> bool:
    """Write `score`; return whether it is right: pixels outside of a frame are 0 here, and 0 times infinity is NaN."""
    heads, dtype = _Heads(offsets, p, q.shape, k.shape, q.dtype), q.dtype
    pairs, empty, nonfinite = heads.pairs, "zeros" in (p.border, p.query_border), np.zeros(1, np.int32)
    codes = heads.find, build_compare(dtype.name, p.metric, pairs.q.channels, p.patch, empty)
    lanes, nothing = simd.lanes(dtype.name), np.empty(0, dtype)
    for b, g in heads:
        keys = heads.load(k, pairs.k, b, g)
        for n in range(q.shape[1]):
            places = np.ascontiguousarray(offsets[n, b, g]).reshape(-1)
            queries, scores = heads.load(q[:, n], pairs.q, b, g), out[n, b, g].reshape(-1)
            memory = Memory(queries, nothing, keys, nothing, nothing, places, np.empty(0, np.int64))

            def some_rows(stop, first, last):
                scratch = heads.scratch(aligned((pairs.kept + lanes) * lanes, dtype))
                compare_rows(memory, scores, codes, pairs, scratch, nonfinite, stop, first, last)  # noqa: B023 (called before the loop goes on)

            pool.spread(some_rows, pairs.frames * pairs.rows, heads.cost)
    return not nonfinite[0]
