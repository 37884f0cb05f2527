"""score: how alike are a query and given places?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftsearch._call import run
from shiftsearch._geometry import Patches, query_grid
from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError


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


def check_heads(spec, sizes) -> None:
    if sizes["C"] % spec.heads:
        raise ShiftsearchError(f"{spec.op}: heads is {spec.heads}, expected a divisor of the {sizes['C']} channels")


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
    options = patch, heads, stride, dilation, metric, border
    return run(SCORE, options, q=q, k=k, offsets=offsets)[0]


def _sizes(spec, sizes):
    h, w = query_grid(sizes["H"], sizes["W"], spec.stride)
    return {"G": spec.heads, "h": h, "w": w}


def _forward(backend, spec, q, k, offsets):
    return {"scores": backend.score(q, k, offsets, spec.patches())}


def _backward(backend, spec, inputs, outputs, grads, wanted):
    q, k, offsets, g, p = inputs["q"], inputs["k"], inputs["offsets"], grads["scores"], spec.patches()
    return {**of_pixels(backend, q, k, g, offsets, p, wanted), **of_offsets(backend, q, k, g, offsets, p, wanted)}


def of_pixels(backend, q, k, g, offsets, p, wanted):
    """Those gradients of q and k that are wanted; both at once cost less than one by one."""
    both = {"q": backend.aggregate, "k": backend.scatter}
    if wanted >= both.keys():
        return dict(zip("qk", backend.aggregate_and_scatter(q, k, g, offsets, p), strict=True))
    return {name: of(q, k, g, offsets, p) for name, of in both.items() if name in wanted}


def of_offsets(backend, q, k, g, offsets, p, wanted):
    """The gradient of the offsets, if it is wanted and they are no whole numbers."""
    if "offsets" not in wanted or not np.issubdtype(offsets.dtype, np.floating):
        return {}
    return {"offsets": backend.slope(q, k, g, offsets, p)}


SCORE = Op(
    name="score",
    spec=ScoreSpec,
    inputs={"q": "B T C H W", "k": "B T C H W", "offsets": "B G T h w K 3"},
    outputs={"scores": "score"},
    shapes=lambda spec, sizes: {"scores": tuple(sizes[axis] for axis in "BGThwK")},
    values=("q", "k"),
    sizes=_sizes,
    check=check_heads,
    forward=_forward,
    backward=_backward,
)
