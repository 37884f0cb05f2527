"""What `attend` weighs places by: its options, and the softmax of scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from shiftsearch._op import specified
from shiftsearch._types import Native
from shiftsearch.ops.aggregate import AggregateSpec, covered
from shiftsearch.ops.form import differentiate
from shiftsearch.ops.search import SearchSpec

FAR = 1e30  # in place of infinite scores, which a gradient of 0 would turn into NaN
_MOST_CHANNELS = 512  # of a head, that a warp has in registers
_FEW_CHANNELS = 32  # of a head of q and k, by which backends find the best and attend to them in one
_FEW, _NEAR, _SMALL = 24, 7, 15  # most topk, radius and window of these


@dataclass(frozen=True, kw_only=True)
class AttendSpec(SearchSpec):
    """A search, and the weights of what it finds."""

    scale: float | None
    return_attention: bool
    differentiable: bool = True  # whether gradients may be asked for, so that places are kept

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None:
            self.real("scale")
        self.switch("return_attention", "differentiable")

    @property
    def all_in_one(self) -> bool:
        """Whether nothing is kept of all places."""
        return self.topk is None and not self.return_attention

    @property
    def never_in_one(self) -> bool:
        """Whether weights and offsets are in memory, whatever the sizes."""
        return self.return_attention or (self.topk is not None and (self.patch > 1 or self.subpixel))

    def is_primitive(self, T: int, C: int, V: int, H: int, W: int) -> bool:
        """Return whether backends have this attention in one: to whole places, pixel by pixel, that exist.

        What overlaps, patches or the pixels around a fraction, is done by their other primitives.
        """
        if self.patch > 1 or self.subpixel or self.return_attention:
            return False
        if self.topk is not None and not self._is_of_few(C):
            return False
        narrow = max(C, V) // self.heads <= _MOST_CHANNELS
        return narrow and T * H * W < 2**31 and (self.border == "zeros" or self.stays_inside(H, W))

    def _is_of_few(self, C: int) -> bool:
        """Return whether the best are few, found among few, and known by their scores."""
        plain = self.penalty == 0 and self.anchor is None and not self.per_frame
        few = self.topk is not None and self.topk <= _FEW and C // self.heads <= _FEW_CHANNELS
        return plain and few and self.radius <= _NEAR and max(self.window) <= _SMALL

    def factor(self, channels: int) -> float:
        """Return what scores of so many channels are multiplied by: similar is large."""
        scale, products = self.scale, channels // self.heads * self.patch**2
        if scale is None:
            scale = (1 if self.metric == "dot" else 0.5) / math.sqrt(products)
        return scale if self.metric == "dot" else -scale

    def of_values(self) -> AggregateSpec:
        """Return how values are summed."""
        names = ("caller", "patch", "stride", "dilation", "border")
        return specified(AggregateSpec, {name: getattr(self, name) for name in names})


class Softmax:
    """The weights of a call: softmax of factor * score, with a factor for each head."""

    def __init__(self, xp: Any, spec: AttendSpec, q: Native, scales: Native):
        self.xp, self.factor, self._heads, self._dtype = xp, spec.factor(q.shape[2]), spec.heads, _wide_of(q)
        self.given = None if scales is None else wide(scales)

    @cached_property
    def factors(self) -> Native:
        """The factor of each head."""
        if self.given is None:
            return self.xp.full(self._heads, self.factor, self._dtype)
        return self.factor * self.given

    @cached_property
    def _each(self) -> Native:
        return self.factors.reshape(-1, 1, 1, 1, 1)

    def logits(self, scores: Native, counts: Any = True) -> Native:
        """Return what is exponentiated. What is no number, or does not count, is far away."""
        logits = (scores.clip(-FAR, FAR) * self._each).astype(scores.dtype, copy=False)
        return self.xp.where(counts & ~self.xp.isnan(scores), logits, -FAR)

    def weigh(self, logits: Native) -> tuple[Native, Native]:
        """Return weights, and what they follow from, (..., 2): the largest logit, and the sum of all exp(logit - largest)."""
        most = logits.max(-1, keepdims=True)
        weights = self.xp.exp(logits - most)
        total = weights.sum(-1, keepdims=True)
        weights /= total
        return weights, self.xp.concatenate((most, total), -1)

    def slopes(self, weights: Native, by_weights: Native) -> Native:
        """Return the gradient of the logits from that of the weights."""
        mean = self.xp.where(weights != 0, weights * by_weights, 0).sum(-1, keepdims=True)
        return self.xp.where(weights != 0, weights * (by_weights - mean), 0)

    def scores(self, slopes: Native, counts: Any = True) -> Native:
        """Return the gradient of the scores from that of the logits."""
        return self.xp.where(counts, slopes * self._each, 0).astype(slopes.dtype)

    def scales(self, slopes: Native, scores: Native) -> Native:
        """Return the gradient of the scales from that of the logits."""
        products = self.xp.where(slopes != 0, slopes * scores.clip(-FAR, FAR), 0)
        return self.factor * products.sum((0, 2, 3, 4, 5))


def wide(array: Native) -> Native:
    """Return an array in single precision at least, in which many parts may be added up."""
    return array.astype(_wide_of(array), copy=False)


def _wide_of(array: Native) -> Any:
    return np.dtype(np.float32) if array.dtype.itemsize == 2 else array.dtype


def weighted_sum(backend: Any, p: Any, v: Native, weights: Native, offsets: Native) -> Native:
    """Return the sum of the patches of v at these places, before overlapping ones are averaged."""
    return differentiate(backend, p, {"q"}, k=v, weights=weights, offsets=offsets)["q"]


def averaged(xp: Any, spec: AttendSpec, sums: Native) -> Native:
    """Return the mean over the patches that cover a pixel, from their sum."""
    count = covered(xp, spec.of_values(), sums)
    return sums if count is None else sums / count
