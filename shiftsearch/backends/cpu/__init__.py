"""The CPU backend: numba and vector code, on all cores that the process may use.

Its primitives are the functions marked `@primitive` in the files here.
"""

import numpy as xp  # noqa: F401 (the array module of this backend)

from shiftsearch._primitive import primitives
from shiftsearch.backends.cpu.pool import threads
from shiftsearch.backends.cpu.simd import register_bytes

globals().update(primitives(__name__))


def describe() -> str:
    return f"{threads()} threads, vector registers of {register_bytes()} bytes"
