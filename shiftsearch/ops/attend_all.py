"""Attention to all places of the windows where backends do not have it in one.

Queries are taken a few at a time, with all their candidates: as many candidates are in memory as if each query of the
video had a few. Nothing of them is kept, and gradients compute the scores again.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._geometry import MOST, Patches, frame_order, query_grid, reflect, window_offset
from shiftsearch._types import Native
from shiftsearch.ops.attention import AttendSpec, Softmax, averaged, wide
from shiftsearch.ops.form import differentiate, pairs
from shiftsearch.ops.form import multiply_adds as of_form
from shiftsearch.ops.window import to_flow

_AT_A_TIME = 6  # candidates for each query of the video, that are in memory


# --- queries a few at a time --------------------------------------------------------------------------
class _Some(NamedTuple):
    """Some queries of one frame, and all their candidates."""

    index: Any  # of these among all queries, (..., T, h, w)
    origin: tuple[int, int, int]
    offsets: Native  # (B, G, 1, rows, columns, candidates, 3)
    counts: Any  # which of them are candidates, or True

    def of(self, p: Patches) -> Patches:
        """Return how the patches of these queries lie."""
        return replace(p, origin=self.origin)


def _queries(xp: Any, spec: AttendSpec, k: Native, flow: Native) -> Iterator[_Some]:
    """Yield all queries, a few at a time."""
    T, (h, w) = k.shape[1], query_grid(k.shape[-2], k.shape[-1], spec.stride)
    most = max(1, _AT_A_TIME * T * h * w // (spec.search_slots() * prod(spec.window)))
    columns = -(-w // -(-16 * w // most))  # 16 rows at least: backends need more memory for a row of queries
    rows = min(h, max(1, most // columns))
    for t, y, x in product(range(T), range(0, h, rows), range(0, w, columns)):
        yield _candidates(xp, spec, k, flow, t, slice(y, min(y + rows, h)), slice(x, min(x + columns, w)))


def _candidates(xp: Any, spec: AttendSpec, k: Native, flow: Native, t: int, rows: slice, columns: slice) -> _Some:
    """Return these queries of frame t with all their candidates."""
    T, (H, W) = k.shape[1], k.shape[-2:]
    frames = frame_order(T, spec.radius)[t, spec.skip == "own_frame" :]
    moves: Any = _moves(xp, spec, flow, t, rows, columns, len(frames))
    at = (xp.arange(s.start, s.stop) * spec.stride for s in (rows, columns))
    y, x = (a.reshape(shape) for a, shape in zip(at, ((-1, 1, 1), (-1, 1)), strict=True))
    shape = (*moves.shape[1:3], rows.stop - rows.start, columns.stop - columns.start, len(frames), *spec.window)
    axes = zip(spec.window, spec.before, moves, (y, x), (H, W), strict=True)
    down, across = (_axis(xp, spec, *axis) for axis in axes)
    whole = np.int32 if not spec.subpixel else np.float64 if k.dtype == np.float64 else np.float32
    dt = xp.asarray(frames - t)[:, None, None]
    parts = dt, (down - y[..., None])[..., None], (across - x[..., None])[..., None, :]
    offsets = xp.stack([xp.broadcast_to(part, shape) for part in parts], -1).astype(whole)
    counts: Any = True
    if spec.border == "reflect" and not spec.stays_inside(H, W):
        counts = ((down >= 0) & (down <= H - 1))[..., None] & ((across >= 0) & (across <= W - 1))[..., None, :]
    if spec.skip == "self":
        counts = counts & (offsets != 0).any(-1)
    offsets = offsets.reshape(*shape[:2], 1, *shape[2:4], -1, 3)
    offsets = xp.broadcast_to(offsets, (k.shape[0], spec.heads, *offsets.shape[2:]))
    if counts is not True:
        counts = xp.broadcast_to(counts, shape).reshape(*shape[:2], 1, *shape[2:4], -1)
    return _Some(np.s_[..., t : t + 1, rows, columns], (t, rows.start, columns.start), offsets, counts)


def _moves(xp: Any, spec: AttendSpec, flow: Native, t: int, rows: slice, columns: slice, slots: int) -> Native:
    """Return how far the windows of queries are moved down and across, (2, B, G or 1, rows, columns, slots)."""
    if flow is None:
        return xp.zeros((2, 1, 1, 1, 1, slots))
    moves = xp.moveaxis(flow[:, :, t, :, ::-1, rows, columns].astype(float), (3, 2), (0, -1))
    own = slots - moves.shape[-1]  # slots that no flow leads to
    moves = xp.where(xp.isfinite(moves), moves, 0).clip(-MOST, MOST)
    moves = xp.concatenate((xp.zeros((*moves.shape[:-1], own)), moves), -1) if own else moves
    return moves if spec.subpixel else xp.rint(moves)


def _axis(xp: Any, spec: AttendSpec, window: int, before: int, moved: Native, at: Native, n: int) -> Native:
    """Return where the candidates of windows lie along an axis of n pixels, one more axis behind the slots."""
    centre = at + moved
    centre = (reflect(centre, n) if spec.border == "reflect" else centre)[..., None]
    index = window_offset(centre, n, window, before, spec.step, True) if spec.slide else before
    return centre + spec.step * (xp.arange(window) - index)


def _counted(xp: Any, spec: AttendSpec, scores: Native, counts: Any) -> Native:
    """Return the scores with the worst in place of those that are none of candidates."""
    return scores if counts is True else xp.where(counts, scores, np.inf if spec.metric == "l2" else -np.inf)


# --- forward and backward ---------------------------------------------------------------------------
def forward(backend: Any, spec: AttendSpec, softmax: Softmax, q: Native, k: Native, v: Native, flow: Native) -> Native:
    """Return what each query gets."""
    xp, values = backend.xp, wide(v)
    out: Any = 0
    for some in _queries(xp, spec, k, flow):
        scores = backend.score(q, k, some.offsets, some.of(spec.patches()))
        weights = softmax.weigh(_counted(xp, spec, scores, some.counts))
        p = some.of(spec.of_values().patches())
        out = out + backend.aggregate(None, values, weights, some.offsets, p, size=values.shape[1:])
    return averaged(xp, spec, out).astype(v.dtype, copy=False)


def backward(
    backend: Any,
    spec: AttendSpec,
    softmax: Softmax,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    xp = backend.xp
    found: dict[str, Native] = {}
    q, k, v = (wide(inputs[name]) for name in "qkv")
    arrive, flow = wide(averaged(xp, spec, grads["out"])), inputs.get("flow")
    moved = _Moved(xp, spec, flow, q) if "flow" in wanted and spec.subpixel else None
    of_places = {"offsets"} if moved else set()
    for some in _queries(xp, spec, k, flow):
        of_keys, of_values = some.of(spec.patches()), some.of(spec.of_values().patches())
        scores = backend.score(q, k, some.offsets, of_keys)
        copied = scores.copy() if "scales" in wanted else scores
        weights = softmax.weigh(_counted(xp, spec, copied, some.counts))
        by_weights = backend.score(arrive, v, some.offsets, of_values)
        by_scores, by_scales = softmax.differentiate(weights, by_weights, scores if "scales" in wanted else None)
        if some.counts is not True:
            by_scores = xp.where(some.counts, by_scores, 0)
        form = {"q": arrive, "k": v, "weights": weights, "offsets": some.offsets}
        values = differentiate(backend, of_values, {"k"} | of_places, **form)
        form = {"q": q, "k": k, "weights": by_scores, "offsets": some.offsets}
        keys = differentiate(backend, of_keys, {"q", "k"} | of_places, **form)
        more = {"q": keys["q"], "k": keys["k"], "v": values["k"]}
        if "scales" in wanted:
            more["scales"] = by_scales
        found = {name: found[name] + more[name] if name in found else more[name] for name in more}
        if moved:
            moved.add(some, values["offsets"] + keys["offsets"])
    return found | ({"flow": moved.to_flow(k.shape[-2:])} if moved else {})


def multiply_adds(spec: AttendSpec, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
    """Return how many the formulas have, with all scores twice: forward, and again in backward."""
    by_keys, by_values, places = {"weights"}, {"q"}, spec.candidates(spec.search_slots())
    if wanted is not None:
        moved = {"offsets"} if "flow" in wanted else set()
        by_keys, by_values = {"weights", "q", "k"} | moved, {"weights", "k"} | moved
    keys = pairs(spec, sizes, places, sizes["C"]) * of_form(by_keys, fractions, spec.metric)
    return keys + pairs(spec, sizes, places, sizes["V"]) * of_form(by_values, fractions)


class _Moved:
    """The gradient of the centres of windows, (2, B, G, T, slots, h, w): down and across."""

    def __init__(self, xp: Any, spec: AttendSpec, flow: Native, q: Native):
        self.xp, self.spec, self.flow, (B, T, _, H, W) = xp, spec, flow, q.shape
        grid = query_grid(H, W, spec.stride)
        self.found = xp.zeros((2, B, spec.heads, T, *grid, spec.search_slots()), q.dtype)

    def add(self, some: _Some, slopes: Native) -> None:
        by_slot = slopes.reshape(*slopes.shape[:-2], self.spec.search_slots(), -1, 3).sum(-2)
        self.found[(*some.index, slice(None))] = self.xp.moveaxis(by_slot[..., 1:], -1, 0)

    def to_flow(self, size: tuple[int, int]) -> Native:
        followed = self.flow.shape[3]
        if not followed:
            return self.xp.zeros(self.flow.shape, self.found.dtype)
        by_y, by_x = self.xp.moveaxis(self.found[..., -followed:], -1, 4)
        return to_flow(self.xp, self.spec, self.flow, by_y, by_x, size)
