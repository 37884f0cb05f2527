"""The definition of every primitive: plain NumPy in float64. What all backends are tested against.

It loops over what is small (window, patch, kept candidates) and is vectorised over what is large
(frames, pixels, channels), so that it works on real video, slowly.

Everything is one form, S(q, k, weights, offsets) = sum of weights * phi(q(r + u), k(r + offset + u)): `score` is dS/dweights,
`aggregate` dS/dq, `scatter` dS/dk and `slope` dS/doffsets, whatever the arrays mean.

Values that are not finite are values like others, and silent: they reach what reads them, and nothing else. One rule
says what reads them, forward and backward, for whole places and for fractions: what has weight 0 is not there.

- A sample is made of the pixels around a position that have a weight and exist. Outside a border of zeros no pixel
  exists. A derivative of a sample has weights of its own: those of a whole position read the next pixel.
- A sample without a pixel does not exist, nor does a pair with such a member. It adds nothing, whatever the other
  member and the weight of the pair are.
- A pair whose weight c is 0 adds nothing, whatever its members are. In a backward pass, c is the gradient that arrives
  at a score, or the weight that the user gave: a score that no loss depends on has no gradient.
- Along an axis of one pixel a place does not move: its derivative by the offset is 0.

Only these are weights. The members of a pair are values, and 0 times infinity is not a number among them.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from shiftsearch._geometry import MOST, Patches, frame_order, mirror_sign, patch_offsets, reflect, window_offset

xp = np  # the array module that ops compose these primitives with
_silent = partial(np.errstate, all="ignore")


# --- places ---------------------------------------------------------------------------------------
def _queries(p: Patches, T, h, w):
    """Frames, rows and columns (t, y, x) of the queries, each to be broadcast over (T, h, w)."""
    t, y, x = (np.arange(n) + first for n, first in zip((T, h, w), p.origin, strict=True))
    return t[:, None, None], (y * p.stride)[:, None], x * p.stride


def _places(offsets, p: Patches, frames, height, width):
    """Frame, row and column of the place of each offset (..., T, h, w, 3), rows and columns with their mirror signs."""
    offsets = np.where(np.isfinite(offsets), offsets, 0).astype(float)
    t, y, x = _queries(p, *offsets.shape[-4:-1])
    frame = reflect(t + np.rint(offsets[..., 0]), frames).astype(int)
    y, x = y + offsets[..., 1], x + offsets[..., 2]
    signs = np.ones_like(y), np.ones_like(x)
    if p.border == "reflect":
        signs = mirror_sign(y, height), mirror_sign(x, width)
        y, x = reflect(y, height), reflect(x, width)
    return frame, y, x, *signs


def _index(video, frame, y, x, border):
    """Index of the pixels of `video` (B, G, T, F, H, W) at whole positions (B, G, T, h, w), and which of them exist."""
    H, W = video.shape[-2:]
    inside = np.ones(np.shape(y), bool)
    if border == "zeros":
        inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    y, x = (np.nan_to_num(reflect(i, n)).astype(int) for i, n in ((y, H), (x, W)))
    b, g = np.ix_(range(video.shape[0]), range(video.shape[1]))
    extra = (1,) * (y.ndim - 2)
    return (b.reshape(-1, 1, *extra), g.reshape(1, -1, *extra), frame, slice(None), y, x), inside


def _corners(y, x):
    """The four whole positions around (y, x), each with its weight and the weight's derivatives by y and x."""
    y0, x0 = np.floor(y), np.floor(x)
    fy, fx = y - y0, x - x0
    for a, b in product((0, 1), (0, 1)):
        wy, wx = (fy if a else 1 - fy), (fx if b else 1 - fx)
        sy, sx = 2 * a - 1, 2 * b - 1
        yield y0 + a, x0 + b, wy * wx, sy * wx, sx * wy


def _outside(video, y, x, border):
    """Where a sample has no pixel with a weight: it does not exist, nor does its slope."""
    H, W = video.shape[-2:]
    if border == "reflect":
        return np.zeros(np.shape(y), bool)
    return (y <= -1) | (y >= H) | (x <= -1) | (x >= W)


def _times(weights, values, exists=True):
    """weights * values, 0 where the weight is or nothing exists."""
    return np.where(exists & (weights != 0), weights * values, 0)


def _weighted(video, frame, y, x, border, weights):
    """Pixels of `video` times `weights`, (B, G, T, h, w, F): 0, whatever the pixel is, where the weight is or none exists."""
    index, inside = _index(video, frame, y, x, border)
    read = inside & (weights != 0)
    if not read.any():
        return 0.0
    pixels = video[index] * weights[..., None]
    return pixels if read.all() else np.where(read[..., None], pixels, 0)


def _sample(video, frame, y, x, border):
    values = sum(_weighted(video, frame, v, u, border, w) for v, u, w, _, _ in _corners(y, x))
    return np.broadcast_to(values, (*y.shape, video.shape[3]))


def _sample_slopes(video, frame, y, x, border):
    """Derivatives of the sample by y and x; at whole positions towards the next pixel."""
    exists = ~_outside(video, y, x, border)
    corners = [(v, u, wy * exists, wx * exists) for v, u, _, wy, wx in _corners(y, x)]
    by_y = sum(_weighted(video, frame, v, u, border, wy) for v, u, wy, _ in corners)
    by_x = sum(_weighted(video, frame, v, u, border, wx) for v, u, _, wx in corners)
    return by_y, by_x


def _spread(out, frame, y, x, border, values):
    """The transpose of `_sample`: adds `values` (B, G, T, h, w, F) to `out`."""
    for v, u, w, _, _ in _corners(y, x):
        index, inside = _index(out, frame, v, u, border)
        read = inside & (w != 0)
        if read.any():
            np.add.at(out, index, np.where(read[..., None], w[..., None] * values, 0))


def _split(video, heads):
    """(B, T, C, H, W) in float64 as (B, G, T, F, H, W): channels are split head by head."""
    B, T, C, H, W = video.shape
    return np.asarray(video, float).reshape(B, T, heads, C // heads, H, W).swapaxes(1, 2)


def _join(video):
    """The inverse of `_split`."""
    B, G, T, F, H, W = video.shape
    return video.swapaxes(1, 2).reshape(B, T, G * F, H, W)


def _patch_pixels(p: Patches):
    return product(patch_offsets(p.patch, p.dilation), repeat=2)


def _query_patch(q, p: Patches, shape, dy, dx):
    """Frame, row, column of one pixel of all query patches, broadcast to `shape` (B, G, T, h, w)."""
    t, y, x = _queries(p, *shape[2:])
    return [np.broadcast_to(i, shape) for i in (t, p.scale * y + dy, p.scale * x + dx)]


# --- the form and its derivatives -----------------------------------------------------------------
# q may be stacked, (B, K, T, C, H, W): kept candidate n then belongs to q[:, n], and there are K queries in one.
def _queries_of(q, heads):
    """The split video that each kept candidate belongs to, by its number; all the same unless q is stacked."""
    return _Same(_split(q, heads)) if q.ndim == 5 else [_split(q[:, n], heads) for n in range(q.shape[1])]


class _Same:
    """A list whose every element is the same."""

    def __init__(self, element):
        self.element = element

    def __getitem__(self, n):
        return self.element


def _pairs(q, k, offsets, p: Patches):
    """For every kept candidate and patch pixel: (its index, where q is read, where k is read, both values, exists, signs)."""
    frames, H, W = k.shape[2], *k.shape[-2:]
    for n in range(offsets.shape[-2]):
        frame, y, x, sy, sx = _places(offsets[..., n, :], p, frames, H, W)
        for dy, dx in _patch_pixels(p):
            at_q = _query_patch(q[n], p, offsets.shape[:5], dy, dx)
            at_k = frame, y + dy, x + dx
            a = _sample(q[n], *at_q, p.query_border)
            b = _sample(k, *at_k, p.border)
            exists = ~(_outside(q[n], *at_q[1:], p.query_border) | _outside(k, *at_k[1:], p.border))
            yield n, at_q, at_k, a, b, exists[..., None], (sy, sx)


@_silent()
def score(q, k, offsets, p: Patches):
    """dS/dweights, (B, G, T, h, w, K) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)).

    phi is the product ("dot") or the squared difference ("l2"). A pair with a member outside the
    frame, where the border is "zeros", contributes nothing.
    """
    heads = offsets.shape[1]
    q, k = _queries_of(q, heads), _split(k, heads)
    scores = np.zeros(offsets.shape[:-1])
    for n, _, _, a, b, exists, _ in _pairs(q, k, offsets, p):
        pair = a * b if p.metric == "dot" else (a - b) ** 2
        scores[..., n] += np.where(exists, pair, 0).sum(-1)
    return scores


@_silent()
def aggregate(q, k, weights, offsets, p: Patches, *, size=None, stacked=False):
    """dS/dq. With "dot" this is the weighted sum of patches of k, and q only needs a size; each kept candidate apart if `stacked`."""
    heads = offsets.shape[1]
    shape = (k.shape[0], *([offsets.shape[-2]] if stacked else []), *size) if q is None else q.shape
    out = _queries_of(np.zeros(shape), heads)
    q = out if q is None else _queries_of(q, heads)
    k = _split(k, heads)
    for n, at_q, _, a, b, exists, _ in _pairs(q, k, offsets, p):
        value = b if p.metric == "dot" else 2 * (a - b)
        _spread(out[n], *at_q, p.query_border, _times(weights[..., n, None], value, exists))
    return np.stack(list(map(_join, out)), 1) if isinstance(out, list) else _join(out[0])


@_silent()
def scatter(q, k, weights, offsets, p: Patches, *, size=None):
    """dS/dk. With "dot" this adds the patches of q at their places, and k only needs a size."""
    heads = offsets.shape[1]
    out = np.zeros((q.shape[0], *size) if k is None else k.shape)
    out = _split(out, heads)
    k = out if k is None else _split(k, heads)
    q = _queries_of(q, heads)
    for n, _, at_k, a, b, exists, _ in _pairs(q, k.copy() if k is out else k, offsets, p):
        value = a if p.metric == "dot" else -2 * (a - b)
        _spread(out, *at_k, p.border, _times(weights[..., n, None], value, exists))
    return _join(out)


def aggregate_and_scatter(q, k, weights, offsets, p: Patches):
    """Both, which share their work elsewhere."""
    return aggregate(q, k, weights, offsets, p), scatter(q, k, weights, offsets, p)


@_silent()
def slope(q, k, weights, offsets, p: Patches, *, patches=None):
    """dS/d(dt, dy, dx), (B, G, T, h, w, K, 3); frames do not move, so dt has none.

    With `patches` the same for sum(patches * gather(k, offsets)): they take the place of q and its weights.
    """
    if patches is not None:
        return _slope_of_patches(k, patches, offsets, p)
    heads = offsets.shape[1]
    q, k = _queries_of(q, heads), _split(k, heads)
    out, there = np.zeros(offsets.shape), np.zeros(offsets.shape, bool)
    for n, _, at_k, a, b, exists, signs in _pairs(q, k, offsets, p):
        factor = a if p.metric == "dot" else -2 * (a - b)
        for axis, (sign, ds) in enumerate(zip(signs, _sample_slopes(k, *at_k, p.border), strict=True), 1):
            out[..., n, axis] += _times(sign[..., None], factor * ds, exists).sum(-1)
            there[..., n, axis] |= exists[..., 0] & (sign != 0)
    return _times(weights[..., None], out, there)


# --- patches as arrays ----------------------------------------------------------------------------
@_silent()
def gather(v, offsets, p: Patches):
    """The patches of v at the places, (B, G, T, h, w, K, F, patch, patch)."""
    v = _split(v, offsets.shape[1])
    out = np.zeros((*offsets.shape[:-1], v.shape[3], p.patch, p.patch))
    for n in range(offsets.shape[-2]):
        frame, y, x, _, _ = _places(offsets[..., n, :], p, v.shape[2], *v.shape[-2:])
        for i, (dy, dx) in enumerate(_patch_pixels(p)):
            out[..., n, :, i // p.patch, i % p.patch] = _sample(v, frame, y + dy, x + dx, p.border)
    return out


@_silent()
def fold(patches, weights, offsets, p: Patches, *, size):
    """The transpose of `gather`: adds weights * patches to a video of `size` (T, H, W)."""
    B, G, F = *offsets.shape[:2], patches.shape[-3]
    out = np.zeros((B, G, size[0], F, *size[1:]))
    for n in range(offsets.shape[-2]):
        frame, y, x, _, _ = _places(offsets[..., n, :], p, *size)
        for i, (dy, dx) in enumerate(_patch_pixels(p)):
            values = patches[..., n, :, i // p.patch, i % p.patch]
            _spread(
                out,
                frame,
                y + dy,
                x + dx,
                p.border,
                values if weights is None else _times(weights[..., n, None], values),
            )
    return _join(out)


@_silent()
def _slope_of_patches(v, patches, offsets, p: Patches):
    v = _split(v, offsets.shape[1])
    out = np.zeros(offsets.shape)
    for n in range(offsets.shape[-2]):
        frame, y, x, *signs = _places(offsets[..., n, :], p, v.shape[2], *v.shape[-2:])
        for i, (dy, dx) in enumerate(_patch_pixels(p)):
            values = patches[..., n, :, i // p.patch, i % p.patch]
            at = frame, y + dy, x + dx
            exists = ~_outside(v, *at[1:], p.border)[..., None]
            for axis, (sign, ds) in enumerate(zip(signs, _sample_slopes(v, *at, p.border), strict=True), 1):
                out[..., n, axis] += _times(sign[..., None], values * ds, exists).sum(-1)
    return out


# --- search ---------------------------------------------------------------------------------------
@_silent()
def search(q, k, spec, p: Patches, *, flow=None, seeds=None):
    """The best candidates in the windows around shifted places: scores, offsets and slots, (B, G, T, h, w, K[, 3]).

    The windows lie around `flow` (B, G or 1, T, S, 2, h, w), one per frame, or around `seeds`
    (B, G, T, h, w, S, 3). The definition keeps the scores of one query frame at a time.
    """
    slots, frame, cy, cx = _centres(k, spec, p, flow, seeds, q.shape[0])
    results = []
    for t in range(frame.shape[2]):
        here = np.s_[:, :, t : t + 1]
        results.append(_search_frame(q, k, spec, p, t, slots, frame[here], cy[here], cx[here]))
    return tuple(np.concatenate(parts, 2) for parts in zip(*results, strict=True))


def _centres(k, spec, p, flow, seeds, batch):
    """Slots that are searched, and per query and slot the frame and the centre of the window."""
    T, H, W = k.shape[1], *k.shape[-2:]
    if seeds is not None:
        seeds = np.where(np.isfinite(seeds), seeds, 0).astype(float)
        t, y, x = (i[..., None] for i in _queries(p, *seeds.shape[2:5]))
        frame = reflect(t + np.rint(seeds[..., 0]), T).astype(int)
        dy, dx, slots = seeds[..., 1], seeds[..., 2], range(seeds.shape[-2])
    else:
        h, w = (H - 1) // p.stride + 1, (W - 1) // p.stride + 1
        t, y, x = (i[..., None] for i in _queries(p, T, h, w))
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


def _search_frame(q, k, spec, p, t, slots, frame, cy, cx):
    at = Patches(**{**vars(p), "origin": (t, 0, 0)})
    windows = [_Window(spec, at, k.shape[-2:], *(a[..., s] for a in (frame, cy, cx))) for s in slots]
    scores, ranks, itself = [], [], []
    for window in windows:
        for i, j in product(range(spec.window), repeat=2):
            offset = window.offset(i, j)
            found = score(q, k, offset[..., None, :], at)[..., 0]
            if p.metric == "dot":
                found = -found  # smaller is better from here on
            here = (offset == 0).all(-1)
            if spec.skip == "self" and not spec.removes_self:
                found = np.where(here, np.inf, found)
            found = np.where(window.outside(i, j) | np.isnan(found), np.inf, found)
            rank = found + spec.penalty * window.distance(i, j)
            if spec.anchor == "flow":
                rank = np.where(window.is_centre(i, j), -np.inf, rank)
            for values, value in zip((scores, ranks, itself), (found, rank, here), strict=True):
                values.append(value)
    scores, ranks, itself = (np.stack(values, -1) for values in (scores, ranks, itself))
    if spec.anchor == "self":
        ranks = np.where(itself & (np.cumsum(itself, -1) == 1), -np.inf, ranks)
    kept = _kept(ranks, itself, spec, len(slots))
    scores = np.take_along_axis(scores, kept, -1)
    slot, i, j = kept // spec.window**2, kept // spec.window % spec.window, kept % spec.window
    offsets = np.zeros((*kept.shape, 3))
    for number, window in enumerate(windows):
        offsets = np.where((slot == number)[..., None], window.offset(i, j), offsets)
    offsets = offsets if spec.subpixel else offsets.astype(np.int32)
    return -scores if p.metric == "dot" else scores, offsets, np.asarray(slots)[slot]


class _Window:
    """The candidates (i, j) of one slot around the centres (cy, cx) of all queries of a frame."""

    def __init__(self, spec, p, size, frame, cy, cx):
        self.spec, self.size, self.border = spec, size, p.border
        t, self.ry, self.rx = _queries(p, *cy.shape[2:])
        self.dt, self.cy, self.cx = frame - t, cy, cx
        self.oy = window_offset(cy, size[0], spec.window, spec.step, spec.slide)
        self.ox = window_offset(cx, size[1], spec.window, spec.step, spec.slide)

    def _expand(self, i):
        """The arrays with an axis for kept candidates if `i` has one."""
        arrays = self.dt, self.cy, self.cx, self.oy, self.ox, self.ry, self.rx
        return [np.broadcast_to(a, self.cy.shape)[..., None] if np.ndim(i) else a for a in arrays]

    def offset(self, i, j):
        dt, cy, cx, oy, ox, ry, rx = self._expand(i)
        step = self.spec.step
        return np.stack(np.broadcast_arrays(dt, cy + step * (i - oy) - ry, cx + step * (j - ox) - rx), -1)

    def distance(self, i, j):
        return self.spec.step**2 * ((i - self.oy) ** 2 + (j - self.ox) ** 2)

    def is_centre(self, i, j):
        return (i == self.oy) & (j == self.ox)

    def outside(self, i, j):
        y, x = self.cy + self.spec.step * (i - self.oy), self.cx + self.spec.step * (j - self.ox)
        out = (y < 0) | (y > self.size[0] - 1) | (x < 0) | (x > self.size[1] - 1)
        return out if self.border == "reflect" else np.zeros_like(out)


def _kept(ranks, itself, spec, slots):
    """Indices of the kept candidates: best first, ties by the smallest index."""
    if spec.topk is None:  # the order of the windows, behind what is anchored
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


# --- flow -----------------------------------------------------------------------------------------
@_silent()
def chain_flow(forward, backward, *, radius, stride):
    """Flow from each frame along its trajectory to the frames it looks at, (B, T, 2 * radius, 2, h, w)."""
    out, _ = _chain(forward, backward, radius, stride)
    return out


def _chain(forward, backward, radius, stride):
    """The chained flow and its steps: per frame and slot (slot before or None, flow, frame, where it was read)."""
    B, T, _, H, W = forward.shape
    order, p = frame_order(T, radius), Patches(stride=stride)
    h, w = (H - 1) // stride + 1, (W - 1) // stride + 1
    out, steps = np.zeros((B, T, 2 * radius, 2, h, w)), []
    for t in range(T):
        _, ry, rx = _queries(p, 1, h, w)
        for s in range(1, 2 * radius + 1):
            ahead = order[t, s] > t
            first = s == 1 or (not ahead and order[t, s - 1] >= t)
            before = None if first else s - 2
            flow, at = (forward, order[t, s] - 1) if ahead else (backward, order[t, s] + 1)
            moved = np.zeros((B, 2, h, w)) if first else out[:, t, before]
            y, x = (ry + moved[:, 1])[:, None, None], (rx + moved[:, 0])[:, None, None]
            video = np.where(np.isfinite(flow), flow, 0).astype(float)[:, None]
            here = np.full(y.shape, at)
            read = np.moveaxis(_sample(video, here, y, x, "reflect")[:, 0, 0], -1, 1)
            out[:, t, s - 1] = moved + read
            steps.append((t, s - 1, before, ahead, video, here, y, x))
    return out, steps


@_silent()
def chain_flow_backward(grad, forward, backward, *, radius, stride):
    """Gradients of both flows, chained through the Jacobians of the samples."""
    _, steps = _chain(forward, backward, radius, stride)
    grads = {True: np.zeros(forward.shape)[:, None], False: np.zeros(backward.shape)[:, None]}
    total = np.array(grad, float)
    for t, s, before, ahead, video, here, y, x in reversed(steps):
        g = np.moveaxis(total[:, t, s], 1, -1)[:, None, None]  # (B, 1, 1, h, w, 2)
        _spread(grads[ahead], here, y, x, "reflect", g)
        if before is not None:
            by_y, by_x = _sample_slopes(video, here, y, x, "reflect")
            total[:, t, before] += total[:, t, s]
            total[:, t, before, 1] += (g * by_y).sum(-1)[:, 0, 0]
            total[:, t, before, 0] += (g * by_x).sum(-1)[:, 0, 0]
    return grads[True][:, 0], grads[False][:, 0]
