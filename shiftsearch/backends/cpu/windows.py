"""Windows: where they lie for each query, and the candidates in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import MOST
from shiftsearch.backends.cpu.grid import frame_of_place, mirror
from shiftsearch.backends.cpu.jit import exact, inline, kernel
from shiftsearch.backends.cpu.memory import get, pointers, put

TILE = 8  # queries per side of a tile


class Task(NamedTuple):
    """The sizes and options of a search of one head of one clip."""

    frames: int  # of queries
    frames_of_k: int
    height: int
    width: int
    rows: int  # of queries
    columns: int
    slots: int
    first_slot: int  # 1 leaves out the own frame
    down: int  # candidates of a window
    across: int
    each: int  # all of them
    above: int  # rows before its centre, unless it slides
    left: int  # and columns
    patch: int
    stride: int  # pixels of k from query to query
    scale: int  # pixels of q for one of k
    dilation: int
    channels: int
    kept: int
    step: float
    whole_step: int  # the same, unless it is a fraction
    dot: bool
    zeros: bool
    slide: bool
    subpixel: bool
    seeds: bool
    overhangs: bool  # windows may stick out of the frame
    phases_down: int  # candidates within one pixel; all of them if none are whole pixels apart
    phases_across: int
    part_down: int  # candidates that are whole pixels apart, and compared at a time
    part_across: int
    wide: bool  # vectors lie along the channels of a pixel


@exact
def _centre(at, moved, n, task):
    """Return the centre of the window of a query at pixel `at`, along an axis of n pixels."""
    if not abs(moved) <= MOST:
        moved = 0.0 if not np.isfinite(moved) else MOST if moved > 0 else -MOST
    if not task.subpixel:
        moved = np.rint(moved)
    return at + moved if task.zeros else mirror(at + moved, n)[0]


@exact
def _index_of_centre(centre, n, window, usual, task):
    """Return `window_offset`: how many candidates come before the centre, of `window` along an axis."""
    last = window - 1
    if not task.slide or (centre >= task.step * usual and centre + task.step * (last - usual) <= n - 1):
        return usual
    before = np.float64(usual)
    if centre - task.step * usual < 0:
        before = np.floor(centre / task.step)
    if centre + task.step * (last - before) > n - 1:
        before = np.ceil((centre - (n - 1)) / task.step + last)
    before = before if before > 0 else 0.0
    return np.int64(before if before < last else last)


@exact
def position(centre: float, i: int, before: int, step: float) -> float:
    """Return the position of the i-th candidate along an axis."""
    return centre + step * (i - before)


class Windows(NamedTuple):
    """The windows of some rows of tiles, in memory. Those of a query lie together, slot by slot, from `first_of`."""

    cy: np.ndarray  # centre
    cx: np.ndarray
    by: np.ndarray  # candidates before the centre, down and across
    bx: np.ndarray
    frame: np.ndarray
    dt: np.ndarray  # offset of the first candidate, rounded down
    dy: np.ndarray
    dx: np.ndarray


class Window(NamedTuple):
    """One window: its centre, and how many candidates come before it."""

    cy: float
    cx: float
    by: int
    bx: int


class Query(NamedTuple):
    """A query of the grid, and its first window."""

    t: int
    y: int
    x: int
    at: int


def room_for(n: int) -> Windows:
    """Return memory for n windows."""
    return Windows(np.empty(n), np.empty(n), *(np.empty(n, np.int32) for _ in range(6)))


@inline
def window_at(windows: Windows, at: int) -> Window:
    return Window(get(windows.cy, at), get(windows.cx, at), get(windows.by, at), get(windows.bx, at))


@inline
def first_of(u: int, a: int, x: int, task: Task) -> int:
    """Return where the windows of a query begin: row a of the u-th row of tiles, column x."""
    return ((u * TILE + a) * task.columns + x) * task.slots


@inline
def _place(windows, at, t, frame, y, x, down, across, task):
    y, x = y * task.stride, x * task.stride
    cy = _centre(np.float64(y), down, task.height, task)
    cx = _centre(np.float64(x), across, task.width, task)
    by = _index_of_centre(cy, task.height, task.down, task.above, task)
    bx = _index_of_centre(cx, task.width, task.across, task.left, task)
    put(windows.cy, at, cy)
    put(windows.cx, at, cx)
    put(windows.by, at, by)
    put(windows.bx, at, bx)
    put(windows.frame, at, frame)
    put(windows.dt, at, frame - t)
    put(windows.dy, at, np.int64(np.floor(cy)) - by * task.whole_step - y)
    put(windows.dx, at, np.int64(np.floor(cx)) - bx * task.whole_step - x)


@kernel(calls_vector_code=True)
def windows_of_flow(first: int, last: int, flow: np.ndarray, order: np.ndarray, task: Task, windows: Windows) -> None:
    """Place the windows of tile rows first..last. flow: (T, S, 2, h, w)."""
    windows = pointers(windows)
    tile_rows = (task.rows + TILE - 1) // TILE
    followed = order.shape[1] - flow.shape[1]
    for unit in range(first, last):
        t, y0 = unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                at = first_of(unit - first, y - y0, x, task)
                for s in range(task.slots):
                    slot = s + task.first_slot
                    dx = dy = 0.0
                    if slot >= followed:
                        dx = np.float64(flow[t, slot - followed, 0, y, x])
                        dy = np.float64(flow[t, slot - followed, 1, y, x])
                    _place(windows, at + s, t, order[t, slot], y, x, dy, dx, task)


@kernel(calls_vector_code=True)
def windows_of_seeds(first: int, last: int, seeds: np.ndarray, order: np.ndarray, task: Task, windows: Windows) -> None:
    """Place the windows around seeds (T, h, w, S, 3)."""
    windows = pointers(windows)
    tile_rows = (task.rows + TILE - 1) // TILE
    for unit in range(first, last):
        t, y0 = unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                at = first_of(unit - first, y - y0, x, task)
                for s in range(task.slots):
                    frame = frame_of_place(t, seeds[t, y, x, s, 0], task.frames_of_k)
                    down, across = np.float64(seeds[t, y, x, s, 1]), np.float64(seeds[t, y, x, s, 2])
                    _place(windows, at + s, t, frame, y, x, down, across, task)
