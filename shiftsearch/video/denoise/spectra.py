"""Vector code for groups of patches: transformed to their cosine spectrum, shrunk and transformed back.

A group stays in the cache throughout. Vectors run along the rows of one or two patches, then, transposed, along
their columns, then across the patches of the group. Cosines are symmetric or antisymmetric, so sums and differences of
the two ends halve the products.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.memory import aligned
from shiftsearch.video.denoise.cosines import dct

_SIDE = 8  # of a patch
_MOST = 17  # patches of a group: code grows with the square of it
_Transform = Callable[[simd.Function, list[Any]], list[Any]]


def covers(groups: np.ndarray) -> bool:
    """Return whether this code can filter these groups, (q, n, pixels)."""
    return groups.dtype == np.float32 and groups.shape[1] <= _MOST and groups.shape[2] == _SIDE**2


def threshold(groups: np.ndarray, level: float, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop the frequencies of groups (q, n, pixels) below `level` times shape (pixels), in place.

    Returns the groups and 1 / the sum of shape**2 of the frequencies that are left (q).
    """
    return _shrunk(groups, groups, level * shape, shape * shape, False)


def wiener(groups: np.ndarray, guide: np.ndarray, variance: float, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multiply each frequency of groups (q, n, pixels) by a gain, in place.

    It is gain = guide**2 / (guide**2 + variance * shape**2), with shape (pixels). Returns the groups and
    1 / (1 + sum of gain**2 * shape**2) (q).
    """
    return _shrunk(groups, np.ascontiguousarray(guide), variance * (shape * shape), shape * shape, True)


def _shrunk(
    groups: np.ndarray, guide: np.ndarray, levels: np.ndarray, power: np.ndarray, guided: bool
) -> tuple[np.ndarray, np.ndarray]:
    groups = np.ascontiguousarray(groups)
    count, n, pixels = groups.shape
    weights, scratch = np.empty(count, np.float32), aligned(2 * n * pixels, np.float32)
    turned = [scale.reshape(_SIDE, _SIDE).T.ravel() for scale in (levels, power)]  # as spectra are in the code below
    scales = np.concatenate(turned, dtype=np.float32)
    arrays = groups, guide, scales, weights, scratch
    _compiled(n, guided)(*(array.ctypes.data for array in arrays), count)
    return groups, weights


@functools.cache
def _compiled(n: int, guided: bool) -> Callable[..., int]:
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 5, ctypes.c_int64)(_build(n, guided))


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


def _forth(f: simd.Function, values: list[Any]) -> list[Any]:
    """Return the cosine transform across vectors."""
    n, half, basis = len(values), len(values) // 2, dct(len(values))
    ends = [(values[i], values[n - 1 - i]) for i in range(half)]
    sums, differences = [f.plus(*pair) for pair in ends] + values[half : n - half], [f.minus(*pair) for pair in ends]
    return [
        _weighed(f, row[:half], differences) if k % 2 else _weighed(f, row[: n - half], sums)
        for k, row in enumerate(basis)
    ]


def _back(f: simd.Function, values: list[Any]) -> list[Any]:
    """Return the inverse cosine transform across vectors."""
    n, half, basis = len(values), len(values) // 2, dct(len(values))
    even = [_weighed(f, column, values[::2]) for column in basis[::2, : n - half].T]
    odd = [_weighed(f, column, values[1::2]) for column in basis[1::2, :half].T]
    first = [f.plus(*pair) for pair in zip(even, odd, strict=False)]
    return first + even[half:] + [f.minus(*pair) for pair in zip(even, odd, strict=False)][::-1]


def _turned(f: simd.Function, square: list[Any]) -> list[Any]:
    """Return 8 vectors with each patch in them transposed, by interleaving halves three times."""
    n = square[0].type.count
    low = [n * (i % 2) + i // _SIDE * _SIDE + i % _SIDE // 2 for i in range(n)]
    high = [i + _SIDE // 2 for i in low]
    for _ in range(3):
        pairs = zip(square[: _SIDE // 2], square[_SIDE // 2 :], strict=True)
        square = [f.shuffle(x, y, half) for x, y in pairs for half in (low, high)]
    return square


def _paired(f: simd.Function, vectors: list[Any]) -> list[Any]:
    """Return (first halves, second halves) of each pair of vectors. This function is its own inverse."""
    low = [*range(_SIDE), *range(2 * _SIDE, 3 * _SIDE)]
    high = [i + _SIDE for i in low]
    pairs = zip(vectors[::2], vectors[1::2], strict=True)
    return [f.shuffle(x, y, half) for x, y in pairs for half in (low, high)]


def _loaded(f: simd.Function, memory: Any, at: Any, patches: int) -> list[Any]:
    """Return the rows of one patch, or of two neighbours side by side."""
    if patches == 1:
        return [f.load(memory, f.add(at, row * _SIDE), _SIDE) for row in range(_SIDE)]
    two_rows = [f.load(memory, f.add(at, i * 2 * _SIDE), 2 * _SIDE) for i in range(_SIDE)]
    return _paired(f, [two_rows[i // 2 + i % 2 * (_SIDE // 2)] for i in range(_SIDE)])


def _stored(f: simd.Function, vectors: list[Any], memory: Any, at: Any, patches: int) -> None:
    """Store what `_loaded` loads."""
    if patches == 2:
        both = _paired(f, vectors)
        vectors = both[::2] + both[1::2]
    for i, vector in enumerate(vectors):
        f.store(vector, memory, f.add(at, i * patches * _SIDE))


def _transform_patches(
    f: simd.Function, n: int, given: Any, begin: Any, out: Any, to: Any, transform: _Transform
) -> None:
    """Write `transform` of the n patches of a group, along rows and columns, from given[begin:] to out[to:].

    If two patches are done at once and n is odd, the last pair repeats one patch.
    """
    b, pixels = f.b, _SIDE**2
    at_once = 2 if f.lanes >= 2 * _SIDE and n > 1 else 1

    def some(patch: Any) -> None:
        patch = f.mul(b.select(b.icmp_signed("<", patch, f.int(n - at_once)), patch, f.int(n - at_once)), pixels)
        vectors = _turned(f, transform(f, _loaded(f, given, f.add(begin, patch), at_once)))
        _stored(f, transform(f, vectors), out, f.add(to, patch), at_once)

    f.loop(n, [], some, step=at_once)


def _spectrum(f: simd.Function, n: int, scratch: Any, at: Any) -> list[Any]:
    """Return the transform across the n patches of a group, of a vector of numbers of each, from scratch[at:]."""
    return _forth(f, [f.load(scratch, f.add(at, i * _SIDE**2)) for i in range(n)])


def _thresholded(
    f: simd.Function, values: list[Any], level: Any, power: Any, at: Any, total: Any
) -> tuple[list[Any], Any]:
    """Return a spectrum without values that are not above `level`, and `total` plus the `power` of those left."""
    b, nothing = f.b, f.zeros()
    size = f._declare(f"llvm.fabs.v{f.lanes}f32", nothing.type, [nothing.type])
    mean = b.insert_element(level, f.element(-1.0), simd.INT32(0))  # the mean is always kept
    for i, value in enumerate(values):
        limit = b.select(b.icmp_signed("==", at, f.int(0)), mean, level) if i == 0 else level
        stands_out = b.fcmp_ordered(">", b.call(size, [value]), limit)
        values[i], total = b.select(stands_out, value, nothing), f.plus(total, b.select(stands_out, power, nothing))
    return values, total


def _wiener(
    f: simd.Function, values: list[Any], guides: list[Any], level: Any, power: Any, total: Any
) -> tuple[list[Any], Any]:
    """Return a spectrum times the gains that the spectrum of a guide gives, and `total` plus `power` of their squares."""
    squares = f.zeros()
    for i, value in enumerate(guides):
        square = f.b.fmul(value, value)
        gain = f.b.fdiv(square, f.plus(square, level))
        values[i], squares = f.b.fmul(values[i], gain), f.fma(gain, gain, squares)
    return values, f.fma(squares, power, total)


def _weight(f: simd.Function, total: Any, guided: bool) -> Any:
    """Return the weight of a group: 1 / the sum of the lanes, and of 1 if `guided`."""
    whole = f.tree(f.b.extract_element(total, simd.INT32(lane)) for lane in range(f.lanes))
    if guided:
        whole = f.plus(whole, f.element(1.0))
    return f.b.fdiv(f.element(1.0), whole)


def _build(n: int, guided: bool) -> int:
    """Compile `threshold`, or `wiener` if `guided`: a function of (groups, guide, scales, weights, scratch, count)."""
    f = simd.Function("shrink", "float32", "pppppl")
    groups, guide, scales, weights, scratch, count = f.arguments
    pixels, lanes = _SIDE**2, min(f.lanes, _SIDE**2)

    def across(at: Any, total: Any) -> list[Any]:
        values = _spectrum(f, n, scratch, at)
        level, power = f.load(scales, at), f.load(scales, f.add(at, pixels))
        if guided:
            values, total = _wiener(f, values, _spectrum(f, n, scratch, f.add(at, n * pixels)), level, power, total)
        else:
            values, total = _thresholded(f, values, level, power, at, total)
        for i, value in enumerate(_back(f, values)):
            f.store(value, scratch, f.add(at, i * pixels))
        return [total]

    def group(number: Any) -> None:
        begin = f.mul(number, n * pixels)
        _transform_patches(f, n, groups, begin, scratch, 0, _forth)
        if guided:
            _transform_patches(f, n, guide, begin, scratch, n * pixels, _forth)
        (total,) = f.loop(pixels, [f.zeros()], across, step=lanes)
        f.b.store(_weight(f, total, guided), f._at(weights, number))
        _transform_patches(f, n, scratch, 0, groups, begin, _back)

    f.loop(count, [], group)
    return f.compile()
