"""Compiled ops of other projects by ops of this one: RVRT's attention to moving points, and deformable convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.attend_at import attend_at
from shiftsearch.nn.layers import check_floats, check_shape, check_whole, pair
from shiftsearch.nn.places import grid_of_points, placed
from shiftsearch.ops.aggregate import stack

Pair = int | tuple[int, int]


def deform_attn(
    q: Tensor,
    kv: Tensor,
    offset: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    heads: int = 1,
    groups: int = 1,
    clip: int = 1,
) -> Tensor:
    """Return what RVRT's compiled op `deform_attn` returns, which KAIR has too: attention to moving points of a clip.

    A query of frame c looks at kernel_h * kernel_w points of each frame of its clip, which begins with frame c itself: of
    (n + c) % clip in its n-th part. The point (i, j) of a query at pixel r lies at stride * r - padding + (i, j) * dilation
    + its offset; outside the frame all is 0. A softmax over all points weighs their values.

    Each pixel of q has a result, whatever the kernel, stride and padding are: as in RVRT's kernel these say where points
    begin, and not, as in a convolution, how many results there are.

    `groups` are of the channels of keys and values together: the first half of them moves keys, the other half values.

    Args:
        q: queries (N * clip, 1, C, H, W)
        kv: keys, then values, (N, clip, 2 * C, H, W)
        offset: (N * clip, clip * groups * kernel_h * kernel_w * 2, H, W), (dy, dx) of each point
        kernel_h, kernel_w: rows and columns of points
        stride: pixels that the points move from one query to the next; networks have 1
        padding, dilation: where the points begin, and pixels between them
        heads: parts of the channels with weights of their own
        groups: parts of the 2 * C channels with offsets of their own
        clip: frames of a clip

    Returns:
        (N * clip, 1, C, H, W)

    Example:
        >>> q, kv = torch.randn(4, 1, 8, 6, 7), torch.randn(2, 2, 16, 6, 7)
        >>> offset = torch.randn(4, 2 * 4 * 9 * 2, 6, 7)
        >>> deform_attn(q, kv, offset, 3, 3, padding=1, heads=2, groups=4, clip=2).shape
        torch.Size([4, 1, 8, 6, 7])
    """
    points = _check_attention(q, kv, offset, kernel_h, kernel_w, stride, padding, dilation, heads, groups, clip)
    N, _, C2, H, W = kv.shape
    C = C2 // 2
    near = grid_of_points((kernel_h, kernel_w), (dilation, dilation), (padding, padding), offset.device)
    at = torch.arange(clip, device=offset.device)
    dt = (at[:, None] + at) % clip - at[:, None]
    offsets = placed(offset.reshape(N, clip, clip * groups * points * 2, H, W), near, dt, groups)
    offsets = _ahead(offsets, (stride - 1, stride - 1))
    if groups % 2:  # the one in the middle moves keys and values
        offsets = offsets.repeat_interleave(2, 1)
    of_keys, of_values = offsets.chunk(2, 1)
    given = q.reshape(N, clip, C, H, W), kv[:, :, :C], kv[:, :, C:], of_keys
    return attend_at(*given, v_offsets=of_values, heads=heads, border="zeros").reshape(q.shape)


def _check_attention(
    q: Tensor,
    kv: Tensor,
    offset: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride: int,
    padding: int,
    dilation: int,
    heads: int,
    groups: int,
    clip: int,
) -> int:
    """Return the number of points, if all arguments fit."""
    check_whole("deform_attn", kernel_h=kernel_h, kernel_w=kernel_w, stride=stride, dilation=dilation, heads=heads)
    check_whole("deform_attn", groups=groups, clip=clip)
    check_whole("deform_attn", least=0, padding=padding)
    for name, tensor in {"q": q, "kv": kv, "offset": offset}.items():
        check_floats("deform_attn", name, tensor)
    if kv.ndim != 5 or kv.shape[1] != clip or kv.shape[2] % 2 or 0 in kv.shape:
        expected = f"(N, clip={clip}, 2 * C, H, W)"
        raise ShiftsearchError(f"deform_attn: kv has shape {tuple(kv.shape)}, expected {expected}")
    N, _, C2, H, W = kv.shape
    points = kernel_h * kernel_w
    check_shape("deform_attn", "q", q, (N * clip, 1, C2 // 2, H, W))
    check_shape("deform_attn", "offset", offset, (N * clip, clip * groups * points * 2, H, W))
    for name, parts, channels in (("heads", heads, C2 // 2), ("groups", groups, C2)):
        if channels % parts:
            raise ShiftsearchError(f"deform_attn: {name} is {parts}, expected a divisor of the {channels} channels")
    return points


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Return what `torchvision.ops.deform_conv2d` returns: a convolution of pixels that each have moved, and weights of them.

    Args:
        x: (N, C, H, W)
        offset: (N, 2 * groups * rows * columns, h, w), (dy, dx) of each cell of the kernel, for groups of channels of x
        weight: (out, C / weight_groups, rows, columns)
        bias: (out,), or None
        stride, padding, dilation: as in a convolution, a number or (down, across)
        mask: (N, groups * rows * columns, h, w), a factor for each cell, or None

    Returns:
        (N, out, h, w), of the size that a convolution has

    Example:
        >>> offset = torch.randn(3, 2 * 9, 16, 24)
        >>> deform_conv2d(video, offset, torch.randn(5, 4, 3, 3), padding=1).shape
        torch.Size([3, 5, 16, 24])
    """
    steps = _steps(x, weight, stride, padding, dilation)
    groups = _check_convolution(x, offset, weight, bias, mask, steps)
    every = steps.stride[0] if steps.stride[0] == steps.stride[1] else 1  # pixel is a query
    offsets = _cells(offset, groups, steps, every)
    weights = None if mask is None else mask.unflatten(1, (groups, -1)).movedim(2, -1)[:, :, None]
    # all queries of the result lie in the frame: what is added to it is as empty as what is around it
    (H, W), (h, w) = x.shape[2:], steps.size
    below, right = (max(0, (n - 1) * every + 1 - m) for n, m in ((h, H), (w, W)))
    frames = F.pad(x, (0, right, 0, below)) if below or right else x
    rest = [(n - 1) // every + 1 - m for n, m in zip(frames.shape[2:], (h, w), strict=True)]
    if any(rest):
        offsets = F.pad(offsets, (0, 0, 0, 0, 0, rest[1], 0, rest[0]))
        weights = None if weights is None else F.pad(weights, (0, 0, 0, rest[1], 0, rest[0]))
    found = stack(frames[:, None], offsets, weights, stride=every, border="zeros")[:, :, 0]
    return _product(found[..., ::every, ::every][..., :h, :w], weight, bias)


class _Steps(NamedTuple):
    """Where a convolution puts its cells, each as (down, across), and the size of its result."""

    cells: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]


def _steps(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> _Steps:
    for name, tensor in {"x": x, "weight": weight}.items():
        check_floats("deform_conv2d", name, tensor)
        if tensor.ndim != 4 or 0 in tensor.shape:
            shape = {"x": "(N, C, H, W)", "weight": "(out, C / weight_groups, rows, columns)"}[name]
            raise ShiftsearchError(f"deform_conv2d: {name} has shape {tuple(tensor.shape)}, expected {shape}")
    cells = (weight.shape[2], weight.shape[3])
    s, d = pair("deform_conv2d", "stride", stride), pair("deform_conv2d", "dilation", dilation)
    p = pair("deform_conv2d", "padding", padding, least=0)
    h, w = ((x.shape[2 + i] + 2 * p[i] - d[i] * (cells[i] - 1) - 1) // s[i] + 1 for i in range(2))
    if h < 1 or w < 1:
        expected = "a kernel that fits into the padded frame"
        raise ShiftsearchError(f"deform_conv2d: the result would be {h} x {w}, expected {expected}")
    return _Steps(cells, s, p, d, (h, w))


def _check_convolution(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, steps: _Steps
) -> int:
    """Return the number of groups of offsets, if all arguments fit."""
    (N, C), (out, each), cells = x.shape[:2], weight.shape[:2], steps.cells[0] * steps.cells[1]
    if C % each or out % (C // each):
        expected = "(out, C / weight_groups, rows, columns), with weight_groups that divide out"
        raise ShiftsearchError(f"deform_conv2d: weight has shape {tuple(weight.shape)} for C={C}, expected {expected}")
    check_floats("deform_conv2d", "offset", offset)
    groups = offset.shape[1] // (2 * cells) if offset.ndim == 4 else 0
    if groups == 0 or C % groups or offset.shape[1] % (2 * cells):
        expected = f"(N, 2 * groups * {cells}, h, w), with groups that divide C={C}"
        raise ShiftsearchError(f"deform_conv2d: offset has shape {tuple(offset.shape)}, expected {expected}")
    check_shape("deform_conv2d", "offset", offset, (N, offset.shape[1], *steps.size))
    for name, tensor, shape in (("mask", mask, (N, groups * cells, *steps.size)), ("bias", bias, (out,))):
        if tensor is not None:
            check_floats("deform_conv2d", name, tensor)
            check_shape("deform_conv2d", name, tensor, shape)
    for name, tensor in {"weight": weight, "bias": bias, "mask": mask}.items():
        if tensor is not None and tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ShiftsearchError(f"deform_conv2d: {name} is {tensor.dtype}, expected {x.dtype} as x is")
    return groups


def _cells(offset: Tensor, groups: int, steps: _Steps, every: int) -> Tensor:
    """Return where the cells of each result lie from a query of every so many pixels, (N, groups, 1, h, w, cells, 3)."""
    near = grid_of_points(steps.cells, steps.dilation, steps.padding, offset.device)
    own = torch.zeros(1, 1, dtype=torch.int64, device=offset.device)
    found = placed(offset[:, None], near, own, groups)
    return _ahead(found, (steps.stride[0] - every, steps.stride[1] - every))


def _ahead(offsets: Tensor, steps: tuple[int, int]) -> Tensor:
    """Return offsets (..., h, w, K, 3) that grow by so many rows and columns from one query to the next."""
    if steps == (0, 0):
        return offsets
    lines = (s * torch.arange(n, device=offsets.device) for s, n in zip(steps, offsets.shape[-4:-2], strict=True))
    ahead = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)[:, :, None]
    return offsets + F.pad(ahead, (1, 0)).to(offsets.dtype)


def _product(cells: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the products of (N, cells, C, h, w) with a kernel (out, C / weight_groups, rows, columns)."""
    weight_groups = cells.shape[2] // weight.shape[1]
    grouped = cells.unflatten(2, (weight_groups, -1)).movedim(1, 2).flatten(1, 3)
    kernel = weight.flatten(2).movedim(2, 1).flatten(1)[..., None, None]
    return F.conv2d(grouped, kernel, bias, groups=weight_groups)
