"""Threads: one pool per process, made when first needed, made anew after a fork."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from shiftsearch.errors import ShiftsearchError

_VARIABLE = "SHIFTSEARCH_NUM_THREADS"
_SMALL = 2_000_000  # multiply-adds that one thread does before others would have woken up
_pool = None
_lock = threading.Lock()


def _forget():
    """A forked child has the pool's memory but none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def threads() -> int:
    """As many as this process may use, or as SHIFTSEARCH_NUM_THREADS says."""
    wanted = os.environ.get(_VARIABLE)
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise ShiftsearchError(f"the environment's {_VARIABLE} is {wanted!r}, expected a whole number from 1")
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parts(cost: float) -> int:
    """Into how many parts to cut what costs so many multiply-adds if each part must look at all of it."""
    return 3 * threads() if threads() > 1 and cost >= _SMALL else 1


def spread(work, count: int, cost: float) -> None:
    """Calls `work(first, last)` for ranges that make up range(count), which costs `cost` multiply-adds in all.

    A range is always done by one thread from front to back, and `work` must not let a unit depend on
    which range it is in: then results do not depend on the number of threads.
    """
    workers = min(threads(), count)
    if workers <= 1 or cost < _SMALL:
        work(0, count)
        return
    ranges = min(count, workers * 6)  # more ranges than threads even out units that take longer
    ends = [count * i // ranges for i in range(ranges + 1)]
    pending = [_threads(workers).submit(work, *pair) for pair in itertools.pairwise(ends)]
    for task in pending:
        task.result()


def _threads(workers: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool._max_workers < workers:
            _pool = ThreadPoolExecutor(workers, thread_name_prefix="shiftsearch")
        return _pool
