"""score: how alike are a query and given places?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftsearch._call import run
from shiftsearch._geometry import Patches, query_grid
from shiftsearch._op import Op, Spec
from shiftsearch.ops.search import check_heads


@dataclass(frozen=True)
class ScoreSpec(Spec):
    patch: int = 1
    heads: int = 1
    stride: int = 1
    dilation: int = 1
    metric: str = "l2"
    border: str = "reflect"

    def __post_init__(self):
        self.whole("patch", most=129)
        self.whole("heads", "stride")
        self.whole("dilation", most=4096)
        self.choice("metric", "l2", "dot")
        self.choice("border", "reflect", "zeros")

    def patches(self) -> Patches:
        return Patches(self.patch, self.stride, self.dilation, self.border, self.border, self.metric)


def score(q, k, offsets, *, patch=1, heads=1, stride=1, dilation=1, metric="l2", border="reflect"):
    """Scores of given places: what `search` computes for its candidates.

    scores[..., n] = sum over patch pixels u and channels of (q(r + u) - k(place + u))**2, or of the
    product for "dot", with place = r + offset. With border "reflect" a place outside the frame is its
    mirror image.

    Args:
        q: queries (B, T, C, H, W)
        k: keys, the same shape
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place; whole numbers, or floats, which
            sample k bilinearly
        patch, heads, stride, dilation, metric, border: as in `search`

    Returns:
        scores (B, heads, T, h, w, K)

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> scores, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> np.allclose(score(video, video, offsets, patch=3), scores, atol=1e-4)
        True
    """
    spec = ScoreSpec("score", patch, heads, stride, dilation, metric, border)
    return run(SCORE, spec, q=q, k=k, offsets=offsets)[0]


def _sizes(spec, sizes):
    h, w = query_grid(sizes["H"], sizes["W"], spec.stride)
    return {"G": spec.heads, "h": h, "w": w}


def _forward(backend, spec, q, k, offsets):
    return {"scores": backend.correlate(q, k, offsets, spec.patches())}


def _backward(backend, spec, inputs, outputs, grads):
    q, k, offsets, g, p = inputs["q"], inputs["k"], inputs["offsets"], grads["scores"], spec.patches()
    found = dict(zip("qk", backend.pull_push(q, k, g, offsets, p), strict=True))
    if np.issubdtype(offsets.dtype, np.floating):
        found["offsets"] = backend.slope(q, k, g, offsets, p)
    return found


SCORE = Op(
    name="score",
    inputs={"q": "B T C H W", "k": "B T C H W", "offsets": "B G T h w K 3"},
    outputs={"scores": "score"},
    values=("q", "k"),
    sizes=_sizes,
    check=check_heads,
    forward=_forward,
    backward=_backward,
)
