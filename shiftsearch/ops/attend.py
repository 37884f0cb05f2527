"""attend: what a query gets from the places in its windows, weighted by a softmax of their scores.

The `topk` best places are found by `search` and summed by `aggregate`. Of all places of the windows nothing is stored:
they are scored a few at a time, twice where that is needed, and their softmax is put together as they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import numpy as np

from shiftsearch._call import run
from shiftsearch._geometry import MOST, frame_order, query_grid, reflect, window_offset
from shiftsearch._op import FLOW, WEIGHT, Example, Input, Op, specified
from shiftsearch._types import Anchor, Array, Border, Metric, Native, Skip
from shiftsearch.ops.aggregate import AggregateSpec, covered
from shiftsearch.ops.flow import check_clip
from shiftsearch.ops.form import differentiate
from shiftsearch.ops.patches import check_divides
from shiftsearch.ops.score import check_heads, heads_and_grid
from shiftsearch.ops.search import SEARCH, SearchSpec, chained
from shiftsearch.ops.window import query_positions, to_flow

if TYPE_CHECKING:
    from typing_extensions import Unpack

FAR = 1e30  # in place of infinite scores, which a gradient of 0 would turn into NaN
_AT_A_TIME = 16  # places of a query that are in memory


@dataclass(frozen=True, kw_only=True)
class AttendSpec(SearchSpec):
    """A search, and the weights of what it finds."""

    scale: float | None
    return_attention: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None:
            self.real("scale")
        self.switch("return_attention")

    @property
    def stores(self) -> bool:
        """Whether weights and offsets are in memory."""
        return self.topk is not None or self.return_attention

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


class Options(TypedDict, total=False):
    """The options of `attend` that do not decide what it returns."""

    window: int
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
    window: int = 9,
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

    out = aggregate(v, weights, offsets), with weights = softmax over K of -scale * score, or of scale * score for "dot",
    at the places that `search` finds. With topk=None these are all places of the windows, and none of their scores,
    weights and offsets are in memory at once, forward and backward, unless they are asked for.

    Args:
        q: queries (B, T, C, H, W); B may be missing everywhere, and is then missing in the results
        k: keys, the same shape
        v: values (B, T, C', H, W); C' is a multiple of `heads` too
        flow: as in `search`
        scales: (heads,), a factor of `scale` for each head
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
    if isinstance(flow, (tuple, list)):
        flow = chained("attend", q, flow, radius, stride)
    found = run(
        ATTEND,
        {"q": q, "k": k, "v": v, "flow": flow, "scales": scales},
        window=window,
        patch=patch,
        radius=radius,
        topk=topk,
        heads=heads,
        stride=stride,
        step=step,
        dilation=dilation,
        metric=metric,
        border=border,
        subpixel=subpixel,
        slide=slide,
        penalty=penalty,
        anchor=anchor,
        skip=skip,
        per_frame=per_frame,
        scale=scale,
        return_attention=return_attention,
    )
    return found if return_attention else found[0]


# --- places -----------------------------------------------------------------------------------------
class _Some(NamedTuple):
    """Some candidates of each query, of one slot."""

    slot: int
    offsets: Native
    counts: Any  # which of them are candidates, or True


def _candidates(xp: Any, spec: AttendSpec, k: Native, flow: Native) -> Iterator[_Some]:
    """Yield the candidates of all windows, a few of each query at a time."""
    slots, own = range(spec.skip == "own_frame", 2 * spec.radius + 1), spec.skip == "self"
    for slot in slots:
        window = _Window(xp, spec, k, None if flow is None or slot == 0 else flow[:, :, :, slot - 1], slot)
        for first in range(0, spec.window**2, _AT_A_TIME):
            cells = xp.arange(first, min(first + _AT_A_TIME, spec.window**2))
            offsets, counts = window.offsets(cells // spec.window, cells % spec.window)
            if own and slot == 0:
                counts = counts & (offsets != 0).any(-1)
            yield _Some(slot, offsets, counts)


class _Window:
    """The windows of all queries in one slot, (B, heads or 1, T, h, w)."""

    def __init__(self, xp: Any, spec: AttendSpec, k: Native, flow: Native, slot: int):
        (B, T, _, H, W), p = k.shape, spec.patches()
        h, w = query_grid(H, W, spec.stride)
        self.xp, self.spec, self.size, self.shape = xp, spec, (H, W), (B, spec.heads, T, h, w)
        self.dt = (frame_order(T, spec.radius, xp)[:, slot] - xp.arange(T))[:, None, None]
        _, y, x = query_positions(xp, spec.stride, T, h, w)
        dy, dx = (0, 0) if flow is None else (flow[..., axis, :, :] for axis in (1, 0))
        self.dtype = (np.float64 if k.dtype == np.float64 else np.float32) if spec.subpixel else np.int32
        self.axes = [self._axis(moved, at, n, p.border) for moved, at, n in ((dy, y, H), (dx, x, W))]
        self.overhangs = p.border == "reflect" and not spec.stays_inside(H, W)
        first = [centre - spec.step * before - at for centre, before, at in self.axes]
        dt = xp.broadcast_to(self.dt, first[0].shape)
        self.first = xp.stack(xp.broadcast_arrays(dt, *first), -1).astype(self.dtype)

    def _axis(self, moved: Any, at: Native, n: int, border: str) -> tuple[Native, Native, Native]:
        """Return where the first candidate lies along an axis, in three parts: centre, candidates before it, query."""
        xp, spec = self.xp, self.spec
        moved = xp.zeros(self.shape[-3:])[None, None] if isinstance(moved, int) else moved.astype(float)
        moved = xp.where(xp.isfinite(moved), moved, 0).clip(-MOST, MOST)
        centre = at + (moved if spec.subpixel else xp.rint(moved))
        centre = reflect(centre, n) if border == "reflect" else centre
        before = window_offset(centre, n, spec.window, spec.step, True) if spec.slide else (spec.window - 1) // 2
        return centre, before + xp.zeros(centre.shape), xp.broadcast_to(at, centre.shape)

    def offsets(self, rows: Native, columns: Native) -> tuple[Native, Any]:
        """Return offsets of candidates (B, G, T, h, w, n, 3), and which of them lie where candidates may."""
        xp, cells, counts = self.xp, (rows, columns), True
        found = xp.empty((*self.shape, len(rows), 3), self.dtype)
        if not self.spec.subpixel:
            steps = xp.stack([xp.zeros_like(rows), *cells], -1) * int(self.spec.step)
            xp.add(self.first[..., None, :], steps.astype(self.dtype), out=found)
        for axis in range(2) if self.spec.subpixel or self.overhangs else ():
            centre, before, at = self.axes[axis]
            place = centre[..., None] + self.spec.step * (cells[axis] - before[..., None])
            if self.spec.subpixel:
                found[..., 0], found[..., 1 + axis] = self.dt[..., None], place - at[..., None]
            if self.overhangs:
                counts = counts & (place >= 0) & (place <= self.size[axis] - 1)
        return found, counts


# --- weights ----------------------------------------------------------------------------------------
class _Softmax:
    """The weights of a call: softmax of factor * score, with a factor for each head."""

    def __init__(self, xp: Any, spec: AttendSpec, q: Native, scales: Native):
        self.xp, self.factor = xp, spec.factor(q.shape[2])
        self.each = self.factor if scales is None else self.factor * _wide(scales).reshape(-1, 1, 1, 1, 1)

    def logits(self, scores: Native, counts: Any = True) -> Native:
        """Return what is exponentiated. What is no number, or does not count, is far away."""
        logits = (scores.clip(-FAR, FAR) * self.each).astype(scores.dtype)
        return self.xp.where(counts & ~self.xp.isnan(scores), logits, -FAR)

    def slopes(self, weights: Native, by_weights: Native, mean: Native) -> Native:
        """Return the gradient of the logits; `mean` is the weighted mean of the gradients of the weights."""
        return self.xp.where(weights != 0, weights * (by_weights - mean[..., None]), 0)

    def scores(self, slopes: Native, counts: Any = True) -> Native:
        """Return the gradient of the scores from that of the logits."""
        return self.xp.where(counts, slopes * self.each, 0).astype(slopes.dtype)

    def scales(self, slopes: Native, scores: Native) -> Native:
        """Return the gradient of the scales from that of the logits."""
        products = self.xp.where(slopes != 0, slopes * scores.clip(-FAR, FAR), 0)
        return self.factor * products.sum((0, 2, 3, 4, 5))


def _weights(xp: Any, logits: Native, most: Native, total: Native) -> Native:
    return xp.exp(logits - most[..., None]) / total[..., None]


def _mean(xp: Any, weights: Native, values: Native) -> Native:
    return xp.where(weights != 0, weights * values, 0).sum(-1)


def _wide(array: Native) -> Native:
    """Return an array in single precision at least, in which many parts may be added up."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _averaged(xp: Any, spec: AttendSpec, sums: Native) -> Native:
    """Return the mean over the patches that cover a pixel, from their sum."""
    count = covered(xp, spec.of_values(), sums)
    return sums if count is None else sums / count


# --- forward ----------------------------------------------------------------------------------------
def _forward(
    backend: Any, spec: AttendSpec, q: Native, k: Native, v: Native, flow: Native = None, scales: Native = None
) -> dict[str, Native]:
    xp, softmax = backend.xp, _Softmax(backend.xp, spec, q, scales)
    if not spec.stores:
        return _forward_of_all(backend, spec, softmax, q, k, v, flow)
    scores, offsets, _ = backend.search(q, k, spec, spec.patches(), flow=flow)
    logits = softmax.logits(scores, scores != (np.inf if spec.metric == "l2" else -np.inf))
    most = logits.max(-1)
    total = xp.exp(logits - most[..., None]).sum(-1)
    weights = _weights(xp, logits, most, total)
    out = differentiate(backend, spec.of_values().patches(), {"q"}, k=v, weights=weights, offsets=offsets)["q"]
    out = _averaged(xp, spec, out)
    return {"out": out, "weights": weights, "offsets": offsets, "sums": xp.stack((most, total), -1)}


def _forward_of_all(
    backend: Any, spec: AttendSpec, softmax: _Softmax, q: Native, k: Native, v: Native, flow: Native
) -> dict[str, Native]:
    """Sum as weights become known, and scale what is there if a larger one comes; patches that overlap need two passes."""
    xp, values, once = backend.xp, _wide(v), spec.patch == 1
    most: Any = None
    total: Any = 0
    out: Any = 0
    for some in _candidates(xp, spec, k, flow):
        logits = softmax.logits(backend.score(q, k, some.offsets, spec.patches()), some.counts)
        before, here = most, logits.max(-1)
        most = here if before is None else xp.maximum(before, here)
        weights = xp.exp(logits - most[..., None])
        rest = 0 if before is None else xp.exp(before - most)
        total = weights.sum(-1) + rest * total
        if once:
            more = _sum(backend, spec, values, weights, some)
            out = more if before is None else more + _scaled(xp, spec, out, rest)
    if once:
        out = _scaled(xp, spec, out, 1 / total)
    else:
        for some in _candidates(xp, spec, k, flow):
            logits = softmax.logits(backend.score(q, k, some.offsets, spec.patches()), some.counts)
            out = out + _sum(backend, spec, values, _weights(xp, logits, most, total), some)
    out, shape = _averaged(xp, spec, out).astype(v.dtype), (*most.shape, 0)
    nothing = {"weights": xp.zeros(shape, most.dtype), "offsets": xp.zeros((*shape, 3), some.offsets.dtype)}
    return {"out": out, **nothing, "sums": xp.stack((most, total), -1)}


def _sum(backend: Any, spec: AttendSpec, v: Native, weights: Native, some: _Some) -> Native:
    p = spec.of_values().patches()
    return differentiate(backend, p, {"q"}, k=v, weights=weights, offsets=some.offsets)["q"]


def _scaled(xp: Any, spec: AttendSpec, video: Native, factors: Native) -> Native:
    """Scale pixels (B, T, C, H, W) by the factors (B, G, T, h, w) of their queries, in place. 0 times anything is 0."""
    B, T, C, H, W = video.shape
    queries = video.reshape(B, T, spec.heads, C // spec.heads, H, W)[..., :: spec.stride, :: spec.stride]
    factors = factors.swapaxes(1, 2)[:, :, :, None]
    queries[...] = xp.where(factors != 0, queries * factors, 0)
    return video


# --- backward ---------------------------------------------------------------------------------------
def _backward(
    backend: Any,
    spec: AttendSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    softmax = _Softmax(backend.xp, spec, inputs["q"], inputs.get("scales"))
    arrive = _wide(_averaged(backend.xp, spec, grads["out"]))
    if spec.stores:
        return _backward_of_kept(backend, spec, softmax, inputs, outputs, {**grads, "out": arrive}, wanted)
    return _Backward(backend, spec, softmax, inputs, outputs, arrive, wanted).run()


def _backward_of_kept(
    backend: Any,
    spec: AttendSpec,
    softmax: _Softmax,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    xp, p, (weights, offsets) = backend.xp, spec.of_values().patches(), (outputs["weights"], outputs["offsets"])
    form = {"q": grads["out"], "k": _wide(inputs["v"]), "weights": weights, "offsets": offsets}
    of_values = differentiate(backend, p, {"k", "weights", "offsets"}, **form)
    by_weights = of_values["weights"] + grads.get("weights", 0)
    slopes = softmax.slopes(weights, by_weights, _mean(xp, weights, by_weights))
    found = {"v": of_values["k"]}
    if "scales" in wanted:
        found["scales"] = softmax.scales(slopes, backend.score(inputs["q"], inputs["k"], offsets, spec.patches()))
    arrive = {"scores": softmax.scores(slopes)}
    if "offsets" in of_values:
        arrive["offsets"] = of_values["offsets"] + grads.get("offsets", 0)
    searched = {name: inputs[name] for name in ("q", "k", "flow") if name in inputs}
    return found | SEARCH.backward(backend, spec, searched, outputs, arrive, wanted & searched.keys())


class _Backward:
    """Gradients through all places of the windows, whose weights are computed again, a few at a time."""

    def __init__(
        self,
        backend: Any,
        spec: AttendSpec,
        softmax: _Softmax,
        inputs: Mapping[str, Native],
        outputs: Mapping[str, Native],
        arrive: Native,
        wanted: Set[str],
    ):
        self.backend, self.spec, self.softmax, self.wanted = backend, spec, softmax, wanted
        self.inputs = {name: _wide(array) if name in ("q", "k", "v") else array for name, array in inputs.items()}
        self.sums, self.arrive, self.out = outputs["sums"], arrive, outputs["out"]
        self.of_keys, self.of_values = spec.patches(), spec.of_values().patches()
        self.found: dict[str, Native] = {}
        self.moved: dict[int, list[Native]] = {}  # by slot, of the centres of windows: by row and by column

    def run(self) -> dict[str, Native]:
        mean, moves = self._means(), "flow" in self.wanted and self.spec.subpixel
        moving = ["offsets"] if moves else []
        for some, scores, weights, by_weights in self._weighted():
            form = {"q": self.arrive, "k": self.inputs["v"], "weights": weights, "offsets": some.offsets}
            found = differentiate(self.backend, self.of_values, {"k", *moving}, **form)
            self._add("v", found["k"])
            slopes = self.softmax.slopes(weights, by_weights, mean)
            if "scales" in self.wanted:
                self._add("scales", self.softmax.scales(slopes, scores))
            form = {"q": self.inputs["q"], "k": self.inputs["k"], "weights": self.softmax.scores(slopes, some.counts)}
            both = differentiate(self.backend, self.of_keys, {"q", "k", *moving}, **form, offsets=some.offsets)
            self._add("q", both["q"])
            self._add("k", both["k"])
            if moves:
                self._move(some, found["offsets"] + both["offsets"])
        if moves:
            self.found["flow"] = self._flow()
        return self.found

    def _weighted(self) -> Iterator[tuple[_Some, Native, Native, Native]]:
        """Yield candidates with their scores, weights, and the gradients of the weights."""
        q, k, v = (self.inputs[name] for name in "qkv")
        for some in _candidates(self.backend.xp, self.spec, k, self.inputs.get("flow")):
            scores = self.backend.score(q, k, some.offsets, self.of_keys)
            logits = self.softmax.logits(scores, some.counts)
            weights = _weights(self.backend.xp, logits, self.sums[..., 0], self.sums[..., 1])
            yield some, scores, weights, self.backend.score(self.arrive, v, some.offsets, self.of_values)

    def _means(self) -> Native:
        """Return the weighted mean of the gradients of each query's weights, which single pixels have as a product."""
        xp, spec = self.backend.xp, self.spec
        if spec.patch > 1:
            return sum(_mean(xp, weights, by_weights) for _, _, weights, by_weights in self._weighted())
        B, T, _, H, W = self.out.shape
        products = (self.arrive * self.out).reshape(B, T, spec.heads, -1, H, W).sum(3).swapaxes(1, 2)
        return products[..., :: spec.stride, :: spec.stride]

    def _add(self, name: str, found: Native) -> None:
        self.found[name] = self.found[name] + found if name in self.found else found

    def _move(self, some: _Some, slopes: Native) -> None:
        total = self.moved.setdefault(some.slot, [0, 0])
        for axis in range(2):
            total[axis] = total[axis] + slopes[..., 1 + axis].sum(-1)

    def _flow(self) -> Native:
        xp, flow, size = self.backend.xp, self.inputs["flow"], self.inputs["k"].shape[-2:]
        grad = xp.zeros(flow.shape, self.sums.dtype)
        for slot in self.moved.keys() - {0}:
            by_y, by_x = self.moved[slot]
            grad[:, :, :, slot - 1] = to_flow(xp, self.spec, flow[:, :, :, slot - 1], by_y, by_x, size)
        return grad


# --- the op -----------------------------------------------------------------------------------------
def _sizes(spec: AttendSpec, sizes: dict[str, int]) -> dict[str, int]:
    return {"S": 2 * spec.radius, **heads_and_grid(spec, sizes)}


def _check(spec: AttendSpec, sizes: dict[str, int]) -> None:
    check_heads(spec, sizes)
    check_divides(spec, spec.heads, sizes["V"])
    check_clip(spec.caller, sizes["T"], spec.radius)
    spec.kept(spec.search_slots())


def _shapes(spec: AttendSpec, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    queries = tuple(sizes[axis] for axis in "BGThw")
    kept = spec.kept(spec.search_slots()) if spec.stores else 0
    out = tuple(sizes[axis] for axis in "BTVHW")
    return {"out": out, "weights": (*queries, kept), "offsets": (*queries, kept, 3), "sums": (*queries, 2)}


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
    outputs={"out": "value", "weights": "score", "offsets": "offset", "sums": "score"},
    shapes=_shapes,
    keeps=("out", "weights", "offsets", "sums"),
    hidden=("sums",),
    sizes=_sizes,
    check=_check,
    forward=_forward,
    backward=_backward,
    example=Example({"window": 3, "patch": 3, "topk": None, "heads": 2, "subpixel": True}, {"V": 6}),
)
