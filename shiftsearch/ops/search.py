"""search: the places that are most like each query."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, ClassVar

from shiftsearch._arrays import shaped
from shiftsearch._call import run
from shiftsearch._geometry import frame_order
from shiftsearch._op import FLOW, Example, Input, Op
from shiftsearch._types import Anchor, Array, Border, Even, Metric, Native, Skip, Window
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.flow import chain, check_clip, padded
from shiftsearch.ops.frames import seeds
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.score import check_heads, heads_and_grid
from shiftsearch.ops.window import OUTPUTS, WindowSpec, differentiate_kept, multiply_adds_of, to_flow


@dataclass(frozen=True, kw_only=True)
class SearchSpec(WindowSpec):
    """Windows around the query in its own frame, and where the flow leads in the frames around it."""

    radius: int

    skips: ClassVar[tuple[str | None, ...]] = (None, "self", "own_frame")

    def __post_init__(self) -> None:
        self.whole("radius", least=0)
        super().__post_init__()
        self.check(self.skip != "own_frame" or self.radius > 0, "skip", "another frame to search: radius is 0")

    @property
    def removes_self(self) -> bool:
        return self.skip == "self"

    def search_slots(self) -> int:
        return 2 * self.radius + (self.skip != "own_frame")


def search(
    q: Array,
    k: Array,
    flow: Array | tuple[Array, Array] | list[Array] | None = None,
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
) -> tuple[Array, Array]:
    """Return the `topk` places most like each query, searched in its own frame and in `radius` frames each way.

    A query at pixel r is searched in a window of places around a. In its own frame, a = r. In its neighbours, a is
    r + flow, mirrored into the frame. The candidates of a window, n = a + step * (i, j), are compared with the query
    patch by patch: a score is the sum over patch pixels u and channels of (q(r + u) - k(n + u))**2, or of the product
    for "dot".

    Args:
        q: queries (B, T, C, H, W); B may be missing everywhere, and is then missing in the results
        k: keys, the same shape; with `frames` of any number of frames
        flow: motion in pixels, channel 0 = dx, 1 = dy, or None for no motion. Either a pair (forward, backward) of
            (B, T, 2, H, W), or (B, T - 1, 2, H, W) each, as of flow networks or of `flow.pair`: it is chained. Or an
            array (B, T, 2 * radius, 2, h, w), whose slot s leads to frame `neighbours(T, radius)[t, s + 1]`. With one
            more axis (heads or 1) before T, it is flow per head. A component that is not finite counts as no motion.
            Flow of a coarser grid: see `upsample_flow`
        frames: whole numbers (T, S): which frames of k each frame of q looks at, slot by slot, in place of its own and
            those around it. k may then be another clip. Flow has a slot for each, (B, T, S, 2, h, w), and dt of an offset
            is the frame of k less that of q. skip="self" scores offset (0, 0, 0) infinite
        window: candidates per side, or (rows, columns) of them
        even: where a window of an even number of rows or columns reaches one further: "after" is down and right, "before"
            is up and left
        patch: pixels per side that one comparison sums over; an even patch reaches one further up and left
        radius: frames each way; the clip needs 2 * radius + 1
        topk: how many to keep, best first, equal ones in window order; None returns all, in slot, row, column order
        heads: channels are split into this number of parts, each searched separately
        stride: every stride-th row and column is a query: h = (H - 1) // stride + 1
        step: pixels between candidates; a fraction needs `subpixel`
        dilation: pixels between the pixels of a patch
        metric: "l2", a distance, or "dot", a similarity
        border: "reflect" mirrors the frame; with "zeros" it is empty outside: a pair of pixels with a member outside
            adds nothing, and windows may lie outside
        subpixel: False rounds the flow (half to even) and returns int32 offsets; True keeps its fraction, samples keys
            bilinearly and returns float offsets, float64 if q is, else float32
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
        >>> bool((offsets[..., 0, :] == 0).all())  # each pixel is most like itself
        True
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
        q, k, flow = (shaped("search", name, array) for name, array in (("q", q), ("k", k), ("flow", flow)))
        offsets = seeds("search", q, k, flow, frames, stride)
        found = run(REFINE, {"q": q, "k": k, "offsets": offsets}, caller="search", **options)
    else:
        flow = motion("search", q, flow, radius, stride)
        found = run(SEARCH, {"q": q, "k": k, "flow": flow}, radius=radius, **options)
    scores, offsets = found
    return scores, offsets


def motion(caller: str, q: Any, flow: Any, radius: int, stride: int) -> Any:
    """Return the flow to each frame of a search, which a pair (forward, backward) is chained to."""
    if isinstance(flow, (tuple, list)):
        return _chained(caller, q, flow, radius, stride)
    shape, found = _shape(q), _shape(flow)
    if len(found) == len(shape) > 3 and found[-3] == 2 and found[-4] in (shape[-4], shape[-4] - 1):
        raise ShiftsearchError(
            f"{caller}: flow has shape {found}, as one flow has, expected a pair: flow=(forward, backward), from "
            "each frame to the next and to the one before, such as shiftsearch.flow.pair measures"
        )
    return flow


def _chained(caller: str, q: Any, pair: tuple[Any, ...] | list[Any], radius: int, stride: int) -> Any:
    if len(pair) != 2:
        raise ShiftsearchError(
            f"{caller}: flow is a {type(pair).__name__} of {len(pair)}, expected (forward, backward)"
        )
    shape, (forward, backward) = _shape(q), pair
    if len(shape) > 3:
        expected = (*shape[:-3], 2, *shape[-2:])
        if _shape(forward) == _shape(backward) == (*shape[:-4], shape[-4] - 1, *expected[-3:]):
            # flow networks give none to the last frame, and none back to the first
            forward, backward = padded(caller, forward, at_end=True), padded(caller, backward, at_end=False)
        for name, found in (("forward", _shape(forward)), ("backward", _shape(backward))):
            if found not in ((), expected):  # arrays of other types are reported later
                raise ShiftsearchError(f"{caller}: {name} has shape {found}, expected {expected} for q of {shape}")
    return chain(caller, forward, backward, radius=radius, stride=stride)


def _shape(array: Any) -> tuple[int, ...]:
    """Return the shape of an array, or () of what is none."""
    shape = getattr(array, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else ()


def _sizes(spec: SearchSpec, sizes: dict[str, int]) -> dict[str, int]:
    return {"S": 2 * spec.radius, **heads_and_grid(spec, sizes)}


def _check(spec: SearchSpec, sizes: dict[str, int]) -> None:
    check_heads(spec, sizes)
    check_clip(spec.caller, sizes["T"], spec.radius)
    spec.kept(spec.search_slots())


def _forward(backend: Any, spec: SearchSpec, q: Native, k: Native, flow: Native = None) -> dict[str, Native]:
    scores, offsets, _ = backend.search(q, k, spec, spec.patches(), flow=flow)
    return {"scores": scores, "offsets": offsets}


def _backward(
    backend: Any,
    spec: SearchSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    q, k, offsets = inputs["q"], inputs["k"], outputs["offsets"]
    asked = {"offsets" if name == "flow" else name for name in wanted}
    found = differentiate_kept(backend, spec, q, k, offsets, grads, asked)
    if "offsets" in found:
        moved = found.pop("offsets")
        found["flow"] = _to_flow_of_slots(backend.xp, spec, inputs["flow"], offsets, moved, k)
    return found


def _to_flow_of_slots(xp: Any, spec: SearchSpec, flow: Native, offsets: Native, moved: Native, k: Native) -> Native:
    """Return the gradient of the flow: the gradient of a kept offset is added to the slot that leads to its frame."""
    T, dt = k.shape[1], xp.rint(offsets[..., 0])
    slots = frame_order(T, spec.radius, xp)[:, 1:] - xp.arange(T)[:, None]
    grad = xp.zeros(flow.shape, moved.dtype)
    for slot in range(slots.shape[1]):
        here = dt == slots[:, slot, None, None, None]
        by_y, by_x = (xp.where(here, moved[..., axis], 0).sum(-1) for axis in (1, 2))
        grad[:, :, :, slot] = to_flow(xp, spec, flow[:, :, :, slot], by_y, by_x, k.shape[-2:])
    return grad


SEARCH = Op(
    function=search,
    spec=SearchSpec,
    inputs={
        "q": Input("B T C H W"),
        "k": Input("B T C H W"),
        "flow": Input("B G? T S 2 h w", FLOW, optional=True),
    },
    outputs=OUTPUTS,
    shapes=lambda spec, sizes: spec.results(sizes, spec.search_slots(), "T", "h", "w"),
    keeps=("offsets",),
    sizes=_sizes,
    check=_check,
    forward=_forward,
    backward=_backward,
    multiply_adds=multiply_adds_of(lambda spec, sizes: spec.search_slots()),
    example=Example({"window": 5, "patch": 3, "topk": 4, "heads": 2, "subpixel": True}),
)
