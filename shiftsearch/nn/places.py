"""Places of attention and convolution, from offsets that a network has in its channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.layers import check_floats, check_shape, check_whole, pair
from shiftsearch.ops.frames import frames_ahead


def places(
    moves: Tensor,
    *,
    groups: int,
    frames: Any = None,
    grid: int | tuple[int, int] = (3, 3),
    dilation: int | tuple[int, int] = 1,
    flow: Tensor | None = None,
) -> Tensor:
    """Return where the points of a grid lie, each moved by offsets in the channels of a video, as `score` takes places.

    For the query at pixel r, the point in row i and column j of the grid lies at
    r + ((i, j) - grid // 2) * dilation + flow + move. Channels are those of deformable convolution and of RVRT: for each
    frame that is looked at, each group and each point, row by row, dy and dx.

    Args:
        moves: (B, T, S * groups * rows * columns * 2, H, W); B may be missing, and is then missing in the result
        groups: heads of the result
        frames: (T, S), the frames that each frame looks at; None is each frame itself
        grid: rows and columns of points, or one number for both
        dilation: pixels between points, down and across, or one number for both
        flow: (B, T, S, 2, H, W), channel 0 = dx, 1 = dy, or None for no motion

    Returns:
        offsets (B, groups, T, H, W, S * rows * columns, 3), (dt, dy, dx); at least in single precision

    Example:
        >>> moves = torch.zeros(3, 2 * 9 * 2, 16, 24)
        >>> offsets = places(moves, groups=2)
        >>> offsets.shape
        torch.Size([2, 3, 16, 24, 9, 3])
        >>> aggregate(video, torch.full(offsets.shape[:-1], 1 / 9), offsets).shape  # a mean of 3 x 3 pixels
        torch.Size([3, 4, 16, 24])
    """
    check_floats("places", "moves", moves)
    check_whole("places", groups=groups)
    (rows, columns), (down, across) = (pair("places", n, x) for n, x in (("grid", grid), ("dilation", dilation)))
    if moves.ndim not in (4, 5):
        raise ShiftsearchError(f"places: moves has shape {tuple(moves.shape)}, expected (B, T, channels, H, W)")
    T, channels, H, W = moves.shape[-4:]
    frames = [[t] for t in range(T)] if frames is None else frames
    dt = frames_ahead("places", frames, T, None, moves)
    S, points = dt.shape[1], rows * columns
    if channels != S * groups * points * 2:
        expected = f"{S} * {groups} * {points} * 2 channels, of {S} frames, {groups} groups and {points} points"
        raise ShiftsearchError(f"places: moves has {channels} channels, expected {expected}")
    if flow is not None:
        check_floats("places", "flow", flow)
        check_shape("places", "flow", flow, (*moves.shape[:-3], S, 2, H, W))
    near = grid_of_points((rows, columns), (down, across), (rows // 2 * down, columns // 2 * across), moves.device)
    found = placed(
        moves if moves.ndim == 5 else moves[None],
        near,
        dt,
        groups,
        flow if moves.ndim == 5 or flow is None else flow[None],
    )
    return found if moves.ndim == 5 else found[0]


def grid_of_points(
    grid: tuple[int, int], dilation: tuple[int, int], before: tuple[int, int], device: torch.device
) -> Tensor:
    """Return (dy, dx) of the points of a grid, row by row; the first lies so many pixels `before` the query."""
    rows, columns = (torch.arange(n, device=device) * d - b for n, d, b in zip(grid, dilation, before, strict=True))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)


def placed(moves: Tensor, near: Tensor, dt: Tensor, groups: int, flow: Tensor | None = None) -> Tensor:
    """Return offsets (B, groups, T, H, W, S * P, 3) of P points `near` a query, moved by (B, T, S * groups * P * 2, H, W)."""
    if moves.dtype in (torch.float16, torch.bfloat16):
        moves = moves.float()  # halves cannot count the rows of a large frame
    S = dt.shape[1]
    yx = moves.unflatten(2, (S, groups, len(near), 2)).permute(0, 3, 1, 6, 7, 2, 4, 5) + near.to(moves.dtype)
    if flow is not None:  # (B, T, S, 2, H, W)
        yx = yx + flow.to(moves.dtype).flip(3).permute(0, 1, 4, 5, 2, 3)[:, None, ..., None, :]
    ahead = dt.to(moves.dtype)[:, None, None, :, None, None].expand(*yx.shape[:-1], 1)
    return torch.cat((ahead, yx), -1).flatten(5, 6)
