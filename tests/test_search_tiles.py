"""Search on tiles: the bits of the direct form, whatever shape tiles have and wherever they are left."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import emulate
import ml_dtypes
import numpy as np
import pytest
from device_arrays import Namespace, OnDevice
from quick import shown_by

from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels, search, search_tiles, search_windows
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.search import SEARCH

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]
under_tsan = pytest.mark.skipif(
    os.environ.get("SHIFTSEARCH_EMULATOR_MODE") != "tsan", reason="run by test_sanitizers.py"
)
LARGE, SMALL, _TURING = 227 << 10, 99 << 10, 64 << 10  # shared memory of a block, the last of sm_75
_DTYPES = {"single": np.float32, "half": np.float16, "bfloat": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Case:
    """Values are small whole numbers, of which all sums are exact, unless `normal`."""

    name: str
    size: tuple[int, int, int, int, int] = (1, 3, 4, 13, 31)  # B, T, C, H, W: a tile, and the rest of another
    dtype: str = "single"
    normal: bool = False
    wild: str = "nowhere"  # where flow leads neighbours far apart
    layout: str = "channels last"
    memory: int = LARGE
    flow_heads: int = 1
    strange: bool = False  # some values and flow are no numbers
    options: dict = field(default_factory=dict)

    @property
    def spec(self):
        return SEARCH.specify(**{"window": 4, "patch": 3, "topk": 5, "radius": 1, **self.options})

    def arrays(self):
        rng, (B, T, C, H, W) = np.random.default_rng(2), self.size
        shape = (2, B, T, C, H, W)
        values = rng.standard_normal(shape) if self.normal else rng.integers(-2, 3, shape) * (rng.random(shape) < 0.5)
        q, k = values.astype(_DTYPES[self.dtype])
        flow = rng.uniform(-3, 3, (B, self.flow_heads, T, 2 * self.spec.radius, 2, H, W)).astype(np.float32)
        wild = {"nowhere": np.s_[..., :0], "in a corner": np.s_[..., : H // 2, W // 2 :], "everywhere": ...}[self.wild]
        flow[wild] *= 20
        if self.strange:
            k[0, 0, 0, H // 2, W // 2], k[0, 1, -1, 1, 1], q[0, 0, 0, 3, 2] = np.nan, np.inf, np.inf
            flow[..., 0, 0], flow[..., 1, 1] = np.nan, np.inf
        return *(_laid_out(v, self.layout) for v in (q, k)), flow


def _laid_out(video, layout: str):
    match layout:
        case "channels last":
            return np.ascontiguousarray(video.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)
        case "every other column":
            return np.repeat(video, 2, -1)[..., ::2]
        case "mirrored":
            return np.ascontiguousarray(video[..., ::-1, :])[..., ::-1, :]
    return video


def case(name, *size, **given):
    known = {key: given.pop(key) for key in [*given] if key in Case.__dataclass_fields__}
    return Case(name, **({"size": size} if size else {}), **known, options=given)


CASES = [
    case("patch 7", 1, 3, 16, 13, 31, patch=7, topk=10, normal=True),
    case("ties", 1, 3, 1, 30, 33, window=3, topk=7),
    case(
        "windows that slide at borders, whole ones between", 1, 1, 4, 12, 84, patch=7, window=5, radius=0, normal=True
    ),
    case(
        "patch 1",
        2,
        3,
        5,
        9,
        35,
        patch=1,
        window=(2, 5),
        even="before",
        topk=3,
        skip="own_frame",
        penalty=0.01,
        normal=True,
    ),
    case("even patch, half", dtype="half", patch=2, window=(5, 1), slide=False, strange=True),
    case("patch 15, zeros", 1, 3, 4, 15, 21, patch=15, window=3, border="zeros", strange=True),
    case("dot, heads", 1, 3, 8, 17, 29, patch=6, metric="dot", border="zeros", heads=2, flow_heads=2, normal=True),
    case("penalty", patch=3, penalty=0.3, strange=True),
    case("skip self, planes, bfloat", dtype="bfloat", patch=5, skip="self", layout="planes", normal=True),
    case("anchor self, two runs of channels", 1, 3, 17, 12, 27, patch=4, anchor="self", window=3, layout="mirrored"),
    case("anchor flow, dot", 1, 3, 3, 12, 35, anchor="flow", metric="dot", topk=2, layout="every other column"),
    case("wild everywhere", wild="everywhere", window=3),
    case("wild in a corner", 1, 3, 4, 14, 62, wild="in a corner", patch=7, window=3, normal=True),
    case("wild in a corner, per frame", 1, 3, 4, 16, 62, wild="in a corner", window=3, per_frame=True, strange=True),
    case("wild, fewer in a frame than are kept", wild="everywhere", window=3, topk=20, penalty=0.3),
    case("wild in a corner, in passes", 1, 3, 4, 14, 62, wild="in a corner", topk=41, metric="dot", anchor="self"),
    case("many channels in little shared memory", 1, 3, 30, 9, 31, memory=SMALL, patch=3, normal=True),
    case("little shared memory", memory=SMALL, patch=7, window=(1, 9), topk=12),
    case("many kept", patch=5, window=6, topk=30),
    case("halves, held as such", 1, 3, 31, 9, 27, dtype="half", topk=3, normal=True),
    case("in passes", topk=41, window=4, penalty=0.3),
    case("in passes, per frame", topk=33, window=6, patch=1, per_frame=True, slide=False, strange=True),
]
SOME = [c for c in CASES if c.name in ("patch 1", "dot, heads", "penalty")]


class _Device(emulate.Emulator):
    """Remembers which tiles were left, and may have a fault in the kernel for tiles."""

    xp = Namespace()

    def __init__(self, memory: int, fault: tuple[str, str] = ("", "")):
        super().__init__(seed=1)
        self.most_shared, self.left, self.fault = memory, None, fault

    def launch(self, program, blocks, values, *, shared=0):
        if program.kernel in (search.SEARCH, search_windows.WINDOWS):
            super().launch(program, blocks, values, shared=shared)
            return
        text = program.text.replace(*self.fault) if self.fault[0] else program.text
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)
        self.left = next(v for p, v in zip(program.parameters, values, strict=True) if p.name == "wild").get()[1:]


@pytest.fixture
def searched(monkeypatch):
    """Run a case, with `least` pixels of a frame for tiles; give its scores, offsets and marks of tiles."""

    def run(case, least: int = 0, memory: int = 0, fault: tuple[str, str] = ("", "")):
        search.plan_of_search.cache_clear()
        monkeypatch.setattr(search_tiles, "_FEWEST", least)
        device, spec = _Device(0 if least else memory or case.memory, fault), case.spec
        q, k, flow = (a.view(OnDevice) for a in case.arrays())
        scores, offsets, _ = Cuda(device).search(q, k, spec, spec.patches(), flow=flow)
        return scores.get(), offsets.get(), device.left

    yield run
    search.plan_of_search.cache_clear()


DIRECTLY = 10**9


def same_bits(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0].view(np.int32), expected[0].view(np.int32))


@pytest.mark.parametrize("case", shown_by(CASES, 1, 3, 5, 14))
def test_tiles_give_the_bits_of_the_direct_form(case, searched):
    on_tiles, directly = searched(case), searched(case, DIRECTLY)
    assert on_tiles[2] is not None
    assert directly[2] is None
    left = {"nowhere": on_tiles[2].max() == 0, "everywhere": True, "in a corner": 0 < (on_tiles[2] > 0).mean() < 1}
    assert left[case.wild]
    same_bits(on_tiles, directly)
    if not case.strange:
        as_the_cpu(case, *on_tiles[:2])


def as_the_cpu(case, scores, offsets):
    """But for candidates of normal values whose scores differ by less than their rounding."""
    q, k, flow = case.arrays()
    wanted = cpu.search(q.astype(np.float32), k.astype(np.float32), case.spec, case.spec.patches(), flow=flow)
    others = (offsets != wanted[1]).any(-1)
    assert others.mean() <= (1e-3 if case.normal else 0)
    np.testing.assert_allclose(scores, wanted[0], rtol=0, atol=1e-5 * np.abs(wanted[0][np.isfinite(wanted[0])]).max())


@pytest.mark.full
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_bits_do_not_depend_on_the_shape_of_tiles(case, searched, monkeypatch):
    large = searched(case)
    monkeypatch.setattr(search_tiles, "_SHAPES", search_tiles._SHAPES[-1:])
    same_bits(searched(case, memory=SMALL), large)


def test_a_budget_of_nothing_leaves_all_tiles(searched, monkeypatch):
    usual = searched(CASES[0])
    monkeypatch.setattr(search_tiles, "_BUDGET", 0)
    none = searched(CASES[0])
    assert none[2].all()
    same_bits(none, usual)


# --- faults planted in the kernel ---------------------------------------------------------------------
_HALVES = ("now.half ^= 1", "now.half ^= 0")  # consumers read where producers write
_FAULTS = {  # by the case that catches them
    "ties": [
        ("return !(x >= than);", "return !(x > than);"),
        ("step.dy << 8 | step.dx) + d", "step.dy << 8 | step.dx) + 0"),
        ("stage(ring, dy + SS_KEPT_ROWS,", "stage(ring, dy + SS_ROWS,"),
    ],
    "patch 7": [_HALVES, ("SS_WINDOW_X - reach.x - some.last_x", "SS_WINDOW_X - 1 - reach.x - some.last_x")],
    "patch 15, zeros": [("(unsigned)u < (unsigned)W && (there >> j & 1)", "(unsigned)u < (unsigned)W")],
    "dot, heads": [("a.groups > 1 ? tile.g : 0", "0")],
    "skip self, planes, bfloat": [("if (SS_SKIP == 1 && slot.own && dy == 0 && dx == 0) continue;", "")],
    "anchor self, two runs of channels": [("chunk > 0,", "false,"), ("if (SS_ANCHOR == 1 && slot.own && ", "if (")],
    "penalty": [
        ("waiting, askers, SS_ALL, slot)", "waiting, askers, 0xfefefefeu, slot)"),
        ("(SS_WAIT - 1) *", "(SS_WAIT - 2) *"),
    ],
    "in passes": [("place > last.place", "place >= last.place")],
}


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "fault"), [(name, fault) for name, faults in _FAULTS.items() for fault in faults], ids=str
)
def test_fault_is_caught(name, fault, searched):
    case = next(c for c in CASES if c.name == name)
    assert kernels.text("search_tiles.cu", {}).count(fault[0]) == 1
    directly = searched(case, DIRECTLY)
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        same_bits(searched(case, fault=fault), directly)
    assert ": error: " not in str(caught.value), "does not compile"


@under_tsan
@pytest.mark.parametrize("name", ["penalty", "little shared memory"])
def test_tiles_have_no_race(name, searched):
    """The direct form is left out: with it this would take twice the time."""
    marks = searched(next(c for c in CASES if c.name == name))[2]
    assert not marks.any(), "no tile is searched"


@under_tsan
def test_race_is_seen(searched):
    case = next(c for c in CASES if c.name == "patch 7")
    with pytest.raises(emulate.EmulatorError, match="data race"):
        searched(case, fault=_HALVES)


# --- which searches are on tiles ------------------------------------------------------------------
def plan_of(spec, size, dtype, memory=LARGE):
    """Return how videos of a size are searched on tiles, if they are."""
    around = (1, 1, size[1], 2, 2, *size[3:])
    layout = search.Layout(size, size, (16,) * 5, (16,) * 5, True)
    return search.plan_of_search(
        spec, spec.patches(), layout, dtype, around, np.dtype(np.float32), False, memory
    ).on_tiles


def _is_on_tiles(spec, channels=16, dtype=np.float32, size=(64, 64), memory=LARGE) -> bool:
    return plan_of(spec, (1, 3, channels, *size), dtype, memory) is not None


@pytest.mark.parametrize("patch", range(1, 16))
@pytest.mark.parametrize("memory", [LARGE, SMALL])
def test_patches_of_every_size_are_on_tiles(patch, memory):
    for dtype in (np.float32, np.float16):
        for metric, border in (("l2", "reflect"), ("dot", "zeros")):
            spec = SEARCH.specify(patch=patch, metric=metric, border=border)
            assert _is_on_tiles(spec, dtype=dtype, memory=memory)


@pytest.mark.parametrize(("channels", "held"), [(16, "float"), (31, "__half")])
def test_halves_are_held_as_floats_where_there_is_room(channels, held):
    assert plan_of(SEARCH.specify(patch=3), (1, 3, channels, 64, 64), np.float16).program.constants["HELD"] == held


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"patch": 16}, {}),
        ({"stride": 2}, {}),
        ({"step": 2}, {}),
        ({"dilation": 2}, {}),
        ({"topk": None}, {}),
        ({"topk": 400, "window": 32}, {}),
        ({"window": 65}, {"size": (128, 128)}),
        ({}, {"dtype": np.float64}),
        ({}, {"size": (8, 90)}),
        ({}, {"channels": 512}),
        ({}, {"memory": 32 << 10}),
    ],
    ids=str,
)
def test_searches_that_share_nothing_or_do_not_fit_are_direct(options, more):
    assert not _is_on_tiles(SEARCH.specify(**options), **more)


def test_a_few_rows_of_many_channels_are_on_tiles():
    spec = SEARCH.specify(patch=7, window=9)
    for channels, memory, rows in ((16, LARGE, 32), (128, LARGE, 8), (16, _TURING, 8)):
        assert plan_of(spec, (1, 3, channels, 64, 64), np.float32, memory).program.constants["ROWS"] == rows


def test_shared_memory_is_enough_and_not_too_much():
    spec = SEARCH.specify(patch=3, window=31, penalty=0.5, radius=20, topk=6)
    direct = search.constants_of_search(spec, spec.patches(), np.dtype(np.float32), np.dtype(np.float32), 41, False)
    direct |= {"VECTORS": 1}
    for memory in (LARGE, SMALL):
        found = search_tiles.constants(spec, spec.patches(), np.float32, direct, (1, 41, 4, 90, 90), memory)
        static = 4 * 31**2 + 12 * 41 + 16 * 8  # penalties, slots, limits of groups
        assert memory - 1536 < search_tiles.TILES.shared(found) + static <= memory


def test_seeds_are_searched_directly():
    spec = REFINE.specify(window=3, patch=3, topk=2)
    device = _Device(LARGE)
    video, seeds = np.zeros((1, 1, 4, 25, 25), np.float32), np.zeros((1, 1, 1, 25, 25, 1, 3), np.int32)
    video, seeds = (device.xp.asarray(a) for a in (video, seeds))
    Cuda(device).search(video, video, spec, spec.patches(), seeds=seeds)
    assert device.left is None
