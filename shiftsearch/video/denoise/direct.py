"""Groups that go straight from the frames to their sums, in main memory: one is read, filtered and added after another.

Nothing is kept of a group. Bands of queries that may add to the same pixels take turns, in an order that depends on
the offsets and not on threads.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from shiftsearch._geometry import query_grid
from shiftsearch.video.denoise import shrink
from shiftsearch.video.denoise.groups import of_each_frame, worst
from shiftsearch.video.denoise.lights import Lights
from shiftsearch.video.denoise.margins import fold_margins, has_halves, mirror, with_margins, zeros_with_margins
from shiftsearch.video.denoise.model import resized
from shiftsearch.video.denoise.passes import Frame, Pass

_ROWS = 8  # of queries in a band

Band = tuple[int, int]  # the first row of queries, and the one behind the last


def covers(xp: Any, size: tuple[int, ...], count: int, pass_: Pass) -> bool:
    """Return whether this module finds and filters the groups of a pass, in frames of (H, W), among so many at most."""
    if xp is not np or _rule(pass_)[0] not in (shrink.threshold, shrink.wiener) or pass_.find is not of_each_frame:
        return False
    code, fits = _code(), pass_.patch <= min(size)  # in smaller ones, mirrored patches are the same
    return pass_.patch == code.SIDE and pass_.depth == 1 and count <= code.MOST and fits


def add_groups(
    frames: list[Frame],
    seen: list[Frame],
    lights: Lights,
    here: int,
    pass_: Pass,
    in_order: Callable[..., Iterator[Any]],
) -> None:
    """Find and filter the groups of a frame, seen in its light, and add the estimates to the sums of all frames."""
    for frame in frames:
        _begin(frame)
    offsets = _found(seen, here, pass_, in_order)
    if pass_.begin:
        _mirror_places(offsets, seen[here].shape[1:], pass_)
    planes = _planes(frames, seen, pass_)
    of_planes = range(len(planes[0][0]))
    lit = [_lit(frames, lights, seen, plane) for plane in of_planes]
    told = [_told(planes, lit[plane], seen[here], pass_, plane, offsets.shape[:2]) for plane in of_planes]
    uneven = any(frame.noisier != 1 for frame in seen)
    run = _code().compiled(len(frames), pass_.guided, pass_.temporal, uneven, _parted(seen), kept())
    work = partial(_filter, run, told, here, offsets, pass_.stride, planes[0][0].base.shape[2])
    for bands in _apart(offsets, pass_):
        for _ in in_order(work, bands, 1):
            pass


def kept() -> npt.DTypeLike:
    """Return the kind of numbers in which noise is added up. It is small: in half precision, it errs hardly."""
    return np.float16 if has_halves() else np.float32


def mean(frame: Frame) -> Any:
    """Return a frame without the mean of the noise that is removed from its patches, with margins."""
    code, coverage, noisy = _whole(), zeros_with_margins(np, frame.shape), with_margins(np, frame.noisy)
    for weights, covered in zip(frame.weighed.base, coverage.base, strict=True):
        code.cover(weights, covered)
    for planes in (coverage, frame.sums):
        fold_margins(np, planes)
    for level, *planes in zip(frame.noise.sigma, noisy.base, frame.sums.base, coverage.base, strict=True):
        code.settle(*planes, _unit(level))
    return mirror(np, coverage)


def _begin(frame: Frame) -> None:
    """Give a frame memory for what is added to it, if it has none: it gets it late, when the first group adds to it."""
    if frame.sums is None:
        frame.sums, frame.weighed = (zeros_with_margins(np, frame.shape, kept()) for _ in range(2))


def _unit(level: float) -> float:
    """Return the unit in which noise is added up, a power of 2: half precision has few small numbers."""
    return 2.0 ** math.frexp(level)[1]


def _planes(frames: list[Frame], seen: list[Frame], pass_: Pass) -> list[list[Any]]:
    """Return of all frames what is read, and what is added to."""
    if not pass_.guided:
        guide = rest = [with_margins(np, frame.noisy) for frame in seen]
    elif _parted(seen):
        guide, rest = zip(*(frame.parts for frame in seen), strict=True)
    else:
        guide = [with_margins(np, frame.guide) for frame in seen]
        rest = [with_margins(np, frame.noisy - its) for frame, its in zip(seen, guide, strict=True)]
    return [guide, rest, [frame.sums for frame in frames], [frame.weighed for frame in frames]]


def _parted(frames: list[Frame]) -> bool:
    return all(frame.parts for frame in frames)


def _filter(run: Any, told: list[Any], here: int, offsets: np.ndarray, stride: int, width: int, band: Band) -> None:
    """Filter the groups of a band of queries and add the noise that is removed."""
    (first, end), (_, columns, n, _) = band, offsets.shape
    scratch = _code().scratch(n)
    for tables, lit, scales, relative in told:
        arrays = tables, lit, scales, relative[first:end], scratch, offsets[first:end]
        numbers = here, len(lit), first * stride, end - first, columns, stride, width
        run(*(array.ctypes.data for array in arrays), *numbers)


# --- what the code is told ----------------------------------------------------------------------------
def _code() -> Any:
    return importlib.import_module("shiftsearch.video.denoise.spectra")  # loads numba


def _whole() -> Any:
    return importlib.import_module("shiftsearch.video.denoise.halves")


def _nearest() -> Any:
    return importlib.import_module("shiftsearch.video.denoise.nearest")


def _rule(pass_: Pass) -> tuple[Any, dict[str, float]]:
    """Return the filter of a pass and its options."""
    return getattr(pass_.shrink, "func", pass_.shrink), getattr(pass_.shrink, "keywords", {})


def _told(
    planes: list[list[Any]], lit: np.ndarray, frame: Frame, pass_: Pass, plane: int, grid: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Return what the code is told of a plane: where it lies, its light, its noise, and how strong that is."""
    tables = [
        [each[plane].ctypes.data + pass_.begin * sum(each.strides[1:]) for each in of_frames] for of_frames in planes
    ]
    return np.array(tables), lit, _scales(frame, plane, pass_), _relative(frame, plane, pass_, grid)


def _scales(frame: Frame, plane: int, pass_: Pass) -> np.ndarray:
    """Return the levels of the noise at each frequency, and its powers."""
    rule, options = _rule(pass_)
    sigma, shape = (
        pass_.times_noise(frame) * frame.strength[plane] * frame.noise.sigma[plane],
        frame.noise.shapes[plane],
    )
    shape = np.ones(pass_.patch**2) if shape is None else resized(shape, pass_.patch).ravel()
    levels = (
        options["factor"] * sigma * shape
        if rule is shrink.threshold
        else options["share"] * shrink.variance(sigma) * shape**2
    )
    return np.concatenate([_code().turned(scale) for scale in (levels, shape**2)], dtype=np.float32)


def _relative(frame: Frame, plane: int, pass_: Pass, grid: tuple[int, ...]) -> np.ndarray:
    found = frame.relative(np, plane, pass_)
    return np.ones(grid, np.float32) if found is None else np.ascontiguousarray(found, np.float32)


def _lit(frames: list[Frame], lights: Lights, seen: list[Frame], plane: int) -> np.ndarray:
    """Return for each frame what brings noise to its light and unit, a factor, and that of weights; and its noise."""
    gains = [1 if light is None else light.gain for light in lights]
    found = [
        (gain / _unit(own.noise.sigma[plane]), gain**2, frame.noisier)
        for gain, own, frame in zip(gains, frames, seen, strict=True)
    ]
    return np.array(found, np.float32)


# --- places -------------------------------------------------------------------------------------------
def _found(frames: list[Frame], here: int, pass_: Pass, in_order: Callable[..., Iterator[Any]]) -> np.ndarray:
    """Return the offsets (h, w, n, 3) of the groups of a frame, as `of_each_frame` finds them."""
    planes = [with_margins(np, frame.seen_from(np, pass_.begin)[None]) for frame in frames]
    height, width = planes[0].shape[1:]
    rows, columns = query_grid(height, width, pass_.stride)
    limit, offsets = np.empty((rows, columns), np.float32), np.empty((rows, columns, len(frames), 3), np.int32)
    limit[...] = worst(np, frames[here], pass_)
    every = [flow for frame in frames for flow in (frame.forward, frame.backward) if flow is not None]
    halves = all(flow.dtype == np.float16 for flow in every)
    kind = np.float16 if halves else np.float32
    flows = [_of_kind(kind, frame.forward) for frame in frames], [_of_kind(kind, frame.backward) for frame in frames]
    tables = (
        np.array([plane.ctypes.data for plane in planes]),
        np.array([[_flow(flow, (height, width)) for flow in way] for way in flows]),
    )
    numbers = columns, pass_.stride, planes[0].strides[1] // 4, height, width
    run = _nearest().compiled(pass_.window, pass_.temporal, pass_.close / pass_.worst, halves)

    def find(band: Band) -> None:
        first, end = band
        arrays = *tables, limit[first:end], offsets[first:end]
        run(*(array.ctypes.data for array in arrays), here, len(frames), first, end - first, *numbers)

    for _ in in_order(find, [(first, min(first + _ROWS, rows)) for first in range(0, rows, _ROWS)], 1):
        pass
    return offsets


def _mirror_places(offsets: np.ndarray, size: tuple[int, ...], pass_: Pass) -> None:
    """Change offsets (h, w, n, 3) that lead out of the frame where queries begin later, as `gather` mirrors places."""
    for axis, n in enumerate(size):
        along = offsets[..., 1 + axis]
        at = np.arange(along.shape[axis], dtype=np.int32) * pass_.stride + pass_.begin
        at = at[:, None, None] if axis == 0 else at[:, None]
        np.minimum(along, 2 * (n - 1 - at) - along, out=along)


def _of_kind(kind: npt.DTypeLike, flow: Any) -> Any:
    odd = flow is not None and any(stride % flow.itemsize for stride in flow.strides)
    return None if flow is None else flow.astype(kind, copy=odd)


def _flow(flow: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray:
    """Return what `nearest.compiled` is told of a flow in frames of `size`."""
    entry = np.zeros(_nearest().ENTRY, np.int64)
    if flow is not None:
        counts = np.array(flow.shape[1:])
        entry[:6] = flow.ctypes.data, *(stride // flow.itemsize for stride in flow.strides), *counts
        entry[6:].view(np.float32)[...] = *(counts / size), *(size / counts)
    return entry


def _apart(offsets: np.ndarray, pass_: Pass) -> list[list[Band]]:
    """Return lists of bands of rows of queries; those of a list add to different pixels."""
    down, count = offsets[..., 1].reshape(len(offsets), -1), len(offsets)
    rows = np.arange(count) * pass_.stride
    low, high = rows + down.min(1), rows + down.max(1) + pass_.patch
    lists: list[tuple[list[Band], list[tuple[int, int]]]] = []
    for first in range(0, count, _ROWS):
        end = min(first + _ROWS, count)
        reach = int(low[first:end].min()), int(high[first:end].max())
        fitting = (pair for pair in lists if all(reach[0] >= b or reach[1] <= a for a, b in pair[1]))
        bands, reached = next(fitting, None) or _appended(lists)
        bands.append((first, end))
        reached.append(reach)
    return [bands for bands, _ in lists]


def _appended(lists: list[Any]) -> Any:
    lists.append(([], []))
    return lists[-1]
