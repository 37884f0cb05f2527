"""search, match and refine: where are the places most like this one?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftsearch._call import run
from shiftsearch._geometry import Patches, frame_order, mirror_sign, query_grid
from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.flow import chain, check_clip
from shiftsearch.ops.score import check_heads, of_pixels


@dataclass(frozen=True)
class SearchSpec(Spec):
    window: int = 9
    patch: int = 1
    radius: int = 1
    topk: int | None = 10
    heads: int = 1
    stride: int = 1
    step: float = 1
    dilation: int = 1
    metric: str = "l2"
    border: str = "reflect"
    subpixel: bool = False
    slide: bool = True
    penalty: float = 0.0
    anchor: str | None = None
    skip: str | None = None
    per_frame: bool = False

    def __post_init__(self):
        self.whole("window", most=1025)
        self.whole("patch", most=129)
        self.whole("heads", "stride")
        self.whole("dilation", most=4096)
        self.whole("radius", least=0)
        if self.topk is not None:
            self.whole("topk")
        self.switch("subpixel", "slide", "per_frame")
        self.choice("metric", "l2", "dot")
        self.choice("border", "reflect", "zeros")
        self.real("step", least=1e-6)
        self.check(self.subpixel or self.step % 1 == 0, "step", "a whole number unless subpixel=True")
        self.real("penalty")
        self.choice("anchor", *([None, "flow"] if self.op == "match" else [None, "self", "flow"]))
        self.choice("skip", *([None, "self", "own_frame"] if self.op == "search" else [None, "self"]))
        self.check(
            not (self.anchor == "self" and self.skip), "skip", 'None beside anchor="self", which needs that place'
        )
        self.check(self.skip != "own_frame" or self.radius > 0, "skip", "another frame to search: radius is 0")
        if self.anchor == "flow":  # a place for each frame's centre
            object.__setattr__(self, "per_frame", True)

    @property
    def removes_self(self) -> bool:
        """Each query has exactly one candidate that is itself, and it is left out.

        Around seeds or a flow in the own frame there may be none or several: they score infinite instead.
        """
        return self.op == "search" and self.skip == "self"

    def patches(self) -> Patches:
        return Patches(self.patch, self.stride, self.dilation, self.border, self.border, self.metric)

    def kept(self, slots: int) -> int:
        """How many candidates are kept of `slots` windows."""
        count = slots * self.window**2 - self.removes_self
        if self.topk is None:
            return count
        there = self.window**2 - self.removes_self if self.per_frame else count
        each = " in each frame" if self.per_frame else ""
        self.check(self.topk <= there, "topk", f"at most {there}, the number of candidates{each}, or None for all")
        return self.topk * slots if self.per_frame else self.topk

    def results(self, sizes, slots: int, *axes: str) -> dict[str, tuple[int, ...]]:
        """Shapes of what is found in `slots` windows of each query, which has these axes beside batch and heads."""
        scores = (sizes["B"], self.heads, *(sizes[axis] for axis in axes), self.kept(slots))
        return {"scores": scores, "offsets": (*scores, len(axes))}

    def search_slots(self) -> int:
        return 2 * self.radius + (self.skip != "own_frame")


# --- search ---------------------------------------------------------------------------------------
def search(
    q, k, flow=None, *, window=9, patch=1, radius=1, topk=10, heads=1, stride=1, step=1, dilation=1,
    metric="l2", border="reflect", subpixel=False, slide=True, penalty=0.0, anchor=None, skip=None, per_frame=False,
):  # fmt: skip
    """The `topk` places most like each query, in a window around where the flow leads, in its own and `radius` frames each way.

    For a query at pixel r the window of the own frame lies around r, that of a neighbour around
    a = r + flow, mirrored into the frame. Its candidates n = a + step * (i, j) are compared patch by patch:
    sum over patch pixels u and channels of (q(r + u) - k(n + u))**2, or of the product for "dot".

    Args:
        q: queries (B, T, C, H, W); B may be missing everywhere, and is then missing in the results
        k: keys, the same shape
        flow: where things went, in pixels, channel 0 = dx, 1 = dy: an array (B, T, 2 * radius, 2, h, w), whose
            slot s leads to frame `neighbours(T, radius)[t, s + 1]`; with one more axis (heads or 1) before T, flow
            per head; or a pair (forward, backward) of (B, T, 2, H, W), which is chained; or None for no motion.
            A component that is not finite counts as no motion. Flow of a coarser grid: see `upsample_flow`
        window: candidates per side; an even window reaches one further down and right
        patch: pixels per side that one comparison sums over; an even patch reaches one further up and left
        radius: frames each way; the clip needs 2 * radius + 1
        topk: how many to keep, best first, equal ones in window order; None gives all, in slot, row, column order
        heads: channels are split into so many parts, each searched on its own
        stride: every stride-th row and column asks: h = (H - 1) // stride + 1
        step: pixels between candidates; a fraction needs `subpixel`
        dilation: pixels between the pixels of a patch
        metric: "l2", a distance, or "dot", a similarity
        border: "reflect" mirrors what lies outside; with "zeros" nothing is there: a pair of pixels with a member
            outside adds nothing, and windows may lie outside
        subpixel: False rounds the flow (half to even) and gives int32 offsets; True keeps its fraction, samples
            keys bilinearly and gives offsets that are floats: float64 if q is, else float32
        slide: a window that sticks out of the frame moves inward by whole steps; False leaves it there, and
            candidates outside score inf (l2) or -inf (dot)
        penalty: candidates rank by score + penalty * |n - a|**2 (l2; minus for dot); the score is returned without it
        anchor: "self" puts offset (0, 0, 0) first; "flow" puts the centre of each frame's window first, per frame
        skip: "self" leaves out offset (0, 0, 0); "own_frame" leaves out the own frame
        per_frame: keeps `topk` of each frame, frame by frame in slot order: K = (2 * radius + 1) * topk

    Returns:
        scores (B, heads, T, h, w, K), and offsets (B, heads, T, h, w, K, 3): (dt, dy, dx) relative to the query

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> scores, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> scores.shape, offsets.shape
        ((1, 3, 16, 24, 4), (1, 3, 16, 24, 4, 3))
        >>> bool((offsets[..., 0, :] == 0).all())  # nothing is more like a pixel than itself
        True
    """
    options = (
        window, patch, radius, topk, heads, stride, step, dilation,
        metric, border, subpixel, slide, penalty, anchor, skip, per_frame,
    )  # fmt: skip
    if isinstance(flow, (tuple, list)):
        flow = _chained(q, flow, radius, stride)
    return run(SEARCH, options, q=q, k=k, flow=flow)


def _chained(q, pair, radius, stride):
    if len(pair) != 2:
        raise ShiftsearchError(f"search: flow is a {type(pair).__name__} of {len(pair)}, expected (forward, backward)")
    shape = getattr(q, "shape", None)
    for name, flow in zip(("forward", "backward"), pair, strict=True):
        found = getattr(flow, "shape", None)
        if isinstance(shape, tuple) and isinstance(found, tuple) and len(shape) > 3:  # others are told later
            expected = (*shape[:-3], 2, *shape[-2:])
            if found != expected:
                raise ShiftsearchError(
                    f"search: {name} has shape {tuple(found)}, expected {expected} for q of {tuple(shape)}"
                )
    return chain("search", *pair, radius, stride)


def _search_sizes(spec, sizes):
    h, w = query_grid(sizes["H"], sizes["W"], spec.stride)
    return {"G": spec.heads, "S": 2 * spec.radius, "h": h, "w": w}


def _check_search(spec, sizes):
    check_heads(spec, sizes)
    check_clip(spec.op, sizes["T"], spec.radius)
    spec.kept(spec.search_slots())


def _search_results(spec, sizes):
    return spec.results(sizes, spec.search_slots(), "T", "h", "w")


def _search_forward(backend, spec, q, k, flow=None):
    scores, offsets, _ = backend.search(q, k, spec, spec.patches(), flow=flow)
    return {"scores": scores, "offsets": offsets}


def _search_backward(backend, spec, inputs, outputs, grads, wanted):
    q, k, flow = inputs["q"], inputs["k"], inputs.get("flow")
    found, moved = _selected_gradients(backend, spec, q, k, outputs["offsets"], grads, wanted, "flow")
    if moved is None:
        return found
    xp, T, (H, W) = backend.xp, k.shape[1], k.shape[-2:]
    dt = xp.rint(outputs["offsets"][..., 0])
    slots = frame_order(T, spec.radius, xp)[:, 1:] - xp.arange(T)[:, None]
    heads = flow.shape[1]
    _, y, x = _query_positions(xp, spec.stride, T, *flow.shape[-2:])
    grad = xp.zeros(flow.shape, moved.dtype)
    for slot in range(slots.shape[1]):
        here = dt == slots[:, slot, None, None, None]
        by_y, by_x = (xp.where(here, moved[..., axis], 0).sum(-1) for axis in (1, 2))
        for channel, (by, at, n) in enumerate(((by_x, x, W), (by_y, y, H))):
            by = by if heads == by.shape[1] else by.sum(1, keepdims=True)
            grad[:, :, :, slot, channel] = _along(xp, flow[:, :, :, slot, channel], by, at, n, spec.border)
    return {**found, "flow": grad}


def _query_positions(xp, stride, T, h, w):
    return xp.arange(T)[:, None, None], (xp.arange(h) * stride)[:, None], xp.arange(w) * stride


def _along(xp, flow, by, at, n, border):
    """What `by`, the gradient of the centre, is to the flow: mirrored flow moves it backward, one not finite not at all."""
    sign = finite = xp.isfinite(flow)
    if border == "reflect":
        sign = mirror_sign(at + xp.where(finite, flow, 0).astype(float), n) * finite
    return xp.where(sign != 0, sign * by, 0)


def _selected_gradients(backend, spec, q, k, offsets, grads, wanted, centre):
    """Gradients of q and k through the kept scores, and what arrives at each kept offset.

    That is None where nobody asks: the offsets are whole, or the gradient of the `centre` is not wanted.
    """
    xp, p, (H, W) = backend.xp, spec.patches(), k.shape[-2:]
    p = Patches(**{**vars(p), "scale": q.shape[-1] // W})
    reached = True
    if spec.border == "reflect":  # candidates outside scored infinite: they carry no gradient
        _, y, x = _query_positions(xp, spec.stride, *offsets.shape[2:5])
        y, x = y[..., None] + offsets[..., 1], x[:, None] + offsets[..., 2]
        reached = (y >= 0) & (y <= H - 1) & (x >= 0) & (x <= W - 1)
    g = xp.where(reached, grads["scores"], 0)
    found = of_pixels(backend, q, k, g, offsets, p, wanted)
    if not spec.subpixel or centre not in wanted:
        return found, None
    moved = backend.slope(q, k, g, offsets, p)
    if grads.get("offsets") is not None:
        moved = moved + xp.where(xp.asarray(reached)[..., None], grads["offsets"], 0)
    return found, moved


SEARCH = Op(
    name="search",
    spec=SearchSpec,
    inputs={"q": "B T C H W", "k": "B T C H W", "flow": "B G? T S 2 h w"},
    outputs={"scores": "score", "offsets": "offset"},
    shapes=_search_results,
    keeps=("offsets",),
    values=("q", "k"),
    optional=("flow",),
    sizes=_search_sizes,
    check=_check_search,
    forward=_search_forward,
    backward=_search_backward,
)


# --- match ----------------------------------------------------------------------------------------
def match(
    q, k, flow=None, *, window=9, patch=1, topk=10, heads=1, stride=1, step=1, dilation=1,
    metric="l2", border="reflect", subpixel=False, slide=True, penalty=0.0, anchor=None, skip=None, per_frame=False,
):  # fmt: skip
    """`search` from one frame into one other: the smallest form of it.

    The keys' frame sets the query grid. `q` may have an integer multiple m of its resolution: query (y, x)
    then reads its patch around pixel (y, x) * stride * m of q.

    Args:
        q: queries (B, C, m * H, m * W)
        k: keys (B, C, H, W)
        flow: (B, 2, h, w), or (B, heads or 1, 2, h, w), channel 0 = dx, 1 = dy, or None for no motion
        anchor: "flow" puts the centre of the window first
        skip: "self" scores offset (0, 0) infinite, which puts it last
        per_frame: there is one frame: both values mean the same
        others: as in `search`

    Returns:
        scores (B, heads, h, w, K), and offsets (B, heads, h, w, K, 2): (dy, dx)

    Example:
        >>> frame = np.random.default_rng(0).standard_normal((4, 16, 24), np.float32)
        >>> moved = np.roll(frame, (1, 2), axis=(1, 2))
        >>> scores, offsets = match(frame, moved, window=5, patch=3, topk=1)
        >>> offsets[0, 8, 12, 0]
        array([1, 2], dtype=int32)
    """
    options = (
        window, patch, 0, topk, heads, stride, step, dilation,
        metric, border, subpixel, slide, penalty, anchor, skip, per_frame,
    )  # fmt: skip
    return run(MATCH, options, q=q, k=k, flow=flow)


def _check_match(spec, sizes):
    check_heads(spec, sizes)
    spec.kept(1)
    m = sizes["qH"] // sizes["H"]
    if m < 1 or (sizes["qH"], sizes["qW"]) != (m * sizes["H"], m * sizes["W"]):
        found, expected = (sizes["qH"], sizes["qW"]), (sizes["H"], sizes["W"])
        raise ShiftsearchError(f"match: q has frames of {found}, expected an integer multiple of k's {expected}")


def _as_clip(q, k, flow):
    """Two frames as clips of one frame each."""
    return q[:, None], k[:, None], None if flow is None else flow[:, :, None, None]


def _match_forward(backend, spec, q, k, flow=None):
    q, k, flow = _as_clip(q, k, flow)
    p = Patches(**{**vars(spec.patches()), "scale": q.shape[-1] // k.shape[-1]})
    scores, offsets, _ = backend.search(q, k, spec, p, flow=flow)
    return {"scores": scores[:, :, 0], "offsets": offsets[:, :, 0, ..., 1:]}


def _match_backward(backend, spec, inputs, outputs, grads, wanted):
    xp, flow = backend.xp, inputs.get("flow")
    q, k, _ = _as_clip(inputs["q"], inputs["k"], None)

    def with_time(offsets):
        return xp.concatenate([xp.zeros_like(offsets[..., :1]), offsets], -1)[:, :, None]

    clip = {"scores": grads["scores"][:, :, None]}
    if grads.get("offsets") is not None:
        clip["offsets"] = with_time(grads["offsets"])
    found, moved = _selected_gradients(backend, spec, q, k, with_time(outputs["offsets"]), clip, wanted, "flow")
    found = {name: grad[:, 0] for name, grad in found.items()}
    if moved is None:
        return found
    _, y, x = _query_positions(xp, spec.stride, 1, *flow.shape[-2:])
    grad = xp.zeros(flow.shape, moved.dtype)
    total = moved[:, :, 0].sum(-2)
    total = total if flow.shape[1] == total.shape[1] else total.sum(1, keepdims=True)
    for channel, (axis, at, n) in enumerate(((2, x, k.shape[-1]), (1, y, k.shape[-2]))):
        grad[:, :, channel] = _along(xp, flow[:, :, channel], total[..., axis], at, n, spec.border)
    return {**found, "flow": grad}


MATCH = Op(
    name="match",
    spec=SearchSpec,
    inputs={"q": "B C qH qW", "k": "B C H W", "flow": "B G? 2 h w"},
    outputs={"scores": "score", "offsets": "offset"},
    shapes=lambda spec, sizes: spec.results(sizes, 1, "h", "w"),
    keeps=("offsets",),
    values=("q", "k"),
    optional=("flow",),
    sizes=lambda spec, sizes: _grid_of_keys(spec, sizes),
    check=_check_match,
    forward=_match_forward,
    backward=_match_backward,
)


def _grid_of_keys(spec, sizes):
    if "H" not in sizes:
        return {"G": spec.heads}
    h, w = query_grid(sizes["H"], sizes["W"], spec.stride)
    return {"h": h, "w": w}


# --- refine ---------------------------------------------------------------------------------------
def refine(
    q, k, offsets, *, window=3, patch=1, topk=None, heads=1, stride=1, step=1, dilation=1,
    metric="l2", border="reflect", subpixel=False, slide=True, penalty=0.0, anchor=None, skip=None, per_frame=False,
):  # fmt: skip
    """`search` around given places instead of around one flow per frame: each offset is the centre of a window.

    Args:
        q: queries (B, T, C, H, W)
        k: keys, the same shape
        offsets: the seeds (B, heads, T, h, w, S, 3), whole or fractional, as `search` returns them; 2**30 rows or
            columns at most are followed, so that what is returned fits int32
        window: candidates per side around each seed
        topk: how many to keep of the S * window**2; None gives all, in seed, row, column order
        anchor: "flow" puts the centre of each seed's window first, per seed; "self" puts offset (0, 0, 0) first where
            it is a candidate
        skip: "self" scores offset (0, 0, 0) infinite, which puts it last
        per_frame: keeps `topk` of each seed, seed by seed: K = S * topk
        others: as in `search`

    Returns:
        scores (B, heads, T, h, w, K), and offsets (B, heads, T, h, w, K, 3): (dt, dy, dx) relative to the query

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> _, coarse = search(video, video, window=5, topk=4, stride=2)
        >>> scores, fine = refine(video, video, coarse, stride=2, step=0.5, subpixel=True, topk=2)
        >>> fine.shape, fine.dtype
        ((1, 3, 8, 12, 2, 3), dtype('float32'))
    """
    options = (
        window, patch, 0, topk, heads, stride, step, dilation,
        metric, border, subpixel, slide, penalty, anchor, skip, per_frame,
    )  # fmt: skip
    return run(REFINE, options, q=q, k=k, offsets=offsets)


def _check_refine(spec, sizes):
    check_heads(spec, sizes)
    spec.kept(sizes["seeds"])


def _refine_results(spec, sizes):
    found = spec.results(sizes, sizes["seeds"], "T", "h", "w")
    return {**found, "seed": found["scores"]}


def _refine_forward(backend, spec, q, k, offsets):
    scores, found, seed = backend.search(q, k, spec, spec.patches(), seeds=offsets)
    return {"scores": scores, "offsets": found, "seed": seed}


def _refine_backward(backend, spec, inputs, outputs, grads, wanted):
    """The gradient of a kept offset goes to the seed that it came from."""
    q, k, seeds, xp = inputs["q"], inputs["k"], inputs["offsets"], backend.xp
    found, moved = _selected_gradients(backend, spec, q, k, outputs["offsets"], grads, wanted, "offsets")
    if moved is None or not np.issubdtype(seeds.dtype, np.floating):
        return found
    _, y, x = _query_positions(xp, spec.stride, *seeds.shape[2:5])
    grad = xp.zeros(seeds.shape, moved.dtype)
    for axis, at, n in ((1, y[..., None], k.shape[-2]), (2, x[:, None], k.shape[-1])):
        for s in range(seeds.shape[-2]):
            grad[..., s, axis] = xp.where(outputs["seed"] == s, moved[..., axis], 0).sum(-1)
        grad[..., axis] = _along(xp, seeds[..., axis], grad[..., axis], at, n, spec.border)
    return {**found, "offsets": grad}


REFINE = Op(
    name="refine",
    spec=SearchSpec,
    inputs={"q": "B T C H W", "k": "B T C H W", "offsets": "B G T h w seeds 3"},
    outputs={"scores": "score", "offsets": "offset", "seed": "index"},
    shapes=_refine_results,
    keeps=("offsets", "seed"),
    hidden=("seed",),
    values=("q", "k"),
    sizes=_search_sizes,
    check=_check_refine,
    forward=_refine_forward,
    backward=_refine_backward,
)
