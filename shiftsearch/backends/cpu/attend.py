"""Attention to all places of the windows: a query after another, whose scores and weights are in memory meanwhile.

For the gradients by q each query does what it did before. Those by k and v are added up by bands of rows of them, each of
which goes through all queries that look at it, in their order: results depend neither on the number of threads nor of
bands.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._geometry import frame_order
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu import attend_rows, margin, margin_code, patches_code, pool, simd, softmax_code
from shiftsearch.backends.cpu.attend_rows import EVERYWHERE, Band, Codes, Found, Numbers, Scratch, Sizes
from shiftsearch.backends.cpu.margin import margined
from shiftsearch.backends.cpu.memory import aligned
from shiftsearch.backends.cpu.search import task_of
from shiftsearch.backends.cpu.windows import TILE, Task, Windows, room_for, windows_of_flow
from shiftsearch.threads import get_num_threads

_BAND = 64  # rows at least: every band looks at all queries of some frames


class _Call:
    """A call, and its heads one after another in memory."""

    def __init__(self, spec: Any, q: Native, k: Native, v: Native, flow: Native | None):
        B, T, C, H, W = k.shape
        self.heads, self.dtype, self.batch, self.spec = spec.heads, k.dtype, B, spec
        size = T, T, C // spec.heads, H, W
        self.task: Task = task_of(spec, spec.patches(), size, spec.search_slots(), False, k.dtype.name)
        self.of_keys = margined(T, H, W, C // spec.heads, 0, 0, True)
        self.of_values = margined(T, H, W, v.shape[2] // spec.heads, 0, 0, True)
        shape = (B, 1, T, 0, 2, self.task.rows, self.task.columns)
        self.flow = np.zeros(shape, np.float32) if flow is None else flow
        self.order, self.turn = frame_order(T, spec.radius), margin_code.build_turn(k.dtype.name)
        self.turn_back = margin_code.build_turn(k.dtype.name, watches=True)
        self.tile_rows = -(-self.task.rows // TILE)
        self.queries = T * self.task.rows * self.task.columns
        self.cost = self.queries * self.task.slots * self.task.each * (self.of_keys.channels + self.of_values.channels)

    def codes(self, *, known: bool) -> Codes:
        dtype, metric, keys, values = self.dtype.name, self.spec.metric, self.of_keys.channels, self.of_values.channels
        add, compare = patches_code.build_add, patches_code.build_compare
        return Codes(
            of_keys=compare(dtype, metric, keys, 1, False),
            of_values=compare(dtype, "dot", values, 1, False),
            softmax=softmax_code.build_softmax(dtype, known),
            to_q=add(dtype, metric, True, False, keys, 1) if known else add(dtype, "dot", True, False, values, 1),
            to_k=add(dtype, metric, False, True, keys, 1),
            to_v=add(dtype, "dot", False, True, values, 1),
        )

    def load(self, video: Native, v: margin.Margined, b: int, g: int) -> Native:
        return margin.load(video[b], v, self.heads, g, turn=self.turn)

    def store(self, numbers: Native, v: margin.Margined, out: Native, b: int, g: int) -> None:
        margin.store(numbers, v, out[b], self.heads, g, np.zeros(1, np.int32), turn=self.turn_back)

    def scratch(self) -> Scratch:
        lanes, count = simd.lanes(self.dtype.name), self.task.slots * self.task.each
        in_k, in_v, starts = (np.empty(count, np.int64) for _ in range(3))
        scores, weights, by_weights, chosen = (aligned(count + lanes, self.dtype) for _ in range(4))
        return Scratch(
            in_k=in_k,
            in_v=in_v,
            kinds=np.empty(count, np.int32),
            scores=scores,
            weights=weights,
            by_weights=by_weights,
            chosen=chosen,
            starts=starts,
            numbers=np.empty(3, self.dtype),
            vectors=aligned((count + lanes) * lanes, self.dtype),
        )

    def flow_of(self, b: int, g: int) -> Native:
        return self.flow[b, g % self.flow.shape[1]]

    def work(self, kernel: Any, read: Numbers, found: Found, codes: Codes, factor: float) -> _Work:
        sizes = Sizes(self.of_values.channels, factor, self.spec.skip == "self")
        return _Work(kernel, read, found, self.task, sizes, codes)

    def run(self, work: Any, flow: Native, band: Band, stop: Native, first: int, last: int) -> None:
        """Call `work` for tile rows first..last, some at a time."""
        windows, scratch = room_for(TILE * self.task.columns * self.task.slots), self.scratch()
        for unit in range(first, max(last, first + 1)):
            end = min(last, unit + 1)
            windows_of_flow(unit, end, flow, self.order, self.task, windows)
            work(windows=windows, scratch=scratch, band=band, stop=stop, first=unit, last=end)

    def of_queries(self, work: Any, flow: Native) -> None:
        some = partial(self.run, work, flow, EVERYWHERE)
        pool.spread(some, self.task.frames * self.tile_rows, self.cost)

    def of_bands(self, work: Any, flow: Native) -> None:
        task = self.task
        bands = max(1, min(get_num_threads(), task.height // _BAND))
        looking = [[t for t in range(task.frames) if f in self.order[t]] for f in range(task.frames)]

        def some_bands(stop, first, last):
            for unit in range(first, last):
                frame, band = unit // bands, unit % bands
                mine = Band(frame, band * task.height // bands, (band + 1) * task.height // bands)
                for t in looking[frame]:
                    self.run(work, flow, mine, stop, t * self.tile_rows, (t + 1) * self.tile_rows)
            if first == last:  # compiles
                self.run(work, flow, Band(0, 0, 0), stop, 0, 0)

        pool.spread(some_bands, task.frames * bands, 2 * self.cost)


@primitive
def attend(
    q: Native,
    k: Native,
    v: Native,
    spec: Any,
    factor: float,
    *,
    scales: Native | None = None,
    flow: Native | None = None,
) -> tuple[Native, Native]:
    call, out, factors = _Call(spec, q, k, v, flow), np.empty(v.shape, v.dtype), _factors(spec, factor, scales)
    task = call.task
    sums = np.empty((*k.shape[:1], spec.heads, task.frames, task.rows, task.columns, 2), v.dtype)
    for b, g in np.ndindex(*sums.shape[:2]):
        _forward_of_head(call, (q, k, v), (out, sums), factors[g], b, g)
    return out, sums


# What is in memory of a head, in the order of kernels, is gone before the next head: a function each sees to that.
def _forward_of_head(
    call: _Call, videos: tuple[Native, ...], results: tuple[Native, ...], factor: float, b: int, g: int
) -> None:
    (q, k, v), (out, sums), nothing = videos, results, np.empty(0, call.dtype)
    at_q, at_k = (call.load(video, call.of_keys, b, g) for video in (q, k))
    read = Numbers(at_q, at_k, call.load(v, call.of_values, b, g), nothing, sums[b, g].reshape(-1), nothing)
    found = Found(aligned(call.of_values.size, call.dtype), nothing, nothing, nothing)
    work = call.work(attend_rows.attend, read, found, call.codes(known=False), factor)
    call.of_queries(work, call.flow_of(b, g))
    call.store(found.q, call.of_values, out, b, g)


@primitive
def attend_backward(
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
    call, factors = _Call(spec, q, k, v, flow), _factors(spec, factor, scales)
    grads = tuple(np.empty(video.shape, video.dtype) for video in (q, k, v))
    products = np.empty(sums.shape[:-1], sums.dtype)
    for b, g in np.ndindex(*sums.shape[:2]):
        _backward_of_head(call, (q, k, v, grad), sums, grads, products, factors[g], b, g)
    q_grad, k_grad, v_grad = grads
    return q_grad, k_grad, v_grad, None if scales is None else products.sum((0, 2, 3, 4))


def _factors(spec: Any, factor: float, scales: Native | None) -> list[float]:
    return [factor] * spec.heads if scales is None else [float(each) for each in factor * scales]


def _backward_of_head(
    call: _Call,
    videos: tuple[Native, ...],
    sums: Native,
    grads: tuple[Native, ...],
    products: Native,
    factor: float,
    b: int,
    g: int,
) -> None:
    kinds, nothing = (call.of_keys, call.of_keys, call.of_values, call.of_values), np.empty(0, call.dtype)
    of_queries = np.ascontiguousarray(sums[b, g]).reshape(-1), np.empty(call.queries, call.dtype)
    at_q, at_k, at_v, arrives = (call.load(video, kind, b, g) for video, kind in zip(videos, kinds, strict=True))
    read = Numbers(at_q, at_k, at_v, arrives, *of_queries)
    codes = call.codes(known=True)
    to_q = aligned(call.of_keys.size, call.dtype)
    found = Found(to_q, nothing, nothing, products[b, g].reshape(-1))
    call.of_queries(call.work(attend_rows.to_queries, read, found, codes, factor), call.flow_of(b, g))
    call.store(to_q, call.of_keys, grads[0], b, g)
    del to_q, found  # before those of keys and values are there
    to_k, to_v = (aligned(kind.size, call.dtype) for kind in kinds[1:3])
    found = Found(nothing, to_k, to_v, nothing)
    call.of_bands(call.work(attend_rows.to_keys, read, found, codes, factor), call.flow_of(b, g))
    call.store(to_k, call.of_keys, grads[1], b, g)
    call.store(to_v, call.of_values, grads[2], b, g)


class _Work(NamedTuple):
    """A kernel with what all its threads share."""

    kernel: Any
    read: Numbers
    found: Found
    task: Task
    sizes: Sizes
    codes: Codes

    def __call__(self, *, windows: Windows, scratch: Scratch, band: Band, stop: Native, first: int, last: int) -> None:
        _, read, found, task, sizes, codes = self
        self.kernel(read, found, windows, task, sizes, codes, scratch, band, stop, first, last)
