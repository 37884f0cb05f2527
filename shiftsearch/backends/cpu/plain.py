"""search by plain loops, candidate by candidate: what vector code does not cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shiftsearch.backends.cpu.choose import Options, Results, finish
from shiftsearch.backends.cpu.jit import helper, inline, kernel
from shiftsearch.backends.cpu.memory import get, pointers, put, stopped
from shiftsearch.backends.cpu.patch import Form, lay, lay_query, pair, product, read, subtract, workspace
from shiftsearch.backends.cpu.visit import Clip, frame_of, read_query
from shiftsearch.backends.cpu.windows import TILE, Query, Task, Windows, first_of, position, window_at

if TYPE_CHECKING:
    from shiftsearch.backends.cpu.search import Codes, Scratch


@helper
def _distance(k, frame, x, work, p):
    """Return the distance of the patch of the query and that at column x of a frame of k, whose rows are laid."""
    lay(work.columns, x, k.columns, p, p.mirrored)
    pair(work.columns, work.query_columns, p)
    read(work.key, frame_of(k, frame), work.rows, work.columns, p)
    if not p.l2:
        return -product(work.query, work.key, work.rows, work.columns, p)
    subtract(work.query, work.key, work.rows, work.columns, p)
    return product(work.key, work.key, work.rows, work.columns, p)


@inline
def _score_candidate(k, number, query, windows, task, cells, work, p, scores):
    first = query.at + get(cells, 3 * number)
    window = window_at(windows, first)
    y = position(window.cy, get(cells, 3 * number + 1), window.by, task.step)
    x = position(window.cx, get(cells, 3 * number + 2), window.bx, task.step)
    if get(cells, 3 * number + 2) == 0:  # the candidates of a row of the window share the rows of their patches
        lay(work.rows, y, k.rows, p, p.mirrored)
        pair(work.rows, work.query_rows, p)
    if task.overhangs and not (0 <= y <= task.height - 1 and 0 <= x <= task.width - 1):
        put(scores, number, np.inf)
    else:
        put(scores, number, _distance(k, get(windows.frame, first), x, work, p))


@kernel()
def search_plainly(
    videos: tuple[Clip, Clip, Form],
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
    """Search tile rows first..last. videos: q and k, and the form of their patches."""
    (q, k, p), windows, scratch = pointers(videos), pointers(windows), pointers(scratch)
    results, cells = pointers(results), pointers(cells)
    tile_rows, scores, work = (task.rows + TILE - 1) // TILE, scratch.scores, workspace(scratch.workspace, p)
    for unit in range(first, last):
        t, y0 = unit // tile_rows, unit % tile_rows * TILE
        for y in range(y0, y0 + TILE if y0 + TILE < task.rows else task.rows):
            for x in range(task.columns):
                query = Query(t, y, x, first_of(unit - first, y - y0, x, task))
                lay_query(work.query_rows, y, q.rows, p)
                read_query(q, t, x, work, p)
                for number in range(task.slots * task.each):
                    if stopped(stop):
                        return
                    _score_candidate(k, number, query, windows, task, cells, work, p, scores)
                finish(scores, query, windows, task, options, codes, scratch, cells, results)
