"""The ranks of numbers, by which many best candidates are found."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from shiftsearch.backends.cpu import topk_code


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_are_those_of_a_stable_sort(dtype, rng):
    """Equal numbers keep their order, and NaN counts as infinite."""
    ranked = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 2, ctypes.c_int64)(topk_code.build_ranks(dtype))
    for n in (*range(1, 40), 121, 256):
        values = np.zeros(n // 16 * 16 + 16, dtype)  # whole vectors
        values[:n] = rng.choice([*range(max(2, n // 2)), np.nan, np.inf], n)
        found = np.empty(len(values), np.int32)
        ranked(values.ctypes.data, found.ctypes.data, n)
        order = np.argsort(np.nan_to_num(values[:n], nan=np.inf, posinf=np.inf), kind="stable")
        np.testing.assert_array_equal(found[:n][order], np.arange(n))
