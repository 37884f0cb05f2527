"""ShiftedUNet, a denoiser of video that is made of the modules in `shiftsearch.nn`, and its flow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch._types import Window
from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn import ShiftedAttention, ShiftedSearch
from shiftsearch.nn.attention import COMPARE, Compare
from shiftsearch.nn.layers import check_video, per_pixel, zeroed
from shiftsearch.ops.flow import upsample_flow
from shiftsearch.ops.search import SEARCH
from shiftsearch.video.flow.measure import pair


# --- flow -------------------------------------------------------------------------------------------
@torch.library.custom_op("shiftsearch::measured_flow", mutates_args=())
def _measured_flow(video: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow between neighbouring frames of (B, T, C, H, W), forward and backward, by `flow.match`.

    To torch.compile and torch.export it is one node. It has no gradient, and is in single precision also under autocast.
    """
    grey = video.float().mean(2)[..., None]
    pairs = [pair(clip, method="match") for clip in grey]
    forward, backward = (torch.stack(ways) for ways in zip(*pairs, strict=True))
    return forward, backward


@_measured_flow.register_fake
def _flow_without_memory(video: Tensor) -> tuple[Tensor, Tensor]:
    B, T, _, H, W = video.shape
    forward, backward = (video.new_empty((B, T, 2, H, W), dtype=torch.float32) for _ in range(2))
    return forward, backward


# --- the network ------------------------------------------------------------------------------------
class ShiftedUNet(nn.Module):
    """A denoiser of video: a U-shaped network whose blocks attend to the places that shifted search finds.

    Each level, at half the resolution of the one above, searches once, in its first block, around where the flow leads.
    All its blocks, on the way down and up again, score the places found by features of their own and attend to the
    best. The network returns the video plus a correction, which is 0 before training.

    Args:
        channels: of the video, 3 for colour and 1 for grey
        depths: blocks of each level on its way down, and on its way up; the last level has those of one way only
        heads: of each level
        head_dim: channels of a head; a level has `heads * head_dim` channels
        key_dim: channels of a head by which places are compared
        window, radius, patch: of the search, see `shiftsearch.search`. window=1 is no search: attention to where the
            flow leads and nowhere else
        compare: what the search compares. "shared": q of the first block of a level with itself, in the frames around; of its
            own frame, where nothing is more like a query than itself, the pixel is one more place. q learns through the
            scores that the blocks give to the places found. "keys": q with k, in all frames
        keep: places that the search keeps; where a window has fewer, all of them
        topk: of those, the best that a block attends to
        motion: whether windows lie where the flow leads, or at the pixel itself in all frames
        noise_level: whether forward is told how strong the noise is

    It is compiled in one graph, one for sizes that are multiples of 2 ** (levels - 1) and one for others. Exported with
    sizes that are free, and an example whose sizes are such multiples, it takes all that are.

    State dict: `head`, `features.0`, `features.2`, `tail`, `shrink.<level>` and `grow.<level>` are convolutions, each
    with `.weight` and `.bias`; `levels.<level>.down.<n>` and `.up.<n>` are blocks: `norm`, `attention` (see
    `ShiftedAttention`), `mix.0` to `mix.4`.

    Example:
        >>> network = ShiftedUNet(depths=(1, 1), heads=(1, 2), window=5)
        >>> network(torch.rand(1, 3, 3, 30, 41)).shape
        torch.Size([1, 3, 3, 30, 41])
    """

    options: dict[str, Any]
    motion: bool
    noise_level: bool
    channels: int
    radius: int
    head: nn.Conv2d
    features: nn.Sequential
    tail: nn.Conv2d
    levels: nn.ModuleList
    shrink: nn.ModuleList
    grow: nn.ModuleList

    def __init__(
        self,
        channels: int = 3,
        *,
        depths: Sequence[int] = (1, 2, 4),
        heads: Sequence[int] = (1, 4, 12),
        head_dim: int = 16,
        key_dim: int = 8,
        window: Window = 9,
        radius: int = 1,
        patch: int = 1,
        compare: Compare = "shared",
        keep: int = 20,
        topk: int = 10,
        motion: bool = True,
        noise_level: bool = False,
    ) -> None:
        super().__init__()
        of_levels = {"depths": depths, "heads": heads, "head_dim": head_dim, "key_dim": key_dim}
        of_search = {"window": window, "radius": radius, "patch": patch}
        others = {"compare": compare, "keep": keep, "topk": topk, "motion": motion, "noise_level": noise_level}
        self.options = {"channels": channels, **of_levels, **of_search, **others}
        _check_options(self.options)
        self.motion, self.noise_level, self.channels, self.radius = motion, noise_level, channels, radius
        dims = [n * head_dim for n in heads]
        self.head = nn.Conv2d(channels + noise_level, dims[0], 3, padding=1)
        self.features = nn.Sequential(  # before the first search: a pixel alone is too noisy to be compared
            nn.Conv2d(dims[0], dims[0], 3, padding=1),
            nn.GELU(),
            nn.Conv2d(dims[0], dims[0], 3, padding=1),
        )
        self.tail = zeroed(nn.Conv2d(dims[0], channels, 3, padding=1))
        self.levels = nn.ModuleList()
        apart = compare == "shared"
        skip = "own_frame" if apart else None
        places = SEARCH.specify(caller="ShiftedUNet", **of_search).candidates(2 * radius + (not apart))
        for n, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            kept = min(keep, places)
            search = ShiftedSearch(**of_search, heads=count, subpixel=True, topk=kept, skip=skip)
            attention = {"dim": count * head_dim, "key_dim": count * key_dim, "heads": count}
            attention |= {"patch": patch, "topk": min(topk, kept + apart)}
            self.levels.append(_Level(search, depth, depth if n < len(depths) - 1 else 0, attention))
        steps = list(itertools.pairwise(dims))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)

    def forward(
        self,
        video: Tensor,
        sigma: float | Tensor | None = None,
        flow: tuple[Tensor, Tensor] | list[Tensor] | None = None,
    ) -> Tensor:
        """Return the video without its noise.

        Args:
            video: (B, T, channels, H, W) in the range 0 to 1, at least 2 * radius + 1 frames of any size; B may be
                missing
            sigma: with noise_level=True the standard deviation of the noise, a number or a tensor (B,), in that range
            flow: (forward, backward), each (B, T, 2, H, W), as in `shiftsearch.search`; None
                measures it by `shiftsearch.flow.match`
        """
        self._check(video, sigma, flow)
        if video.ndim == 4:
            return self(video[None], sigma, None if flow is None else [one[None] for one in flow])[0]
        if video.shape[0] == 0:
            return video.clone()
        *_, H, W = video.shape
        margin = _margin(H, W, 2 ** (len(self.levels) - 1))
        whole = _each_frame(lambda frames: F.pad(frames, margin, mode="replicate"), video)
        if not self.motion:
            flow = None
        elif flow is None:
            flow = _measured_flow(whole.detach())
        else:
            flow = [F.pad(one, margin) for one in flow]
        x = _each_frame(self.head, self._with_noise_level(whole, sigma))
        x = x + _each_frame(self.features, x)
        skipped: list[tuple[Tensor, Tensor | None]] = []
        levels: list[Any] = list(self.levels)
        for n, level in enumerate(levels):
            x = x if n == 0 else _each_frame(self.shrink[n - 1], x)
            h, w = x.shape[-2:]
            places, around = None, flow and [upsample_flow(one, (h, w)) for one in flow]
            for block in level.down:
                x, places = block(x, places, level.search, around)
            skipped.append((x, places))
        for level, grow, (skip, places) in reversed(list(zip(levels, self.grow, skipped, strict=False))):
            x = skip + _each_frame(grow, x)
            for block in level.up:
                x, _ = block(x, places)
        return video + _each_frame(self.tail, x)[..., :H, :W]

    def _with_noise_level(self, video: Tensor, sigma: float | Tensor | None) -> Tensor:
        if not self.noise_level:
            return video
        B, T, _, H, W = video.shape
        plane = torch.as_tensor(sigma, dtype=video.dtype, device=video.device).reshape(-1, 1, 1, 1, 1)
        return torch.cat((video, plane.expand(B, T, 1, H, W)), 2)

    def _check(self, video: Any, sigma: Any, flow: Any) -> None:
        name = type(self).__name__
        check_video(name, "video", video, self.channels)
        shape = tuple(video.shape)
        if min(shape[-2:]) == 0:
            raise ShiftsearchError(f"{name}: video has shape {shape}, expected at least one pixel")
        least = 2 * self.radius + 1
        if shape[-4] < least:
            raise ShiftsearchError(f"{name}: video has {shape[-4]} frames, expected at least 2 * radius + 1 = {least}")
        if (sigma is None) == self.noise_level:
            expected = "a number or a tensor (B,)" if self.noise_level else "None, since noise_level=False"
            raise ShiftsearchError(f"{name}: sigma is {sigma!r}, expected {expected}")
        if isinstance(sigma, torch.Tensor) and sigma.numel() != 1 and tuple(sigma.shape) != shape[:-4]:
            raise ShiftsearchError(f"{name}: sigma has shape {tuple(sigma.shape)}, expected {shape[:-4]}, as the batch")
        if flow is None:
            return
        if not isinstance(flow, (tuple, list)) or len(flow) != 2:
            raise ShiftsearchError(f"{name}: flow is a {type(flow).__name__}, expected (forward, backward) or None")
        wanted = (*shape[:-3], 2, *shape[-2:])
        for one, which in zip(flow, ("forward", "backward"), strict=True):
            if tuple(one.shape) != wanted:
                raise ShiftsearchError(f"{name}: {which} has shape {tuple(one.shape)}, expected {wanted}")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def _check_options(options: Mapping[str, Any]) -> None:
    """Check those that the modules within do not check."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    for name in ("channels", "head_dim", "key_dim", "keep", "topk"):
        if not whole(options[name]):
            raise ShiftsearchError(f"ShiftedUNet: {name} is {options[name]!r}, expected a whole number of at least 1")
    if options["compare"] not in COMPARE:
        raise ShiftsearchError(f"ShiftedUNet: compare is {options['compare']!r}, expected one of {COMPARE}")
    if options["compare"] == "shared" and options["radius"] == 0:
        raise ShiftsearchError('ShiftedUNet: radius is 0, expected another frame to search with compare="shared"')
    for name in ("motion", "noise_level"):
        if not isinstance(options[name], bool):
            raise ShiftsearchError(f"ShiftedUNet: {name} is {options[name]!r}, expected True or False")
    depths, heads = options["depths"], options["heads"]
    both = isinstance(depths, (tuple, list)) and isinstance(heads, (tuple, list)) and 0 < len(depths) == len(heads)
    if not (both and all(map(whole, (*depths, *heads)))):
        raise ShiftsearchError(
            f"ShiftedUNet: depths is {depths!r} and heads is {heads!r}, expected a whole number for each level in both"
        )


def _margin(H: int, W: int, unit: int) -> tuple[int, ...]:
    """Return what `pad` adds for rows and columns that are multiples of `unit`, without %, which compilers lack."""
    return 0, -(-W // unit) * unit - W, 0, -(-H // unit) * unit - H


class _Level(nn.Module):
    """The blocks at one resolution, and the search whose places they share."""

    def __init__(self, search: ShiftedSearch, down: int, up: int, attention: Mapping[str, Any]) -> None:
        super().__init__()
        self.search = search
        self.down = nn.ModuleList(_Block(**attention) for _ in range(down))
        self.up = nn.ModuleList(_Block(**attention) for _ in range(up))


class _Block(nn.Module):
    """Attention to the places of a level, then convolutions."""

    def __init__(self, dim: int, **attention: Any) -> None:
        super().__init__()
        self.norm = _Norm(dim)
        self.attention = ShiftedAttention(dim, window=1, refine=True, **attention)
        self.mix = nn.Sequential(
            _Norm(dim),
            nn.Conv2d(dim, 2 * dim, 1),
            nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim),
            nn.GELU(),
            nn.Conv2d(2 * dim, dim, 1),
        )

    def forward(
        self,
        x: Tensor,
        places: Tensor | None,
        search: Any = None,
        flow: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the output, and the places, which the first block of a level finds.

        It does so here, and not where its layers are called from elsewhere: then `fully_shard` of blocks has their weights.
        """
        if places is None:
            places = self._find(x, search, flow)
        x = x + self.attention(self.norm(x), places)
        return x + _each_frame(self.mix, x), places

    def _find(self, x: Tensor, search: Any, flow: Sequence[Tensor] | None) -> Tensor:
        """Return offsets of the places most like each query, by q and k, which learn by attending to them."""
        x = self.norm(x.detach())
        q = per_pixel(self.attention.q, x).detach()
        if search.options["skip"] is None:
            return search(q, per_pixel(self.attention.k, x).detach(), flow)[1]
        places = search(q, q, flow)[1]
        return torch.cat((torch.zeros_like(places[..., :1, :]), places), -2)


class _Norm(nn.LayerNorm):
    """A layer norm over the channels of each pixel, (..., C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(-3, -1)).movedim(-1, -3)


def _each_frame(layer: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
    """Return a layer of images of the frames of a video."""
    return layer(video.flatten(0, 1)).unflatten(0, video.shape[:2])
