"""The K best of the candidates of a query, as vector code. Smaller values are better, and of equal ones the first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from shiftsearch.backends.cpu import simd

FEW = 16  # the most that `shortlist` finds

shortlist: Callable[..., Any] = simd.caller("ppill")
ranks: Callable[..., Any] = simd.caller("pil")
smallest: Callable[..., Any] = simd.caller("pil")


@functools.cache
def build_shortlist(dtype: str) -> int:
    """Build which of n values can be among the K smallest: (values, found, positions, n, K) -> how many.

    NaN becomes infinite in `found`.

    The K-th smallest of 16 lane minima bounds the K-th smallest of all; what is not above it is packed
    together, in order. n is a multiple of 16, K at most 16.
    """
    f = simd.Function("shortlist", dtype, "ppill")
    values, found, positions, n, k = f.arguments
    b, lanes, i32 = f.b, FEW, ir.IntType(32)
    smaller = lambda x, y: b.select(b.fcmp_ordered("<", x, y), x, y)  # noqa: E731
    infinite = f.full(float("inf"), lanes)

    def lane_minimum(i, low):
        return [smaller(f.load(values, i, lanes), low)]

    (minima,) = f.loop(n, [infinite], lane_minimum, step=lanes)
    below = ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)
    for lane in range(lanes):
        one = b.shuffle_vector(minima, minima, ir.Constant(below.type, [lane] * lanes))
        below = b.add(below, b.zext(b.fcmp_ordered("<=", one, minima), below.type))
    enough = b.icmp_signed(">=", below, f.splat(b.trunc(k, i32), lanes))
    least = b.select(enough, minima, infinite)
    for by in (8, 4, 2, 1):
        least = smaller(least, f.rotate(least, by))
    lanes = f.lanes
    bound = f.low(least, lanes)

    def keep(i, count):
        vector = smaller(f.load(values, i), f.low(infinite, f.lanes))
        mask = b.fcmp_ordered("<=", vector, bound)
        where = b.add(f.splat(b.trunc(i, i32), lanes), f.numbers(lanes))
        bits = b.zext(b.bitcast(mask, ir.IntType(lanes)), simd.INT)
        if simd.has_compress():
            f.store(f.compress(vector, mask), found, count)
            f.store(f.compress(where, mask), positions, count)
            return [f.add(count, b.ctpop(bits))]

        def one(lane, count):  # always written; the count moves on only if the value is one of them
            at = f.add(i, lane)
            value = f.scalar(values, at)
            value = b.select(b.fcmp_ordered("<", value, f.element(float("inf"))), value, f.element(float("inf")))
            b.store(value, f._at(found, count))
            b.store(b.trunc(at, i32), f._at(positions, count))
            return [f.add(count, b.and_(b.lshr(bits, lane), f.int(1)))]

        nothing = b.icmp_unsigned("==", bits, f.int(0))
        return f.loop(b.select(nothing, f.int(0), f.int(lanes)), [count], one)

    (count,) = f.loop(n, [f.int(0)], keep, step=lanes)
    return f.compile(count)


@functools.cache
def build_ranks(dtype: str) -> int:
    """Build (values, ranks, n): how many of n values come before each one; equal values in their order.

    NaN counts as infinite. Whole vectors are read and written.
    """
    f = simd.Function("ranks", dtype, "pil")
    values, ranks, n = f.arguments
    b, i32 = f.b, ir.IntType(32)
    integers = ir.VectorType(i32, FEW)

    def finite(value):
        infinite = f.full(float("inf"), FEW)
        return b.select(b.fcmp_ordered("<", value, infinite), value, infinite)

    def block(i):
        mine = finite(f.load(values, i, FEW))
        where = b.add(f.splat(b.trunc(i, i32), FEW), f.numbers(FEW))

        def other(j, before):
            value = finite(f.splat(f.scalar(values, j), FEW))
            earlier = b.icmp_signed("<", f.splat(b.trunc(j, i32), FEW), where)
            tie = b.and_(b.fcmp_ordered("==", value, mine), earlier)
            return [b.add(before, b.zext(b.or_(b.fcmp_ordered("<", value, mine), tie), integers))]

        (before,) = f.loop(n, [ir.Constant(integers, [0] * FEW)], other)
        f.store(before, ranks, i)

    f.loop(n, [], block, step=FEW)
    return f.compile()


@functools.cache
def build_smallest(dtype: str) -> int:
    """Build (values, position, n): position[0] is that of the first of n values that none is below; NaN counts as infinite."""
    f = simd.Function("smallest", dtype, "pil")
    values, position, n = f.arguments
    b, i32 = f.b, ir.IntType(32)
    infinite, integers = f.full(float("inf"), FEW), ir.VectorType(i32, FEW)

    def lanes(i, least, where):
        value = f.load(values, i, FEW)
        value = b.select(f.first(b.sub(n, i), FEW), value, infinite)
        below = b.fcmp_ordered("<", value, least)
        here = b.add(f.splat(b.trunc(i, i32), FEW), f.numbers(FEW))
        return [b.select(below, value, least), b.select(below, here, where)]

    least, where = f.loop(n, [infinite, ir.Constant(integers, [0] * FEW)], lanes, step=FEW)
    low = least
    for by in (8, 4, 2, 1):
        other = f.rotate(low, by)
        low = b.select(b.fcmp_ordered("<", other, low), other, low)
    where = b.select(b.fcmp_ordered("==", least, low), where, ir.Constant(integers, [2**31 - 1] * FEW))
    for by in (8, 4, 2, 1):
        other = f.rotate(where, by)
        where = b.select(b.icmp_signed("<", other, where), other, where)
    b.store(b.extract_element(where, i32(0)), f._at(position, 0))
    return f.compile()
