"""StarVQA: space-time attention for video quality assessment (Xing et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.models import _checks
from shiftsearch.models._attention import Mlp
from shiftsearch.models._vit import Sizes
from shiftsearch.models.timesformer import TimeSformer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Codebook(nn.Module):
    """A code of quality scores as vectors of probabilities, one for each anchor, and its inverse.

    A score is mapped linearly from the range of scores to that of the anchors. Of the result m, the vector is
    p = softmax over i of -(m - anchor_i)^2.

    Args:
        anchors: at least two numbers in rising order
        scores: (lowest, highest) score, which are mapped to the first and to the last anchor

    Example:
        >>> codebook = Codebook()
        >>> codebook.decode(codebook.encode(torch.tensor([0.0, 37.5, 100.0])))
        tensor([  0.0000,  37.5000, 100.0000])
    """

    anchors: Tensor
    scores: tuple[float, float]

    def __init__(self, anchors: Sequence[float] = (0, 1, 2, 3, 4, 5), scores: tuple[float, float] = (0, 100)) -> None:
        super().__init__()
        _checks.rising("Codebook", "anchors", anchors, 2, inf, "at least two rising numbers")
        _checks.rising("Codebook", "scores", scores, 2, 2, "(lowest, highest)")
        self.scores = float(scores[0]), float(scores[1])
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float64), persistent=False)

    def _slope(self) -> Tensor:
        low, high = self.scores
        return (self.anchors[-1] - self.anchors[0]) / (high - low)

    def encode(self, scores: Tensor) -> Tensor:
        """Return the probabilities (..., anchors) that encode scores (...)."""
        _checks.tensor("Codebook", "scores", scores)
        m = self.anchors[0] + (scores.double() - self.scores[0]) * self._slope()
        return (-((m[..., None] - self.anchors) ** 2)).softmax(-1).to(_floats(scores))

    def decode(self, vectors: Tensor) -> Tensor:
        """Return the scores (...) that probabilities (..., anchors) encode: the exact inverse of `encode`.

        In a vector made by `encode`, any two neighbouring anchors a < b determine m:
        log(p_b / p_a) = (b - a) (2 m - a - b). In the vector that a network predicts, pairs disagree. The result is their
        mean, each weighted by sqrt(p_a p_b). If all probability is on one anchor, it is the score of that anchor. Scores
        are clamped to their range.
        """
        self._check(vectors)
        p, (a, b) = vectors.double(), (self.anchors[:-1], self.anchors[1:])
        logs = p.clamp_min(torch.finfo(torch.float32).tiny).log()
        each = ((logs[..., 1:] - logs[..., :-1]) / (b - a) + a + b) / 2
        weights = (p[..., 1:] * p[..., :-1]).sqrt()
        total = weights.sum(-1)
        m = torch.where(total > 0, (weights * each).sum(-1) / total.clamp_min(1e-300), self.anchors[p.argmax(-1)])
        scores = (m - self.anchors[0]) / self._slope() + self.scores[0]
        return scores.clamp(*self.scores).to(_floats(vectors))

    def loss(self, vectors: Tensor, scores: Tensor) -> Tensor:
        """Return the mean of 1 - cos(vectors, encode(scores)) for predictions (B, anchors) and scores (B,)."""
        self._check(vectors)
        _checks.tensor("Codebook", "scores", scores, *vectors.shape[:-1])
        return (1 - F.cosine_similarity(vectors, self.encode(scores).to(vectors.dtype), dim=-1)).mean()

    def _check(self, vectors: Tensor) -> None:
        _checks.tensor("Codebook", "vectors", vectors)
        count = vectors.shape[-1] if vectors.ndim else 0
        _checks.expect(
            count == len(self.anchors),
            "Codebook",
            "vectors",
            f"of {count} numbers",
            f"one for each of {len(self.anchors)} anchors",
        )


def _floats(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


class StarVQA(TimeSformer):
    """A model of video quality: TimeSformer with divided attention, whose head predicts the code of a score.

    Args:
        frames: number of frames for which positions in time are learnt; clips of another length use the nearest of them
        anchors, scores: as in `Codebook`
        sizes: of the transformer, as in `TimeSformer`

    State dict: that of `TimeSformer`, with `head.fc1` and `head.fc2` in place of `head`. `load` reads published weights.

    Example:
        >>> network = StarVQA(4, size=32, patch=8, dim=24, depth=2, heads=2)
        >>> vectors = network(torch.rand(2, 4, 3, 32, 32))
        >>> vectors.shape, network.codebook.decode(vectors).shape
        (torch.Size([2, 6]), torch.Size([2]))
        >>> loss = network.codebook.loss(vectors, torch.tensor([20.0, 80.0]))
    """

    codebook: Codebook

    def __init__(
        self,
        frames: int = 52,
        *,
        anchors: Sequence[float] = (0, 1, 2, 3, 4, 5),
        scores: tuple[float, float] = (0, 100),
        **sizes: Unpack[Sizes],
    ) -> None:
        codebook = Codebook(anchors, scores)
        super().__init__(frames, classes=len(anchors), **sizes)
        self.codebook = codebook

    def make_head(self, dim: int, classes: int) -> nn.Module:
        return Mlp(dim, dim, classes)

    def forward(self, video: Tensor) -> Tensor:
        """Return predicted probabilities (B, anchors) for clips (B, T, channels, H, W)."""
        return self.head(self.features(video)).softmax(-1)

    def score(self, video: Tensor) -> Tensor:
        """Return the predicted scores (B,) of clips."""
        return self.codebook.decode(self(video))
