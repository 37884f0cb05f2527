"""Attention: `attend` with a scale that can be learnt, and the layer ShiftedAttention, which adds linear maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from shiftsearch._op import Spec
from shiftsearch._types import Metric, Window
from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.layers import check_video, each_per_pixel, per_pixel, shown
from shiftsearch.nn.ops import Refine, ShiftedSearch
from shiftsearch.ops.aggregate import AGGREGATE, aggregate, stack
from shiftsearch.ops.attend import ATTEND
from shiftsearch.ops.attend import attend as _attend
from shiftsearch.ops.attention import FAR
from shiftsearch.ops.score import SCORE, score

Flow = Tensor | tuple[Tensor, Tensor] | list[Tensor] | None
Attention = tuple[Tensor, Tensor, Tensor]  # output, weights and offsets
Compare = Literal["shared", "keys"]
COMPARE = get_args(Compare)
_HEADS = ATTEND.defaults["heads"]  # looked up before a compiler traces, which cannot


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

    This is `shiftsearch.attend` for tensors, with a scale that may differ between heads and may be learnt. It takes
    memory for inputs, results, and K weights and offsets per query; without those for topk=None, and for a few whole
    pixels (patch=1), of which it keeps a number each if gradients may be asked for.

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
    heads = options.get("heads", _HEADS)
    check_scale("attend", scale, heads)
    scales = None
    if isinstance(scale, torch.Tensor):
        scales, scale = scale.to(torch.promote_types(q.dtype, torch.float32)).expand(heads), 1.0
    return _attend(q, k, v, flow, scales, scale=scale, return_attention=return_attention, **options)


def check_scale(caller: str, scale: Any, heads: int) -> None:
    """Raise an error unless `scale` is a number, or a tensor with one for all heads or one for each."""
    several = isinstance(scale, Tensor)
    if not (scale.numel() in (1, heads) if several else scale is None or isinstance(scale, Real)):
        found = f"a tensor of shape {tuple(scale.shape)}" if several else repr(scale)
        raise ShiftsearchError(
            f"{caller}: scale is {found}, expected a number or a tensor of {heads}, one for each head"
        )


@dataclass(frozen=True, kw_only=True)
class _AttentionSpec(Spec):
    """The options of `ShiftedAttention` that are not options of its search."""

    dim: int
    heads: int
    key_dim: int
    scale: float | None
    learn_scale: bool
    conv: bool
    refine: bool
    compare: str

    def __post_init__(self) -> None:
        self.whole("dim", "heads", "key_dim")
        self.choice("compare", *COMPARE)
        for name in ("dim", "key_dim"):
            self.check(getattr(self, name) % self.heads == 0, name, f"a multiple of heads, which is {self.heads}")
        self.switch("learn_scale", "conv", "refine")
        if self.scale is not None:
            self.real("scale", least=1e-6)


class ShiftedAttention(nn.Module):
    """Attention over space and time: the keys of a query are the best places around where the flow leads.

    Linear maps of each pixel give q, k and v; `search` finds the `topk` keys most like each query; their values,
    weighted by a softmax over the scores, are summed, or stacked and convolved; a last linear map gives the output.

    Which keys are best has no gradient. With compare="keys", q and k decide it, two maps that learn to agree by attending to
    what they found. With "shared" one map, that of q, is compared with itself, so that places that look alike are found
    before anything is learnt; q and k then score the places found, and by these scores the map of q learns. Nothing is more
    like a query than itself: skip="own_frame" leaves its frame out, and anchor="self" attends to it always.

    Args:
        dim: channels of the input and of the output
        heads: parts of the channels that are searched separately
        window, topk, radius, patch, stride, metric, subpixel: as in `shiftsearch.search`. With subpixel=True the flow has
            a gradient
        key_dim: channels of q and k; None is `dim`
        refine: forward takes the offsets that an earlier layer found instead of flow, and `window` lies around each of
            them; `radius` is ignored then
        scale: of the scores, the same for all heads; None is 1 / sqrt(n), see `attend`
        learn_scale: the scale of each head is a parameter, initially `scale`
        compare: what decides where to look, "keys" or "shared". With topk=None all places are attended to, in any case
        conv: combine the `topk` weighted videos by a convolution of patch x patch pixels instead of summing them
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
    compare: Compare
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
        window: Window = 9,
        topk: int | None = 10,
        radius: int = 1,
        patch: int = 1,
        *,
        stride: int = 1,
        metric: Metric = "l2",
        subpixel: bool = True,
        key_dim: int | None = None,
        compare: Compare = "keys",
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
            compare=compare,
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
        self.compare = compare if topk is not None else "keys"  # nothing is left to decide
        self.q, self.k, self.v = nn.Linear(dim, key_dim), nn.Linear(dim, key_dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.scale = float(default_scale(scale, key_dim, self.find.options))
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(self.scale))) if learn_scale else None
        self.mix = _mixer(topk * dim, dim, patch) if conv and topk is not None else None

    def forward(self, x: Tensor, flow: Flow = None, *, return_attention: bool = False) -> Tensor | Attention:
        """Return the output, (B, T, C, H, W); with return_attention also weights and offsets.

        Args:
            x: (B, T, C, H, W)
            flow: as in `shiftsearch.search`, or with refine=True the offsets of an earlier layer
            return_attention: whether weights and offsets are returned, too
        """
        check_video("ShiftedAttention", "x", x, self.dim)
        q, k, v = each_per_pixel((self.q, self.k, self.v), x)
        scale = self.scale if self.log_scale is None else self.log_scale.exp()
        if isinstance(self.find, ShiftedSearch) and self.mix is None and self.compare == "keys":
            found = attend(q, k, v, flow, scale=scale, return_attention=return_attention, **self.find.options)
            if isinstance(found, tuple):
                return per_pixel(self.out, found[0]), *found[1:]
            return per_pixel(self.out, found)
        scores, offsets = self._found(q, k, flow)
        weights = softmax_of_scores(scores, scale, self.find.options["metric"])
        of_patches = _these(_OF_PATCHES, self.find.options)
        if self.mix is None:
            found = aggregate(v, weights, offsets, **of_patches)
        else:
            found = _mixed(self.mix, stack(v, offsets, weights.to(v.dtype), **of_patches))
        out = per_pixel(self.out, found)
        return (out, weights, offsets) if return_attention else out

    def _found(self, q: Tensor, k: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        """Return the scores, by q and k, and the offsets of the places to attend to."""
        if self.compare == "keys":
            return self.find(q, k, flow)
        alike, offsets = self.find(q.detach(), q.detach(), flow)
        scores = score(q, k, offsets, **_these(_OF_SCORES, self.find.options))
        return torch.where(alike.isinf(), alike.detach(), scores), offsets  # no place, where it is infinite

    def extra_repr(self) -> str:
        named = {name: getattr(self, name) for name in ("dim", "key_dim", "compare", "conv", "scale")}
        return shown({**named, "learn_scale": self.log_scale is not None})


# the names of options that a search shares with other ops: looked up before a compiler traces, which cannot
_OF_PATCHES, _OF_SCORES = tuple(AGGREGATE.defaults), tuple(SCORE.defaults)


def _these(names: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in names}


def default_scale(scale: float | Tensor | None, channels: int, options: Mapping[str, Any]) -> float | Tensor:
    """Return the scale, which is 1 / sqrt(n) for n products if it is None."""
    if scale is not None:
        return scale
    products = channels // options["heads"] * options["patch"] ** 2
    return (1 if options["metric"] == "dot" else 0.5) / math.sqrt(products)


def softmax_of_scores(scores: Tensor, scale: float | Tensor, metric: Metric) -> Tensor:
    """Return a softmax over the kept places, at least in single precision. Places outside the frame have weight 0."""
    scores = scores.clamp(-FAR, FAR)
    if isinstance(scale, torch.Tensor):
        scale = scale.to(scores.dtype).reshape(-1, 1, 1, 1, 1)  # of each head
    return torch.softmax(scores * (scale if metric == "dot" else -scale), -1)


def _mixer(channels: int, dim: int, patch: int) -> nn.Conv2d:
    return nn.Conv2d(channels, dim, patch, padding="same", padding_mode="replicate")


def _mixed(layer: nn.Module, videos: Tensor) -> Tensor:
    """Return a convolution of the channels of (..., K, T, C, H, W), as (..., T, C, H, W)."""
    *batch, K, T, C, H, W = videos.shape
    frames = videos.movedim(-5, -4).reshape(-1, K * C, H, W)
    return layer(frames).reshape(*batch, T, C, H, W)
