"""The noise of frames, estimated from what differs between two of them along the motion, frequency by frequency.

Texture repeats along the motion, noise does not. Patches of one frame are compared with those of the next at the fraction
of a pixel where flow leads. Those with least contrast count, as they suffer least where flow errs; and a frequency at
which even these are nearly equal has more texture than noise, which then is at most that of higher frequencies, or of a
single frame. Where most shades have much less noise than one of them, that one has lost its motion.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._cosines import dct
from shiftsearch.video.denoise.model import SIDE
from shiftsearch.video.denoise.paths import flow_at

_APART = 4  # pixels between patches, or more in large frames
_MOST = 3000  # patches
_REACH = 5  # pixels around a patch, from which it is interpolated
_STEPS = 32  # of a pixel
_SHADES = 6  # groups of patches of like brightness, each of which counts as much
_FLATTEST = 0.25, 0.8  # share of each group that counts, if there is hardly noise, and if there is much
_MUCH = 0.04  # of white
_CLEAR = 0.15  # of the power of sums, in differences: where these have more, noise hides errors of flow
_LESS = 0.7  # of the variance that is found: less than by chance, so that it was errors of flow
_QUIET = 0.016  # of white: so little noise does not mislead
_MANY = 8.0  # times what a quarter of the patches stays below: those that differ more have lost their motion
_TOGETHER = 5  # patches a side, whose flow errs alike
_TIMES = 2  # that it is mended
_ERROR = 0.2  # pixels that flow errs
_BEST = 0.4, 0.95  # of these, for the same two: the others have lost their motion
_LOST = 1.2, 1.03  # what the best lack in variance
# Power of sums in that of differences: up to the first it may be noise, from the second it is not.
_TEXTURE = 50.0, 100.0
_GAUSSIAN = 1.27  # root mean square of differences, in the mean of their sizes; 1.2533 and what chance adds
_MORE = 4.0, 0.5  # by how much noise with heavier tails is taken for more, for each unit above that, and at most
_CODED = 0.4, 0.6  # share of the patches from which on this is done: below, what differs may be lost texture
_STRONGER = 3.0  # variance of noise in one shade, in that of others
_PHOTONS = 1.2  # the same for noise of photons, of which variances grow with brightness
_DARK = 16.0  # shades below white divided by this count as much
_STILL = 1e-3  # of the largest variance: less is no noise
_SURE = 0.1, 0.5  # share of all that patches show: what differs is hardly noise, and for sure
_DOUBTED = 0.1  # of the variance that differs counts where it is hardly noise
_ALIKE = 1.5  # times the variance of the median group: if none has more, it is noise
_TINY = 1e-30  # avoids divisions by 0


class Found(NamedTuple):
    """Variances of noise, as they were found."""

    variances: np.ndarray  # (C, 8, 8), at each frequency
    shades: np.ndarray  # (K,), values of the first plane
    of_shades: np.ndarray  # (C, K), where the first plane has them


class _Plane(NamedTuple):
    """The same of one plane."""

    variances: np.ndarray  # (8, 8)
    of_shades: np.ndarray  # (K,)
    share: float  # of each group of patches that counted


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
    first, *others = zip(before, after, levels, strict=True)
    groups = _shades(xp, _spectra(xp, before[0], at)[:, 0, 0] / SIDE)
    powers, led = _mended(xp, *first, at, led, groups, tuple(-(-(n - SIDE + 1) // apart) for n in size))
    groups = [(shade, _not_lost(xp, powers[0], group)) for shade, group in groups]
    found = [_of_plane(xp, *powers, groups, first[2], _FLATTEST[0])]
    for a, b, level in others:
        found.append(_of_plane(xp, *_powers(xp, a, b, at, led), groups, level, found[-1].share))
    variances, of_shades, _ = (np.stack(part) for part in zip(*found, strict=True))
    return Found(variances, np.array([shade for shade, _ in groups]), of_shades)


def of_flat(xp: Any, planes: Any) -> Found:
    """Return the noise of planes (C, H, W) that show nothing else, of 8 x 8 pixels at least."""
    size = planes.shape[1:]
    at = xp.stack(xp.meshgrid(*(xp.arange(0, n - SIDE + 1, _APART) for n in size), indexing="ij")).reshape(2, -1)
    spectra = [_spectra(xp, plane, at) for plane in planes]
    variances = np.stack([_host(xp, (spectrum.astype(np.float64) ** 2).mean(0)) for spectrum in spectra])
    variances[:, 0, 0] = np.maximum(variances[:, 0, 1], variances[:, 1, 0])  # the rest is what the planes show
    return Found(variances, np.array([float(planes[0].mean())]), variances.mean((1, 2))[:, None])


def _spectra(xp: Any, plane: Any, at: Any) -> Any:
    """Return the cosine transforms (n, 8, 8) of patches of a plane."""
    basis = xp.asarray(dct(SIDE))
    return basis @ _patches(xp, plane, at, 0) @ basis.T


def _powers(xp: Any, before: Any, after: Any, at: Any, led: Any) -> tuple[Any, Any]:
    """Return the powers (n, 8, 8) of differences and sums of patches and those to which shifts (2, n) lead."""
    whole, down, across = _ways(xp, led, _moves())
    kept = [(way**2).sum(2) for way in (down, across)]  # of the variance of noise
    scale = 1 / (1 + kept[0][:, :, None] * kept[1][:, None])
    here = _spectra(xp, before, at)
    there = down @ _patches(xp, after, at + whole, _REACH) @ across.swapaxes(1, 2)
    differ, joint = ((x * x).astype(np.float64) * scale for x in (here - there, here + there))
    return differ, joint


def _contrast(powers: Any) -> Any:
    """Return the power of each patch without that of its mean."""
    return powers.sum((1, 2)) - powers[:, 0, 0]


def _mended(
    xp: Any, before: Any, after: Any, level: float, at: Any, led: Any, groups: list[Any], grid: tuple[int, ...]
) -> tuple[tuple[Any, Any], Any]:
    """Return the powers of patches and shifts to others (2, n), mended if that explains what noise would not."""
    powers = _powers(xp, before, after, at, led)
    if _contrast(powers[0]).sum() >= _CLEAR * _contrast(powers[1]).sum():
        return powers, led
    better = led
    for _ in range(_TIMES):
        better = better + _finer(xp, before, after, at, better, grid)
    again = _powers(xp, before, after, at, better)
    now, then = (_of_plane(xp, *each, groups, level, _FLATTEST[0]).variances.mean() for each in (powers, again))
    return (again, better) if then < max(_LESS * now, _QUIET**2) else (powers, led)


def _not_lost(xp: Any, differ: Any, group: Any) -> Any:
    """Return the patches of a group whose motion was found: those that do not differ many times as much as others."""
    sums = differ[group].sum((1, 2))
    return group[sums <= _MANY * xp.quantile(sums, 0.25)]


def _finer(xp: Any, before: Any, after: Any, at: Any, led: Any, grid: tuple[int, ...]) -> Any:
    """Return what shifts (2, n) of the patches of a grid lack, in pixels, by least squares around each of them."""
    whole, down, across = _ways(xp, led, _moves())
    _, steeper, wider = _ways(xp, led, _slopes())
    there, across, wider = _patches(xp, after, at + whole, _REACH), across.swapaxes(1, 2), wider.swapaxes(1, 2)
    missed, y, x = _spectra(xp, before, at) - down @ there @ across, steeper @ there @ across, down @ there @ wider
    missed[:, 0, 0] = 0  # means also change with the light
    products = (y, y), (y, x), (x, x), (y, missed), (x, missed), (missed, missed)
    sums = ((a * b).sum((1, 2)).reshape(grid) for a, b in products)
    yy, yx, xx, ym, xm, mm = (around(xp, each, _TOGETHER).ravel() for each in sums)
    prior = mm / (SIDE * _ERROR) ** 2 + _TINY
    yy, xx = yy + prior, xx + prior
    return xp.clip(xp.stack([xx * ym - yx * xm, yy * xm - yx * ym]) / (yy * xx - yx * yx), -0.5, 0.5)


def around(xp: Any, plane: Any, side: int) -> Any:
    """Return the means of a plane (H, W) over the squares around each pixel."""
    for _ in range(2):
        padded = xp.pad(plane, ((side // 2 + 1, side // 2), (0, 0)), mode="edge").cumsum(0, dtype=np.float64)
        plane = (padded[side:] - padded[:-side]).T
    return plane / side**2


def _ways(xp: Any, led: Any, transforms: np.ndarray) -> tuple[Any, Any, Any]:
    """Return the whole pixels of shifts (2, n), and the transforms down and across for the rest."""
    whole = xp.rint(led).astype(np.int32)
    return whole, *xp.asarray(transforms)[xp.rint((led - whole) * _STEPS).astype(int) + _STEPS // 2]


@cache
def _slopes() -> np.ndarray:
    """Return by how much these transforms change with the shift, for a pixel."""
    return np.gradient(_moves(), 1 / _STEPS, axis=0).astype(np.float32)


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


def _of_plane(xp: Any, differ: Any, joint: Any, groups: list[tuple[float, Any]], level: float, share: float) -> _Plane:
    """Return what one plane tells, from powers (n, 8, 8) of differences and sums.

    Of each group, a share of the patches counts, that of the plane before, or more.
    """
    most = level * level
    contrast = _contrast(joint)
    # Among much noise, flow that errs makes no difference, and codecs take most noise from flat patches.
    for last in (False, True):
        pairs = [_flattest(xp, differ, joint, contrast, group, share) for _, group in groups]
        noise, all_, sizes = (np.stack(part) for part in zip(*pairs, strict=True))
        lawful = _lawful(np.array([shade for shade, _ in groups]), noise.mean((1, 2)), _contrast(all_) / SIDE**2)
        noise, sizes = lawful[:, None, None] * noise, np.sqrt(lawful)[:, None, None] * sizes
        if not last:
            share = float(np.clip(np.sqrt(noise.mean()) / _MUCH, share, _FLATTEST[1]))
    of_shades = (noise.sum((1, 2)) - noise[:, 0, 0]) / (SIDE * SIDE - 1)
    tails = (np.sqrt(noise) / np.maximum(sizes, _TINY)).mean(0)
    noise, all_ = noise.mean(0), all_.mean(0)
    more = _more(tails, noise, share)
    common = np.maximum(all_, _TINY) / np.maximum(noise, _TINY)
    texture = np.interp(common, _TEXTURE, (0, 1))
    texture[0, 0] = 0  # means always have much in common
    noise = _without_texture(more * noise, texture, most)
    return _Plane(noise, of_shades, share)


def _without_texture(noise: np.ndarray, texture: np.ndarray, most: float) -> np.ndarray:
    """Return variances (8, 8) of noise, which at frequencies of texture are at most those at higher ones, or `most`."""
    noise = np.pad(noise, (0, 1))
    for n in reversed(range(SIDE * SIDE)):
        y, x = divmod(n, SIDE)
        higher = max(noise[y + 1, x], noise[y, x + 1], noise[y + 1, x + 1], most)
        noise[y, x] *= (min(noise[y, x], higher) / max(noise[y, x], _TINY)) ** texture[y, x]
    noise[0, 0] = min(noise[0, 0], 1.2 * max(noise[0, 1], noise[1, 0]))  # means of patches also change with the light
    return noise[:SIDE, :SIDE]


def _lawful(shades: np.ndarray, noise: np.ndarray, all_: np.ndarray) -> np.ndarray:
    """Return the share of the variances of groups that may be noise: of what differs more, the rest is lost texture.

    Groups in which next to nothing differs are black bars, clipped or copied. Those of which most differs show noise for
    sure. If there are none, and groups are unlike each other, even what all differ by may be texture.
    """
    known = np.flatnonzero(noise > _STILL * noise.max())
    if not len(known):
        return np.ones(len(noise))
    part, times = noise / np.maximum(all_, _TINY), 1.0
    sure = known[part[known] > _SURE[1]]
    known = sure if 2 * len(sure) >= len(noise) else known
    middle = known[np.argsort(noise[known])[(len(known) - 1) // 2]]
    if not len(sure) and noise.max() > _ALIKE * noise[middle]:
        times = float(np.interp(part[known].max(), _SURE, (_DOUBTED, 1)))
    most = np.maximum(_STRONGER, _PHOTONS * shades / max(shades[middle], shades.max() / _DARK, _TINY))
    return np.minimum(1, times * most * noise[middle] / np.maximum(noise, _TINY))


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
