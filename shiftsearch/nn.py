"""Modules of torch: ops that keep their options, and attention that is made of them.

Videos are (B, T, C, H, W), flow and offsets as in `shiftsearch.search`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn

from shiftsearch._op import Op, Spec
from shiftsearch._types import Metric
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import AGGREGATE, STACK, aggregate, stack
from shiftsearch.ops.attend import ATTEND, FAR
from shiftsearch.ops.attend import attend as _attend
from shiftsearch.ops.match import match
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.score import score
from shiftsearch.ops.search import SEARCH

_OF_SEARCH = SEARCH.defaults


# --- the ops ----------------------------------------------------------------------------------------
class _Kept(nn.Module):
    """An op with its options. It has no parameters: its state dict is empty."""

    op: ClassVar[Op]
    __signature__: ClassVar[inspect.Signature]  # what `help` shows
    options: dict[str, Any]

    def __init_subclass__(cls) -> None:
        parameters = inspect.signature(cls.op.function).parameters.values()
        cls.__signature__ = inspect.Signature([p for p in parameters if p.kind is p.KEYWORD_ONLY])

    def __init__(self, **options: Any) -> None:
        super().__init__()
        known = self.op.defaults
        for name in options:
            if name not in known:
                raise ShiftsearchError(
                    f"{type(self).__name__}: {name} is no option, expected some of {', '.join(known)}"
                )
        self.options = {**known, **options}
        self.op.specify(**self.options)  # an error now, not at the first call, if they are wrong

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        return type(self).op.function(*tensors, **named, **self.options)

    def extra_repr(self) -> str:
        return _shown(self.options)


def _shown(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def check_video(module: str, name: str, video: Any, channels: int) -> None:
    """Raise an error that names the module unless `video` is a tensor (B, T, channels, H, W) of floats."""
    if not isinstance(video, torch.Tensor):
        raise ShiftsearchError(f"{module}: {name} is a {type(video).__name__}, expected a torch tensor")
    if not (video.is_floating_point() and video.ndim in (4, 5) and video.shape[-3] == channels):
        found = f"{video.dtype} of shape {tuple(video.shape)}"
        raise ShiftsearchError(f"{module}: {name} is {found}, expected floats of shape (B, T, {channels}, H, W)")


class ShiftedSearch(_Kept):
    """`shiftsearch.search` with its options: called with (q, k, flow=None), gives (scores, offsets).

    Example:
        >>> scores, offsets = ShiftedSearch(window=5, topk=4)(video, video)
        >>> offsets.shape
        torch.Size([1, 3, 16, 24, 4, 3])
    """

    op: ClassVar[Op] = SEARCH


class Refine(_Kept):
    """`shiftsearch.refine` with its options: called with (q, k, offsets), gives (scores, offsets).

    Example:
        >>> _, coarse = ShiftedSearch(window=5, topk=4)(video, video)
        >>> scores, fine = Refine(window=3, topk=2, step=0.5, subpixel=True)(video, video, coarse)
        >>> fine.shape
        torch.Size([1, 3, 16, 24, 2, 3])
    """

    op: ClassVar[Op] = REFINE


class Attend(_Kept):
    """`shiftsearch.attend` with its options: called with (q, k, v, flow=None, scales=None), gives a video.

    Example:
        >>> Attend(window=5, topk=None)(video, video, video).shape
        torch.Size([3, 4, 16, 24])
    """

    op: ClassVar[Op] = ATTEND


class Aggregate(_Kept):
    """`shiftsearch.aggregate` with its options: called with (v, weights, offsets), gives a video.

    Example:
        >>> scores, offsets = ShiftedSearch(window=5, topk=4)(video, video)
        >>> Aggregate()(video, torch.softmax(-scores, -1), offsets).shape
        torch.Size([3, 4, 16, 24])
    """

    op: ClassVar[Op] = AGGREGATE


class Stack(_Kept):
    """`shiftsearch.stack` with its options: called with (v, offsets, weights=None), gives K videos.

    Example:
        >>> _, offsets = ShiftedSearch(window=5, topk=4)(video, video)
        >>> Stack(patch=3)(video, offsets).shape
        torch.Size([4, 3, 4, 16, 24])
    """

    op: ClassVar[Op] = STACK


# --- attention --------------------------------------------------------------------------------------
Flow = Tensor | tuple[Tensor, Tensor] | list[Tensor] | None
Attention = tuple[Tensor, Tensor, Tensor]  # output, weights and offsets


@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    flow: Flow = None,
    *,
    scale: float | Tensor | None = None,
    return_attention: Literal[False] = False,
    **options: Any,
) -> Tensor: ...
@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    flow: Flow = None,
    *,
    scale: float | Tensor | None = None,
    return_attention: Literal[True],
    **options: Any,
) -> Attention: ...
@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    flow: Flow = None,
    *,
    scale: float | Tensor | None = None,
    return_attention: bool,
    **options: Any,
) -> Tensor | Attention: ...
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    flow: Flow = None,
    *,
    scale: float | Tensor | None = None,
    return_attention: bool = False,
    **options: Any,
) -> Tensor | Attention:
    """Return what each query gets by attending to the `topk` places most like it, or to all places of its windows.

    This is `shiftsearch.attend` for tensors, with a scale that may be one for each head, and learnt. Memory is that of
    inputs, results, and K weights and offsets per query; with topk=None there are none.

    Args:
        q: queries (B, T, C, H, W)
        k: keys, the same shape
        v: values (B, T, C', H, W); C' is a multiple of `heads` too
        flow: as in `shiftsearch.search`
        scale: a number or a tensor of (heads,); None is 1 / sqrt(n) for n products in a dot product of patches, and half
            of that for "l2": both then weigh keys of one length alike
        return_attention: whether weights and offsets are returned, too
        options: those of `shiftsearch.search`

    Returns:
        out (B, T, C', H, W); with return_attention also weights (B, heads, T, h, w, K) and offsets (B, heads, T, h, w, K, 3)

    Example:
        >>> attend(video, video, video, window=5, topk=4, heads=2).shape
        torch.Size([3, 4, 16, 24])
    """
    for name, video in {"q": q, "k": k, "v": v}.items():
        if not isinstance(video, torch.Tensor):
            raise ShiftsearchError(f"attend: {name} is a {type(video).__name__}, expected a torch tensor")
    heads = options.get("heads", _OF_SEARCH["heads"])
    _check_scale(scale, heads)
    scales = None
    if isinstance(scale, torch.Tensor):
        scales, scale = scale.to(torch.promote_types(q.dtype, torch.float32)).expand(heads), 1.0
    return _attend(q, k, v, flow, scales, scale=scale, return_attention=return_attention, **options)


def _check_scale(scale: Any, heads: int) -> None:
    several = isinstance(scale, Tensor)
    if not (scale.numel() in (1, heads) if several else scale is None or isinstance(scale, Real)):
        found = f"a tensor of shape {tuple(scale.shape)}" if several else repr(scale)
        raise ShiftsearchError(f"attend: scale is {found}, expected a number or a tensor of {heads}, one for each head")


_OF_PATCHES = tuple(AGGREGATE.defaults)


def _of_patches(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a search that `aggregate` has, too."""
    return {name: options[name] for name in _OF_PATCHES}


def _scale(scale: float | Tensor | None, channels: int, options: Mapping[str, Any]) -> float | Tensor:
    if scale is not None:
        return scale
    products = channels // options["heads"] * options["patch"] ** 2
    return (1 if options["metric"] == "dot" else 0.5) / math.sqrt(products)


def _weights(scores: Tensor, scale: float | Tensor, metric: Metric) -> Tensor:
    """Return a softmax over what was kept, in single precision at least. Places outside the frame have weight 0."""
    scores = scores.clamp(-FAR, FAR)
    if isinstance(scale, torch.Tensor):
        scale = scale.to(scores.dtype).reshape(-1, 1, 1, 1, 1)  # of each head
    return torch.softmax(scores * (scale if metric == "dot" else -scale), -1)


@dataclass(frozen=True, kw_only=True)
class _AttentionSpec(Spec):
    """The options of `ShiftedAttention` that its search does not have."""

    dim: int
    heads: int
    key_dim: int
    scale: float | None
    learn_scale: bool
    conv: bool
    refine: bool

    def __post_init__(self) -> None:
        self.whole("dim", "heads", "key_dim")
        for name in ("dim", "key_dim"):
            self.check(getattr(self, name) % self.heads == 0, name, f"a multiple of heads, which is {self.heads}")
        self.switch("learn_scale", "conv", "refine")
        if self.scale is not None:
            self.real("scale", least=1e-6)


class ShiftedAttention(nn.Module):
    """Attention over space and time where the keys of a query are the best places around where the flow leads.

    Linear maps of each pixel give q, k and v; `search` finds the `topk` keys most like each query; a softmax over their
    scores weighs what is then summed, or stacked and convolved; a last map gives the output.

    Args:
        dim: channels of the input and of the output
        heads: parts of the channels that are searched on their own
        window, topk, radius, patch, stride, metric, subpixel: as in `shiftsearch.search`. With subpixel=True the flow has
            a gradient
        key_dim: channels of q and k; None is `dim`
        refine: what forward gets is not flow but the offsets that an earlier layer found, and `window` lies around each
            of those; `radius` has no meaning then
        scale: of the scores, the same for all heads; None is 1 / sqrt(n), see `attend`
        learn_scale: the scale of each head is a parameter, and begins at `scale`
        conv: instead of summing, a convolution over the `topk` videos, weighted, mixes them: patch x patch pixels wide
        options: other options of `shiftsearch.search`, or of `shiftsearch.refine`

    State dict: `q.weight`, `k.weight`, `v.weight`, each with `.bias`; `out.weight` and `out.bias`; `log_scale` (heads,) if
    it is learnt; `mix.weight` and `mix.bias` with conv.

    Example:
        >>> layer = ShiftedAttention(4, heads=2, window=5, topk=4)
        >>> layer(video).shape
        torch.Size([3, 4, 16, 24])
        >>> out, weights, offsets = layer(video, return_attention=True)
        >>> weights.shape, offsets.shape
        (torch.Size([2, 3, 16, 24, 4]), torch.Size([2, 3, 16, 24, 4, 3]))
        >>> ShiftedAttention(4, heads=2, window=1, topk=4, refine=True)(video, offsets).shape
        torch.Size([3, 4, 16, 24])
    """

    dim: int
    key_dim: int
    conv: bool
    find: ShiftedSearch | Refine
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    scale: float
    log_scale: nn.Parameter | None
    mix: nn.Conv2d | None

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        window: int = 9,
        topk: int | None = 10,
        radius: int = 1,
        patch: int = 1,
        *,
        stride: int = 1,
        metric: Metric = "l2",
        subpixel: bool = True,
        key_dim: int | None = None,
        refine: bool = False,
        scale: float | None = None,
        learn_scale: bool = True,
        conv: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        key_dim = dim if key_dim is None else key_dim
        _AttentionSpec(
            caller="ShiftedAttention",
            dim=dim,
            heads=heads,
            key_dim=key_dim,
            scale=scale,
            learn_scale=learn_scale,
            conv=conv,
            refine=refine,
        )
        options |= {"window": window, "topk": topk, "patch": patch, "heads": heads, "stride": stride}
        options |= {"metric": metric, "subpixel": subpixel}
        self.find = Refine(**options) if refine else ShiftedSearch(radius=radius, **options)
        if conv and (topk is None or self.find.options["per_frame"] or self.find.options["anchor"] == "flow"):
            raise ShiftsearchError(
                f"ShiftedAttention: topk is {topk!r}, expected a whole number, and neither per_frame=True nor "
                'anchor="flow", for a convolution over topk videos'
            )
        self.dim, self.key_dim, self.conv = dim, key_dim, conv
        self.q, self.k, self.v = nn.Linear(dim, key_dim), nn.Linear(dim, key_dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.scale = float(_scale(scale, key_dim, self.find.options))
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(self.scale))) if learn_scale else None
        self.mix = _mixer(topk * dim, dim, patch) if conv and topk is not None else None

    def forward(self, x: Tensor, flow: Flow = None, *, return_attention: bool = False) -> Tensor | Attention:
        """Return what the pixels of x get, (B, T, C, H, W); with return_attention also weights and offsets.

        Args:
            x: (B, T, C, H, W)
            flow: as in `shiftsearch.search`, or with refine=True the offsets of an earlier layer
            return_attention: whether weights and offsets are returned, too
        """
        check_video("ShiftedAttention", "x", x, self.dim)
        q, k, v = (_per_pixel(layer, x) for layer in (self.q, self.k, self.v))
        scale = self.scale if self.log_scale is None else self.log_scale.exp()
        if isinstance(self.find, ShiftedSearch) and self.mix is None:
            found = attend(q, k, v, flow, scale=scale, return_attention=return_attention, **self.find.options)
            if isinstance(found, tuple):
                return _per_pixel(self.out, found[0]), *found[1:]
            return _per_pixel(self.out, found)
        scores, offsets = self.find(q, k, flow)
        weights = _weights(scores, scale, self.find.options["metric"])
        of_patches = _of_patches(self.find.options)
        if self.mix is None:
            found = aggregate(v, weights, offsets, **of_patches)
        else:
            found = _mixed(self.mix, stack(v, offsets, weights.to(v.dtype), **of_patches))
        out = _per_pixel(self.out, found)
        return (out, weights, offsets) if return_attention else out

    def extra_repr(self) -> str:
        named = {name: getattr(self, name) for name in ("dim", "key_dim", "conv", "scale")}
        return _shown({**named, "learn_scale": self.log_scale is not None})


def _per_pixel(layer: nn.Module, video: Tensor) -> Tensor:
    """Return a linear layer of the channels of (..., C, H, W), channels last in memory, as kernels read them."""
    return layer(video.movedim(-3, -1)).movedim(-1, -3)


def _mixer(channels: int, dim: int, patch: int) -> nn.Conv2d:
    return nn.Conv2d(channels, dim, patch, padding="same", padding_mode="replicate")


def _mixed(layer: nn.Module, videos: Tensor) -> Tensor:
    """Return a convolution of the channels of (..., K, T, C, H, W), as (..., T, C, H, W)."""
    *batch, K, T, C, H, W = videos.shape
    frames = videos.movedim(-5, -4).reshape(-1, K * C, H, W)
    return layer(frames).reshape(*batch, T, C, H, W)


# --- guided deformable attention --------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class _GuidedSpec(Spec):
    dim: int
    heads: int
    points: int
    offsets: str
    window: int
    step: float
    reach: float
    hidden: int

    def __post_init__(self) -> None:
        self.whole("dim", "heads", "points", "window", "hidden")
        self.check(self.dim % self.heads == 0, "dim", f"a multiple of heads, which is {self.heads}")
        self.choice("offsets", "predict", "search")
        self.real("step", least=1e-6)
        self.real("reach")
        if self.offsets == "predict":
            self.check(math.isqrt(self.points) ** 2 == self.points, "points", "a square number to predict")
        else:
            self.check(self.points <= self.window**2, "points", f"at most the {self.window**2} places of the window")


class GuidedDeformableAttention(nn.Module):
    """Attention of frames to a few points of supporting frames, around where the flow leads; as in RVRT.

    The points of a query lie at flow + offset in each supporting frame, and differ from head to head. Two ways to get
    the offsets share everything else, q, k, v, attention and output:
    "predict": a small network sees the frame, the supporting frame warped by the flow, and the flow. Its points are a
        square grid around the flow, each moved by at most `reach` pixels;
    "search": the points are the best of a `window` in steps of `step` pixels around the flow, compared by their keys: the
        shifted search, which needs no network.

    Args:
        dim: channels
        heads: groups of channels with points of their own
        points: per supporting frame; with "predict" a square number
        offsets: "predict" or "search"
        window, step: of the search
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
    window: int
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
        window: int = 9,
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
            window=window,
            step=step,
            reach=reach,
            hidden=hidden,
        )
        self.dim, self.heads, self.points, self.offsets = dim, heads, points, offsets
        self.window, self.step, self.reach = window, step, reach
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.predict = _predictor(dim, hidden, 2 * heads * points) if offsets == "predict" else None

    def forward(self, x: Tensor, support: Tensor, flow: Tensor) -> Tensor:
        """Return what the pixels of x get, (B, T, C, H, W).

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
        q = _per_pixel(self.q, x)[:, :, None].expand(pairs).reshape(-1, C, H, W)
        k, v = (_per_pixel(layer, support)[:, None].expand(pairs).reshape(-1, 1, C, H, W) for layer in (self.k, self.v))
        flow = flow.reshape(-1, 2, H, W).to(torch.promote_types(flow.dtype, torch.float32))
        if self.predict is None:
            offsets = self._searched(q, k[:, 0], flow)
        else:
            here, there = (video.expand(pairs).reshape(-1, C, H, W) for video in (x[:, :, None], support[:, None]))
            offsets = self._predicted(self.predict, here, there, flow)
        scores = score(q[:, None], k, offsets, heads=self.heads, metric="dot")
        # one softmax over the points of all supporting frames
        scores = scores.reshape(B * T, S, self.heads, H, W, self.points).movedim(1, -2)
        weights = torch.softmax(scores.flatten(-2) / math.sqrt(C // self.heads), -1)
        weights = weights.unflatten(-1, (S, self.points)).movedim(-2, 1).reshape(-1, self.heads, 1, H, W, self.points)
        found = aggregate(v, weights, offsets).reshape(B, T, S, C, H, W).sum(2)
        return _per_pixel(self.out, found)

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

    def _searched(self, q: Tensor, k: Tensor, flow: Tensor) -> Tensor:
        """Return the best points of a window around the flow, as offsets of clips of one frame."""
        _, offsets = match(
            q, k, flow, window=self.window, step=self.step, topk=self.points, heads=self.heads, subpixel=True
        )
        return _in_own_frame(offsets)

    def _predicted(self, predict: nn.Module, x: Tensor, support: Tensor, flow: Tensor) -> Tensor:
        """Return a square of points around the flow, each moved as the network says."""
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
        named = ("dim", "heads", "points", "offsets", *(("reach",) if self.predict is not None else ("window", "step")))
        return _shown({name: getattr(self, name) for name in named})


def _in_own_frame(offsets: Tensor) -> Tensor:
    """Return (dy, dx) from frame to frame, (N, heads, H, W, K, 2), as offsets in clips of one, (N, heads, 1, H, W, K, 3)."""
    return torch.nn.functional.pad(offsets, (1, 0))[:, :, None]


def _predictor(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Return a network that begins by predicting no motion but the flow's."""
    layers: list[nn.Module] = [nn.Conv2d(2 * dim + 2, hidden, 3, padding=1), nn.LeakyReLU(0.1)]
    for _ in range(2):
        layers += [nn.Conv2d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, zeroed(nn.Conv2d(hidden, out, 3, padding=1)))


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution that begins as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
