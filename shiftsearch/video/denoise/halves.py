"""Vector code for whole planes, some of half precision, which NumPy reads and writes slowly."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shiftsearch.backends.cpu import simd

SIDE = 8  # of a patch
_ONE = 2.0**14  # 1 as a whole number of 16 bits, which so reach to 2
_KINDS = {"float16": simd.HALF, "int16": simd.INT16}


def of_kind(f: simd.Function, kind: npt.DTypeLike) -> Any:
    """Return the type of numbers of a kind."""
    return _KINDS.get(np.dtype(kind).name, f.element)


def single(f: simd.Function, x: Any) -> Any:
    """Return a vector in single precision. Whole numbers are multiples of 1 / 2**14."""
    wide = f.widened(x)
    return f.b.fmul(wide, f.full(1 / _ONE, x.type.count)) if x.type.element == simd.INT16 else wide


def _whole(f: simd.Function, x: Any) -> Any:
    """Return the nearest whole numbers of 16 bits."""
    b, (low, high) = f.b, (f.full(sign * (2 * _ONE - 1)) for sign in (-1, 1))
    x = b.fmul(x, f.full(_ONE))
    x = b.select(b.fcmp_ordered(">", x, low), x, low)
    x = b.select(b.fcmp_ordered("<", x, high), x, high)
    nearest = f._declare(f"llvm.rint.v{f.lanes}f32", x.type, [x.type])
    return f.narrowed(b.call(nearest, [x]), simd.INT16)


# --- pixel by pixel -------------------------------------------------------------------------------
def settle(noisy: np.ndarray, sums: np.ndarray, coverage: np.ndarray, unit: float) -> None:
    """Take the mean noise from a plane and write what is left in the place of the coverage. Sums are in units."""
    _run(_settled, unit, [noisy, sums, coverage], [coverage])


def part(noisy: np.ndarray, guide: np.ndarray, whole: np.ndarray, rest: np.ndarray) -> None:
    """Write a plane as two of 16 bits: the guide in whole numbers, and the rest, which is small, in half precision."""
    _run(_parted, 0, [noisy, guide], [whole, rest])


def join(parts: Sequence[np.ndarray], plane: np.ndarray) -> None:
    """Write the sum of parts of a plane."""
    _run(_joined, 0, parts, [plane])


def _settled(f: simd.Function, unit: Any, noisy: Any, sums: Any, coverage: Any) -> list[Any]:
    mean = f.b.fdiv(sums, coverage)
    size = f.b.call(f._declare(f"llvm.fabs.v{f.lanes}f32", mean.type, [mean.type]), [mean])
    known = f.b.fcmp_ordered("<", size, f.full(np.inf))  # somewhere there may be no patch
    return [f.b.select(known, f.minus(noisy, f.b.fmul(mean, unit)), noisy)]


def _parted(f: simd.Function, _: Any, noisy: Any, guide: Any) -> list[Any]:
    whole = _whole(f, guide)
    return [whole, f.minus(noisy, single(f, whole))]


def _joined(f: simd.Function, _: Any, *parts: Any) -> list[Any]:
    return [f.tree(parts)]


def _run(
    work: Callable[..., list[Any]], number: float, given: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> None:
    """Run work(function, number, *vectors) to vectors on the numbers of arrays."""
    kinds = [array.dtype for array in (*given, *found)]
    arrays = np.full(1, number, np.float32), *given, *found  # alive until the end
    _compiled(work, tuple(kinds), len(given))(*(array.ctypes.data for array in arrays), given[0].size)


@functools.cache
def _compiled(work: Callable[..., list[Any]], kinds: tuple[np.dtype, ...], count: int) -> Callable[..., int]:
    f = simd.Function("each", "float32", "p" * (1 + len(kinds)) + "l")
    number, *planes, size = f.arguments
    number = f.splat(f.scalar(number, 0))
    planes = [f.b.bitcast(plane, of_kind(f, kind).as_pointer()) for plane, kind in zip(planes, kinds, strict=True)]

    def results(at: Any) -> list[Any]:
        return work(f, number, *(single(f, f.load(plane, at)) for plane in planes[:count]))

    def write(vectors: list[Any], at: Any) -> None:
        for plane, vector in zip(planes[count:], vectors, strict=True):
            kind = plane.type.pointee
            f.store(vector if vector.type.element == kind else f.narrowed(vector, kind), plane, at)

    end = f.add(size, -f.lanes)
    last = results(end)  # before what is read there is overwritten
    f.loop(end, [], lambda at: write(results(at), at), step=f.lanes)
    write(last, end)
    return _function(f, 1 + len(kinds), 1)


def _function(f: simd.Function, arrays: int, numbers: int) -> Callable[..., int]:
    kinds = [ctypes.c_void_p] * arrays + [ctypes.c_int64] * numbers
    return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(f.compile())


# --- patches --------------------------------------------------------------------------------------
def cover(weights: np.ndarray, coverage: np.ndarray) -> None:
    """Write how much patches cover each pixel of a plane (H, W), given their weights at their places; both with margins."""
    _covering(weights.dtype)(weights.ctypes.data, coverage.ctypes.data, *weights.shape)


@functools.cache
def _covering(kind: np.dtype) -> Callable[..., int]:
    """Return a function for sums of 8 weights along rows, then of 8 of these sums along columns."""
    f = simd.Function("cover", "float32", "ppll")
    weights, coverage, rows, columns = f.arguments
    weights = f.b.bitcast(weights, of_kind(f, kind).as_pointer())

    def strip(x: Any) -> None:
        x = f.least(x, f.add(columns, -f.lanes))

        def row(y: Any, *above: Any) -> list[Any]:
            at = f.add(f.mul(y, columns), x)  # what lies before a row is the end of another, where no patch begins
            sums, left, kept = f.tree(f.widened(f.load(weights, f.add(at, -i))) for i in range(SIDE)), list(above), []
            for many in (1, 2, 4):  # sums of so many rows
                some, left = left[:many], left[many:]
                kept += [*some[1:], sums]
                sums = f.plus(sums, some[0])
            f.store(sums, coverage, at)
            return kept

        f.loop(rows, [f.zeros()] * (SIDE - 1), row, start=1)  # no patch begins in the first row of a margin

    f.loop(columns, [], strip, step=f.lanes)
    return _function(f, 2, 2)
