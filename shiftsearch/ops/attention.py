"""What `attend` weighs places by: its options, and the softmax of scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from shiftsearch._op import REMEMBERED, specified
from shiftsearch._types import Native
from shiftsearch.ops.aggregate import AggregateSpec
from shiftsearch.ops.form import mean_of_patches
from shiftsearch.ops.search import SearchSpec

FAR = 1e30  # in place of infinite scores, which a gradient of 0 would turn into NaN
_MOST_CHANNELS = 512  # of a head, that a warp has in registers
_MOST_KEPT = 128  # places of a query, that backends attend to in one


@dataclass(frozen=True, kw_only=True)
class AttendSpec(SearchSpec):
    """A search, and the weights of what it finds."""

    scale: float | None
    return_attention: bool
    differentiable: bool = True  # whether gradients may be asked for, so that places are kept

    passed: ClassVar[tuple[str, ...]] = ("penalty", "scale")

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

    @property
    def kept_places(self) -> bool:
        """Whether the best in one keeps numbers of places: those of whole pixels, where gradients may be asked for."""
        return self.differentiable and not self.subpixel and not self.return_attention

    @property
    def kept_weights(self) -> bool:
        """Whether the best in one has weights and offsets: where they are asked for, or gradients move fractions."""
        return self.return_attention or (self.differentiable and self.subpixel)

    def is_primitive(self, T: int, C: int, V: int, H: int, W: int) -> bool:
        """Return whether backends have this attention in one: pixel by pixel, to all whole places or to some of any.

        Patches overlap: they are summed by another primitive. So are whole places that may not exist.
        """
        if self.patch > 1 or (self.all_in_one and self.subpixel):
            return False
        if max(C, V) // self.heads > _MOST_CHANNELS or T * H * W >= 2**31:
            return False
        exists = self.subpixel or self.border == "zeros" or self.stays_inside(H, W)
        return exists and (self.all_in_one or self.kept(self.search_slots()) <= _MOST_KEPT)

    def factor(self, channels: int) -> float:
        """Return what scores of so many channels are multiplied by: similar is large."""
        return factor(self.scale, self.metric, channels // self.heads * self.patch**2)

    def of_values(self) -> AggregateSpec:
        """Return how values are summed."""
        return _of_values(self.planned)


@lru_cache(REMEMBERED)
def _of_values(spec: AttendSpec) -> AggregateSpec:
    names = ("caller", "patch", "stride", "dilation", "border")
    return specified(AggregateSpec, {name: getattr(spec, name) for name in names})


def factor(scale: float | None, metric: str, products: int) -> float:
    """Return what scores of so many products are multiplied by: similar is large."""
    if scale is None:
        scale = (1 if metric == "dot" else 0.5) / math.sqrt(products)
    return scale if metric == "dot" else -scale


class Softmax(NamedTuple):
    """The softmax of factor * score, and of a scale for each head if there are scales."""

    backend: Any
    spec: AttendSpec
    factor: float
    scales: Native

    @classmethod
    def of(cls, backend: Any, spec: AttendSpec, q: Native, scales: Native) -> Softmax:
        return cls(backend, spec, spec.factor(q.shape[2]), None if scales is None else wide(scales))

    def weigh(self, scores: Native) -> Native:
        """Return the weights of these scores, perhaps in their place."""
        return self.backend.weigh(scores, self.spec, self.factor, scales=self.scales)

    def differentiate(self, weights: Native, by_weights: Native, scores: Native = None) -> tuple[Native, Native]:
        """Return the gradients of scores, perhaps in place of that of the weights, and of the scales, if scores are given."""
        by_scores, by_factors = self.backend.weigh_backward(
            weights, by_weights, self.spec, self.factor, scales=self.scales, scores=scores
        )
        return by_scores, None if scores is None else self.factor * by_factors


def wide(array: Native) -> Native:
    """Return an array in single precision at least, in which many parts may be added up."""
    return array.astype(wide_of(array), copy=False)


def wide_of(array: Native) -> Any:
    """Return the dtype of that."""
    return np.dtype(np.float32) if array.dtype.itemsize == 2 else array.dtype


def averaged(xp: Any, spec: AttendSpec, sums: Native) -> Native:
    """Return the mean over the patches that cover a pixel, from their sum."""
    return mean_of_patches(xp, spec.of_values().patches(), sums)
