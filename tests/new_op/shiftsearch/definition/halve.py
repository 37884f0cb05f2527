"""The meaning of the primitive."""

from __future__ import annotations

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native


@primitive
def halve(v: Native, factor: Native, times: int) -> Native:
    return np.asarray(v, float) * np.asarray(factor, float)[..., None] / 2**times
