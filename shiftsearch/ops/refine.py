"""refine: a search around given places."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from shiftsearch._call import run
from shiftsearch._op import OFFSET, Example, Input, Op
from shiftsearch._types import Anchor, Array, Border, Even, Metric, Native, Window
from shiftsearch.ops.score import check_heads, heads_and_grid
from shiftsearch.ops.window import OUTPUTS, WindowSpec, along, differentiate_kept, multiply_adds_of, query_positions


@dataclass(frozen=True, kw_only=True)
class RefineSpec(WindowSpec):
    """A window around each seed."""

    radius: ClassVar[int] = 0  # for backends: offsets of seeds include the frame


def refine(
    q: Array,
    k: Array,
    offsets: Array,
    *,
    window: Window = 3,
    even: Even = "after",
    patch: int = 1,
    topk: int | None = None,
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
    skip: Literal["self"] | None = None,
    per_frame: bool = False,
) -> tuple[Array, Array]:
    """Return the places most like each query around given ones: each offset is the centre of a window.

    It is `search` with given centres, instead of the one in each frame where the flow leads.

    Args:
        q: queries (B, T, C, H, W)
        k: keys, the same shape, but for the number of frames
        offsets: the seeds (B, heads, T, h, w, S, 3), whole or fractional, as `search` returns them; they are limited to
            2**30 rows or columns, so that the results fit int32
        window: candidates per side around each seed, or (rows, columns) of them
        topk: how many to keep of all candidates of the S windows; None returns all, in seed, row, column order
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
    scores, found = run(
        REFINE,
        {"q": q, "k": k, "offsets": offsets},
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
    return scores, found


def _check(spec: RefineSpec, sizes: dict[str, int]) -> None:
    check_heads(spec, sizes)
    spec.kept(sizes["seeds"])


def _shapes(spec: RefineSpec, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    found = spec.results(sizes, sizes["seeds"], "T", "h", "w")
    return {**found, "seed": found["scores"]}


def _forward(backend: Any, spec: RefineSpec, q: Native, k: Native, offsets: Native) -> dict[str, Native]:
    scores, found, seed = backend.search(q, k, spec, spec.patches(), seeds=offsets)
    return {"scores": scores, "offsets": found, "seed": seed}


def _backward(
    backend: Any,
    spec: RefineSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    q, k, seeds = inputs["q"], inputs["k"], inputs["offsets"]
    found = differentiate_kept(backend, spec, q, k, outputs["offsets"], grads, wanted)
    moved = found.pop("offsets", None)
    if moved is not None and np.issubdtype(seeds.dtype, np.floating):
        found["offsets"] = _to_seeds(backend.xp, spec, seeds, outputs["seed"], moved, k.shape[-2:])
    return found


def _to_seeds(xp: Any, spec: RefineSpec, seeds: Native, origin: Native, moved: Native, size: tuple[int, int]) -> Native:
    """Return the gradient of the seeds: the gradient of a kept offset is added to the seed that it came from."""
    (H, W), (_, y, x) = size, query_positions(xp, spec.stride, *seeds.shape[2:5])
    grad = xp.zeros(seeds.shape, moved.dtype)
    for axis, at, n in ((1, y[..., None], H), (2, x[:, None], W)):
        for s in range(seeds.shape[-2]):
            grad[..., s, axis] = xp.where(origin == s, moved[..., axis], 0).sum(-1)
        grad[..., axis] = along(xp, seeds[..., axis], grad[..., axis], at, n, spec.border)
    return grad


REFINE = Op(
    function=refine,
    spec=RefineSpec,
    inputs={
        "q": Input("B T C H W"),
        "k": Input("B kT C H W"),
        "offsets": Input("B G/ T h w seeds 3", OFFSET),
    },
    outputs={**OUTPUTS, "seed": "index"},
    shapes=_shapes,
    keeps=("offsets", "seed"),
    hidden=("seed",),
    sizes=heads_and_grid,
    check=_check,
    forward=_forward,
    backward=_backward,
    multiply_adds=multiply_adds_of(lambda spec, sizes: sizes["seeds"]),
    example=Example({"window": 3, "patch": 3, "topk": 4, "heads": 2, "subpixel": True}, sizes={"seeds": 2}),
)
