"""Whether an installation works here: versions, devices, and the example of every op, on every backend.

The examples are small: all of it takes seconds, most of them for compiling kernels at the first run.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

import shiftsearch
from shiftsearch import definition
from shiftsearch._op import OPS, Op
from shiftsearch._source import directory
from shiftsearch.backends import cpu, cuda
from shiftsearch.errors import ShiftsearchError

_PACKAGES = "numpy numba cupy-cuda12x cupy-cuda13x torch av opencv-python-headless tqdm"
_TOLERANCE = 1e-4  # of the largest value, in single precision
Array = npt.NDArray[Any]


def examine(out: TextIO = sys.stdout) -> bool:
    """Print the results, and return whether all are right."""
    for line in _versions():
        print(line, file=out)
    backends: dict[str, Any] = {"cpu": cpu}
    try:
        backends["cuda"] = cuda.load()
        for line in _devices(backends["cuda"].xp):
            print(line, file=out)
    except ShiftsearchError as error:
        print(f"cuda         not here: {error}", file=out)
    print(file=out)
    wrong = [name for name, backend in backends.items() if not _check(name, backend, out)]
    verdict = f"wrong on {' and '.join(wrong)}" if wrong else f"all well on {' and '.join(backends)}"
    print(f"\n{verdict}", file=out)
    return not wrong


def _versions() -> Iterator[str]:
    yield f"shiftsearch  {shiftsearch.__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield "packages     " + ", ".join(filter(None, map(_version, _PACKAGES.split())))
    yield f"cpu          {cpu.describe()}"
    yield f"kernels      {directory()}, compiled ones in {os.environ.get('CUPY_CACHE_DIR', '~/.cupy/kernel_cache')}"


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _devices(xp: Any) -> Iterator[str]:
    runtime = xp.cuda.runtime
    for index in range(runtime.getDeviceCount()):
        found = runtime.getDeviceProperties(index)
        memory, capability = found["totalGlobalMem"] / 2**30, f"{found['major']}.{found['minor']}"
        yield f"cuda:{index}       {found['name'].decode()}, {memory:.0f} GiB, compute capability {capability}"
    driver, there = (_dotted(version) for version in (runtime.driverGetVersion(), runtime.runtimeGetVersion()))
    yield f"cuda         driver for CUDA {driver}, runtime {there}, {_compiler(xp)}"


def _dotted(version: int) -> str:
    """Return 13.2 for 13020, as CUDA writes versions."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _compiler(xp: Any) -> str:
    try:
        return "NVRTC " + ".".join(map(str, xp.cuda.nvrtc.getVersion()))
    except Exception:  # each way to lack it has its own error; the line of each op says what to do
        return "no NVRTC"


# --- every op ---------------------------------------------------------------------------------------
def _check(name: str, backend: Any, out: TextIO) -> bool:
    well = True
    for op in OPS.values():
        start = time.perf_counter()
        try:
            error = _largest_error(backend, op)
        except Exception as raised:  # drivers and compilers have their own errors
            said = f"{type(raised).__name__}: {raised}"
        else:
            said = "" if error < _TOLERANCE else f"is off by {error:.1e} of the largest value"
        verdict = f"ok  {time.perf_counter() - start:6.2f} s" if not said else f"WRONG {said}"
        print(f"{name:5} {op.name:11} {verdict}", file=out, flush=True)
        well = well and not said
    return well


def _largest_error(backend: Any, op: Op) -> float:
    """Return how far outputs and gradients are from the definition, relative to the largest value of each."""
    spec, rng = op.specify(**op.example.options), np.random.default_rng(0)
    inputs = {name: array.astype(np.float32) for name, array in op.example_arrays(rng).items()}
    wanted = op.forward(definition, spec, **{name: array.astype(float) for name, array in inputs.items()})
    arrive = {name: np.ones(array.shape, np.float32) for name, array in wanted.items() if op.outputs[name] != "index"}
    kept = {n: array.astype(np.float32) if array.dtype.kind == "f" else array for n, array in wanted.items()}
    slopes = op.backward(definition, spec, inputs, kept, arrive, inputs.keys())

    there = _on(backend, inputs)
    found = op.forward(backend, spec, **there)
    found_slopes = op.backward(backend, spec, there, _on(backend, kept), _on(backend, arrive), inputs.keys())
    pairs = [(found[name], wanted[name]) for name in wanted] + [(found_slopes[name], slopes[name]) for name in slopes]
    # NumPy's maximum, because Python's max may ignore NaN
    return float(np.max([_difference(_native(a), b) for a, b in pairs]))


def _on(backend: Any, arrays: dict[str, Array]) -> dict[str, Any]:
    return {name: backend.xp.asarray(array) for name, array in arrays.items()}


def _native(array: Any) -> Array:
    return array if type(array) is np.ndarray else array.get()


def _difference(found: Array, wanted: Array) -> float:
    return float(np.abs(found.astype(float) - wanted).max(initial=0) / max(1.0, np.abs(wanted).max(initial=0)))
