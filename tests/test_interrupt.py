"""Ctrl-C ends a call at once, whatever its size and however many threads work on it, and harms nothing that comes after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

import interrupted
import numpy as np
import pytest
from backends import Run
from cases import CASES
from random_calls import grads_for

import shiftsearch as ss
from shiftsearch.backends.cpu import (
    chain,
    jit,
    margin,
    places,
    pool,
    visit,
    whole_patches,
    whole_places,
)

_HERE = Path(__file__).parent


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process on this system")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_call_that_would_take_hours_can_be_interrupted(threads):
    """The process ends, too: no thread is left that Python would wait for."""
    environment = {**os.environ, "SHIFTSEARCH_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "interrupted.py"], cwd=_HERE, env=environment, capture_output=True, text=True, timeout=300
    )
    names = [name for name, _ in interrupted.calls(1, 1, 1, 1, 1)]
    assert done.stdout.splitlines() == [f"{name} interrupted then right" for name in names], done.stderr


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process on this system")
def test_a_call_can_be_interrupted_while_it_compiles(tmp_path):
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # where tests run, it may be ignored
    program += (
        "import numpy as np, shiftsearch as ss; v = np.zeros((1, 3, 9, 9), np.float32); print(flush=True)\ntry:\n"
    )
    program += "    for patch in range(1, 10): ss.search(v, v, window=patch, patch=patch, radius=0, topk=1, subpixel=patch % 2 > 0)\n"
    program += "except KeyboardInterrupt: print('interrupted', flush=True)"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        cwd=_HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "interrupted\n"), error
    assert "ignored" not in error


_SCRATCH = {"scratch"}
_SHORT = {"windows_of_flow", "windows_of_seeds"}  # which do at most some thousand windows a call


@pytest.mark.full
def test_a_kernel_that_is_told_to_stop_writes_nothing(monkeypatch):
    """All kernels of the table of cases: each launch is made twice, first with stop set."""
    search = import_module("shiftsearch.backends.cpu.search")  # cpu.search is the primitive
    modules, called = (chain, margin, places, search, visit, whole_patches, whole_places), set()
    kernels = {
        (m, name): f.__self__ for m in modules for name, f in vars(m).items() if isinstance(_owner(f), jit.kernel)
    }

    def twice(kernel, *arguments):
        given = dict(zip(kernel.parameters, arguments, strict=True))
        if given["first"] < given["last"]:
            outputs = [array for name, part in given.items() if name not in _SCRATCH for array in _arrays(part)]
            before = [array.copy() for array in outputs]
            kernel._run(*{**given, "stop": np.ones(1, np.int32)}.values())
            for array, kept in zip(outputs, before, strict=True):
                np.testing.assert_array_equal(array, kept, kernel.function.__name__)
            called.add(kernel)
        return kernel._run(*arguments)

    for (module, name), kernel in kernels.items():
        if "stop" in kernel.parameters:
            monkeypatch.setattr(module, name, partial(twice, kernel))
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "2")
    monkeypatch.setattr(pool, "_SMALL", 0)
    one = ThreadPoolExecutor(1)  # one thread does the work of two, so that nothing else writes meanwhile
    monkeypatch.setattr(pool, "_threads", lambda workers: one)
    for case in CASES:
        outputs = Run("cpu", "single").forward(case)
        Run("cpu", "single").backward(case, outputs, grads_for(np.random.default_rng(0), outputs))
    nan = np.full((1, 3, 4, 5), np.nan, np.float32)  # which the table does not have: scores are computed again
    ss.score(nan, nan, np.zeros((1, 1, 4, 5, 2, 3), np.int32), patch=3, metric="dot", border="zeros")
    assert {kernel.function.__name__ for kernel in set(kernels.values()) - called} == _SHORT


def _arrays(argument) -> list[np.ndarray]:
    """Return the arrays in an argument of a kernel, also those in its records."""
    if isinstance(argument, tuple):
        return [array for part in argument for array in _arrays(part)]
    return [argument] if isinstance(argument, np.ndarray) else []


def _owner(function):
    return getattr(function, "__self__", None)
