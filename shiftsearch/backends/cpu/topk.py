"""The K smallest of some numbers, in order, equal ones by their position. The twin of cuda_src/topk.cuh."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shiftsearch.backends.cpu import topk_code as code
from shiftsearch.backends.cpu.jit import helper, inline
from shiftsearch.backends.cpu.memory import Pointer, get, put
from shiftsearch.backends.cpu.topk_code import FEW

_RANKED = 256  # keys: to compare each with all others takes less time than a heap, whose steps wait for each other


class Codes(NamedTuple):
    """Addresses of the vector code."""

    shortlist: int
    ranks: int
    smallest: int


class Scratch(NamedTuple):
    """Scratch memory for as many entries as there are keys, in whole vectors."""

    found: np.ndarray
    positions: np.ndarray
    ranks: np.ndarray


@helper
def find_smallest(keys: Pointer, n: int, k: int, codes: Codes, scratch: Scratch, kept: Pointer) -> None:
    """Write the positions of the k smallest of n keys; entries after the k, and after the n keys, are overwritten."""
    found, positions, order = scratch
    if k == 1:
        code.smallest(codes.smallest, keys, kept, n)
        return
    if (k <= FEW and n < 2 * FEW) or (k > FEW and n <= min(8 * k, _RANKED)):
        code.ranks(codes.ranks, keys, order, n)
        for i in range(n):
            if get(order, i) < k:
                put(kept, get(order, i), i)
        return
    m = n
    if k <= FEW:
        m = _shortlist(keys, n, k, codes, found, positions)
        if m <= 4 * FEW:
            code.ranks(codes.ranks, found, order, m)
            for i in range(m):
                put(kept, get(order, i), get(positions, i))
            return
    else:
        for i in range(n):
            put(found, i, get(keys, i))
            put(positions, i, i)
    _sort_smallest(found, positions, m, k)
    for i in range(k):
        put(kept, i, get(positions, i))


@inline
def _shortlist(keys, n, k, codes, found, positions):
    """Write the keys that can be among the k smallest, and their positions; return how many they are."""
    end = (n + FEW - 1) // FEW * FEW
    for i in range(n, end):
        put(keys, i, np.inf)
    m = code.shortlist(codes.shortlist, keys, found, positions, end, k)
    while get(positions, m - 1) >= n:  # the padding is infinite, as keys may be
        m -= 1
    return m


@inline
def _comes_before(values, positions, i, j):
    x, y = get(values, i), get(values, j)
    return x < y or (x == y and get(positions, i) < get(positions, j))


@inline
def _swap(values, positions, i, j):
    x, p = get(values, i), get(positions, i)
    put(values, i, get(values, j))
    put(positions, i, get(positions, j))
    put(values, j, x)
    put(positions, j, p)


@helper
def _sink(values, positions, i, n):
    """Restore the heap of n entries below entry i: the worst of the kept is on top."""
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and _comes_before(values, positions, child, child + 1):
            child += 1
        if not _comes_before(values, positions, i, child):
            return
        _swap(values, positions, i, child)
        i = child


@helper
def _sort_smallest(values, positions, n, k):
    """Move the k smallest of n values and their positions to the front, in order, by a heap."""
    for i in range(k // 2 - 1, -1, -1):
        _sink(values, positions, i, k)
    for i in range(k, n):
        if _comes_before(values, positions, i, 0):
            _swap(values, positions, i, 0)
            _sink(values, positions, 0, k)
    for end in range(k - 1, 0, -1):
        _swap(values, positions, 0, end)
        _sink(values, positions, 0, end)
