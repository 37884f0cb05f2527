"""Neighbourhood attention, in the layouts of NATTEN."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.attend_at import weighted_sum
from shiftsearch.nn.attention import attend
from shiftsearch.nn.layers import check_floats, check_whole
from shiftsearch.ops.score import score


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int | tuple[int, ...],
    *,
    dilation: int | tuple[int, ...] = 1,
    is_causal: bool | tuple[bool, ...] = False,
    scale: float | None = None,
) -> Tensor:
    """Return what NATTEN's na1d, na2d and na3d return: attention of each cell to those around it.

    Along each axis a cell at i looks at `kernel_size` cells in steps of `dilation`, of which kernel_size // 2 come before
    it; a window that would stick out moves inward by whole steps. With is_causal it looks at i and at the kernel_size - 1
    before it that there are. Windows that are not causal, odd in time and dilated alike down and across are attended to by
    `attend`, which keeps none of their weights; other ones take memory for a weight and a place of each neighbour.

    Args:
        q: queries (B, L, heads, dim), (B, H, W, heads, dim) or (B, T, H, W, heads, dim)
        k: keys, the same shape
        v: values; its dim may be another one
        kernel_size, dilation, is_causal: one for all axes, or a tuple with one for each
        scale: of the products; None is 1 / sqrt(dim)

    Returns:
        a tensor like v

    Example:
        >>> x = torch.randn(1, 3, 16, 24, 2, 4)
        >>> neighborhood_attention(x, x, x, (3, 5, 5)).shape
        torch.Size([1, 3, 16, 24, 2, 4])
    """
    axes = _axes(q, k, v, kernel_size, dilation, is_causal)
    missing = 3 - len(axes)
    axes = [_Axis(1, 1, False)] * missing + axes
    query, key, value = (_video(x, missing) for x in (q, k, v))
    by = _by_attend if _are_of_attend(*axes) else _by_places
    out = by(query, key, value, axes, heads=q.shape[-2], scale=q.shape[-1] ** -0.5 if scale is None else scale)
    return out.movedim(-3, -1).reshape(v.shape)


class _Axis(NamedTuple):
    """What a window is along an axis."""

    kernel: int
    dilation: int
    causal: bool


def _are_of_attend(time: _Axis, rows: _Axis, columns: _Axis) -> bool:
    """Return whether `attend` has such windows."""
    in_time = time.kernel == 1 or (time.kernel % 2 == 1 and time.dilation == 1)
    alike = rows.dilation == columns.dilation or 1 in (rows.kernel, columns.kernel)
    return in_time and alike and not (time.causal or rows.causal or columns.causal)


def _video(x: Tensor, missing: int) -> Tensor:
    """Return (B, [[T,] H,] W, heads, dim) as a video (B, T, heads * dim, H, W), a view."""
    return x.flatten(-2).reshape(x.shape[0], *(1,) * missing, *x.shape[1:-2], -1).movedim(-1, -3)


def _by_attend(q: Tensor, k: Tensor, v: Tensor, axes: list[_Axis], *, heads: int, scale: float) -> Tensor:
    time, rows, columns = axes
    step = rows.dilation if rows.kernel > 1 else columns.dilation
    # No window sticks out, whatever the border; with little room only "zeros" is sure of it.
    roomy = all(n > axis.kernel * step for n, axis in zip(q.shape[-2:], (rows, columns), strict=True))
    options: dict[str, Any] = {"window": (rows.kernel, columns.kernel), "even": "before", "step": step, "topk": None}
    options |= {"radius": time.kernel // 2, "border": "reflect" if roomy else "zeros", "metric": "dot"}
    return attend(q, k, v, heads=heads, scale=scale, **options)


def _by_places(q: Tensor, k: Tensor, v: Tensor, axes: list[_Axis], *, heads: int, scale: float) -> Tensor:
    B, T, _, H, W = q.shape
    offsets, there = _neighbours((T, H, W), axes, q.device)
    offsets = offsets.expand(B, 1, *offsets.shape)  # for all heads
    logits = score(q, k, offsets, heads=heads, metric="dot", border="zeros") * scale
    if any(axis.causal for axis in axes):
        logits = logits.masked_fill(~there, -torch.inf)
    return weighted_sum(v, logits.softmax(-1), offsets, border="zeros")


def _neighbours(size: tuple[int, ...], axes: list[_Axis], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return offsets (T, H, W, neighbours, 3), and whether there are such neighbours."""
    shape, offsets = (*size, *(axis.kernel for axis in axes)), []
    there = torch.ones((), dtype=torch.bool, device=device)
    for number, (n, axis) in enumerate(zip(size, axes, strict=True)):
        at = [1] * 6
        at[number], at[number + 3] = n, axis.kernel
        moves, exist = (x.reshape(at) for x in _axis(n, *axis, device))
        offsets.append(moves.expand(shape))
        there = there & exist
    return torch.stack(offsets, -1).reshape(*size, -1, 3), there.expand(shape).reshape(*size, -1)


def _axis(n: int, kernel: int, dilation: int, causal: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return how far each of n cells is from its neighbours, (n, kernel), and whether there are such."""
    i = torch.arange(n, device=device)[:, None]
    at, count = i // dilation, (n - 1 - i % dilation) // dilation + 1  # among the cells in steps of `dilation`
    first = at - kernel + 1 if causal else torch.minimum((at - kernel // 2).clamp(min=0), count - kernel)
    number = first + torch.arange(kernel, device=device)
    there = number >= 0
    return torch.where(there, (number - at) * dilation, 0).int(), there


def _axes(q: Tensor, k: Tensor, v: Tensor, kernel_size: Any, dilation: Any, is_causal: Any) -> list[_Axis]:
    """Return the axes, if all arguments fit."""
    caller = "neighborhood_attention"
    for name, x in {"q": q, "k": k, "v": v}.items():
        check_floats(caller, name, x)
        if x.ndim not in (4, 5, 6) or 0 in x.shape[1:]:
            expected = "(B, L, heads, dim), (B, H, W, heads, dim) or (B, T, H, W, heads, dim)"
            raise ShiftsearchError(f"{caller}: {name} has shape {tuple(x.shape)}, expected {expected}")
    if k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
        found = f"k and v have shapes {tuple(k.shape)} and {tuple(v.shape)}"
        raise ShiftsearchError(f"{caller}: {found}, expected {tuple(q.shape)}, but for v's last axis")
    options = {"kernel_size": kernel_size, "dilation": dilation, "is_causal": is_causal}
    each = [_each(name, option, q.ndim - 3) for name, option in options.items()]
    for name, along in zip(("kernel_size", "dilation"), each, strict=False):
        for number in along:
            check_whole(caller, **{name: number})
    if not all(isinstance(flag, bool) for flag in each[2]):
        raise ShiftsearchError(f"{caller}: is_causal is {is_causal!r}, expected True or False, or one for each axis")
    for n, kernel, step in zip(q.shape[1:-2], *each[:2], strict=True):
        if kernel * step > n:
            found = f"kernel_size is {kernel_size!r} and dilation {dilation!r}"
            raise ShiftsearchError(f"{caller}: {found}, expected a product of at most {n}, the cells of an axis")
    return [_Axis(*options) for options in zip(*each, strict=True)]


def _each(name: str, option: Any, axes: int) -> tuple[Any, ...]:
    found = tuple(option) if isinstance(option, (tuple, list)) else (option,) * axes
    if len(found) != axes:
        raise ShiftsearchError(
            f"neighborhood_attention: {name} is {option!r}, expected one, or one for each of {axes} axes"
        )
    return found
