"""Groups of patches that are filtered in the spectrum of their cosine transform."""

from __future__ import annotations

import numpy as np

from shiftsearch import _cosines
from shiftsearch._primitive import primitive
from shiftsearch._types import Native


@primitive
def threshold(groups: Native, levels: Native, powers: Native) -> tuple[Native, Native]:
    return _cosines.threshold(np, groups, levels, powers)


@primitive
def wiener(groups: Native, guide: Native, noise: Native, powers: Native) -> tuple[Native, Native]:
    return _cosines.wiener(np, groups, guide, noise, powers)
