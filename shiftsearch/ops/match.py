"""match: a search from one frame in another one."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from shiftsearch._call import run
from shiftsearch._op import FLOW, Example, Input, Op
from shiftsearch._types import Array, Border, Even, Metric, Native, Window
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.patches import grid_of
from shiftsearch.ops.score import check_heads
from shiftsearch.ops.window import OUTPUTS, WindowSpec, differentiate_kept, multiply_adds_of, to_flow


@dataclass(frozen=True, kw_only=True)
class MatchSpec(WindowSpec):
    """One window, around where the flow leads."""

    radius: ClassVar[int] = 0  # for backends, this is a search of a clip of one frame in that frame
    anchors: ClassVar[tuple[str | None, ...]] = (None, "flow")

    def search_slots(self) -> int:
        return 1


def match(
    q: Array,
    k: Array,
    flow: Array | None = None,
    *,
    window: Window = 9,
    even: Even = "after",
    patch: int = 1,
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
    anchor: Literal["flow"] | None = None,
    skip: Literal["self"] | None = None,
    per_frame: bool = False,
) -> tuple[Array, Array]:
    """Return the places in one other frame that are most like each query: the smallest form of `search`.

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
    scores, offsets = run(
        MATCH,
        {"q": q, "k": k, "flow": flow},
        window=window,
        even=even,
        patch=patch,
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
    )
    return scores, offsets


def _sizes(spec: MatchSpec, sizes: dict[str, int]) -> dict[str, int]:
    return {"G": spec.heads, **(grid_of(spec, sizes) if "H" in sizes else {})}  # of k, not q


def _check(spec: MatchSpec, sizes: dict[str, int]) -> None:
    check_heads(spec, sizes)
    spec.kept(1)
    found, expected = (sizes["qH"], sizes["qW"]), (sizes["H"], sizes["W"])
    m = sizes["qH"] // sizes["H"]
    if m < 1 or found != (m * sizes["H"], m * sizes["W"]):
        raise ShiftsearchError(
            f"{spec.caller}: q has frames of {found}, expected an integer multiple of k's {expected}"
        )


def _forward(backend: Any, spec: MatchSpec, q: Native, k: Native, flow: Native = None) -> dict[str, Native]:
    q, k = q[:, None], k[:, None]  # clips of one frame
    p = spec.patches(q.shape[-1] // k.shape[-1])
    flow = None if flow is None else flow[:, :, None, None]
    scores, offsets, _ = backend.search(q, k, spec, p, flow=flow)
    return {"scores": scores[:, :, 0], "offsets": offsets[:, :, 0, ..., 1:]}


def _backward(
    backend: Any,
    spec: MatchSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    xp, k = backend.xp, inputs["k"]

    def with_time(offsets: Native) -> Native:
        return xp.concatenate([xp.zeros_like(offsets[..., :1]), offsets], -1)[:, :, None]

    clip = {"scores": grads["scores"][:, :, None]}
    if grads.get("offsets") is not None:
        clip["offsets"] = with_time(grads["offsets"])
    asked = {"offsets" if name == "flow" else name for name in wanted}
    places = with_time(outputs["offsets"])
    found = differentiate_kept(backend, spec, inputs["q"][:, None], k[:, None], places, clip, asked)
    moved = found.pop("offsets", None)
    found = {name: grad[:, 0] for name, grad in found.items()}
    if moved is not None:
        total = moved[:, :, 0].sum(-2)
        found["flow"] = to_flow(xp, spec, inputs["flow"], total[..., 1], total[..., 2], k.shape[-2:])
    return found


MATCH = Op(
    function=match,
    spec=MatchSpec,
    inputs={
        "q": Input("B C qH qW"),
        "k": Input("B C H W"),
        "flow": Input("B G? 2 h w", FLOW, optional=True),
    },
    outputs=OUTPUTS,
    shapes=lambda spec, sizes: spec.results(sizes, 1, "h", "w"),
    keeps=("offsets",),
    sizes=_sizes,
    check=_check,
    forward=_forward,
    backward=_backward,
    multiply_adds=multiply_adds_of(lambda spec, sizes: 1),
    example=Example({"window": 5, "patch": 3, "topk": 4, "heads": 2, "subpixel": True}, sizes={"qH": 7, "qW": 8}),
)
