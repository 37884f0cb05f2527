"""Kept candidates sorted by where they land, on the device: see landing.cu."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftsearch._types import Native
from shiftsearch.backends.cuda.call import PLACES, Call, Pairs
from shiftsearch.backends.cuda.kernels import Constants, Kernel, each_with
from shiftsearch.errors import ShiftsearchError

_CELLS = 8  # of a thread that sums them, as landing.cu says
LANDS: Constants = {"REACH": 4, "WEIGHTED": 1}
_INSTANCES = each_with(PLACES, PATCHES=0, **LANDS)
COUNT_LANDINGS = Kernel("count_landings", "landing.cu", registers=40, instances=_INSTANCES)
SUM_CELLS = Kernel("sum_cells", "landing.cu", registers=40, instances=_INSTANCES[:1])
ADD_SUMS = Kernel("add_sums", "landing.cu", registers=40, instances=_INSTANCES[:1])
BEGIN_CELLS = Kernel("begin_cells", "landing.cu", registers=40, instances=_INSTANCES[:1])
FILL_CELLS = Kernel("fill_cells", "landing.cu", registers=40, instances=_INSTANCES)
SORT_CELLS = Kernel("sort_cells", "landing.cu", registers=40, instances=_INSTANCES[:1])


@dataclass(frozen=True)
class Landed:
    """The candidates in the order of the cells that they land at, and where those of each cell end."""

    order: Native
    ends: Native
    constants: Pairs  # which kernels need to read them


def sort_by_landing(call: Call) -> Landed:
    xp, p, s = call.device.xp, call.patches, call.sizes
    if call.candidates >= 2**31:
        raise ShiftsearchError(f"{call.candidates} offsets, expected fewer than 2**31: split the arrays")
    reach = p.dilation * (p.patch // 2 + 1) + 1
    constants = ("REACH", reach), ("WEIGHTED", int(call.arrays["weights"] is not None))
    cells = s["B"] * s["G"] * s["kT"] * (s["kH"] + 2 * reach) * (s["kW"] + 2 * reach)
    parts = -(-cells // (SUM_CELLS.threads * _CELLS))
    landed = Landed(xp.empty(call.candidates, np.int32), xp.zeros(cells, np.int32), constants)
    arrays = {"ends": landed.ends, "order": landed.order, "sums": xp.empty(parts, np.int32)}
    numbers = ("cells", cells), ("parts", parts)
    call.run_for_each(COUNT_LANDINGS, constants=constants, **arrays)
    for kernel, blocks in ((SUM_CELLS, parts), (ADD_SUMS, 1), (BEGIN_CELLS, parts)):
        call.run(kernel, blocks, constants=constants, numbers=numbers, **arrays)
    call.run_for_each(FILL_CELLS, constants=constants, **arrays)
    call.run(SORT_CELLS, -(-cells // SORT_CELLS.threads), constants=constants, numbers=numbers, **arrays)
    return landed
