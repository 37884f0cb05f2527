"""Vector code of a softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from shiftsearch.backends.cpu import simd

softmax: Callable[..., Any] = simd.caller("pppl")

_FAR = 1e30  # the size of the largest logit
_DIGITS = {"float32": 23, "float64": 52}  # bits behind the point
_DEGREE = {"float32": 7, "float64": 13}  # of a polynomial that is exp on half an octave around 0, to the last bit
_LEAST = {"float32": -87.0, "float64": -708.0}  # below this exp counts as 0


def _exp(f: simd.Function, dtype: str, x: ir.Value) -> ir.Value:
    """Return exp of numbers up to 0: 2**n * exp(rest), with the rest within half of log(2)."""
    digits, integers = _DIGITS[dtype], ir.VectorType(ir.IntType(8 * f.bytes), f.lanes)
    large = f.full(1.5 * 2.0**digits)  # what is added to it is rounded, and in its last bits
    count = f.fma(x, f.full(1 / math.log(2)), large)
    whole = f.minus(count, large)
    high = round(math.log(2) * 2**12) / 2**12  # its product with a whole number is exact
    rest = f.fma(whole, f.full(-high), x)
    rest = f.fma(whole, f.full(high - math.log(2)), rest)
    power = f.full(1 / math.factorial(_DEGREE[dtype]))
    for n in reversed(range(_DEGREE[dtype])):
        power = f.fma(power, rest, f.full(1 / math.factorial(n)))
    places = ir.Constant(integers, [digits] * f.lanes)
    one = ir.Constant(integers, [((1 << 8 * f.bytes - digits - 2) - 1) << digits] * f.lanes)
    scale = f.b.bitcast(f.b.add(f.b.shl(f.b.bitcast(count, integers), places), one), f.vector())
    return f.b.select(f.b.fcmp_ordered(">=", x, f.full(_LEAST[dtype])), f.b.fmul(power, scale), f.zeros())


@functools.cache
def build_softmax(dtype: str, known: bool) -> int:
    """Build (scores, weights, numbers, count): weights = exp(factor * score - most) / total.

    numbers = (factor, most, total), of which the last two are found unless they are `known`. What is no number is far away.
    The code writes whole vectors.
    """
    f = simd.Function("softmax", dtype, "pppl")
    scores, weights, numbers, count = f.arguments
    factor = f.splat(f.scalar(numbers, 0))

    def put_logits(i, most):
        score = f.load(scores, i)
        near = f.b.select(f.b.fcmp_ordered("<", score, f.full(-_FAR)), f.full(-_FAR), score)
        near = f.b.select(f.b.fcmp_ordered(">", near, f.full(_FAR)), f.full(_FAR), near)
        logit = f.b.select(f.b.fcmp_ordered("ord", score, score), f.b.fmul(near, factor), f.full(-_FAR))
        f.store(logit, weights, i)
        larger = f.b.and_(f.first(f.b.sub(count, i)), f.b.fcmp_ordered(">", logit, most))
        return [f.b.select(larger, logit, most)]

    def put_weights(i, total, most):
        weight = _exp(f, dtype, f.minus(f.load(weights, i), most))
        weight = f.b.select(f.first(f.b.sub(count, i)), weight, f.zeros())
        f.store(weight, weights, i)
        return [f.plus(total, weight), most]

    def scale(i, share):
        f.store(f.b.fmul(f.load(weights, i), share), weights, i)
        return [share]

    (most,) = f.loop(count, [f.full(-math.inf)], put_logits, step=f.lanes)
    most = f.splat(f.scalar(numbers, 1)) if known else _largest(f, most)
    total, _ = f.loop(count, [f.zeros(), most], put_weights, step=f.lanes)
    total = f.splat(f.scalar(numbers, 2)) if known else f.lane_sums([total] * f.lanes)
    if not known:
        for place, vector in ((1, most), (2, total)):
            f.b.store(f.b.extract_element(vector, ir.IntType(32)(0)), f._at(numbers, place))
    f.loop(count, [f.b.fdiv(f.full(1.0), total)], scale, step=f.lanes)
    return f.compile()


def _largest(f: simd.Function, vector: ir.Value) -> ir.Value:
    """Return the largest lane, in all lanes."""
    apart = f.lanes // 2
    while apart:
        other = f.rotate(vector, apart)
        vector = f.b.select(f.b.fcmp_ordered(">", vector, other), vector, other)
        apart //= 2
    return vector
