"""Vector code for groups of patches of 8 x 8 pixels: read, transformed to their cosine spectrum, shrunk, and added up.

A group stays in the cache throughout: it is read from the frames and its estimates are added to theirs. Vectors run
along the rows of a patch, then, transposed, along its columns, then across the patches of the group. Where they are long
enough, two groups lie side by side in them, half a row of queries apart: what one adds, the other does not read soon.
Cosines are symmetric or antisymmetric, so sums and differences of the two ends halve the products.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from shiftsearch._cosines import dct
from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.memory import aligned
from shiftsearch.video.denoise.halves import SIDE, of_kind, single

MOST = 17  # patches of a group: code grows with the square of it
_AHEAD = 48  # pixels: memory is slow, and the processor does not foresee so many rows of so many frames
_BEFORE = SIDE // 2  # pixels of a patch before its place
_Transform = Callable[[simd.Function, list[Any]], list[Any]]


@functools.cache
def compiled(
    n: int, guided: bool, temporal: bool, uneven: bool, parted: bool, kept: npt.DTypeLike
) -> Callable[..., int]:
    """Return a function that filters groups of n patches, by thresholds or, if `guided`, by Wiener filters.

    If `temporal`, the mean of the patches is left as it is, and only what differs from it is filtered. If `uneven`, some
    frames are noisier than others, see `shrink.evened`.

    Its arguments are addresses of arrays, and then whole numbers:

    - int64 (4, frames), addresses of the first pixels of planes: the guide, and noisy, or if `guided` what is left of it
      without the guide, both as `halves.part` writes them if `parted`; and those of kind `kept` that are added to, the sums
      of the noise that is removed, and the weights of patches at their places
    - float32 (frames, 3): what noise is multiplied by before it is added, what its weight is multiplied by, and how much
      noisier the frame is than all
    - float32 (2, 64 for each group at once): level of the noise, or its variance if `guided`, and its power in weights
    - float32 (queries): the strength of the noise in each group
    - float32, memory as `scratch` gives it
    - int32 (queries, n, 3): offsets
    - the number of the queries' frame, of frames, the row of the first query, rows and columns of queries, the pixels
      between two of these, and between two rows of a plane
    """
    kinds = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 7
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(_build(n, guided, temporal, uneven, parted, kept))


def at_once() -> int:
    """Return how many groups lie side by side."""
    return min(2, simd.lanes("float32") // SIDE) or 1


def scratch(n: int) -> np.ndarray:
    """Return the memory that groups of n patches need."""
    return aligned(2 * n * SIDE**2 * at_once(), np.float32)


def turned(scale: np.ndarray) -> np.ndarray:
    """Return numbers of the frequencies (64) as spectra lie in the code below: transposed, and once for each group."""
    return np.tile(scale.reshape(SIDE, SIDE).T, at_once()).ravel()


# --- vector code ----------------------------------------------------------------------------------
@functools.cache
def _full(value: float, n: int) -> Any:
    """Return a vector of one number. It is kept: writing its text for LLVM takes longer than compiling it."""
    return ir.Constant(ir.VectorType(ir.FloatType(), n), [value] * n)


def _weighed(f: simd.Function, weights: np.ndarray, values: list[Any]) -> Any:
    """Return the sum of vectors, each times a number."""
    first, *others = [_full(float(weight), values[0].type.count) for weight in weights]
    total = f.b.fmul(first, values[0])
    for weight, value in zip(others, values[1:], strict=True):
        total = f.fma(weight, value, total)
    return total


def _forth(f: simd.Function, values: list[Any], basis: np.ndarray | None = None) -> list[Any]:
    """Return the cosine transform across vectors. `basis` is that part of a larger one which remains for sums."""
    n, half = len(values), len(values) // 2
    basis = dct(n) if basis is None else basis
    ends = [(values[i], values[n - 1 - i]) for i in range(half)]
    sums, differences = [f.plus(*pair) for pair in ends] + values[half : n - half], [f.minus(*pair) for pair in ends]
    found: list[Any] = [None] * n
    found[1::2] = [_weighed(f, row, differences) for row in basis[1::2, :half]]
    rest = basis[::2, : n - half]
    found[::2] = _forth(f, sums, rest) if n > 1 and n % 2 == 0 else [_weighed(f, row, sums) for row in rest]
    return found


def _back(f: simd.Function, values: list[Any], basis: np.ndarray | None = None) -> list[Any]:
    """Return the inverse cosine transform across vectors. `basis` is as for `_forth`."""
    n, half = len(values), len(values) // 2
    basis = dct(n) if basis is None else basis
    rest = basis[::2, : n - half]
    halves = n > 1 and n % 2 == 0
    even = _back(f, values[::2], rest) if halves else [_weighed(f, column, values[::2]) for column in rest.T]
    odd = [_weighed(f, column, values[1::2]) for column in basis[1::2, :half].T]
    first = [f.plus(*pair) for pair in zip(even, odd, strict=False)]
    return first + even[half:] + [f.minus(*pair) for pair in zip(even, odd, strict=False)][::-1]


def _turned(f: simd.Function, square: list[Any]) -> list[Any]:
    """Return 8 vectors with each patch in them transposed, by interleaving halves three times."""
    n = square[0].type.count
    low = [n * (i % 2) + i // SIDE * SIDE + i % SIDE // 2 for i in range(n)]
    high = [i + SIDE // 2 for i in low]
    for _ in range(3):
        pairs = zip(square[: SIDE // 2], square[SIDE // 2 :], strict=True)
        square = [f.shuffle(x, y, half) for x, y in pairs for half in (low, high)]
    return square


def _beside(f: simd.Function, vectors: list[Any]) -> Any:
    """Return one vector of 8 lanes, or two side by side."""
    return vectors[0] if len(vectors) == 1 else f.shuffle(vectors[0], vectors[1], range(2 * SIDE))


def _each(f: simd.Function, scalars: list[Any]) -> Any:
    """Return a vector whose lanes have the number of their group."""
    return f.splat(scalars[0]) if len(scalars) == 1 else _beside(f, [f.splat(x, SIDE) for x in scalars])


class _Group:
    """A group of patches in frames, and the code that reads and adds to them."""

    def __init__(self, f: simd.Function, n: int, kinds: list[ir.Type], number: Any, top: Any, left: Any):
        tables, self.lights, *_, offsets, here, self.frames, _, _, _, _, self.width = f.arguments
        self.f, self.n, self.here, self.kinds = f, n, here, kinds  # of planes
        self.tables = f.b.bitcast(tables, simd.INT.as_pointer())
        self.offsets = f.b.gep(offsets, [f.mul(number, 3 * n)])
        self.first = f.add(f.mul(top, self.width), left)  # where a patch with offset 0 begins

    def place(self, patch: Any) -> tuple[Any, Any]:
        """Return the frame of a patch, and where it begins in a plane."""
        f = self.f
        dt, dy, dx = (f.b.sext(f.scalar(self.offsets, f.add(f.mul(patch, 3), i)), simd.INT) for i in range(3))
        return f.add(self.here, dt), f.add(self.first, f.mul(dy, self.width), dx)

    def plane(self, table: int, frame: Any) -> Any:
        """Return the memory of a plane."""
        f = self.f
        address = f.scalar(self.tables, f.add(f.mul(table, self.frames), frame))
        return f.b.inttoptr(address, self.kinds[table].as_pointer())

    def rows(self, table: int, patch: Any) -> list[Any]:
        """Return the rows of a patch."""
        f = self.f
        frame, at = self.place(patch)
        plane = self.plane(table, frame)
        return [single(f, f.load(plane, f.add(at, f.mul(row, self.width)), SIDE)) for row in range(SIDE)]

    def fetch(self, patch: Any, tables: list[int], x: Any) -> None:
        """Have the cache fetch what some patches further along the row add to this one: one of the lower rows each time."""
        f = self.f
        frame, at = self.place(patch)
        row = f.add(f.b.and_(x, f.int(SIDE // 2 - 1)), SIDE // 2)  # the upper rows were used for the queries above
        for table in tables:
            f.prefetch(self.plane(table, frame), f.add(at, f.mul(row, self.width), _AHEAD))
        f.prefetch(self.plane(3, frame), f.add(at, _AHEAD))

    def _of_frame(self, frame: Any, number: int) -> Any:
        return self.f.scalar(self.lights, self.f.add(self.f.mul(frame, 3), number))

    def noisier(self, patch: int) -> Any:
        """Return how much noisier than all a patch is."""
        frame, _ = self.place(self.f.int(patch))
        return self._of_frame(frame, 2)

    def add(self, patch: Any, weight: Any, rows: list[Any]) -> None:
        """Add the noise that is removed from a patch to the sums of its frame, and its weight at its place."""
        f = self.f
        frame, at = self.place(patch)
        by, of_weight = (f.b.fmul(weight, self._of_frame(frame, i)) for i in range(2))
        sums, weights, kind = self.plane(2, frame), self.plane(3, frame), self.kinds[3]
        more = f.plus(f.widened(f.scalar(weights, at)), of_weight)
        f.b.store(f.narrowed(more, kind), f.b.gep(weights, [at]))
        by = f.splat(by, SIDE)
        for number, row in enumerate(rows):
            to = f.add(at, f.mul(number, self.width))
            more = f.fma(row, by, f.widened(f.load(sums, to, SIDE)))
            f.store(f.narrowed(more, kind), sums, to)


class _Evened:
    """What makes the noise of the patches of groups equal, see `shrink.evened`."""

    def __init__(self, f: simd.Function, groups: list[_Group]):
        self.f, n = f, groups[0].n
        self.noisier = [_each(f, [group.noisier(patch) for group in groups]) for patch in range(n)]
        own = [f.b.fdiv(f.full(1.0), noisier) for noisier in self.noisier]
        self.power = self._dot(own, own)
        size = f.b.call(f._declare(f"llvm.sqrt.v{f.lanes}f32", own[0].type, [own[0].type]), [self.power])
        self.by, self.own = own, [f.b.fdiv(each, size) for each in own]
        self.same = [f.full(n**-0.5)] * n
        self.both = f.plus(f.full(1.0), self._dot(self.own, self.same))

    def forth(self, values: list[Any]) -> list[Any]:
        """Return patches of equal noise."""
        return self._rotated([self.f.b.fmul(*pair) for pair in zip(values, self.by, strict=True)], self.own, self.same)

    def back(self, values: list[Any]) -> list[Any]:
        """Return patches that are as noisy as they were."""
        rotated = self._rotated(values, self.same, self.own)
        return [self.f.b.fmul(*pair) for pair in zip(rotated, self.noisier, strict=True)]

    def _dot(self, a: list[Any], b: list[Any]) -> Any:
        total = self.f.zeros()
        for pair in zip(a, b, strict=True):
            total = self.f.fma(*pair, total)
        return total

    def _rotated(self, values: list[Any], before: list[Any], after: list[Any]) -> list[Any]:
        f = self.f
        from_, to = self._dot(before, values), self._dot(after, values)
        rest = f.b.fdiv(f.plus(from_, to), self.both)
        twice, less = f.minus(f.plus(from_, from_), rest), f.minus(f.zeros(), rest)
        return [f.fma(a, twice, f.fma(b, less, x)) for x, b, a in zip(values, before, after, strict=True)]


def _forward(f: simd.Function, groups: list[_Group], table: int, to: int) -> None:
    """Write the transforms of the patches of groups, along rows and columns, to scratch[to:]."""
    long = SIDE * len(groups)

    def one(patch: Any) -> None:
        rows = zip(*(group.rows(table, patch) for group in groups), strict=True)
        vectors = _forth(f, _turned(f, _forth(f, [_beside(f, list(each)) for each in rows])))
        for i, vector in enumerate(vectors):
            f.store(vector, f.arguments[4], f.add(to, f.mul(patch, SIDE * long), i * long))

    f.loop(groups[0].n, [], one)


def _backward(f: simd.Function, groups: list[_Group], weights: list[Any]) -> None:
    """Add the patches whose transforms lie in scratch to the frames."""
    long = SIDE * len(groups)

    def one(patch: Any) -> None:
        first = f.mul(patch, SIDE * long)
        vectors = [f.load(f.arguments[4], f.add(first, i * long), long) for i in range(SIDE)]
        rows = _back(f, _turned(f, _back(f, vectors)))
        for i, (group, weight) in enumerate(zip(groups, weights, strict=True)):
            lanes = range(SIDE * i, SIDE * (i + 1))
            group.add(patch, weight, rows if len(groups) == 1 else [f.shuffle(row, row, lanes) for row in rows])

    f.loop(groups[0].n, [], one)


def _spectrum(f: simd.Function, n: int, at: Any, evened: _Evened | None) -> list[Any]:
    """Return the transform across the n patches of groups, of a vector of numbers of each, from scratch[at:]."""
    values = [f.load(f.arguments[4], f.add(at, i * SIDE**2 * at_once())) for i in range(n)]
    return _forth(f, evened.forth(values) if evened else values)


def _thresholded(
    f: simd.Function, values: list[Any], level: Any, power: Any, at: Any, total: Any, temporal: bool
) -> tuple[list[Any], Any]:
    """Return the values of a spectrum that are not above `level`, and `total` plus the `power` of the others."""
    b, nothing = f.b, f.zeros()
    size = f._declare(f"llvm.fabs.v{f.lanes}f32", nothing.type, [nothing.type])
    mean = level
    for group in range(at_once()):
        mean = b.insert_element(mean, f.element(-1.0), simd.INT32(SIDE * group))  # the mean is always kept
    for i, value in enumerate([nothing, *values[1:]] if temporal else values):  # the mean across the patches stays
        limit = b.select(b.icmp_signed("==", at, f.int(0)), mean, level) if i == 0 else level
        stands_out = b.fcmp_ordered(">", b.call(size, [value]), limit)
        total = f.plus(total, b.select(stands_out, power, nothing))
        values[i] = b.select(stands_out, nothing, value)
    return values, total


def _wiener(
    f: simd.Function, values: list[Any], guides: list[Any], level: Any, power: Any, total: Any, temporal: bool
) -> tuple[list[Any], Any]:
    """Return what the gains that the spectrum of a guide gives take from one, and `total` plus `power` of their squares."""
    squares, one = f.zeros(), f.full(1.0)
    values[:temporal] = [f.zeros()] * temporal  # the mean across the patches stays
    for i, value in list(enumerate(guides))[temporal:]:
        lost = f.b.fdiv(level, f.fma(value, value, level))
        gain = f.minus(one, lost)
        values[i], squares = f.b.fmul(values[i], lost), f.fma(gain, gain, squares)
    return values, f.fma(squares, power, total)


def _weights(f: simd.Function, total: Any, more: int) -> list[Any]:
    """Return the weight of each group: 1 / the sum of its lanes and `more`."""
    lanes, found = [f.b.extract_element(total, simd.INT32(lane)) for lane in range(f.lanes)], []
    for first in range(0, f.lanes, f.lanes // at_once()):
        whole = f.plus(f.tree(lanes[first : first + f.lanes // at_once()]), f.element(float(more)))
        found.append(f.b.fdiv(f.element(1.0), whole))
    return found


def _build(n: int, guided: bool, temporal: bool, uneven: bool, parted: bool, kept: npt.DTypeLike) -> int:
    """Compile what `compiled` returns."""
    f = simd.Function("filter", "float32", "pppppilllllll")
    _, _, scales, strengths, scratch, _, _, _, top, rows, columns, step, _ = f.arguments
    many, pixels, read = at_once(), SIDE**2 * at_once(), (np.int16, np.float16) if parted else (np.float32, np.float32)
    kinds = [of_kind(f, kind) for kind in (*read, kept, kept)]

    def across(strength: Any, evened: _Evened | None, at: Any, total: Any) -> list[Any]:
        values = _spectrum(f, n, at, evened)
        level, power = f.load(scales, at), f.load(scales, f.add(at, pixels))
        level = f.b.fmul(level, strength)
        if guided:
            guides = _spectrum(f, n, f.add(at, n * pixels), evened)
            values = [f.plus(*pair) for pair in zip(values, guides, strict=True)]
            values, total = _wiener(f, values, guides, level, power, total, temporal)
        else:
            values, total = _thresholded(f, values, level, power, at, total, temporal)
        values = _back(f, values)
        for i, value in enumerate(evened.back(values) if evened else values):
            f.store(value, scratch, f.add(at, i * pixels))
        return [total]

    apart = f.b.udiv(f.add(columns, many - 1), f.int(many))

    def some(y: Any, x: Any) -> None:
        each = [f.add(x, f.mul(apart, i)) for i in range(many)]
        # if columns are odd, one is done twice, once without weight
        there = [f.b.icmp_signed("<", x, columns) for x in each]
        each = [f.least(x, f.add(columns, -1)) for x in each]
        numbers = [f.add(f.mul(y, columns), x) for x in each]
        first = f.add(top, f.mul(y, step), -_BEFORE)
        groups = [
            _Group(f, n, kinds, number, first, f.add(f.mul(x, step), -_BEFORE))
            for number, x in zip(numbers, each, strict=True)
        ]
        for group in groups:
            f.loop(n, [], lambda patch, group=group: group.fetch(patch, [0, 1, 2] if guided else [1, 2], x))
        _forward(f, groups, 1, 0)
        if guided:
            _forward(f, groups, 0, n * pixels)
        strength = [f.scalar(strengths, number) for number in numbers]
        variance = [f.b.fmul(s, s) for s in strength]
        evened = _Evened(f, groups) if uneven else None
        levels = functools.partial(across, _each(f, variance if guided else strength), evened)
        (total,) = f.loop(pixels, [f.zeros()], levels, step=f.lanes)
        weights = _weights(f, total, guided + SIDE**2 * temporal)
        weights = [f.b.fdiv(*pair) for pair in zip(weights, variance, strict=True)]
        if evened:
            powers = [f.b.extract_element(evened.power, simd.INT32(SIDE * i)) for i in range(many)]
            weights = [f.b.fmul(w, f.b.fmul(p, f.element(1 / n))) for w, p in zip(weights, powers, strict=True)]
        _backward(f, groups, [f.b.select(*pair, f.element(0.0)) for pair in zip(there, weights, strict=True)])

    f.loop(rows, [], lambda y: f.loop(apart, [], lambda x: some(y, x)) and None)
    return f.compile()
