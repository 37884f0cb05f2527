"""Groups of patches that are filtered in the spectrum of their cosine transform."""

from __future__ import annotations

import math

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import silent


@primitive
@silent()
def threshold(groups: Native, levels: Native, powers: Native) -> tuple[Native, Native]:
    """Return groups (q, n, pixels) without the frequencies that do not exceed their level (pixels), and weights (q).

    The lowest frequency is kept. The weight of a group is 1 over the sum of the powers (pixels) of what is kept.
    """
    spectrum = _spectrum(groups)
    keep = np.abs(spectrum) > levels
    keep[:, 0, 0] = True
    return _undone(spectrum * keep), 1 / (keep * powers).sum((1, 2))


@primitive
@silent()
def wiener(groups: Native, guide: Native, noise: Native, powers: Native) -> tuple[Native, Native]:
    """Return groups (q, n, pixels) of which each frequency is multiplied by a gain, and weights (q).

    The gain is g**2 / (g**2 + noise), with g of the guide (q, n, pixels) and the variance of noise (pixels). The weight of
    a group is 1 over 1 + sum of gain**2 * power (pixels).
    """
    power = _spectrum(guide) ** 2
    gain = power / (power + noise)
    return _undone(_spectrum(groups) * gain), 1 / (1 + (gain**2 * powers).sum((1, 2)))


def _spectrum(groups: Native) -> Native:
    return _transformed(groups, "kn, ya, xb, qnab -> qkyx")


def _undone(spectrum: Native) -> Native:
    return _transformed(spectrum, "nk, ay, bx, qnab -> qkyx")


def _transformed(groups: Native, product: str) -> Native:
    q, n, pixels = groups.shape
    side = math.isqrt(pixels)
    bases = (_cosines(count) for count in (n, side, side))
    return np.einsum(product, *bases, groups.reshape(q, n, side, side), optimize=True).reshape(q, n, pixels)


def _cosines(n: int) -> Native:
    """Return the cosine transform of n numbers, whose inverse is its transpose: a row for each frequency."""
    frequency, at = np.arange(n)[:, None], np.arange(n) + 0.5
    return np.sqrt(np.where(frequency, 2, 1) / n) * np.cos(np.pi / n * frequency * at)
