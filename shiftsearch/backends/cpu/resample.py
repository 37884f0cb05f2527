"""A frame read between its pixels: the sum of patches at the whole pixels around."""

from __future__ import annotations

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu.places import aggregate

_TAPS = np.arange(-1, 3, dtype=np.int32)


@primitive
def resample(target: Native, offsets: Native, *, patch: int) -> Native:
    size, offsets = offsets.shape[1:], offsets.astype(target.dtype, copy=False)
    around = np.zeros((*size, 4, 4, 3), np.int32)
    weights = np.ones(around.shape[:-1], target.dtype)
    for axis, shape in ((0, (-1, 1)), (1, (1, -1))):
        at, steps = offsets[1 - axis, :, :, None, None], _TAPS.reshape(shape)
        low = np.floor(at)
        weights *= _cubic(at - low - steps.astype(target.dtype))
        around[..., axis + 1] = low.astype(np.int32) + steps
    around, weights = (x.reshape(1, 1, 1, *size, 16, *x.shape[4:]) for x in (around, weights))
    layout = Patches(patch, query_border="zeros")
    return aggregate(None, target[None, None], weights, around, layout, size=(1, *target.shape), averaged=True)[0, 0]


def _cubic(x: Native) -> Native:
    """Return Keys' cubic convolution kernel, a = -0.58: sharper than -0.5, and kinder to places that are a little off than -0.75."""
    x = np.abs(x)
    far = -0.58 * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, (1.42 * x - 2.42) * x**2 + 1, np.where(x < 2, far, 0))
