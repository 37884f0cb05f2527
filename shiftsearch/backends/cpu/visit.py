"""Visiting pairs of patches: the loops of all kernels for any place, written once, and the threads that share them.

Every output element has one owner: the row of queries whose result it is, or the band of rows of a frame that it lies in.
Only the owner adds to an element, in the order of queries and kept candidates, so results do not depend on the number
of threads or bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._types import Native
from shiftsearch.backends.cpu import patch, pool
from shiftsearch.backends.cpu.grid import frame_of_place
from shiftsearch.backends.cpu.jit import Compiled, inline, kernel
from shiftsearch.backends.cpu.layout import channels_last, copy_rows
from shiftsearch.backends.cpu.memory import Pointer, after, get, like, pointers, put, stopped
from shiftsearch.backends.cpu.patch import Frame, lay_key, lay_query, own, pair, read, workspace, write
from shiftsearch.threads import get_num_threads

_BAND = 32  # least rows: each band reads all candidates of the query rows that reach it


class Clip(NamedTuple):
    """One head of a video in memory, [frame, row, column, channel]."""

    numbers: np.ndarray
    frames: int
    rows: int
    columns: int
    row: int  # numbers from row to row


class Places(NamedTuple):
    """The places that the queries of one head keep, (frames, rows, columns, kept), and their weights, if they have any."""

    offsets: np.ndarray
    weights: np.ndarray | None
    frames: int
    rows: int
    columns: int
    kept: int


class Values(NamedTuple):
    """Patches (frames, rows, columns, kept, channels, patch, patch) as a user laid them out: memory, and its strides."""

    numbers: np.ndarray
    strides: tuple[int, ...]


def values(patches: Native) -> Values:
    """Return the patches of one head; a field of a record array is copied, as its strides are no multiples of its size."""
    if any(step % patches.itemsize for step in patches.strides):
        patches = np.ascontiguousarray(patches)
    return Values(patches, tuple(step // patches.itemsize for step in patches.strides))


class Job(NamedTuple):
    """One head of a call. What q and out are differs from primitive to primitive."""

    q: Any  # mostly a Clip
    k: Clip | None
    places: Places
    out: Any


class Here(NamedTuple):
    """A place whose patch is laid on its axes: its frame, and the signs with which it moves."""

    frame: Frame
    sign_y: float
    sign_x: float


@inline
def frame_of(clip: Clip, t: int) -> Frame:
    """Return a frame of a clip."""
    return Frame(after(clip.numbers, t * clip.rows * clip.row), clip.row)


@inline
def read_query(q: Clip, t: int, x: int, work: patch.Workspace, p: patch.Form) -> None:
    """Read the patch of a query, whose rows are laid."""
    lay_query(work.query_columns, x + p.x, q.columns, p)
    read(work.query, frame_of(q, t + p.t), work.query_rows, work.query_columns, p)


@inline
def _pair_axes(work, compares, p):
    """Leave out the samples that have no partner in the patch of the query, if there is one."""
    pair(work.rows, work.query_rows if compares else work.rows, p)
    pair(work.columns, work.query_columns if compares else work.columns, p)


@inline
def _find(job, number, t, y, x, work, compares, p):
    """Lay the axes of a place."""
    offset, k = after(job.places.offsets, 3 * number), job.k
    frame = frame_of(k, frame_of_place(t + p.t, get(offset, 0), k.frames))
    sign_y = lay_key(work.rows, get(offset, 1), y + p.y, k.rows, p)
    sign_x = lay_key(work.columns, get(offset, 2), x + p.x, k.columns, p)
    _pair_axes(work, compares, p)
    return Here(frame, sign_y, sign_x)


@inline
def _band(number, bands, height):
    """Return the first row of a band of a frame, and the one behind the last."""
    return number * height // bands, (number + 1) * height // bands


def _named(visit, *hooks):
    """Return a visitor, named after the functions that it calls: the cache on disk tells kernels apart by name."""
    visit.__name__ = visit.__qualname__ = "".join(hook.py_func.__name__ for hook in hooks)
    visit.__module__ = hooks[0].py_func.__module__
    return visit


# --- the visitors ---------------------------------------------------------------------------------
@inline
def _always(job: Job, number: int) -> bool:
    return True


def by_query(
    body: Compiled[..., None], wanted: Compiled[..., bool] = _always, *, compares: bool
) -> Callable[..., None]:
    """Return a kernel for rows of queries, counted through all frames: `body` at each place that is `wanted`.

    If it `compares`, work.query is the patch of the query, and only samples that exist on both sides are left.
    """

    def visit(job, scratch, p, stop, first, last):
        job, work, places = pointers(job), workspace(pointers(scratch), p), pointers(job).places
        for row in range(first, last):
            t, y = row // places.rows, row % places.rows
            if compares:
                lay_query(work.query_rows, y + p.y, job.q.rows, p)
            for x in range(places.columns):
                if stopped(stop):
                    return
                if compares:
                    read_query(job.q, t, x, work, p)
                for n in range(places.kept):
                    number = (row * places.columns + x) * places.kept + n
                    if wanted(job, number):
                        body(job, number, _find(job, number, t, y, x, work, compares, p), work, p)

    return kernel()(_named(visit, body, wanted))


def by_band_of_queries(body: Compiled[..., None]) -> Callable[..., None]:
    """Return a kernel for bands of rows of the queries' frames: `body` adds up work.spare, query by query."""

    def visit(job, bands, scratch, p, stop, first, last):
        job, work, places = pointers(job), workspace(pointers(scratch), p), pointers(job).places
        for unit in range(first, last):
            t = unit // bands
            top, bottom = _band(unit % bands, bands, job.out.rows)
            for y in range(places.rows):
                lay_query(work.query_rows, y + p.y, job.out.rows, p)
                if not own(work.query_rows, top, bottom, p):
                    continue
                for x in range(places.columns):
                    if stopped(stop):
                        return
                    if p.l2:
                        read_query(job.q, t, x, work, p)
                    else:
                        lay_query(work.query_columns, x + p.x, job.out.columns, p)
                    patch.clear(work.spare, p)
                    for n in range(places.kept):
                        number = ((t * places.rows + y) * places.columns + x) * places.kept + n
                        if get(places.weights, number) != 0:
                            body(job, number, _find(job, number, t, y, x, work, True, p), work, p)
                    out = frame_of(job.out, t + p.t)
                    write(out, work.query_rows, work.query_columns, work.spare, like(work.spare, 1), top, bottom, p)

    return kernel()(_named(visit, body))


def by_band_of_keys(body: Compiled[..., tuple[float, Pointer]], *, compares: bool) -> Callable[..., None]:
    """Return a kernel for bands of rows of the keys' frames, to which it adds a weight times a patch, by `body`."""

    def visit(job, reach, bands, scratch, p, stop, first, last):
        job, work, places = pointers(job), workspace(pointers(scratch), p), pointers(job).places
        reach, out = pointers(reach), job.out
        for unit in range(first, last):
            s = unit // bands
            top, bottom = _band(unit % bands, bands, out.rows)
            for row in range(places.frames * places.rows):
                t, y = row // places.rows, row % places.rows
                if not _touches(reach, row * out.frames + s, top, bottom):
                    continue
                if compares:
                    lay_query(work.query_rows, y + p.y, job.q.rows, p)
                for x in range(places.columns):
                    if stopped(stop):
                        return
                    is_read = False
                    for n in range(places.kept):
                        number = (row * places.columns + x) * places.kept + n
                        if not _find_owned(job, number, t, y, x, s, top, bottom, work, p):
                            continue
                        if compares and not is_read:
                            is_read = True
                            read_query(job.q, t, x, work, p)
                        _pair_axes(work, compares, p)
                        weight, values = body(job, number, s, work, p)
                        write(frame_of(out, s), work.rows, work.columns, values, weight, top, bottom, p)

    return kernel()(_named(visit, body))


@inline
def _find_owned(job, number, t, y, x, s, top, bottom, work, p):
    """Lay the axes of a place as far as it lies in rows top ... bottom - 1 of frame s; return whether any of it does."""
    offset, out = after(job.places.offsets, 3 * number), job.out
    if get(job.places.weights, number) == 0 or frame_of_place(t + p.t, get(offset, 0), out.frames) != s:
        return False
    lay_key(work.rows, get(offset, 1), y + p.y, out.rows, p)
    if not own(work.rows, top, bottom, p):
        return False
    lay_key(work.columns, get(offset, 2), x + p.x, out.columns, p)
    return True


@inline
def _touches(reach, number, top, bottom):
    """Return whether a row of queries may touch these rows of a frame, see `_find_reach`."""
    return get(reach, 2 * number) < bottom and get(reach, 2 * number + 1) >= top


@kernel()
def _find_reach(places, reach, frames, height, p, stop, first, last):
    """Find, for rows of queries, the first and last row of each frame that their places may touch, [row, frame, 2]."""
    places, reach = pointers(places), pointers(reach)
    above, below = p.dilation * (p.patch // 2), p.dilation * (p.patch - 1 - p.patch // 2) + 1
    for row in range(first, last):
        t, y = row // places.rows, row % places.rows
        for number in range(row * places.columns * places.kept, (row + 1) * places.columns * places.kept):
            if stopped(stop):
                return
            offset = after(places.offsets, 3 * number)
            to = 2 * (row * frames + frame_of_place(t + p.t, get(offset, 0), frames))
            middle, _ = patch.place(get(offset, 1), (y + p.y) * p.stride, height, p)
            top, bottom = math.floor(middle) - above, math.floor(middle) + below
            # rows outside the frame are mirrored into it
            put(reach, to, min(get(reach, to), max(top, 0), 2 * (height - 1) - bottom))
            put(reach, to + 1, max(get(reach, to + 1), min(bottom, height - 1), -top))


# --- heads and threads ----------------------------------------------------------------------------
class Heads:
    """The heads of a call, done one after another, and the threads that share each of them."""

    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype
    form: patch.Form
    cost: int  # multiply-adds

    def __init__(self, shape: tuple[int, ...], p: Patches, channels: int, dtype: np.dtype):
        """`shape` is that of the places of one video of queries, (batch, heads, frames, rows, columns, kept)."""
        self.shape, self.channels, self.dtype = shape, channels, dtype
        self.form = patch.form(p, channels)
        self.cost = math.prod(shape[2:]) * p.patch**2 * channels

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return np.ndindex(*self.shape[:2])

    def places(self, offsets: Native, weights: Native | None = None) -> Places:
        """Return the places of one head, (frames, rows, columns, kept)."""
        weights = None if weights is None else np.ascontiguousarray(weights).reshape(-1)
        return Places(np.ascontiguousarray(offsets).reshape(-1), weights, *self.shape[2:])

    def clip(self, video: Native, b: int, g: int) -> Clip:
        """Return the channels of one head."""
        part = channels_last(video[b, :, self._channels(g)])
        frames, rows, columns, _ = part.shape
        return Clip(part.reshape(-1), frames, rows, columns, columns * self.channels)

    def empty(self, frames: int, height: int, width: int) -> Clip:
        """Return room for sums."""
        row = width * self.channels
        return Clip(np.zeros(frames * height * row, self.dtype), frames, height, width, row)

    def put(self, clip: Clip, out: Native, b: int, g: int) -> None:
        """Write the channels of one head."""
        part = out[b, :, self._channels(g)].transpose(0, 2, 3, 1)
        copy_rows(clip.numbers.reshape(part.shape), part)

    def _channels(self, g: int) -> slice:
        return slice(g * self.channels, (g + 1) * self.channels)

    def by_query(self, kernel: Callable[..., None], job: Job) -> None:
        """Run a kernel that owns rows of queries."""
        self._run(kernel, math.prod(self.shape[2:4]), job)

    def by_band_of_queries(self, kernel: Callable[..., None], job: Job) -> None:
        """Run a kernel that owns bands of rows of job.out, in the frames of the queries."""
        bands = _bands(self.shape[2], job.out.rows)
        self._run(kernel, self.shape[2] * bands, job, bands)

    def by_band_of_keys(self, kernel: Callable[..., None], job: Job) -> None:
        """Run a kernel that owns bands of rows of job.out, in the frames of the keys."""
        bands = _bands(job.out.frames, job.out.rows)
        self._run(kernel, job.out.frames * bands, job, self._reach(job), bands)

    def _reach(self, job: Job):
        rows, out = job.places.frames * job.places.rows, job.out
        reach = np.tile(np.array([out.rows, -1], np.int32), rows * out.frames)
        pool.spread(
            partial(_find_reach, job.places, reach, out.frames, out.rows, self.form), rows, job.places.offsets.size * 3
        )
        return reach

    def _run(self, kernel, count: int, job: Job, *more) -> None:
        def some_units(stop, first, last):
            kernel(job, *more, patch.scratch(self.form, self.dtype), self.form, stop, first, last)

        pool.spread(some_units, count, self.cost)


def _bands(frames: int, height: int) -> int:
    workers = get_num_threads()
    return max(1, min(-(-3 * workers // frames) if workers > 1 else 1, height // _BAND))
