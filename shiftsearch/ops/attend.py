"""attend: what a query gets from the places in its windows, weighted by a softmax of their scores.

Backends attend to pixels in one, and store no scores and offsets unless they are asked for: gradients compute the scores
again, at the places that were kept if they are a few. Of patches the `topk` best places are found by `search`, weighed, and
summed by `aggregate`; of all places of patches or fractions nothing is stored, and queries are taken a few at a time.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np

from shiftsearch._arrays import shaped
from shiftsearch._call import need_gradients, run
from shiftsearch._geometry import query_grid
from shiftsearch._op import FLOW, WEIGHT, Example, Input, Op
from shiftsearch._types import Anchor, Array, Border, Even, Metric, Native, Skip, Window
from shiftsearch.ops import attend_all, attend_frames, attend_some
from shiftsearch.ops.attention import AttendSpec, Softmax, wide_of
from shiftsearch.ops.flow import check_clip
from shiftsearch.ops.frames import seeds
from shiftsearch.ops.patches import check_divides
from shiftsearch.ops.score import check_heads, heads_and_grid
from shiftsearch.ops.search import motion

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Options(TypedDict, total=False):
    """The options of `attend` that do not decide what it returns."""

    window: Window
    even: Even
    patch: int
    radius: int
    topk: int | None
    heads: int
    stride: int
    step: float
    dilation: int
    metric: Metric
    border: Border
    subpixel: bool
    slide: bool
    penalty: float
    anchor: Anchor | None
    skip: Skip | None
    per_frame: bool
    scale: float | None


@overload
def attend(
    q: Array,
    k: Array,
    v: Array,
    flow: Array | tuple[Array, Array] | list[Array] | None = None,
    scales: Array | None = None,
    *,
    frames: Any = None,
    return_attention: Literal[False] = False,
    **options: Unpack[Options],
) -> Array: ...
@overload
def attend(
    q: Array,
    k: Array,
    v: Array,
    flow: Array | tuple[Array, Array] | list[Array] | None = None,
    scales: Array | None = None,
    *,
    frames: Any = None,
    return_attention: Literal[True],
    **options: Unpack[Options],
) -> tuple[Array, Array, Array]: ...
@overload
def attend(
    q: Array,
    k: Array,
    v: Array,
    flow: Array | tuple[Array, Array] | list[Array] | None = None,
    scales: Array | None = None,
    *,
    frames: Any = None,
    return_attention: bool,
    **options: Unpack[Options],
) -> Array | tuple[Array, Array, Array]: ...
def attend(
    q: Any,
    k: Any,
    v: Any,
    flow: Any = None,
    scales: Any = None,
    *,
    frames: Any = None,
    window: Window = 9,
    even: Even = "after",
    patch: int = 1,
    radius: int = 1,
    topk: int | None = 10,
    heads: int = 1,
    stride: int = 1,
    step: float = 1,
    dilation: int = 1,
    metric: Metric = "l2",
    border: Border = "reflect",
    subpixel: bool = False,
    slide: bool = True,
    penalty: float = 0.0,
    anchor: Anchor | None = None,
    skip: Skip | None = None,
    per_frame: bool = False,
    scale: float | None = None,
    return_attention: bool = False,
) -> Any:
    """Return what each query gets by attending to the `topk` places most like it, or to all places of its windows.

    out = aggregate(v, weights, offsets), at the places that `search` finds. The weights are the softmax over K of
    -scale * score, or of scale * score for "dot". With topk=None, K is all places of the windows.

    Unless they are asked for, scores, weights and offsets are not all in memory with topk=None, forward and backward. Nor
    are those of up to 128 pixels with patch=1. Where gradients may be asked for, only a number of each place is kept. Of
    fractions, weights and offsets are kept.

    Args:
        q: queries (B, T, C, H, W); B may be missing everywhere, and is then missing in the results
        k: keys, the same shape
        v: values (B, T, C', H, W); C' is a multiple of `heads` too
        flow: as in `search`
        scales: (heads,), a factor of `scale` for each head
        frames: as in `search`: the frames of k and v that each frame of q looks at. Weights and offsets are in memory then
        scale: a number; None is 1 / sqrt(n) for n products in a dot product of patches, and half of that for "l2": both
            then weigh keys of one length alike
        return_attention: whether weights and offsets are returned, too
        others: as in `search`

    Returns:
        out (B, T, C', H, W); with return_attention also weights (B, heads, T, h, w, K) and offsets (B, heads, T, h, w, K, 3)

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> attend(video, video, video, window=5, topk=None, heads=2).shape
        (3, 4, 16, 24)
        >>> _, weights, offsets = attend(video, video, video, window=5, topk=4, return_attention=True)
        >>> weights.shape, offsets.shape
        ((1, 3, 16, 24, 4), (1, 3, 16, 24, 4, 3))
    """
    options: dict[str, Any] = {
        "window": window,
        "even": even,
        "patch": patch,
        "topk": topk,
        "heads": heads,
        "stride": stride,
        "step": step,
        "dilation": dilation,
        "metric": metric,
        "border": border,
        "subpixel": subpixel,
        "slide": slide,
        "penalty": penalty,
        "anchor": anchor,
        "skip": skip,
        "per_frame": per_frame,
    }
    if frames is not None:
        arrays = {"q": q, "k": k, "v": v, "flow": flow, "scales": scales}
        q, k, v, flow, scales = (shaped("attend", name, array) for name, array in arrays.items())
        offsets = seeds("attend", q, k, flow, frames, stride)
        found = attend_frames.attend(q, k, v, offsets, scales, scale, options)
        return found if return_attention else found[0]
    flow = motion("attend", q, flow, radius, stride)
    arrays = {"q": q, "k": k, "v": v, "flow": flow, "scales": scales}
    options |= {"radius": radius, "scale": scale, "return_attention": return_attention}
    found = run(ATTEND, arrays, differentiable=need_gradients(*arrays.values()), **options)
    return found if return_attention else found[0]


# --- forward and backward ---------------------------------------------------------------------------
def _forward(
    backend: Any, spec: AttendSpec, q: Native, k: Native, v: Native, flow: Native = None, scales: Native = None
) -> dict[str, Native]:
    softmax = Softmax.of(backend, spec, q, scales)
    if _is_primitive(spec, k, v):
        attend = backend.attend if spec.all_in_one else backend.attend_best
        names = ("out", "sums", "places", "weights", "offsets")[: 2 if spec.all_in_one else 5]
        arrays = attend(q, k, v, spec, softmax.factor, scales=softmax.scales, flow=flow)
        found = dict(zip(names, arrays, strict=True))
    elif spec.all_in_one:
        found = {"out": attend_all.forward(backend, spec, softmax, q, k, v, flow)}
    else:
        found = attend_some.forward(backend, spec, softmax, q, k, v, flow)
    return {name: found[name] if name in found else _nothing(backend.xp, spec, q, name) for name in ATTEND.outputs}


def _nothing(xp: Any, spec: AttendSpec, q: Native, name: str) -> Native:
    """Return an output that is kept for gradients, or asked for, without numbers."""
    (B, T, _, H, W), wide = q.shape, wide_of(q)
    whole = name == "places" or (name == "offsets" and not spec.subpixel)
    queries = B, spec.heads, T, *query_grid(H, W, spec.stride)
    return xp.empty((*queries, 0, 3) if name == "offsets" else (*queries, 0), np.int32 if whole else wide)


def _is_primitive(spec: AttendSpec, k: Native, v: Native) -> bool:
    return spec.is_primitive(k.shape[1], k.shape[2], *v.shape[2:])


def _backward(
    backend: Any,
    spec: AttendSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    primitive = _is_primitive(spec, inputs["k"], inputs["v"])
    if primitive and not spec.all_in_one and not outputs["places"].shape[-1] + outputs["weights"].shape[-1]:
        outputs = _forward(
            backend, replace(spec, differentiable=True), **inputs
        )  # nobody said that there would be gradients
    softmax = Softmax.of(backend, spec, inputs["q"], inputs.get("scales"))
    if primitive and not spec.never_in_one:
        return _backward_of_primitive(backend, spec, softmax, inputs, outputs, grads["out"])
    part = attend_all if spec.all_in_one else attend_some
    return part.backward(backend, spec, softmax, inputs, outputs, grads, wanted)


def _backward_of_primitive(
    backend: Any,
    spec: AttendSpec,
    softmax: Softmax,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    arrives: Native,
) -> dict[str, Native]:
    given = (*(inputs[name] for name in "qkv"), outputs["out"], outputs["sums"])
    rest, scales = (spec, softmax.factor), softmax.scales
    if spec.all_in_one:
        found = backend.attend_backward(*given, arrives, *rest, scales=scales, flow=inputs.get("flow"))
    else:
        found = backend.attend_best_backward(*given, outputs["places"], arrives, *rest, scales=scales)
    q, k, v, factors = found
    return {"q": q, "k": k, "v": v} | ({} if scales is None else {"scales": softmax.factor * factors})


def _multiply_adds(spec: AttendSpec, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
    part = attend_all if spec.all_in_one else attend_some
    return part.multiply_adds(spec, sizes, fractions, wanted)


# --- the op -----------------------------------------------------------------------------------------
def _sizes(spec: AttendSpec, sizes: dict[str, int]) -> dict[str, int]:
    return {"S": 2 * spec.radius, **heads_and_grid(spec, sizes)}


def _check(spec: AttendSpec, sizes: dict[str, int]) -> None:
    check_heads(spec, sizes)
    check_divides(spec, spec.heads, sizes["V"])
    check_clip(spec.caller, sizes["T"], spec.radius)
    spec.kept(spec.search_slots())


def _shapes(spec: AttendSpec, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    queries, out = (tuple(sizes[axis] for axis in axes) for axes in ("BGThw", "BTVHW"))
    count, primitive = spec.kept(spec.search_slots()), spec.is_primitive(*(sizes[axis] for axis in "TCVHW"))
    kept = 0 if spec.all_in_one or (primitive and not spec.kept_weights) else count
    places = count if primitive and not spec.all_in_one and spec.kept_places else 0
    attention = {"weights": (*queries, kept), "offsets": (*queries, kept, 3)}
    return {"out": out, **attention, "sums": (*queries, 2 * primitive), "places": (*queries, places)}


ATTEND = Op(
    function=attend,
    spec=AttendSpec,
    inputs={
        "q": Input("B T C H W"),
        "k": Input("B T C H W"),
        "v": Input("B T V H W"),
        "flow": Input("B G? T S 2 h w", FLOW, optional=True),
        "scales": Input("G", WEIGHT, optional=True),
    },
    outputs={"out": "value", "weights": "score", "offsets": "offset", "sums": "score", "places": "index"},
    shapes=_shapes,
    keeps=("out", "weights", "offsets", "sums", "places"),
    hidden=("sums", "places"),
    spares=lambda spec: {"out", "sums"} if spec.never_in_one else set(),
    sizes=_sizes,
    check=_check,
    forward=_forward,
    backward=_backward,
    multiply_adds=_multiply_adds,
    example=Example({"window": 3, "patch": 2, "topk": None, "heads": 2, "subpixel": True}, {"V": 6}),
)
