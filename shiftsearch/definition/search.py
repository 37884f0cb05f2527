"""The search: windows, their candidates, and which of them are kept."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from shiftsearch._geometry import MOST, Patches, frame_order, reflect, window_offset
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.form import score
from shiftsearch.definition.places import queries, silent


@primitive
@silent()
def search(
    q: Native, k: Native, spec: Any, p: Patches, *, flow: Native = None, seeds: Native = None
) -> tuple[Native, ...]:
    """Return the best candidates in the windows around shifted places: scores and offsets, (B, G, T, h, w, K[, 3]).

    The windows lie around `flow` (B, G or 1, T, S, 2, h, w), one per frame, or around `seeds`
    (B, G, T, h, w, S, 3). For these the number of the seed of each candidate comes third, else None. The definition keeps
    the scores of one query frame at a time.
    """
    searched, frame, cy, cx = _centres(k, spec, p, flow, seeds, q.shape[0])
    results = []
    for t in range(frame.shape[2]):
        here = np.s_[:, :, t : t + 1]
        results.append(_search_frame(q, k, spec, p, t, searched, frame[here], cy[here], cx[here]))
    scores, offsets, slots = (np.concatenate(parts, 2) for parts in zip(*results, strict=True))
    return scores, offsets, None if seeds is None else slots


def _centres(k: Native, spec: Any, p: Native, flow: Native, seeds: Native, batch: int) -> tuple[Any, ...]:
    """Return the slots that are searched, and for each query and slot the frame and the centre of the window."""
    T, (H, W) = k.shape[1], k.shape[-2:]
    if seeds is not None:
        seeds = np.where(np.isfinite(seeds), seeds, 0).astype(float)
        t, y, x = (i[..., None] for i in queries(p, *seeds.shape[2:5]))
        frame = reflect(t + np.rint(seeds[..., 0]), T).astype(int)
        dy, dx, slots = seeds[..., 1], seeds[..., 2], range(seeds.shape[-2])
    else:
        h, w = (H - 1) // p.stride + 1, (W - 1) // p.stride + 1
        t, y, x = (i[..., None] for i in queries(p, T, h, w))
        order = frame_order(T, spec.radius)
        shape = (batch, spec.heads, T, h, w, order.shape[1])
        frame = np.broadcast_to(order[:, None, None], shape)
        dx, dy = np.zeros(shape), np.zeros(shape)
        if flow is not None and flow.shape[3]:
            both = np.moveaxis(
                np.where(np.isfinite(flow), flow, 0).astype(float), (4, 3), (0, -1)
            )  # (dx, dy), ..., slots
            dx[..., -both.shape[-1] :], dy[..., -both.shape[-1] :] = both
        slots = range(1 if spec.skip == "own_frame" else 0, order.shape[1])
    dy, dx = np.clip(dy, -MOST, MOST), np.clip(dx, -MOST, MOST)
    if not spec.subpixel:
        dy, dx = np.rint(dy), np.rint(dx)
    cy, cx = np.broadcast_arrays(y + dy, x + dx)
    if p.border == "reflect":
        cy, cx = reflect(cy, H), reflect(cx, W)
    return slots, frame, cy, cx


def _search_frame(
    q: Native, k: Native, spec: Any, p: Native, t: int, slots: Any, frame: Native, cy: Native, cx: Native
) -> tuple[Native, Native, Native]:
    """Return the scores, offsets and slots that are kept of the queries of frame t."""
    at = Patches(**{**vars(p), "origin": (t, 0, 0)})
    windows = [_Window(spec, at, k.shape[-2:], *(a[..., s] for a in (frame, cy, cx))) for s in slots]
    rows, columns = spec.window
    places = product(windows, range(rows), range(columns))
    candidates = [_candidate(q, k, spec, at, *place) for place in places]
    scores, ranks, itself = (np.stack(values, -1) for values in zip(*candidates, strict=True))
    if spec.anchor == "self":
        ranks = np.where(itself & (np.cumsum(itself, -1) == 1), -np.inf, ranks)
    kept = _kept(ranks, itself, spec, len(slots))
    scores = np.take_along_axis(scores, kept, -1)
    slot, i, j = np.unravel_index(kept, (len(windows), *spec.window))
    offsets = np.zeros((*kept.shape, 3))
    for number, window in enumerate(windows):
        offsets = np.where((slot == number)[..., None], window.offset(i, j), offsets)
    offsets = offsets if spec.subpixel else offsets.astype(np.int32)
    return -scores if p.metric == "dot" else scores, offsets, np.asarray(slots)[slot]


def _candidate(
    q: Native, k: Native, spec: Any, p: Patches, window: _Window, i: int, j: int
) -> tuple[Native, Native, Native]:
    """Return score and rank of candidate (i, j) of each window, smaller is better, and where it is the query itself."""
    offset = window.offset(i, j)
    found = score(q, k, offset[..., None, :], p)[..., 0]
    if p.metric == "dot":
        found = -found
    itself = (offset == 0).all(-1)
    if spec.skip == "self" and not spec.removes_self:
        found = np.where(itself, np.inf, found)
    found = np.where(window.outside(i, j) | np.isnan(found), np.inf, found)
    rank = found + spec.penalty * window.distance(i, j)
    if spec.anchor == "flow":
        rank = np.where(window.is_centre(i, j), -np.inf, rank)
    return found, rank, itself


class _Window:
    """The candidates (i, j) of one slot around the centres (cy, cx) of all queries of a frame."""

    def __init__(self, spec: Any, p: Native, size: Any, frame: Native, cy: Native, cx: Native) -> None:
        self.spec, self.size, self.border = spec, size, p.border
        t, self.ry, self.rx = queries(p, *cy.shape[2:])
        self.dt, self.cy, self.cx = frame - t, cy, cx
        self.oy, self.ox = (
            window_offset(centre, n, window, before, spec.step, spec.slide)
            for centre, n, window, before in zip((cy, cx), size, spec.window, spec.before, strict=True)
        )

    def _expand(self, i: Any) -> list[Native]:
        """Return the arrays, with an axis for kept candidates if `i` has one."""
        arrays = self.dt, self.cy, self.cx, self.oy, self.ox, self.ry, self.rx
        return [np.broadcast_to(a, self.cy.shape)[..., None] if np.ndim(i) else a for a in arrays]

    def offset(self, i: Any, j: Any) -> Native:
        dt, cy, cx, oy, ox, ry, rx = self._expand(i)
        step = self.spec.step
        return np.stack(np.broadcast_arrays(dt, cy + step * (i - oy) - ry, cx + step * (j - ox) - rx), -1)

    def distance(self, i: Any, j: Any) -> Native:
        return self.spec.step**2 * ((i - self.oy) ** 2 + (j - self.ox) ** 2)

    def is_centre(self, i: Any, j: Any) -> Native:
        return (i == self.oy) & (j == self.ox)

    def outside(self, i: Any, j: Any) -> Native:
        y, x = self.cy + self.spec.step * (i - self.oy), self.cx + self.spec.step * (j - self.ox)
        out = (y < 0) | (y > self.size[0] - 1) | (x < 0) | (x > self.size[1] - 1)
        return out if self.border == "reflect" else np.zeros_like(out)


def _kept(ranks: Native, itself: Native, spec: Any, slots: Any) -> Native:
    """Return the indices of the kept candidates: best first, ties by the smallest index."""
    if spec.topk is None:  # all, in the order of the windows, after the anchored ones
        ranks = np.where((ranks == -np.inf) & (spec.anchor is not None), -1.0, 0.0)
    left_out = itself if spec.removes_self else np.zeros_like(itself)
    parts = slots if spec.per_frame and spec.topk is not None else 1
    each = ranks.shape[-1] // parts
    keep = spec.topk or each - spec.removes_self
    best = []
    for first in range(0, ranks.shape[-1], each):
        here = np.s_[..., first : first + each]
        best.append(first + np.lexsort((ranks[here], left_out[here]), axis=-1)[..., :keep])
    return np.concatenate(best, -1)
