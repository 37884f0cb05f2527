"""Patches at whole places, by vector code: scores, weighted sums and their gradients where offsets are integers.

Videos are copied to memory with a margin, channels last, so that a row of any patch is one run of patch * channels
numbers, whatever the border. A query adds up all its patches in registers. What adds to a margin is folded back at
the end. Patches of dilated pixels, and squared differences where a border is empty, are left to `places`.

Threads share the videos out among them: each adds only to its own part of a gradient, and to every number in
the order of queries and kept candidates. A number is rounded the same whether both gradients are computed at once
or not, so results depend neither on the number of threads nor on that.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch.backends.cpu import micro_places as micro
from shiftsearch.backends.cpu import pool, simd
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.simd import after, aligned, get, pointer, put, stopped
from shiftsearch.backends.cpu.windows import mirror_index

_LEAST_ROWS = 32  # of a thread's part of a frame: patches that lie across parts cost more
_LONG = 1 << 26  # multiply-adds that nobody interrupts
_LINE = 16  # numbers in a cache line, or more


# --- videos with a margin -------------------------------------------------------------------------
class Video(NamedTuple):
    """One head of a video in memory with a margin, [frame, row, column, channel]."""

    frames: int
    height: int
    width: int
    channels: int
    before: int  # pixels of margin above and left
    behind: int  # below and right
    mirrored: bool  # or empty
    rows: int  # of a frame, with its margin
    row: int  # numbers from row to row

    @property
    def size(self):
        return self.frames * self.rows * self.row


def _video(frames, channels, height, width, before, behind, mirrored) -> Video:
    margin = before + behind
    return Video(
        frames, height, width, channels, before, behind, mirrored, height + margin, (width + margin) * channels
    )


@inline
def _margin(number, before, n):
    """Position, in pixels from the frame's first, of the pixel of a margin with this number."""
    return number - before if number < before else n + number - before


@inline
def _fold(memory, to, at, n):
    """memory[to:] += memory[at:]"""
    for e in range(n):
        put(memory, to + e, get(memory, to + e) + get(memory, at + e))


@kernel()
def _fill(given, out, code, v, all_channels, first_channel, stop, first, last):
    """Rows first..last of a video in memory, counted through all frames, from `given` [frame, channel, row, column]."""
    given, out = pointer(given), pointer(out)
    for unit in range(first, last):
        if stopped(stop):
            return
        t, y = unit // v.rows, unit % v.rows - v.before
        if not v.mirrored and (y < 0 or y >= v.height):
            continue
        at = ((t * all_channels + first_channel) * v.height + mirror_index(y, v.height)) * v.width
        to = unit * v.row + v.before * v.channels
        micro.turn(code, given, at, out, to, v.channels, v.width, v.height * v.width, v.channels)
        if v.mirrored:
            for number in range(v.before + v.behind):
                x = _margin(number, v.before, v.width)
                for c in range(v.channels):
                    put(out, to + x * v.channels + c, get(out, to + mirror_index(x, v.width) * v.channels + c))


@kernel()
def _empty(sums, out, code, v, all_channels, first_channel, endless, stop, first, last):
    """The transpose: rows of `out`, counted through all frames, from sums in memory, whose mirrored margin is folded in.

    `endless` gets 1 if any of them is not finite.
    """
    sums, out, endless = pointer(sums), pointer(out), pointer(endless)
    for unit in range(first, last):
        if stopped(stop):
            return
        t, y = unit // v.height, unit % v.height
        start = t * v.rows * v.row
        at = start + (y + v.before) * v.row
        here = at + v.before * v.channels
        if v.mirrored:
            for number in range(v.before + v.behind):
                other = _margin(number, v.before, v.height)
                if mirror_index(other, v.height) == y:
                    _fold(sums, at, start + (other + v.before) * v.row, v.row)
            for number in range(v.before + v.behind):
                x = _margin(number, v.before, v.width)
                _fold(sums, here + mirror_index(x, v.width) * v.channels, here + x * v.channels, v.channels)
        to = ((t * all_channels + first_channel) * v.height + y) * v.width
        if micro.turn(code, sums, here, out, to, v.width, v.channels, v.channels, v.height * v.width) != 0:
            put(endless, 0, 1)


# --- places ---------------------------------------------------------------------------------------
class Task(NamedTuple):
    """What the kernels need to know of one head of one clip."""

    q: Video
    k: Video
    patch: int
    stride: int
    scale: int
    t: int  # frame, row and column of the first query in the query grid
    y: int
    x: int
    frames: int  # of queries
    rows: int
    columns: int
    kept: int
    pulls: bool
    pushes: bool


class Scratch(NamedTuple):
    """What a thread needs to find the places of a row of queries."""

    columns: np.ndarray  # pixel of each place's query
    starts: np.ndarray  # where its patch begins in the memory of k; and room for one query twice
    vectors: np.ndarray


@inline
def _find_starts(offsets, row, task, code, scratch):
    """Where the patches of a row of queries begin in the memory of k."""
    v, places = task.k, task.columns * task.kept
    t, y = row // task.rows + task.t, (row % task.rows + task.y) * task.stride
    micro.find(code, offsets, 3 * row * places, scratch.columns, 0, scratch.starts, 0, scratch.vectors, 0, places, t, y,
          v.frames, v.height, v.width, v.rows, v.row, v.channels, v.before - task.patch // 2, task.patch)  # fmt: skip


@inline
def _pointers(scratch):
    return Scratch(pointer(scratch.columns), pointer(scratch.starts), pointer(scratch.vectors))


@kernel()
def _find_reach(offsets, reach, code, task, scratch, lanes, stop, first, last):
    """First and last frame, first and last beginning of a patch, for rows first..last of queries, [row, 4]."""
    offsets, reach, scratch = pointer(offsets), pointer(reach), _pointers(scratch)
    shift = task.k.before - task.patch // 2
    for row in range(first, last):
        if stopped(stop):
            return
        _find_starts(offsets, row, task, code, scratch)
        for bound in range(4):
            found = np.int64(get(scratch.vectors, (3 + bound) * lanes))
            for lane in range(1, lanes):
                other = np.int64(get(scratch.vectors, (3 + bound) * lanes + lane))
                found = max(found, other) if bound % 2 else min(found, other)
            put(reach, 4 * row + bound, found + shift * (bound // 2))


class _Part(NamedTuple):
    """Rows top..bottom of frames first..last, in memory."""

    first: int
    last: int
    top: int
    bottom: int


@inline
def _part(number, parts, v):
    i, j, n, m = number // parts[1], number % parts[1], parts[0], parts[1]
    return _Part(i * v.frames // n, (i + 1) * v.frames // n, j * v.rows // m, (j + 1) * v.rows // m)


@inline
def _within(reach, row, part, task):
    """Whether the patches of a row of queries touch a part of k, and whether nothing else."""
    f0, f1 = get(reach, 4 * row), get(reach, 4 * row + 1)
    top, bottom = get(reach, 4 * row + 2), get(reach, 4 * row + 3) + task.patch
    touched = f0 < part.last and f1 >= part.first and top < part.bottom and bottom > part.top
    return touched, f0 >= part.first and f1 < part.last and top >= part.top and bottom <= part.bottom


@inline
def _add_weighted(q, grad_q, at_q, k, grad_k, at_k, c, at_c, code, rows, task, starts, found, weights):
    """One query without its pairs of weight 0."""
    m = 0
    for n in range(task.kept):
        weight = get(c, at_c + n)
        if weight != 0:
            put(found, m, get(starts, n))
            put(weights, m, weight)
            m += 1
    micro.add(code, q, at_q, grad_q, at_q, k, at_k, grad_k, at_k, weights, 0, found, 0, found, 0, 1, m, rows, 0,
         task.q.row, task.k.row)  # fmt: skip


@inline
def _add_across(
    q, grad_q, at_q, k, grad_k, c, at_c, code, r0, r1, part, task, starts, found, weights, spare_q, spare_k
):
    """One query whose patches lie across parts, row by row: what falls on other parts goes to spare memory."""
    v = task.k
    for r in range(task.patch):
        m, mine = 0, r0 <= r < r1
        for n in range(task.kept):
            if get(c, at_c + n) == 0:
                continue
            start = get(starts, n) + r * v.row
            line = start // v.row
            frame, down = line // v.rows, line % v.rows
            theirs = part.first <= frame < part.last and part.top <= down < part.bottom
            if theirs or (mine and task.pulls):
                put(found, m, start)
                put(found, task.kept + m, start if theirs else spare_k)
                put(weights, m, get(c, at_c + n))
                m += 1
        to_q = at_q + r * task.q.row
        micro.add(code, q, to_q, grad_q, to_q if mine else spare_q, k, 0, grad_k, 0, weights, 0, found, 0,
             found, task.kept, 1, m, 1, 0, 0, 0)  # fmt: skip


@inline
def _spare(run):
    """Numbers that a thread may write behind a gradient: a run, in no cache line with another thread."""
    return (run // _LINE + 2) * _LINE


@inline
def _at_once(task):
    """How many queries to compare before asking whether to stop: all of a row, unless their patches are very large."""
    return max(1, _LONG // (task.kept * task.patch * task.patch * task.q.channels))


@kernel()
def _add_parts(
    q, grad_q, k, grad_k, c, offsets, reach, codes, parts, task, scratch, weights, sparse, stop, first, last
):
    """Parts first..last of the gradients, or of one of them; if `sparse`, nothing is multiplied by weights of 0."""
    q, grad_q, k, grad_k, c = pointer(q), pointer(grad_q), pointer(k), pointer(grad_k), pointer(c)
    offsets, reach, weights, scratch = pointer(offsets), pointer(reach), pointer(weights), _pointers(scratch)
    (find, code), starts = codes, scratch.starts
    found = after(starts, task.columns * task.kept)
    step, spare = task.stride * task.scale * task.q.channels, _spare(task.patch * task.q.channels)
    at_once = _at_once(task)
    size_q, size_k = task.q.frames * task.q.rows * task.q.row, task.k.frames * task.k.rows * task.k.row
    for unit in range(first, last):
        mine, theirs = _part(unit, parts, task.q), _part(unit, parts, task.k)
        for row in range(task.frames * task.rows):
            if stopped(stop):
                return
            t, y = row // task.rows + task.t, (row % task.rows + task.y) * task.stride * task.scale
            r0 = mine.top - y if mine.top > y else 0
            r1 = mine.bottom - y if mine.bottom - y < task.patch else task.patch
            owned = task.pulls and mine.first <= t < mine.last and r0 < r1
            touched, inside = task.pushes, True
            if touched and parts[0] * parts[1] > 1:
                touched, inside = _within(reach, row, theirs, task)
            if not (owned or touched):
                continue
            if not owned:
                r0, r1 = (0, 0) if task.pulls else (0, task.patch)
            _find_starts(offsets, row, task, find, scratch)
            at_q = (t * task.q.rows + y) * task.q.row + task.x * step
            at_c = row * task.columns * task.kept
            if not task.pushes or (inside and r1 - r0 == task.patch):
                at_q, at_k = at_q + r0 * task.q.row, r0 * task.k.row
                for x in range(0, task.columns, 1 if sparse else at_once):
                    if stopped(stop):
                        return
                    here, place = at_q + x * step, x * task.kept
                    if sparse:
                        _add_weighted(q, grad_q, here, k, grad_k, at_k, c, at_c + place, code, r1 - r0, task,
                                      after(starts, place), found, weights)  # fmt: skip
                        continue
                    micro.add(code, q, here, grad_q, here, k, at_k, grad_k, at_k, c, at_c + place,
                              starts, place, starts, place, min(at_once, task.columns - x), task.kept, r1 - r0, step,
                              task.q.row, task.k.row)  # fmt: skip
                continue
            for x in range(task.columns):
                if stopped(stop):
                    return
                _add_across(q, grad_q, at_q + x * step, k, grad_k, c, at_c + x * task.kept, code, r0, r1, theirs, task,
                            after(starts, x * task.kept), found, weights, size_q + unit * spare, size_k + unit * spare)  # fmt: skip


@kernel()
def _compare_rows(q, k, offsets, out, codes, task, scratch, sums, endless, stop, first, last):
    """Scores of the rows first..last of queries, counted through all frames; `endless` gets 1 if any is not finite."""
    q, k, offsets, out, endless = pointer(q), pointer(k), pointer(offsets), pointer(out), pointer(endless)
    sums, scratch, (find, code) = pointer(sums), _pointers(scratch), codes
    step, at_once = task.stride * task.scale * task.q.channels, _at_once(task)
    for row in range(first, last):
        t, y = row // task.rows + task.t, (row % task.rows + task.y) * task.stride * task.scale
        _find_starts(offsets, row, task, find, scratch)
        at_q = (t * task.q.rows + y) * task.q.row + task.x * step
        for x in range(0, task.columns, at_once):
            if stopped(stop):
                return
            place = x * task.kept
            found = micro.compare(
                code, q, at_q + x * step, k, 0, scratch.starts, place, out, row * task.columns * task.kept + place, sums, 0,
                min(at_once, task.columns - x), task.kept, task.patch, step, task.q.row, task.k.row,
            )  # fmt: skip
            if found != 0:
                put(endless, 0, 1)


# --- the whole ------------------------------------------------------------------------------------
def covers(offsets, p: Patches) -> bool:
    """Whether this is for these places and patches."""
    mirrored = p.border == p.query_border == "reflect"
    return offsets.dtype == np.int32 and p.dilation == 1 and (p.metric == "dot" or mirrored)


class _Clip:
    """The heads of a batch item after one another, in memory as `task` says."""

    def __init__(self, offsets, p: Patches, channels: int, size_q, size_k, dtype, *, pulls=False, pushes=False):
        """`size_q` and `size_k` are (frames, height, width)."""
        P, heads, (T, h, w, K) = p.patch, offsets.shape[1], offsets.shape[2:6]
        near = P // 2, P - 1 - P // 2
        mirrored = p.border == "reflect"
        q = _video(size_q[0], channels, *size_q[1:], *near, p.query_border == "reflect")
        k = _video(size_k[0], channels, *size_k[1:], *(near if mirrored else (P, P)), mirrored)
        self.task = Task(q, k, P, p.stride, p.scale, *p.origin, T, h, w, K, pulls, pushes)
        self.offsets, self.heads, self.dtype = offsets, heads, dtype
        self.turn, self.find = micro.build_turn(dtype.name), micro.build_find(mirrored)
        self.cost = math.prod(offsets.shape[2:6]) * P**2 * channels

    def __iter__(self):
        return np.ndindex(self.offsets.shape[:2])

    def offsets_of(self, b, g):
        return np.ascontiguousarray(self.offsets[b, g]).reshape(self.task.frames, -1)

    def load(self, video, v: Video, b, g):
        """A head of a video, with its margin."""
        out = aligned(v.size, self.dtype)
        given = np.ascontiguousarray(video[b]).reshape(v.frames, -1)
        fill = partial(_fill, given, out, self.turn, v, v.channels * self.heads, v.channels * g)
        pool.spread(fill, v.frames * v.rows, 4 * v.size)
        return out

    def store(self, sums, v: Video, out, b, g, endless):
        """The transpose, see `_empty`."""
        turn = micro.build_turn(self.dtype.name, watches=True)
        empty = partial(_empty, sums, out[b].reshape(-1), turn, v, v.channels * self.heads, v.channels * g, endless)
        pool.spread(empty, v.frames * v.height, 4 * v.size)

    def parts(self):
        """Parts of frames, and of rows, that the videos are shared out in."""
        workers = pool.threads()
        if workers == 1:
            return 1, 1
        of_rows = max(1, min(workers, min(self.task.q.height, self.task.k.height) // _LEAST_ROWS))
        return min(-(-workers // of_rows), self.task.k.frames), of_rows

    def scratch(self) -> Scratch:
        task, lanes = self.task, simd.lanes("float32")
        places = task.columns * task.kept
        columns = np.zeros(places + lanes, np.int32)
        columns[:places] = np.repeat((np.arange(task.columns) + task.x) * task.stride, task.kept)
        return Scratch(columns, np.empty(places + max(lanes, 2 * task.kept), np.int64), np.empty(7 * lanes, np.int32))

    def reach(self, offsets):
        """See `_find_reach`."""
        task, lanes = self.task, simd.lanes("float32")
        rows = task.frames * task.rows
        reach = np.empty(4 * rows, np.int64)
        find = lambda *part: _find_reach(offsets, reach, self.find, task, self.scratch(), lanes, *part)  # noqa: E731
        pool.spread(find, rows, offsets.size)
        return reach


def gradients(q, k, c, offsets, p: Patches, shape_q, shape_k, *, pulls: bool, pushes: bool):
    """d sum(c * correlate) / dq if `pulls` and / dk if `pushes`; with "dot", the other video may be None.

    Vector code multiplies by all weights, also by 0, and by what is outside of a frame, which is 0. 0 times what is not
    finite is no number, and a sum stays none: finite results are right, others are computed again without weights of 0.
    None is for where a weight that is not finite may meet an empty border.
    """
    given = q, k, c, offsets, p, shape_q, shape_k, pulls, pushes
    found, finite = _gradients(*given, sparse=False)
    if finite:
        return found
    empty = (pulls and p.border == "zeros") or (pushes and p.query_border == "zeros")
    if empty and not np.isfinite(c).all():
        return None
    return _gradients(*given, sparse=True)[0] if (c == 0).any() else found


def _gradients(q, k, c, offsets, p: Patches, shape_q, shape_k, pulls: bool, pushes: bool, *, sparse: bool):
    """Both, and whether they are finite."""
    dtype, channels = (k if q is None else q).dtype, shape_q[2] // offsets.shape[1]
    clip = _Clip(offsets, p, channels, shape_q[1:2] + shape_q[3:], shape_k[1:2] + shape_k[3:],
                 dtype, pulls=pulls, pushes=pushes)  # fmt: skip
    task, parts = clip.task, clip.parts()
    codes, count = (
        (clip.find, micro.build_add(dtype.name, p.metric, pulls, pushes, channels, p.patch)),
        parts[0] * parts[1],
    )
    nothing = np.empty(0, dtype)
    out_q, out_k = np.empty(shape_q if pulls else 0, dtype), np.empty(shape_k if pushes else 0, dtype)
    endless = np.zeros(1, np.int32)
    l2, spare = p.metric == "l2", count * _spare.py_func(p.patch * channels)
    for b, g in clip:
        queries = clip.load(q, task.q, b, g) if l2 or pushes else nothing
        keys = clip.load(k, task.k, b, g) if l2 or pulls else nothing
        grad_q = aligned(task.q.size + spare, dtype) if pulls else nothing
        grad_k = aligned(task.k.size + spare, dtype) if pushes else nothing
        weights = np.ascontiguousarray(c[b, g], dtype).reshape(task.frames, -1)
        places = clip.offsets_of(b, g)
        reach = clip.reach(places) if count > 1 and pushes else np.empty(0, np.int64)

        def some_parts(stop, first, last):
            arrays = queries, grad_q, keys, grad_k, weights, places, reach  # noqa: B023
            _add_parts(
                *arrays, codes, parts, task, clip.scratch(), np.empty(task.kept, dtype), sparse, stop, first, last
            )

        pool.spread(some_parts, count, clip.cost)
        if pulls:
            clip.store(grad_q, task.q, out_q, b, g, endless)
        if pushes:
            clip.store(grad_k, task.k, out_k, b, g, endless)
    return (out_q, out_k), not endless[0]


def scores(q, k, offsets, p: Patches):
    """`definition.score`, and whether it is: what is outside of a frame is 0 here, which times some values is no number."""
    channels, dtype = q.shape[2] // offsets.shape[1], q.dtype
    empty, endless = "zeros" in (p.border, p.query_border), np.zeros(1, np.int32)
    clip = _Clip(offsets, p, channels, q.shape[1:2] + q.shape[3:], k.shape[1:2] + k.shape[3:], dtype)
    task, codes = clip.task, (clip.find, micro.build_compare(dtype.name, p.metric, channels, p.patch, empty))
    out, lanes = np.empty(offsets.shape[:-1], dtype), simd.lanes(dtype.name)
    for b, g in clip:
        arrays = clip.load(q, task.q, b, g), clip.load(k, task.k, b, g), clip.offsets_of(b, g), out[b, g].reshape(-1)

        def some_rows(stop, first, last):
            sums = aligned((task.kept + lanes) * lanes, dtype)
            _compare_rows(*arrays, codes, task, clip.scratch(), sums, endless, stop, first, last)  # noqa: B023

        pool.spread(some_rows, task.frames * task.rows, clip.cost)
    return out, not endless[0]
