"""X-ViT: space-time mixing attention for video transformers (Bulat et al., 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from shiftsearch.models import _checks
from shiftsearch.models._attention import Attention, Block
from shiftsearch.models._vit import Sizes, Trunk

if TYPE_CHECKING:
    from typing_extensions import Unpack


class XViT(Trunk):
    """A classifier of clips: spatial attention whose keys and values have some channels of the neighbouring frames.

    It costs as much as spatial attention, and each block widens the receptive field by one frame each way. Of the channels
    of keys and values, 1 / `n_div` come from the next frame, and 1 / `n_div` from the previous one. The rest are of the
    frame itself. Frames outside of the clip count as 0. Queries are not mixed. The layout says which channels these are:
    "flat": the first ones of all heads together, so that whole heads are shifted, as in the released code;
    "per_head": the first ones of each head, as in the paper.

    Args:
        frames: number of frames for which temporal positions are learnt; longer clips repeat them
        classes: number of classes
        layout: "flat" or "per_head"
        n_div: at least 2, or None for no mixing. Released weights have 8 for Kinetics, 4 for SSv2
        segments: number of equal parts of the clip that are independent of each other. Released weights for 16 frames of
            Kinetics have two of 8 frames
        temporal: how frames are pooled: by "attention" of a class token to the class tokens of all frames, or by their "mean"
        summary: whether each frame also attends to a summary token of every frame, the mean of its tokens
        sizes: of the transformer, as in `ViT`

    State dict: that of `ViT`, `temp_embed` (1, frames, 1, dim), and `head`, a linear layer for "mean"; for "attention"
    `head.cls_token` (1, 1, dim), `head.block` as in `ViT.blocks` but without a bias in `attn.qkv`, `head.norm`,
    `head.fc1`, `head.fc2`. `load` reads published weights.

    Example:
        >>> network = XViT(4, classes=5, n_div=4, size=32, patch=8, dim=24, depth=2, heads=2)
        >>> network(torch.rand(1, 4, 3, 32, 32)).shape
        torch.Size([1, 5])
    """

    resize = "bicubic"
    not_of_images = r"^temp_embed$|^head\."
    layout: str
    n_div: int | None
    segments: int
    summary: bool
    temp_embed: nn.Parameter
    head: nn.Module

    def __init__(
        self,
        frames: int = 8,
        *,
        classes: int = 400,
        layout: Literal["flat", "per_head"] = "flat",
        n_div: int | None = 8,
        segments: int = 1,
        temporal: Literal["attention", "mean"] = "attention",
        summary: bool = False,
        **sizes: Unpack[Sizes],
    ) -> None:
        _checks.whole("XViT", frames=frames, classes=classes, segments=segments)
        _checks.choice("XViT", "layout", layout, "flat", "per_head")
        _checks.choice("XViT", "temporal", temporal, "attention", "mean")
        _checks.switch("XViT", summary=summary)
        super().__init__(**sizes)
        dim = self.cls_token.shape[-1]
        channels = dim if layout == "flat" else dim // self.heads
        fits = n_div is None or (isinstance(n_div, int) and 2 <= n_div <= channels)
        _checks.expect(fits, "XViT", "n_div", repr(n_div), f"None or a whole number from 2 to the {channels} channels")
        self.layout, self.n_div, self.segments, self.summary = layout, n_div, segments, summary
        self.temp_embed = nn.Parameter(torch.zeros(1, frames, 1, dim))
        self.head = _Head(dim, self.heads, classes) if temporal == "attention" else _Mean(dim, classes)

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits (B, classes) of clips (B, T, channels, H, W); H and W are multiples of the patch."""
        return self.head(self.features(video))

    def features(self, video: Tensor) -> Tensor:
        """Return the class token of each frame, (B, T, dim)."""
        x = self.tokens(video)
        frames = x.shape[1]
        _checks.multiple("XViT", "the number of frames of video", frames, "segments", self.segments)
        x = x + in_time(self.temp_embed, frames)
        x = self.through(x.reshape(-1, frames // self.segments, *x.shape[2:]), mix=self.mix)
        return self.norm(x[:, :, 0]).reshape(-1, frames, x.shape[-1])

    def mix(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed keys and values, given those of each frame, (B, T, heads, N, dim / heads)."""
        return self._mixed(k), self._mixed(v)

    def _mixed(self, x: Tensor) -> Tensor:
        own, heads = x, x.shape[2]
        if self.n_div is not None and self.layout == "per_head":
            x = borrowed(x, x.shape[-1] // self.n_div)
        elif self.n_div is not None:
            flat = x.transpose(2, 3).flatten(3)
            x = borrowed(flat, flat.shape[-1] // self.n_div).unflatten(3, (heads, -1)).transpose(2, 3)
        if not self.summary:
            return x
        means = own.mean(3).transpose(1, 2)[:, None]  # linear layers of means are means of linear layers
        return torch.cat((x, means.expand(-1, x.shape[1], -1, -1, -1)), 3)

    def fitted(self, name: str, value: Tensor) -> Tensor:
        if name == "temp_embed" and value.ndim == 4:
            return in_time(value, self.temp_embed.shape[1])
        return super().fitted(name, value)


def in_time(positions: Tensor, frames: int) -> Tensor:
    """Return positions (1, T, 1, dim), repeated up to so many frames."""
    return positions.repeat(1, -(-frames // positions.shape[1]), 1, 1)[:, :frames]


def borrowed(x: Tensor, n: int) -> Tensor:
    """Return x (B, T, ..., C) with the first n channels of the next frame and the next n of the previous one."""
    following, before, own = x.split((n, n, x.shape[-1] - 2 * n), -1)
    nothing = torch.zeros_like(following[:, :1])
    return torch.cat((torch.cat((following[:, 1:], nothing), 1), torch.cat((nothing, before[:, :-1]), 1), own), -1)


class _Mean(nn.Linear):
    """A linear classifier of the mean over frames."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(1))


class _Head(nn.Module):
    """A classifier by a class token that attends to the frames."""

    def __init__(self, dim: int, heads: int, classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.block = Block(dim, Attention(dim, heads, bias=False), eps=1e-5)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, classes)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1))[:, 0]
        return self.fc2(self.drop(nn.functional.gelu(self.fc1(self.norm(x)))))
