"""Compile every kernel that tests and goals need, in many processes: NVRTC holds a lock inside one.

CuPy keeps what is compiled on disk, where the processes that run it later find it. Which programs are needed is found by
running the calls on a device that launches nothing.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from gpu_cases import Case, prepare

from shiftsearch.backends.cuda import Cuda, device, kernels

Program = tuple[str, str]  # what the compiler gets, and the name of a kernel in it


class _Zeros:
    """NumPy whose results are zeros where only their shape matters."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> Any:
        return np.zeros(shape, dtype)  # takes no memory before it is written

    def argsort(self, array: Any, **options: Any) -> Any:
        return np.zeros(array.shape, np.int64)

    def searchsorted(self, array: Any, values: Any) -> Any:
        return np.zeros(values.shape, np.int64)


class Recorder:
    """A device that writes down what it is to launch, with so many bytes of shared memory for a block."""

    most_shared = 227 << 10  # bytes of shared memory of a block on an H100

    def __init__(self) -> None:
        self.xp, self.launches = _Zeros(), []

    def launch(self, program: kernels.Program, blocks: int, values: tuple[Any, ...], *, shared: int = 0) -> None:
        self.launches.append((program, blocks))

    def programs(self) -> set[Program]:
        return {(program.text, program.kernel.name) for program, _ in self.launches}

    def address(self, array: Any) -> int:
        """Say that it begins at a multiple of 16, as what CuPy allocates does."""
        return 0


class _WithoutTiles:
    """A device that says it has no shared memory for tiles, so that every query is searched directly."""

    most_shared = 0

    def __init__(self, device: Any):
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


def direct(device: Any) -> Cuda:
    """Return the backend of a device with the direct form of a search only."""
    return Cuda(_WithoutTiles(device))


# --- which programs -------------------------------------------------------------------------------
def of_case(case: Case) -> set[Program]:
    """Return the programs of a call, forward and backward, in both forms."""
    recorder = Recorder()
    for backend in (Cuda(recorder), direct(recorder)):
        _run(prepare(backend, replace(case, frames=3, height=16, width=16)))
    return recorder.programs()


def _run(call: Any) -> None:
    outputs = call.forward()
    call.backward(outputs, call.ones(outputs), call.differentiable())


def of_tests(part: int, parts: int) -> set[Program]:
    """Return the programs that a part of the tests' table of cases needs, in every dtype."""
    tests = str(Path(__file__).parents[2] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    import ml_dtypes
    from cases import CASES

    recorder = Recorder()
    for case in CASES[part::parts]:
        for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
            _run_test(Cuda(recorder), case, np.dtype(dtype))
    return recorder.programs()


def _run_test(backend: Any, case: Any, dtype: np.dtype) -> None:
    arrays = case.arrays(dtype)
    outputs = case.op.forward(backend, case.spec, **arrays)
    grads = {name: np.ones_like(array) for name, array in outputs.items() if array.dtype.kind != "i"}
    case.op.backward(backend, case.spec, arrays, outputs, grads, arrays.keys())


# --- compiling ------------------------------------------------------------------------------------
def compile_all(cases: list[Case] | None, processes: int) -> dict[str, Any]:
    """Compile what these cases need, or what the tests do, and return how many programs there are and which fail."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        if cases is None:
            found = pool.map(of_tests, range(processes), [processes] * processes)
        else:
            found = pool.map(of_case, cases)
        programs = sorted(set().union(*found))
        wrong = [said for said in pool.map(compile_one, programs, chunksize=4) if said]
    return {"programs": len(programs), "failed": len(wrong), "first failures": wrong[:10]}


def compile_one(program: Program) -> str:
    """Compile a program for CuPy's current device, and return what is wrong with it."""
    import cupy

    text, name = program
    try:
        cupy.RawModule(code=text, options=device.OPTIONS).get_function(name)
    except Exception as error:  # compiler, driver and disk have errors of their own
        return f"{name}: {error}"[:500]
    return ""
