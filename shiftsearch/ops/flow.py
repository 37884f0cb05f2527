"""chain_flow and its helpers: from flow between neighbouring frames to flow between all frames that are searched."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shiftsearch import _geometry
from shiftsearch._arrays import check_room, transform
from shiftsearch._call import are_tensors, run
from shiftsearch._geometry import query_grid
from shiftsearch._op import MOTION, Example, Input, Op, Spec
from shiftsearch._types import Array, Native
from shiftsearch.errors import ShiftsearchError


@dataclass(frozen=True, kw_only=True)
class _FramesSpec(Spec):
    frames: int
    radius: int

    def __post_init__(self) -> None:
        self.whole("frames")
        self.whole("radius", least=0)
        check_clip(self.caller, self.frames, self.radius)


_CURES = {  # of those who have two frames: by function and number of frames
    (
        "search",
        2,
    ): ". Two frames are searched in each other by match(q[0], k[1]), or by search(q, k, frames=[[1], [0]])",
    ("attend", 2): ". Two frames attend to each other with frames=[[1], [0]], and to both with frames=[[0, 1], [1, 0]]",
}


def check_clip(caller: str, frames: int, radius: int) -> None:
    """Check that a clip has the 2 * radius + 1 frames that each of its frames is searched in."""
    if frames < 2 * radius + 1:
        raise ShiftsearchError(
            f"{caller}: radius is {radius}, expected at most {(frames - 1) // 2} for {frames} frames: "
            f"a clip needs 2 * radius + 1 = {2 * radius + 1}{_CURES.get((caller, frames), '')}"
        )


def neighbours(frames: int, radius: int) -> npt.NDArray[np.int32]:
    """Return the frames that each frame is searched in, in slot order: itself, then later ones, then earlier ones.

    At the ends of a clip the range is shifted inward, so that every frame has 2 * radius + 1 of them.

    Args:
        frames: length of the clip, at least 2 * radius + 1
        radius: frames each way

    Returns:
        int array (frames, 2 * radius + 1)

    Example:
        >>> neighbours(5, 1)
        array([[0, 1, 2],
               [1, 2, 0],
               [2, 3, 1],
               [3, 4, 2],
               [4, 3, 2]], dtype=int32)
    """
    spec = _FramesSpec(caller="neighbours", frames=frames, radius=radius)
    check_room("neighbours", "the result", (spec.frames, 2 * spec.radius + 1), 32)  # on the way, in 64 bits
    return _geometry.frame_order(spec.frames, spec.radius)


@dataclass(frozen=True, kw_only=True)
class ChainFlowSpec(Spec):
    radius: int
    stride: int

    def __post_init__(self) -> None:
        self.whole("radius", least=0)
        self.whole("stride")


def chain_flow(forward: Array, backward: Array, *, radius: int, stride: int = 1) -> Array:
    """Return the flow from each frame to the frames around it, following the trajectory frame by frame.

    The position c starts at the query and moves by c <- c + flow(c), forward in time with `forward`,
    backward with `backward`; the flow is bilinear on the reflected frame. The position itself may
    leave the frame. A component that is not finite counts as no motion.

    Args:
        forward: flow from frame t to t + 1 in pixels, (B, T, 2, H, W), channel 0 = dx, 1 = dy; the last is not used
        backward: flow from frame t to t - 1, the same shape; the first is not used
        radius: frames each way
        stride: only every `stride`-th row and column is a query

    Returns:
        flow (B, T, 2 * radius, 2, h, w); slot s leads to frame `neighbours(T, radius)[t, s + 1]`

    Example:
        >>> forward = np.zeros((3, 2, 4, 5), np.float32)
        >>> forward[:, 0] = 1  # everything moves one pixel to the right
        >>> flow = chain_flow(forward, -forward, radius=1)
        >>> flow.shape
        (3, 2, 2, 4, 5)
        >>> flow[0, :, 0, 0, 0]  # from frame 0 to frames 1 and 2
        array([1., 2.], dtype=float32)
    """
    return chain("chain_flow", forward, backward, radius=radius, stride=stride)


def chain(caller: str, forward: Any, backward: Any, *, radius: int, stride: int) -> Any:
    """Return `chain_flow`, called by `caller`, which messages name."""
    arrays = {"forward": forward, "backward": backward}
    return run(CHAIN_FLOW, arrays, caller=caller, radius=radius, stride=stride)[0]


def _forward(backend: Any, spec: ChainFlowSpec, forward: Native, backward: Native) -> dict[str, Native]:
    return {"flow": backend.chain_flow(forward, backward, radius=spec.radius, stride=spec.stride)}


def _backward(
    backend: Any,
    spec: ChainFlowSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    both = backend.chain_flow_backward(grads["flow"], **inputs, radius=spec.radius, stride=spec.stride)
    return {name: grad for name, grad in zip(("forward", "backward"), both, strict=True) if name in wanted}


def _shapes(spec: ChainFlowSpec, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    return {"flow": (sizes["B"], sizes["T"], 2 * spec.radius, 2, *query_grid(sizes["H"], sizes["W"], spec.stride))}


def _multiply_adds(spec: ChainFlowSpec, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
    """Return how many the steps have: each reads a flow, and all but those from the query move what was read before."""
    T, (h, w) = sizes["T"], query_grid(sizes["H"], sizes["W"], spec.stride)
    steps = abs(_geometry.frame_order(T, spec.radius) - np.arange(T)[:, None])
    count = 4 * int((steps > 0).sum())
    if wanted is not None:
        count += (2 * 4 + 2) * int((steps > 1).sum())
    return sizes["B"] * h * w * 2 * count


CHAIN_FLOW = Op(
    function=chain_flow,
    spec=ChainFlowSpec,
    inputs={"forward": Input("B T 2 H W", MOTION), "backward": Input("B T 2 H W", MOTION)},
    outputs={"flow": "value"},
    shapes=_shapes,
    check=lambda spec, sizes: check_clip(spec.caller, sizes["T"], spec.radius),
    forward=_forward,
    backward=_backward,
    multiply_adds=_multiply_adds,
    example=Example({"radius": 1}),
)


def padded(caller: str, flow: Any, at_end: bool) -> Any:
    """Return flow (..., T - 1, 2, H, W) with one more of no motion, at the end or at the beginning; tensors keep gradients."""
    if are_tensors(flow):
        from shiftsearch import _torch

        return _torch.padded(flow, at_end)

    def natively(xp: Any, flow: Native) -> Native:
        none = xp.zeros_like(flow[..., :1, :, :, :])
        return xp.concatenate((flow, none) if at_end else (none, flow), -4)

    return transform(caller, natively, flow=flow)


@dataclass(frozen=True, kw_only=True)
class _SizeSpec(Spec):
    height: int
    width: int

    def __post_init__(self) -> None:
        self.whole("height", "width")


def upsample_flow(flow: Array, size: tuple[int, int]) -> Array:
    """Return flow of a coarse grid as flow on a grid of `size`, in the pixels of that grid.

    A flow network that works at 1/8 of the resolution returns vectors in its own pixels; here they
    become 8 times longer. Pixels are areas: the first coarse vector belongs to the middle of the
    first 8 x 8 pixels. Between grid points it is bilinear, beyond the outermost it is constant.

    Args:
        flow: (..., 2, h, w), channel 0 = dx, 1 = dy, floats
        size: (H, W) of the result

    Returns:
        flow (..., 2, H, W)

    Example:
        >>> coarse = np.ones((2, 4, 6), np.float32)
        >>> upsample_flow(coarse, (32, 48))[:, 0, 0]
        array([8., 8.], dtype=float32)
    """
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ShiftsearchError(f"upsample_flow: size is {size!r}, expected (height, width)")
    given: dict[str, Any] = {"caller": "upsample_flow", "height": size[0], "width": size[1]}
    if are_tensors(flow):
        return _upsample_tensor(flow, given)
    spec = _SizeSpec(**given)
    return transform("upsample_flow", lambda xp, array: _upsample(xp, array, spec), flow=flow)


def _upsample_tensor(flow: Any, given: dict[str, Any]) -> Any:
    from shiftsearch import _torch

    _check_coarse(flow.shape)
    checked = _torch.checked(_SizeSpec, given)
    return _torch.upsample_flow(flow, checked["height"], checked["width"])


def _check_coarse(shape: tuple[int, ...]) -> None:
    if len(shape) < 3 or shape[-3] != 2 or 0 in shape[-2:]:
        raise ShiftsearchError(f"upsample_flow: flow has shape {tuple(shape)}, expected (..., 2, h, w)")


def _upsample(xp: Any, flow: Native, spec: _SizeSpec) -> Native:
    _check_coarse(flow.shape)
    height, width = spec.height, spec.width
    check_room("upsample_flow", "the result", (*flow.shape[:-2], height, width), 24)  # in 64 bits and twice, on the way
    (h, w), wide = flow.shape[-2:], np.result_type(flow.dtype, np.float32)
    ratio = xp.asarray([width / w, height / h], wide)[:, None, None]
    y0, y1, fy = map(xp.asarray, _between(h, height, wide))
    x0, x1, fx = map(xp.asarray, _between(w, width, wide))
    with np.errstate(all="ignore"):  # flow that is not finite, or too long for its dtype
        rows = flow[..., y0, :] * (1 - fy)[:, None] + flow[..., y1, :] * fy[:, None]
        full = rows[..., x0] * (1 - fx) + rows[..., x1] * fx
        return (full * ratio).astype(flow.dtype, copy=False)


def _between(coarse: int, fine: int, dtype: np.dtype[Any]) -> tuple[Native, Native, Native]:
    """Return, for each of `fine` pixel centres, the two `coarse` ones around it and the distance to the first."""
    x = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
    low = np.minimum(np.floor(x).astype(int), max(coarse - 2, 0))
    return low, np.minimum(low + 1, coarse - 1), (x - low).astype(dtype)
