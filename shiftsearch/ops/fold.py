"""fold: patches added back where they came from."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from shiftsearch._call import run
from shiftsearch._geometry import query_grid
from shiftsearch._op import OFFSET, WEIGHT, Example, Input, Op
from shiftsearch._types import Array, Border, Native
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.form import multiply_adds
from shiftsearch.ops.patches import MOST_PATCH
from shiftsearch.ops.queries import Part, Queries, QueriesSpec, bounds


@dataclass(frozen=True, kw_only=True)
class FoldSpec(QueriesSpec):
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            size = tuple(map(_whole_number, self.size))
        except TypeError:
            size = ()
        self.check(len(size) == 3 and all(n > 0 for n in size), "size", "(frames, height, width), each at least 1")
        object.__setattr__(self, "size", size)


def _whole_number(n: Any) -> Any:
    """Return `n` as an int, 0 if it is no whole number. A symbolic size of torch.compile is returned unchanged."""
    if isinstance(n, Integral):
        return int(n) if not isinstance(n, bool) and n < 2**31 else 0
    return n if hasattr(n, "__index__") else 0


def fold(
    patches: Array,
    offsets: Array,
    weights: Array | None = None,
    *,
    size: tuple[int, int, int],
    stride: int = 1,
    dilation: int = 1,
    border: Border = "reflect",
    queries: Queries | None = None,
) -> tuple[Array, Array]:
    """Return patches added back where they came from, the transpose of `gather`, and how often each pixel was covered.

    sums / coverage is the weighted mean of all patches at each pixel. Parts of the query grid may be
    folded one by one, and the results added.

    Args:
        patches: (B, heads, T, h, w, K, C / heads, patch, patch), with T, h, w those of `queries`
        offsets: (B, heads, T, h, w, K, 3) of all queries
        weights: (B, heads, T, h, w, K) of all queries, or None for 1
        size: (T, H, W) of the result
        stride, dilation, border, queries: as in `gather`

    Returns:
        sums (B, T, C, H, W), and coverage (B, T, heads, H, W): the sum of the weights at each pixel

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> _, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> sums, coverage = fold(gather(video, offsets, patch=3), offsets, size=(3, 16, 24))
        >>> covered = coverage[:, 0] > 0
        >>> np.allclose((sums / coverage)[:, 0][covered], video[:, 0][covered], atol=1e-5)
        True
    """
    arrays = {"patches": patches, "offsets": offsets, "weights": weights}
    part = bounds("fold", queries)
    sums, coverage = run(FOLD, arrays, size=size, stride=stride, dilation=dilation, border=border, queries=part)
    return sums, coverage


def _sizes(spec: FoldSpec, sizes: dict[str, int]) -> dict[str, int]:
    T, H, W = spec.size
    h, w = query_grid(H, W, spec.stride)
    expected = tuple(s.stop - s.start for s in spec.part((T, h, w)))
    found = tuple(sizes[letter] for letter in "tyx")
    if found != expected:
        raise ShiftsearchError(
            f"{spec.caller}: patches are of {found} queries (frames, rows, columns), expected {expected}"
        )
    return {"T": T, "h": h, "w": w}


def _check(spec: FoldSpec, sizes: dict[str, int]) -> None:
    if sizes["P"] > MOST_PATCH:
        raise ShiftsearchError(
            f"{spec.caller}: patches are of {sizes['P']} pixels per side, expected at most {MOST_PATCH}"
        )


def _shapes(spec: FoldSpec, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    (T, H, W), B, G = spec.size, sizes["B"], sizes["G"]
    return {"sums": (B, T, G * sizes["F"], H, W), "coverage": (B, T, G, H, W)}


def _forward(
    backend: Any, spec: FoldSpec, patches: Native, offsets: Native, weights: Native = None
) -> dict[str, Native]:
    part = Part(backend, spec, offsets, patches.shape[-1])
    here, p = part.offsets, part.patches
    c = None if weights is None else part.of(weights)
    sums, coverage = backend.fold_and_cover(patches, c, here, p, size=spec.size)
    return {"sums": sums, "coverage": coverage}


def _backward(
    backend: Any,
    spec: FoldSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    """Return gradients by `gather` of the incoming ones: both outputs are linear in patches and weights."""
    patches, offsets, weights, xp = inputs["patches"], inputs["offsets"], inputs.get("weights"), backend.xp
    part = Part(backend, spec, offsets, patches.shape[-1])
    here, p = part.offsets, part.patches
    c = xp.ones((), patches.dtype) if weights is None else part.of(weights)[..., None, None, None]
    g, g_cover = grads["sums"], grads.get("coverage")
    read, there = backend.gather(g, here, p), True
    if spec.border == "zeros":
        (B, G), (T, H, W) = offsets.shape[:2], spec.size
        there = backend.gather(xp.ones((B, T, G, H, W), g.dtype), here, p) > 0
    read_cover: Native = None if g_cover is None else backend.gather(g_cover, here, p)
    found = {}
    if "patches" in wanted:
        found["patches"] = xp.where(there & (c != 0), c * read, 0)
    if "weights" in wanted and weights is not None:
        by_weight = patches * read if there is True else xp.where(there, patches * read, 0)
        by_weight = by_weight.sum((-1, -2, -3), dtype=np.result_type(read.dtype, np.float32))
        if read_cover is not None:
            by_weight = by_weight + read_cover.sum((-1, -2, -3))
        found["weights"] = part.whole(by_weight, weights.shape)
    if "offsets" in wanted and part.moves():
        moved = part.slope(g, (c * patches).astype(g.dtype))
        if g_cover is not None:
            moved = moved + part.slope(g_cover, xp.broadcast_to(c.astype(g_cover.dtype), read_cover.shape))
        moved = moved if weights is None else xp.where(c[..., 0, 0] == 0, 0, moved)
        found["offsets"] = part.whole(moved, offsets.shape)
    return found


def _multiply_adds(spec: FoldSpec, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
    """Return how many the formulas have: forward of sums and coverage, backward of the sums alone."""
    places = math.prod(sizes[axis] for axis in "BGtyxKPP")
    if wanted is None:
        return places * (sizes["F"] + 1) * multiply_adds({"k"}, fractions)
    read = multiply_adds({"q"}, fractions) - 1
    by = multiply_adds({"offsets"}, fractions) if "offsets" in wanted else 0
    return places * sizes["F"] * (read + len(wanted & {"patches", "weights"}) + by)


FOLD = Op(
    function=fold,
    spec=FoldSpec,
    inputs={
        "patches": Input("B G t y x K F P P"),
        "offsets": Input("B G/ T h w K 3", OFFSET),
        "weights": Input("B G T h w K", WEIGHT, optional=True),
    },
    outputs={"sums": "value", "coverage": "score"},
    shapes=_shapes,
    sizes=_sizes,
    check=_check,
    forward=_forward,
    backward=_backward,
    multiply_adds=_multiply_adds,
    example=Example({"size": (3, 7, 8)}, sizes={"t": 3, "y": 7, "x": 8, "F": 2, "P": 3}),
)
