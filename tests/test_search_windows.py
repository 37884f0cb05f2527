"""Search of staged windows: the bits of the direct form, whatever is searched."""

from __future__ import annotations

from dataclasses import dataclass

import emulate
import numpy as np
import pytest
from device_arrays import Namespace, OnDevice
from quick import shown_by
from test_search_tiles import LARGE, Case, same_bits, under_tsan

from shiftsearch.backends.cuda import Cuda, kernels, search, search_windows
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.search import SEARCH

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]
_FEW = (1, 3, 4, 7, 11)  # too few pixels for tiles
_NOTHING = ("", "")


@dataclass(frozen=True)
class Window(Case):
    """With `halfway` flow leads nearly halfway between two floats behind pixels: in double, sums round it up or down."""

    halfway: bool = False

    def arrays(self):
        q, k, flow = super().arrays()
        if self.halfway:
            floats = np.floor(flow * 2**24) / 2**24
            flow = floats.astype(float) + 2**-25 + np.where(flow > 0, 2**-50, -(2**-50))
        return q, k, np.ascontiguousarray(flow[..., :: self.spec.stride, :: self.spec.stride])


def case(name, *size, **given):
    known = {key: given.pop(key) for key in [*given] if key in Window.__dataclass_fields__}
    return Window(name, size, **known, options=given)


class _Device(emulate.Emulator):
    """Remembers which kernels were launched, and may have a fault in them."""

    xp = Namespace()

    def __init__(self, memory: int, fault: tuple[str, str]):
        super().__init__(seed=1)
        self.most_shared, self.fault, self.launched = memory, fault, []

    def launch(self, program, blocks, values, *, shared=0):
        self.launched.append(program.kernel.name)
        text = program.text.replace(*self.fault) if self.fault[0] else program.text
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)


CASES = [
    case("patch 7, wild", 1, 3, 16, 7, 11, patch=7, topk=10, window=9, normal=True, wild="everywhere"),
    case("zeros", *_FEW, patch=4, window=(5, 8), even="before", border="zeros", normal=True, strange=True),
    case("steps and holes", 1, 3, 5, 9, 14, patch=3, window=(3, 5), step=2, dilation=2, stride=2, metric="dot"),
    case("a channel, stride 4", 1, 3, 1, 13, 17, patch=8, window=5, stride=4, normal=True),
    case(
        "two channels, between pixels", 1, 3, 2, 9, 11, patch=3, window=(6, 3), subpixel=True, normal=True, strange=True
    ),
    case("wide, half", 1, 3, 8, 9, 14, dtype="half", patch=4, step=2, dilation=3, border="zeros", slide=False),
    case("runs of channels", 1, 3, 37, 7, 11, patch=2, window=5, layout="planes", normal=True, dtype="bfloat"),
    case("ties, self, per frame", *_FEW, anchor="self", layout="mirrored", per_frame=True, penalty=0.3),
    case("all of them", *_FEW, topk=None, anchor="flow", patch=2, window=3, skip="self"),
    case("many", *_FEW, topk=140, window=8, patch=3, heads=2, flow_heads=2),
    case("between pixels", 1, 3, 5, 9, 11, patch=3, window=(6, 3), subpixel=True, normal=True, strange=True),
    case("between pixels, not evenly", *_FEW, patch=2, window=5, subpixel=True, normal=True, halfway=True),
    case("between pixels, zeros", *_FEW, patch=4, window=3, subpixel=True, border="zeros", step=2, slide=False),
]
NAMED = {case.name: case for case in CASES}


def searched(case, memory: int = LARGE, fault: tuple[str, str] = _NOTHING):
    """Search a case, with so much shared memory; give scores, offsets and the kernels that were launched."""
    search.plan_of_search.cache_clear()
    device, spec = _Device(memory, fault), case.spec
    q, k, flow = (a.view(OnDevice) for a in case.arrays())
    scores, offsets, _ = Cuda(device).search(q, k, spec, spec.patches(), flow=flow)
    search.plan_of_search.cache_clear()
    return scores.get(), offsets.get(), device.launched


def directly(case):
    return searched(case, memory=0)


@pytest.mark.parametrize("case", shown_by(CASES, 0, 1, 2, 5, 8))
def test_staged_windows_give_the_bits_of_the_direct_form(case):
    staged, direct = searched(case), directly(case)
    assert staged[2] == ["search_windows"]
    assert direct[2] == ["search"]
    assert np.isfinite(direct[0]).any()
    same_bits(staged, direct)


# --- faults planted in the kernel ---------------------------------------------------------------------
_FAULTS = {  # by the case that catches them
    "patch 7, wild": [
        ("if (first && s.F <= SS_RUN) stage_patch", "if (false) stage_patch"),
        ("return place & 1 ? sum_of(numbers, 1) : sum_of(numbers, 0);", "return sum_of(numbers, 0);"),
    ],
    "wide, half": [("behind % SS_HOLE ||", "")],
    "runs of channels": [
        ("if (s.F > SS_RUN) stage_patch", "if (first) stage_patch"),
        ("left + c < across * SS_ACROSS", "false"),
        ("window - each)", "window)"),
    ],
    "between pixels, zeros": [("beyond(column, corner.x.behind, s.kW)", "beyond(column, 0, s.kW)")],
    "between pixels, not evenly": [("spot.behind == first.behind;", "true;")],
}


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "fault"), [(name, fault) for name, faults in _FAULTS.items() for fault in faults], ids=str
)
def test_fault_is_caught(name, fault):
    assert kernels.text("search_windows.cu", {}).count(fault[0]) == 1
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        same_bits(searched(NAMED[name], fault=fault), directly(NAMED[name]))
    assert ": error: " not in str(caught.value), "does not compile"


@under_tsan
@pytest.mark.parametrize("name", ["ties, self, per frame", "between pixels"])
def test_staged_windows_have_no_race(name):
    """The direct form is left out: with it this would take twice the time."""
    assert searched(NAMED[name])[2] == ["search_windows"]


@under_tsan
def test_race_is_seen():
    barrier = ("    __syncthreads();\n    if (even) sum_rows", "    if (even) sum_rows")
    with pytest.raises(emulate.EmulatorError, match="data race"):
        searched(NAMED["ties, self, per frame"], fault=barrier)


# --- which searches are staged ----------------------------------------------------------------------
def plan_of(spec, size, dtype=np.float32, memory=LARGE, seeds: bool = False):
    around = (1, 1, size[1], *size[3:], 2, 3) if seeds else (1, 1, size[1], 2 * spec.radius, 2, *size[3:])
    layout = search.Layout(size, size, (16,) * 5, (16,) * 5, False)
    return search.plan_of_search(
        spec, spec.patches(), layout, dtype, around, np.dtype(np.float32), seeds, memory
    ).one_by_one


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize(("patch", "least"), [(2, 48 << 10), (3, 48 << 10), (7, 48 << 10), (15, 200 << 10)])
def test_windows_are_staged_whatever_their_channels(patch, least, dtype):
    for channels in (1, 3, 16, 130, 1000):
        for memory in (LARGE, least):
            program = plan_of(SEARCH.specify(patch=patch, window=9), (1, 3, channels, 64, 64), dtype, memory).program
            assert program.kernel is search_windows.WINDOWS
            assert program.shared <= memory - 1024


@pytest.mark.parametrize(
    ("options", "staged"),
    [
        ({}, True),
        ({"stride": 4}, True),
        ({"dilation": 3, "step": 3}, True),
        ({"subpixel": True}, True),
        ({"topk": None}, True),
        ({"topk": 500}, True),
        ({"window": 1, "dilation": 3}, True),
        ({"patch": 1}, False),
        ({"step": 0.5, "subpixel": True}, False),
        ({"step": 20}, False),
        ({"window": 101}, False),
        ({"patch": 101}, False),
    ],
    ids=str,
)
def test_windows_are_staged_where_their_patches_overlap(options, staged):
    kernel = plan_of(
        SEARCH.specify(**{"window": 15, "patch": 3, "topk": 1, **options}), (1, 3, 16, 16, 16)
    ).program.kernel
    assert kernel.name == ("search_windows" if staged else "search")


def test_windows_around_seeds_are_staged():
    spec = REFINE.specify(window=3, patch=3, topk=2)
    assert plan_of(spec, (1, 1, 4, 25, 25), seeds=True).program.kernel is search_windows.WINDOWS


def test_threads_that_read_at_a_time_meet_in_no_bank():
    shape = plan_of(SEARCH.specify(patch=7, window=9), (1, 3, 16, 64, 64)).program.constants
    window, block = search_windows._Window(9, 9, 7, 1, 1, 0), search_windows._Block(shape["DOWN"], shape["ACROSS"], 1)
    places = [*search_windows._places(window, block, shape["PITCH"])]
    assert search_windows._turns(places, 8) == -(-len(places) // 8)
