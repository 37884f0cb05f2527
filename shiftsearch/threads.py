"""How many threads a call may use on the CPU."""

from __future__ import annotations

import operator
import os
import re
import sys

from shiftsearch.errors import ShiftsearchError

_VARIABLE = "SHIFTSEARCH_NUM_THREADS"
_set: int | None = None  # what `set_num_threads` was told


def _forget() -> None:
    """Let a forked child decide anew: often it is one of many that share the cores."""
    global _set
    _set = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def set_num_threads(number: int | None) -> None:
    """Set how many threads a call of this process may use on the CPU.

    Without it a call follows, in this order, the environment's SHIFTSEARCH_NUM_THREADS; `torch.set_num_threads` where torch is
    loaded, and so the one thread of a worker of its DataLoader; OMP_NUM_THREADS; but for the first, never more than the
    cores that the process may use. Results do not depend on it.

    Args:
        number: at least 1, or None to follow those again

    Returns:
        None

    Example:
        >>> set_num_threads(2)
        >>> get_num_threads()
        2
        >>> set_num_threads(None)
    """
    global _set
    try:
        found = None if number is None or isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = 0
    if (found is None and number is not None) or (found is not None and found < 1):
        raise ShiftsearchError(f"set_num_threads: number is {number!r}, expected a whole number from 1, or None")
    _set = found


def get_num_threads() -> int:
    """Return how many threads a call of this process may use on the CPU, see `set_num_threads`.

    Args:
        none

    Returns:
        a whole number, at least 1

    Example:
        >>> get_num_threads() >= 1
        True
    """
    if _set is not None:
        return _set
    wanted = os.environ.get(_VARIABLE)
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise ShiftsearchError(f"the environment's {_VARIABLE} is {wanted!r}, expected a whole number from 1")
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _of_others() or cores)


def _of_others() -> int | None:
    """Return how many threads torch, or what else follows OpenMP's variable, uses here; None if nothing tells."""
    of_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if of_torch is not None:
        return of_torch()
    found = re.match(r"\s*(\d+)\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))  # a list has one for each level
    return int(found[1]) if found else None
