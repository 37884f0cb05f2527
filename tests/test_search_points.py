"""Search by patches of one pixel on tiles: the bits of the direct form, though tensor cores choose what is scored."""

from __future__ import annotations

from dataclasses import dataclass

import emulate
import numpy as np
import pytest
from quick import shown_by
from test_search_tiles import DIRECTLY, LARGE, SMALL, Case, as_the_cpu, plan_of, same_bits, under_tsan
from test_search_tiles import searched as searched  # a fixture

from shiftsearch.backends.cuda import kernels
from shiftsearch.ops.search import SEARCH

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]


@dataclass(frozen=True)
class Points(Case):
    """By patches of one pixel. Flow differs from pixel to pixel, unless all is `still`."""

    still: bool = False

    def arrays(self):
        q, k, flow = super().arrays()
        return q, k, flow * (0 if self.still else 1)


def case(name, height, width, channels=16, frames=3, **given):
    known = {key: given.pop(key) for key in [*given] if key in Points.__dataclass_fields__}
    return Points(name, (1, frames, channels, height, width), **known, options={"patch": 1, **given})


CASES = [
    case("half, dot", 18, 40, dtype="half", metric="dot", window=5, topk=6, normal=True, still=True),
    case("ties", 17, 24, window=(5, 2), topk=7),
    case(
        "many channels, even window", 9, 20, 24, window=(1, 6), even="before", normal=True, layout="planes", still=True
    ),
    case("bfloat, two heads", 16, 17, 34, dtype="bfloat", heads=2, flow_heads=2, normal=True, topk=30),
    case("outside, strange", 17, 24, dtype="half", slide=False, strange=True),
    case("zeros", 12, 24, border="zeros", skip="self", normal=True),
    case(
        "dot, zeros, per frame",
        10,
        24,
        border="zeros",
        metric="dot",
        window=(2, 11),
        per_frame=True,
        topk=6,
        normal=True,
    ),
    case("skip own frame", 9, 24, topk=3, skip="own_frame", strange=True, layout="every other column"),
    case("wild in a corner", 20, 40, wild="in a corner", window=3, topk=3, normal=True),
    case("wild everywhere", 20, 40, wild="everywhere", window=3, topk=3),
]
NAMED = {case.name: case for case in CASES}


@pytest.mark.parametrize("case", shown_by(CASES, 0, 1, 8))
def test_points_give_the_bits_of_the_direct_form(case, searched):
    on_tiles = searched(case)
    assert plan_of(case.spec, case.size, case.arrays()[0].dtype, case.memory).program.kernel.name == "search_points"
    directly = searched(case, DIRECTLY)
    left = {
        "nowhere": on_tiles[2].max() == 0,
        "everywhere": on_tiles[2].all(),
        "in a corner": 0 < on_tiles[2].mean() < 1,
    }
    assert left[case.wild]
    same_bits(on_tiles, directly)
    if not case.strange:
        as_the_cpu(case, *on_tiles[:2])


@under_tsan
def test_points_have_no_race(searched):
    assert not searched(NAMED["dot, zeros, per frame"])[2].any()


# --- what tensor cores may be off -------------------------------------------------------------------
_PRODUCTS = "to[0] = {sums[0], sums[1]}, to[8] = {sums[2], sums[3]};"


def _off_by(most: str) -> tuple[str, str]:
    """Return a fault by which products of odd queries are too large, and those of the others too small."""
    off = f"for (int i = 0; i < 4; ++i) sums[i] *= threadIdx.x & 4 * (i + 1) ? 1 + {most} : 1 - {most};"
    return _PRODUCTS, f"{off}\n{_PRODUCTS}"


def test_errors_of_tensor_cores_change_nothing(searched):
    case = NAMED["half, dot"]
    same_bits(searched(case, fault=_off_by("0x1p-17f")), searched(case, DIRECTLY))


_FAULTS = {  # by the case that catches them
    "half, dot": [_off_by("0x1p-3f")],
    "ties": [
        ("there = there && !(score >= best[SS_TOPK - 1]);", "there = there && !(score > best[SS_TOPK - 1]);"),
        ("SS_BITS - SS_WINDOW_X - view.late", "SS_BITS - SS_WINDOW_X"),
    ],
    "zeros": [("if (SS_SKIP == 1 && view.own && y == asker.y", "if (false && y == asker.y")],
}


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "fault"), [(name, fault) for name, faults in _FAULTS.items() for fault in faults], ids=str
)
def test_fault_is_caught(name, fault, searched):
    assert kernels.text("search_points.cu", {}).count(fault[0]) == 1
    directly = searched(NAMED[name], DIRECTLY)
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        same_bits(searched(NAMED[name], fault=fault), directly)
    assert ": error: " not in str(caught.value), "does not compile"


# --- which searches they are ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "channels", "dtype", "memory", "name"),
    [
        ({}, 16, np.float32, LARGE, "search_points"),
        ({}, 3, np.float16, SMALL, "search_points"),
        ({"topk": 24}, 64, np.float16, LARGE, "search_points"),
        ({"topk": 30}, 16, np.float32, LARGE, "search_points"),
        ({"topk": 31}, 16, np.float32, LARGE, "search_tiles"),
        ({"window": 15, "radius": 7}, 16, np.float16, LARGE, "search_points"),
        ({"penalty": 0.5}, 16, np.float32, LARGE, "search_tiles"),
        ({"anchor": "self"}, 16, np.float32, LARGE, "search_tiles"),
        ({"window": 16}, 16, np.float32, LARGE, "search_tiles"),
        ({"patch": 2}, 16, np.float32, LARGE, "search_tiles"),
        ({}, 48, np.float32, LARGE, "search_tiles"),
    ],
    ids=str,
)
def test_searches_are_of_points_where_they_can_be(options, channels, dtype, memory, name):
    spec = SEARCH.specify(**{"patch": 1, **options})
    assert plan_of(spec, (1, 3, channels, 64, 64), dtype, memory).program.kernel.name == name
