"""Video Swin transformer (Liu et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.models import _checks
from shiftsearch.models._swin import Three, stages

_NAMED: Mapping[str, dict[str, Any]] = {
    "tiny": {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.1},
    "small": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.1},
    "base": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.3},
    "large": {"dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "drop_path": 0.3},
}


class PatchEmbed(nn.Module):
    """A token for each block of frames, rows and columns; other sizes of clips are padded with zeros."""

    patch: Three
    proj: nn.Conv3d
    norm: nn.LayerNorm

    def __init__(self, channels: int, dim: int, patch: Three) -> None:
        super().__init__()
        self.patch = patch
        self.proj, self.norm = nn.Conv3d(channels, dim, patch, stride=patch), nn.LayerNorm(dim)

    def forward(self, video: Tensor) -> Tensor:
        """Return (B, T, H, W, dim) of (B, T, C, H, W)."""
        x = video.transpose(1, 2)
        padding = [n for side, p in zip(x.shape[:1:-1], reversed(self.patch), strict=True) for n in (0, -side % p)]
        return self.norm(self.proj(F.pad(x, padding)).movedim(1, -1))


class VideoSwin(nn.Module):
    """A classifier of clips of any size, by attention in windows of space and time that are shifted in every second block.

    Args:
        variant: "tiny", "small", "base" or "large", which names dim, depths, heads and drop_path where they are not given
        classes: number of classes
        window: number of tokens along time, height and width; released weights for SSv2 have (16, 7, 7)
        patch: pixels of a token along time, height and width
        channels: number of channels of the video
        dim, depths, heads: channels of the first stage, and blocks and heads of each; each stage has twice the channels
        drop_path: probability with which training skips the last block for a clip; it rises linearly from 0 in the first
        exact: how position biases are found if a frame is smaller than a window: by the true offsets of tokens, or as in the
            released code, with which the released weights were trained (False)
        recompute: gradient checkpointing: compute blocks again in the backward pass, to save memory

    State dict, with the names of the released code: `patch_embed.proj`, `patch_embed.norm`, `norm`, `head`, and for each stage i
    `layers.<i>.blocks.<j>` with `norm1`, `attn.relative_position_bias_table`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`,
    `mlp.fc2`, and `layers.<i>.downsample` with `norm` and `reduction.weight`. `load` reads published weights.

    Example:
        >>> import torch
        >>> network = VideoSwin(classes=5, dim=8, depths=(2, 2), heads=(1, 2), window=(2, 3, 3))
        >>> network(torch.rand(1, 5, 3, 30, 41)).shape
        torch.Size([1, 5])
    """

    not_of_images = r"^head\."
    channels: int
    patch_embed: PatchEmbed
    layers: nn.ModuleList
    norm: nn.LayerNorm
    drop: nn.Dropout
    head: nn.Linear

    def __init__(
        self,
        variant: Literal["tiny", "small", "base", "large"] = "tiny",
        *,
        classes: int = 400,
        window: Three = (8, 7, 7),
        patch: Three = (2, 4, 4),
        channels: int = 3,
        dim: int | None = None,
        depths: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        drop_path: float | None = None,
        exact: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        _checks.choice("VideoSwin", "variant", variant, *_NAMED)
        given = {"dim": dim, "depths": depths, "heads": heads, "drop_path": drop_path}
        chosen = _NAMED[variant] | {name: value for name, value in given.items() if value is not None}
        _checks.whole("VideoSwin", classes=classes, channels=channels, dim=chosen["dim"])
        _checks.wholes("VideoSwin", 3, window=window, patch=patch)
        _checks.stages("VideoSwin", **chosen)
        _checks.switch("VideoSwin", exact=exact, recompute=recompute)
        self.channels = channels
        self.patch_embed = PatchEmbed(channels, chosen["dim"], patch)
        self.layers = nn.ModuleList(stages(**chosen, window=window, exact=exact, recompute=recompute))
        last = chosen["dim"] * 2 ** (len(chosen["depths"]) - 1)
        self.norm, self.drop, self.head = nn.LayerNorm(last), nn.Dropout(0.5), nn.Linear(last, classes)

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits (B, classes) of clips (B, T, channels, H, W) of any size."""
        return self.head(self.drop(self.features(video).mean((1, 2, 3))))

    def features(self, video: Tensor) -> Tensor:
        """Return the tokens of the last stage, (B, T', H', W', dim)."""
        _checks.clip("VideoSwin", video, self.channels)
        x = self.patch_embed(video)
        for stage in self.layers:
            x = stage(x)
        return self.norm(x)

    def inflated(self, image: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of an image Swin transformer, inflated so that a static clip gets the result of its frame."""
        own: dict[str, Tensor] = {name: value for name, value in image.items() if not name.startswith("head")}
        patch: Any = own.get("patch_embed.proj.weight")
        if patch is not None:
            frames = self.patch_embed.patch[0]
            own["patch_embed.proj.weight"] = patch[:, :, None].repeat(1, 1, frames, 1, 1) / frames
        return own
