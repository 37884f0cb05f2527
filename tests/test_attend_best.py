"""Attention to the best pixels in one launch: on tiles and directly the same bits, and nothing of scores in memory."""

from __future__ import annotations

from dataclasses import replace

import emulate
import ml_dtypes
import numpy as np
import pytest
from device_arrays import Namespace, OnDevice
from quick import shown_by
from test_search_points import Points
from test_search_tiles import DIRECTLY, under_tsan

from shiftsearch import definition
from shiftsearch.backends.cuda import Cuda, attend_best, kernels, search_tiles
from shiftsearch.ops.attend import ATTEND

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]


class Attended(Points):
    """Values that are attended to have three channels more."""

    @property
    def spec(self):
        return ATTEND.specify(**{"window": 4, "topk": 5, "patch": 1, **self.options})

    def call(self, backend, dtype=None):
        q, k, flow = (a if dtype is None else a.astype(dtype) for a in self.arrays())
        B, T, C, H, W = q.shape
        heads = self.spec.heads
        v = np.random.default_rng(5).standard_normal((B, T, C + 3 * heads, H, W)).astype(q.dtype)
        scales = np.linspace(0.5, 2, heads).astype(np.float64 if dtype else np.float32)
        if self.strange:
            v[0, 0, 0, H // 2, W // 2] = np.nan
        there = (a if dtype else a.view(OnDevice) for a in (q, k, v))
        scales, flow = (a if dtype else a.view(OnDevice) for a in (scales, flow))
        return backend.attend_best(*there, self.spec, self.spec.factor(C), scales=scales, flow=flow)


def case(name, height, width, channels=16, frames=3, **given):
    known = {key: given.pop(key) for key in [*given] if key in Points.__dataclass_fields__}
    return Attended(name, (1, frames, channels, height, width), **known, options=given)


_ASKED = {"return_attention": True}
CASES = [
    case("half, dot", 18, 40, dtype="half", metric="dot", window=5, topk=6, normal=True, still=True),
    case("zeros, a mix", 20, 40, 5, wild="in a corner", window=3, border="zeros", skip="self", normal=True),
    case("strange", 17, 24, 24, dtype="bfloat", heads=2, strange=True, topk=7, layout="planes"),
    case("wild everywhere", 20, 40, wild="everywhere", window=3, topk=3),
    case("by rank, in passes", 40, 20, 5, wild="in a corner", penalty=0.3, anchor="self", topk=24, metric="dot"),
    case("by rank and frame, asked", 20, 40, 3, penalty=0.2, anchor="flow", per_frame=True, topk=3, **_ASKED),
    case("many channels", 24, 30, 40, border="zeros", slide=False, normal=True),
    case("by frame, zeros", 17, 40, 6, border="zeros", per_frame=True, topk=6, normal=True, still=True),
    case("asked", 18, 40, dtype="half", wild="in a corner", window=3, topk=5, **_ASKED),
]


class _Device(emulate.Emulator):
    """Remembers what is launched, and which tiles were left, and may have a fault in its kernels."""

    xp = Namespace()

    def __init__(self, fault: tuple[str, str]):
        super().__init__(seed=1)
        self.fault, self.launched, self.left = fault, [], np.zeros(0)

    def launch(self, program, blocks, values, *, shared=0):
        text = program.text.replace(*self.fault) if self.fault[0] else program.text
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)
        self.launched.append(program.kernel.name)
        if program.kernel.name in ("attend_points", "attend_tiles"):
            self.left = next(v for p, v in zip(program.parameters, values, strict=True) if p.name == "wild").get()[1:]


@pytest.fixture
def attended(monkeypatch):
    """Run a case, with `least` pixels of a frame for tiles, and a fault; give what it finds, and the device."""

    def run(case, least: int = 0, fault: tuple[str, str] = ("", "")):
        attend_best._plan.cache_clear()
        monkeypatch.setattr(search_tiles, "_FEWEST", least)
        device = _Device(fault)
        return [array.get() for array in case.call(Cuda(device))], device

    yield run
    attend_best._plan.cache_clear()


def same_bits(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.parametrize("case", shown_by(CASES, 0, 1, 4))
def test_tiles_give_the_bits_of_the_direct_form(case, attended):
    (on_tiles, device), (directly, other) = attended(case), attended(case, DIRECTLY)
    by_tensor_cores = "penalty" not in case.options and case.size[2] < 40
    assert device.launched == ["attend_points" if by_tensor_cores else "attend_tiles", "attend_best"]
    assert other.launched == ["attend_best"]
    left = device.left
    assert {"nowhere": not left.any(), "everywhere": left.all(), "in a corner": 0 < (left > 0).mean() < 1}[case.wild]
    same_bits(on_tiles, directly)
    if not case.strange:
        wanted = case.call(definition, float)
        for one, other in zip(on_tiles[2:], wanted[2:], strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=1e-4 if one.dtype.kind == "f" else 0)
        eps = float(ml_dtypes.finfo(on_tiles[0].dtype).eps)
        np.testing.assert_allclose(on_tiles[0].astype(float), wanted[0], atol=16 * eps, rtol=4 * eps)


_APART = [  # and what searches them
    (
        case("fractions", 20, 40, 5, subpixel=True, border="zeros", metric="dot", normal=True, still=True),
        "search_subpixel",
    ),
    (case("many", 9, 24, 24, topk=40, normal=True, still=True), "search_tiles"),
]


@pytest.mark.full
@pytest.mark.parametrize(("case", "kernel"), _APART, ids=["fractions", "many"])
def test_what_has_no_room_on_tiles_is_searched_and_summed(case, kernel, attended):
    (found, device), (directly, other) = attended(case), attended(case, DIRECTLY)
    numbered = [] if case.spec.subpixel else ["number_places"]
    assert device.launched == [kernel, "search", "aggregate", *numbered]
    assert other.launched == ["attend_best"]
    for one, another in zip(found, directly, strict=True):
        np.testing.assert_allclose(one, another, atol=1e-4)


def test_places_are_kept_only_where_gradients_may_be_asked_for(attended):
    still = CASES[3]
    options = {**still.options, "differentiable": False}
    (found, _), (kept, _) = attended(replace(still, options=options)), attended(still)
    assert found[2].shape == (*kept[2].shape[:-1], 0)
    np.testing.assert_array_equal(found[0], kept[0])


# by the case that catches them: in the direct form, and in that on tiles
_FAULTS = [
    (0, ("m, s) * sums.share);", "m, s));")),
    (1, ("if (first_slot(task, wild, 0, s) < 0) continue;", "if (SS_MARKED) continue;")),
    (0, ("store(out, sum[c] * found.share)", "store(out, sum[c])")),
    (1, ("SS_OUTSIDE && !is_there(place, slots, s)", "false")),
    (4, ("__syncthreads();  // before the next pass begins", "")),
    (6, ("slots[place >> 16];", "slots[0];")),
    (8, ("__syncthreads();  // before some warp finds", "// before some warp finds")),
]


@pytest.mark.full
@pytest.mark.parametrize(("number", "fault"), _FAULTS, ids=str)
def test_fault_is_caught(number, fault, attended):
    texts = [kernels.text(f"{name}.cu", {}) for name in ("attend_best", "attend_points", "attend_tiles")]
    assert [fault[0] in text for text in texts].count(True) == 1
    case = CASES[number]
    least = DIRECTLY if fault[0] in texts[0] and "wild" not in fault[0] else 0
    right = attended(case, least)[0]
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        same_bits(attended(case, least, fault)[0], right)
    assert ": error: " not in str(caught.value), "does not compile"


@under_tsan
def test_attention_has_no_race(attended):
    for case, name in ((CASES[1], "attend_points"), (CASES[5], "attend_tiles"), (CASES[8], "attend_points")):
        assert attended(case)[1].launched == [name, "attend_best"]
