"""Attention to places in frames that are given: a refinement, a softmax of its scores, and a sum."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from shiftsearch._arrays import transform
from shiftsearch._call import are_tensors, run
from shiftsearch._op import specified
from shiftsearch._types import Native
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import aggregate
from shiftsearch.ops.attention import FAR, AttendSpec, factor
from shiftsearch.ops.frames import shape_of_video
from shiftsearch.ops.refine import REFINE


def attend(
    q: Any, k: Any, v: Any, seeds: Any, scales: Any, scale: float | None, options: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Return what each query gets from the places around `seeds`, weights and offsets. The options are those of `refine`."""
    _check(q, scale, options)
    (*clip, _, H, W), (*expected, C, h, w) = shape_of_video("attend", "v", v), k.shape
    if (*clip, H, W) != (*expected, h, w):
        found = f"v has shape {tuple(v.shape)}"
        raise ShiftsearchError(f"attend: {found}, expected {(*expected, C, h, w)} as k, but for the number of channels")
    scores, offsets = run(REFINE, {"q": q, "k": k, "offsets": seeds}, caller="attend", **options)
    each = factor(scale, options["metric"], q.shape[-3] // options["heads"] * options["patch"] ** 2)
    if scales is not None:
        each = each * scales.reshape(-1, 1, 1, 1, 1)
    if are_tensors(scores):
        torch = sys.modules["torch"]
        weights = torch.softmax(_logits(torch, scores, each), -1)
    else:
        weights = transform("attend", lambda xp, scores: _softmax(xp, _logits(xp, scores, each)), scores=scores)
    names = ("patch", "stride", "dilation", "border")
    return aggregate(v, weights, offsets, **{name: options[name] for name in names}), weights, offsets


def _check(q: Any, scale: float | None, options: Mapping[str, Any]) -> None:
    """Check the options, unless the call is compiled."""
    given = {
        "caller": "attend",
        "radius": 1,
        "scale": scale,
        "return_attention": True,
        "differentiable": True,
        **options,
    }
    if are_tensors(q):
        from shiftsearch import _torch

        _torch.checked(AttendSpec, given)
    else:
        specified(AttendSpec, given)


def _logits(xp: Any, scores: Native, each: Any) -> Native:
    """Return what is exponentiated. What is no number is far away, and so is what is infinitely bad."""
    return xp.where(xp.isnan(scores), -FAR, scores.clip(-FAR, FAR) * each)


def _softmax(xp: Any, logits: Native) -> Native:
    weights = xp.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
