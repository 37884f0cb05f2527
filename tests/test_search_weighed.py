"""A search whose scores become weights in its launch: on tiles, where they are left, and directly the same bits."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from device_arrays import Namespace, OnDevice
from quick import shown_by
from test_search_tiles import DIRECTLY, SMALL, Case, case, same_bits, under_tsan

from shiftsearch import definition
from shiftsearch.backends.cuda import kernels, search, search_tiles
from shiftsearch.ops.attend import ATTEND

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]


def _attends(case: Case):
    known = {"window": 4, "patch": 3, "topk": 5, "scale": None, "return_attention": False}
    return ATTEND.specify(**{**known, **case.options})


_CASES = {
    "search_tiles": [
        case("in one", 1, 1, 4, 13, 31, radius=0, heads=2, normal=True),
        case("left in a corner, by rank", 1, 3, 4, 9, 62, wild="in a corner", metric="dot", penalty=0.2, normal=True),
        case("in passes", 1, 1, 4, 9, 31, memory=SMALL, radius=0, window=6, topk=31, skip="self"),
        case("by frame", 1, 3, 4, 9, 62, wild="in a corner", per_frame=True, topk=3, strange=True, dtype="half"),
    ],
    "search_subpixel": [
        case("fractions, of which some are open", 1, 3, 3, 8, 37, subpixel=True, strange=True),
        case("fractions by frame", 1, 3, 3, 8, 37, subpixel=True, strange=True, per_frame=True, topk=2),
    ],
    "search_points": [case("points", 1, 3, 16, 17, 24, patch=1, slide=False, wild="in a corner", normal=True)],
}
CASES = {each.name: (kernel, each) for kernel, some in _CASES.items() for each in some}


class _Device(emulate.Emulator):
    """Remembers what is launched."""

    xp = Namespace()

    def __init__(self, memory: int, fault: tuple[str, str]):
        super().__init__(seed=1)
        self.most_shared, self.fault, self.launched = memory, fault, []

    def launch(self, program, blocks, values, *, shared=0):
        text = program.text.replace(*self.fault) if self.fault[0] else program.text
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)
        self.launched.append(program.kernel.name)


@pytest.fixture
def weighed(monkeypatch):
    """Run a case, with `least` pixels of a frame for tiles; give weights, offsets and what was launched."""

    def run(case, least: int = 0, fault: tuple[str, str] = ("", "")):
        search.plan_of_search.cache_clear()
        monkeypatch.setattr(search_tiles, "_FEWEST", least)
        device, spec = _Device(0 if least else case.memory, fault), _attends(case)
        q, k, flow = (a.view(OnDevice) for a in case.arrays())
        scales = np.linspace(0.5, 2, spec.heads, dtype=np.float32).view(OnDevice)
        factor = spec.factor(case.size[2])
        sums = np.zeros((*case.arrays()[0].shape[:1], spec.heads, case.size[1], *case.size[3:], 2), np.float32)
        sums = sums.view(OnDevice)
        found = search.search_and_weigh(device, q, k, spec, factor, scales=scales, flow=flow, sums=sums)
        return *(array.get() for array in (*found, sums)), device.launched

    yield run
    search.plan_of_search.cache_clear()


@pytest.mark.parametrize("name", shown_by(list(CASES), 1))
def test_weights_have_the_bits_of_the_direct_form(name, weighed):
    kernel, case = CASES[name]
    on_tiles, directly = weighed(case), weighed(case, DIRECTLY)
    assert kernel in on_tiles[3]
    assert "weigh" not in on_tiles[3] + directly[3]
    assert len(directly[3]) == 1
    if kernel == "search_subpixel":
        np.testing.assert_allclose(on_tiles[0], directly[0], atol=1e-3)
    else:
        same_bits(on_tiles[:2], directly[:2])
        np.testing.assert_array_equal(on_tiles[2], directly[2])
    np.testing.assert_allclose(on_tiles[0].sum(-1), 1, rtol=1e-6)
    if not case.strange:
        q, k, flow = (a.astype(float) for a in case.arrays())
        spec, scales = _attends(case), np.linspace(0.5, 2, case.spec.heads)
        scores, _, _ = definition.search(q, k, spec, spec.patches(), flow=flow)
        wanted = definition.weigh(scores, spec, spec.factor(case.size[2]), scales=scales)
        np.testing.assert_allclose(on_tiles[0], wanted, atol=1e-5)


# by the case that catches them
_FAULTS = [
    ("left in a corner, by rank", ("&& !kept.left) weigh_found", ") weigh_found")),
    ("in passes", ("if (SS_WEIGHED && !SS_IN_ONE && done)", "if (false)")),
    ("by frame", ("if (SS_WEIGHED && !SS_IN_ONE && done)", "if (SS_WEIGHED && !SS_IN_ONE)")),
    ("fractions by frame", ("if (!is_left(scores + query * s.K, s.K))", "")),
]


@pytest.mark.full
@pytest.mark.parametrize(("name", "fault"), _FAULTS, ids=str)
def test_fault_is_caught(name, fault, weighed):
    kernel, case = CASES[name]
    assert kernels.text(f"{kernel}.cu", {}).count(fault[0]) == 1
    right = weighed(case)
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        same_bits(weighed(case, fault=fault)[:2], right[:2])
    assert ": error: " not in str(caught.value), "does not compile"


@under_tsan
@pytest.mark.parametrize("name", ["in one", "fractions by frame"])
def test_weights_have_no_race(name, weighed):
    kernel, case = CASES[name]
    assert kernel in weighed(case)[3]
