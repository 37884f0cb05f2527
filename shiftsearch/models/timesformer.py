"""TimeSformer: is space-time attention all you need for video understanding? (Bertasius et al., 2021)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.models import _checks
from shiftsearch.models._attention import Attention, Block
from shiftsearch.models._vit import Sizes, Trunk

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TimeSformer(Trunk):
    """A classifier of clips: a vision transformer whose tokens attend over space and time.

    `attention` is one of

    - "divided": each patch attends to the patches at its place in all frames, then to those of its own frame. The class
      token attends to each frame separately, and the results are averaged;
    - "joint": all tokens of all frames attend to each other;
    - "space": frames are independent, and their class tokens are averaged.

    The last layer of temporal attention is initialised to 0, so that a new "divided" network gives a static clip the result
    of the image network.

    Args:
        frames: number of frames for which temporal positions are learnt; clips of another length use the nearest of them
        classes: number of classes
        sizes: of the transformer, as in `ViT`, with drop_path=0.1; frames of another size use the nearest positions

    State dict, with the names of the released code: `cls_token`, `pos_embed`, `time_embed` (1, frames, dim), `patch_embed.proj`,
    `norm`, `head`, and for each n `blocks.<n>.norm1`, `.attn.qkv`, `.attn.proj`, `.norm2`, `.mlp.fc1`, `.mlp.fc2`;
    with "divided" also `.temporal_norm1`, `.temporal_attn.qkv`, `.temporal_attn.proj`, `.temporal_fc`; with "space" no
    `time_embed`. `load` reads published weights.

    Example:
        >>> network = TimeSformer(frames=4, size=32, classes=5, patch=8, dim=24, depth=2, heads=2)
        >>> network(torch.rand(1, 4, 3, 32, 32)).shape
        torch.Size([1, 5])
    """

    not_of_images = r"^time_embed$|\.temporal_fc\.|^head\."
    time_embed: Tensor | None
    attention: str
    head: nn.Module

    def __init__(
        self,
        frames: int = 8,
        *,
        classes: int = 400,
        attention: Literal["divided", "joint", "space"] = "divided",
        **sizes: Unpack[Sizes],
    ) -> None:
        name = type(self).__name__
        _checks.whole(name, frames=frames, classes=classes)
        _checks.choice(name, "attention", attention, "divided", "joint", "space")
        self.attention = attention
        super().__init__(**Sizes(drop_path=0.1) | sizes)
        dim = self.cls_token.shape[-1]
        self.time_embed = None if attention == "space" else nn.Parameter(torch.zeros(1, frames, dim))
        self.head = self.make_head(dim, classes)

    def make_head(self, dim: int, classes: int) -> nn.Module:
        """Return the layer that is applied to the class token."""
        return nn.Linear(dim, classes)

    def block(self, dim: int, drop_path: float) -> nn.Module:
        if self.attention == "divided":
            return _Divided(dim, self.heads, drop_path)
        return super().block(dim, drop_path)

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits (B, classes) of clips (B, T, channels, H, W); H and W are multiples of the patch."""
        return self.head(self.features(video))

    def features(self, video: Tensor) -> Tensor:
        """Return the input of the head, (B, dim)."""
        x = self.tokens(video)
        frames = x.shape[1]
        if self.time_embed is None:
            return self.norm(self.through(x)[:, :, 0].mean(1))
        cls, patches = x[:, 0, :1], x[:, :, 1:] + in_time(self.time_embed, frames).transpose(0, 1)
        options = {"frames": frames} if self.attention == "divided" else {}
        x = self.through(torch.cat((cls, patches.flatten(1, 2)), 1), **options)
        return self.norm(x[:, 0])

    def inflated(self, image: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of an image network, of which the spatial attention also initialises the temporal one."""
        own = super().inflated(image)
        if self.attention == "divided":
            for name, value in list(own.items()):
                for over_space, over_time in ((".attn.", ".temporal_attn."), (".norm1.", ".temporal_norm1.")):
                    if over_space in name:
                        own[name.replace(over_space, over_time)] = value
        return own

    def fitted(self, name: str, value: Tensor) -> Tensor:
        if name == "time_embed" and self.time_embed is not None and value.ndim == 3:
            return in_time(value, self.time_embed.shape[1])
        return super().fitted(name, value)


def in_time(positions: Tensor, frames: int) -> Tensor:
    """Return positions (1, T, dim) resampled to so many frames, the nearest for each."""
    if positions.shape[1] == frames:
        return positions
    return F.interpolate(positions.transpose(1, 2), frames, mode="nearest").transpose(1, 2)


class _Divided(Block):
    """Attention over time at each place, then over space in each frame. Tokens are (B, 1 + T * N, dim), frame by frame."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__(dim, Attention(dim, heads), drop_path=drop_path)
        self.temporal_norm1 = nn.LayerNorm(dim, 1e-6)
        self.temporal_attn = Attention(dim, heads)
        self.temporal_fc = nn.Linear(dim, dim)
        for learnt in self.temporal_fc.parameters():
            nn.init.zeros_(learnt)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        frames: int = options["frames"]
        cls, patches = x[:, :1], x[:, 1:].unflatten(1, (frames, -1))
        over_time = self.temporal_attn(self.temporal_norm1(patches).transpose(1, 2)).transpose(1, 2)
        patches = patches + self.temporal_fc(self.drop(over_time))
        each = torch.cat((cls[:, None].expand(-1, frames, -1, -1), patches), 2)
        over_space = self.drop(self.attn(self.norm1(each)))
        cls, patches = cls + over_space[:, :, :1].mean(1), patches + over_space[:, :, 1:]
        return self.think(torch.cat((cls, patches.flatten(1, 2)), 1))
