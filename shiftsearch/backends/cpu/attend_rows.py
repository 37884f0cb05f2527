"""Kernels of attention to all places of the windows: what each query of some rows gets, or adds to gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shiftsearch.backends.cpu import patches_code, softmax_code
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.memory import after, get, pointers, put, stopped
from shiftsearch.backends.cpu.windows import TILE, Query, first_of

_NOTHING, __pixel, _ITSELF = 0, 1, 2  # what a candidate is


class Codes(NamedTuple):
    """Addresses of vector code."""

    of_keys: int  # scores of q and k
    of_values: int  # and products of what arrives and v
    softmax: int
    to_q: int
    to_k: int
    to_v: int


class Numbers(NamedTuple):
    """What is read of one head: videos [frame, row, column, channel], and sums and means of queries."""

    q: np.ndarray  # rows, see `Sizes`
    k: np.ndarray  # frames
    v: np.ndarray
    grad: np.ndarray  # rows of what arrives
    sums: np.ndarray
    means: np.ndarray


class Found(NamedTuple):
    """What is written of one head: what queries get, or gradients, and the gradients by factors of each query."""

    q: np.ndarray  # rows, see `Sizes`
    k: np.ndarray
    v: np.ndarray
    products: np.ndarray


class Scratch(NamedTuple):
    """The candidates of a query: where they begin in k and v, what they are, and their numbers."""

    in_k: np.ndarray
    in_v: np.ndarray
    kinds: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    by_weights: np.ndarray
    chosen: np.ndarray  # the weights that are not 0
    starts: np.ndarray  # and where they belong
    numbers: np.ndarray  # of a softmax: factor, largest logit, sum
    vectors: np.ndarray


class Sizes(NamedTuple):
    """What the task does not say."""

    channels: int  # of a head of v
    factor: float
    leaves_self: bool
    held: int  # frames of k and v in memory: frame f is at f % held
    top: int  # row of queries that the memory of rows begins with


class Band(NamedTuple):
    """Rows first..last of k."""

    first: int
    last: int


EVERYWHERE = Band(-(2**40), 2**40)


# --- a query --------------------------------------------------------------------------------------
@inline
def _find(query, windows, task, sizes, band, at):
    """Find the candidates of a query in a band, and return how many there are."""
    n = 0
    for s in range(task.slots):
        frame = get(windows.frame, query.at + s)
        top = query.y * task.stride + get(windows.dy, query.at + s)
        left = query.x * task.stride + get(windows.dx, query.at + s)
        own = sizes.leaves_self and frame == query.t
        at_frame = frame % sizes.held * task.height
        for i in range(task.down):
            y = top + i * task.whole_step
            if not band.first <= y < band.last:
                continue
            line, inside = (at_frame + y) * task.width, 0 <= y < task.height
            for j in range(task.across):
                x = left + j * task.whole_step
                kind, pixel = __pixel, line + x
                if task.zeros and not (inside and 0 <= x < task.width):
                    kind, pixel = _NOTHING, 0
                if own and y == query.y * task.stride and x == query.x * task.stride:
                    kind = _ITSELF
                put(at.in_k, n, pixel * task.channels)
                put(at.in_v, n, pixel * sizes.channels)
                put(at.kinds, n, kind)
                n += 1
    return n


@inline
def _compare(code, q, k, starts, out, count, at):
    patches_code.compare(code, q, k, starts, out, at.vectors, 1, count, 1, 0, 0, 0)


@inline
def _weigh(query, count, task, sizes, codes, read, at):
    """Score the candidates of a query, and find their weights."""
    mine = after(read.q, _pixel(query, task, sizes) * task.channels)
    _compare(codes.of_keys, mine, read.k, at.in_k, at.scores, count, at)
    if task.zeros or sizes.leaves_self:
        for n in range(count):
            if get(at.kinds, n) == _NOTHING:
                put(at.scores, n, 0.0)
            elif get(at.kinds, n) == _ITSELF:
                put(at.scores, n, np.nan)
    put(at.numbers, 0, sizes.factor)
    softmax_code.softmax(codes.softmax, at.scores, at.weights, at.numbers, count)


@inline
def _differentiate(query, count, task, sizes, codes, read, at):
    """Find the gradients of the weights of candidates."""
    number = _number(query, task)
    put(at.numbers, 1, get(read.sums, 2 * number))
    put(at.numbers, 2, get(read.sums, 2 * number + 1))
    _weigh(query, count, task, sizes, codes, read, at)
    mine = after(read.grad, _pixel(query, task, sizes) * sizes.channels)
    _compare(codes.of_values, mine, read.v, at.in_v, at.by_weights, count, at)
    for n in range(count if task.zeros else 0):
        if get(at.kinds, n) == _NOTHING:
            put(at.by_weights, n, 0.0)


@inline
def _mean(count, at):
    """Return the weighted mean of the gradients of the weights, whose own sum is 1 but for rounding."""
    total = of_all = 0.0
    for n in range(count):
        weight = get(at.weights, n)
        if weight != 0:
            total += weight * get(at.by_weights, n)
            of_all += weight
    return total / of_all


@inline
def _choose_weights(count, at):
    """Choose what has a weight and a value; return how many that are."""
    m = 0
    for n in range(count):
        weight = get(at.weights, n)
        if weight != 0 and get(at.kinds, n) != _NOTHING:
            put(at.chosen, m, weight)
            put(at.starts, m, get(at.in_v, n))
            m += 1
    return m


@inline
def _choose_scores(count, mean, sizes, at):
    """Choose what has a gradient of its score; return how many that are, and the gradient of the factor."""
    m, by_factor = 0, 0.0
    for n in range(count):
        weight = get(at.weights, n)
        slope = weight * (get(at.by_weights, n) - mean) if weight != 0 else 0.0
        kind = get(at.kinds, n)
        if slope != 0 and kind != _NOTHING:
            by_factor += slope * min(max(get(at.scores, n), -1e30), 1e30)
            if kind == __pixel and slope * sizes.factor != 0:
                put(at.chosen, m, slope * sizes.factor)
                put(at.starts, m, get(at.in_k, n))
                m += 1
    return m, by_factor


@inline
def _add(code, q, to_q, k, to_k, count, at):
    patches_code.add(code, q, to_q, k, to_k, at.chosen, at.starts, at.starts, 1, count, 1, 0, 0, 0)


@inline
def _pixel(query, task, sizes):
    """Return the number of the pixel that a query stands at, in the memory of rows."""
    return ((query.y - sizes.top) * task.width + query.x) * task.stride


@inline
def _number(query, task):
    return (query.t * task.rows + query.y) * task.columns + query.x


# --- rows of tiles --------------------------------------------------------------------------------
@kernel()
def attend(read, found, windows, task, sizes, codes, scratch, band, stop, first, last):
    """Find what the queries of tile rows first..last get."""
    read, found, windows, at = pointers(read), pointers(found), pointers(windows), pointers(scratch)
    tile_rows = (task.rows + TILE - 1) // TILE
    for unit in range(first, last):
        y0 = unit % tile_rows * TILE
        for y in range(y0, min(y0 + TILE, task.rows)):
            for x in range(task.columns):
                if stopped(stop):
                    return
                query = Query(unit // tile_rows, y, x, first_of(unit - first, y - y0, x, task))
                count = _find(query, windows, task, sizes, band, at)
                _weigh(query, count, task, sizes, codes, read, at)
                put(read.sums, 2 * _number(query, task), get(at.numbers, 1))
                put(read.sums, 2 * _number(query, task) + 1, get(at.numbers, 2))
                out, chosen = after(found.q, _pixel(query, task, sizes) * sizes.channels), _choose_weights(count, at)
                _add(codes.to_q, out, out, read.v, out, chosen, at)


@kernel()
def to_queries(read, found, windows, task, sizes, codes, scratch, band, stop, first, last):
    """Find the gradients by q and by factors, and the means, of queries of tile rows first..last."""
    read, found, windows, at = pointers(read), pointers(found), pointers(windows), pointers(scratch)
    tile_rows = (task.rows + TILE - 1) // TILE
    for unit in range(first, last):
        y0 = unit % tile_rows * TILE
        for y in range(y0, min(y0 + TILE, task.rows)):
            for x in range(task.columns):
                if stopped(stop):
                    return
                query = Query(unit // tile_rows, y, x, first_of(unit - first, y - y0, x, task))
                count = _find(query, windows, task, sizes, band, at)
                _differentiate(query, count, task, sizes, codes, read, at)
                put(read.means, _number(query, task), _mean(count, at))
                chosen, by_factor = _choose_scores(count, get(read.means, _number(query, task)), sizes, at)
                put(found.products, _number(query, task), by_factor)
                mine = _pixel(query, task, sizes) * task.channels
                _add(codes.to_q, after(read.q, mine), after(found.q, mine), read.k, read.k, chosen, at)


@kernel()
def to_keys(read, found, windows, task, sizes, codes, scratch, band, stop, first, last):
    """Add what the queries of tile rows first..last add to the gradients of a band of k and v."""
    read, found, windows, at = pointers(read), pointers(found), pointers(windows), pointers(scratch)
    tile_rows = (task.rows + TILE - 1) // TILE
    for unit in range(first, last):
        y0 = unit % tile_rows * TILE
        for y in range(y0, min(y0 + TILE, task.rows)):
            for x in range(task.columns):
                if stopped(stop):
                    return
                query = Query(unit // tile_rows, y, x, first_of(unit - first, y - y0, x, task))
                count = _find(query, windows, task, sizes, band, at)
                if count == 0:
                    continue
                _differentiate(query, count, task, sizes, codes, read, at)
                chosen, mine = _choose_weights(count, at), after(read.grad, _pixel(query, task, sizes) * sizes.channels)
                _add(codes.to_v, mine, mine, read.v, found.v, chosen, at)
                chosen, _ = _choose_scores(count, get(read.means, _number(query, task)), sizes, at)
                mine = after(read.q, _pixel(query, task, sizes) * task.channels)
                _add(codes.to_k, mine, mine, read.k, found.k, chosen, at)
