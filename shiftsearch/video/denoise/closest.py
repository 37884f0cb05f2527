"""Vector code for the best patches of all frames: what `groups.of_all_frames` finds, without a list of those of each frame.

Candidates that are not below the worst of the best so far are forgotten at once. After the first frame these are most. The
others are kept in any order; from time to time all but the best are dropped.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from shiftsearch._geometry import reflect
from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.memory import aligned
from shiftsearch.backends.cpu.pool import spread

_FAR = 3e38  # of scores that are no numbers, and larger than any other
_NONE = 2**31 - 1  # above the bits of all scores
_BITS = 31  # of a score, which is not below 0: they are in order of its size


def best(planes: list[Any], flow: Any, here: int, pass_: Any, count: int) -> np.ndarray:
    """Return the offsets (h, w, count, 3) of the best patches of planes (1, H, W), around where flow (n, 2, h, w) leads.

    Planes have margins, where vectors end that are read at the end of a row.
    """
    window, patch, plane = pass_.window, pass_.patch, planes[here]
    corners = _corners(flow, plane.shape[1:], window, pass_.stride)
    offsets = np.empty((*corners.shape[:2], count, 3), np.int32)
    before = patch // 2 * sum(plane.strides[1:])
    tables, run = np.array([plane.ctypes.data - before for plane in planes]), _compiled(window, patch)
    numbers = here, len(planes), corners.shape[1], pass_.stride, plane.strides[1] // 4, count

    def some(_: np.ndarray, first: int, last: int) -> None:
        scratch = aligned(_tile(window) + _room(window, count), np.float32), aligned(_room(window, count), np.int32)
        arrays = tables, corners[first:last], offsets[first:last], *scratch
        run(*(array.ctypes.data for array in arrays), first, last - first, *numbers)

    spread(some, len(offsets), offsets[..., 0, 0].size * len(planes) * (window * patch) ** 2)
    return offsets


def _corners(flow: Any, size: tuple[int, int], window: int, stride: int) -> np.ndarray:
    """Return the first candidates (h, w, n, 2) of the windows around where flow leads; all of them lie inside, as in `match`."""
    corners = np.empty((*flow.shape[2:], len(flow), 2), np.int32)
    for axis, n in enumerate(size):
        at = np.arange(flow.shape[2 + axis]).reshape(-1, *[1] * (1 - axis)) * stride
        centre = reflect(at + np.rint(flow[:, 1 - axis]).astype(np.int64), n)
        corners[..., axis] = np.clip(centre - window // 2, 0, n - window).transpose(1, 2, 0)
    return corners


def _tile(window: int) -> int:
    """Return the numbers of the scores of a window, whose rows are whole vectors."""
    lanes = simd.lanes("float32")
    return window * -(-window // lanes) * lanes


def _room(window: int, count: int) -> int:
    """Return the candidates that are kept at most, and the vectors behind them."""
    return 2 * count + window**2 + 2 * simd.lanes("float32")


@functools.cache
def _compiled(window: int, patch: int) -> Callable[..., int]:
    kinds = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 8
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(_build(window, patch))


# --- vector code ----------------------------------------------------------------------------------
def _build(window: int, patch: int) -> int:
    """Compile a function that writes the offsets of groups for some rows of queries.

    Its arguments are addresses of arrays, and then whole numbers:

    - int64 (frames), addresses of the first pixels of the patches around the first pixels of planes
    - int32 (queries, frames, 2), rows and columns of the first candidates of windows
    - int32 (queries, count, 3), where offsets go
    - float32 and int32, memory for scores and for numbers of candidates
    - the first row of queries, how many rows there are, the number of the queries' frame, of frames, of columns, the pixels
      between two queries, and between two rows of a plane, the patches of a group
    """
    f = simd.Function("closest", "float32", "piipi" + 8 * "l")
    rows, columns = f.arguments[6], f.arguments[9]
    f.loop(rows, [], lambda y: f.loop(columns, [], lambda x: _Query(f, window, patch, y, x).run()) and None)
    return f.compile()


class _Query:
    """A query, and the code that looks for its group."""

    def __init__(self, f: simd.Function, window: int, patch: int, y: Any, x: Any):
        self.f, self.b, self.window, self.patch = f, f.b, window, patch
        tables, corners, offsets, self.tile, self.ids, first, _, here, frames, columns, step, width, count = f.arguments
        self.tables = f.b.bitcast(tables, simd.INT.as_pointer())
        self.here, self.frames, self.width, self.count = here, frames, width, count
        self.at = f.mul(f.add(first, y), step), f.mul(x, step)
        number = f.add(f.mul(y, columns), x)
        self.corners = f.b.gep(corners, [f.mul(number, f.mul(frames, 2))])
        self.offsets = f.b.gep(offsets, [f.mul(number, f.mul(count, 3))])
        self.kept = f.b.gep(self.tile, [f.int(_tile(window))])
        self.bits = f.b.bitcast(self.kept, simd.INT32.as_pointer())

    def run(self) -> None:
        """Write the offsets of the best candidates."""
        f = self.f
        plane, at = self._plane(self.here), f.add(f.mul(self.at[0], self.width), self.at[1])
        self.pixels = [
            [f.splat(f.scalar(plane, f.add(at, f.mul(row, self.width), column))) for column in range(self.patch)]
            for row in range(self.patch)
        ]
        filled, limit = f.loop(self.frames, [f.int(0), f.element(np.inf)], self._frame)
        self._pruned(f.b.icmp_signed(">", filled, self.count), filled, limit)
        f.loop(self.count, [], self._write)

    def _frame(self, frame: Any, filled: Any, limit: Any) -> list[Any]:
        """Add the candidates of a frame that are below the limit, and return how many there are now, and the new limit."""
        f, b, lanes = self.f, self.b, self.f.lanes
        corner = [b.sext(f.scalar(self.corners, f.add(f.mul(frame, 2), i)), simd.INT) for i in range(2)]
        at, number = f.add(f.mul(corner[0], self.width), corner[1]), f.mul(frame, 2**16)
        for first in range(0, self.window, lanes):
            for row, scores in enumerate(self._scores(self._plane(frame), f.add(at, first))):
                place, many = row * -(-self.window // lanes) * lanes + first, min(lanes, self.window - first)
                f.store(scores, self.tile, place)
                below = b.bitcast(b.fcmp_ordered("<", scores, f.splat(limit)), ir.IntType(lanes))
                bits = b.and_(b.zext(below, simd.INT), simd.INT(2**many - 1))
                identity = f.add(number, 2**8 * row + first)

                def one(_: Any, bits: Any, filled: Any, place: int = place, identity: Any = identity) -> list[Any]:
                    lane = b.cttz(bits, ir.IntType(1)(0))
                    b.store(f.scalar(self.tile, f.add(lane, place)), b.gep(self.kept, [filled]))
                    b.store(b.trunc(f.add(identity, lane), simd.INT32), b.gep(self.ids, [filled]))
                    return [b.and_(bits, f.add(bits, -1)), f.add(filled, 1)]

                _, filled = f.loop(b.ctpop(bits), [bits, filled], one)
        return self._pruned(b.icmp_signed(">", filled, f.mul(self.count, 2)), filled, limit)

    def _scores(self, plane: Any, at: Any) -> list[Any]:
        """Return the scores of a vector of candidates of each row of a window."""
        f = self.f
        sums: list[Any] = [f.zeros() for _ in range(self.window)]
        for line in range(self.patch + self.window - 1):
            keys = f.shifted(plane, f.add(at, f.mul(line, self.width)), self.patch, f.lanes)
            for row in range(max(0, line - self.patch + 1), min(self.window, line + 1)):
                for key, pixel in zip(keys, self.pixels[line - row], strict=True):
                    apart = f.minus(pixel, key)
                    sums[row] = f.fma(apart, apart, sums[row])
        far = f.full(_FAR)
        return [f.b.select(f.b.fcmp_ordered("<", total, far), total, far) for total in sums]

    def _pruned(self, wanted: Any, filled: Any, limit: Any) -> list[Any]:
        """Return how many candidates are kept, and the worst score of them: the best `count`, if this is `wanted`."""
        return self.f.loop(self.b.zext(wanted, simd.INT), [filled, limit], lambda _, filled, limit: self._prune(filled))

    def _prune(self, filled: Any) -> list[Any]:
        f, b = self.f, self.b
        f.store(f.integers([_NONE] * f.lanes), self.bits, filled)  # behind the last

        def smaller(worst: Any) -> Any:
            """Return how many scores are below one."""

            def some(i: Any, found: Any) -> list[Any]:
                below = b.icmp_signed("<", f.load(self.bits, i), f.splat(worst))
                return [f.add(found, b.ctpop(b.zext(b.bitcast(below, ir.IntType(f.lanes)), simd.INT)))]

            return f.loop(filled, [f.int(0)], some, step=f.lanes)[0]

        def bit(i: Any, worst: Any) -> list[Any]:
            more = b.or_(worst, b.shl(simd.INT32(1), b.trunc(b.sub(f.int(_BITS - 1), i), simd.INT32)))
            return [b.select(b.icmp_signed("<", smaller(more), self.count), more, worst)]

        (worst,) = f.loop(_BITS, [simd.INT32(0)], bit)

        def keep(i: Any, to: Any, equal: Any) -> list[Any]:
            score, identity = f.scalar(self.bits, i), f.scalar(self.ids, i)
            tie = b.and_(b.icmp_signed("==", score, worst), b.icmp_signed(">", equal, f.int(0)))
            b.store(score, b.gep(self.bits, [to]))
            b.store(identity, b.gep(self.ids, [to]))
            kept = b.or_(b.icmp_signed("<", score, worst), tie)
            return [f.add(to, b.zext(kept, simd.INT)), b.sub(equal, b.zext(tie, simd.INT))]

        f.loop(filled, [f.int(0), b.sub(self.count, smaller(worst))], keep)
        return [self.count, b.bitcast(worst, f.element)]

    def _write(self, n: Any) -> None:
        f, b = self.f, self.b
        identity = b.zext(f.scalar(self.ids, n), simd.INT)
        frame = b.lshr(identity, f.int(16))
        inside = b.and_(b.lshr(identity, f.int(8)), f.int(255)), b.and_(identity, f.int(255))
        values = [b.sub(frame, self.here)]
        for axis, (more, at) in enumerate(zip(inside, self.at, strict=True)):
            low = b.sext(f.scalar(self.corners, f.add(f.mul(frame, 2), axis)), simd.INT)
            values.append(b.sub(f.add(low, more), at))
        for i, value in enumerate(values):
            b.store(b.trunc(value, simd.INT32), b.gep(self.offsets, [f.add(f.mul(n, 3), i)]))

    def _plane(self, frame: Any) -> Any:
        return self.b.inttoptr(self.f.scalar(self.tables, frame), self.f.element.as_pointer())
