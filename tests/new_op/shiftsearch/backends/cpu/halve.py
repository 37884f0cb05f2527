"""The primitive on the CPU."""

from __future__ import annotations

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu.jit import kernel


@kernel("out")
def _halve(v, factor, out, times):
    for b in range(v.shape[0]):
        for n in range(v.shape[1]):
            for x in range(v.shape[2]):
                out[b, n, x] = v[b, n, x] * factor[b, n]
                for _ in range(times):
                    out[b, n, x] /= 2


@primitive
def halve(v: Native, factor: Native, times: int) -> Native:
    out = np.empty(v.shape, v.dtype)
    _halve(v, factor, out, times)
    return out
