"""The noise of frames, estimated from what differs between two of them along the motion, frequency by frequency.

Texture repeats along the motion, noise does not. Patches of one frame are compared with those of the next at the fraction
of a pixel where flow leads. Those with least contrast count, as they suffer least where flow errs; and a frequency at
which even these are nearly equal has more texture than noise, which then is at most that of a single frame.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from shiftsearch.video.denoise.cosines import dct
from shiftsearch.video.denoise.model import SIDE
from shiftsearch.video.denoise.paths import flow_at

_APART = 4  # pixels between patches, or more in large frames
_MOST = 3000  # patches
_REACH = 3  # pixels around a patch, from which it is interpolated
_STEPS = 8  # of a pixel
_SHADES = 6  # groups of patches of like brightness, each of which counts as much
_FLATTEST = 0.25, 0.8  # share of each group that counts, if there is hardly noise, and if there is much
_MUCH = 0.04  # of white
_BEST = 0.4, 0.95  # of these, for the same two: the others have lost their motion
_LOST = 1.2, 1.03  # what the best lack in variance
# Power of sums in that of differences: up to the first it may be noise, from the second it is not.
_TEXTURE = 50.0, 100.0
_GAUSSIAN = 1.27  # root mean square of differences, in the mean of their sizes; 1.2533 and what chance adds
_MORE = 4.0, 0.5  # by how much noise with heavier tails is taken for more, for each unit above that, and at most
_CODED = (
    0.4,
    0.6,
)  # share of the patches that counts, from which on this is done: below, what differs may be lost texture
_TINY = 1e-30  # avoids divisions by 0


class Found(NamedTuple):
    """Variances of noise, as they were found."""

    variances: np.ndarray  # (C, 8, 8), at each frequency
    shades: np.ndarray  # (K,), values of the first plane
    of_shades: np.ndarray  # (C, K), where the first plane has them


def differences(xp: Any, before: Any, after: Any, flow: Any, levels: Any) -> Found | None:
    """Return what a frame (C, H, W) tells of its noise, or None if it is too small.

    `flow` leads to the next frame, `after`; `levels` are the standard deviations that are found in a single frame.
    """
    size = before.shape[1:]
    if min(size) < SIDE:
        return None
    apart = max(_APART, int(np.sqrt(size[0] * size[1] / _MOST)))
    at = xp.stack(xp.meshgrid(*(xp.arange(0, n - SIDE + 1, apart) for n in size), indexing="ij")).reshape(2, -1)
    led = flow_at(xp, flow, at[::-1, :, None] + (SIDE - 1) / 2, size)[::-1, :, 0]
    whole = xp.rint(led).astype(np.int32)
    # the transforms that also move a patch by the rest, down and to the right
    moves = xp.asarray(_moves())[xp.rint((led - whole) * _STEPS).astype(int) + _STEPS // 2]
    kept = (moves**2).sum(3)  # of the variance of noise
    scale = 1 / (1 + kept[0][:, :, None] * kept[1][:, None])
    basis = xp.asarray(dct(SIDE))
    groups: list[Any] = []
    share = _FLATTEST[0]
    found = []
    for a, b, level in zip(before, after, levels, strict=True):
        here = basis @ _patches(xp, a, at, 0) @ basis.T
        there = moves[0] @ _patches(xp, b, at + whole, _REACH) @ moves[1].swapaxes(1, 2)
        differ, joint = ((x * x).astype(np.float64) * scale for x in (here - there, here + there))
        groups = groups or _shades(xp, here[:, 0, 0] / SIDE)
        *of_plane, share = _of_plane(xp, differ, joint, [group for _, group in groups], level * level, share)
        found.append(of_plane)
    variances, of_shades = (np.stack(part) for part in zip(*found, strict=True))
    return Found(variances, np.array([shade for shade, _ in groups]), of_shades)


def of_flat(xp: Any, planes: Any) -> Found:
    """Return the noise of planes (C, H, W) that show nothing else, of 8 x 8 pixels at least."""
    size = planes.shape[1:]
    at = xp.stack(xp.meshgrid(*(xp.arange(0, n - SIDE + 1, _APART) for n in size), indexing="ij")).reshape(2, -1)
    basis = xp.asarray(dct(SIDE))
    spectra = [basis @ _patches(xp, plane, at, 0) @ basis.T for plane in planes]
    variances = np.stack([_host(xp, (spectrum.astype(np.float64) ** 2).mean(0)) for spectrum in spectra])
    variances[:, 0, 0] = np.maximum(variances[:, 0, 1], variances[:, 1, 0])  # the rest is what the planes show
    return Found(variances, np.array([float(planes[0].mean())]), variances.mean((1, 2))[:, None])


@cache
def _moves() -> np.ndarray:
    """Return cosine transforms of patches that are interpolated at a fraction of a pixel, (fractions, 8, 14)."""
    places = np.arange(SIDE + 2 * _REACH) - _REACH - np.arange(SIDE)[:, None]
    apart = places - np.arange(-_STEPS // 2, _STEPS // 2 + 1)[:, None, None] / _STEPS
    taps = np.where(abs(apart) < _REACH + 1, np.sinc(apart) * np.cos(np.pi / 2 * apart / (_REACH + 1)) ** 2, 0)
    return (dct(SIDE) @ (taps / taps.sum(2, keepdims=True))).astype(np.float32)


def _patches(xp: Any, plane: Any, at: Any, around: int) -> Any:
    """Return the patches (n, side, side) of a plane at places (2, n), and so many pixels around them."""
    reach = xp.arange(-around, SIDE + around)
    y, x = (xp.clip(places[:, None] + reach, 0, n - 1) for places, n in zip(at, plane.shape, strict=True))
    return plane[y[:, :, None], x[:, None]]


def _of_plane(
    xp: Any, differ: Any, joint: Any, groups: list[Any], most: float, share: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the variances (8, 8) of one plane, and those of its shades, from powers (n, 8, 8) of differences and sums.

    Of each group, a share of the patches counts, the last of the planes before, or more. It is returned, too.
    """
    contrast = joint.sum((1, 2)) - joint[:, 0, 0]
    # Among much noise, flow that errs makes no difference, and codecs take most noise from flat patches.
    for last in (False, True):
        pairs = [_flattest(xp, differ, joint, contrast, group, share) for group in groups]
        noise, all_, sizes = (np.stack(part) for part in zip(*pairs, strict=True))
        if not last:
            share = float(np.clip(np.sqrt(noise.mean()) / _MUCH, share, _FLATTEST[1]))
    of_shades = (noise.sum((1, 2)) - noise[:, 0, 0]) / (SIDE * SIDE - 1)
    tails = (np.sqrt(noise) / np.maximum(sizes, _TINY)).mean(0)
    noise, all_ = noise.mean(0), all_.mean(0)
    more = _more(tails, noise, share)
    common = np.maximum(all_, _TINY) / np.maximum(noise, _TINY)
    texture = np.interp(common, _TEXTURE, (0, 1))
    texture[0, 0] = 0  # means always have much in common
    noise = more * noise * (np.minimum(noise, most) / np.maximum(noise, _TINY)) ** texture
    noise[0, 0] = min(noise[0, 0], 1.2 * max(noise[0, 1], noise[1, 0]))  # means of patches also change with the light
    return noise, of_shades, share


def _more(tails: np.ndarray, noise: np.ndarray, share: float) -> np.ndarray:
    """Return what variances are multiplied by for the tails of what differs; less where there is less noise than elsewhere."""
    slope, most = _MORE
    heavy = np.clip(slope * (tails - _GAUSSIAN), 0, most) * np.interp(share, _CODED, (0, 1))
    return (1 + heavy * np.minimum(noise / max(noise.mean(), _TINY), 1)) ** 2


def _flattest(
    xp: Any, differ: Any, joint: Any, contrast: Any, group: Any, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means (8, 8) of the share of a group's patches that has least contrast: powers, of both, and sizes.

    Sizes are those of differences.
    """
    chosen = group[xp.argsort(contrast[group])[: max(1, int(share * len(group)))]]
    best, lost = (np.interp(share, _FLATTEST, of) for of in (_BEST, _LOST))
    kept = chosen[xp.argsort(differ[chosen].sum((1, 2)))[: max(1, int(best * len(chosen)))]]
    powers = (_host(xp, part[kept].mean(0)) * lost for part in (differ, joint))
    return *powers, _host(xp, xp.sqrt(differ[kept]).mean(0)) * np.sqrt(lost)


def _shades(xp: Any, means: Any) -> list[tuple[float, Any]]:
    """Return groups of patches of like brightness: their mean, and their numbers."""
    order, count = xp.argsort(means), len(means)
    parts = [order[count * i // _SHADES : count * (i + 1) // _SHADES] for i in range(_SHADES)]
    return [(float(means[part].mean()), part) for part in parts if len(part)]


def _host(xp: Any, array: Any) -> np.ndarray:
    return array if xp is np else xp.asnumpy(array)
