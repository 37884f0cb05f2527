"""Attention in windows that are shifted in every second block, in two dimensions (frame by frame) or three."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.models._attention import Block, Heads, attend, rising, through

Three = tuple[int, int, int]


class WindowAttention(Heads):
    """Attention among the tokens of each window of (B, T, H, W, dim), with a bias for each offset between two tokens.

    Windows start at multiples of their size, or half a window before where `shifted`. Along an axis that is no longer than a
    window there is one window, and no shift. A clip whose size is no multiple of the window is padded with zeros at its end,
    which are attended to like other tokens. In a shifted clip, some windows join its end and its beginning. These are cut in
    two there, and their parts do not attend to each other. With windows of one frame it is an image Swin transformer.

    If a frame is smaller than a window, `exact` looks up the bias of the true offset. The released code takes token n of
    the smaller window for token n of the whole one. This is the default, as released weights are used with it.

    State dict: `relative_position_bias_table` (offsets, heads), `qkv`, `proj`.
    """

    def __init__(self, dim: int, heads: int, window: Three, *, shifted: bool, exact: bool) -> None:
        super().__init__(dim, heads)
        self.window, self.shifted, self.exact = window, shifted, exact
        t, h, w = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * t - 1) * (2 * h - 1) * (2 * w - 1), heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:4]
        window, shift = self.laid_over(size)
        padding = [n for side, w in zip(reversed(size), reversed(window), strict=True) for n in (0, -side % w)]
        x = F.pad(x, (0, 0, *padding))
        whole = x.shape[1:4]
        x = x.roll([-s for s in shift], (1, 2, 3)) if any(shift) else x
        q, k, v = self.project(split(x, window))
        out = self.joined(self._by_kind(q, k, v, window=window, shift=shift, cut=()))
        out = merged(out, window, whole)
        out = out.roll(shift, (1, 2, 3)) if any(shift) else out
        return out[:, : size[0], : size[1], : size[2]]

    def laid_over(self, size: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the sizes of the window and of its shift in a clip of this size."""
        window = [min(n, w) for n, w in zip(size, self.window, strict=True)]
        shift = [w // 2 if self.shifted and n > w else 0 for n, w in zip(size, self.window, strict=True)]
        return window, shift

    def _by_kind(
        self, q: Tensor, k: Tensor, v: Tensor, *, window: list[int], shift: list[int], cut: tuple[bool, ...]
    ) -> Tensor:
        """Attend in all windows; `cut` says for each axis so far whether the windows are cut in two, as the last ones are.

        Windows that are cut alike share one mask: one mask for all windows would take more memory than anything else.
        """
        axis = len(cut)
        if axis == 3:
            return attend(q, k, v, attn_mask=self.bias(window, shift, cut).to(q.dtype))
        if not shift[axis]:
            return self._by_kind(q, k, v, window=window, shift=shift, cut=(*cut, False))
        inner, last = zip(*(x.split((q.shape[axis + 1] - 1, 1), axis + 1) for x in (q, k, v)), strict=True)
        inside = self._by_kind(*inner, window=window, shift=shift, cut=(*cut, False))
        return torch.cat((inside, self._by_kind(*last, window=window, shift=shift, cut=(*cut, True))), axis + 1)

    def bias(self, window: Sequence[int], shift: Sequence[int], cut: Sequence[bool]) -> Tensor:
        """Return the biases of logits (heads, n, n), with -infinity between the parts of a window that is cut."""
        device = self.relative_position_bias_table.device
        at = torch.cartesian_prod(*(torch.arange(n, device=device) for n in window)).reshape(-1, 3)
        behind = torch.tensor([w - s if c else w for w, s, c in zip(window, shift, cut, strict=True)], device=device)
        parts = at >= behind
        apart = (parts[:, None] != parts).any(-1)
        table = self.relative_position_bias_table[self._offsets(at)].movedim(-1, 0)
        return table.masked_fill(apart, float("-inf")) if any(cut) else table

    def _offsets(self, at: Tensor) -> Tensor:
        """Return the row of the table of biases for each pair of tokens, given their places in the window."""
        _, h, w = self.window
        if not self.exact:
            n = torch.arange(at.shape[0], device=at.device)
            at = torch.stack((n // (h * w), n // w % h, n % w), -1)
        offsets = at[:, None] - at + torch.tensor(self.window, device=at.device) - 1
        return (offsets[..., 0] * (2 * h - 1) + offsets[..., 1]) * (2 * w - 1) + offsets[..., 2]

    def fitted(self, name: str, value: Tensor) -> Tensor:
        """Return a saved table of biases of an image network, resized by bicubic interpolation and repeated over time."""
        if name != "relative_position_bias_table" or value.ndim != 2:
            return value
        own = [2 * w - 1 for w in self.window]
        side = round(value.shape[0] ** 0.5)
        if side * side == value.shape[0]:  # of images
            image = value.T.unflatten(1, (side, side))
            if [side, side] != own[1:]:
                image = F.interpolate(image[None], own[1:], mode="bicubic", align_corners=False)[0]
            return image.flatten(1).T.repeat(own[0], 1)
        return value


def split(x: Tensor, window: Sequence[int]) -> Tensor:
    """Split (B, T, H, W, C), multiples of the window, into windows: (B, windows along T, H, W, tokens, C)."""
    for axis, n in zip((3, 2, 1), reversed(window), strict=True):
        x = x.unflatten(axis, (-1, n))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6)


def merged(x: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Join windows to a clip of this size: the inverse of `split`."""
    return x.unflatten(4, tuple(window)).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], *size, x.shape[-1])


class Merging(nn.Module):
    """Patch merging: 2 x 2 tokens become one with twice the channels. Odd sizes are padded with zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:4]
        x = F.pad(x, (0, 0, 0, -W % 2, 0, -H % 2))
        corners = [x[:, :, y::2, z::2] for z in (0, 1) for y in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class Stage(nn.Module):
    """The blocks of one resolution, every second one with shifted windows, and the patch merging to the next.

    State dict: `blocks.<n>`, as in `Block`; all stages but the last have `downsample.norm` and `downsample.reduction`.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None, recompute: bool) -> None:
        super().__init__()
        self.blocks, self.downsample, self.recompute = nn.ModuleList(blocks), downsample, recompute

    def forward(self, x: Tensor) -> Tensor:
        x = through(self.blocks, x, self.recompute)
        return x if self.downsample is None else self.downsample(x)


def stages(
    dim: int,
    depths: Sequence[int],
    heads: Sequence[int],
    window: Three,
    drop_path: float,
    *,
    exact: bool,
    recompute: bool,
    block: Callable[..., Block] = Block,
    last_shifts: bool = True,
) -> Iterator[Stage]:
    """Yield stages of so many blocks and heads, each with twice the channels of the one before.

    `block` is called with channels, attention and options of `Block`; `last_shifts` says whether the last stage has shifted
    windows, too.
    """
    shares = iter(rising(drop_path, sum(depths)))
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        last = stage == len(depths) - 1
        blocks = []
        for n in range(depth):
            shifted = n % 2 == 1 and (last_shifts or not last)
            attention = WindowAttention(dim, count, window, shifted=shifted, exact=exact)
            blocks.append(block(dim, attention, eps=1e-5, drop_path=next(shares)))
        yield Stage(blocks, None if last else Merging(dim), recompute)
        dim *= 2
