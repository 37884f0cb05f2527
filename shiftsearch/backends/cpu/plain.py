"""search by plain loops, candidate by candidate: what vector code does not cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shiftsearch.backends.cpu.choose import Options, Results, finish
from shiftsearch.backends.cpu.grid import pixel
from shiftsearch.backends.cpu.jit import helper, inline, kernel
from shiftsearch.backends.cpu.simd import after, get, pointers, put, stopped
from shiftsearch.backends.cpu.windows import TILE, Query, Task, Windows, first_of, position, window_at

if TYPE_CHECKING:
    from shiftsearch.backends.cpu.search import Codes, Scratch


@inline
def _pixel(t, y, x, H, W, C, zeros):
    """Return where the channels of a pixel begin in [T, row, column, channel], -1 outside a border of zeros."""
    y, x = pixel(y, H, not zeros), pixel(x, W, not zeros)
    return ((t * H + y) * W + x) * C if y >= 0 and x >= 0 else -1


@helper
def _pair(q, k, k00, k01, k10, k11, fy, fx, C, dot):
    """Return the distance of a pixel of q and a bilinear sample of k; corners at -1 are empty."""
    total = 0.0
    for c in range(C):
        value = 0.0
        if k00 >= 0:
            value += (1 - fy) * (1 - fx) * get(k, k00 + c)
        if k01 >= 0:
            value += (1 - fy) * fx * get(k, k01 + c)
        if k10 >= 0:
            value += fy * (1 - fx) * get(k, k10 + c)
        if k11 >= 0:
            value += fy * fx * get(k, k11 + c)
        if dot:
            total -= get(q, c) * value
        else:
            total += (get(q, c) - value) * (get(q, c) - value)
    return total


@helper
def _distance(q, k, t, y, x, f, py, px, task):
    """Return the distance of the patches at pixel (y, x) of q and place (py, px) of frame f of k."""
    C, H, W, total = task.channels, task.height, task.width, 0.0
    iy, ix = np.int64(np.floor(py)), np.int64(np.floor(px))
    fy, fx = py - iy, px - ix
    for m in range(task.patch):
        uy = (m - task.patch // 2) * task.dilation
        for n in range(task.patch):
            ux = (n - task.patch // 2) * task.dilation
            q_at = _pixel(t, y + uy, x + ux, H * task.scale, W * task.scale, C, task.zeros)
            k00 = _pixel(f, iy + uy, ix + ux, H, W, C, task.zeros)
            k01, k10, k11 = -1, -1, -1  # a corner without weight is not there
            if fx > 0:
                k01 = _pixel(f, iy + uy, ix + ux + 1, H, W, C, task.zeros)
            if fy > 0:
                k10 = _pixel(f, iy + uy + 1, ix + ux, H, W, C, task.zeros)
            if fy > 0 and fx > 0:
                k11 = _pixel(f, iy + uy + 1, ix + ux + 1, H, W, C, task.zeros)
            if q_at >= 0 and (k00 >= 0 or k01 >= 0 or k10 >= 0 or k11 >= 0):
                total += _pair(after(q, q_at), k, k00, k01, k10, k11, fy, fx, C, task.dot)
    return total


@inline
def _candidate_score(q, k, number, query, windows, task, cells):
    at = query.at + get(cells, 3 * number)
    window, apart = window_at(windows, at), task.stride * task.scale
    py = position(window.cy, get(cells, 3 * number + 1), window.by, task.step)
    px = position(window.cx, get(cells, 3 * number + 2), window.bx, task.step)
    if task.overhangs and not (0 <= py <= task.height - 1 and 0 <= px <= task.width - 1):
        return np.inf
    return _distance(q, k, query.t, query.y * apart, query.x * apart, get(windows.frame, at), py, px, task)


@kernel()
def search_plainly(
    videos: tuple[np.ndarray, np.ndarray],
    windows: Windows,
    task: Task,
    options: Options | None,
    codes: Codes,
    scratch: Scratch,
    cells: np.ndarray,
    results: Results,
    stop: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Search tile rows first..last. videos: q and k, [T, row, column, channel]."""
    (q, k), windows, scratch = pointers(videos), pointers(windows), pointers(scratch)
    results, cells = pointers(results), pointers(cells)
    tile_rows, scores = (task.rows + TILE - 1) // TILE, scratch.scores
    for unit in range(first, last):
        t, y0 = unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                query = Query(t, y, x, first_of(unit - first, y - y0, x, task))
                for number in range(task.slots * task.window * task.window):
                    if stopped(stop):
                        return
                    put(scores, number, _candidate_score(q, k, number, query, windows, task, cells))
                finish(scores, query, windows, task, options, codes, scratch, cells, results)
