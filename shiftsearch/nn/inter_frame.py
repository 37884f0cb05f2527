"""Attention of each frame to a few moving places of the next one, as in SIFA."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.layers import check_whole, shown, zeroed
from shiftsearch.nn.places import grid_of_points, placed
from shiftsearch.ops.aggregate import aggregate
from shiftsearch.ops.score import score

Weights = Literal["dot", "softmax"]


def inter_frame(
    x: Tensor,
    offsets: Tensor,
    *,
    kernel: int = 3,
    dilation: int = 1,
    weights: Weights = "dot",
    scale: float | None = None,
) -> Tensor:
    """Return frames plus what they find around each pixel in the frame that follows; the last one as it is.

    Let q be frame t, and k frame t + 1. A pixel r of q looks at kernel x kernel cells of k. Each cell lies at r + its place
    in the grid + its offset:

    - weight of a cell = scale * q(r) . k(cell), and for "softmax" the softmax of that over the cells
    - result = q(r) + sum over cells of weight * k(cell)

    Outside the frame k is 0. A cell at least one pixel outside has no gradient of its offset.

    Args:
        x: (B, T, C, H, W)
        offsets: (B, T, 2 * kernel ** 2, H, W). Channels 2 n and 2 n + 1 are dy and dx of cell n, row by row. Those of
            frame t + 1 are for the pixels of frame t
        kernel: cells along a side of the grid
        dilation: pixels between cells
        weights: "dot" or "softmax"
        scale: of the products; None is 1 / C for "dot" and 1 / sqrt(C) for "softmax"

    Returns:
        (B, T, C, H, W)

    Example:
        >>> clip = torch.randn(1, 3, 4, 16, 24)
        >>> inter_frame(clip, torch.zeros(1, 3, 18, 16, 24)).shape
        torch.Size([1, 3, 4, 16, 24])
    """
    _check(x, offsets, kernel, dilation, weights)
    if x.shape[1] == 1:
        return x
    C = x.shape[2]
    places = _places(offsets, kernel, dilation)
    products = score(x, x, places, metric="dot", border="zeros")
    if weights == "dot":
        found = products * (1 / C if scale is None else scale)
    else:
        found = (products * (C**-0.5 if scale is None else scale)).softmax(-1)
    added = aggregate(x, found, places, border="zeros")
    return torch.cat((x[:, :-1] + added[:, :-1], x[:, -1:]), 1)


def _places(offsets: Tensor, kernel: int, dilation: int) -> Tensor:
    """Return where the cells lie from each pixel, (B, 1, T, H, W, kernel ** 2, 3), as `score` takes them.

    Those of the last frame are of the frame itself: they lie in the clip, and what is found there is not used.
    """
    T = offsets.shape[1]
    before = (dilation * (kernel - 1) + 1) // 2
    near = grid_of_points((kernel, kernel), (dilation, dilation), (before, before), offsets.device)
    ahead = (torch.arange(T, device=offsets.device) < T - 1).long()[:, None]
    return placed(torch.cat((offsets[:, 1:], offsets[:, -1:]), 1), near, ahead, 1)


def _check(x: Tensor, offsets: Tensor, kernel: int, dilation: int, weights: str) -> None:
    check_whole("inter_frame", kernel=kernel, dilation=dilation)
    if weights not in ("dot", "softmax"):
        raise ShiftsearchError(f"inter_frame: weights is {weights!r}, expected one of 'dot', 'softmax'")
    for name, value in (("x", x), ("offsets", offsets)):
        if not isinstance(value, Tensor):
            raise ShiftsearchError(f"inter_frame: {name} is a {type(value).__name__}, expected a torch tensor")
    if x.ndim != 5 or not x.is_floating_point() or 0 in x.shape:
        found = f"{x.dtype} of shape {tuple(x.shape)}"
        raise ShiftsearchError(f"inter_frame: x is {found}, expected floats of shape (B, T, C, H, W), none of them 0")
    B, T, _, H, W = x.shape
    wanted = (B, T, 2 * kernel**2, H, W)
    if tuple(offsets.shape) != wanted or not offsets.is_floating_point():
        found = f"{offsets.dtype} of shape {tuple(offsets.shape)}"
        raise ShiftsearchError(f"inter_frame: offsets is {found}, expected floats of shape {wanted}")


class InterFrameAttention(nn.Module):
    """`inter_frame` with offsets that a convolution predicts from what changed since the frame before.

    The convolution sees the frame t, weighted by s = sigmoid(frame t - frame t - 1): of the first frame s is 1/2. It begins
    as 0: all cells lie on the grid. Call `reset_parameters` after an initialisation of a whole network.

    Args:
        dim: channels
        kernel, dilation: of the grid of cells
        gate: what the convolution sees, "residual", frame * (1 + s), as in the released code, or "paper", frame * s
        weights: as in `inter_frame`
        offsets: whether there are offsets; if not, cells stay on the grid

    State dict: `conv_offset.weight` (2 * kernel ** 2, dim, 3, 3), with offsets=True.

    Example:
        >>> layer = InterFrameAttention(4)
        >>> layer(torch.randn(1, 3, 4, 16, 24)).shape
        torch.Size([1, 3, 4, 16, 24])
    """

    dim: int
    kernel: int
    dilation: int
    gate: str
    weights: Weights
    conv_offset: nn.Conv2d | None

    def __init__(
        self,
        dim: int,
        kernel: int = 3,
        dilation: int = 1,
        *,
        gate: Literal["residual", "paper"] = "residual",
        weights: Weights = "dot",
        offsets: bool = True,
    ) -> None:
        super().__init__()
        if gate not in ("residual", "paper"):
            raise ShiftsearchError(f"InterFrameAttention: gate is {gate!r}, expected one of 'residual', 'paper'")
        check_whole("InterFrameAttention", dim=dim, kernel=kernel, dilation=dilation)
        self.dim, self.kernel, self.dilation, self.gate = dim, kernel, dilation, gate
        self.weights = weights
        self.conv_offset = nn.Conv2d(dim, 2 * kernel**2, 3, padding=1, bias=False) if offsets else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put all cells on the grid."""
        if self.conv_offset is not None:
            zeroed(self.conv_offset)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, dim, H, W) of the same."""
        options = {"kernel": self.kernel, "dilation": self.dilation}
        return inter_frame(x, self.offsets(x), weights=self.weights, **options)

    def offsets(self, x: Tensor) -> Tensor:
        """Return the offsets of cells, (B, T, 2 * kernel ** 2, H, W)."""
        if x.ndim != 5 or x.shape[2] != self.dim:
            found = f"of shape {tuple(x.shape)}, expected (B, T, {self.dim}, H, W)"
            raise ShiftsearchError(f"InterFrameAttention: x is {found}")
        if self.conv_offset is None:
            return x.new_zeros(*x.shape[:2], 2 * self.kernel**2, *x.shape[3:])
        changed = torch.sigmoid(x - torch.cat((x[:, :1], x[:, :-1]), 1))
        seen = x * (1 + changed) if self.gate == "residual" else x * changed
        return self.conv_offset(seen.flatten(0, 1)).unflatten(0, x.shape[:2])

    def extra_repr(self) -> str:
        names = ("dim", "kernel", "dilation", "gate", "weights")
        return shown({name: getattr(self, name) for name in names})
