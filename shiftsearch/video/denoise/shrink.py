"""Filters of groups of patches (q, n, pixels).

Each takes (xp, noisy, guide, sigma, shape) and returns the noise that it removes, like `noisy`, and weights (q). It may
overwrite both groups, which may be the same. The noise has a standard deviation of sigma, and of sigma times shape (pixels)
at each frequency; None is white noise.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from shiftsearch import _arrays
from shiftsearch._cosines import bases

_ROUNDING = 1e-6  # of a group's largest variance: single precision does not resolve smaller components
_EXACT = 0.02  # of the variance of noise: components that differ by less are not told apart
_OUTSTANDING = 4.0  # standard deviations of noise, which none of the frequencies of a patch exceeds by chance
_TINY = 1e-20  # avoids divisions by 0 where there is no noise


def variance(sigma: float) -> float:
    """Return the variance of noise, never 0."""
    return sigma * sigma + _TINY


def threshold(xp: Any, noisy: Any, guide: Any, sigma: float, shape: Any, *, factor: float) -> tuple[Any, Any]:
    """Remove the frequencies of a group that do not stand out of the noise."""
    shape = xp.ones(noisy.shape[-1], np.float32) if shape is None else shape
    found, weights = _arrays.computed("threshold", noisy, factor * sigma * shape, shape * shape)
    return noisy - found, weights


def wiener(xp: Any, noisy: Any, guide: Any, sigma: float, shape: Any, *, share: float) -> tuple[Any, Any]:
    """Remove the share of each frequency of a group that is no signal, estimated from the guide.

    The guide has lost some of the signal: only this `share` of the noise is set against it.
    """
    shape = xp.ones(noisy.shape[-1], np.float32) if shape is None else shape
    power = shape * shape
    found, weights = _arrays.computed("wiener", noisy, guide, share * variance(sigma) * power, power)
    return noisy - found, weights


def principal(
    xp: Any,
    noisy: Any,
    guide: Any,
    sigma: float,
    shape: Any,
    *,
    least: float,
    gain: Callable[[Any], Any],
    depth: int = 1,
) -> tuple[Any, Any]:
    """Project a group onto the principal components of the guide, and weigh each component by its variance.

    This is non-local Bayes. A component whose variance is at least `least`, in variances of the noise, is multiplied by
    `gain` of it; the others are dropped. To this the mean of the group is added, cleared of the noise that is left in it.
    Patches span `depth` frames.
    """
    if sigma == 0:  # all is signal, and the smallest components are only made by rounding
        return xp.zeros_like(noisy), xp.ones(len(noisy), noisy.dtype)
    if shape is not None:
        to_white, back = _whitening(xp, depth, shape)
        white = noisy @ to_white
        groups = white, white if guide is noisy else guide @ to_white
        found, weights = principal(xp, *groups, sigma, None, least=least, gain=gain, depth=depth)
        return found @ back, weights
    n, pixels = guide.shape[-2:]
    mean = xp.full((1, n), 1 / n, guide.dtype) @ guide  # in a fifth of the time that NumPy's mean takes
    noisy -= mean  # in place, as groups are large
    if guide is not noisy:
        guide -= mean
    back = guide.swapaxes(-1, -2)
    few = pixels > n  # the components then follow from products of patches with each other
    products = (guide @ back if few else back @ guide) * np.float32(1 / n)
    variances, axes = _components(xp, products, least * variance(sigma), _EXACT * variance(sigma))
    relative = variances / variance(sigma)
    stands_out = (relative >= least) & (variances > _ROUNDING * variances[:, :1])
    gains = xp.where(stands_out, gain(xp.maximum(relative, least)), 0)
    scaled = gains / xp.maximum(n * variances, _TINY) if few else gains
    axes = back @ axes if few else axes
    noisy -= ((noisy @ axes) * scaled[:, None]) @ axes.swapaxes(-1, -2)
    weights = 1 / (1 / n + gains.sum(-1) / pixels)  # by the variance of noise that is left in a pixel
    # clearing the mean counts where all other noise is gone; elsewhere it would only cost detail that some patches have
    noisy += _unclear(xp, mean, sigma * weights / n**1.5, depth)
    return noisy, weights


def _unclear(xp: Any, means: Any, sigma: Any, depth: int) -> Any:
    """Return the frequencies of the means (q, 1, pixels) of groups that noise of a standard deviation `sigma` (q) explains.

    Of a flat group, they leave only its brightness and slopes.
    """
    shape = len(means), depth, means.shape[-1] // depth
    along, within, along_back, within_back = bases(xp, *shape[1:])
    patches = means.reshape(-1, shape[2])  # of all groups, multiplied at once
    mean = means.mean(-1).repeat(depth, 0)
    dropped = along @ ((patches - mean) @ within).reshape(shape)
    dropped *= xp.abs(dropped) <= _OUTSTANDING * sigma[:, None, None]
    return ((along_back @ dropped).reshape(patches.shape) @ within_back).reshape(means.shape)


def _components(xp: Any, matrices: Any, least: float, exact: float) -> tuple[Any, Any]:
    """Return eigenvalues (q, k) of symmetric matrices (q, m, m), the largest first, and their vectors (q, m, k).

    There are at least all of `least` and more. They need be no more exact than `exact`.
    """
    if xp is np and matrices.dtype == np.float32:
        vectors = importlib.import_module("shiftsearch.video.denoise.components")  # loads numba
        return vectors.largest(matrices, least, exact)
    values, axes = xp.linalg.eigh(matrices)
    return values[:, ::-1], axes[:, :, ::-1]


def differences(
    xp: Any, noisy: Any, guide: Any, sigma: float, shape: Any, *, shrink: Callable[..., tuple[Any, Any]]
) -> tuple[Any, Any]:
    """Filter how the patches of a group differ from their mean, which stays as it is."""
    groups = (groups - groups.mean(-2, keepdims=True) for groups in (noisy, guide))
    found, weights = shrink(xp, *groups, sigma, shape)
    return found, 1 / (1 / weights + noisy.shape[-1])


def evened(
    xp: Any, noisy: Any, guide: Any, sigma: float, shape: Any, *, noisier: Any, shrink: Callable[..., tuple[Any, Any]]
) -> tuple[Any, Any]:
    """Filter a group whose patches are `noisier` (q, n) than sigma tells, with all noise made equal.

    Each patch is divided by its noise, and the group rotated so that patches of the same thing are equal again. So each
    counts as much as it tells.
    """
    noisier = noisier[..., None]
    n, own = noisier.shape[1], 1 / noisier
    size = xp.sqrt((own * own).sum(1, keepdims=True))
    same, own = n**-0.5, own / size  # what patches of the same thing become, and what they are
    both = 1 + same * own.sum(1, keepdims=True)

    def rotated(groups: Any, before: Any, after: Any) -> Any:
        from_, to = ((way * groups).sum(1, keepdims=True) for way in (before, after))
        rest = (from_ + to) / both
        return groups + after * (2 * from_ - rest) - before * rest

    found, weights = shrink(xp, *(rotated(groups / noisier, own, same) for groups in (noisy, guide)), sigma, shape)
    return rotated(found, same, own) * noisier, weights * (size[:, 0, 0] ** 2 / n)


def _whitening(xp: Any, depth: int, shape: Any) -> tuple[Any, Any]:
    """Return the matrix (pixels, pixels) that makes noise of patches that span `depth` frames white, and its inverse.

    Patches stay patches: their frequencies are scaled.
    """
    _, within, _, within_back = bases(xp, 1, len(shape))
    frames = xp.eye(depth, dtype=within.dtype)
    return xp.kron(frames, within / shape @ within_back), xp.kron(frames, within * shape @ within_back)
