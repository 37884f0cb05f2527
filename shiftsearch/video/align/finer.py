"""Fractions of pixels that a flow is off, found where it leads and not by trying.

The frame is moved by the flow. What still differs around a pixel, beside how the picture changes from pixel to pixel there,
says how far to go: the least squares of that are one step. It is held back where the picture is flat or noisy, and where it
gains no more than noise alone would: flow that was right stays.
"""

from __future__ import annotations

from typing import Any

from shiftsearch.video.flow.arrays import warped
from shiftsearch.video.flow.field import mean_around
from shiftsearch.video.flow.pyramid import slopes

_SAME = 0.01  # of white: a smaller difference is none
_LONGEST = 0.5  # pixels: farther off, slopes say nothing
_FEW, _MANY = 8, 12  # pixels each way that move together before a search: more under noise
_NOISY = 0.02  # of white
_CHANCE = 1.75  # times what noise alone would gain on average: less is not told from it
_WIDE = 12  # pixels each way that tell what is gained
_SOFT = 0.375  # of the noise is left in a softened frame


def before(xp: Any, reference: Any, target: Any, flow: Any, level: float) -> Any:
    """Return flow before a search, one step nearer. What stands still stays."""
    here, there = (softened(xp, frame.mean(0)) for frame in (reference, target))
    around = _MANY if level > _NOISY else _FEW
    level = _SOFT * level / len(reference) ** 0.5
    return xp.where((flow == 0).all(0), flow, finer(xp, here, there, flow, level, around=around, likely=0.3))


def after(xp: Any, reference: Any, target: Any, begun: Any, found: Any, level: float) -> Any:
    """Return flow after a search, one step nearer where it stayed. What moved did not move as what is around it."""
    stays = (found == begun).all(0) & (found != 0).any(0)
    here, there = (frame.mean(0) for frame in (reference, target))
    level = level / len(reference) ** 0.5
    return xp.where(stays, finer(xp, here, there, found, level, around=3, likely=0.15), found)


def softened(xp: Any, frame: Any) -> Any:
    """Return a frame (H, W) of means weighted 1, 2, 1: reading it between pixels blurs it no more."""
    wide = xp.pad(frame, 1, mode="edge")
    wide = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
    return (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / 4


def finer(xp: Any, reference: Any, target: Any, flow: Any, level: float, *, around: int, likely: float) -> Any:
    """Return flow (2, H, W) after one step towards where the frames differ least.

    Args:
        xp: NumPy or CuPy
        reference, target: frames (H, W)
        flow: (2, H, W)
        level: standard deviation of their noise
        around: pixels each way that move together. They may differ by the same amount, such as by their light
        likely: pixels that the flow is off: the step is shorter where this is likelier than the difference to be noise
    """
    moved = warped(target[None, None], flow[None].astype("float32"))[0, 0]
    apart = moved - reference
    across, down = slopes(xp, (moved + reference)[None] / 2)
    weight, across, down = 1 / (2 * level**2 + _SAME**2 + apart**2), across[0], down[0]
    products = across**2, across * down, down**2, across * apart, down * apart
    means = mean_around(weight * xp.stack([xp.ones_like(apart), across, down, apart, *products]), around)
    whole, a, b, c, xx, xy, yy, x, y = means
    values = (2 * around + 1) ** 2
    held = 1 / (likely**2 * values)
    xx, xy, yy = xx - a * a / whole + held, xy - a * b / whole, yy - b * b / whole + held
    x, y = x - a * c / whole, y - b * c / whole
    scale = 1 / (xx * yy - xy * xy)
    dx, dy = (xy * y - yy * x) * scale, (xy * x - xx * y) * scale
    gained, freedom = -(x * dx + y * dy), 2 - held * (xx + yy) * scale
    by_chance = _CHANCE * 2 * level**2 * whole * freedom / values
    gained, by_chance = mean_around(xp.stack([gained, by_chance]), _WIDE)
    step = xp.stack([dx, dy])
    step = xp.where((abs(step) <= _LONGEST).all(0), step, 0)
    return flow + step * xp.clip(1 - by_chance / xp.maximum(gained, 1e-12), 0, 1)
