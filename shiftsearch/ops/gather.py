"""gather: the patches at given places as an array, for filters of groups of patches."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from shiftsearch._call import run
from shiftsearch._op import OFFSET, Example, Input, Op
from shiftsearch._types import Array, Border, Native
from shiftsearch.ops.form import multiply_adds, pairs
from shiftsearch.ops.patches import PatchSpec, check_divides, grid_of
from shiftsearch.ops.queries import Part, Queries, QueriesSpec, bounds


@dataclass(frozen=True, kw_only=True)
class GatherSpec(QueriesSpec, PatchSpec):
    heads: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("heads")


def gather(
    v: Array,
    offsets: Array,
    *,
    patch: int = 1,
    heads: int = 1,
    stride: int = 1,
    dilation: int = 1,
    border: Border = "reflect",
    queries: Queries | None = None,
) -> Array:
    """Return the patches of v at the places that were found, as an array.

    Args:
        v: values (B, T, C, H, W)
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place; for floats v is sampled bilinearly
        patch, heads, stride, dilation, border: as in `search`
        queries: return only this part of the query grid, to bound memory: a slice of rows, (rows, columns) or (frames,
            rows, columns); `offsets` are still those of all queries

    Returns:
        patches (B, heads, T, h, w, K, C / heads, patch, patch), with T, h, w those of the part

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> _, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> gather(video, offsets, patch=3, queries=slice(0, 8)).shape
        (1, 3, 8, 24, 4, 4, 3, 3)
    """
    part = bounds("gather", queries)
    found = run(
        GATHER,
        {"v": v, "offsets": offsets},
        patch=patch,
        heads=heads,
        stride=stride,
        dilation=dilation,
        border=border,
        queries=part,
    )
    return found[0]


def _part(spec: GatherSpec, sizes: dict[str, int]) -> tuple[slice, ...]:
    return spec.part((sizes["T"], sizes["h"], sizes["w"]))


def _check(spec: GatherSpec, sizes: dict[str, int]) -> None:
    check_divides(spec, spec.heads, sizes["C"])
    _part(spec, sizes)


def _shapes(spec: GatherSpec, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    part = [s.stop - s.start for s in _part(spec, sizes)]
    return {"patches": (sizes["B"], spec.heads, *part, sizes["K"], sizes["C"] // spec.heads, spec.patch, spec.patch)}


def _forward(backend: Any, spec: GatherSpec, v: Native, offsets: Native) -> dict[str, Native]:
    part = Part(backend, spec, offsets, spec.patch)
    return {"patches": backend.gather(v, part.offsets, part.patches)}


def _backward(
    backend: Any,
    spec: GatherSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    v, offsets, g = inputs["v"], inputs["offsets"], grads["patches"]
    part, found = Part(backend, spec, offsets, spec.patch), {}
    if "v" in wanted:
        found["v"] = backend.fold(g, None, part.offsets, part.patches, size=(v.shape[1], *v.shape[-2:]))
    if "offsets" in wanted and part.moves():
        found["offsets"] = part.whole(part.slope(v, g), offsets.shape)
    return found


def _multiply_adds(spec: GatherSpec, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
    """Return how many the formulas have: reading a whole pixel is none, and adding there is one."""
    read = multiply_adds({"q"}, fractions) - 1
    each = read if wanted is None else multiply_adds({"k" if name == "v" else name for name in wanted}, fractions)
    part = zip("Thw", (s.stop - s.start for s in _part(spec, sizes)), strict=True)
    return pairs(spec, {**sizes, **dict(part)}, sizes["K"], sizes["C"]) * each


GATHER = Op(
    function=gather,
    spec=GatherSpec,
    inputs={"v": Input("B vT C H W"), "offsets": Input("B G/ T h w K 3", OFFSET)},
    outputs={"patches": "value"},
    shapes=_shapes,
    sizes=lambda spec, sizes: {"G": spec.heads, **grid_of(spec, sizes)},
    check=_check,
    forward=_forward,
    backward=_backward,
    multiply_adds=_multiply_adds,
    example=Example({"patch": 3, "heads": 2}),
)
