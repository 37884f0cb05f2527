"""The CUDA backend: kernels of `cuda_src/`, compiled when first needed.

Its primitives are the functions marked `@primitive` in the files here, and its kernels the `Kernel(...)` beside them.
The first argument of a primitive is the device to launch on: a GPU, or its stand-in in the tests.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from shiftsearch._primitive import modules, primitives
from shiftsearch.backends.cuda.device import Gpu
from shiftsearch.backends.cuda.kernels import Kernel

_PRIMITIVES = primitives(__name__)
_FOUND = [value for module in modules(__name__) for value in vars(module).values() if isinstance(value, Kernel)]
KERNELS = {kernel.name: kernel for kernel in _FOUND}


class Cuda:
    """The backend on a `device`, which has the array module `xp` and launches kernels."""

    def __init__(self, device: Any):
        self.device, self.xp = device, device.xp
        for name, function in _PRIMITIVES.items():
            setattr(self, name, partial(function, device))


@cache
def load() -> Cuda:
    """Return the backend on CuPy, or raise ShiftsearchError if CuPy, a driver or a device is missing."""
    return Cuda(Gpu())
