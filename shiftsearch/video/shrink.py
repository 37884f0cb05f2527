"""Filters of groups of patches (q, n, pixels), each given by (xp, noisy, guide, sigma): estimates and weights (q).

They may overwrite what is noisy.
"""

from __future__ import annotations

import importlib
import math
from functools import cache

import numpy as np

from shiftsearch._geometry import dct


@cache
def _bases(xp, n: int, pixels: int):
    """(along, within, their transposes): groups (n, pixels) become along @ (groups @ within)."""
    of_patch = dct(math.isqrt(pixels))
    along, within = dct(n), np.kron(of_patch, of_patch).T
    return [xp.asarray(np.ascontiguousarray(basis)) for basis in (along, within, along.T, within.T)]


def _spectra(xp, groups):
    """Vector code that does the same, or None; it overwrites groups."""
    vectors = importlib.import_module("shiftsearch.backends.cpu.spectra") if xp is np else None  # loads numba
    return vectors if vectors and vectors.covers(groups) else None


def threshold(xp, noisy, guide, sigma, *, factor):
    """Keeps the frequencies of a group that stand out of the noise."""
    if _spectra(xp, noisy):
        return _spectra(xp, noisy).threshold(noisy, factor * sigma)
    along, within, along_back, within_back = _bases(xp, *noisy.shape[-2:])
    spectrum = along @ (noisy @ within)
    keep = xp.abs(spectrum) > factor * sigma
    keep[..., 0, 0] = True
    spectrum *= keep
    return (along_back @ spectrum) @ within_back, 1 / keep.sum((-2, -1), dtype=np.float32)


def wiener(xp, noisy, guide, sigma):
    """Weighs each frequency of a group by how much of it is signal, as the guide says."""
    if _spectra(xp, noisy):
        return _spectra(xp, noisy).wiener(noisy, guide, sigma * sigma + 1e-20)
    along, within, along_back, within_back = _bases(xp, *noisy.shape[-2:])
    gain = along @ (guide @ within)
    gain *= gain
    gain /= gain + (sigma * sigma + 1e-20)
    spectrum = along @ (noisy @ within)
    spectrum *= gain
    gain *= gain
    return (along_back @ spectrum) @ within_back, 1 / (1 + gain.sum((-2, -1)))


_ROUNDING = 1e-6  # of a group's largest variance, below which single precision knows no components


def principal(xp, noisy, guide, sigma, *, least, gain):
    """Projects a group onto its principal components, those of the guide, and weighs each by its variance.

    Non-local Bayes: `gain` of a component's variance, in variances of the noise, if it is at least `least`.
    """
    if sigma == 0:  # all of it is signal, and the smallest components are what rounding made of it
        return noisy, xp.ones(len(noisy), noisy.dtype)
    n, pixels = guide.shape[-2:]
    mean = guide.mean(-2, keepdims=True)
    guide, noisy = guide - mean, noisy - mean
    back = xp.ascontiguousarray(guide.transpose(0, 2, 1))
    if pixels <= n:
        variances, axes = xp.linalg.eigh((back @ guide) * np.float32(1 / n))
    else:  # fewer patches than pixels: the components follow from products of patches with each other
        variances, axes = xp.linalg.eigh((guide @ back) * np.float32(1 / n))
    relative = variances / (sigma * sigma + 1e-20)
    stands_out = (relative >= least) & (variances > _ROUNDING * variances[:, -1:])
    gains = xp.where(stands_out, gain(xp.maximum(relative, least)), 0)
    if pixels <= n:
        shrunk = noisy @ ((axes * gains[:, None]) @ axes.transpose(0, 2, 1))
    else:
        scaled = gains / xp.maximum(n * variances, 1e-20)
        shrunk = (noisy @ back) @ ((axes * scaled[:, None]) @ axes.transpose(0, 2, 1)) @ guide
    return shrunk + mean, 1 / (1 / n + gains.sum(-1) / pixels)  # what is left of a pixel's noise, at any size of patch
