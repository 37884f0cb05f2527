"""AVT: anticipative video transformer (Girdhar and Grauman, 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.errors import ShiftsearchError
from shiftsearch.models import _checks
from shiftsearch.models._attention import Attention, Block, through
from shiftsearch.models._vit import Sizes, ViT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack


class AVTHead(nn.Module):
    """A causal transformer over the features of frames that predicts, for each frame, the features of the next one.

    Args:
        features: number of channels of the features
        dim, depth, heads: of the transformer
        positions: largest number of frames, past and predicted together
        dropout: of token embeddings, attention weights and residual branches
        recompute: gradient checkpointing: compute blocks again in the backward pass, to save memory

    State dict: `encoder.weight`, `decoder.weight`, `positions` (positions, dim), `blocks.<n>` as in `ViT`, and `norm`.

    Example:
        >>> head = AVTHead(12, dim=16, depth=2, heads=2)
        >>> head(torch.rand(1, 5, 12)).shape, head.roll_out(torch.rand(1, 5, 12), 3).shape
        (torch.Size([1, 5, 12]), torch.Size([1, 3, 12]))
    """

    recompute: bool
    encoder: nn.Linear
    decoder: nn.Linear
    positions: nn.Parameter
    drop: nn.Dropout
    blocks: nn.ModuleList
    norm: nn.LayerNorm

    def __init__(
        self,
        features: int = 768,
        *,
        dim: int = 2048,
        depth: int = 6,
        heads: int = 4,
        positions: int = 1024,
        dropout: float = 0.1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"features": features, "dim": dim, "depth": depth, "heads": heads, "positions": positions}
        _checks.whole("AVTHead", **sizes)
        _checks.multiple("AVTHead", "dim", dim, "heads", heads)
        _checks.share("AVTHead", dropout=dropout)
        _checks.switch("AVTHead", recompute=recompute)
        self.recompute = recompute
        self.encoder, self.decoder = nn.Linear(features, dim, bias=False), nn.Linear(dim, features, bias=False)
        self.positions, self.drop = nn.Parameter(torch.empty(positions, dim)), nn.Dropout(dropout)
        nn.init.normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads, dropout=dropout), eps=1e-5, gelu="tanh", dropout=dropout)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return predictions (B, T, features) of the features that follow each of (B, T, features).

        A prediction depends on its frame and the earlier ones only.
        """
        self._check(features, features.shape[1] if features.ndim > 1 else 0)
        x = self.norm(through(self.blocks, self._at(self.encoder(features), 0), self.recompute, causal=True))
        return self.decoder(x)

    def roll_out(self, features: Tensor, steps: int) -> Tensor:
        """Return predictions (B, steps, features) of the features that follow the last of (B, T, features).

        The first one is the last of `forward`. From then on, the hidden state after the final norm is the next input
        embedding. Keys and values are cached, so that each step computes one token.
        """
        _checks.whole("AVTHead", steps=steps)
        self._check(features, features.shape[1] + steps - 1 if features.ndim > 1 else 0)
        caches = [_Cache() for _ in self.blocks]
        x, seen, out = self.encoder(features), 0, []
        for _ in range(steps):
            token = self._at(x, seen)
            seen += x.shape[1]
            for block, cache in zip(self.blocks, caches, strict=True):
                token = block(token, causal=x.shape[1] > 1, mix=cache)
            x = self.norm(token[:, -1:])
            out.append(self.decoder(x))
        return torch.cat(out, 1)

    def _at(self, x: Tensor, start: int) -> Tensor:
        return self.drop(x + self.positions[start : start + x.shape[1]])

    def _check(self, features: Tensor, positions: int) -> None:
        _checks.floats("AVTHead", "features", features, "B T C", C=self.encoder.in_features)
        most = self.positions.shape[0]
        _checks.expect(
            positions <= most, "AVTHead", "the number of frames, past and predicted,", positions, f"at most {most}"
        )


class _Cache:
    """The cached keys and values of a layer."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.kept is not None:
            k, v = torch.cat((self.kept[0], k), -2), torch.cat((self.kept[1], v), -2)
        self.kept = k, v
        return k, v


class Anticipation(NamedTuple):
    """The result of `AVT` for clips."""

    past: Tensor  # (B, T, classes): logits of the action of each frame, predicted from earlier frames; the first from itself
    future: Tensor  # (B, classes): logits of the action that follows the last frame
    features: Tensor  # (B, T, C): features of the frames
    predicted: Tensor  # (B, T, C): predictions of the features that follow each frame


class AVT(nn.Module):
    """A model that predicts the next action: a vision transformer of each frame, then a causal transformer over time.

    Args:
        classes: number of actions
        features: number of channels of features that are given in place of frames; None for frames
        head: options of `AVTHead`
        dropout: before the classifier
        sizes: of the vision transformer, as in `ViT`

    State dict: `backbone` as in `ViT`, unless features are given; `head` as in `AVTHead`; `classifier`. `load` reads published
    weights, and those of vision transformers of images.

    Example:
        >>> network = AVT(7, head={"dim": 16, "depth": 2, "heads": 2}, size=32, patch=8, dim=24, depth=2, heads=2)
        >>> network(torch.rand(1, 5, 3, 32, 32)).future.shape
        torch.Size([1, 7])
    """

    not_of_images = r"^(head|classifier)\."

    backbone: ViT | None
    head: AVTHead
    drop: nn.Dropout
    classifier: nn.Linear

    def __init__(
        self,
        classes: int = 3806,
        *,
        features: int | None = None,
        head: Mapping[str, Any] | None = None,
        dropout: float = 0.2,
        **sizes: Unpack[Sizes],
    ) -> None:
        super().__init__()
        _checks.whole("AVT", classes=classes, features=1 if features is None else features)
        _checks.share("AVT", dropout=dropout)
        if features is not None and sizes:
            raise ShiftsearchError(f"AVT: features is {features}, expected None beside sizes of a vision transformer")
        self.backbone = ViT(**sizes) if features is None else None
        channels: Any = features if self.backbone is None else self.backbone.cls_token.shape[-1]
        options: dict[str, Any] = {"recompute": sizes.get("recompute", False), **(head or {})}
        self.head = AVTHead(channels, **options)
        self.drop, self.classifier = nn.Dropout(dropout), nn.Linear(channels, classes)

    def forward(self, video: Tensor) -> Anticipation:
        """Return the predictions for clips (B, T, channels, H, W), or for features (B, T, features)."""
        z = video if self.backbone is None else self.backbone(video)
        predicted = self.head(z)
        past = torch.cat((z[:, :1], predicted[:, :-1]), 1)
        return Anticipation(self.classify(past), self.classify(predicted[:, -1]), z, predicted)

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (..., classes) of features."""
        return self.classifier(self.drop(features))

    def roll_out(self, video: Tensor, steps: int) -> Tensor:
        """Return the logits (B, steps, classes) of the next actions, one by one; the first equals `future` of `forward`."""
        z = video if self.backbone is None else self.backbone(video)
        return self.classify(self.head.roll_out(z, steps))

    def losses(self, found: Anticipation, past: Tensor, future: Tensor) -> dict[str, Tensor]:
        """Return the three losses; train their sum.

        "next": cross-entropy of the next action. "past": cross-entropy of the actions of the frames; frames without a label
        add 0, and count in the mean. "feature": mean squared error of the predicted features, 0 if there is one frame; its
        target is not detached, so that the backbone learns from it, too.

        Args:
            found: result of `forward`
            past: actions (B, T) of the frames, -1 where there is none
            future: next actions (B,)
        """
        _checks.labels("AVT", "past", past, *found.past.shape[:2])
        _checks.labels("AVT", "future", future, *found.future.shape[:1])
        of_past = F.cross_entropy(found.past.flatten(0, 1), past.flatten(), ignore_index=-1, reduction="none")
        apart = found.predicted[:, :-1] - found.features[:, 1:]
        feature = apart.square().sum() / max(apart.numel(), 1)  # a mean over nothing would be NaN
        return {"next": F.cross_entropy(found.future, future), "past": of_past.mean(), "feature": feature}

    def inflated(self, image: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of an image network under the names of this model; see `load`."""
        if self.backbone is None:
            raise ShiftsearchError(
                "load: source is of images, expected features: the model, AVT, has no vision transformer"
            )
        return {f"backbone.{name}": value for name, value in self.backbone.inflated(image).items()}
