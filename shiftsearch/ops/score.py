"""score: how alike queries and given places are."""

from __future__ import annotations

from dataclasses import dataclass

from shiftsearch._call import run
from shiftsearch._geometry import Patches, patches_of
from shiftsearch._op import OFFSET, Example, Input, Op
from shiftsearch._types import Array, Border, Metric
from shiftsearch.ops.form import Derivative
from shiftsearch.ops.patches import PatchSpec, check_divides, grid_of


@dataclass(frozen=True, kw_only=True)
class ScoreSpec(PatchSpec):
    """How patches are compared."""

    heads: int
    metric: Metric

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("heads")
        self.choice("metric", "l2", "dot")

    def patches(self, scale: int = 1) -> Patches:
        return patches_of(self.patch, self.stride, self.dilation, self.border, self.border, self.metric, scale)


def check_heads(spec: ScoreSpec, sizes: dict[str, int]) -> None:
    check_divides(spec, spec.heads, sizes["C"])


def heads_and_grid(spec: ScoreSpec, sizes: dict[str, int]) -> dict[str, int]:
    return {"G": spec.heads, **grid_of(spec, sizes)}


def score(
    q: Array,
    k: Array,
    offsets: Array,
    *,
    patch: int = 1,
    heads: int = 1,
    stride: int = 1,
    dilation: int = 1,
    metric: Metric = "l2",
    border: Border = "reflect",
) -> Array:
    """Return the scores of given places: what `search` computes for its candidates.

    A score is the sum over patch pixels u and channels of (q(r + u) - k(place + u))**2, or of the product for "dot".
    The place is r + offset. With border "reflect" a place outside the frame is its mirror image.

    Args:
        q: queries (B, T, C, H, W)
        k: keys, the same shape, but for the number of frames
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place; whole numbers, or floats, for which
            k is sampled bilinearly. A divisor of `heads` will do: each of so many is then that of several heads in a row
        patch, heads, stride, dilation, metric, border: as in `search`

    Returns:
        scores (B, heads, T, h, w, K)

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> scores, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> np.allclose(score(video, video, offsets, patch=3), scores, atol=1e-4)
        True
    """
    found = run(
        SCORE,
        {"q": q, "k": k, "offsets": offsets},
        patch=patch,
        heads=heads,
        stride=stride,
        dilation=dilation,
        metric=metric,
        border=border,
    )
    return found[0]


_form = Derivative("weights", {"q": "q", "k": "k", "offsets": "offsets"}, "scores")
SCORE = Op(
    function=score,
    spec=ScoreSpec,
    inputs={"q": Input("B T C H W"), "k": Input("B kT C H W"), "offsets": Input("B G/ T h w K 3", OFFSET)},
    outputs={"scores": "score"},
    shapes=lambda spec, sizes: {"scores": tuple(sizes[axis] for axis in "BGThwK")},
    sizes=heads_and_grid,
    check=check_heads,
    forward=_form.forward,
    backward=_form.backward,
    multiply_adds=_form.multiply_adds,
    example=Example({"patch": 3, "heads": 2}),
)
