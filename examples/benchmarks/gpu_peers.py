"""Others at comparable work. Each is skipped, with the reason, where it is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median, quantiles
from typing import Any

import numpy as np

import shiftsearch

FRAMES, HEADS, CHANNELS, WINDOW = 5, 2, 16, 9
TILE = 8, 16  # rows and columns of the 128 pixels that FlexAttention has in a block
Row = dict[str, Any]


def rows(device: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield a row for each: the milliseconds of a call."""
    for name, prepare in PEERS.items():
        yield name, partial(_row, device, prepare)


def _row(device: Any, prepare: Callable[[Any], dict[str, Callable[[], Any]]]) -> Row:
    try:
        sides = prepare(device)
    except ImportError as missing:
        return {"skipped": str(missing)}
    row: Row = {}
    for side, run in sides.items():
        times = device.times(run)
        low, _, high = quantiles(times, n=4) if len(times) > 1 else times * 3
        row |= {f"{side} ms": median(times), f"{side} from": low, f"{side} to": high}
    return row


def _size(device: Any) -> tuple[int, int, int]:
    side = device.size or 256
    return FRAMES if device.size is None else 3, side, side


# --- attention to a window, without motion and without top-k ----------------------------------------
def flex_attention(device: Any) -> dict[str, Callable[[], Any]]:
    """FlexAttention with pixels in the order of tiles, so that a block's keys are those of the tiles around it."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention as attend

    T, H, W = _size(device)
    mask = _blocks(T, H, W, device.torch)
    q, k, v = (torch.randn(1, HEADS, T * H * W, CHANNELS, device=device.torch).half() for _ in "qkv")
    if device.torch == "cuda":
        attend = torch.compile(attend)
    return {"FlexAttention": lambda: attend(q, k, v, block_mask=mask)}


def _blocks(T: int, H: int, W: int, where: str) -> Any:
    """Return the mask of those that lie in each other's window, in blocks of tiles."""
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    rows, columns = TILE
    down, across = H // rows, W // columns

    def place(i: Any) -> tuple[Any, Any, Any]:
        tile, at = i // (rows * columns), i % (rows * columns)
        y, x = tile // across % down * rows + at // columns, tile % across * columns + at % columns
        return tile // (across * down), y, x

    def near(b: Any, h: Any, i: Any, j: Any) -> Any:
        (t, y, x), (s, v, u), half = place(i), place(j), WINDOW // 2
        return ((t - s).abs() <= 1) & ((y - v).abs() <= half) & ((x - u).abs() <= half)

    t, y, x = np.indices((T, down, across)).reshape(3, -1)
    tiles = (abs(axis[:, None] - axis) <= 1 for axis in (t, y, x))
    touch = torch.from_numpy(np.logical_and.reduce(list(tiles))).to(where)
    counts = touch.sum(-1, dtype=torch.int32)[None, None]
    order = touch.to(torch.int8).argsort(descending=True, stable=True).to(torch.int32)[None, None]
    return BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=rows * columns, mask_mod=near)


def natten(device: Any) -> dict[str, Callable[[], Any]]:
    import natten
    import torch

    T, H, W = _size(device)
    q, k, v = (torch.randn(1, T, H, W, HEADS, CHANNELS, device=device.torch).half() for _ in "qkv")
    return {"NATTEN": lambda: natten.na3d(q, k, v, kernel_size=(3, WINDOW, WINDOW))}


# --- search ---------------------------------------------------------------------------------------
def stnls(device: Any) -> dict[str, Callable[[], Any]]:
    import stnls
    import torch

    T, H, W = _size(device)
    q, k = (torch.randn(1, T, HEADS * CHANNELS, H, W, device=device.torch) for _ in "qk")
    flow = torch.zeros(1, T, 2, 2, H, W, device=device.torch)
    search = stnls.search.NonLocalSearch(WINDOW, 1, 7, 10, nheads=HEADS, dist_type="l2", stride0=1, stride1=1)
    return {"stnls": lambda: search(q, k, flow)}


# --- sampling at fractional places ----------------------------------------------------------------
def deformable(device: Any) -> dict[str, Callable[[], Any]]:
    """Nine weighted samples for each pixel and head: a deformable convolution with kernels of ones, and `aggregate`."""
    import torch

    try:
        from torchvision.ops import deform_conv2d
    except RuntimeError as broken:
        raise ImportError(f"torchvision does not fit this torch: {broken}") from broken
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        raise ImportError("torchvision has no operators for this torch")

    _, H, W = _size(device)
    xp, C, rng = device.xp, HEADS * CHANNELS, np.random.default_rng(0)
    moves = rng.uniform(-3, 3, (HEADS, 9, 2, H, W)).astype(np.float32)
    weights = rng.random((HEADS, 9, H, W), np.float32)
    video = rng.standard_normal((1, C, H, W), np.float32)
    there = [torch.from_numpy(a).to(device.torch) for a in (video, moves, weights)]
    # a group sums its channels, so each channel is a group, with the places of its head
    kernel = torch.ones(C, 1, 3, 3, device=device.torch)
    places, mask = there[1].reshape(1, -1, H, W), there[2].reshape(1, -1, H, W)
    offsets = np.zeros((1, HEADS, 1, H, W, 9, 3), np.float32)
    taps = np.stack([*np.mgrid[-1:2, -1:2].reshape(2, 9)], -1)
    offsets[0, :, 0, ..., 1:] = moves.transpose(0, 3, 4, 1, 2) + taps
    given = [xp.asarray(a) for a in (video[:, None], weights.transpose(0, 2, 3, 1)[None, :, None], offsets)]

    def theirs() -> Any:
        return deform_conv2d(there[0], places, kernel, padding=1, mask=mask)

    def ours() -> Any:
        return shiftsearch.aggregate(*given, border="zeros")

    error = float(abs(xp.asarray(theirs()) - ours()[0]).max())
    if not error < 1e-3:
        raise shiftsearch.ShiftsearchError(f"deform_conv2d differs by {error:.1e}: nothing is timed")
    return {"deform_conv2d": theirs, "aggregate": ours}


PEERS = {
    "FlexAttention, window 9, no motion, half": flex_attention,
    "NATTEN, window 9, no motion, half": natten,
    "stnls, search patch 7": stnls,
    "deform_conv2d, 9 samples": deformable,
}
