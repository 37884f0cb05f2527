"""The trunk that TimeSformer, StarVQA, X-ViT and the backbone of AVT share: a vision transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.models import _checks
from shiftsearch.models._attention import Attention, Block, rising, through


class Sizes(TypedDict, total=False):
    """The options of the trunk, which every model with this trunk takes; see `ViT`."""

    size: int | Sequence[int]
    patch: int
    channels: int
    dim: int
    depth: int
    heads: int
    drop_path: float
    recompute: bool


class PatchEmbed(nn.Module):
    """A token for each patch of each frame."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, video: Tensor) -> Tensor:
        """Return (B, T, rows, columns, dim) of (B, T, C, H, W)."""
        return self.proj(video.flatten(0, 1)).movedim(1, -1).unflatten(0, video.shape[:2])


class Trunk(nn.Module):
    """Patch embedding, class token, positions, blocks and final norm; the blocks and their inputs differ between models.

    Positions are learnt for frames of `size` pixels, and interpolated for frames of another size by `resize`: "nearest" or
    "bicubic", as in the released code of each system.

    State dict: `cls_token` (1, 1, dim), `pos_embed` (1, 1 + rows * columns, dim), `patch_embed.proj`, `blocks.<n>`
    and `norm`.
    """

    resize = "nearest"
    not_of_images = r"(?!)"  # names of what a network of images does not have
    name: str
    grid: tuple[int, int]
    channels: int
    patch: int
    heads: int
    recompute: bool
    patch_embed: PatchEmbed
    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    blocks: nn.ModuleList
    norm: nn.LayerNorm

    def __init__(
        self,
        *,
        size: int | Sequence[int] = 224,
        patch: int = 16,
        channels: int = 3,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        drop_path: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        _checks.whole(self.name, patch=patch, channels=channels, dim=dim, depth=depth, heads=heads)
        _checks.multiple(self.name, "dim", dim, "heads", heads)
        _checks.share(self.name, drop_path=drop_path)
        _checks.switch(self.name, recompute=recompute)
        self.grid = self._grid_of(size, patch)
        self.channels, self.patch, self.heads, self.recompute = channels, patch, heads, recompute
        self.patch_embed = PatchEmbed(channels, dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))
        self.blocks = nn.ModuleList(self.block(dim, share) for share in rising(drop_path, depth))
        self.norm = nn.LayerNorm(dim, 1e-6)
        for learnt in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(learnt, std=0.02)

    def _grid_of(self, size: int | Sequence[int], patch: int) -> tuple[int, int]:
        both = (size, size) if isinstance(size, int) else size
        fits = isinstance(both, (tuple, list)) and len(both) == 2
        _checks.expect(fits, self.name, "size", repr(size), "a number or (height, width)")
        for side in both:
            _checks.whole(self.name, size=side)
            _checks.multiple(self.name, "size", side, "patch", patch)
        height, width = both
        return height // patch, width // patch

    def block(self, dim: int, drop_path: float) -> nn.Module:
        """Return one of the blocks."""
        return Block(dim, Attention(dim, self.heads), drop_path=drop_path)

    def tokens(self, video: Tensor) -> Tensor:
        """Return the class token and the patches of each frame, with their positions: (B, T, 1 + N, dim)."""
        _checks.clip(self.name, video, self.channels, self.patch)
        patches = self.patch_embed(video)
        positions = resized(self.pos_embed, self.grid, patches.shape[2:4], self.resize)
        cls = self.cls_token[None].expand(*patches.shape[:2], -1, -1)
        return torch.cat((cls, patches.flatten(2, 3)), 2) + positions

    def through(self, x: Tensor, **options: Any) -> Tensor:
        """Return tokens after all blocks."""
        return through(self.blocks, x, self.recompute, **options)

    def inflated(self, image: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of an image network under the names of this model; see `load`."""
        return {name: value for name, value in image.items() if not name.startswith(("head", "pre_logits"))}

    def fitted(self, name: str, value: Tensor) -> Tensor:
        """Return a saved tensor, resized to the shape in this model if it can be; see `load`."""
        side = round((value.shape[1] - 1) ** 0.5) if value.ndim == 3 else 0
        if name == "pos_embed" and side and side * side == value.shape[1] - 1:  # those published are of square frames
            return resized(value, (side, side), self.grid, self.resize)
        return value


def resized(positions: Tensor, grid: Sequence[int], wanted: Sequence[int], mode: str) -> Tensor:
    """Resize positions (1, 1 + rows * columns, dim) to another grid; the first, of the class token, stays."""
    if tuple(grid) == tuple(wanted):
        return positions
    cls, patches = positions[:, :1], positions[:, 1:].unflatten(1, tuple(grid)).movedim(-1, 1)
    smooth = {"align_corners": False} if mode == "bicubic" else {}
    patches = F.interpolate(patches, tuple(wanted), mode=mode, **smooth)
    return torch.cat((cls, patches.flatten(2).transpose(1, 2)), 1)


class ViT(Trunk):
    """A vision transformer that returns the class token of each frame; frames are independent.

    Args:
        size: of the frames for which positions are learnt, a number or (height, width); other sizes are interpolated
        patch, channels, dim, depth, heads: of the transformer; the defaults are ViT-B/16
        drop_path: probability with which training skips the last block for a clip; it rises linearly from 0 in the first
        recompute: gradient checkpointing: compute blocks again in the backward pass, to save memory

    State dict: that of `TimeSformer` with attention="space", without `head`.

    Example:
        >>> network = ViT(size=32, patch=8, dim=24, depth=2, heads=2)
        >>> network(torch.rand(1, 5, 3, 32, 32)).shape
        torch.Size([1, 5, 24])
    """

    resize = "bicubic"

    def forward(self, video: Tensor) -> Tensor:
        """Return (B, T, dim) of (B, T, C, H, W)."""
        return self.norm(self.through(self.tokens(video))[:, :, 0])
