"""Shared by search, match and refine: options of a window, and gradients through the places that were kept."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from shiftsearch._geometry import mirror_sign
from shiftsearch._types import Anchor, Even, Native, Skip
from shiftsearch.ops.form import differentiate, multiply_adds, pairs
from shiftsearch.ops.score import ScoreSpec


@dataclass(frozen=True, kw_only=True)
class WindowSpec(ScoreSpec):
    """The candidates around a centre, and which of them are kept."""

    window: tuple[int, int]  # rows and columns
    even: Even
    topk: int | None
    step: float
    subpixel: bool
    slide: bool
    penalty: float
    anchor: Anchor | None
    skip: Skip | None
    per_frame: bool

    passed: ClassVar[tuple[str, ...]] = ("penalty",)
    anchors: ClassVar[tuple[str | None, ...]] = (None, "self", "flow")
    skips: ClassVar[tuple[str | None, ...]] = (None, "self")

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.pair("window", most=1025)
        self.choice("even", "after", "before")
        if rows % 2 and columns % 2:  # there is no difference
            object.__setattr__(self, "even", "after")
        if self.topk is not None:
            self.whole("topk")
        self.switch("subpixel", "slide", "per_frame")
        self.real("step", least=1e-6)
        self.check(self.subpixel or self.step % 1 == 0, "step", "a whole number unless subpixel=True")
        self.real("penalty")
        self.choice("anchor", *self.anchors)
        self.choice("skip", *self.skips)
        needed = self.anchor == "self" and self.skip is not None
        self.check(not needed, "skip", 'None beside anchor="self", which needs that place')
        if self.anchor == "flow":  # a place for each frame's centre
            object.__setattr__(self, "per_frame", True)

    @property
    def before(self) -> tuple[int, int]:
        """How many rows and columns of a window come before its centre, unless it slides."""
        rows, columns = ((n - (self.even == "after")) // 2 for n in self.window)
        return rows, columns

    @property
    def removes_self(self) -> bool:
        """Whether each query has exactly one candidate that is itself, which is left out.

        Around seeds there may be none or several: they get an infinite score instead.
        """
        return False

    def stays_inside(self, height: int, width: int) -> bool:
        """Return whether no window sticks out of a frame, because windows slide inward and fit into it."""
        fits = (n - 1 >= m * self.step for n, m in zip((height, width), self.window, strict=True))
        return self.slide and all(fits)

    def candidates(self, slots: int) -> int:
        """Return how many candidates a query has in `slots` windows."""
        return slots * prod(self.window) - self.removes_self

    def kept(self, slots: int) -> int:
        """Return how many candidates are kept of `slots` windows."""
        count = self.candidates(slots)
        if self.topk is None:
            return count
        there = prod(self.window) - self.removes_self if self.per_frame else count
        each = " in each frame" if self.per_frame else ""
        self.check(self.topk <= there, "topk", f"at most {there}, the number of candidates{each}, or None for all")
        return self.topk * slots if self.per_frame else self.topk

    def results(self, sizes: dict[str, int], slots: int, *axes: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the results of `slots` windows of each query; `axes` come after batch and heads."""
        scores = (sizes["B"], self.heads, *(sizes[axis] for axis in axes), self.kept(slots))
        return {"scores": scores, "offsets": (*scores, len(axes))}


OUTPUTS = {"scores": "score", "offsets": "offset"}


def differentiate_kept(
    backend: Any,
    spec: WindowSpec,
    q: Native,
    k: Native,
    offsets: Native,
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    """Return the wanted gradients of q and k through the kept scores, and of the kept "offsets" unless they are whole.

    Nothing moves where offsets are whole.
    """
    xp, (H, W) = backend.xp, k.shape[-2:]
    p = spec.patches(q.shape[-1] // W)
    reached: Any = None
    if spec.border == "reflect" and not spec.stays_inside(
        H, W
    ):  # candidates outside have infinite scores and no gradient
        _, y, x = query_positions(xp, spec.stride, *offsets.shape[2:5])
        y, x = y[..., None] + offsets[..., 1], x[:, None] + offsets[..., 2]
        reached = (y >= 0) & (y <= H - 1) & (x >= 0) & (x <= W - 1)
    g = grads["scores"] if reached is None else xp.where(reached, grads["scores"], 0)
    found = differentiate(backend, p, wanted, q=q, k=k, weights=g, offsets=offsets)
    if "offsets" in found and grads.get("offsets") is not None:
        moved = grads["offsets"]
        found["offsets"] = found["offsets"] + (moved if reached is None else xp.where(reached[..., None], moved, 0))
    return found


def multiply_adds_of(slots: Callable[[Any, dict[str, int]], int]) -> Callable[..., int]:
    """Return an op's `multiply_adds`, from how many windows a query has: of all their candidates, and back of those kept."""

    def count(spec: Any, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
        windows = slots(spec, sizes)
        if wanted is None:
            return pairs(spec, sizes, spec.candidates(windows), sizes["C"]) * multiply_adds({"weights"}, fractions)
        by = {"offsets" if name == "flow" else name for name in wanted}
        return pairs(spec, sizes, spec.kept(windows), sizes["C"]) * multiply_adds(by, fractions, spec.metric)

    return count


def query_positions(xp: Any, stride: int, T: int, h: int, w: int) -> tuple[Native, Native, Native]:
    """Return frame, row and column of each query, each to be broadcast over (T, h, w)."""
    return xp.arange(T)[:, None, None], (xp.arange(h) * stride)[:, None], xp.arange(w) * stride


def along(xp: Any, moves: Native, by: Native, at: Native, n: int, border: str) -> Native:
    """Return the gradient of `moves`, the way along an axis of `n` pixels from `at` to the centre of a window.

    `by` is the gradient of the centre. Its sign is reversed in mirror images, and it is 0 where the motion is not
    finite.
    """
    sign = finite = xp.isfinite(moves)
    if border == "reflect":
        sign = mirror_sign(at + xp.where(finite, moves, 0).astype(float), n) * finite
    return xp.where(sign != 0, sign * by, 0)


def to_flow(xp: Any, spec: WindowSpec, flow: Native, by_y: Native, by_x: Native, size: tuple[int, int]) -> Native:
    """Return the gradient of a flow (B, heads or 1, ..., 2, h, w), from that of the centres, by row and by column.

    Those are (B, heads, ..., h, w).
    """
    (H, W), (_, y, x) = size, query_positions(xp, spec.stride, 1, *flow.shape[-2:])
    if flow.shape[1] != by_y.shape[1]:  # one flow for all heads
        by_y, by_x = (by.sum(1, keepdims=True) for by in (by_y, by_x))
    dx = along(xp, flow[..., 0, :, :], by_x, x, W, spec.border)
    dy = along(xp, flow[..., 1, :, :], by_y, y, H, spec.border)
    return xp.stack((dx, dy), -3).astype(by_y.dtype)
