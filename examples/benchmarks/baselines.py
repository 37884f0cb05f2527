"""Search and its gradients without kernels: the two usual ways, in array code for NumPy and CuPy.

Both support flow by whole pixels, one head, stride 1, squared differences and a mirrored border. Videos are (T, C, H, W),
flow (T, 2 * radius, 2, H, W) leads to places inside of the frame, offsets are (T, H, W, K, 3).
"""

from __future__ import annotations

import shiftsearch

CHUNK = 2**28  # bytes of gathered patches at a time


def candidates(xp, flow, window):
    """Return frame, row and column of every candidate of every query, (T, H, W, slots * window**2)."""
    T, slots, _, H, W = flow.shape
    frames = xp.asarray(shiftsearch.neighbours(T, slots // 2))
    centres = xp.zeros((2, T, slots + 1, H, W), "int32")
    centres[:, :, 1:] = flow[:, :, ::-1].astype("int32").transpose(2, 0, 1, 3, 4)  # no motion to its own frame
    centres[0] += xp.arange(H, dtype="int32")[:, None]
    centres[1] += xp.arange(W, dtype="int32")
    top, left = (xp.clip(c - (window - 1) // 2, 0, n - window) for c, n in zip(centres, (H, W), strict=True))
    shape = (T, slots + 1, H, W, window, window)
    i = xp.arange(window, dtype="int32")
    grids = frames[:, :, None, None, None, None], top[..., None, None] + i[:, None], left[..., None, None] + i
    return (xp.moveaxis(xp.broadcast_to(g, shape), 1, 3).reshape(T, H, W, -1) for g in grids)


def relative(xp, frame, y, x):
    """Return offsets (dt, dy, dx) of places (T, H, W, K) from their queries."""
    t, r, c = (xp.arange(n).reshape(-1, *(1,) * after) for n, after in zip(frame.shape[:3], (3, 2, 1), strict=True))
    return xp.stack([frame - t, y - r, x - c], -1)


def places(xp, offsets):
    """Return the number t * H * W + y * W + x of the pixel that each offset (T, H, W, K, 3) leads to."""
    T, H, W = offsets.shape[:3]
    t, y, x = (xp.arange(n).reshape(-1, *(1,) * after) for n, after in zip((T, H, W), (3, 2, 1), strict=True))
    return ((t + offsets[..., 0]) * H + y + offsets[..., 1]) * W + x + offsets[..., 2]


def margins(patch):
    return patch // 2, patch - 1 - patch // 2


def pad(xp, video, patch, mode="reflect"):
    return xp.pad(video, ((0, 0), (0, 0), margins(patch), margins(patch)), mode=mode)


class MaterialiseAndSort:
    """A baseline that stores the scores of the whole window, then sorts and cuts them, as the research code does."""

    def __init__(self, xp):
        self.xp = xp

    def search(self, q, k, flow, window, patch, topk):
        xp, (C, H, W) = self.xp, k.shape[1:]
        frame, y, x = candidates(xp, flow, window)
        q, k = (pad(xp, v, patch) for v in (q, k))
        height, width = k.shape[-2:]
        first = (frame * height + y) * width + x  # pixel of each candidate's patch, in a plane of padded frames
        scores = xp.zeros(first.shape, q.dtype)
        for c in range(C):
            plane = xp.ascontiguousarray(k[:, c]).ravel()
            for a in range(patch):
                for b in range(patch):
                    difference = q[:, c, a : a + H, b : b + W, None] - plane[first + (a * width + b)]
                    scores += difference * difference
        best = xp.argsort(scores, axis=-1)[..., :topk]
        frame, y, x = (xp.take_along_axis(part, best, -1) for part in (frame, y, x))
        return xp.take_along_axis(scores, best, -1), relative(xp, frame, y, x)


class UnfoldAndMultiply:
    """A baseline that unfolds patches to rows of a matrix, gathers those of the candidates, and multiplies them."""

    def __init__(self, xp):
        self.xp = xp

    def search(self, q, k, flow, window, patch, topk):
        xp, (H, W) = self.xp, k.shape[2:]
        frame, y, x = candidates(xp, flow, window)
        scores = self._scores(self._unfold(q, patch), self._unfold(k, patch), (frame * H + y) * W + x)
        best = xp.argsort(scores, axis=-1)[..., :topk]
        frame, y, x = (xp.take_along_axis(part, best, -1) for part in (frame, y, x))
        return xp.take_along_axis(scores, best, -1), relative(xp, frame, y, x)

    def score(self, q, k, offsets, patch):
        return self._scores(self._unfold(q, patch), self._unfold(k, patch), places(self.xp, offsets))

    def score_backward(self, q, k, offsets, grad, patch):
        """Return the gradients of q and k for those of the scores."""
        xp, size = self.xp, q.shape
        mine, theirs = self._unfold(q, patch), self._unfold(k, patch)
        by_q, by_k = xp.zeros_like(mine), xp.zeros_like(theirs)
        for rows, at, weights in self._chunks(mine, places(xp, offsets), grad):
            difference = 2 * weights[..., None] * (mine[rows, None] - theirs[at])
            by_q[rows] = difference.sum(1)
            xp.add.at(by_k, at, -difference)
        return self._fold(by_q, size, patch), self._fold(by_k, size, patch)

    def gather(self, v, offsets, patch):
        T, C, H, W = v.shape
        return self._unfold(v, patch)[places(self.xp, offsets)].reshape(T, H, W, -1, C, patch, patch)

    def aggregate(self, v, weights, offsets, patch):
        rows = self._unfold(v, patch)
        sums = self.xp.empty_like(rows)
        for here, at, w in self._chunks(rows, places(self.xp, offsets), weights):
            sums[here] = (w[:, None] @ rows[at])[:, 0]
        return self._fold(sums, v.shape, patch, mirrored=False) / self._coverage(v, patch)

    def aggregate_backward(self, v, weights, offsets, grad, patch):
        """Return the gradients of v and of the weights for that of the result."""
        xp, rows = self.xp, self._unfold(v, patch)
        arrive = self._unfold(grad / self._coverage(v, patch), patch, "constant")
        by_v, by_weights = xp.zeros_like(rows), xp.empty((len(rows), weights.shape[-1]), v.dtype)
        for here, at, w in self._chunks(rows, places(xp, offsets), weights):
            by_weights[here] = (rows[at] @ arrive[here, :, None])[..., 0]
            xp.add.at(by_v, at, w[..., None] * arrive[here, None])
        return self._fold(by_v, v.shape, patch), by_weights.reshape(weights.shape)

    def _scores(self, mine, theirs, at):
        xp, (norms, their_norms) = self.xp, ((m * m).sum(-1) for m in (mine, theirs))
        scores = xp.empty((len(mine), at.shape[-1]), mine.dtype)
        for rows, here, _ in self._chunks(mine, at, at):
            products = (theirs[here] @ mine[rows, :, None])[..., 0]
            scores[rows] = norms[rows, None] + their_norms[here] - 2 * products
        return scores.reshape(at.shape)

    @staticmethod
    def _chunks(matrix, at, weights):
        """Yield queries, the rows that they gather and their weights, as many at a time as CHUNK allows."""
        at, weights = (array.reshape(len(matrix), -1) for array in (at, weights))
        step = max(1, CHUNK // (at.shape[1] * matrix.shape[1] * matrix.itemsize))
        for start in range(0, len(matrix), step):
            rows = slice(start, start + step)
            yield rows, at[rows], weights[rows]

    def _unfold(self, video, patch, mode="reflect"):
        """Return the patch around each pixel as a row, (T * H * W, C * patch**2)."""
        xp, (T, C, H, W) = self.xp, video.shape
        padded, rows = pad(xp, video, patch, mode), xp.empty((T, H, W, C, patch, patch), video.dtype)
        for a in range(patch):
            for b in range(patch):
                rows[..., a, b] = padded[:, :, a : a + H, b : b + W].transpose(0, 2, 3, 1)
        return rows.reshape(T * H * W, -1)

    def _fold(self, rows, size, patch, mirrored=True):
        """Return the transpose of `_unfold`: pixels outside of the frame are added to their mirror images, or dropped."""
        xp, (T, C, H, W), (before, after) = self.xp, size, margins(patch)
        rows = rows.reshape(T, H, W, C, patch, patch).transpose(0, 3, 1, 2, 4, 5)
        out = xp.zeros((T, C, H + patch - 1, W + patch - 1), rows.dtype)
        for a in range(patch):
            for b in range(patch):
                out[:, :, a : a + H, b : b + W] += rows[..., a, b]
        for n in (W, H):  # along columns first: rows and columns change places twice
            out = out.swapaxes(2, 3)
            out = out[:, :, before : before + n] + (self._mirror(out, n, before, after) if mirrored else 0)
        return out

    def _mirror(self, out, n, before, after):
        margin = self.xp.zeros((*out.shape[:2], n, out.shape[3]), out.dtype)
        margin[:, :, 1 : before + 1] += out[:, :, :before][:, :, ::-1]
        margin[:, :, n - 1 - after : n - 1] += out[:, :, before + n :][:, :, ::-1]
        return margin

    def _coverage(self, v, patch):
        return self.xp.asarray(shiftsearch.coverage(v.shape[-2:], patch=patch).astype(v.dtype))
