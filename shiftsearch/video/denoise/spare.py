"""Memory of frames, used again for those that follow: a system takes longer to give new memory than work takes to fill it.

It lies apart from that of smaller arrays, between which it would leave gaps.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

_USERS: set[object] = set()
_SPARE: dict[int, list[mmap.mmap]] = {}  # by size


@contextmanager
def reused() -> Iterator[None]:
    """Use the memory of `zeros` that nobody holds for others, up to the end. Then it is given back."""
    user = object()
    _USERS.add(user)
    try:
        yield
    finally:
        _USERS.discard(user)
        _SPARE.clear()  # what is in use goes to lists that nobody else knows, and so is given back later


def zeros(shape: tuple[int, ...], kind: npt.DTypeLike = np.float32) -> np.ndarray:
    """Return zeros in memory of their own."""
    size = np.dtype(kind).itemsize * math.prod(shape)
    if not _USERS:
        return np.ndarray(shape, kind, _new(size))
    spare = _SPARE.setdefault(size, [])
    try:
        memory = spare.pop()
    except IndexError:
        memory = _new(size)
    array = np.ndarray(shape, kind, memory)
    array[...] = 0
    weakref.finalize(array, spare.append, memory).atexit = False
    return array


def _new(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, access=mmap.ACCESS_COPY)  # no other process that is forked shares it
