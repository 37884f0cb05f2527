"""Classification of clips with sound, with a map of where in the frames, and when, the evidence lies.

This model is inspired by "Where and When: Space-Time Attention for Audio-Visual Explanations" (Chen et al., 2021) but does
not reproduce it: we had only the abstract, no code was published, and the equations here are our own. `load` reads only
weights that were saved by this package.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.models import _checks
from shiftsearch.models._attention import Mlp


class Explanation(NamedTuple):
    """The logits of `AudioVisualAttention`, and the attention weights from which they were computed."""

    joint: Tensor  # (B, classes): logits from sound and video together
    audio: Tensor  # (B, classes): logits from the pooled sound alone
    visual: Tensor  # (B, classes): logits from the pooled video alone
    where: Tensor  # (B, T, H, W): attention over the places of each frame; sums to 1 in each frame with sound
    when_heard: Tensor  # (B, T): attention over time, of the sound; sums to 1
    when_seen: Tensor  # (B, T): attention over time, of the video; sums to 1
    evidence: Tensor  # (B, T, H, W): when_seen * where, the weight of each place of each frame; sums to 1

    def enlarged(self, height: int, width: int) -> Tensor:
        """Return the evidence interpolated to the size of the frames, (B, T, height, width), for display."""
        _checks.whole("Explanation", height=height, width=width)
        return F.interpolate(self.evidence, (height, width), mode="bilinear", align_corners=False)


class AudioVisualAttention(nn.Module):
    """A classifier of clips with sound that returns where and when it found its evidence.

    Let a_t be the sound during frame t, and v_tp the video at place p of frame t. Both went through a linear layer to `dim`
    channels and layer normalisation. Q, K, V (`where`) and Q', K', V' (`when`) are linear layers. A head has d channels.

    - Where: S_t = softmax over p of (Q a_t) . (K v_tp) / sqrt(d), and s_t = sum over p of S_tp V v_tp.
    - When: heard = softmax over t of (Q' mean s) . (K' a_t) / sqrt(d), and
      seen = softmax over t of (Q' mean a) . (K' s_t) / sqrt(d), with means over the frames.
    - Evidence: E_tp = seen_t S_tp. The pooled video is the sum of E_tp V v_tp over all frames and places. The pooled sound is
      the sum of heard_t V' a_t over all frames. An MLP classifies both together, and a linear layer each alone.

    With several heads, the maps that are returned are means over the heads. Frames that are silent, or are padding, have
    weight exactly 0 in every map; a clip of nothing else has weight 0 everywhere.

    Args:
        video, audio: number of channels of the features of video and of sound
        classes: number of classes
        dim: number of channels of the attention
        heads: number of attention heads

    State dict: `video`, `audio` (linear layers), `video_norm`, `audio_norm`, `where.q`, `where.k`, `where.v`, `when.q`,
    `when.k`, `when.v`, `cls_av.fc1`, `cls_av.fc2`, `cls_a`, `cls_v`; `where.k` and `when.k` have no bias.

    Example:
        >>> network = AudioVisualAttention(6, 5, classes=3, dim=8)
        >>> found = network(torch.rand(1, 4, 6, 7, 7), torch.rand(1, 8, 5))
        >>> found.joint.shape, found.enlarged(56, 56).shape
        (torch.Size([1, 3]), torch.Size([1, 4, 56, 56]))
    """

    heads: int
    video: nn.Linear
    audio: nn.Linear
    video_norm: nn.LayerNorm
    audio_norm: nn.LayerNorm
    where: nn.ModuleDict
    when: nn.ModuleDict
    cls_av: Mlp
    cls_a: nn.Linear
    cls_v: nn.Linear

    def __init__(
        self, video: int = 512, audio: int = 512, classes: int = 28, *, dim: int = 512, heads: int = 1
    ) -> None:
        super().__init__()
        _checks.whole("AudioVisualAttention", video=video, audio=audio, classes=classes, dim=dim, heads=heads)
        _checks.multiple("AudioVisualAttention", "dim", dim, "heads", heads)
        self.heads = heads
        self.video, self.audio = nn.Linear(video, dim), nn.Linear(audio, dim)
        self.video_norm, self.audio_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.where, self.when = _projections(dim), _projections(dim)
        self.cls_av, self.cls_a, self.cls_v = (
            Mlp(2 * dim, dim, classes),
            nn.Linear(dim, classes),
            nn.Linear(dim, classes),
        )

    def forward(self, video: Tensor, audio: Tensor, sounds: Tensor | None = None) -> Explanation:
        """Return the logits of clips and their attention maps.

        Args:
            video: features (B, T, channels, H, W)
            audio: features (B, n * T, channels), n in a row for each frame, which are averaged
            sounds: (B, n * T) of bool, False where the sound is silent or padding; None if it never is
        """
        self._check(video, audio, sounds)
        height, width = video.shape[-2:]
        a, there = per_frame(audio, sounds, video.shape[1])
        a = self.audio_norm(self.audio(a))
        v = self.video_norm(self.video(video.flatten(3).transpose(2, 3)))
        places = self.split(self.where["v"](v)).transpose(2, 3)  # (B, T, heads, P, d)
        keys = self.split(self.where["k"](v)).transpose(2, 3)
        where = weights(self.split(self.where["q"](a)), keys, there[:, :, None, None])  # (B, T, heads, P)
        s = torch.einsum("bthp,bthpd->bthd", where, places)
        heard = self._when(s.flatten(2), a, there)
        seen = self._when(a, s.flatten(2), there)
        sound = torch.einsum("bht,bthd->bhd", heard, self.split(self.when["v"](a))).flatten(1)
        evidence = seen.transpose(1, 2)[..., None] * where
        sight = torch.einsum("bthp,bthpd->bhd", evidence, places).flatten(1)
        joint = self.cls_av(torch.cat((sound, sight), -1))
        maps = [one.mean(2).unflatten(-1, (height, width)) for one in (where, evidence)]
        return Explanation(joint, self.cls_a(sound), self.cls_v(sight), maps[0], heard.mean(1), seen.mean(1), maps[1])

    def _when(self, asking: Tensor, asked: Tensor, there: Tensor) -> Tensor:
        """Return the attention (B, heads, T) of the mean of `asking` over the frames to the frames of `asked`."""
        count = there.sum(1, keepdim=True).clamp_min(1)
        mean = (asking * there[..., None]).sum(1) / count
        keys = self.split(self.when["k"](asked)).transpose(1, 2)
        return weights(self.split(self.when["q"](mean)), keys, there[:, None])

    def split(self, x: Tensor) -> Tensor:
        """Split channels (..., dim) into heads (..., heads, dim / heads)."""
        return x.unflatten(-1, (self.heads, -1))

    def loss(self, found: Explanation, classes: Tensor, share: float = 1.0) -> Tensor:
        """Return the cross-entropy of the joint logits plus `share` times those of the audio and of the visual logits."""
        _checks.labels(type(self).__name__, "classes", classes, *found.joint.shape[:1])
        joint, audio, visual = (F.cross_entropy(logits, classes) for logits in found[:3])
        return joint + share * (audio + visual)

    def _check(self, video: Tensor, audio: Tensor, sounds: Tensor | None) -> None:
        name = type(self).__name__
        _checks.clip(name, video, self.video.in_features)
        _checks.floats(name, "audio", audio, "B n*T C", B=video.shape[0], C=self.audio.in_features)
        n, frames = audio.shape[1], video.shape[1]
        _checks.expect(
            n % frames == 0, name, "audio", f"{n} frames long", f"a multiple of the {frames} frames of video"
        )
        if sounds is not None:
            fits = isinstance(sounds, Tensor) and sounds.dtype == torch.bool and sounds.shape == audio.shape[:2]
            found = f"{getattr(sounds, 'dtype', type(sounds).__name__)} of shape {tuple(getattr(sounds, 'shape', ()))}"
            _checks.expect(fits, name, "sounds", found, f"torch.bool of shape {tuple(audio.shape[:2])}")


def _projections(dim: int) -> nn.ModuleDict:
    """Return layers for queries, keys and values. The keys need no bias: softmax would cancel it."""
    return nn.ModuleDict({"q": nn.Linear(dim, dim), "k": nn.Linear(dim, dim, bias=False), "v": nn.Linear(dim, dim)})


def per_frame(audio: Tensor, sounds: Tensor | None, frames: int) -> tuple[Tensor, Tensor]:
    """Return the mean sound of each frame, (B, T, C), and whether the frame has any, (B, T)."""
    if sounds is None:
        sounds = torch.ones(audio.shape[:2], dtype=torch.bool, device=audio.device)
    bins = (frames, audio.shape[1] // frames)
    sounds = sounds.unflatten(1, bins)
    total = audio.unflatten(1, bins).masked_fill(~sounds[..., None], 0).sum(2)
    return total / sounds.sum(2).clamp_min(1)[..., None], sounds.any(2)


def weights(q: Tensor, keys: Tensor, there: Tensor) -> Tensor:
    """Return softmax(q . keys / sqrt(d)) over those keys (..., N, d) that are `there`, and exactly 0 for the others."""
    logits = (keys @ q[..., None])[..., 0] / q.shape[-1] ** 0.5
    least = torch.finfo(logits.dtype).min
    return logits.masked_fill(~there, least).softmax(-1) * there
