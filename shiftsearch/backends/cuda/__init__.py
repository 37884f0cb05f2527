"""The CUDA backend: kernels of `cuda_src/`, compiled when first needed."""

from functools import cache


@cache
def load():
    """Return the backend on CuPy, or raise ShiftsearchError if CuPy, a driver or a device is missing."""
    from shiftsearch.backends.cuda.device import Gpu
    from shiftsearch.backends.cuda.primitives import Cuda

    return Cuda(Gpu())
