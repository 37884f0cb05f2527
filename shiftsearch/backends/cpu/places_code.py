"""Vector code that finds where the patches of a row of queries begin in memory, at whole places."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from llvmlite import ir

from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.simd import INT, INT32

find: Callable[..., Any] = simd.caller("iipi" + "l" * 11)


class _Row(NamedTuple):
    """The row of queries, and the frames of k: their sizes, and how they lie in memory."""

    t: ir.Value
    y: ir.Value
    frames: ir.Value
    height: ir.Value
    width: ir.Value
    rows: ir.Value  # in memory, of a frame
    row: ir.Value  # numbers from row to row
    channels: ir.Value
    shift: ir.Value  # rows, and columns, from a place to the first pixel of its patch in memory
    patch: ir.Value


@functools.cache
def build_find(mirrored: bool) -> int:
    """Build where the patches of a row of queries begin in k, whose border is mirrored or empty.

    (offsets, columns, starts, scratch, places, and the numbers of `_Row`): `columns` has the column of the query of each
    place. After room for three vectors, `scratch` gets the least and the greatest frame, then row, that any lane found.
    """
    f = simd.Function("find", "float32", "iipi" + "l" * 11)
    offsets, columns, starts, scratch, places, *numbers = f.arguments
    b, n, row = f.b, f.lanes, _Row(*numbers)
    starts = b.bitcast(starts, INT.as_pointer())

    def vector_of_places(i, *bounds):
        inside = _write_places(f, row, _offsets(f, offsets, places, i), f.load(columns, i, n), scratch)
        f.loop(b.select(inside, f.int(0), f.int(n)), [], partial(_bring_inside, f, row, columns, i, scratch, mirrored))
        frame, down, across = (f.load(scratch, axis * n, n) for axis in range(3))
        f.b.store(_starts(f, row, frame, down, across), f._at(starts, i, ir.VectorType(INT, n)), align=8)
        pairs = zip(bounds, (frame, frame, down, down), ("<", ">", "<", ">"), strict=True)
        return [b.select(b.icmp_signed(sign, at, bound), at, bound) for bound, at, sign in pairs]

    least, most = f.integers([2**31 - 1] * n), f.integers([-1] * n)
    bounds = f.loop(places, [least, most, least, most], vector_of_places, step=n)
    for number, bound in enumerate(bounds):
        f.store(bound, scratch, (3 + number) * n)
    return f.compile()


def _offsets(f, offsets, places, i):
    """Yield dt, dy and dx of a vector of places; nothing is read behind the last place, where memory may end."""
    n, parts = f.lanes, []
    for part in range(3):
        mask = f.first(f.b.sub(f.mul(f.b.sub(places, i), 3), f.int(part * n)))
        vector = ir.VectorType(INT32, n)
        address = f._at(offsets, f.add(f.mul(i, 3), part * n), vector)
        load = f._declare(f"llvm.masked.load.v{n}i32.p0", vector, [address.type, INT32, mask.type, vector])
        parts.append(f.b.call(load, [address, INT32(4), mask, f.integers([0] * n)]))
    for axis in range(3):
        picks = [3 * lane + axis for lane in range(n)]
        near = f.shuffle(parts[0], parts[1], [min(i, 2 * n - 1) for i in picks])
        yield f.shuffle(near, parts[2], [lane if i < 2 * n else i - n for lane, i in enumerate(picks)])


def _splat(f, number):
    return f.splat(f.b.trunc(number, INT32))


def _write_places(f, row, offsets, columns, scratch):
    """Write frames, rows and columns of a vector of places to scratch; return whether all lie inside the frames."""
    b, n = f.b, f.lanes
    bases, sizes = (_splat(f, row.t), _splat(f, row.y), columns), (row.frames, row.height, row.width)
    found = [b.add(base, offset) for base, offset in zip(bases, offsets, strict=True)]
    # a sum that wraps around in 32 bits is outside, too
    outside = [b.icmp_unsigned(">=", at, _splat(f, size)) for at, size in zip(found, sizes, strict=True)]
    for axis, at in enumerate(found):
        f.store(at, scratch, axis * n)
    anywhere = functools.reduce(b.or_, outside)
    return b.icmp_unsigned("==", b.bitcast(anywhere, ir.IntType(n)), ir.IntType(n)(0))


def _bring_inside(f, row, columns, i, scratch, mirrored, lane):
    """Move the place of one lane to where its border has it: into the frame by mirrors, or into an empty margin."""
    b, n = f.b, f.lanes
    for axis, size in enumerate((row.frames, row.height, row.width)):
        base = f.scalar(columns, f.add(i, lane)) if axis == 2 else b.trunc((row.t, row.y)[axis], INT32)
        slot = f.add(axis * n, lane)
        offset = b.sub(f.scalar(scratch, slot), base)
        at = b.add(b.sext(base, INT), b.sext(offset, INT))
        at = _mirror(f, at, size) if mirrored or axis == 0 else _limit(f, row, at, size)
        b.store(b.trunc(at, INT32), f._at(scratch, slot))


def _mirror(f, at, size):
    """Return what `grid.reflect` returns."""
    b = f.b
    period = f.most(b.shl(b.sub(size, f.int(1)), f.int(1)), 1)
    rest = b.srem(at, period)
    rest = b.select(b.icmp_signed("<", rest, f.int(0)), b.add(rest, period), rest)
    return f.least(rest, b.sub(period, rest))


def _limit(f, row, at, size):
    """Return a position no further out than the margin, where all is empty."""
    least, most = f.b.sub(f.int(0), row.shift), f.b.sub(f.b.add(size, row.patch), row.shift)
    return f.least(f.most(at, least), most)


def _starts(f, row, frame, down, across):
    """Return where the patches of a vector of places begin, in 64 bits."""
    b, wide = f.b, ir.VectorType(INT, f.lanes)
    line = b.add(b.add(b.mul(frame, _splat(f, row.rows)), down), _splat(f, row.shift))
    start = b.mul(b.sext(line, wide), f.splat(row.row))
    column = b.sext(b.add(across, _splat(f, row.shift)), wide)
    return b.add(start, b.mul(column, f.splat(row.channels)))
