"""Threads: one pool per process, made when first needed, made anew after a fork."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from shiftsearch.threads import get_num_threads

_Result = TypeVar("_Result")
_SMALL = 2_000_000  # multiply-adds: less work is done sooner than other threads wake up
_LONG = 100_000_000  # multiply-adds: for more, the main thread only waits, so that Ctrl-C can stop the work
_GLANCE = 0.2  # seconds: on some systems a signal does not end a longer wait
_pool = None
_lock = threading.Lock()


def _forget():
    """Forget the pool: a forked child has the pool's memory but none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def parts(cost: float) -> int:
    """Return how many parts to split work of `cost` multiply-adds into if each part must read all of the input."""
    return 3 * get_num_threads() if get_num_threads() > 1 and cost >= _SMALL else 1


def spread(work: Callable[[np.ndarray, int, int], None], count: int, cost: float) -> None:
    """Call `work(stop, first, last)` for ranges that make up range(count), which costs `cost` multiply-adds in all.

    A range is always done by one thread from front to back, and `work` must not let a unit depend on
    which range it is in: then results do not depend on the number of threads.

    Ctrl-C reaches the main thread only between two lines of Python. Long work is therefore left to other threads while
    the main one waits. They read stop[0] often, and where it is set `work` returns at once, finished or not.
    """
    stop, workers = np.zeros(1, np.int32), min(get_num_threads(), count)
    waits = cost >= _LONG and _in_main_thread()
    if not waits and (workers <= 1 or cost < _SMALL):
        work(stop, 0, count)
        return
    work(stop, 0, 0)  # compiles what the others need, see `aside`
    ranges = min(count, workers * 6) if workers > 1 else 1  # more ranges than threads, because some take longer
    ends = [count * i // ranges for i in range(ranges + 1)]
    left = iter(list(itertools.pairwise(ends)))
    pending = []
    try:
        for _ in range(workers):  # the pool may have more threads, from when a call was allowed more
            pending.append(_threads(workers).submit(_consume, work, stop, left))
        _wait(pending)
    except BaseException:
        stop[0] = 1
        for task in pending:
            task.cancel()
        futures.wait(pending)  # until they return, threads write to memory that belongs to the caller
        raise


def _consume(work: Callable[[np.ndarray, int, int], None], stop: np.ndarray, left: Iterator[tuple[int, int]]) -> None:
    """Do one range after the other, as long as there are some that no other thread has taken."""
    for first, last in left:
        work(stop, first, last)


def _wait(pending) -> None:
    """Return when all is done; raise the error of the first thread that fails."""
    while pending:
        done, pending = futures.wait(pending, _GLANCE, futures.FIRST_EXCEPTION)
        for task in done:
            task.result()


def aside(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Return `function(*arguments)`, run in another thread, which goes on alone if Ctrl-C interrupts the main one."""
    if not _in_main_thread():
        return function(*arguments)
    one = futures.ThreadPoolExecutor(1, thread_name_prefix="shiftsearch")
    task = one.submit(function, *arguments)
    one.shutdown(wait=False)
    _wait([task])
    return task.result()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _threads(workers: int) -> futures.ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool._max_workers < workers:
            _pool = futures.ThreadPoolExecutor(workers, thread_name_prefix="shiftsearch")
        return _pool
