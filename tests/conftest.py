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


@pytest.fixture
def on_device(monkeypatch):
    """Called with a module, makes arrays of `on_device.put` be for it what arrays on a GPU are: not to be mixed with others.

    The ops that the module uses compute in main memory, and give such arrays back.
    """
    from device_arrays import Namespace, OnDevice

    def through(op):
        def call(*arrays, **options):
            if not any(isinstance(a, OnDevice) for a in arrays):
                return op(*arrays, **options)
            results = op(*(a.get() if isinstance(a, OnDevice) else a for a in arrays), **options)
            return tuple(map(put, results)) if isinstance(results, tuple) else put(results)

        return call

    def put(array):
        return array.view(OnDevice)

    def enter(module):
        transform = module.transform

        def called(op, function, dtypes=None, **arrays):
            if not any(isinstance(array, OnDevice) for array in arrays.values()):
                return transform(op, function, dtypes, **arrays)
            return function(Namespace(), *arrays.values())

        monkeypatch.setattr(module, "transform", called)
        for name in ("match", "aggregate", "upsample_flow"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, through(getattr(module, name)))

    enter.put = put
    return enter
