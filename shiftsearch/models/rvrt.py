"""RVRT's layer: attention of frames to a few predicted points of supporting frames, around where the flow leads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shiftsearch.models import _checks
from shiftsearch.models._attention import Mlp
from shiftsearch.nn.deformable import deform_attn
from shiftsearch.nn.layers import per_pixel, shown, zeroed

_HIDDEN = 64  # channels within the network that predicts


class RVRTAttention(nn.Module):
    """Guided deformable attention with the parameters of RVRT's layer `GuidedDeformAttnPack`, whose weights it takes.

    A network sees queries, what the flow brings from the supporting frames, and the flow; it moves each of the points around
    the flow by at most `reach` pixels. Linear maps double the channels for the attention to these points, `deform_attn`;
    another one, and an MLP whose result is added, give the output. RVRT's op is compiled for a GPU, this layer runs anywhere.

    Args:
        dim: channels
        window: points along a side of their grid in each supporting frame
        heads: parts of the 2 * dim channels with weights of their own
        groups: parts of keys and values together with points of their own: the first half moves keys
        clip: frames of a clip, and supporting frames of each
        reach: how far the network may move a point, in pixels

    State dict: `proj_q.1`, `proj_k.1`, `proj_v.1`, `proj.1`, `mlp.1.fc1`, `mlp.1.fc2`, `conv_offset.0`, `conv_offset.2`, ...,
    `conv_offset.10`, each with `.weight` and `.bias`.

    Example:
        >>> layer = RVRTAttention(4, heads=2, groups=4)
        >>> clip = torch.randn(1, 2, 4, 6, 7)
        >>> flow = torch.zeros(1, 2, 2, 6, 7)
        >>> layer(clip, clip, clip, [clip, clip.flip(1)], [flow, flow]).shape
        torch.Size([1, 2, 4, 6, 7])
    """

    dim: int
    window: int
    heads: int
    groups: int
    clip: int
    reach: float
    conv_offset: nn.Sequential
    proj_q: nn.Sequential
    proj_k: nn.Sequential
    proj_v: nn.Sequential
    proj: nn.Sequential
    mlp: nn.Sequential

    def __init__(
        self,
        dim: int,
        *,
        window: int = 3,
        heads: int = 12,
        groups: int = 12,
        clip: int = 2,
        reach: float = 10.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _checks.whole(name, dim=dim, window=window, heads=heads, groups=groups, clip=clip)
        _checks.multiple(name, "2 * dim", 2 * dim, "heads", heads)
        _checks.multiple(name, "4 * dim", 4 * dim, "groups", groups)
        real = isinstance(reach, (int, float)) and not isinstance(reach, bool) and reach >= 0
        _checks.expect(real, name, "reach", repr(reach), "a number of at least 0")
        self.dim, self.window, self.heads, self.groups, self.clip = dim, window, heads, groups, clip
        self.reach = float(reach)
        self.conv_offset = _predictor(dim * (1 + clip) + 2 * clip, 2 * clip * groups * window**2)
        self.proj_q, self.proj_k, self.proj_v = (_second(nn.Linear(dim, 2 * dim)) for _ in range(3))
        self.proj, self.mlp = _second(nn.Linear(2 * dim, dim)), _second(Mlp(dim, 2 * dim, dim))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        warped: Sequence[Tensor],
        flows: Sequence[Tensor],
        return_flows: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the output, (B, T, dim, H, W), where T is `clip`; with return_flows also each flow with its mean move.

        Args:
            q: queries (B, T, dim, H, W)
            k: keys, the same shape; frame t looks at its frames t, t + 1, ..., and after the last at the first ones
            v: values, the same shape
            warped: for each of the frames that are looked at, what the flow brings from there, the same shape
            flows: to each of them, (B, T, 2, H, W), channel 0 = dx, 1 = dy
            return_flows: whether flows are returned, too
        """
        B, T, _, H, W = self._check(q, k, v, warped, flows)
        seen = torch.cat((q, *warped, *(flow.to(q.dtype) for flow in flows)), 2)
        moves = self.reach * torch.tanh(self.conv_offset(seen.transpose(1, 2)).transpose(1, 2))
        moves = moves.to(torch.promote_types(moves.dtype, torch.float32)).unflatten(2, (self.clip, -1, 2))
        moves = moves + torch.stack(tuple(flows), 2).flip(3)[:, :, :, None]  # (B, T, clip, points, 2, H, W)
        query = per_pixel(self.proj_q, q).reshape(B * T, 1, -1, H, W)
        kv = torch.cat((per_pixel(self.proj_k, k), per_pixel(self.proj_v, v)), 2)
        options = {"padding": self.window // 2, "heads": self.heads, "groups": self.groups, "clip": self.clip}
        found = deform_attn(query, kv, moves.reshape(B * T, -1, H, W), self.window, self.window, **options)
        found = per_pixel(self.proj, found.reshape(B, T, -1, H, W))
        found = found + per_pixel(self.mlp, found)
        return (found, *moves.mean(3).flip(3).unbind(2)) if return_flows else found

    def _check(
        self, q: Tensor, k: Tensor, v: Tensor, warped: Sequence[Tensor], flows: Sequence[Tensor]
    ) -> tuple[int, ...]:
        """Return the shape of q, if all tensors fit."""
        name = type(self).__name__
        _checks.floats(name, "q", q, "B T C H W", T=self.clip, C=self.dim)
        B, _, _, H, W = q.shape
        for which, given, channels in (("warped", warped, self.dim), ("flows", flows, 2)):
            listed = isinstance(given, (list, tuple)) and len(given) == self.clip
            _checks.expect(listed, name, which, f"a {type(given).__name__}", f"a list of {self.clip} tensors")
            for n, one in enumerate(given):
                _checks.floats(name, f"{which}[{n}]", one, "B T C H W", B=B, T=self.clip, C=channels, H=H, W=W)
        for which, video in (("k", k), ("v", v)):
            _checks.floats(name, which, video, "B T C H W", B=B, T=self.clip, C=self.dim, H=H, W=W)
        return tuple(q.shape)

    def extra_repr(self) -> str:
        return shown({name: getattr(self, name) for name in ("dim", "window", "heads", "groups", "clip", "reach")})


def _second(layer: nn.Module) -> nn.Sequential:
    """Return a layer by the name "1", which it has in RVRT behind a change of the axes' order."""
    return nn.Sequential(nn.Identity(), layer)


def _predictor(seen: int, moves: int) -> nn.Sequential:
    """Return the network that moves points: frame by frame, and not at all before training."""
    layers: list[nn.Module] = [nn.Conv3d(seen, _HIDDEN, 1), nn.LeakyReLU(0.1)]
    for _ in range(4):
        layers += [nn.Conv3d(_HIDDEN, _HIDDEN, (1, 3, 3), padding=(0, 1, 1)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, zeroed(nn.Conv3d(_HIDDEN, moves, 1)))
