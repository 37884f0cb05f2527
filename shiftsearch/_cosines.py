"""The cosine transform, and groups of patches (q, n, pixels) that are filtered in its spectrum, as array code."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np


def dct(n: int, dtype: Any = np.float32) -> np.ndarray:
    """Return the orthonormal cosine transform of n numbers: a row for each frequency, the even ones symmetric."""
    k, i = np.arange(n)[:, None], np.arange(n)
    basis = np.cos(np.pi * (2 * i + 1) * k / (2 * n)) * np.sqrt(np.where(k, 2, 1) / n)
    return basis.astype(dtype)


@cache
def bases(xp: Any, n: int, pixels: int, dtype: Any = np.float32) -> list[Any]:
    """Return (along, within, their transposes). The spectrum of groups (n, pixels) is along @ (groups @ within)."""
    of_patch = dct(math.isqrt(pixels), dtype)
    along, within = dct(n, dtype), np.kron(of_patch, of_patch).T
    return [xp.asarray(np.ascontiguousarray(basis)) for basis in (along, within, along.T, within.T)]


def threshold(xp: Any, groups: Any, levels: Any, powers: Any) -> tuple[Any, Any]:
    along, within, along_back, within_back = bases(xp, *groups.shape[-2:], groups.dtype)
    spectrum = along @ (groups @ within)
    keep = xp.abs(spectrum) > levels
    keep[..., 0, 0] = True
    spectrum *= keep
    return (along_back @ spectrum) @ within_back, 1 / (keep * powers).sum((-2, -1), dtype=powers.dtype)


def wiener(xp: Any, groups: Any, guide: Any, noise: Any, powers: Any) -> tuple[Any, Any]:
    along, within, along_back, within_back = bases(xp, *groups.shape[-2:], groups.dtype)
    gain = along @ (guide @ within)
    gain *= gain
    gain /= gain + noise
    spectrum = along @ (groups @ within)
    spectrum *= gain
    gain *= gain
    gain *= powers
    return (along_back @ spectrum) @ within_back, 1 / (1 + gain.sum((-2, -1)))
