"""aggregate and stack: patches at places, summed or side by side; coverage: how many patches are averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shiftsearch import _geometry
from shiftsearch._arrays import check_room
from shiftsearch._call import run
from shiftsearch._geometry import Patches, patches_of
from shiftsearch._op import OFFSET, WEIGHT, Example, Input, Op, Spec
from shiftsearch._types import Array, Border
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.form import Derivative
from shiftsearch.ops.patches import MOST_PATCH, PatchSpec, check_divides, grid_of


@dataclass(frozen=True, kw_only=True)
class AggregateSpec(PatchSpec):
    def patches(self) -> Patches:
        # pixels of a query's patch that lie outside the frame are dropped
        return patches_of(self.patch, self.stride, self.dilation, self.border, query_border="zeros")


def check_channels(spec: AggregateSpec, sizes: dict[str, int]) -> None:
    check_divides(spec, sizes["G"], sizes["C"], "the weights or offsets have {} heads")


# --- aggregate ------------------------------------------------------------------------------------
def aggregate(
    v: Array,
    weights: Array,
    offsets: Array,
    *,
    patch: int = 1,
    stride: int = 1,
    dilation: int = 1,
    border: Border = "reflect",
) -> Array:
    """Return the weighted sum of the patches of v at the places that were found, overlapping patches averaged.

    out(x) = mean over the queries whose patch covers x, with u = x - r, of
        sum over K of weights * v(place + u)

    A pixel that no patch covers, as happens if stride > patch, is 0; see `coverage`. Pixels of a patch that lie outside
    the frame are dropped.

    Args:
        v: values (B, T, C, H, W), or of another number of frames
        weights: (B, heads, T, h, w, K); head g weighs the g-th part of the channels
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place, as `search` returns them; for floats
            v is sampled bilinearly. A divisor of `heads` will do: each of so many is then that of several heads in a row
        patch, stride, dilation, border: as in `search`

    Returns:
        out (B, T, C, H, W)

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> scores, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> weights = np.exp(-scores)
        >>> weights /= weights.sum(-1, keepdims=True)
        >>> aggregate(video, weights, offsets, patch=3).shape
        (3, 4, 16, 24)
    """
    arrays = {"v": v, "weights": weights, "offsets": offsets}
    return run(AGGREGATE, arrays, patch=patch, stride=stride, dilation=dilation, border=border)[0]


INPUTS = {
    "v": Input("B vT C H W"),
    "weights": Input("B G T h w K", WEIGHT),
    "offsets": Input("B G/ T h w K 3", OFFSET),
}
_SLOTS = {"v": "k", "weights": "weights", "offsets": "offsets"}
_aggregate = Derivative("q", _SLOTS, "out", averaged=True)
AGGREGATE = Op(
    function=aggregate,
    spec=AggregateSpec,
    inputs=INPUTS,
    outputs={"out": "value"},
    shapes=lambda spec, sizes: {"out": tuple(sizes[axis] for axis in "BTCHW")},
    sizes=grid_of,
    check=check_channels,
    forward=_aggregate.forward,
    backward=_aggregate.backward,
    multiply_adds=_aggregate.multiply_adds,
    example=Example({"patch": 3}),
)


# --- stack ----------------------------------------------------------------------------------------
def stack(
    v: Array,
    offsets: Array,
    weights: Array | None = None,
    *,
    patch: int = 1,
    stride: int = 1,
    dilation: int = 1,
    border: Border = "reflect",
) -> Array:
    """Return the K patches that `aggregate` would sum in K separate videos, each warped to the query.

    Args:
        v: values (B, T, C, H, W), or of another number of frames
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place
        weights: (B, heads, T, h, w, K), or None for 1
        patch, stride, dilation, border: as in `search`

    Returns:
        out (B, K, T, C, H, W); its sum over K is `aggregate`

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> _, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> stack(video, offsets, patch=3).shape
        (4, 3, 4, 16, 24)
    """
    arrays = {"v": v, "weights": weights, "offsets": offsets}
    return run(STACK, arrays, patch=patch, stride=stride, dilation=dilation, border=border)[0]


_stack = Derivative("q", _SLOTS, "out", averaged=True, stacked=True)
STACK = Op(
    function=stack,
    spec=AggregateSpec,
    inputs={**INPUTS, "weights": Input("B G T h w K", WEIGHT, optional=True)},
    outputs={"out": "value"},
    shapes=lambda spec, sizes: {"out": tuple(sizes[axis] for axis in "BKTCHW")},
    sizes=grid_of,
    check=check_channels,
    forward=_stack.forward,
    backward=_stack.backward,
    multiply_adds=_stack.multiply_adds,
    example=Example({"patch": 3}),
)


# --- coverage -------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class _CoverageSpec(Spec):
    height: int
    width: int
    patch: int
    stride: int
    dilation: int

    def __post_init__(self) -> None:
        self.whole("height", "width", "stride")
        self.whole("patch", most=MOST_PATCH)
        self.whole("dilation", most=4096)


def coverage(size: tuple[int, int], *, patch: int = 1, stride: int = 1, dilation: int = 1) -> npt.NDArray[np.float64]:
    """Return how many queries' patches cover each pixel of a frame: what `aggregate` divides by.

    Args:
        size: (H, W) of a frame
        patch, stride, dilation: as in `search`

    Returns:
        counts, a NumPy array (H, W) of float64; 0 where no patch reaches

    Example:
        >>> coverage((3, 4), patch=3)
        array([[4., 6., 6., 4.],
               [6., 9., 9., 6.],
               [4., 6., 6., 4.]])
    """
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ShiftsearchError(f"coverage: size is {size!r}, expected (height, width)")
    height, width = size
    spec = _CoverageSpec(caller="coverage", height=height, width=width, patch=patch, stride=stride, dilation=dilation)
    check_room("coverage", "the result", (spec.height, spec.width), 8)
    check_room("coverage", "the patches along an axis", (max(spec.height, spec.width), spec.patch), 16)  # on the way
    return _geometry.coverage(spec.height, spec.width, spec.patch, spec.stride, spec.dilation)
