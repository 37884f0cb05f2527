"""The backends that the table of cases runs on, each with the dtypes that it computes in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import emulate
import ml_dtypes
import numpy as np
import pytest
from cases import Case
from device_arrays import Namespace

from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda

_DTYPES = {"double": np.float64, "single": np.float32, "half": np.float16, "bfloat": ml_dtypes.bfloat16}
# the order of threads, and the end of arrays with unmapped memory, which differ between dtypes
_SCHEDULES = {"double": (0, "end"), "single": (1, "start"), "half": (2, "end"), "bfloat": (3, "start")}


@dataclass(frozen=True)
class Run:
    """One backend in one dtype."""

    backend: str
    precision: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_DTYPES[self.precision])

    def forward(self, case: Case, arrays: dict | None = None) -> dict:
        """Return the outputs of a case, for its own arrays or for others like them."""
        backend, arrays = self._load(), arrays or case.arrays(self.dtype)
        return self._back(case.op.forward(backend, case.spec, **self._there(arrays)))

    def backward(self, case: Case, outputs: dict, grads: dict, arrays: dict | None = None) -> dict:
        backend, arrays = self._load(), arrays or case.arrays(self.dtype)
        there = (self._there(given) for given in (arrays, outputs, grads))
        return self._back(case.op.backward(backend, case.spec, *there, arrays.keys()))

    def _load(self):
        return {"cpu": lambda: cpu, "emulated": lambda: _emulated(self.precision), "gpu": _gpu}[self.backend]()

    def _there(self, arrays: dict) -> dict:
        return {name: self._load().xp.asarray(array) for name, array in arrays.items()}

    def _back(self, arrays: dict) -> dict:
        return {name: array if self.backend == "cpu" else array.get() for name, array in arrays.items()}


@cache
def _emulated(precision: str) -> Cuda:
    seed, guard = _SCHEDULES[precision]
    device = emulate.Emulator(seed=seed, guard=guard)
    device.xp = Namespace()
    return Cuda(device)


@cache
def _gpu() -> Cuda:
    from shiftsearch.backends.cuda.device import Gpu

    return Cuda(Gpu())


def _no_gpu() -> str | None:
    try:
        _gpu().xp.zeros(1)
    except Exception as error:  # whatever is missing
        return f"no GPU: {error}"
    return None


def _runs():
    for precision in ("double", "single"):
        yield pytest.param(Run("cpu", precision), id=f"cpu-{precision}")
    reason = emulate.available()
    for precision in _DTYPES:
        marks = [pytest.mark.emulated, pytest.mark.skipif(reason is not None, reason=str(reason))]
        yield pytest.param(Run("emulated", precision), id=f"emulated-{precision}", marks=marks)
    for precision in _DTYPES if NO_GPU is None else ():
        yield pytest.param(Run("gpu", precision), id=f"gpu-{precision}", marks=pytest.mark.gpu)


NO_GPU = _no_gpu()
RUNS = list(_runs())
