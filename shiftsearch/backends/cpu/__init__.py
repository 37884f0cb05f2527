"""The CPU backend: numba and vector code, on all cores that the process may use.

Its primitives are the functions marked `@primitive` in the files here.
"""

import numpy as xp  # noqa: F401 (the array module of this backend)

from shiftsearch._primitive import primitives
from shiftsearch.backends.cpu.simd import register_bytes
from shiftsearch.threads import get_num_threads

globals().update(primitives(__name__))


def describe() -> str:
    return f"{get_num_threads()} threads, vector registers of {register_bytes()} bytes"
