"""Attention to all places of the windows: a query after another, whose scores and weights are in memory meanwhile.

In the order of kernels, one head of k and v is in memory with the frames that a few frames look at, which move along with
them, and of q each thread has some rows.

For the gradients by q each query does what it did before. Those by k and v are added up a few frames at a time, by bands of
rows, each of which goes through all queries that look at it, in their order: results depend neither on the number of
threads nor of bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._geometry import frame_order
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu import attend_rows, margin, margin_code, patches_code, pool, simd, softmax_code
from shiftsearch.backends.cpu.attend_rows import EVERYWHERE, Band, Codes, Found, Numbers, Scratch, Sizes
from shiftsearch.backends.cpu.margin import Margined, margined
from shiftsearch.backends.cpu.memory import aligned
from shiftsearch.backends.cpu.search import task_of
from shiftsearch.backends.cpu.windows import TILE, Task, Windows, room_for, windows_of_flow
from shiftsearch.threads import get_num_threads

_BAND = 16  # rows at least: every band looks at all queries of some frames
_FRAMES = 2**22  # bytes: so many frames of k and v are in memory, and those that one frame looks at at least
_ROWS = 2**17  # bytes: so many rows of a video each thread has in memory, and those of one row of tiles at least


class _Call:
    """A call, and what it has in memory of a head."""

    def __init__(self, spec: Any, q: Native, k: Native, v: Native, flow: Native | None):
        B, T, C, H, W = k.shape
        self.heads, self.dtype, self.batch, self.spec = spec.heads, k.dtype, B, spec
        size = T, T, C // spec.heads, H, W
        self.task: Task = task_of(spec, spec.patches(), size, spec.search_slots(), False, k.dtype.name)
        self.of_keys = margined(1, H, W, C // spec.heads, 0, 0, True)
        self.of_values = margined(1, H, W, v.shape[2] // spec.heads, 0, 0, True)
        shape = (B, 1, T, 0, 2, self.task.rows, self.task.columns)
        self.flow = np.zeros(shape, np.float32) if flow is None else flow
        self.order, self.turn = frame_order(T, spec.radius), margin_code.build_turn(k.dtype.name)
        self.turn_back = margin_code.build_turn(k.dtype.name, watches=True)
        self.tile_rows = -(-self.task.rows // TILE)
        row = max(self.of_keys.row, self.of_values.row) * k.dtype.itemsize
        self.most = max(1, _ROWS // (TILE * self.task.stride * row))  # rows of tiles
        pairs = _FRAMES // (row * H * 2)  # of frames of k and v
        self.held = min(T, max(self.order.shape[1], pairs))
        self.added = min(T, max(1, pairs // 2))  # beside as many frames of sums
        queries = T * self.task.rows * self.task.columns
        self.cost = queries * self.task.slots * self.task.each * (self.of_keys.channels + self.of_values.channels)

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

    def head(self, video: Native, b: int, g: int) -> Native:
        channels = video.shape[2] // self.heads
        return video[b, :, g * channels : (g + 1) * channels]

    def reach(self, k: Native, v: Native) -> Iterator[tuple[range, Native, Native]]:
        """Yield frames, a few at a time, with memory of the k and v that they look at, which follow one another."""
        kinds, here = (self.of_keys, self.of_values), set[int]()
        at_k, at_v = (aligned(self.held * kind.size, self.dtype) for kind in kinds)
        few = self.held if self.held == self.task.frames else self.held - self.order.shape[1] + 1
        for t in range(0, self.task.frames, few):
            frames = set(self.order[t : t + few].flat)
            for f in frames - here:
                for video, kind, memory in zip((k, v), kinds, (at_k, at_v), strict=True):
                    self.load(memory, video, kind, f, self.held)
            here = frames
            yield range(t, min(t + few, self.task.frames)), at_k, at_v

    def load(self, memory: Native, video: Native, kind: Margined, f: int, held: int) -> None:
        margin.load_into(_frame_of(memory, kind, f, held), video[f], kind, 1, 0, turn=self.turn)

    def store(self, memory: Native, video: Native, kind: Margined, f: int, held: int) -> None:
        nonfinite = np.zeros(1, np.int32)
        margin.store(_frame_of(memory, kind, f, held), kind, video[f], 1, 0, nonfinite, turn=self.turn_back)

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

    def sizes(self, factor: float, held: int) -> Sizes:
        return Sizes(self.of_values.channels, factor, self.spec.skip == "self", held, 0)

    def run(self, work: _Work, band: Band, stop: Native, first: int, last: int) -> None:
        """Call `work` for tile rows first..last, counted through all frames, some at a time."""
        each, room = TILE * self.task.stride, max(1, min(last - first, self.most))
        windows, scratch = room_for(room * TILE * work.task.columns * work.task.slots), self.scratch()
        q, grad, out = (self.room(rows, room * each) for rows in (work.q, work.grad, work.out))
        read, found = work.read._replace(q=q, grad=grad), work.found._replace(q=out)
        for begin, end in self.parts(first, last):
            t, top = divmod(begin, self.tile_rows)
            pixels = top * each, min((top + end - begin) * each, self.task.height)
            windows_of_flow(begin, end, work.flow, self.order, work.task, windows)
            if not (_is_all(band, work.task) or _touches(windows, band, top, end - begin, work.task)):
                continue
            for memory, rows in ((q, work.q), (grad, work.grad)):
                if rows is not None:
                    margin.load_rows(memory, rows.video[t], rows.kind, *pixels, stop, turn=self.turn)
            out.fill(0)
            sizes = work.sizes._replace(top=top * TILE)
            work.kernel(read, found, windows, work.task, sizes, work.codes, scratch, band, stop, begin, end)
            if work.out is not None:
                margin.store_rows(out, work.out.kind, work.out.video[t], *pixels, stop, turn=self.turn_back)

    def parts(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield parts of first..last that have room in memory, each of one frame; an empty one if there is nothing."""
        begin = first
        while begin < last:
            end = min(last, begin + self.most, (begin // self.tile_rows + 1) * self.tile_rows)
            yield begin, end
            begin = end
        if first == last:
            yield first, last

    def room(self, rows: _Rows | None, count: int) -> Native:
        return aligned(0 if rows is None else count * rows.kind.row, self.dtype)

    def of_queries(self, work: _Work, frames: range) -> None:
        def some(stop, first, last):
            self.run(work, EVERYWHERE, stop, *(frames[0] * self.tile_rows + unit for unit in (first, last)))

        pool.spread(some, len(frames) * self.tile_rows, self.cost * len(frames) / self.task.frames)

    def of_bands(self, work: _Work, frames: range) -> None:
        """Let bands of frames of k and v go through the queries of all frames that look at them."""
        height = self.task.height
        bands = max(1, min(-(-get_num_threads() // len(frames)), height // _BAND))
        slots = [(t, s) for t in range(self.task.frames) for s in range(self.task.first_slot, self.order.shape[1])]

        def some_bands(stop, first, last):
            for unit in range(first, last):
                f, number = frames[unit // bands], unit % bands
                band = Band(number * height // bands, (number + 1) * height // bands)
                for t, s in slots:
                    if self.order[t, s] == f:
                        self.run(work.at_slot(s), band, stop, t * self.tile_rows, (t + 1) * self.tile_rows)
            if first == last:  # compiles
                self.run(work, EVERYWHERE, stop, 0, 0)

        pool.spread(some_bands, len(frames) * bands, 2 * self.cost * len(frames) / self.task.frames)


def _is_all(band: Band, task: Task) -> bool:
    return band.first <= 0 and band.last >= task.height


def _touches(windows: Windows, band: Band, top: int, count: int, task: Task) -> bool:
    """Return whether a window of `count` tile rows from `top` on may have a row of a band."""
    first, last = top * TILE, min((top + count) * TILE, task.rows)
    moves = windows.dy[: (last - first) * task.columns * task.slots]
    highest = first * task.stride + moves.min()
    lowest = (last - 1) * task.stride + moves.max() + (task.down - 1) * task.whole_step
    return bool(highest < band.last and lowest >= band.first)


def _frame_of(memory: Native, kind: Margined, f: int, held: int) -> Native:
    return memory[f % held * kind.size :][: kind.size]


class _Rows(NamedTuple):
    """A head of a video (T, C, H, W), of which each thread has some rows in memory."""

    video: Native
    kind: Margined


class _Work(NamedTuple):
    """A kernel with what all its threads share."""

    kernel: Any
    task: Task
    flow: Native
    sizes: Sizes
    codes: Codes
    read: Numbers
    found: Found
    q: _Rows
    grad: _Rows | None = None
    out: _Rows | None = None  # what queries get

    def at_slot(self, slot: int) -> _Work:
        """Return the same for one frame of those that a frame looks at."""
        return self._replace(task=self.task._replace(slots=1, first_slot=slot))


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


def _forward_of_head(
    call: _Call, videos: tuple[Native, ...], results: tuple[Native, ...], factor: float, b: int, g: int
) -> None:
    (q, k, v), out, nothing = (call.head(video, b, g) for video in videos), results[0], np.empty(0, call.dtype)
    sizes, codes = call.sizes(factor, call.held), call.codes(known=False)
    found = Found(nothing, nothing, nothing, nothing)
    from_q, to_out = _Rows(q, call.of_keys), _Rows(call.head(out, b, g), call.of_values)
    for frames, at_k, at_v in call.reach(k, v):
        read = Numbers(nothing, at_k, at_v, nothing, results[1][b, g].reshape(-1), nothing)
        work = _Work(attend_rows.attend, call.task, call.flow_of(b, g), sizes, codes, read, found, from_q, out=to_out)
        call.of_queries(work, frames)


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


# What is in memory for the gradients by queries is gone before that of keys and values: a function each sees to that.
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
    heads, to = ([call.head(video, b, g) for video in some] for some in (videos, grads))
    sums = np.ascontiguousarray(sums[b, g]).reshape(-1)
    of_queries, flow = (sums, np.empty(sums.size // 2, call.dtype)), call.flow_of(b, g)
    _backward_to_queries(call, heads, of_queries, to[0], products[b, g].reshape(-1), factor, flow)
    _backward_to_keys(call, heads, of_queries, to[1:], factor, flow)


def _backward_to_queries(
    call: _Call,
    videos: list[Native],
    of_queries: tuple[Native, Native],
    to_q: Native,
    products: Native,
    factor: float,
    flow: Native,
) -> None:
    (q, k, v, grad), nothing = videos, np.empty(0, call.dtype)
    sizes, codes = call.sizes(factor, call.held), call.codes(known=True)
    found = Found(nothing, nothing, nothing, products)
    rows = _Rows(q, call.of_keys), _Rows(grad, call.of_values), _Rows(to_q, call.of_keys)
    for frames, at_k, at_v in call.reach(k, v):
        read = Numbers(nothing, at_k, at_v, nothing, *of_queries)
        call.of_queries(_Work(attend_rows.to_queries, call.task, flow, sizes, codes, read, found, *rows), frames)


def _backward_to_keys(
    call: _Call,
    videos: list[Native],
    of_queries: tuple[Native, Native],
    to: list[Native],
    factor: float,
    flow: Native,
) -> None:
    (q, k, v, grad), nothing = videos, np.empty(0, call.dtype)
    kinds, sizes, codes = (call.of_keys, call.of_values), call.sizes(factor, call.added), call.codes(known=True)
    at_k, at_v, to_k, to_v = (aligned(call.added * kind.size, call.dtype) for kind in (*kinds, *kinds))
    read, found = Numbers(nothing, at_k, at_v, nothing, *of_queries), Found(nothing, to_k, to_v, nothing)
    rows = _Rows(q, call.of_keys), _Rows(grad, call.of_values)
    work = _Work(attend_rows.to_keys, call.task, flow, sizes, codes, read, found, *rows)
    for first in range(0, call.task.frames, call.added):
        frames = range(call.task.frames)[first : first + call.added]
        for f in frames:
            for memory, video, kind in zip((at_k, at_v), (k, v), kinds, strict=True):
                call.load(memory, video, kind, f, call.added)
        for sums in (to_k, to_v):
            sums.fill(0)
        call.of_bands(work, frames)
        for f in frames:
            for sums, video, kind in zip((to_k, to_v), to, kinds, strict=True):
                call.store(sums, video, kind, f, call.added)
