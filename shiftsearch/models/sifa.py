"""SIFA: stand-alone inter-frame attention in video models (Long et al., 2022), in a residual network and in a transformer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from shiftsearch.models import _checks
from shiftsearch.models._attention import Block, through
from shiftsearch.models._swin import WindowAttention, stages
from shiftsearch.nn import InterFrameAttention

Gate = Literal["residual", "paper"]
Weights = Literal["dot", "softmax"]


# --- the residual network ---------------------------------------------------------------------------
class TwoHeads(NamedTuple):
    """Logits (B, classes) of the two heads of `SIFANet`; each is trained, and the mean of their softmaxes is the result."""

    single: Tensor
    dual: Tensor

    def probabilities(self) -> Tensor:
        return (self.single.softmax(-1) + self.dual.softmax(-1)) / 2


class SIFANet(nn.Module):
    """A classifier of clips: a ResNet of single frames in which every second block attends to the next frame.

    In the last three of its four stages, blocks with global context alternate with blocks with inter-frame attention. Beside
    the last stage there is a second one, without stride, on half of the frames: the dual head.

    Args:
        depth: number of layers, 50 or 101
        classes: number of classes
        channels: number of channels of the video
        width: number of channels of the first stage
        gate, weights: of `shiftsearch.nn.InterFrameAttention`
        recompute: gradient checkpointing: compute blocks again in the backward pass, to save memory

    State dict: the names of torchvision's ResNet, with convolutions (1, k, k). Blocks with attention add
    `sifa.conv_offset.weight`, those with global context `fc1` and `fc2`. `layer4_dual` and `fc_dual` are like `layer4`, `fc`.

    Example:
        >>> import torch
        >>> found = SIFANet(classes=5, width=16).eval()(torch.rand(1, 8, 3, 32, 40))
        >>> found.probabilities().shape
        torch.Size([1, 5])
    """

    channels: int
    recompute: bool
    conv1: nn.Conv3d
    bn1: nn.BatchNorm3d
    relu: nn.ReLU
    maxpool: nn.MaxPool3d
    layer1: nn.ModuleList
    layer2: nn.ModuleList
    layer3: nn.ModuleList
    layer4: nn.ModuleList
    layer4_dual: nn.ModuleList
    drop: nn.Dropout
    fc: nn.Linear
    fc_dual: nn.Linear

    def __init__(
        self,
        depth: Literal[50, 101] = 50,
        classes: int = 400,
        *,
        channels: int = 3,
        width: int = 64,
        gate: Gate = "residual",
        weights: Weights = "dot",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        _checks.choice("SIFANet", "depth", depth, 50, 101)
        _checks.whole("SIFANet", classes=classes, channels=channels, width=width)
        _checks.switch("SIFANet", recompute=recompute)
        self.channels, self.recompute = channels, recompute
        self.conv1 = nn.Conv3d(channels, width, (4, 7, 7), (4, 2, 2), (0, 3, 3), bias=False)
        self.bn1, self.relu = nn.BatchNorm3d(width), nn.ReLU()
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        last, options = 32 * width, {"gate": gate, "weights": weights}
        self.layer1 = nn.ModuleList(_bottlenecks(width, width, 3, 1, plain=True))
        self.layer2 = nn.ModuleList(_bottlenecks(4 * width, 2 * width, 4, 2, **options))
        self.layer3 = nn.ModuleList(_bottlenecks(8 * width, 4 * width, 6 if depth == 50 else 23, 2, **options))
        self.layer4 = nn.ModuleList(_bottlenecks(16 * width, 8 * width, 3, 2, **options))
        self.layer4_dual = nn.ModuleList(_bottlenecks(16 * width, 8 * width, 3, 1, **options))
        self.drop, self.fc, self.fc_dual = nn.Dropout(0.5), nn.Linear(last, classes), nn.Linear(last, classes)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as a ResNet; then set the last norm of each block and the offsets to 0."""
        for part in self.modules():
            if isinstance(part, nn.Conv3d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(part, _Bottleneck):
                nn.init.zeros_(part.bn3.weight)
            if isinstance(part, InterFrameAttention):
                part.reset_parameters()

    def forward(self, video: Tensor) -> TwoHeads:
        """Return the logits of both heads of clips (B, T, channels, H, W) of at least 8 frames of any size."""
        _checks.clip("SIFANet", video, self.channels)
        T = video.shape[1]
        _checks.expect(
            T >= 8, "SIFANet", "video", f"{T} frames long", "at least 8: four become one, and the dual head joins two"
        )
        x = self.maxpool(self.relu(self.bn1(self.conv1(video.transpose(1, 2)))))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = through(layer, x, self.recompute)
        single = through(self.layer4, x, self.recompute)
        dual = through(self.layer4_dual, nn.functional.max_pool3d(x, (2, 1, 1)), self.recompute)
        return TwoHeads(self.fc(self.drop(single.mean((2, 3, 4)))), self.fc_dual(self.drop(dual.mean((2, 3, 4)))))


def _bottlenecks(into: int, width: int, count: int, stride: int, **options: Any) -> Iterator[_Bottleneck]:
    """Yield the blocks of a stage: of those that are not plain, every second one attends to the next frame."""
    plain = options.pop("plain", False)
    for n in range(count):
        kind = "plain" if plain else "sifa" if n % 2 else "context"
        yield _Bottleneck(4 * width if n else into, width, 1 if n else stride, kind, options)


class _Bottleneck(nn.Module):
    """Three convolutions of (B, C, T, H, W), each frame by itself, around inter-frame attention, or with global context."""

    def __init__(self, into: int, width: int, stride: int, kind: str, options: dict[str, Any]) -> None:
        super().__init__()
        out, steps = 4 * width, (1, stride, stride)
        self.conv1, self.bn1 = nn.Conv3d(into, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), steps, (0, 1, 1), bias=False)
        self.bn2, self.relu = nn.BatchNorm3d(width), nn.ReLU()
        self.conv3, self.bn3 = nn.Conv3d(width, out, 1, bias=False), nn.BatchNorm3d(out)
        self.downsample = None
        if into != out or stride > 1:
            self.downsample = nn.Sequential(nn.Conv3d(into, out, 1, steps, bias=False), nn.BatchNorm3d(out))
        self.sifa = InterFrameAttention(width, **options) if kind == "sifa" else None
        self.context = kind == "context"
        if self.context:
            self.fc1, self.fc2 = nn.Linear(out, max(out // 16, 1)), nn.Linear(max(out // 16, 1), out)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        if self.sifa is not None:
            x = self.sifa(x.transpose(1, 2)).transpose(1, 2)
        x = self.bn3(self.conv3(x))
        if self.context:
            whole = self.fc2(self.relu(self.fc1(x.mean((2, 3, 4)))))
            x = x + whole[:, :, None, None, None]
        return self.relu(x + identity)


# --- the transformer --------------------------------------------------------------------------------
_NAMED: dict[str, dict[str, Any]] = {
    "small": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.3},
    "base": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.5},
    "large": {"dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "drop_path": 0.5},
}


class SIFATransformer(nn.Module):
    """A classifier of clips: a Swin transformer of single frames with inter-frame attention after the window attention.

    Blocks whose windows are not shifted, and all blocks of the last stage, have inter-frame attention; the others have a
    convolution over three frames. Both are initialised to add 0. Offsets are predicted, as in the paper; in the released
    code they are always 0.

    Args:
        variant: "small", "base" or "large", which names dim, depths, heads and drop_path where they are not given
        classes: number of classes
        window: number of tokens along a side of a window
        channels: number of channels of the video
        dim, depths, heads: channels of the first stage, and blocks and heads of each; each stage has twice the channels
        drop_path: probability with which training skips the last block for a clip; it rises linearly from 0 in the first
        gate, weights: of `shiftsearch.nn.InterFrameAttention`
        recompute: gradient checkpointing: compute blocks again in the backward pass, to save memory

    State dict: that of `VideoSwin` without `patch_embed.norm`; blocks add `between.attention.conv_offset.weight` and
    `between.norm`, or `between.conv.weight`.

    Example:
        >>> import torch
        >>> network = SIFATransformer(classes=5, dim=8, depths=(2, 2), heads=(1, 2), window=3)
        >>> network(torch.rand(1, 8, 3, 32, 40)).shape
        torch.Size([1, 5])
    """

    channels: int
    patch_embed: nn.Conv3d
    layers: nn.ModuleList
    norm: nn.LayerNorm
    head: nn.Linear

    def __init__(
        self,
        variant: Literal["small", "base", "large"] = "small",
        classes: int = 400,
        *,
        window: int = 7,
        channels: int = 3,
        dim: int | None = None,
        depths: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        drop_path: float | None = None,
        gate: Gate = "residual",
        weights: Weights = "dot",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        _checks.choice("SIFATransformer", "variant", variant, *_NAMED)
        given = {"dim": dim, "depths": depths, "heads": heads, "drop_path": drop_path}
        chosen = _NAMED[variant] | {name: value for name, value in given.items() if value is not None}
        _checks.whole("SIFATransformer", classes=classes, channels=channels, window=window, dim=chosen["dim"])
        _checks.stages("SIFATransformer", **chosen)
        _checks.switch("SIFATransformer", recompute=recompute)
        self.channels = channels

        def block(dim: int, attention: WindowAttention, **options: Any) -> Block:
            between = _OverTime(dim) if attention.shifted else _ToTheNext(dim, gate=gate, weights=weights)
            return _Between(dim, attention, between, **options)

        chosen |= {"window": (1, window, window), "exact": True, "recompute": recompute}
        self.patch_embed = nn.Conv3d(channels, chosen["dim"], 4, stride=4)
        self.layers = nn.ModuleList(stages(**chosen, block=block, last_shifts=False))
        last = chosen["dim"] * 2 ** (len(chosen["depths"]) - 1)
        self.norm, self.head = nn.LayerNorm(last), nn.Linear(last, classes)

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits (B, classes) of clips (B, T, channels, H, W), T, H and W multiples of 4."""
        _checks.clip("SIFATransformer", video, self.channels, 4)
        _checks.multiple("SIFATransformer", "the number of frames of video", video.shape[1], "the patch", 4)
        x = self.patch_embed(video.transpose(1, 2)).movedim(1, -1)
        for stage in self.layers:
            x = stage(x)
        return self.head(self.norm(x).mean((1, 2, 3)))


class _Between(Block):
    """A block with a module for other frames between its attention and its MLP."""

    def __init__(self, dim: int, attention: WindowAttention, between: nn.Module, **options: Any) -> None:
        super().__init__(dim, attention, **options)
        self.between = between

    def think(self, x: Tensor) -> Tensor:
        return super().think(x + self.between(x))


class _ToTheNext(nn.Module):
    """The result of inter-frame attention without its residual, normalised, for (B, T, H, W, C)."""

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__()
        self.attention, self.norm = InterFrameAttention(dim, **options), nn.LayerNorm(dim)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.movedim(-1, 2).contiguous()
        return self.norm((self.attention(frames) - frames).movedim(2, -1))


class _OverTime(nn.Module):
    """A convolution of each place of (B, T, H, W, C) over three frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        B, T, H, W, C = x.shape
        over_time = self.conv(x.permute(0, 2, 3, 4, 1).reshape(-1, C, T))
        return over_time.unflatten(0, (B, H, W)).permute(0, 4, 1, 2, 3)
