"""The K best candidates of a query, as vector code. Smaller values are better, and of equal ones the first is.

NaN counts as infinite in all of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir

from shiftsearch.backends.cpu import simd
from shiftsearch.backends.cpu.simd import INT, INT32

FEW = 16  # the most that `shortlist` finds

shortlist: Callable[..., Any] = simd.caller("ppill")
ranks: Callable[..., Any] = simd.caller("pil")
smallest: Callable[..., Any] = simd.caller("pil")


def _infinite(f, n: int = FEW) -> ir.Constant:
    return f.full(float("inf"), n)


def _smaller(f, x, y):
    """Return the smaller of each two lanes, and y where x is NaN."""
    return f.b.select(f.b.fcmp_ordered("<", x, y), x, y)


@functools.cache
def build_shortlist(dtype: str) -> int:
    """Build which of n values can be among the K smallest: (values, found, positions, n, K) -> how many.

    The K-th smallest of 16 lane minima bounds the K-th smallest of all; the values that are not above this bound are
    written side by side, in order. n is a multiple of 16, K at most 16.
    """
    f = simd.Function("shortlist", dtype, "ppill")
    values, found, positions, n, k = f.arguments
    (minima,) = f.loop(n, [_infinite(f)], lambda i, low: [_smaller(f, f.load(values, i, FEW), low)], step=FEW)
    bound = f.low(_kth_smallest(f, minima, k), f.lanes)

    def keep(i, count):
        b, lanes = f.b, f.lanes
        vector = _smaller(f, f.load(values, i), f.low(_infinite(f), lanes))
        mask = b.fcmp_ordered("<=", vector, bound)
        where = f.count_from(i, lanes)
        bits = b.zext(b.bitcast(mask, ir.IntType(lanes)), INT)
        if simd.has_compress():
            f.store(f.compress(vector, mask), found, count)
            f.store(f.compress(where, mask), positions, count)
            return [f.add(count, b.ctpop(bits))]
        nothing = b.icmp_unsigned("==", bits, f.int(0))
        to = f, values, found, positions
        return f.loop(b.select(nothing, f.int(0), f.int(lanes)), [count], partial(_keep_one, *to, i, bits))

    (count,) = f.loop(n, [f.int(0)], keep, step=f.lanes)
    return f.compile(count)


def _kth_smallest(f, minima, k):
    """Return the k-th smallest of 16 values, in all lanes: the least that at least k of them are not above."""
    b, count = f.b, f.integers([0] * FEW)
    for lane in range(FEW):
        one = f.shuffle(minima, minima, [lane] * FEW)
        count = b.add(count, b.zext(b.fcmp_ordered("<=", one, minima), count.type))
    enough = b.icmp_signed(">=", count, f.splat(b.trunc(k, INT32), FEW))
    return _least(f, b.select(enough, minima, _infinite(f)))


def _least(f, values):
    """Return the least of 16 values, in all lanes."""
    for by in (8, 4, 2, 1):
        values = _smaller(f, values, f.rotate(values, by))
    return values


def _keep_one(f, values, found, positions, i, bits, lane, count):
    """Write value i + lane, always: `count` moves on only if its bit says that it is kept."""
    b, infinite, at = f.b, f.element(float("inf")), f.add(i, lane)
    b.store(_smaller(f, f.scalar(values, at), infinite), f._at(found, count))
    b.store(b.trunc(at, INT32), f._at(positions, count))
    return [f.add(count, b.and_(b.lshr(bits, lane), f.int(1)))]


@functools.cache
def build_ranks(dtype: str) -> int:
    """Build (values, ranks, n): how many of n values come before each one. Whole vectors are read and written."""
    f = simd.Function("ranks", dtype, "pil")
    values, ranks, n = f.arguments
    b, infinite = f.b, _infinite(f)

    def block(i):
        mine, behind = _smaller(f, f.load(values, i, FEW), infinite), f.add(i, FEW)
        where = f.count_from(i, FEW)

        def tie(j, value):
            earlier = b.icmp_signed("<", f.splat(b.trunc(j, INT32), FEW), where)
            return b.or_(b.fcmp_ordered("<", value, mine), b.and_(b.fcmp_ordered("==", value, mine), earlier))

        def count(first, end, before, comes_before):
            def other(j, before):
                value = _smaller(f, f.splat(f.scalar(values, j), FEW), infinite)
                return [b.add(before, b.zext(comes_before(j, value), before.type))]

            return f.loop(end, [before], other, start=first)[0]

        before = count(0, i, f.integers([0] * FEW), lambda j, value: b.fcmp_ordered("<=", value, mine))
        before = count(i, f.least(behind, n), before, tie)
        before = count(behind, n, before, lambda j, value: b.fcmp_ordered("<", value, mine))
        f.store(before, ranks, i)

    f.loop(n, [], block, step=FEW)
    return f.compile()


@functools.cache
def build_smallest(dtype: str) -> int:
    """Build (values, position, n): position[0] is that of the first of n values that none is below."""
    f = simd.Function("smallest", dtype, "pil")
    values, position, n = f.arguments
    b, infinite = f.b, _infinite(f)

    def lanes(i, least, where):
        value = f.load(values, i, FEW)
        value = b.select(f.first(b.sub(n, i), FEW), value, infinite)
        below = b.fcmp_ordered("<", value, least)
        return [b.select(below, value, least), b.select(below, f.count_from(i, FEW), where)]

    least, where = f.loop(n, [infinite, f.integers([0] * FEW)], lanes, step=FEW)
    where = b.select(b.fcmp_ordered("==", least, _least(f, least)), where, f.integers([2**31 - 1] * FEW))
    for by in (8, 4, 2, 1):
        other = f.rotate(where, by)
        where = b.select(b.icmp_signed("<", other, where), other, where)
    b.store(b.extract_element(where, INT32(0)), f._at(position, 0))
    return f.compile()
