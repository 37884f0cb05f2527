"""Things sorted by the cells that they are in, on the device: see cells.cu."""

from __future__ import annotations

from functools import lru_cache

from shiftsearch.backends.cuda.call import MOST_PLANS
from shiftsearch.backends.cuda.kernels import Kernel, Plan, Program

_EACH = 8  # cells of a thread that sums them, as cells.cu says
BEGIN_CELLS = Kernel("begin_cells", "cells.cu", registers=40, instances=({},))
SORT_CELLS = Kernel("sort_cells", "cells.cu", registers=40, instances=({},))


@lru_cache(MOST_PLANS)
def begin_and_sort(cells: int) -> tuple[Plan, Plan]:
    """Return the launches between which the cells are filled: where each begins, and what is in each in order."""
    begin, sort = (
        Plan(Program(kernel, {}), -(-cells // (kernel.threads * each)), {"cells": cells})
        for kernel, each in ((BEGIN_CELLS, _EACH), (SORT_CELLS, 1))
    )
    return begin, sort
