"""Checks of a flow: its convention as a whole, and each pixel by the flow back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.flow import upsample_flow
from shiftsearch.video.flow.arrays import agreement, checked, finite, inside, pairwise, warped
from shiftsearch.video.types import AnyArray, AnyFrames, Array

_FEW = 0.05  # of all pixels
_SMALL = 1e-6  # squared difference that is invisible: 0.001 of white


class Check(NamedTuple):
    """The result of `check`. As a string it is the message."""

    ok: bool
    message: str
    gains: dict[str, float]  # dB that each repair would bring

    def __str__(self) -> str:
        return self.message


def check(reference: AnyFrames, target: AnyFrames, flow: AnyArray) -> Check:
    """Check that a flow is in this package's convention.

    The target is warped by the flow, and by likely misreadings of it.

    Args:
        reference, target: frames or clips, as in `dis`
        flow: (2, H, W), or (T, 2, H, W), from reference to target. It may be coarser

    Returns:
        (ok, message, gains). The message describes the flow. The gains say what it would bring to negate the flow, to
        scale it or to swap its channels: by how many dB the difference between the reference and the warped target would
        shrink. `ok` is False if one of these brings 1 dB or more. It is True if nothing can be told

    Example:
        >>> y, x = np.mgrid[:48, :64]
        >>> here, there = (0.5 + 0.2 * np.sin((x - s) / 3) + 0.2 * np.cos((y + s) / 4) for s in (0, 3))
        >>> flow = np.zeros((2, 48, 64))
        >>> flow[0], flow[1] = 3, -3
        >>> print(check(here, there, flow))
        flow looks right: it brings the target 44.7 dB closer to the reference than no motion does
        >>> print(check(here, there, -flow))
        flow looks inverted (it leads from the target to the reference): negating it brings 49.9 dB
    """
    gains, share = {}, {}

    def natively(xp: Any, a: Any, b: Any, flow: Any) -> Any:
        full = finite(xp, _at_size("flow.check", "flow", flow, len(a), a.shape[-2:])).astype(a.dtype)
        full = xp.broadcast_to(full, (len(a), *full.shape[1:]))
        with np.errstate(over="ignore", invalid="ignore"):  # the flow may have vectors of any length
            found = {name: _difference(xp, a, b, reading.repair(xp, full)) for name, reading in _READINGS.items()}
        error, share["inside"] = found["itself"]
        for name, (repaired, within) in found.items():
            gains[name] = 10 * float(np.log10((error + _SMALL) / (repaired + _SMALL))) if within > _FEW else 0.0
        return a  # not used: the gains are the result

    pairwise("flow.check", natively, reference, target, flow=flow)
    motion = -gains.pop("no motion")
    del gains["itself"]
    return _verdict(gains, motion, share["inside"])


def _verdict(gains: dict[str, float], motion: float, within: float) -> Check:
    """Judge by the gains of repairs, the gain of the flow over no motion, and the share of pixels it keeps inside."""
    best = max(gains, key=gains.__getitem__)
    if gains[best] >= max(1, 1 - motion):
        _, looks, repair = _READINGS[best]
        return Check(False, f"flow looks {looks}: {repair} brings {gains[best]:.1f} dB", gains)
    if within <= _FEW:
        return Check(False, "flow looks wrong: it leads out of the frame nearly everywhere", gains)
    verdict = "flow looks right" if motion > 0.5 else "flow cannot be told right from wrong"
    verdict = verdict if motion > -1 else "flow looks wrong, and no repair that was tried helps"
    than = f"{'closer to' if motion >= 0 else 'farther from'} the reference than no motion does"
    return Check(motion > -1, f"{verdict}: it brings the target {abs(motion):.1f} dB {than}", gains)


class _Reading(NamedTuple):
    """A way to read a flow: how to repair it if it is meant so, what it then looks like, and the repair in words."""

    repair: Callable[[Any, Any], Any]  # (xp, flow) to flow
    looks: str = ""
    words: str = ""


def _scaled(by_x: float, by_y: float) -> Callable[[Any, Any], Any]:
    return lambda xp, flow: flow * xp.asarray([by_x, by_y], flow.dtype)[:, None, None]


def _scaled_by_size(share: float) -> Callable[[Any, Any], Any]:
    def repair(xp: Any, flow: Any) -> Any:
        H, W = flow.shape[-2:]
        return _scaled(share * W, share * H)(xp, flow)

    return repair


def _transposed(xp: Any, flow: Any) -> Any:
    return flow.swapaxes(-1, -2) if flow.shape[-1] == flow.shape[-2] else flow


_READINGS = {
    "itself": _Reading(_scaled(1, 1)),
    "no motion": _Reading(_scaled(0, 0)),
    "negated": _Reading(_scaled(-1, -1), "inverted (it leads from the target to the reference)", "negating it"),
    "swapped": _Reading(lambda xp, f: f[:, ::-1], "transposed (dy before dx)", "swapping its channels"),
    "swapped and negated": _Reading(
        lambda xp, f: -f[:, ::-1], "transposed and inverted", "swapping its channels and negating it"
    ),
    "rows and columns swapped": _Reading(
        _transposed, "transposed (x before y in the array)", "swapping its rows and columns"
    ),
    "dx negated": _Reading(_scaled(-1, 1), "mirrored (dx to the left)", "negating dx"),
    "dy negated": _Reading(_scaled(1, -1), "mirrored (dy upwards)", "negating dy"),
    "from -1..1": _Reading(_scaled_by_size(0.5), "normalised to -1..1", "multiplying dx by W / 2 and dy by H / 2"),
    "from 0..1": _Reading(_scaled_by_size(1.0), "normalised to 0..1", "multiplying dx by W and dy by H"),
}
_READINGS |= {
    f"times {factor:g}": _Reading(
        _scaled(factor, factor),
        "mis-scaled (vectors in pixels of another resolution)",
        f"multiplying it by {factor:g}",
    )
    for factor in (2, 4, 8, 16, 0.5, 0.25, 0.125)
}


@overload
def consistency(forward: NDArray[Any], backward: AnyArray, *, tolerance: float = 1.0) -> NDArray[np.bool_]: ...
@overload
def consistency(forward: Array, backward: AnyArray, *, tolerance: float = 1.0) -> Array: ...


def consistency(forward: Any, backward: Any, *, tolerance: float = 1.0) -> Any:
    """Return where flow there and back ends where it began. Elsewhere things are hidden, or the flow is wrong.

    Args:
        forward: flow from one frame to another, (2, H, W), or (T, 2, H, W)
        backward: flow from that one back to the first, the same shape
        tolerance: largest distance in pixels between start and end

    Returns:
        mask (H, W), or (T, H, W), of bool. It is also False where the flow leads out of the frame or is not finite

    Example:
        >>> forward = np.zeros((2, 4, 6), np.float32)
        >>> forward[0] = 2
        >>> consistency(forward, -forward)[0]
        array([ True,  True,  True,  True, False, False])
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float, np.number)) or not tolerance >= 0:
        raise ShiftsearchError(f"flow.consistency: tolerance is {tolerance!r}, expected a number from 0")

    def natively(xp: Any, forward: Any, backward: Any) -> Any:
        there, back = (checked("flow.consistency", *pair) for pair in (("forward", forward), ("backward", backward)))
        if there.shape != back.shape:
            raise ShiftsearchError(
                f"flow.consistency: backward has shape {tuple(back.shape)}, expected {tuple(there.shape)} as forward"
            )
        there, back = (x.reshape(-1, *x.shape[-3:]).astype("float32") for x in (there, back))
        mask = agreement(xp, there, back, tolerance)
        return mask.reshape(*forward.shape[:-3], *forward.shape[-2:])

    return transform("flow.consistency", natively, forward=forward, backward=backward)


# --- where flow leads -------------------------------------------------------------------------------
def _difference(xp: Any, reference: Any, target: Any, flow: Any) -> tuple[float, float]:
    """Return the mean squared difference where the flow stays inside the frame, and the share of pixels where it does.

    If there are next to no such pixels, the difference is that of the whole frame.
    """
    squared = ((warped(target, flow) - reference) ** 2).mean(1)
    within = inside(xp, flow)
    share = float(within.mean())
    return float(squared[within].mean() if share > _FEW else squared.mean()), share


def _at_size(op: str, name: str, flow: Any, frames: int, size: tuple[int, int]) -> Any:
    """Return flow as (T, 2, H, W), upsampled if it is coarser."""
    shape, (H, W) = tuple(checked(op, name, flow).shape), size
    flow = flow[None] if flow.ndim == 3 else flow
    if len(flow) not in (1, frames) or shape[-2] > H or shape[-1] > W:
        hint = ": its rows and columns look swapped" if shape[-2:] == (W, H) else ""
        raise ShiftsearchError(
            f"{op}: {name} has shape {shape}, expected ({frames}, 2, {H}, {W}), (2, {H}, {W}) or coarser{hint}"
        )
    return flow if shape[-2:] == (H, W) else upsample_flow(flow, (H, W))
