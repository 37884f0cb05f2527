"""GuidedDeformableAttention: attention to a few points around where the flow leads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shiftsearch._op import Spec
from shiftsearch._types import Window
from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.attention import COMPARE, Compare
from shiftsearch.nn.layers import check_video, each_per_pixel, per_pixel, shown, zeroed
from shiftsearch.ops.aggregate import aggregate
from shiftsearch.ops.match import match
from shiftsearch.ops.score import score


@dataclass(frozen=True, kw_only=True)
class _GuidedSpec(Spec):
    dim: int
    heads: int
    points: int
    offsets: str
    compare: str
    window: Window
    patch: int
    step: float
    reach: float
    hidden: int

    def __post_init__(self) -> None:
        self.whole("dim", "heads", "points", "patch", "hidden")
        places = math.prod(self.pair("window"))
        self.check(self.dim % self.heads == 0, "dim", f"a multiple of heads, which is {self.heads}")
        self.choice("offsets", "predict", "search")
        self.choice("compare", *COMPARE)
        self.real("step", least=1e-6)
        self.real("reach")
        if self.offsets == "predict":
            self.check(math.isqrt(self.points) ** 2 == self.points, "points", "a square number to predict")
        else:
            self.check(self.points <= places, "points", f"at most the {places} places of the window")


class GuidedDeformableAttention(nn.Module):
    """Attention of frames to a few points of supporting frames, around where the flow leads; as in RVRT.

    The points of a query lie at flow + offset in each supporting frame, and differ between heads. There are two ways to
    find the offsets; q, k, v, attention and output are the same for both:

    "predict": a small network sees the frame, the supporting frame warped by the flow, and the flow. Its points are a
        square grid around the flow, each moved by at most `reach` pixels;
    "search": the points are the best of a `window` in steps of `step` pixels around the flow: the shifted search, which
        needs no network. With window=3, step=1 and 9 points that is the square itself, without choice or prediction.

    Which points are best has no gradient. With compare="shared" one map, that of q, is taken of both frames, and patches
    of what it gives are compared: places that look alike are found before anything is learnt. q and k then score the
    points found, and by these scores the map of q learns. With "keys" q is compared with k, which is another map: until
    they have learnt to agree, they find places at random.

    Args:
        dim: channels
        heads: groups of channels, each with its own points
        points: per supporting frame; with "predict" a square number
        offsets: "predict" or "search"
        compare: what the search compares, "shared" or "keys"
        window, step: of the search
        patch: pixels per side that a comparison of the search sums over
        reach: of the prediction, in pixels
        hidden: channels within the predicting network; None is `dim`

    State dict: `q`, `k`, `v`, `out`, each with `.weight` and `.bias`; with "predict" also `predict.0`, `predict.2`, ...

    Example:
        >>> layer = GuidedDeformableAttention(4, heads=2, offsets="search", window=5)
        >>> flow = torch.zeros(3, 1, 2, 16, 24)  # from each frame to the one supporting frame
        >>> layer(video, video[:1], flow).shape
        torch.Size([3, 4, 16, 24])
    """

    dim: int
    heads: int
    points: int
    offsets: Literal["predict", "search"]
    compare: Compare
    window: Window
    patch: int
    step: float
    reach: float
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    predict: nn.Sequential | None

    def __init__(
        self,
        dim: int,
        heads: int = 12,
        points: int = 9,
        *,
        offsets: Literal["predict", "search"] = "search",
        compare: Compare = "shared",
        window: Window = 9,
        patch: int = 5,
        step: float = 0.5,
        reach: float = 10.0,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = dim if hidden is None else hidden
        _GuidedSpec(
            caller="GuidedDeformableAttention",
            dim=dim,
            heads=heads,
            points=points,
            offsets=offsets,
            compare=compare,
            window=window,
            patch=patch,
            step=step,
            reach=reach,
            hidden=hidden,
        )
        self.dim, self.heads, self.points, self.offsets = dim, heads, points, offsets
        self.compare, self.window, self.patch, self.step, self.reach = compare, window, patch, step, reach
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.predict = _predictor(dim, hidden, 2 * heads * points) if offsets == "predict" else None

    def forward(self, x: Tensor, support: Tensor, flow: Tensor) -> Tensor:
        """Return the output, (B, T, C, H, W).

        Args:
            x: (B, T, C, H, W)
            support: (B, S, C, H, W)
            flow: from each frame of x to each of support, (B, T, S, 2, H, W)
        """
        self._check(x, support, flow)
        if x.ndim == 4:
            return self(x[None], support[None], flow[None])[0]
        B, T, C, H, W = x.shape
        S = support.shape[1]
        pairs = (B, T, S, C, H, W)
        q = per_pixel(self.q, x)[:, :, None].expand(pairs).reshape(-1, C, H, W)
        given = each_per_pixel((self.k, self.v), support)
        k, v = (video[:, None].expand(pairs).reshape(-1, 1, C, H, W) for video in given)
        flow = flow.reshape(-1, 2, H, W).to(torch.promote_types(flow.dtype, torch.float32))
        if self.predict is None:
            alike = k[:, 0]
            if self.compare == "shared":
                alike = per_pixel(self.q, support)[:, None].expand(pairs).reshape(-1, C, H, W)
            offsets = self._searched(q, alike, flow)
        else:
            here, there = (video.expand(pairs).reshape(-1, C, H, W) for video in (x[:, :, None], support[:, None]))
            offsets = self._predicted(self.predict, here, there, flow)
        scores = score(q[:, None], k, offsets, heads=self.heads, metric="dot")
        # one softmax over the points of all supporting frames
        scores = scores.reshape(B * T, S, self.heads, H, W, self.points).movedim(1, -2)
        weights = torch.softmax(scores.flatten(-2) / math.sqrt(C // self.heads), -1)
        weights = weights.unflatten(-1, (S, self.points)).movedim(-2, 1).reshape(-1, self.heads, 1, H, W, self.points)
        found = aggregate(v, weights, offsets).reshape(B, T, S, C, H, W).sum(2)
        return per_pixel(self.out, found)

    def _check(self, x: Any, support: Any, flow: Any) -> None:
        name = "GuidedDeformableAttention"
        check_video(name, "x", x, self.dim)
        check_video(name, "support", support, self.dim)
        S = support.shape[-4]
        expected = {"support": (*x.shape[:-4], S, *x.shape[-3:]), "flow": (*x.shape[:-3], S, 2, *x.shape[-2:])}
        for which, tensor in (("support", support), ("flow", flow)):
            found = tuple(getattr(tensor, "shape", ()))
            if found != expected[which]:
                said = f"has shape {found}" if isinstance(tensor, Tensor) else f"is a {type(tensor).__name__}"
                raise ShiftsearchError(f"{name}: {which} {said}, expected a tensor of shape {expected[which]}")

    def _searched(self, q: Tensor, alike: Tensor, flow: Tensor) -> Tensor:
        """Return the best points of a window around the flow, as offsets of clips of one frame.

        They have a gradient for the flow alone.
        """
        _, offsets = match(
            q.detach(),
            alike.detach(),
            flow,
            window=self.window,
            patch=self.patch,
            topk=self.points,
            heads=self.heads,
            step=self.step,
            subpixel=True,
        )
        return _in_own_frame(offsets)

    def _predicted(self, predict: nn.Module, x: Tensor, support: Tensor, flow: Tensor) -> Tensor:
        """Return a square of points around the flow, each moved by the offset that the network predicts."""
        N, _, H, W = x.shape
        around = flow.flip(1).movedim(1, -1)[:, None, :, :, None]  # (dy, dx)
        warped = aggregate(support[:, None], support.new_ones(N, 1, 1, H, W, 1), _in_own_frame(around))[:, 0]
        moved = predict(torch.cat((x, warped.to(x.dtype), flow.to(x.dtype)), 1))
        moved = self.reach * torch.tanh(moved.to(flow.dtype)).reshape(N, self.heads, self.points, 2, H, W)
        side = math.isqrt(self.points)
        line = torch.arange(side, device=x.device, dtype=flow.dtype) - side // 2
        grid = torch.cartesian_prod(line, line) if side > 1 else flow.new_zeros(1, 2)
        return _in_own_frame(moved.movedim((2, 3), (-2, -1)) + around + grid)

    def extra_repr(self) -> str:
        searched = ("compare", "window", "patch", "step")
        named = ("dim", "heads", "points", "offsets", *(("reach",) if self.predict is not None else searched))
        return shown({name: getattr(self, name) for name in named})


def _in_own_frame(offsets: Tensor) -> Tensor:
    """Return (dy, dx) from frame to frame, (N, heads, H, W, K, 2), as offsets in clips of one, (N, heads, 1, H, W, K, 3)."""
    return torch.nn.functional.pad(offsets, (1, 0))[:, :, None]


def _predictor(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Return the predicting network, whose offsets are 0 before training."""
    layers: list[nn.Module] = [nn.Conv2d(2 * dim + 2, hidden, 3, padding=1), nn.LeakyReLU(0.1)]
    for _ in range(2):
        layers += [nn.Conv2d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, zeroed(nn.Conv2d(hidden, out, 3, padding=1)))
