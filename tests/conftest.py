from __future__ import annotations

import ctypes

import numpy as np
import pytest

_M_PERTURB = -6  # glibc: fill what malloc hands out, also to kernels
_BYTE = 0x7F  # floats become huge, whole numbers too


@pytest.fixture(scope="session", autouse=True)
def _poisoned_memory():
    """Memory that nobody wrote holds huge numbers, so that an output that was left out is a wrong output."""
    try:
        ctypes.CDLL(None).mallopt(_M_PERTURB, _BYTE ^ 0xFF)
    except (AttributeError, OSError, TypeError):
        return  # not glibc: the tests are a little weaker


@pytest.fixture
def poisoned():
    """The same for the small blocks that NumPy keeps for reuse."""
    kept = [np.full(size, _BYTE, np.uint8) for size in range(4, 1024, 4) for _ in range(7)]
    kept.clear()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
