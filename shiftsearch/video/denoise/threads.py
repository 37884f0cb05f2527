"""Threads of the denoiser: each filters a band of queries."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from shiftsearch.threads import get_num_threads


class Threads:
    """Threads for as many bands at once as there are cores, or as memory allows. Results come in order."""

    def __init__(self) -> None:
        self.most = 0.0  # bytes
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def in_order(self, work: Callable[[Any], Any], bands: Sequence[Any], each: int) -> Iterator[Any]:
        """Yield `work(band)` of each band, which takes `each` bytes."""
        threads = get_num_threads()
        at_once = min(2 * threads, len(bands), int(self.most // each))
        if at_once < 2 or threads < 2:
            yield from map(work, bands)
            return
        self._pool = self._pool or ThreadPoolExecutor(threads, thread_name_prefix="shiftsearch-denoise")
        pending: deque[Future[Any]] = deque()
        for band in bands:
            if len(pending) == at_once:
                yield pending.popleft().result()
            pending.append(self._pool.submit(work, band))
        while pending:
            yield pending.popleft().result()


def blas_alone() -> AbstractContextManager[Any]:
    """Keep NumPy's BLAS from starting its own threads: it would wait for them longer than it computes."""
    return _blas().limit(limits=1, user_api="blas") if _blas() else nullcontext()


@cache
def _blas() -> Any:
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
