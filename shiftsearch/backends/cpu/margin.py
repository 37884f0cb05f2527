"""Videos in memory with a margin, channels last: a row of any patch is then one run of numbers, whatever the border."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from shiftsearch._types import Native
from shiftsearch.backends.cpu import margin_code as code
from shiftsearch.backends.cpu import pool
from shiftsearch.backends.cpu.grid import reflect
from shiftsearch.backends.cpu.jit import inline, kernel
from shiftsearch.backends.cpu.memory import after, aligned, get, pointer, put, stopped


class Margined(NamedTuple):
    """One head of a video in memory, [frame, row, column, channel]."""

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
    def size(self) -> int:
        return self.frames * self.rows * self.row


def margined(frames: int, height: int, width: int, channels: int, before: int, behind: int, mirrored: bool) -> Margined:
    rows, row = height + before + behind, (width + before + behind) * channels
    return Margined(frames, height, width, channels, before, behind, mirrored, rows, row)


def load(video: Native, v: Margined, heads: int, head: int, *, turn: int) -> Native:
    """Return memory with one head of a video (T, C, H, W). `turn` is vector code."""
    out = aligned(v.size, video.dtype)
    load_into(out, video, v, heads, head, turn=turn)
    return out


def load_into(out: Native, video: Native, v: Margined, heads: int, head: int, *, turn: int) -> None:
    given = np.ascontiguousarray(video).reshape(-1)
    work = partial(_fill, given, out, turn, v, v.channels * heads, v.channels * head)
    pool.spread(work, v.frames * v.rows, 4 * v.size)


def load_rows(out: Native, head: Native, v: Margined, first: int, last: int, stop: Native, *, turn: int) -> None:
    """Write rows first..last of a head of a frame (C, H, W), without a margin, to memory; for one thread of many."""
    given = head.reshape(-1)[first * v.width :] if head.flags.c_contiguous else None
    if given is None:
        given, v = np.ascontiguousarray(head[:, first:last]).reshape(-1), v._replace(height=last - first)
    _fill(given, out, turn, v, v.channels, 0, stop, 0, last - first)


def store_rows(rows: Native, v: Margined, head: Native, first: int, last: int, stop: Native, *, turn: int) -> None:
    """Write what `load_rows` would load."""
    out, nonfinite = head.reshape(-1)[first * v.width :], np.zeros(1, np.int32)
    _empty(rows, out, turn, v, v.channels, 0, nonfinite, stop, 0, last - first)


def store(sums: Native, v: Margined, out: Native, heads: int, head: int, nonfinite: Native, *, turn: int) -> None:
    """Write sums to one head of `out` (T, C, H, W); nonfinite[0] gets 1 if any of them is not finite."""
    work = partial(_empty, sums, out.reshape(-1), turn, v, v.channels * heads, v.channels * head, nonfinite)
    pool.spread(work, v.frames * v.height, 4 * v.size)


@inline
def _position(number, before, n):
    """Return the position of pixel `number` of a margin, in pixels from the frame's first."""
    return number - before if number < before else n + number - before


@inline
def _add_run(memory, to, at, n):
    """Add n numbers from memory[at] on to those from memory[to] on."""
    for e in range(n):
        put(memory, to + e, get(memory, to + e) + get(memory, at + e))


@kernel()
def _fill(given, out, turn, v, all_channels, first_channel, stop, first, last):
    """Fill rows first..last of a video, counted through all frames, from `given` [frame, channel, row, column]."""
    given, out = pointer(given), pointer(out)
    for unit in range(first, last):
        if stopped(stop):
            return
        t, y = unit // v.rows, unit % v.rows - v.before
        if not v.mirrored and (y < 0 or y >= v.height):
            continue
        at = ((t * all_channels + first_channel) * v.height + reflect(y, v.height)) * v.width
        to = unit * v.row + v.before * v.channels
        code.turn(turn, after(given, at), after(out, to), v.channels, v.width, v.height * v.width, v.channels)
        if v.mirrored:
            for number in range(v.before + v.behind):
                x = _position(number, v.before, v.width)
                for c in range(v.channels):
                    put(out, to + x * v.channels + c, get(out, to + reflect(x, v.width) * v.channels + c))


@kernel()
def _empty(sums, out, turn, v, all_channels, first_channel, nonfinite, stop, first, last):
    """Write rows of `out`, counted through all frames, from sums, whose mirrored margin is folded in."""
    sums, out, nonfinite = pointer(sums), pointer(out), pointer(nonfinite)
    for unit in range(first, last):
        if stopped(stop):
            return
        t, y = unit // v.height, unit % v.height
        start = t * v.rows * v.row
        at = start + (y + v.before) * v.row
        first_pixel = at + v.before * v.channels
        if v.mirrored:
            for number in range(v.before + v.behind):
                other = _position(number, v.before, v.height)
                if reflect(other, v.height) == y:
                    _add_run(sums, at, start + (other + v.before) * v.row, v.row)
            for number in range(v.before + v.behind):
                x = _position(number, v.before, v.width)
                _add_run(sums, first_pixel + reflect(x, v.width) * v.channels, first_pixel + x * v.channels, v.channels)
        to = ((t * all_channels + first_channel) * v.height + y) * v.width
        here = after(sums, first_pixel)
        if code.turn(turn, here, after(out, to), v.width, v.channels, v.channels, v.height * v.width) != 0:
            put(nonfinite, 0, 1)
