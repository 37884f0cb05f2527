"""A part of the query grid, which bounds the memory of `gather` and `fold`."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches, patches_of
from shiftsearch._types import Native
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.patches import GridSpec

Queries = slice | tuple[slice, ...]


@dataclass(frozen=True, kw_only=True)
class QueriesSpec(GridSpec):
    """A part of the query grid: first and last + 1 of frames, rows and columns, as `bounds` returns them."""

    queries: tuple[int, ...] | None

    def part(self, grid: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the slices of the part in a query grid of these sizes."""
        if self.queries is None:
            return tuple(slice(0, n) for n in grid)
        ends = [_inside(end, n) for end, n in zip(self.queries, (n for n in grid for _ in range(2)), strict=True)]
        part = tuple(map(slice, ends[::2], ends[1::2]))
        self.check(all(s.start < s.stop for s in part), "queries", f"a part of the {grid} queries that is not empty")
        return part

    def patches(self, part: tuple[slice, ...], patch: int) -> Patches:
        origin = tuple(s.start for s in part)
        return patches_of(patch, self.stride, self.dilation, self.border, origin=origin)


_END = 2**62  # the end of a slice without one


def bounds(caller: str, queries: Any) -> tuple[int, ...] | None:
    """Return first and last + 1 of the frames, rows and columns of `queries`; None stays None, for all of them."""
    given = queries if isinstance(queries, tuple) else () if queries is None else (queries,)
    if not given:
        return None
    whole = slice(None)
    full = {1: (whole, *given, whole), 2: (whole, *given), 3: given}.get(len(given), ())
    if not full or not all(isinstance(part, slice) and _in_steps_of_one(part) for part in full):
        expected = "None, a slice of rows, (rows, columns) or (frames, rows, columns), in steps of 1"
        raise ShiftsearchError(f"{caller}: queries is {queries!r}, expected {expected}")
    return tuple(end for part in full for end in (_or(part.start, 0), _or(part.stop, _END)))


def _or(end: Any, default: int) -> int:
    return default if end is None else end


def _in_steps_of_one(part: slice) -> bool:
    ends = all(end is None or isinstance(end, Integral) for end in (part.start, part.stop))
    return ends and (part.step is None or (isinstance(part.step, Integral) and part.step == 1))


def _inside(end: int, n: int) -> int:
    """Return a bound by the rules of slices: negative ones count from the end, and all are limited to the axis."""
    if end == _END:
        return n
    end = end + n if end < 0 else end
    return n if end > n else max(end, 0)


class Part:
    """The queries of a call, as a part of the arrays of all queries."""

    def __init__(self, backend: Any, spec: QueriesSpec, offsets: Native, patch: int):
        part = spec.part(offsets.shape[2:5])
        self.backend: Any = backend
        self.at: tuple[slice, ...] = (slice(None), slice(None), *part)
        self.patches: Patches = spec.patches(part, patch)
        self.all: Native = offsets
        self.offsets: Native = self.of(offsets)

    def of(self, array: Native) -> Native:
        return array[self.at]

    def whole(self, values: Native, shape: tuple[int, ...]) -> Native:
        """Return gradients of the part as gradients of all queries."""
        out = self.backend.xp.zeros(shape, values.dtype)
        out[self.at] = values
        return out

    def moves(self) -> bool:
        """Return whether offsets have a gradient: if they are floats."""
        return np.issubdtype(self.all.dtype, np.floating)

    def slope(self, v: Native, patches: Native) -> Native:
        """Return the derivative of sum(patches * gather(v)) by the offsets of the part."""
        return self.backend.slope(None, v, None, self.offsets, self.patches, patches=patches)
