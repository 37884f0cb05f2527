"""Vector code that finds the patch of each frame that is most like one of 8 x 8 pixels, see `groups.of_each_frame`.

A vector has a row of a patch. All candidates of a window are compared at once: each row of the frame is read once for every
candidate beside it, and counts for all those above it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from shiftsearch.backends.cpu import simd
from shiftsearch.video.denoise.groups import FLAT, NEARER, SPARES

SIDE = 8  # of a patch, and lanes of a vector
_BEFORE = SIDE // 2  # pixels of a patch before its place
ENTRY = 8  # numbers that describe a flow
_TAKEN = float("inf")  # score of a candidate that is no longer one
_FAR = 2.0**20  # pixels: flow that leads further is none
_MOST = 17  # frames


@functools.cache
def compiled(window: int, temporal: bool, close: float, halves: bool) -> Callable[..., int]:
    """Return a function that writes the offsets of the best patch of each frame, for some rows of queries.

    If `temporal`, the patch itself takes the place of those that do not show the same thing. Patches whose score is up to
    `close` times the largest are not set against those of the query's frame. Flow is of half precision, if `halves`.

    Its arguments are addresses of arrays, and then whole numbers:

    - int64 (frames), addresses of the first pixels of the planes to search in
    - int64 (2, frames, ENTRY), of the flow from each frame to the next one, and to the one before: its address, or 0 if there
      is none, the numbers between two channels, rows and columns, how many rows and columns it has, and four float32, how
      many of these there are for a pixel, and pixels for one of them
    - float32 (queries), the largest score of patches that show the same thing
    - int32 (queries, frames, 3), where offsets go
    - the number of the queries' frame, of frames, the first row of queries, how many rows there are, of columns, the pixels
      between two queries, and between two rows of a plane, the rows and columns of a plane
    """
    kinds = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 9
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(_build(window, temporal, close, halves))


class _Query:
    """A query, and the code that looks for it."""

    def __init__(self, f: simd.Function, window: int, y: Any, x: Any):
        self.f, self.window, self.b = f, window, f.b
        tables, flows, _, self.offsets, self.here, self.frames, first, _, columns, step, self.width, *self.size = (
            f.arguments
        )
        self.tables, self.flows = (f.b.bitcast(memory, simd.INT.as_pointer()) for memory in (tables, flows))
        self.number = f.add(f.mul(y, columns), x)
        self.at = f.mul(f.add(first, y), step), f.mul(x, step)

    def read(self) -> None:
        """Read the patch of the query."""
        f, plane, at = self.f, self._plane(self.here), self._first(*self.at)
        self.rows = [f.load(plane, f.add(at, f.mul(row, self.width)), SIDE) for row in range(SIDE)]

    def _plane(self, frame: Any) -> Any:
        return self.b.inttoptr(self.f.scalar(self.tables, frame), self.f.element.as_pointer())

    def _first(self, y: Any, x: Any) -> Any:
        """Return where the patch at a place begins."""
        return self.f.add(self.f.mul(self.f.add(y, -_BEFORE), self.width), x, -_BEFORE)

    def moved(self, back: Any, frame: Any, place: list[Any], kind: Any) -> list[Any]:
        """Return where flow leads from a place (y, x) of a frame, as `paths.flow_at` reads it."""
        f, b = self.f, self.b
        entry = f.mul(f.add(f.mul(back, self.frames), frame), ENTRY)
        address, channel, *strides, rows, columns = (f.scalar(self.flows, f.add(entry, i)) for i in range(6))
        ratios = f.b.bitcast(b.gep(self.flows, [f.add(entry, 6)]), f.element.as_pointer())
        missing = b.icmp_signed("==", address, f.int(0))
        cell, found = f.int(0), []
        for axis, (at, count, stride) in enumerate(zip(place, (rows, columns), strides, strict=True)):
            scaled = b.fmul(b.fadd(at, f.element(0.5)), f.scalar(ratios, axis))
            inside = f.most(f.least(b.fptosi(self._one("floor", scaled), simd.INT), f.add(count, -1)), 0)
            cell = f.add(cell, f.mul(inside, stride))
        some = b.bitcast(f.arguments[2], kind.as_pointer())  # if there is none
        flow = b.select(missing, some, b.inttoptr(address, kind.as_pointer()))
        for axis, at in enumerate(place):
            index = b.select(missing, f.int(0), f.add(cell, f.mul(channel, 1 - axis)))
            by = b.fmul(f.widened(f.scalar(flow, index)), f.scalar(ratios, 2 + axis))
            known = b.fcmp_ordered("<", self._one("fabs", by), f.element(_FAR))  # is not NaN
            found.append(b.fadd(at, b.select(b.and_(known, b.not_(missing)), by, f.element(0.0))))
        return found

    def _one(self, name: str, x: Any) -> Any:
        return self.b.call(self.f._declare(f"llvm.{name}.f32", x.type, [x.type]), [x])

    def corner(self, place: list[Any]) -> tuple[Any, Any]:
        """Return the first candidate of the window around where flow leads; all of it lies inside, as in `match`."""
        f, b, found = self.f, self.b, []
        for led, own, n in zip(place, self.at, self.size, strict=True):
            by = self._one("rint", b.fsub(led, b.sitofp(own, f.element)))
            centre = self._inside(f.add(own, b.fptosi(by, simd.INT)), n)
            found.append(f.most(f.least(f.add(centre, -(self.window // 2)), f.add(n, -self.window)), 0))
        return found[0], found[1]

    def beside(self) -> tuple[tuple[Any, Any], Any]:
        """Return the first candidate of the window around the query, and the number of the query itself."""
        f, b = self.f, self.b
        corner = self.corner([b.sitofp(at, f.element) for at in self.at])
        down, across = (b.sub(at, low) for at, low in zip(self.at, corner, strict=True))
        return corner, f.add(f.mul(down, self.window), across)

    def other(self, n: Any) -> Any:
        """Return the n-th frame of those that are not the query's."""
        return self.f.add(n, self.b.zext(self.b.icmp_signed(">=", n, self.here), simd.INT))

    def _inside(self, at: Any, n: Any) -> Any:
        """Return a place along an axis of n pixels, mirrored where it is outside."""
        f, b = self.f, self.b
        outside = b.icmp_unsigned(">=", at, n)

        def mirrored(_: Any, at: Any) -> list[Any]:
            period = f.mul(f.add(n, -1), 2)
            rest = b.srem(at, period)
            rest = f.add(rest, b.select(b.icmp_signed("<", rest, f.int(0)), period, f.int(0)))
            return [f.least(rest, b.sub(period, rest))]

        (inside,) = f.loop(b.zext(outside, simd.INT), [at], mirrored)  # once or never: division is slow
        return inside

    def scores(self, frame: Any, corner: tuple[Any, Any]) -> list[Any]:
        """Return the scores of the candidates of a window, 8 to a vector; lanes behind the last one are taken."""
        f, window = self.f, self.window
        plane, at = self._plane(frame), self._first(*corner)
        sums: list[Any] = [None] * window**2
        for line in range(SIDE + window - 1):
            begin = f.add(at, f.mul(line, self.width))
            keys = [f.load(plane, f.add(begin, dx), SIDE) for dx in range(window)]
            for dy in range(max(0, line - SIDE + 1), min(window, line + 1)):
                for dx, key in enumerate(keys):
                    n, apart = dy * window + dx, f.minus(self.rows[line - dy], key)
                    sums[n] = f.b.fmul(apart, apart) if sums[n] is None else f.fma(apart, apart, sums[n])
        return [_totals(f, sums[n : n + SIDE]) for n in range(0, window**2, SIDE)]

    def best(self, scores: list[Any]) -> tuple[Any, Any]:
        """Return the least score, and the number of its candidate."""
        f, b = self.f, self.b
        least = functools.reduce(lambda x, y: _least(f, x, y), scores)
        for by in (4, 2, 1):
            least = _least(f, least, f.rotate(least, by))
        bits = simd.INT(0)
        for n, part in enumerate(scores):
            same = b.bitcast(b.fcmp_ordered("==", part, least), ir.IntType(SIDE))
            bits = b.or_(bits, b.shl(b.zext(same, simd.INT), simd.INT(SIDE * n)))
        found = f.least(self.lowest(bits), self.window**2 - 1)  # there is none where a value is no number
        return b.extract_element(least, simd.INT32(0)), found

    def lowest(self, bits: Any) -> Any:
        """Return the number of the lowest bit that is set."""
        function = self.f._declare("llvm.cttz.i64", simd.INT, [simd.INT, ir.IntType(1)])
        return self.b.call(function, [bits, ir.IntType(1)(0)])

    def count(self, bits: Any) -> Any:
        return self.b.call(self.f._declare("llvm.ctpop.i64", simd.INT, [simd.INT]), [bits])

    def write(self, frame: Any, of: Any, corner: tuple[Any, Any], candidate: Any) -> None:
        """Write the offset of a candidate in frame `of`, as that of a frame."""
        f, b = self.f, self.b
        window, to = f.int(self.window), self._offset(frame)
        inside = b.udiv(candidate, window), b.urem(candidate, window)
        values = [b.sub(of, self.here)]
        values += [b.sub(f.add(low, more), at) for low, more, at in zip(corner, inside, self.at, strict=True)]
        for i, value in enumerate(values):
            f.store(b.trunc(value, simd.INT32), self.offsets, f.add(to, i))

    def written(self, frame: Any) -> tuple[Any, Any]:
        """Return the place in a frame whose offset was written."""
        f, to = self.f, self._offset(frame)
        down, across = (f.b.sext(f.scalar(self.offsets, f.add(to, i)), simd.INT) for i in (1, 2))
        return f.add(self.at[0], down), f.add(self.at[1], across)

    def _offset(self, frame: Any) -> Any:
        return self.f.mul(self.f.add(self.f.mul(self.number, self.frames), frame), 3)


def _least(f: simd.Function, x: Any, y: Any) -> Any:
    return f.b.select(f.b.fcmp_ordered("<", x, y), x, y)


def _totals(f: simd.Function, vectors: list[Any]) -> Any:
    """Return a vector with the sum of the lanes of each of 8 vectors or fewer; the other lanes are taken."""
    count, half = len(vectors), SIDE // 2
    vectors = vectors + vectors[-1:] * (SIDE - count)
    for _ in range(2):
        vectors = [_pair_sums(f, x, y) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
    x, y = vectors
    low, high = ([n + i for n in (0, SIDE) for i in range(first, first + half)] for first in (0, half))
    total = f.plus(f.shuffle(x, y, low), f.shuffle(x, y, high))
    if count == SIDE:
        return total
    return f.shuffle(total, f.full(_TAKEN, SIDE), [i if i < count else SIDE for i in range(SIDE)])


def _pair_sums(f: simd.Function, x: Any, y: Any) -> Any:
    """Return the sums of neighbours: in each half of the vector those of x, then those of y."""
    even = [n + half for half in (0, SIDE // 2) for n in (0, 2, SIDE, SIDE + 2)]
    return f.plus(f.shuffle(x, y, even), f.shuffle(x, y, [n + 1 for n in even]))


def _without(f: simd.Function, scores: list[Any], candidate: Any) -> list[Any]:
    """Return the scores with one of them taken."""
    number = f.splat(f.b.trunc(candidate, simd.INT32), SIDE)
    return [
        f.b.select(
            f.b.icmp_signed("==", number, f.integers(range(SIDE * n, SIDE * (n + 1)))), f.full(_TAKEN, SIDE), part
        )
        for n, part in enumerate(scores)
    ]


def _build(window: int, temporal: bool, close: float, halves: bool) -> int:
    """Compile what `compiled` returns."""
    f = simd.Function("nearest", "float32", "pppi" + 9 * "l")
    rows, columns = f.arguments[7:9]
    kept = f.b.alloca(f.element, _MOST)

    def row(y: Any) -> None:
        # places are followed ahead of the search, which has too many steps for the processor to look beyond them
        f.loop(columns, [], lambda x: _follow(_Query(f, window, y, x), halves))
        f.loop(columns, [], lambda x: _search(_Query(f, window, y, x), kept, temporal, close))

    f.loop(rows, [], row)
    return f.compile()


def _follow(query: _Query, halves: bool) -> None:
    """Write the offsets of the first candidates in all other frames. Flow may be of half precision."""
    f, b, here = query.f, query.b, query.here
    ahead = b.sub(f.add(query.frames, -1), here)  # so many frames are reached forward
    for back, count in enumerate((ahead, here)):

        def one(n: Any, *place: Any, back: int = back) -> list[Any]:
            frame = b.sub(here, n) if back else f.add(here, n)
            led = query.moved(back, frame, list(place), simd.HALF if halves else f.element)
            other = f.add(frame, -1 if back else 1)
            query.write(other, other, query.corner(led), f.int(0))
            return led

        f.loop(count, [b.sitofp(at, f.element) for at in query.at], one)


def _search(query: _Query, kept: Any, temporal: bool, close: float) -> None:
    """Write the offsets of the best candidates, given those of the first ones. `kept` is memory for their scores."""
    f, b, here = query.f, query.b, query.here
    query.read()
    limit = f.scalar(f.arguments[2], query.number)
    near = b.fmul(limit, f.element(close))

    def one(n: Any, most: Any) -> list[Any]:
        frame = query.other(n)
        corner = query.written(frame)
        score, candidate = query.best(query.scores(frame, corner))
        query.write(frame, frame, corner, candidate)
        f.store(score, kept, n)
        return [b.select(b.fcmp_unordered("<", most, score), score, most)]

    others = f.add(query.frames, -1)
    (most,) = f.loop(others, [f.element(0.0)], one)
    query.write(here, here, query.at, f.int(0))
    if not temporal and close < 1:
        apart = b.zext(b.fcmp_unordered(">", most, near), simd.INT)
        (limit,) = f.loop(apart, [limit], lambda _, limit: [_lowered(query, limit, near)])  # once or never

    def above(n: Any, lost: Any) -> list[Any]:
        more = b.fcmp_unordered(">", f.scalar(kept, n), limit)
        return [b.or_(lost, b.shl(b.zext(more, simd.INT), query.other(n)))]

    with b.if_then(b.fcmp_unordered(">", most, limit), likely=False):
        (lost,) = f.loop(others, [f.int(0)], above)
        _replace(query, lost, temporal)


def _lowered(query: _Query, limit: Any, near: Any) -> Any:
    """Return the limit as `groups.of_each_frame` lowers it where patches of the frame of the query are nearer."""
    f, b = query.f, query.b
    corner, itself = query.beside()
    scores, score = _without(f, query.scores(query.here, corner), itself), near
    for _ in range(SPARES):
        score, candidate = query.best(scores)
        scores = _without(f, scores, candidate)
    flat = b.fcmp_ordered("<", score, b.fmul(near, f.element(FLAT)))
    score = b.fmul(score, f.element(NEARER))
    score = b.select(b.fcmp_ordered(">", score, near), score, near)
    lower = b.fcmp_ordered("<", score, limit)
    return b.select(b.and_(lower, b.not_(flat)), score, limit)


def _replace(query: _Query, lost: Any, temporal: bool) -> None:
    """Write offsets in the frame of the query for those frames whose bits are set in `lost`: the next best ones, in turn."""
    f, b, here = query.f, query.b, query.here
    corner, itself = (query.at, f.int(0)) if temporal else query.beside()
    scores = [] if temporal else _without(f, query.scores(here, corner), itself)

    def one(_: Any, lost: Any, last: Any, *scores: Any) -> list[Any]:
        if scores:
            score, candidate = query.best(list(scores))
            last = b.select(b.fcmp_ordered("<", score, f.element(_TAKEN)), candidate, last)
        query.write(query.lowest(lost), here, corner, last)
        return [b.and_(lost, f.add(lost, -1)), last, *_without(f, list(scores), last)]

    f.loop(query.count(lost), [lost, itself, *scores], one)
