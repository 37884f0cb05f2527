"""scatter: patches added at places."""

from __future__ import annotations

from shiftsearch._call import run
from shiftsearch._op import Example, Input, Op
from shiftsearch._types import Array, Border
from shiftsearch.ops.aggregate import INPUTS, AggregateSpec, check_channels
from shiftsearch.ops.form import Derivative
from shiftsearch.ops.patches import grid_of


def scatter(
    v: Array,
    weights: Array,
    offsets: Array,
    *,
    patch: int = 1,
    stride: int = 1,
    dilation: int = 1,
    border: Border = "reflect",
) -> Array:
    """Return the patches of v at the queries, weighted and added at the places that were found.

    out(place + u) += weights * v(r + u), for all queries, places and patch pixels inside the frame.
    It is the exact transpose of `aggregate` before that divides by `coverage`.

    Args:
        v: values (B, T, C, H, W)
        weights: (B, heads, T, h, w, K)
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place
        patch, stride, dilation, border: as in `search`

    Returns:
        out (B, T, C, H, W)

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> scores, offsets = search(video, video, window=5, topk=4)
        >>> scatter(video, np.ones_like(scores), offsets).shape
        (3, 4, 16, 24)
    """
    arrays = {"v": v, "weights": weights, "offsets": offsets}
    return run(SCATTER, arrays, patch=patch, stride=stride, dilation=dilation, border=border)[0]


_form = Derivative("k", {"v": "q", "weights": "weights", "offsets": "offsets"}, "out")
SCATTER = Op(
    function=scatter,
    spec=AggregateSpec,
    inputs={**INPUTS, "v": Input("B T C H W")},
    outputs={"out": "value"},
    shapes=lambda spec, sizes: {"out": tuple(sizes[axis] for axis in "BTCHW")},
    sizes=grid_of,
    check=check_channels,
    forward=_form.forward,
    backward=_form.backward,
    multiply_adds=_form.multiply_adds,
    example=Example({"patch": 3}),
)
