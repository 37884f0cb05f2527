"""aggregate, stack, scatter: what do we make of the places that were found?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftsearch import _geometry
from shiftsearch._arrays import check_room
from shiftsearch._call import run
from shiftsearch._geometry import Patches, query_grid
from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.score import of_offsets


@dataclass(frozen=True)
class AggregateSpec(Spec):
    patch: int = 1
    stride: int = 1
    dilation: int = 1
    border: str = "reflect"

    def __post_init__(self):
        self.whole("patch", most=129)
        self.whole("stride")
        self.whole("dilation", most=4096)
        self.choice("border", "reflect", "zeros")

    def patches(self) -> Patches:
        # what a query's patch covers outside the frame is dropped: there is no pixel to write or read
        return Patches(self.patch, self.stride, self.dilation, self.border, query_border="zeros")

    def coverage(self, xp, height, width, dtype):
        """What each pixel's sum is divided by; 1 where nothing is summed."""
        counts = _geometry.coverage(height, width, self.patch, self.stride, self.dilation, xp)
        return xp.maximum(counts, 1).astype(dtype)


def _sizes(spec, sizes):
    h, w = query_grid(sizes["H"], sizes["W"], spec.stride)
    return {"h": h, "w": w}


def _check(spec, sizes):
    if sizes["C"] % sizes["G"]:
        raise ShiftsearchError(
            f"{spec.op}: the weights or offsets have {sizes['G']} heads, expected a divisor of the {sizes['C']} channels"
        )


_LETTERS = {"v": "B T C H W", "weights": "B G T h w K", "offsets": "B G T h w K 3"}


# --- aggregate ------------------------------------------------------------------------------------
def aggregate(v, weights, offsets, *, patch=1, stride=1, dilation=1, border="reflect"):
    """Weighted sum of the patches of v at the places that were found, overlapping patches averaged.

    out(x) = mean over the queries whose patch covers x, with u = x - r, of
        sum over K of weights * v(place + u)

    A pixel that no patch covers, as happens where stride > patch, is 0; see `coverage`. What a patch
    covers outside the frame is dropped.

    Args:
        v: values (B, T, C, H, W)
        weights: (B, heads, T, h, w, K); head g weighs the g-th part of the channels
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place, as `search` returns them; floats
            sample v bilinearly
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
    return run(AGGREGATE, (patch, stride, dilation, border), v=v, weights=weights, offsets=offsets)[0]


def _aggregate_forward(backend, spec, v, weights, offsets):
    sums = backend.aggregate(None, v, weights, offsets, spec.patches(), size=v.shape[1:])
    return {"out": sums / spec.coverage(backend.xp, *v.shape[-2:], v.dtype)}


def _aggregate_backward(backend, spec, inputs, outputs, grads, wanted):
    v, weights, offsets = inputs["v"], inputs["weights"], inputs["offsets"]
    u, p = grads["out"] / spec.coverage(backend.xp, *v.shape[-2:], v.dtype), spec.patches()
    found = of_offsets(backend, u, v, weights, offsets, p, wanted)
    if "v" in wanted:
        found["v"] = backend.scatter(u, None, weights, offsets, p, size=v.shape[1:])
    if "weights" in wanted:
        found["weights"] = backend.score(u, v, offsets, p)
    return found


AGGREGATE = Op(
    name="aggregate",
    spec=AggregateSpec,
    inputs=_LETTERS,
    outputs={"out": "value"},
    shapes=lambda spec, sizes: {"out": tuple(sizes[axis] for axis in "BTCHW")},
    values=("v", "weights"),
    sizes=_sizes,
    check=_check,
    forward=_aggregate_forward,
    backward=_aggregate_backward,
)


# --- stack ----------------------------------------------------------------------------------------
def stack(v, offsets, weights=None, *, patch=1, stride=1, dilation=1, border="reflect"):
    """The K patches that `aggregate` would sum, each in a video of its own: K videos warped to the query.

    Args:
        v: values (B, T, C, H, W)
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
    return run(STACK, (patch, stride, dilation, border), v=v, offsets=offsets, weights=weights)[0]


def _ones(xp, offsets, dtype):
    return xp.broadcast_to(xp.ones((), dtype), offsets.shape[:-1])


def _stack_forward(backend, spec, v, offsets, weights=None):
    xp, p = backend.xp, spec.patches()
    weights = _ones(xp, offsets, v.dtype) if weights is None else weights
    warped = [
        backend.aggregate(None, v, weights[..., n : n + 1], offsets[..., n : n + 1, :], p, size=v.shape[1:])
        for n in range(offsets.shape[-2])
    ]
    return {"out": xp.stack(warped, 1) / spec.coverage(xp, *v.shape[-2:], v.dtype)}


def _stack_backward(backend, spec, inputs, outputs, grads, wanted):
    v, offsets, p, xp = inputs["v"], inputs["offsets"], spec.patches(), backend.xp
    weights = inputs.get("weights")
    used = _ones(xp, offsets, v.dtype) if weights is None else weights
    u = grads["out"] / spec.coverage(xp, *v.shape[-2:], v.dtype)
    parts = []
    for n in range(offsets.shape[-2]):
        one, c, place = u[:, n], used[..., n : n + 1], offsets[..., n : n + 1, :]
        part = of_offsets(backend, one, v, c, place, p, wanted)
        if "v" in wanted:
            part["v"] = backend.scatter(one, None, c, place, p, size=v.shape[1:])
        if "weights" in wanted and weights is not None:
            part["weights"] = backend.score(one, v, place, p)
        parts.append(part)
    joined = {"v": sum(part["v"] for part in parts)} if "v" in wanted else {}
    for name, axis in (("weights", -1), ("offsets", -2)):
        if name in parts[0]:
            joined[name] = xp.concatenate([part[name] for part in parts], axis)
    return joined


STACK = Op(
    name="stack",
    spec=AggregateSpec,
    inputs=_LETTERS,
    outputs={"out": "value"},
    values=("v", "weights"),
    optional=("weights",),
    shapes=lambda spec, sizes: {"out": tuple(sizes[axis] for axis in "BKTCHW")},
    sizes=_sizes,
    check=_check,
    forward=_stack_forward,
    backward=_stack_backward,
)


# --- scatter --------------------------------------------------------------------------------------
def scatter(v, weights, offsets, *, patch=1, stride=1, dilation=1, border="reflect"):
    """Each query's patch of v, added with its weights at the places that were found: the transpose of `aggregate`.

    out(place + u) += weights * v(r + u), for all queries, kept candidates and patch pixels inside the frame.
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
    return run(SCATTER, (patch, stride, dilation, border), v=v, weights=weights, offsets=offsets)[0]


def _scatter_forward(backend, spec, v, weights, offsets):
    return {"out": backend.scatter(v, None, weights, offsets, spec.patches(), size=v.shape[1:])}


def _scatter_backward(backend, spec, inputs, outputs, grads, wanted):
    v, weights, offsets = inputs["v"], inputs["weights"], inputs["offsets"]
    g, p = grads["out"], spec.patches()
    found = of_offsets(backend, v, g, weights, offsets, p, wanted)
    if "v" in wanted:
        found["v"] = backend.aggregate(None, g, weights, offsets, p, size=v.shape[1:])
    if "weights" in wanted:
        found["weights"] = backend.score(v, g, offsets, p)
    return found


SCATTER = Op(
    name="scatter",
    spec=AggregateSpec,
    inputs=_LETTERS,
    outputs={"out": "value"},
    shapes=lambda spec, sizes: {"out": tuple(sizes[axis] for axis in "BTCHW")},
    values=("v", "weights"),
    sizes=_sizes,
    check=_check,
    forward=_scatter_forward,
    backward=_scatter_backward,
)


# --- coverage -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CoverageSpec(Spec):
    height: int
    width: int
    patch: int = 1
    stride: int = 1
    dilation: int = 1

    def __post_init__(self):
        self.whole("height", "width", "stride")
        self.whole("patch", most=129)
        self.whole("dilation", most=4096)


def coverage(size, *, patch=1, stride=1, dilation=1) -> np.ndarray:
    """How many queries' patches cover each pixel of a frame: what `aggregate` divides by.

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
    spec = CoverageSpec("coverage", *size, patch, stride, dilation)
    check_room("coverage", "the result", (spec.height, spec.width), 8)
    check_room("coverage", "the patches along an axis", (max(spec.height, spec.width), spec.patch), 16)  # on the way
    return _geometry.coverage(spec.height, spec.width, spec.patch, spec.stride, spec.dilation)
