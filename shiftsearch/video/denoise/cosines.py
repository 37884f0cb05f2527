"""The cosine transform, in whose spectrum groups of patches are filtered."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np


def dct(n: int) -> np.ndarray:
    """Return the orthonormal cosine transform of n numbers: a row for each frequency, the even ones symmetric."""
    k, i = np.arange(n)[:, None], np.arange(n)
    basis = np.cos(np.pi * (2 * i + 1) * k / (2 * n)) * np.sqrt(np.where(k, 2, 1) / n)
    return basis.astype(np.float32)


@cache
def bases(xp: Any, n: int, pixels: int) -> list[Any]:
    """Return (along, within, their transposes). The spectrum of groups (n, pixels) is along @ (groups @ within)."""
    of_patch = dct(math.isqrt(pixels))
    along, within = dct(n), np.kron(of_patch, of_patch).T
    return [xp.asarray(np.ascontiguousarray(basis)) for basis in (along, within, along.T, within.T)]
