"""A GPU as what is measured on: how long a run takes there, what memory it needs, what the machine could do at most."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from gpu_warm import direct

import shiftsearch

_FEWEST, _MOST = 5, 40  # runs that are timed, or fewer than the fewest where these take more than four times as long
_HELD = 2_000_000  # cycles, about a millisecond: the host needs less to queue a run
_KERNELS = r"""
extern "C" __global__ void hold(long long cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) { }
}
extern "C" __global__ void multiply_and_add(float* out, float x, int turns) {
    float a[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int turn = 0; turn < turns; ++turn)
#pragma unroll
        for (int i = 0; i < 8; ++i) a[i] = a[i] * x + x;
    float sum = 0;
    for (int i = 0; i < 8; ++i) sum += a[i];
    if (sum == 12345) *out = sum;
}
"""


class Device:
    """CuPy's current device."""

    size: int | None = None  # of frames, where that of the cases is too large
    torch = "cuda"  # where torch's tensors are

    def __init__(self, backend: Any):
        self.backend, self.xp = backend, backend.xp
        self._pool = self.xp.get_default_memory_pool()
        module = self.xp.RawModule(code=_KERNELS)
        self._hold, self._compute = (module.get_function(name) for name in ("hold", "multiply_and_add"))
        self._properties = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)
        self._flushed = self.xp.empty(4 * self._properties["l2CacheSize"], np.uint8)

    def direct(self) -> Any:
        """Return the backend with the direct form of a search only."""
        return direct(self.backend.device)

    def about(self) -> dict[str, Any]:
        runtime, found = self.xp.cuda.runtime, self._properties
        return {
            "device": found["name"].decode(),
            "capability": self.xp.cuda.Device().compute_capability,
            "multiprocessors": found["multiProcessorCount"],
            "L2 bytes": found["l2CacheSize"],
            "driver": runtime.driverGetVersion(),
            "CUDA": runtime.runtimeGetVersion(),
            "NVRTC": ".".join(map(str, self.xp.cuda.nvrtc.getVersion())),
            "cupy": self.xp.__version__,
            **versions(),
        }

    # --- time -------------------------------------------------------------------------------------
    def times(self, run: Callable[[], Any], seconds: float = 0.5) -> list[float]:
        """Return the milliseconds of runs of at most so many seconds together, each with an empty L2 cache.

        The device is held back until the host has queued a run: what Python takes is not in it.
        """
        run()  # compiles
        self.synchronize()
        start, found = time.monotonic(), [self._milliseconds(run)]
        while len(found) < _MOST and time.monotonic() - start < (seconds if len(found) >= _FEWEST else 4 * seconds):
            found.append(self._milliseconds(run))
        return found

    def _milliseconds(self, run: Callable[[], Any]) -> float:
        start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
        self._flushed.fill(1)
        self._hold((1,), (1,), (np.int64(_HELD),))
        start.record()
        run()
        end.record()
        end.synchronize()
        return self.xp.cuda.get_elapsed_time(start, end)

    def synchronize(self) -> None:
        self.xp.cuda.Device().synchronize()

    # --- memory -----------------------------------------------------------------------------------
    def peak(self, run: Callable[[], Any]) -> int:
        """Return how many bytes CuPy's pool takes for a run that is compiled, its results included."""
        self._pool.free_all_blocks()
        before = self._pool.total_bytes()
        kept = run()
        self.synchronize()
        del kept
        return self._pool.total_bytes() - before

    # --- graphs -----------------------------------------------------------------------------------
    def capture(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Return the results of a run that is captured in a CUDA graph, and what replays it."""
        stream = self.xp.cuda.Stream(non_blocking=True)  # which waits for no other
        self.synchronize()
        with stream:
            run()  # compiles, and leaves memory in the pool
            stream.synchronize()
            stream.begin_capture()
            try:
                results = run()
            finally:
                graph = stream.end_capture()

        def replay() -> None:
            self.synchronize()
            graph.launch(stream)
            stream.synchronize()

        return results, replay

    # --- what it could do -------------------------------------------------------------------------
    def ceilings(self) -> dict[str, float]:
        """Return the rates of copying, of arithmetic in float32 and, where cuBLAS is, of a product of matrices of halves."""
        found = {"bytes a second": self._copied(), "float32 instructions a second": self._computed()}
        with suppress(ImportError, RuntimeError):
            found["half operations a second"] = self._multiplied()
        return found

    def _rate(self, count: float, run: Callable[[], Any]) -> float:
        return 1e3 * count / statistics.median(self.times(run))

    def _copied(self) -> float:
        """Count what is read and what is written."""
        source = self.xp.ones(2**28, np.float32)
        target = self.xp.empty_like(source)
        return self._rate(2 * source.nbytes, lambda: self.xp.copyto(target, source))

    def _computed(self) -> float:
        """Count a product and its sum once, as one instruction."""
        threads, turns, out = 256, 4096, self.xp.zeros(1, np.float32)
        blocks = 8 * self._properties["multiProcessorCount"]
        arguments = (out, np.float32(0.5), np.int32(turns))
        return self._rate(8.0 * turns * threads * blocks, lambda: self._compute((blocks,), (threads,), arguments))

    def _multiplied(self) -> float:
        n, rng = 8192, np.random.default_rng(0)
        drawn = rng.standard_normal((2, n, n // 8), np.float32).astype(np.float16)
        a, b = (self.xp.asarray(np.tile(matrix, 8)) for matrix in drawn)
        return self._rate(2.0 * n**3, lambda: a @ b)


def versions() -> dict[str, Any]:
    """Return those of what runs here."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    except OSError:
        commit = ""
    return {
        "numpy": np.__version__,
        "python": platform.python_version(),
        "shiftsearch": shiftsearch.__version__,
        "commit": commit or None,
    }
