"""Kept candidates sorted by where they land, on the device: see landing.cu."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from shiftsearch.backends.cuda.call import FRACTION, MOST_PLANS, PLACES, Call, Options, Pairs, for_each
from shiftsearch.backends.cuda.cells import begin_and_sort
from shiftsearch.backends.cuda.kernels import Constants, Kernel, Plan, each_with
from shiftsearch.errors import ShiftsearchError

LANDS: Constants = {"REACH": 4, "WEIGHTED": 1}
_READ = ("ACC", "OFFSET", "STRIDE", "ZEROS")  # of the options of a call: no others move a candidate
_INSTANCES = each_with(PLACES, PATCHES=0, **LANDS)
COUNT_LANDINGS = Kernel("count_landings", "landing.cu", registers=40, instances=_INSTANCES)
FILL_CELLS = Kernel("fill_cells", "landing.cu", registers=40, instances=_INSTANCES)


def sort_by_landing(call: Call) -> Pairs:
    """Add the candidates in the order of the cells that they land at: `order`, `ends` and `counts` of cells.cuh.

    Return the constants of kernels that read them.
    """
    sorting = _plan(call.options, call.candidates, call.arrays["weights"] is not None)
    xp, arrays = call.device.xp, call.arrays
    arrays["order"], arrays["ends"] = xp.empty(call.candidates, np.int32), xp.empty(sorting.cells, np.int32)
    arrays["counts"] = xp.zeros(sorting.cells + 1, np.int32)
    for plan in sorting.plans:
        plan.launch(call.device, arrays)
    return sorting.constants


@dataclass(frozen=True)
class _Sorting:
    """How candidates are sorted into so many cells."""

    cells: int
    constants: Pairs
    plans: tuple[Plan, ...]


@lru_cache(MOST_PLANS)
def _plan(options: Options, candidates: int, weighted: bool) -> _Sorting:
    s, p = options.sizes, options.patches
    reach = p.dilation * (p.patch // 2 + 1) + 1
    if candidates >= 2**31:
        raise ShiftsearchError(f"{candidates} offsets, expected fewer than 2**31: split the arrays")
    constants = ("REACH", reach), ("WEIGHTED", int(weighted))
    cells = s["B"] * s["G"] * s["kT"] * (s["kH"] + 2 * reach) * (s["kW"] + 2 * reach)
    options = _without_values(options)
    begin, sort = begin_and_sort(cells)
    count, fill = (for_each(kernel, options, 1, constants) for kernel in (COUNT_LANDINGS, FILL_CELLS))
    return _Sorting(cells, constants, (count, begin, fill, sort))


def _without_values(options: Options) -> Options:
    """Return what decides where candidates land, so that calls which differ in other options share compiled kernels."""
    read = {name: options.constants[name] for name in _READ}
    return replace(options, constants={**FRACTION, "SCALAR": read["ACC"], **read})
