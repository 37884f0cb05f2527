"""Attention to places that are given."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

from torch import Tensor

from shiftsearch._types import Border, Metric
from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.attention import check_scale, default_scale, softmax_of_scores
from shiftsearch.nn.layers import check_floats, check_shape, check_whole
from shiftsearch.ops.aggregate import aggregate
from shiftsearch.ops.score import score


@overload
def attend_at(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    v_offsets: Tensor | None = None,
    heads: int = 1,
    scale: float | Tensor | None = None,
    metric: Metric = "dot",
    patch: int = 1,
    border: Border = "reflect",
    return_attention: Literal[False] = False,
) -> Tensor: ...
@overload
def attend_at(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    v_offsets: Tensor | None = None,
    heads: int = 1,
    scale: float | Tensor | None = None,
    metric: Metric = "dot",
    patch: int = 1,
    border: Border = "reflect",
    return_attention: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...
def attend_at(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    v_offsets: Tensor | None = None,
    heads: int = 1,
    scale: float | Tensor | None = None,
    metric: Metric = "dot",
    patch: int = 1,
    border: Border = "reflect",
    return_attention: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what each query gets by attending to the places that are given.

    out = aggregate(v, weights, v_offsets), with weights = softmax over K of scale * score(q, k, offsets), or of -scale * score
    for "l2". All is differentiable: q, k, v, a scale that is a tensor, and offsets that are floats.

    Args:
        q: queries (B, T, C, H, W); B may be missing everywhere, and is then missing in the results
        k: keys (B, T', C, H, W), of as many frames as there are to look at, or more
        v: values (B, T', C', H, W)
        offsets: (B, groups, T, H, W, K, 3), (dt, dy, dx) from query to place. Group g moves the g-th part of the channels,
            whatever the number of heads is; often both numbers are the same, or there is one group
        v_offsets: the same for values, if these are read at other places than keys
        heads: parts of the channels that have weights of their own
        scale: a number or a tensor of (heads,); None is 1 / sqrt(n) for n products in a dot product of patches, and half
            of that for "l2"
        metric, patch, border: as in `shiftsearch.search`; patch is that of scores and values
        return_attention: whether weights are returned, too

    Returns:
        out (B, T, C', H, W); with return_attention also weights (B, heads, T, H, W, K)

    Example:
        >>> _, _, offsets = attend(video, video, video, window=5, topk=4, return_attention=True)
        >>> attend_at(video, video, video, offsets, heads=2).shape
        torch.Size([3, 4, 16, 24])
    """
    _check(q, k, v, offsets, v_offsets, heads)
    check_scale("attend_at", scale, heads)
    channels, parts = q.shape[-3], math.lcm(heads, offsets.shape[-6])
    scores = score(q, k, offsets, patch=patch, heads=parts, metric=metric, border=border)
    if parts > heads:
        scores = scores.unflatten(-5, (heads, parts // heads)).sum(-5)
    scale = default_scale(scale, channels, {"heads": heads, "patch": patch, "metric": metric})
    weights = softmax_of_scores(scores, scale, metric)
    out = weighted_sum(v, weights, offsets if v_offsets is None else v_offsets, patch=patch, border=border)
    return (out, weights) if return_attention else out


def weighted_sum(v: Tensor, weights: Tensor, offsets: Tensor, **options: Any) -> Tensor:
    """Return `aggregate` with heads of weights, and of offsets, that need not be as many."""
    heads = weights.shape[-5]
    parts = math.lcm(heads, offsets.shape[-6])
    weights = weights if parts == heads else weights.repeat_interleave(parts // heads, -5)
    return aggregate(v, weights, offsets, **options)


def _check(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, v_offsets: Tensor | None, heads: int) -> None:
    check_whole("attend_at", heads=heads)
    for name, video in {"q": q, "k": k, "v": v}.items():
        check_floats("attend_at", name, video)
        if video.ndim not in (4, 5):
            raise ShiftsearchError(f"attend_at: {name} has shape {tuple(video.shape)}, expected (B, T, C, H, W)")
    one_clip = {
        "k": (k, (*q.shape[:-4], k.shape[-4], *q.shape[-3:])),
        "v": (v, (*k.shape[:-3], v.shape[-3], *k.shape[-2:])),
    }
    for name, (video, expected) in one_clip.items():
        check_shape("attend_at", name, video, expected)
    for name, where, video in (("offsets", offsets, q), ("v_offsets", v_offsets, v)):
        if where is None:
            continue
        if not isinstance(where, Tensor) or where.ndim != q.ndim + 2:
            found = f"shape {tuple(where.shape)}" if isinstance(where, Tensor) else f"type {type(where).__name__}"
            raise ShiftsearchError(f"attend_at: {name} has {found}, expected a tensor (B, groups, T, H, W, K, 3)")
        parts, channels = math.lcm(heads, where.shape[-6]), video.shape[-3]
        if channels % parts:
            of = f"{heads} heads and {where.shape[-6]} groups of {name}"
            raise ShiftsearchError(
                f"attend_at: there are {of}, expected both to divide the {channels} channels alike: {parts} parts"
            )
